"""A judge model in this process, run by transformers without generating a word.

The answer to a question is read from the probabilities of the next token. All questions about a
game are computed in one row (see :mod:`medical_team.judges.packing`) behind a rubric that is
computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from medical_team.judges.encoding import EncodedPrompt, PromptEncoder, label_ids
from medical_team.judges.local_model import load, revision_of
from medical_team.judges.model_judge import Answer, ModelJudge
from medical_team.judges.packing import FULL, SLIDING, PackedRow, batch_of, batches, pack
from medical_team.judges.prefix_cache import PrefixCache, Prefixes
from medical_team.judges.questions import JudgePrompt, PromptKey
from medical_team.judges.reasoning import Spoken, speak
from medical_team.medical_judge import JudgeError, JudgeUnavailableError, JudgeUsage

if TYPE_CHECKING:
    import torch

    from medical_team.judges.settings import TransformersSettings

T = TypeVar("T")
Outcome = dict[PromptKey, T | JudgeError]


def build(settings: TransformersSettings) -> ModelJudge:
    """Loads the model and makes the judge.

    Raises:
        JudgeError: if the model cannot be loaded or cannot judge, with what to do about it.
    """
    tokenizer, model = load(settings)
    engine = TransformersEngine(
        model,
        tokenizer,
        max_batch_tokens=settings.max_batch_tokens,
        max_prompt_tokens=settings.max_prompt_tokens,
    )
    return ModelJudge(engine, settings, revision_of(settings.model))


class TransformersEngine:
    """Answers yes-or-no prompts with a causal language model.

    Args:
        model: a model of ``transformers`` with full and sliding attention only, in evaluation mode.
        tokenizer: its fast tokenizer.
        max_batch_tokens: most tokens computed at once, padding included.
        max_prompt_tokens: longest prompt.

    Raises:
        JudgeError: if the tokenizer cannot be used.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_batch_tokens: int, max_prompt_tokens: int
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer)
        self._labels = label_ids(tokenizer)
        self._max_batch_tokens = max_batch_tokens
        self._max_prompt_tokens = max_prompt_tokens
        self._rubrics: dict[tuple[int, ...], Prefixes] = {}
        self._lock = Lock()

    def answer(
        self, prompts: Sequence[JudgePrompt], reasoning_tokens: int
    ) -> Mapping[PromptKey, Answer | JudgeError]:
        """Answers a batch; see :class:`~medical_team.judges.model_judge.LabelEngine`."""
        by_key = {prompt.key: prompt for prompt in prompts}
        if not reasoning_tokens:
            return self._label({key: self._encode(prompt) for key, prompt in by_key.items()})
        said = self._reason(
            {key: self._encode(prompt) for key, prompt in by_key.items()}, reasoning_tokens
        )
        answers = self._label(
            {
                key: one if isinstance(one, JudgeError) else self._encode(by_key[key], one.text)
                for key, one in said.items()
            }
        )
        return {key: _including(answer, said[key]) for key, answer in answers.items()}

    def close(self) -> None:
        """Gives the model's memory back."""
        with self._lock:
            self._model = None
            self._rubrics.clear()
            _empty_cache()

    def _encode(
        self, prompt: JudgePrompt, reasoning: str | None = None
    ) -> EncodedPrompt | JudgeError:
        try:
            encoded = self._encoder.encode(prompt, reasoning)
        except JudgeError as error:
            return error
        if (length := len(encoded.ids)) > self._max_prompt_tokens:
            return JudgeError(
                f"the prompt has {length} tokens, judge.max_prompt_tokens is"
                f" {self._max_prompt_tokens}"
            )
        return encoded

    def _label(self, prompts: Outcome[EncodedPrompt]) -> Outcome[Answer]:
        """The label pass: one forward pass a batch."""
        outcome: Outcome[Answer] = dict(_errors(prompts))
        with self._lock:
            for batch in batches(pack(_encoded(prompts)), self._max_batch_tokens):
                outcome |= self._halving(batch, self._label_batch)
        return outcome

    def _reason(self, prompts: Outcome[EncodedPrompt], most: int) -> Outcome[Spoken]:
        """Lets the model speak about each prompt, ``most`` tokens at most."""
        outcome: Outcome[Spoken] = dict(_errors(prompts))
        rows = list(chain.from_iterable(pack({key: one}) for key, one in _encoded(prompts).items()))

        def compute(batch: Sequence[PackedRow]) -> Mapping[PromptKey, Spoken]:
            return speak(self._model, self._tokenizer, batch, most)

        with self._lock:
            # Each row is computed with its rubric, and grows by what is said.
            longest = max((row.before + row.length + most for row in rows), default=1)
            at_once = max(1, self._max_batch_tokens // longest)
            rows.sort(key=lambda row: row.length)
            for start in range(0, len(rows), at_once):
                outcome |= self._halving(rows[start : start + at_once], compute)
        return outcome

    def _halving(
        self,
        rows: Sequence[PackedRow],
        compute: Callable[[Sequence[PackedRow]], Mapping[PromptKey, T | JudgeError]],
    ) -> Outcome[T]:
        """Computes a batch, in halves if memory is short."""
        import torch

        keys = list(chain.from_iterable(row.questions for row in rows))
        if self._model is None:
            return dict.fromkeys(keys, JudgeUnavailableError("the judge has been closed"))
        try:
            with torch.inference_mode():
                return dict(compute(rows))
        except torch.OutOfMemoryError:
            pass  # goes on below, where the failed attempt's tensors are gone
        except RuntimeError as error:  # what CUDA raises when the device fails
            reason = str(error).strip().splitlines()[0]
            return dict.fromkeys(keys, JudgeUnavailableError(f"the judge model failed: {reason}"))
        _empty_cache()
        if len(rows) == 1:
            length = rows[0].before + rows[0].length
            too_long = JudgeError(
                f"{length} tokens about one game do not fit in the GPU's memory; lower"
                " judge.max_prompt_tokens or give the judge more (judge.gpu_memory_gb)"
            )
            return dict.fromkeys(keys, too_long)
        middle = len(rows) // 2
        return self._halving(rows[:middle], compute) | self._halving(rows[middle:], compute)

    def _label_batch(self, rows: Sequence[PackedRow]) -> Outcome[Answer]:
        import torch

        known = rows[0].rubric in self._rubrics
        before = [(self._rubric(rows[0].rubric), [0] * len(rows))]
        if openings := {row.opening: None for row in rows if row.opening}:
            order = list(openings)
            index = [order.index(row.opening) if row.opening else 0 for row in rows]
            before.append((self._prefixes(rows[0].rubric, order), index))
        hidden, last = self._hidden(rows, before)
        logits = self._model.get_output_embeddings()(hidden[last]).float()
        cap = getattr(self._model.config.get_text_config(), "final_logit_softcapping", None)
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        yes, no = (
            torch.logsumexp(logits[:, list(ids)], dim=-1)
            for ids in (self._labels.yes, self._labels.no)
        )
        p_yes = torch.sigmoid(yes - no).tolist()
        mass = torch.exp(torch.logaddexp(yes, no) - torch.logsumexp(logits, dim=-1)).tolist()
        usages = _usages(rows, known)
        return {
            key: _answer(p_yes_, mass_, usage)
            for (key, usage), p_yes_, mass_ in zip(usages, p_yes, mass, strict=True)
        }

    def _rubric(self, rubric: tuple[int, ...]) -> Prefixes:
        """Keys and values of a rubric, computed once; there are as many as rubrics: two."""
        if rubric not in self._rubrics:
            self._rubrics[rubric] = self._prefixes((), [rubric])
        return self._rubrics[rubric]

    def _prefixes(self, rubric: tuple[int, ...], openings: Sequence[tuple[int, ...]]) -> Prefixes:
        """Keys and values of what rows begin with, behind their rubric."""
        rows = [PackedRow(rubric, (), opening, {}) for opening in openings]
        before = [(self._rubric(rubric), [0] * len(rows))] if rubric else []
        found = Prefixes(tuple(map(len, openings)))
        self._hidden(rows, before, found)
        return found

    def _hidden(
        self,
        rows: Sequence[PackedRow],
        before: Sequence[tuple[Prefixes, Sequence[int]]],
        into: Prefixes | None = None,
    ) -> tuple[torch.Tensor, tuple[list[int], list[int]]]:
        """The last layer's output for a batch, and where in it each question ends.

        Args:
            rows: the batch.
            before: the rubric and, where rows have one, the openings, with each row's own.
            into: takes keys and values, if they are needed again.
        """
        config = self._model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        batch = batch_of(
            rows,
            opening_width=before[1][0].width if len(before) > 1 else 0,
            window=window,
            dtype=self._model.dtype,
            device=self._model.device,
        )
        masks: Any = batch.masks
        if not getattr(config, "layer_types", None):
            masks = masks[FULL if window is None else SLIDING]
        output = self._model.get_decoder()(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=masks,
            past_key_values=PrefixCache(before, into),
            use_cache=False,
        )
        return output.last_hidden_state, batch.last


def _answer(p_yes: float, mass: float, usage: JudgeUsage) -> Answer | JudgeError:
    # NaN fails every comparison.
    if not (0 <= p_yes <= 1 and mass >= 0):
        return JudgeError(
            "the judge model's probabilities are not a number (NaN); its weights are broken or"
            " judge.dtype does not suit it"
        )
    return Answer(p_yes >= 0.5, p_yes, min(mass, 1.0), usage)


def _usages(
    rows: Sequence[PackedRow], rubric_known: bool
) -> Iterator[tuple[PromptKey, JudgeUsage]]:
    """What each question took, as if it were asked alone, and how much of it was shared."""
    shared = len(rows[0].rubric) if rubric_known else 0
    opened: set[tuple[int, ...]] = set()
    for row in rows:
        if row.opening in opened:
            shared = row.before
        opened.add(row.opening)
        for key, question in row.questions.items():
            before = row.before + len(row.case)
            yield key, JudgeUsage(before + len(question), shared)
            shared = before
        shared = len(row.rubric)


def _including(answer: Answer | JudgeError, said: Spoken | JudgeError) -> Answer | JudgeError:
    if isinstance(answer, JudgeError) or isinstance(said, JudgeError):
        return answer
    return replace(answer, usage=said.usage + answer.usage)


def _encoded(prompts: Outcome[EncodedPrompt]) -> dict[PromptKey, EncodedPrompt]:
    return {key: one for key, one in prompts.items() if not isinstance(one, JudgeError)}


def _errors(outcome: Mapping[PromptKey, T | JudgeError]) -> dict[PromptKey, JudgeError]:
    return {key: one for key, one in outcome.items() if isinstance(one, JudgeError)}


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
