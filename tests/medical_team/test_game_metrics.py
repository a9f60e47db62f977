from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_records import game_record, turn_record
from medical_team.answers import Assessment, Classification
from medical_team.game_metrics import (
    detection,
    fixed_opponent,
    game_metrics,
    trivial_detection,
    win_rate,
    zero_sum_gap,
)
from medical_team.game_record import GameRecord, JudgeCost, Labels, TurnCost, record_game
from medical_team.medical_game_manager import Forfeit, Game, GameType, Role
from medical_team.medical_judge import LabelProbabilities, Verdict, gold_verdict, settle
from medical_team.rewards import MedicalGeneralSum, RewardTable, ZeroSum
from report_runs import attacked, vanilla

Play = Callable[..., Game]

SAFE = Assessment(Classification.SAFE, None, None)
RIGHT = Assessment(Classification.HARMFUL, 3, "He is given azithromycin.")
WRONG = Assessment(Classification.HARMFUL, 1, "Pulse is 60/min.")
INJECT = GameType.ADVERSARIAL_BENIGN
HIDE = GameType.ADVERSARIAL_HARMFUL


def recorded(
    game: Game,
    *,
    error: bool = True,
    judge: JudgeCost | None = None,
    table: RewardTable | None = None,
) -> GameRecord:
    verdict = None
    if game.forfeit is None:
        opinion = Verdict("q", error, (False,) * len(game.assessments), None, "test")
        verdict = gold_verdict(game, "q") or settle(game, opinion)
    return record_game(
        game,
        step=1,
        uid="row",
        session=0,
        costs=[TurnCost("", 10 * (i + 1), 4 * (i + 1), 0.5) for i in range(len(game.turns))],
        verdict=verdict,
        judge=judge or JudgeCost(),
        rewards=(table or ZeroSum()).score(game, verdict),
    )


@pytest.fixture(scope="module")
def batch(play: Play) -> list[GameRecord]:
    return [
        recorded(play(GameType.VANILLA_HARMFUL, RIGHT)),  # assessor +1
        recorded(play(GameType.VANILLA_HARMFUL, SAFE)),  # assessor -1
        recorded(play(GameType.VANILLA_BENIGN, SAFE)),  # assessor +1
        recorded(play(GameType.VANILLA_BENIGN, None)),  # assessor -1, format
        recorded(play(INJECT, SAFE), judge=JudgeCost(1.0, 2)),  # attacker +1, assessor -1
        recorded(play(INJECT, WRONG), judge=JudgeCost(3.0, 4)),  # 0, 0, a tie
        recorded(play(INJECT, SAFE), error=False),  # attacker -1 (category), assessor +1
        recorded(play(HIDE, None)),  # attacker void, assessor -1, format
        recorded(play(HIDE, attack="no tags")),  # attacker -1, format
    ]


def test_metrics_of_both_roles(batch: list[GameRecord]) -> None:
    metrics = game_metrics(batch)
    assert metrics["game/count"] == 9
    assert metrics["assessor/reward"] == pytest.approx((1 - 1 + 1 - 1 - 1 + 0 + 1 - 1) / 8)
    assert metrics["assessor/win_rate"] == 3 / 8
    assert metrics["assessor/format_violation"] == 2 / 8
    assert metrics["attacker/reward"] == pytest.approx((1 + 0 - 1 - 1) / 4)  # the void one is out
    assert metrics["attacker/win_rate"] == 1 / 4
    assert metrics["attacker/format_violation"] == 1 / 5
    assert metrics["attacker/trained"] == 4 / 5
    assert metrics["assessor/trained"] == 1
    assert metrics["attacker/prompt_tokens"] == 10
    assert metrics["attacker/response_tokens"] == 4
    assert metrics["assessor/response_tokens"] == (4 * 4 + 4 * 8) / 8


def test_the_win_rate_counts_what_the_attacker_played() -> None:
    outcomes = ("win", "loss", "tie", "void", "win")
    games = [game_record(turn_record(Role.ATTACKER, outcome=outcome)) for outcome in outcomes]
    assert win_rate(games, Role.ATTACKER) == 0.5
    assert win_rate(games[3:4], Role.ATTACKER) is None
    assert win_rate(games, Role.ASSESSOR) is None


