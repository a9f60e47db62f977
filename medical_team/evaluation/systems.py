"""What is evaluated: a model that is asked, here or on a server, or a file of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medical_team.evaluation.answers_file import answers, setup_of
from medical_team.evaluation.errors import EvaluationError
from medical_team.evaluation.generation import Decoding, Generator, Reply
from medical_team.evaluation.metrics_file import EvaluatedSystem
from medical_team.evaluation.model_folder import read_assessor_settings
from medical_team.evaluation.notes import Note, note_ids
from medical_team.evaluation.predictions import Finding, Prediction, read_submission
from medical_team.evaluation.protocols import Protocol, read
from medical_team.evaluation.server import open_server, served_model
from medical_team.evaluation.transformers_model import load_tokenizer, load_transformers
from medical_team.evaluation.vllm_model import load_vllm
from medical_team.evaluation.weights_digest import weights_digest

ANSWERS = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class Asking:
    """How a model is asked.

    Attributes:
        protocol: the prompt.
        think_opened: whether the prompt ends in ``<think>``.
        decoding: how responses are decoded.
    """

    protocol: Protocol
    think_opened: bool
    decoding: Decoding


@dataclass(frozen=True, slots=True)
class InProcess:
    """A model in this process.

    Attributes:
        model: a folder, or a Hugging Face id whose files are on this machine.
        engine: what generates.
        batch_size: of ``transformers``, texts that are answered together.
        concurrency: of ``vllm``, most texts in a batch.
        device: of ``transformers``, as torch names it or ``auto``.
        dtype: of the weights, or ``auto``.
    """

    model: str
    engine: Literal["transformers", "vllm"] = "transformers"
    batch_size: int = 32
    concurrency: int = 8
    device: str = "auto"
    dtype: str = "auto"

    @property
    def settings_folder(self) -> str:
        """The folder whose ``assessor.json`` says how the model is asked."""
        return self.model

    def open(self, asking: Asking) -> Generator:
        """Loads the model.

        Raises:
            EvaluationError: if it cannot be loaded, with what to do about it.
        """
        opened = asking.think_opened
        if self.engine == "vllm":
            return load_vllm(
                self.model,
                asking.decoding,
                think_opened=opened,
                concurrency=self.concurrency,
                dtype=self.dtype,
            )
        return load_transformers(
            self.model,
            asking.decoding,
            think_opened=opened,
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
        )

    def evaluated(self, generator: Generator) -> EvaluatedSystem:
        """What the model card compares with the weights that it describes."""
        name, digest = generator.identity["model"], weights_digest(self.model)
        return EvaluatedSystem(kind="model", name=name, weights_sha256=digest)


@dataclass(frozen=True, slots=True)
class OnServer:
    """A model behind OpenAI-compatible servers.

    Attributes:
        url: their addresses, with commas between.
        model: its name there; ``None`` for the only one that is listed.
        tokenizer: a folder; prompts are then sent as token ids, made with it.
        concurrency: most texts in flight.
        timeout_s: limit of one try, in seconds.
    """

    url: str
    model: str | None = None
    tokenizer: str | None = None
    concurrency: int = 8
    timeout_s: float = 600.0

    @property
    def settings_folder(self) -> str:
        """The folder whose ``assessor.json`` says how the model is asked."""
        return self.tokenizer or ""

    def open(self, asking: Asking) -> Generator:
        """Prepares the requests.

        Raises:
            EvaluationError: if an address is none or the model is not clear.
            GenerationError: if the server does not answer.
        """
        return open_server(
            self.url,
            self.model or served_model(self.url),
            asking.decoding,
            concurrency=self.concurrency,
            timeout_s=self.timeout_s,
            tokenizer=load_tokenizer(self.tokenizer) if self.tokenizer else None,
            think_opened=asking.think_opened,
        )

    def evaluated(self, generator: Generator) -> EvaluatedSystem:
        """What stands above its figures; the weights behind a server are not known."""
        return EvaluatedSystem(kind="server", name=generator.identity["model"])


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a system says of the texts.

    Attributes:
        system: which one.
        predictions: by text id; a text without a usable answer is left out.
        violations: by text id, why its answer cannot be used.
        findings: what was wrong with a submission file.
        facts: how it was asked, for the report.
    """

    system: EvaluatedSystem
    predictions: Mapping[str, Prediction]
    violations: Mapping[str, str] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def asking_of(
    folder: str,
    *,
    protocol: Protocol | None = None,
    think_opened: bool | None = None,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> Asking:
    """How a model is asked; what is ``None`` is taken from ``assessor.json`` in its folder.

    Args:
        folder: of the model or of its tokenizer; without the file the full prompt, which ends in
            ``<think>``, and 1,024 tokens.
        protocol: the prompt.
        think_opened: whether it ends in ``<think>``; the benchmark's does not by itself.
        max_tokens: most tokens of an answer.
        temperature: 0 for the likeliest token each time.
        seed: of the sampling.

    Raises:
        EvaluationError: if ``assessor.json`` is there and cannot be read.
    """
    own = read_assessor_settings(folder)
    protocol = protocol or Protocol(own.prompt_style.value)
    if think_opened is None:
        think_opened = protocol.opens_reasoning and own.think_opened
    tokens = own.max_response_tokens if max_tokens is None else max_tokens
    return Asking(protocol, think_opened, Decoding(tokens, temperature, seed))


def ask(
    notes: Sequence[Note],
    data: Path,
    model: InProcess | OnServer,
    asking: Asking,
    folder: Path,
    progress: AbstractContextManager[Callable[[int], None]],
) -> Predicted:
    """Asks a model about the texts that it has not answered yet.

    Args:
        notes: the texts.
        data: the file that they are from.
        model: what to ask.
        asking: how.
        folder: where answers are kept as they come.
        progress: entered when the model is ready, then told how many more texts are done.

    Raises:
        EvaluationError: if the model cannot be loaded, answers no text, or the folder holds
            another run's answers.
        GenerationError: if the model stopped answering; its answers are kept.
    """
    decoding, protocol = asking.decoding, asking.protocol
    with closing(model.open(asking)) as generator:
        setup = setup_of(
            data, protocol, decoding, think_opened=asking.think_opened, model=generator.identity
        )
        with progress as advance:
            replies = answers(notes, generator, setup, folder / ANSWERS, advance)
    refused = [reply.refusal for reply in replies.values() if reply.refusal]
    if len(refused) == len(notes):
        raise EvaluationError(f"no text was answered. The first one: {refused[0]}")
    predictions, violations = read_replies(notes, replies, protocol)
    facts = {
        **setup.model,
        "prompt": protocol.value,
        "temperature": f"{decoding.temperature:g}",
        "most tokens of an answer": str(decoding.max_tokens),
    }
    return Predicted(model.evaluated(generator), predictions, violations, facts=facts)


def submitted(
    notes: Sequence[Note], file: Path, folder: Path, left_out: Sequence[Note] = ()
) -> Predicted:
    """Reads a file of predictions.

    Args:
        notes: the texts.
        file: official submission lines.
        folder: where the results are to go.
        left_out: other texts of the data; the file's lines on them are passed over.

    Raises:
        EvaluationError: if the file cannot be read, is of another split, or the folder holds a
            model's answers.
    """
    if (folder / ANSWERS).exists():
        raise EvaluationError(
            f"{folder} holds a model's answers. Choose another output folder for {file}."
        )
    found = read_submission(file, note_ids(notes), set(note_ids(left_out)))
    system = EvaluatedSystem(kind="predictions", name=file.name)
    facts = {"predictions": str(file)}
    return Predicted(system, found.predictions, findings=found.findings, facts=facts)


def read_replies(
    notes: Sequence[Note], replies: Mapping[str, Reply], protocol: Protocol
) -> tuple[dict[str, Prediction], dict[str, str]]:
    """The predictions in a model's answers, and why others hold none; both by text id."""
    predictions: dict[str, Prediction] = {}
    violations: dict[str, str] = {}
    for note in notes:
        found = read(replies[note.text_id], note.sentences, protocol)
        if found.prediction is not None:
            predictions[note.text_id] = found.prediction
        if found.violation is not None:
            violations[note.text_id] = found.violation
    return predictions, violations
