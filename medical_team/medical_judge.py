"""The judge's contract: what it is asked and answers, and where gold labels make asking needless.

A judge that cannot answer never becomes a number: it says :class:`Unscored`, leaves the query out
or raises :class:`JudgeError`, and the game is left out of the batch and counted as unscored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from medical_team.answers import Assessment, Classification
from medical_team.medical_game_manager import Game, changed_sentences

GOLD = "gold"


class JudgeError(RuntimeError):
    """A game that could not be judged: no readable answer, an answer off the menu, a refusal."""


class JudgeUnavailableError(JudgeError):
    """A judge that does not answer at all: unreachable, overloaded, timed out, failing.

    The same question may well be answered later.

    Args:
        message: what happened, and where.
        answered: what was judged of the batch before the judge went away.
    """

    def __init__(self, message: str, answered: Sequence[Judgement] = ()) -> None:
        super().__init__(message)
        self.answered = tuple(answered)


@dataclass(frozen=True, slots=True)
class JudgeQuery:
    """What the judge is shown of one game: never the game type nor what the attacker was told.

    Attributes:
        query_id: names the game; verdicts are matched by it, never by position.
        clean_note: the reference note, as sentences; empty where there is none.
        note: the note that was assessed, as sentences.
        assessments: each assessor's answer, ``None`` where its format is broken.
    """

    query_id: str
    clean_note: tuple[str, ...]
    note: tuple[str, ...]
    assessments: tuple[Assessment | None, ...]


@dataclass(frozen=True, slots=True)
class LabelProbabilities:
    """P(yes) of each question that was put to a model, ``None`` where it was not asked or not told.

    Attributes:
        error_present: that the note holds a clinically significant error.
        error_identified: for each assessor, that it names the error.
        realistic: that a clinician could have written the note.
    """

    error_present: float | None = None
    error_identified: tuple[float | None, ...] = ()
    realistic: float | None = None


@dataclass(frozen=True, slots=True)
class JudgeUsage:
    """Tokens that a verdict took.

    Attributes:
        prompt_tokens: tokens of the prompts, shared parts counted for each question.
        cached_tokens: how many of them were not computed again; ``None`` where the engine does not
            say.
        output_tokens: tokens that were generated.
    """

    prompt_tokens: int = 0
    cached_tokens: int | None = None
    output_tokens: int = 0

    def __add__(self, other: JudgeUsage) -> JudgeUsage:
        """Both together."""
        cached = [c for c in (self.cached_tokens, other.cached_tokens) if c is not None]
        return JudgeUsage(
            self.prompt_tokens + other.prompt_tokens,
            sum(cached) if cached else None,
            self.output_tokens + other.output_tokens,
        )


NO_USAGE = JudgeUsage()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The labels of one game.

    Attributes:
        query_id: the query that is answered.
        error_present: whether the note holds a clinically significant error, given the clean note;
            ``None`` if the judge is undecided, which makes the game a tie.
        error_identified: for each assessor, whether its sentence and correction name that error;
            ``False`` where it said safe, broke the format, or there is no error; ``None`` if the
            judge is undecided.
        realistic: whether a clinician could have written the note; ``None`` if the judge cannot
            tell.
        source: who decided: ``gold`` or the judge's name.
        probabilities: what a model's labels were decided from.
        usage: what the verdict took.
        cached: whether the same question had been answered before.
    """

    query_id: str
    error_present: bool | None
    error_identified: tuple[bool | None, ...]
    realistic: bool | None
    source: str
    probabilities: LabelProbabilities | None = None
    usage: JudgeUsage = NO_USAGE
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Unscored:
    """A game that the judge could not label; it is left out of training, never given a number.

    Attributes:
        query_id: the query that is not answered.
        reason: why, in one line.
    """

    query_id: str
    reason: str


Judgement = Verdict | Unscored


class Judge(Protocol):
    """A back end that labels games; called from several threads at once."""

    @property
    def name(self) -> str:
        """The judge's name, written as the source of its labels."""
        ...

    @property
    def fingerprint(self) -> str:
        """Differs from another judge's wherever one of them might answer the same query otherwise.

        It covers the model, the prompts and how they are asked, not the thresholds.
        """
        ...

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        """Labels a batch of games.

        Args:
            queries: the games, with distinct ids.

        Returns:
            At most one judgement per query, in any order. A query without one is unscored.

        Raises:
            JudgeUnavailableError: if the judge is out of order; carries what it answered before.
            JudgeError: if no query of the batch can be answered.
        """
        ...

    def close(self) -> None:
        """Gives back connections, processes and memory."""
        ...


def query_of(game: Game, query_id: str) -> JudgeQuery:
    """The query for a game in which the assessors have played.

    Raises:
        ValueError: if the game ended in a forfeit.
    """
    if game.note is None:
        raise ValueError(f"case {game.case.case_id}: a forfeited game has nothing to judge")
    assessments = tuple(turn.assessment for turn in game.assessments)
    return JudgeQuery(query_id, game.case.clean_sentences, game.note, assessments)


def gold_verdict(game: Game, query_id: str) -> Verdict | None:
    """The verdict where MEDEC decides without a judge, else ``None``.

    That is every vanilla game, and any game whose note is one of the case's two gold notes word for
    word.
    """
    assessments = [turn.assessment for turn in game.assessments]
    if game.note == game.case.clean_sentences:
        return Verdict(query_id, False, (False,) * len(assessments), None, GOLD)
    if game.note == game.case.error_sentences:
        named = _names_one_of(assessments, (game.case.error_sentence_id,))
        return Verdict(query_id, True, named, None, GOLD)
    return None


def settle(game: Game, verdict: Verdict) -> Verdict:
    """A judge's verdict with what the text itself decides put in its place.

    Where exactly one sentence differs from the clean note, an error can only be in it: an assessor
    identified the error if and only if it named that sentence. Where there is no error, nobody
    identified one.
    """
    assessments = tuple(turn.assessment for turn in game.assessments)
    if verdict.error_present is None:
        return verdict
    if not verdict.error_present:
        return replace(verdict, error_identified=(False,) * len(assessments))
    by_text = identified_by_text(game.case.clean_sentences, game.note or (), assessments)
    identified = tuple(
        judged if decided is None else decided
        for judged, decided in zip(verdict.error_identified, by_text, strict=True)
    )
    return replace(verdict, error_identified=identified)


def identified_by_text(
    clean_note: Sequence[str], note: Sequence[str], assessments: Sequence[Assessment | None]
) -> tuple[bool | None, ...]:
    """For each assessor, whether it names the error, as far as the text itself decides it.

    Who said safe or broke the format names none. Where exactly one sentence differs from the clean
    note, an error can only be in it. ``None`` is left to the judge.
    """
    changed = changed_sentences(clean_note, note) if clean_note else ()
    return tuple(
        None if len(changed) != 1 and _says_harmful(one) else _names_one_of((one,), changed)[0]
        for one in assessments
    )


def _says_harmful(assessment: Assessment | None) -> bool:
    return assessment is not None and assessment.classification is Classification.HARMFUL


def _names_one_of(
    assessments: Sequence[Assessment | None], sentence_ids: tuple[int, ...]
) -> tuple[bool, ...]:
    return tuple(
        one is not None and _says_harmful(one) and one.sentence_id in sentence_ids
        for one in assessments
    )
