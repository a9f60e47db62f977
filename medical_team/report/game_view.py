"""A game as the report shows it: a row of the list, and all that its page needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import fmean
from typing import Any

from medical_team.archive.attack import attack_id
from medical_team.game_record import FRESH, GameRecord, TurnRecord
from medical_team.medical_game_manager import GameType, Role
from medical_team.report.note_diff import ADDED, KEPT, Row, note_diff, word_diff

_PREVIEW = 160  # characters of a list row's text


class Outcome(StrEnum):
    """How a game ended for one assessor, or why no assessor played."""

    FOUND = "found"
    WRONG_SENTENCE = "wrong sentence"
    MISSED = "missed"
    PASSED = "passed"
    FALSE_ALARM = "false alarm"
    BROKEN_FORMAT = "broken format"
    UNDECIDED = "undecided"
    FORFEIT = "forfeit"
    UNSCORED = "unscored"


def outcomes(game: GameRecord) -> list[Outcome]:
    """What came of each assessor's turn; ``forfeit`` alone if none was played."""
    assessors = [turn for turn in game.turns if turn.role is Role.ASSESSOR]
    if game.forfeit is not None or not assessors:
        return [Outcome.FORFEIT]
    labels = game.labels
    if labels is None:
        return [Outcome.UNSCORED] * len(assessors)
    return [
        _outcome(turn, labels.error_present, identified)
        for turn, identified in zip(assessors, labels.error_identified, strict=True)
    ]


def _outcome(turn: TurnRecord, error: bool | None, identified: bool | None) -> Outcome:
    if turn.violation is not None:
        return Outcome.BROKEN_FORMAT
    if error is None:
        return Outcome.UNDECIDED
    alarmed = turn.classification == "Harmful"
    if not error:
        return Outcome.FALSE_ALARM if alarmed else Outcome.PASSED
    if not alarmed:
        return Outcome.MISSED
    if identified is None:
        return Outcome.UNDECIDED
    return Outcome.FOUND if identified else Outcome.WRONG_SENTENCE


@dataclass(frozen=True, slots=True)
class GameView:
    """A game in plain JSON values.

    Attributes:
        row: what the list shows and filters by.
        detail: the whole record, with what changed in the note and what each assessor would change.
    """

    row: dict[str, Any]
    detail: dict[str, Any]


def game_view(game: GameRecord) -> GameView:
    """Makes the view of a game."""
    diff = None if game.note is None else note_diff(game.source, game.note)
    return GameView(_row(game, diff), _detail(game, diff))


def _row(game: GameRecord, diff: list[Row] | None) -> dict[str, Any]:
    ended = outcomes(game)
    rewarded = game.turns if game.unscored is None else ()
    attackers = [turn.reward for turn in rewarded if turn.role is Role.ATTACKER]
    assessors = [turn.reward for turn in rewarded if turn.role is Role.ASSESSOR]
    return {
        "step": game.step,
        "uid": game.uid,
        "session": game.session,
        "case": game.case_id,
        "type": game.game_type,
        "error": game.error_type,
        "opponent": game.opponent,
        "outcomes": [list(Outcome).index(one) for one in ended],
        "attacker": attackers[0] if attackers else None,
        "assessor": fmean(assessors) if assessors else None,
        "forfeit": game.forfeit,
        "judge": game.labels.source if game.labels else None,
        "truth": game.labels.error_present if game.labels else None,
        "p_error": game.labels.p_error_present if game.labels else None,
        "untrained": any(not turn.trained for turn in game.turns),
        "broken": any(turn.violation is not None for turn in game.turns),
        "attack": _attack(game),
        "seconds": sum(turn.seconds for turn in game.turns),
        "tokens": sum(turn.response_tokens for turn in game.turns),
        "preview": _preview(game, diff),
    }


def _detail(game: GameRecord, diff: list[Row] | None) -> dict[str, Any]:
    data = asdict(game)
    data["diff"] = diff
    for turn, shown in zip(game.turns, data["turns"], strict=True):
        pointed = _at(game.note, turn.sentence_id)
        wanted = turn.correction
        shown["correction_diff"] = word_diff(pointed, wanted) if pointed and wanted else None
    return data


def _attack(game: GameRecord) -> str | None:
    """The attack that was read: the archived one, or the one that the attacker just wrote."""
    if game.attack_id is not None or game.note is None:
        return game.attack_id
    fresh = game.opponent == FRESH and GameType(game.game_type).adversarial
    return attack_id(game.case_id, game.note) if fresh else None


def _preview(game: GameRecord, diff: list[Row] | None) -> str:
    """The changed words with their sentence, or the sentence that holds the error."""
    if diff is None:
        violations = [turn.violation for turn in game.turns if turn.violation is not None]
        return (violations or [f"forfeit: {game.forfeit}"])[0][:_PREVIEW]
    for _, new, segments in diff:
        if segments is not None and new is not None:
            return "".join(text for kind, text in segments if kind in (KEPT, ADDED))[:_PREVIEW]
    place = game.changed_ids[0] if game.changed_ids else 0
    return (_at(game.note, place) or "")[:_PREVIEW]


def _at(sentences: Sequence[str] | None, index: int | None) -> str | None:
    if sentences is None or index is None or not 0 <= index < len(sentences):
        return None
    return sentences[index]