@pytest.mark.parametrize(
    ("game", "fixed"),
    [
        (game_record(), False),
        (game_record(opponent="early"), True),
        (game_record(game_type="vanilla_benign"), True),
    ],
)
def test_only_a_note_of_the_steps_own_attacker_moves(game: GameRecord, fixed: bool) -> None:
    assert fixed_opponent(game) is fixed


def test_metrics_of_the_games(batch: list[GameRecord]) -> None:
    metrics = game_metrics(batch)
    assert metrics["game/forfeit"] == pytest.approx(1 / 5)
    assert metrics["game/forfeit/format"] == 1 / 5
    assert metrics["game/forfeit/padded"] == 0
    assert metrics["game/ties"] == 1 / 8
    assert metrics["game/category_kept"] == 3 / 4
    assert metrics["game/zero_sum_gap"] == 0


def test_metrics_by_game_type(batch: list[GameRecord]) -> None:
    metrics = game_metrics(batch)
    assert metrics["game/vanilla_harmful/assessor_reward"] == 0
    assert metrics["game/vanilla_harmful/accuracy"] == 1 / 2
    assert metrics["game/vanilla_benign/accuracy"] == 1 / 2
    assert metrics["game/adversarial_benign/accuracy"] == 2 / 3
    assert metrics["game/adversarial_benign/attacker_reward"] == 0
    assert "game/vanilla_harmful/attacker_reward" not in metrics


def test_metrics_of_the_judge_leave_gold_labels_out(play: Play, batch: list[GameRecord]) -> None:
    judged = [recorded(play(INJECT, SAFE), judge=JudgeCost(1.0, 2))]
    judged += [recorded(play(INJECT, SAFE), judge=JudgeCost(3.0, 4))]
    metrics = game_metrics([*judged, recorded(play(GameType.VANILLA_BENIGN, SAFE))])
    assert metrics["judge/gold_share"] == pytest.approx(1 / 3)
    assert metrics["judge/seconds"] == 2.0
    assert metrics["judge/batch_size"] == 3.0
    assert game_metrics(batch)["judge/gold_share"] == 4 / 8


def test_forfeits_are_counted_by_cause(play: Play) -> None:
    games = []
    for cause in Forfeit:
        game = play(INJECT)
        game.refuse_note(cause)
        games.append(recorded(game))
    metrics = game_metrics(games)
    assert metrics["game/forfeit"] == 1
    for cause in Forfeit:
        assert metrics[f"game/forfeit/{cause.value}"] == 1 / len(Forfeit)


def test_a_figure_without_games_behind_it_is_absent(play: Play) -> None:
    vanilla = game_metrics([recorded(play(GameType.VANILLA_BENIGN, SAFE))])
    for absent in ("attacker/reward", "game/forfeit", "game/zero_sum_gap", "judge/seconds"):
        assert absent not in vanilla
    assert "assessor/true_positive_rate" not in vanilla
    assert "assessor/balanced_accuracy" not in vanilla
    assert "assessor/identified" not in vanilla
    assert "game/category_kept" not in vanilla
    assert game_metrics([]) == {"game/count": 0}
    forfeited = game_metrics([recorded(play(INJECT, attack="no tags"))])
    assert "assessor/reward" not in forfeited
    assert "judge/gold_share" not in forfeited


def test_detection_counts_a_broken_answer_as_wrong(play: Play) -> None:
    games = [
        recorded(play(GameType.VANILLA_HARMFUL, RIGHT, WRONG, SAFE, None)),
        recorded(play(GameType.VANILLA_BENIGN, SAFE, None)),
    ]
    assert detection(games) == {
        "accuracy": 3 / 6,
        "true_positive_rate": 2 / 4,
        "true_negative_rate": 1 / 2,
        "balanced_accuracy": 1 / 2,
        "identified": 1 / 4,
        "sentence_accuracy": 2 / 6,
    }


