"""A trained assessor: notes in, assessments out, asked exactly as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medical_team.answers import Assessment, FormatError, parse_assessment, parse_response
from medical_team.evaluation.generation import Decoding, Generator, Reply
from medical_team.evaluation.model_folder import read_assessor_settings
from medical_team.evaluation.transformers_model import load_transformers
from medical_team.prompts import Message, PromptStyle, assessor_messages


@dataclass(frozen=True, slots=True)
class Assessed:
    """What an assessor said about one note.

    Attributes:
        response: the text as it was generated.
        reasoning: what stands inside the think tags, ``None`` if the format is broken.
        assessment: the three lines of its answer, ``None`` if the format is broken.
        violation: which rule of the format it breaks, or why there is no response.
        refusal: why there is no response, such as a note that is too long for the model.
    """

    response: str
    reasoning: str | None
    assessment: Assessment | None
    violation: str | None
    refusal: str | None = None


class Assessor:
    """Reads notes; several at a time are answered together.

    Args:
        generator: the model; closed with the assessor.
        style: how much the prompt explains.
    """

    def __init__(self, generator: Generator, style: PromptStyle) -> None:
        self._generator = generator
        self.style = style

    def assess(self, notes: Sequence[Sequence[str]]) -> list[Assessed]:
        """Assesses notes.

        Args:
            notes: each a note's sentences, as :func:`medical_team.medec.split_sentences` and
                :func:`medical_team.medec.mend` give them; numbered from 0 in the answers.

        Returns:
            One for each note, in order.

        Raises:
            GenerationError: if the model or its server stopped answering.
        """
        prompts: Mapping[str, list[Message]] = {
            str(i): assessor_messages(note, self.style) for i, note in enumerate(notes)
        }
        found = {
            key: read_reply(reply, len(notes[int(key)]))
            for key, reply in self._generator.generate(prompts)
        }
        return [found[key] for key in prompts]

    def close(self) -> None:
        """Gives the model's memory back."""
        self._generator.close()


def read_reply(reply: Reply, sentence_count: int) -> Assessed:
    """Reads a response by the rules of the game, as in training.

    Args:
        reply: what the model said.
        sentence_count: number of sentences of the note.
    """
    reasoning = None
    try:
        if reply.refusal is not None:
            raise FormatError(reply.refusal)
        if reply.truncated:
            raise FormatError("cut off at the length limit")
        parsed = parse_response(reply.text, think_opened=reply.think_opened)
        reasoning = parsed.reasoning
        assessment = parse_assessment(parsed.answer, sentence_count)
    except FormatError as error:
        return Assessed(reply.text, reasoning, None, str(error), reply.refusal)
    return Assessed(reply.text, reasoning, assessment, None)


def load_assessor(
    model: str | Path,
    *,
    style: PromptStyle | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
    device: str = "auto",
) -> Assessor:
    """Loads an assessor into this process with transformers.

    How it is asked stands in ``assessor.json`` in its folder; without the file it is the full
    prompt, which ends in ``<think>``, and 1,024 tokens. A chat template that opens ``<think>`` is
    left as it is.

    Args:
        model: a folder, or a Hugging Face id whose files are on this machine.
        style: how much the prompt explains, if not as the folder says.
        temperature: 0 for the likeliest token each time.
        seed: of the sampling.
        batch_size: notes that are answered together.
        device: as torch names it; ``auto`` is the GPU where there is one.

    Raises:
        EvaluationError: if it cannot be loaded, with what to do about it.
    """
    own = read_assessor_settings(model)
    generator = load_transformers(
        str(model),
        Decoding(own.max_response_tokens, temperature, seed),
        think_opened=own.think_opened,
        batch_size=batch_size,
        device=device,
    )
    return Assessor(generator, own.prompt_style if style is None else style)
