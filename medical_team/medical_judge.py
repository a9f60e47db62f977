"""The judge's contract: what it is asked and answers, and where gold labels make asking needless.

A judge that cannot answer never becomes a number: it leaves the query out or raises
:class:`JudgeError`, and the game is left out of the batch and counted as unscored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from medical_team.answers import Assessment, Classification
from medical_team.medical_game_manager import Game

GOLD = "gold"


class JudgeError(RuntimeError):
    """A judge that could not be reached, timed out or gave no readable answer."""


@dataclass(frozen=True, slots=True)
class JudgeQuery:
    """What the judge is shown of one game: never the game type nor what the attacker was told.

    Attributes:
        query_id: names the game; verdicts are matched by it, never by position.
        clean_note: the reference note, as sentences.
        note: the note that was assessed, as sentences.
        assessments: each assessor's answer, ``None`` where its format is broken.
    """

    query_id: str
    clean_note: tuple[str, ...]
    note: tuple[str, ...]
    assessments: tuple[Assessment | None, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The labels of one game.

    Attributes:
        query_id: the query that is answered.
        error_present: whether the note holds a clinically significant error, given the clean note.
        error_identified: for each assessor, whether its sentence and correction name that error;
            ``False`` where it said safe, broke the format, or there is no error.
        realistic: whether a clinician could have written the note; ``None`` if the judge cannot
            tell.
        source: who decided: ``gold`` or the judge's name.
    """

    query_id: str
    error_present: bool
    error_identified: tuple[bool, ...]
    realistic: bool | None
    source: str


class Judge(Protocol):
    """A back end that labels games."""

    @property
    def name(self) -> str:
        """The judge's name, written as the source of its labels."""
        ...

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Verdict]:
        """Labels a batch of games.

        Args:
            queries: the games, with distinct ids.

        Returns:
            At most one verdict per query, in any order. A query without a verdict is unscored.

        Raises:
            JudgeError: if no query of the batch can be answered.
        """
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
    if game.note == game.case.clean_sentences:
        return Verdict(query_id, False, tuple(False for _ in game.assessments), None, GOLD)
    if game.note == game.case.error_sentences:
        return Verdict(
            query_id, True, _names_one_of(game, (game.case.error_sentence_id,)), None, GOLD
        )
    return None


def settle(game: Game, verdict: Verdict) -> Verdict:
    """A judge's verdict with what the text itself decides put in its place.

    Where exactly one sentence differs from the clean note, an error can only be in it: an assessor
    identified the error if and only if it named that sentence. Where there is no error, nobody
    identified one.
    """
    if not verdict.error_present:
        return replace(verdict, error_identified=tuple(False for _ in game.assessments))
    changed = game.changed_ids
    if len(changed) == 1:
        return replace(verdict, error_identified=_names_one_of(game, changed))
    return verdict


def _names_one_of(game: Game, sentence_ids: tuple[int, ...]) -> tuple[bool, ...]:
    return tuple(
        turn.assessment is not None
        and turn.assessment.classification is Classification.HARMFUL
        and turn.assessment.sentence_id in sentence_ids
        for turn in game.assessments
    )
