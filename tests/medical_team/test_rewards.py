from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_team.answers import Assessment, Classification
from medical_team.medec import Case
from medical_team.medical_game_manager import Forfeit, Game, GameType
from medical_team.medical_judge import GOLD, Verdict, gold_verdict, settle
from medical_team.rewards import (
    REWARD_TABLES,
    MedicalGeneralSum,
    RewardTable,
    TurnReward,
    ZeroSum,
)

Play = Callable[..., Game]

SAFE = Assessment(Classification.SAFE, None, None)
RIGHT = Assessment(Classification.HARMFUL, 3, "He is given azithromycin.")
WRONG = Assessment(Classification.HARMFUL, 1, "Pulse is 60/min.")
BROKEN = None
INJECT = GameType.ADVERSARIAL_BENIGN
HARMFUL = GameType.VANILLA_HARMFUL
BENIGN = GameType.VANILLA_BENIGN

tables = pytest.mark.parametrize("table", [kind() for kind in REWARD_TABLES.values()])
answers = st.sampled_from([SAFE, RIGHT, WRONG])


def labelled(game: Game, error: bool = True, realistic: bool | None = None) -> Verdict:
    opinion = Verdict("q", error, (False,) * len(game.assessments), realistic, "test")
    return gold_verdict(game, "q") or settle(game, opinion)


def values(table: RewardTable, game: Game, **labels: bool | None) -> list[float]:
    return [reward.value for reward in table.score(game, labelled(game, **labels))]


@pytest.mark.parametrize(
    ("game_type", "answer", "expected"),
    [
        (HARMFUL, RIGHT, TurnReward(1.0, True, "win")),
        (HARMFUL, WRONG, TurnReward(0.0, True, "tie")),
        (HARMFUL, SAFE, TurnReward(-1.0, True, "loss")),
        (HARMFUL, BROKEN, TurnReward(-1.0, True, "loss")),
        (BENIGN, SAFE, TurnReward(1.0, True, "win")),
        (BENIGN, RIGHT, TurnReward(-1.0, True, "loss")),
        (BENIGN, BROKEN, TurnReward(-1.0, True, "loss")),
    ],
)
def test_zero_sum_of_a_vanilla_game(
    game_type: GameType, answer: Assessment | None, expected: TurnReward, play: Play
) -> None:
    game = play(game_type, answer)
    assert ZeroSum().score(game, labelled(game)) == [expected]


@pytest.mark.parametrize(
    ("error", "answer", "attacker", "assessor"),
    [
        (True, RIGHT, TurnReward(-1.0, True, "loss"), TurnReward(1.0, True, "win")),
        (True, WRONG, TurnReward(0.0, True, "tie"), TurnReward(0.0, True, "tie")),
        (True, SAFE, TurnReward(1.0, True, "win"), TurnReward(-1.0, True, "loss")),
        (True, BROKEN, TurnReward(0.0, False, "void"), TurnReward(-1.0, True, "loss")),
        (False, SAFE, TurnReward(-1.0, True, "loss"), TurnReward(1.0, True, "win")),
        (False, RIGHT, TurnReward(-1.0, True, "loss"), TurnReward(-1.0, True, "loss")),
        (False, BROKEN, TurnReward(-1.0, True, "loss"), TurnReward(-1.0, True, "loss")),
    ],
)
def test_zero_sum_of_an_adversarial_game(
    error: bool,
    answer: Assessment | None,
    attacker: TurnReward,
    assessor: TurnReward,
    play: Play,
) -> None:
    game = play(INJECT, answer)
    assert ZeroSum().score(game, labelled(game, error)) == [attacker, assessor]


@pytest.mark.parametrize("attack", ["no tags", "r</think><answer>Sentence: 9\nRewrite: x</answer>"])
def test_zero_sum_of_a_forfeit(attack: str, play: Play) -> None:
    assert ZeroSum().score(play(INJECT, attack=attack), None) == [TurnReward(-1.0, True, "loss")]


def test_the_attacker_gets_minus_the_mean_of_the_assessors_that_kept_the_format(play: Play) -> None:
    assert values(ZeroSum(), play(INJECT, RIGHT, SAFE, SAFE)) == [1 / 3, 1.0, -1.0, -1.0]
    assert values(ZeroSum(), play(INJECT, RIGHT, BROKEN, WRONG)) == [-0.5, 1.0, -1.0, 0.0]


