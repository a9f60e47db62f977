"""A judge that is a language model: questions out, probabilities in, labels by threshold.

The engine (transformers, vLLM, a server) only answers yes-or-no prompts. What is asked, how a
probability becomes a label and when a game is left unscored is decided here, once for all engines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from statistics import fmean
from typing import Protocol

from medical_team.judges.questions import (
    PROMPT_VERSION,
    JudgePrompt,
    PromptKey,
    Question,
    prompts_of,
)
from medical_team.judges.settings import ModelSettings
from medical_team.medical_judge import (
    NO_USAGE,
    JudgeError,
    Judgement,
    JudgeQuery,
    JudgeUnavailableError,
    JudgeUsage,
    LabelProbabilities,
    Unscored,
    Verdict,
    identified_by_text,
)

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered prompt.

    Attributes:
        yes: the likelier of the two words.
        p_yes: P(yes), given that the answer is one of the two words; ``None`` where the engine
            gives no probabilities.
        label_mass: probability of the two words together before the answer was constrained;
            ``None`` where the engine does not give it.
        usage: what the answer took.
    """

    yes: bool
    p_yes: float | None = None
    label_mass: float | None = None
    usage: JudgeUsage = NO_USAGE


class LabelEngine(Protocol):
    """Answers yes-or-no prompts; called from several threads at once."""

    def answer(
        self, prompts: Sequence[JudgePrompt], reasoning_tokens: int
    ) -> Mapping[PromptKey, Answer | JudgeError]:
        """Answers a batch of prompts.

        Args:
            prompts: prompts with distinct keys; those about one case lie next to each other.
            reasoning_tokens: most tokens of reasoning before each answer; 0 for none.

        Returns:
            For each key an answer, or why there is none:
            :class:`~medical_team.medical_judge.JudgeUnavailableError` where asking again later may
            help, else :class:`~medical_team.medical_judge.JudgeError`. A missing key counts as the
            latter.
        """
        ...

    def close(self) -> None:
        """Gives back connections, processes and memory."""
        ...


