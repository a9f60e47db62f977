from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable

import pytest

from game_records import game_record
from medical_team.matchmaking import Curriculum, GameMix, MatchSettings
from medical_team.medec import Case
from medical_team.medical_game_manager import GameType

VH, AH, VB, AB = (
    GameType.VANILLA_HARMFUL,
    GameType.ADVERSARIAL_HARMFUL,
    GameType.VANILLA_BENIGN,
    GameType.ADVERSARIAL_BENIGN,
)


def drawn(mix: GameMix, count: int = 4000) -> dict[GameType, float]:
    rng = random.Random(0)
    found = Counter(mix.draw(VH, rng) for _ in range(count))
    return {kind: found[kind] / count for kind in GameType}


def test_without_settings_each_row_is_what_the_dataset_says() -> None:
    mix = GameMix(MatchSettings())
    assert [mix.draw(kind, random.Random(0)) for kind in GameType] == list(GameType)
    assert not MatchSettings().active


def test_a_mix_is_drawn_in_its_shares() -> None:
    mix = GameMix(MatchSettings(game_mix={VB: 3, AB: 1}))
    assert mix.shares() == {VH: 0, AH: 0, VB: 0.75, AB: 0.25}
    assert drawn(mix)[VB] == pytest.approx(0.75, abs=0.03)
    assert drawn(mix)[VH] == 0


def test_an_attacker_that_wins_too_often_gets_fewer_notes_and_one_that_loses_more() -> None:
    mix = GameMix(MatchSettings(target_win_rate=(0.3, 0.5)))
    assert mix.shares() == pytest.approx(dict.fromkeys(GameType, 0.25))
    mix.observe(0.4)
    mix.observe(None)
    assert mix.shares()[AB] == pytest.approx(0.25)
    mix.observe(0.6)
    fewer = mix.shares()
    assert fewer[AB] == fewer[AH] < 0.25 < fewer[VB]
    assert sum(fewer.values()) == pytest.approx(1)
    mix.observe(0.1)
    assert mix.shares()[AB] == pytest.approx(0.25)


@pytest.mark.parametrize(("win_rate", "share"), [(1.0, 0.1), (0.0, 0.9)])
def test_neither_kind_of_game_dies_out(win_rate: float, share: float) -> None:
    mix = GameMix(MatchSettings(game_mix={VB: 1, AB: 4}, target_win_rate=(0.3, 0.5)))
    for _ in range(200):
        mix.observe(win_rate)
    assert mix.shares()[AB] == pytest.approx(share)


def test_a_simulated_attacker_is_held_inside_the_band() -> None:
    """Who plays more learns more: the win rate rises with the share of attacked notes."""
    mix = GameMix(MatchSettings(target_win_rate=(0.35, 0.45)))
    skill, rates = 0.9, []
    for _ in range(200):
        rates.append(skill)
        mix.observe(skill)
        attacked = mix.shares()[AB] + mix.shares()[AH]
        skill = min(1.0, max(0.0, skill + 0.02 * (attacked - 0.4)))
    assert all(0.3 < rate < 0.5 for rate in rates[120:])


def test_the_mix_goes_on_where_it_was() -> None:
    settings = MatchSettings(target_win_rate=(0.3, 0.5))
    mix, resumed = GameMix(settings), GameMix(settings)
    for _ in range(3):
        mix.observe(0.9)
    resumed.restore(json.loads(json.dumps(mix.as_dict())))
    assert resumed.shares() == mix.shares()


def test_types_that_are_found_half_of_the_time_are_drawn_most(
    make_cases: Callable[..., list[Case]],
) -> None:
    cases = make_cases(40)
    kinds = sorted({case.error_type for case in cases})
    assert len(kinds) > 1
    curriculum = Curriculum(1.0, cases)
    for _ in range(100):
        curriculum.observe([game_record(error_type=kinds[0]) for _ in range(8)])
    weights = curriculum.weights()
    assert weights[kinds[0]] < 0.06 < weights[kinds[1]] == 0.25
    rng = random.Random(0)
    drawn_kinds = Counter(curriculum.draw(cases[0], rng).error_type for _ in range(2000))
    expected = weights[kinds[0]] / sum(weights.values())
    assert drawn_kinds[kinds[0]] / 2000 == pytest.approx(expected, abs=0.03)


def test_the_share_of_the_curriculum_is_kept(make_cases: Callable[..., list[Case]]) -> None:
    cases = make_cases(40)
    rng = random.Random(0)
    for share in (0.0, 0.3):
        curriculum = Curriculum(share, cases)
        kept = sum(curriculum.draw(cases[0], rng) is cases[0] for _ in range(2000)) / 2000
        assert kept == pytest.approx(1 - share, abs=0.04)


def test_a_restored_curriculum_forgets_types_without_cases(
    make_cases: Callable[..., list[Case]],
) -> None:
    curriculum = Curriculum(1.0, make_cases(8))
    before = curriculum.weights()
    curriculum.restore({"unheard of": 0.1})
    assert curriculum.weights() == before


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"game_mix": {VB: -1, AB: 2}}, "game.game_mix"),
        ({"game_mix": {VB: 0}}, "game.game_mix"),
        ({"target_win_rate": (0.5, 0.3)}, "game.target_win_rate"),
        ({"target_win_rate": (0.0, 0.3)}, "game.target_win_rate"),
        ({"target_win_rate": (0.2, 0.3), "game_mix": {VB: 1}}, "game.target_win_rate"),
        ({"curriculum": 1.5}, "game.curriculum is 1.5"),
        ({"curriculum": float("nan")}, "game.curriculum"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MatchSettings(**settings)  # type: ignore[arg-type]