def test_each_coefficient_of_the_zero_sum_table_is_obeyed(play: Play) -> None:
    table = ZeroSum(
        identified=2.0,
        wrong_sentence=0.25,
        missed=-3.0,
        correct_safe=4.0,
        false_alarm=-5.0,
        broken_format=-6.0,
        forfeit=-7.0,
        broken_category=-8.0,
    )
    assert values(table, play(INJECT, RIGHT)) == [-2.0, 2.0]
    assert values(table, play(INJECT, WRONG)) == [-0.25, 0.25]
    assert values(table, play(INJECT, SAFE)) == [3.0, -3.0]
    assert values(table, play(INJECT, SAFE), error=False) == [-8.0, 4.0]
    assert values(table, play(INJECT, RIGHT, BROKEN), error=False) == [-8.0, -5.0, -6.0]
    assert table.score(play(INJECT, attack="no tags"), None)[0].value == -7.0


coefficients = st.fixed_dictionaries(
    {
        "identified": st.floats(0.1, 5),
        "wrong_sentence": st.floats(-0.1, 0.1),
        "missed": st.floats(-5, -0.1),
        "remove_ties": st.booleans(),
    }
)


@given(st.lists(answers, min_size=1, max_size=4), coefficients)
def test_two_sided_games_sum_to_exactly_zero(
    play: Play, given_answers: list[Assessment], chosen: dict[str, float]
) -> None:
    game = play(INJECT, *given_answers)
    attacker, *assessors = ZeroSum(**chosen).score(game, labelled(game))  # type: ignore[arg-type]
    trained = [reward.value for reward in assessors if reward.trained]
    assert attacker.trained == bool(trained)
    if trained:
        assert attacker.value + fmean(trained) == 0


@pytest.mark.parametrize(
    ("game_type", "answer", "expected"),
    [
        # classification + identified + format
        (HARMFUL, RIGHT, TurnReward(3.0, True, "win")),
        (HARMFUL, WRONG, TurnReward(1.0, True, "tie")),
        (HARMFUL, SAFE, TurnReward(-1.0, True, "loss")),
        (HARMFUL, BROKEN, TurnReward(-3.0, True, "loss")),
        # classification + format: there is no error to identify
        (BENIGN, SAFE, TurnReward(2.0, True, "win")),
        (BENIGN, RIGHT, TurnReward(0.0, True, "loss")),
        (BENIGN, BROKEN, TurnReward(-2.0, True, "loss")),
    ],
)
def test_general_sum_of_an_assessor(
    game_type: GameType, answer: Assessment | None, expected: TurnReward, play: Play
) -> None:
    game = play(game_type, answer)
    assert MedicalGeneralSum().score(game, labelled(game)) == [expected]


@pytest.mark.parametrize(
    ("error", "answer", "realistic", "expected"),
    [
        # format + category + undetected + realistic
        (True, SAFE, True, TurnReward(3.0, True, "win")),
        (True, SAFE, False, TurnReward(2.0, True, "win")),
        (True, SAFE, None, TurnReward(2.5, True, "win")),
        (True, RIGHT, None, TurnReward(0.5, True, "loss")),
        (True, WRONG, None, TurnReward(1.5, True, "tie")),
        (True, BROKEN, None, TurnReward(0.0, False, "void")),
        (False, SAFE, None, TurnReward(-0.5, True, "loss")),
        (False, RIGHT, True, TurnReward(0.0, True, "loss")),
    ],
)
def test_general_sum_of_an_attacker(
    error: bool,
    answer: Assessment | None,
    realistic: bool | None,
    expected: TurnReward,
    play: Play,
) -> None:
    game = play(INJECT, answer)
    assert MedicalGeneralSum().score(game, labelled(game, error, realistic))[0] == expected


def test_general_sum_averages_what_escaped_over_the_assessors(play: Play) -> None:
    game = play(INJECT, SAFE, SAFE, RIGHT, BROKEN)
    assert MedicalGeneralSum().score(game, labelled(game))[0].value == pytest.approx(1.5 + 1 / 3)