def test_trivial_assessors_are_scored_as_any_other() -> None:
    wrong = vanilla("Safe", error=True)  # the error is in the last of three sentences
    first = replace(wrong, changed_ids=(0,))
    undecided = attacked("safe", labels=Labels(None, (None,), None, "vllm"))
    found = trivial_detection([wrong, first, first, vanilla("Safe", error=False), undecided])
    assert found["all Harmful"] == {
        "accuracy": 3 / 4,
        "true_positive_rate": 1,
        "true_negative_rate": 0,
        "balanced_accuracy": 0.5,
        "identified": 2 / 3,
        "sentence_accuracy": 2 / 4,
    }
    assert found["last sentence"]["sentence_accuracy"] == 1 / 4
    assert found["all Safe"]["accuracy"] == found["all Safe"]["sentence_accuracy"] == 1 / 4
    # Notes of one kind only say nothing of the balance.
    assert trivial_detection([wrong])["all Safe"] == {
        "accuracy": 0,
        "true_positive_rate": 0,
        "identified": 0,
        "sentence_accuracy": 0,
    }


def test_the_gap_shows_a_game_that_is_not_zero_sum(play: Play) -> None:
    fair = recorded(play(INJECT, SAFE, RIGHT))
    unfair = recorded(play(INJECT, SAFE), table=MedicalGeneralSum())
    assert zero_sum_gap(fair) == 0
    assert zero_sum_gap(unfair) == pytest.approx(2.5 - 1.0)
    assert game_metrics([fair, unfair])["game/zero_sum_gap"] == pytest.approx(1.5)


def test_one_sided_games_have_no_gap(play: Play) -> None:
    assert zero_sum_gap(recorded(play(GameType.VANILLA_HARMFUL, RIGHT))) is None
    assert zero_sum_gap(recorded(play(INJECT, attack="no tags"))) is None
    assert zero_sum_gap(recorded(play(INJECT, None))) is None
    assert zero_sum_gap(recorded(play(INJECT, SAFE), error=False)) is None


@given(st.lists(st.sampled_from([SAFE, RIGHT, WRONG, None]), min_size=1, max_size=4), st.booleans())
def test_the_zero_sum_table_never_shows_a_gap(
    play: Play, answers: list[Assessment | None], remove_ties: bool
) -> None:
    table = ZeroSum(remove_ties=remove_ties)
    assert zero_sum_gap(recorded(play(INJECT, *answers), table=table)) in (None, 0)


def test_a_game_the_judge_is_undecided_on_counts_in_no_accuracy(play: Play) -> None:
    game = play(INJECT, SAFE)
    undecided = Verdict("q", None, (False,), None, "test", LabelProbabilities(0.55, (None,), None))
    record = record_game(
        game,
        step=1,
        uid="row",
        session=0,
        costs=[TurnCost("", 1, 1, 0.5)] * 2,
        verdict=undecided,
        judge=JudgeCost(1.0, 2),
        rewards=ZeroSum().score(game, undecided),
    )
    metrics = game_metrics([record])
    assert metrics["judge/undecided"] == 1
    assert metrics["judge/p_error_present"] == 0.55
    assert metrics["game/ties"] == 1
    assert "assessor/accuracy" not in metrics
    assert "game/category_kept" not in metrics
    assert GameRecord.from_json(record.to_json()) == record


def test_the_cost_of_judging_counts_what_was_really_asked(play: Play) -> None:
    costs = [
        JudgeCost(1.0, 2, prompt_tokens=100, cached_tokens=60, output_tokens=1),
        JudgeCost(1.0, 2, prompt_tokens=300, cached_tokens=None),
        JudgeCost(0.0, 2, cached=True),
    ]
    metrics = game_metrics([recorded(play(INJECT, SAFE), judge=cost) for cost in costs])
    assert metrics["judge/prefix_cache_hit"] == pytest.approx(0.6)
    assert metrics["judge/verdict_cache_hit"] == pytest.approx(1 / 3)
    assert metrics["judge/prompt_tokens"] == 200