class ModelJudge:
    """Labels games by asking a model.

    Args:
        engine: what answers.
        settings: how it is asked and how labels are decided.
        revision: of the model's weights, as far as it is known; a function is asked when the
            fingerprint is wanted, until it answers.
    """

    def __init__(
        self,
        engine: LabelEngine,
        settings: ModelSettings,
        revision: str | Callable[[], str] = "",
    ) -> None:
        self.engine = engine
        self._settings = settings
        self._threshold = DEFAULT_THRESHOLD if settings.threshold is None else settings.threshold
        self.name = f"{settings.name}:{settings.model}"
        self._revision = revision
        decisions = [self._threshold, settings.tie_band, settings.min_label_mass]
        self.decisions = digest([*decisions, settings.ask_realistic])
        """Digest of how labels are decided from what the model says."""

    @property
    def fingerprint(self) -> str:
        """See :class:`~medical_team.medical_judge.Judge`.

        Raises:
            JudgeUnavailableError: if a server must be asked what it serves and does not answer.
        """
        if not isinstance(self._revision, str):
            self._revision = self._revision()
        return fingerprint(self._settings, self._revision)

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        """Labels a batch of games; see :class:`~medical_team.medical_judge.Judge`.

        Raises:
            JudgeUnavailableError: if a question could not be put; carries the finished games.
        """
        settings = self._settings
        asked = {
            query.query_id: prompts_of(
                query,
                both_orders=settings.both_orders,
                ask_realistic=settings.ask_realistic,
                reasoning=settings.reasoning_tokens > 0,
            )
            for query in queries
        }
        prompts = [prompt for of_game in asked.values() for prompt in of_game]
        answers = self.engine.answer(prompts, settings.reasoning_tokens)
        judgements: list[Judgement] = []
        away: JudgeUnavailableError | None = None
        for query in queries:
            try:
                judgements.append(self._judgement(query, asked[query.query_id], answers))
            except JudgeUnavailableError as error:
                away = error
            except JudgeError as error:
                judgements.append(Unscored(query.query_id, str(error)))
        if away is not None:
            raise JudgeUnavailableError(str(away), judgements) from away
        return judgements

    def close(self) -> None:
        """Closes the engine."""
        self.engine.close()

    def _judgement(
        self,
        query: JudgeQuery,
        prompts: Sequence[JudgePrompt],
        answers: Mapping[PromptKey, Answer | JudgeError],
    ) -> Verdict:
        found = {prompt.key: self._checked(answers.get(prompt.key)) for prompt in prompts}
        first = found[PromptKey(query.query_id, Question.ERROR_PRESENT)]
        swapped = found.get(PromptKey(query.query_id, Question.ERROR_PRESENT, swapped=True))
        orders = [first] if swapped is None else [first, swapped]
        if {True, False} <= {self._label(answer, self._threshold) for answer in orders}:
            raise JudgeError(
                "the judge contradicts itself when the two notes change places"
                f" (P(yes) {', '.join(_shown(answer.p_yes) for answer in orders)})"
            )
        told = [answer.p_yes for answer in orders if answer.p_yes is not None]
        present = Answer(first.yes, fmean(told) if len(told) == len(orders) else None)
        realistic = found.get(PromptKey(query.query_id, Question.REALISTIC))
        identified = [
            found.get(PromptKey(query.query_id, Question.ERROR_IDENTIFIED, assessor=index))
            for index in range(len(query.assessments))
        ]
        error_present = self._label(present, self._threshold)
        if any(self._label(answer, self._threshold) is None for answer in orders):
            error_present = None
        return Verdict(
            query.query_id,
            error_present,
            self._identified(query, error_present, identified),
            None if realistic is None else self._label(realistic),
            self.name,
            LabelProbabilities(
                present.p_yes,
                tuple(None if answer is None else answer.p_yes for answer in identified),
                None if realistic is None else realistic.p_yes,
            ),
            sum((answer.usage for answer in found.values()), NO_USAGE),
        )

    def _identified(
        self,
        query: JudgeQuery,
        error_present: bool | None,
        judged: Sequence[Answer | None],
    ) -> tuple[bool | None, ...]:
        if error_present is False:
            return (False,) * len(query.assessments)
        by_text = identified_by_text(query.clean_note, query.note, query.assessments)
        return tuple(
            decided if answer is None else self._label(answer)
            for decided, answer in zip(by_text, judged, strict=True)
        )

    def _checked(self, answer: Answer | JudgeError | None) -> Answer:
        if answer is None:
            raise JudgeError(f"{self.name} left a question unanswered")
        if isinstance(answer, JudgeError):
            raise answer
        least = self._settings.min_label_mass
        if answer.label_mass is not None and answer.label_mass < least:
            raise JudgeError(
                f"{self.name} wanted to answer neither Yes nor No (probability of the two"
                f" {answer.label_mass:.2g}, judge.min_label_mass={least})"
            )
        return answer

    def _label(self, answer: Answer, threshold: float = DEFAULT_THRESHOLD) -> bool | None:
        # Beyond half the band on either side; a band of 0 decides always.
        half = self._settings.tie_band / 2
        if answer.p_yes is None:
            return answer.yes
        if half and abs(answer.p_yes - threshold) <= half:
            return None
        return answer.p_yes >= threshold


def fingerprint(settings: ModelSettings, revision: str) -> str:
    """Digest of the model, the prompts and how they are asked; not of the thresholds.

    The engine's name is left out: it changes how fast a model answers, not what it answers.
    """
    parts: list[object] = [settings.model, revision, PROMPT_VERSION, settings.both_orders]
    parts += [settings.reasoning_tokens, getattr(settings, "quantization", None)]
    # A server that gives no probabilities has no threshold, and no error rates at one.
    parts += [getattr(settings, "logprobs", True)]
    return digest(parts)


def digest(values: Sequence[object]) -> str:
    """A short name for these values and no others."""
    return blake2b(repr(values).encode(), digest_size=8).hexdigest()


def _shown(probability: float | None) -> str:
    return "unknown" if probability is None else f"{probability:.3f}"
