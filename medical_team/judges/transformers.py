"""A judge model in this process, run by transformers without generating a word.

The answer to a question is read from the probabilities of the next token. All questions about a
game are computed in one row (see :mod:`medical_team.judges.packing`) behind a rubric that is
computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from medical_team.judges.encoding import EncodedPrompt, PromptEncoder, label_ids
from medical_team.judges.local_model import load, revision_of
from medical_team.judges.model_judge import Answer, ModelJudge
from medical_team.judges.packed_model import PackedModel
from medical_team.judges.packing import PackedRow, batches, pack
from medical_team.judges.questions import JudgePrompt, PromptKey
from medical_team.judges.reasoning import Spoken, speak
from medical_team.medical_judge import JudgeError, JudgeUnavailableError

if TYPE_CHECKING:
    from medical_team.judges.settings import TransformersSettings

# A processor gains nothing from more than a row or two at once and loses its caches: with 100 M
# parameters 16 rows of 1,000 tokens took twice the time of one row after the other.
CPU_BATCH_TOKENS = 2048

T = TypeVar("T")
Tokens = tuple[int, ...]
Outcome = dict[PromptKey, T | JudgeError]


def build(settings: TransformersSettings) -> ModelJudge:
    """Loads the model and makes the judge.

    Raises:
        JudgeError: if the model cannot be loaded or cannot judge, with what to do about it.
    """
    tokenizer, model = load(settings)
    engine = engine_of(tokenizer, model, settings)
    return ModelJudge(engine, settings, revision_of(settings.model))


def engine_of(tokenizer: Any, model: Any, settings: TransformersSettings) -> TransformersEngine:
    """The engine with a loaded model.

    Raises:
        JudgeError: if the tokenizer cannot be used.
    """
    on_cpu = model.device.type == "cpu"
    return TransformersEngine(
        model,
        tokenizer,
        max_batch_tokens=min(
            settings.max_batch_tokens, CPU_BATCH_TOKENS if on_cpu else settings.max_batch_tokens
        ),
        max_prompt_tokens=settings.max_prompt_tokens,
    )


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
        self._packed: PackedModel | None = PackedModel(model, label_ids(tokenizer))
        self._max_batch_tokens = max_batch_tokens
        self._max_prompt_tokens = max_prompt_tokens
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
            self._model = self._packed = None
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
            if self._packed is None:
                return outcome | dict.fromkeys(_encoded(prompts), _closed())
            for batch in batches(pack(_encoded(prompts)), self._max_batch_tokens):
                outcome |= self._halving(batch, self._packed.answer)
            self._packed.forget_openings()
        return outcome

    def _reason(self, prompts: Outcome[EncodedPrompt], most: int) -> Outcome[Spoken]:
        """Lets the model speak about each prompt, ``most`` tokens at most."""
        outcome: Outcome[Spoken] = dict(_errors(prompts))
        rows = list(chain.from_iterable(pack({key: one}) for key, one in _encoded(prompts).items()))

        def compute(batch: Sequence[PackedRow]) -> Mapping[PromptKey, Spoken]:
            return speak(self._model, self._tokenizer, batch, most)

        with self._lock:
            if self._model is None:
                return outcome | dict.fromkeys(_encoded(prompts), _closed())
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
        """Computes a batch, in halves if memory is short or the model fails on a part of it."""
        import torch

        keys = list(chain.from_iterable(row.questions for row in rows))
        try:
            with torch.inference_mode():
                return dict(compute(rows))
        except torch.OutOfMemoryError:
            failure = None  # goes on below, where the failed attempt's tensors are gone
        except RuntimeError as error:  # waiting mends neither a broken device nor a bad game
            failure = JudgeError(f"the judge model failed: {str(error).strip().splitlines()[0]}")
        _empty_cache()
        if len(rows) == 1 and failure is not None:
            return dict.fromkeys(keys, failure)
        if len(rows) == 1:
            length = rows[0].before + rows[0].length
            too_long = JudgeError(
                f"{length} tokens about one game do not fit in the GPU's memory; lower"
                " judge.max_prompt_tokens or give the judge more (judge.gpu_memory_gb)"
            )
            return dict.fromkeys(keys, too_long)
        middle = len(rows) // 2
        return self._halving(rows[:middle], compute) | self._halving(rows[middle:], compute)


def _including(answer: Answer | JudgeError, said: Spoken | JudgeError) -> Answer | JudgeError:
    if isinstance(answer, JudgeError) or isinstance(said, JudgeError):
        return answer
    return replace(answer, usage=said.usage + answer.usage)


def _encoded(prompts: Outcome[EncodedPrompt]) -> dict[PromptKey, EncodedPrompt]:
    return {key: one for key, one in prompts.items() if not isinstance(one, JudgeError)}


def _errors(outcome: Mapping[PromptKey, T | JudgeError]) -> dict[PromptKey, JudgeError]:
    return {key: one for key, one in outcome.items() if isinstance(one, JudgeError)}


def _closed() -> JudgeError:
    return JudgeUnavailableError("the judge has been closed")


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