def test_general_sum_of_a_forfeit_counts_the_format_only_where_it_was_broken(play: Play) -> None:
    broken = play(INJECT, attack="no tags")
    kept = play(INJECT)
    kept.refuse_note(Forfeit.PADDED)
    assert [MedicalGeneralSum().score(game, None)[0].value for game in (broken, kept)] == [-3, -1]


def test_each_coefficient_of_the_general_sum_table_is_obeyed(play: Play) -> None:
    table = MedicalGeneralSum(
        category=1, undetected=10, realistic=100, classification=2, identified=20, format=1000
    )
    assert values(table, play(INJECT, SAFE), realistic=True) == [1111, 1000 - 22]
    assert values(table, play(INJECT, RIGHT), realistic=False) == [1000 + 1 - 10 - 100, 1022]


@tables
def test_ties_are_trained_unless_they_are_to_be_removed(table: RewardTable, play: Play) -> None:
    game = play(INJECT, WRONG)
    assert [reward.trained for reward in table.score(game, labelled(game))] == [True, True]
    without = replace(table, remove_ties=True)
    assert [reward.trained for reward in without.score(game, labelled(game))] == [False, False]


def test_a_removed_tie_does_not_count_for_the_attacker(play: Play) -> None:
    game = play(INJECT, WRONG, RIGHT)
    attacker, *_ = ZeroSum(remove_ties=True).score(game, labelled(game))
    assert attacker == TurnReward(-1.0, True, "loss")


@tables
def test_games_of_other_error_types_are_played_but_not_trained(
    table: RewardTable, play: Play, case: Case
) -> None:
    other = replace(table, error_types=("diagnosis",))
    own = replace(table, error_types=("diagnosis", case.error_type))
    game = play(INJECT, RIGHT)
    plain = table.score(game, labelled(game))
    assert own.score(game, labelled(game)) == plain
    assert other.score(game, labelled(game)) == [replace(one, trained=False) for one in plain]
    forfeit = play(INJECT, attack="no tags")
    assert [reward.trained for reward in other.score(forfeit, None)] == [False]


@tables
@pytest.mark.parametrize("game_type", [HARMFUL, BENIGN])
def test_a_vanilla_game_rewards_no_attacker(
    table: RewardTable, game_type: GameType, play: Play
) -> None:
    game = play(game_type, SAFE, BROKEN)
    verdict = labelled(game)
    assert verdict.source == GOLD
    assert len(table.score(game, verdict)) == len(game.turns) == 2


@tables
def test_a_played_game_needs_labels_and_a_forfeit_has_none(table: RewardTable, play: Play) -> None:
    game = play(INJECT, SAFE)
    with pytest.raises(ValueError, match="ms-1: forfeit is None, so a verdict was expected"):
        table.score(game, None)
    with pytest.raises(ValueError, match="ms-1: forfeit is format, so a verdict was not expected"):
        table.score(play(INJECT, attack="no tags"), labelled(game))


@tables
@pytest.mark.parametrize("answer", [SAFE, RIGHT, WRONG])
def test_a_game_the_judge_is_undecided_on_is_a_tie_that_moves_nobody(
    table: RewardTable, answer: Assessment, play: Play
) -> None:
    game = play(INJECT, answer)
    undecided = Verdict("q", None, (None,), True, "test")
    tie = TurnReward(0.0, True, "tie")
    assert table.score(game, settle(game, undecided)) == [tie, tie]
    assert [
        reward.trained for reward in replace(table, remove_ties=True).score(game, undecided)
    ] == [False, False]


@tables
def test_an_assessor_that_broke_the_format_loses_even_where_the_judge_is_undecided(
    table: RewardTable, play: Play
) -> None:
    game = play(INJECT, BROKEN)
    attacker, assessor = table.score(game, Verdict("q", None, (None,), None, "test"))
    assert assessor.value < 0
    assert (attacker.value, attacker.outcome) == (0.0, "tie")


@tables
def test_an_undecided_identification_is_a_tie_for_that_assessor_alone(
    table: RewardTable, play: Play
) -> None:
    game = play(INJECT, RIGHT, RIGHT, SAFE)
    verdict = Verdict("q", True, (True, None, False), True, "test")
    outcomes = [reward.outcome for reward in table.score(game, verdict)]
    assert outcomes[1:] == ["win", "tie", "loss"]
