"""Records of games that nobody played; what a test does not name is filled in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from medical_team.game_record import GameRecord, JudgeCost, Labels, TurnRecord
from medical_team.medical_game_manager import GameType, Role

_TURN = TurnRecord(
    role=Role.ASSESSOR,
    prompt="a prompt",
    response="a response",
    reasoning=None,
    answer=None,
    violation=None,
    classification=None,
    sentence_id=None,
    correction=None,
    reward=1.0,
    trained=True,
    outcome="win",
    prompt_tokens=4,
    response_tokens=2,
    seconds=0.1,
)
_GAME = GameRecord(
    step=1,
    uid="row",
    session=0,
    case_id="ms-1",
    game_type=GameType.ADVERSARIAL_BENIGN.value,
    error_type="diagnosis",
    source=("He is well.",),
    note=("He is ill.",),
    changed_ids=(0,),
    forfeit=None,
    labels=Labels(True, (True,), None, "test"),
    judge=JudgeCost(),
    turns=(),
)


def turn_record(role: Role, **changes: Any) -> TurnRecord:
    """A turn that was won and may be trained."""
    return replace(_TURN, role=role, **changes)


def game_record(*turns: TurnRecord, **changes: Any) -> GameRecord:
    """A game against an attacker, whose error was found."""
    return replace(_GAME, turns=turns, **changes)
