"""One small case and a way to play it, shared by the tests of the game."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medical_team.answers import (
    Assessment,
    Edit,
    format_assessment,
    format_edit,
    format_response,
)
from medical_team.medec import Case
from medical_team.medical_game_manager import Game, GameRules, GameType

CASE = Case(
    case_id="ms-1",
    error_sentences=(
        "A man has a cough.",
        "Pulse is 90/min.",
        "Sputum grows mycoplasma.",
        "He is given penicillin.",
    ),
    error_sentence_id=3,
    corrected_sentence="He is given azithromycin.",
    error_type="treatment",
    split="val",
)
ATTACK = Edit(3, "He is given vancomycin.")


def played(
    game_type: GameType,
    *assessments: Assessment | None,
    attack: Edit | str = ATTACK,
    rules: GameRules | None = None,
    case: Case = CASE,
) -> Game:
    rules = rules or GameRules()
    game = Game(case, game_type, rules)
    if game.awaits_attack:
        response = attack if isinstance(attack, str) else in_format(format_edit(attack), rules)
        game.play_attack(response)
    for assessment in assessments:
        broken = assessment is None
        game.play_assessment("no" if broken else in_format(format_assessment(assessment), rules))
    return game


def in_format(answer: str, rules: GameRules | None = None) -> str:
    opened = (rules or GameRules()).think_opened
    return format_response("Let me think.", answer, think_opened=opened)


@pytest.fixture(scope="session")
def case() -> Case:
    return CASE


@pytest.fixture(scope="session")
def play() -> Callable[..., Game]:
    """Plays a game; an assessment of ``None`` is one of broken format."""
    return played


@pytest.fixture(scope="session")
def respond() -> Callable[..., str]:
    """A response in the answer format."""
    return in_format
