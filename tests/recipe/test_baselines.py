from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medical_team.medical_game_manager import GameType, Role
from recipe.medical_selfplay.advantages import rae
from recipe.medical_selfplay.baselines import RoleBaselines
from recipe.medical_selfplay.trajectory_id import TrajectoryId

ATTACKER, ASSESSOR = Role.ATTACKER, Role.ASSESSOR
EASY, HARD = GameType.VANILLA_BENIGN.value, GameType.ADVERSARIAL_HARMFUL.value

Turn = tuple[Role, str, float]

values = st.floats(-2, 2, width=16)
turns = st.tuples(st.sampled_from(Role), st.sampled_from([EASY, HARD]), values)
batches = st.lists(turns, max_size=12)
decays = st.sampled_from([0.0, 0.5, 0.95])


def of(role: Role, game_type: str, *rewards: float) -> list[Turn]:
    return [(role, game_type, reward) for reward in rewards]


def test_averages_by_hand() -> None:
    baselines = RoleBaselines(decay=0.5)
    assert baselines.read(ATTACKER, HARD) == 0
    assert baselines.update(of(ATTACKER, HARD, 1.0, 1.0, -1.0)) == [0.0, 0.5, 0.75]
    assert baselines.read(ATTACKER, HARD) == -0.125
    assert baselines.read(ATTACKER, EASY) == baselines.read(ASSESSOR, HARD) == 0


def test_spirals_decay_is_the_default() -> None:
    baselines = RoleBaselines()
    baselines.update(of(ASSESSOR, EASY, 1.0))
    assert baselines.read(ASSESSOR, EASY) == pytest.approx(0.05)


def test_the_paper_prints_the_update_first_which_scales_advantages_by_the_decay() -> None:
    """Equation 2 of arXiv 2506.24119 as printed: R - (decay b + (1 - decay) R) = decay (R - b)."""
    rewards = [1.0, -1.0, 1.0, 0.0]
    found = RoleBaselines().update(of(ATTACKER, HARD, *rewards))
    printed, average = [], 0.0
    for reward in rewards:
        average = 0.95 * average + 0.05 * reward
        printed.append(reward - average)
    assert printed == pytest.approx([0.95 * (r - b) for r, b in zip(rewards, found, strict=True)])


@given(st.lists(batches, max_size=3), decays)
def test_a_baseline_is_the_weighted_sum_of_the_rewards_before(
    steps: list[list[Turn]], decay: float
) -> None:
    baselines = RoleBaselines(decay)
    found = [baseline for step in steps for baseline in baselines.update(step)]
    played = [turn for step in steps for turn in step]
    for at, (role, game_type, _) in enumerate(played):
        before = [r for other, kind, r in played[:at] if (other, kind) == (role, game_type)]
        expected = sum(
            (1 - decay) * decay**age * earlier for age, earlier in enumerate(reversed(before))
        )
        assert found[at] == pytest.approx(expected, abs=1e-12)


@given(st.lists(batches, min_size=2, max_size=2), st.integers(0, 12))
def test_where_a_batch_ends_does_not_matter(steps: list[list[Turn]], cut: int) -> None:
    played = steps[0] + steps[1]
    whole, parts = RoleBaselines(), RoleBaselines()
    assert whole.update(played) == parts.update(played[:cut]) + parts.update(played[cut:])
    assert whole.as_dict() == parts.as_dict()


@given(batches, st.randoms(use_true_random=False))
def test_only_the_order_within_a_role_and_game_type_counts(
    step: list[Turn], shuffler: random.Random
) -> None:
    queues: dict[tuple[Role, str], list[Turn]] = defaultdict(list)
    for turn in step:
        queues[turn[:2]].append(turn)
    order = [turn[:2] for turn in step]
    shuffler.shuffle(order)
    first, second = RoleBaselines(), RoleBaselines()
    first.update(step)
    second.update([queues[whose].pop(0) for whose in order])
    assert first.as_dict() == second.as_dict()


@given(batches, batches, decays)
def test_a_restored_state_goes_on_exactly_as_the_saved_one(
    before: list[Turn], after: list[Turn], decay: float
) -> None:
    baselines, restored = RoleBaselines(decay), RoleBaselines(decay)
    baselines.update(before)
    restored.update(after)  # forgotten
    restored.restore(json.loads(json.dumps(baselines.as_dict())))
    assert restored.update(after) == baselines.update(after)
    assert restored.as_dict() == baselines.as_dict()


def test_the_state_says_whose_average_it_is() -> None:
    baselines = RoleBaselines(0.5)
    baselines.update([(ATTACKER, HARD, 1.0), (ASSESSOR, EASY, -1.0)])
    assert baselines.as_dict() == {"assessor": {EASY: -0.5}, "attacker": {HARD: 0.5}}


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_refused_and_changes_nothing(reward: float) -> None:
    baselines = RoleBaselines()
    baselines.update(of(ATTACKER, HARD, 1.0))
    state = baselines.as_dict()
    with pytest.raises(ValueError, match=r"attacker in adversarial_harmful is (nan|inf)"):
        baselines.update(of(ATTACKER, HARD, 1.0, reward))
    assert baselines.as_dict() == state


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_that_never_moves_or_overshoots_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"game\.rae_decay is .* at least 0 and below 1"):
        RoleBaselines(decay)


@pytest.mark.parametrize(
    "state",
    [
        None,
        {"judge": {HARD: 0.0}},
        {"attacker": 0.0},
        {"attacker": {HARD: math.nan}},
        {"assessor": {HARD: 0.5}, "attacker": {HARD: "0.1"}},
    ],
)
def test_a_damaged_state_is_refused_with_what_to_do_and_changes_nothing(state: Any) -> None:
    baselines = RoleBaselines()
    baselines.update(of(ATTACKER, HARD, 1.0))
    kept = baselines.as_dict()
    with pytest.raises(ValueError, match="resume from an earlier checkpoint"):
        baselines.restore(state)
    assert baselines.as_dict() == kept


class PrimeRae:
    """``RAEAlgorithm`` of PrimeIntellect-ai/prime-rl, rae.py: an instance per environment."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.baselines: dict[str, float] = defaultdict(float)

    def score_group(self, rollouts: Iterable[tuple[str, float]]) -> list[float]:
        advantages = []
        for agent, reward in rollouts:
            baseline = self.baselines[agent]
            advantages.append(reward - baseline)
            self.baselines[agent] = self.decay * baseline + (1.0 - self.decay) * reward
        return advantages


class SpiralEma:
    """``EMA`` of spiral-rl/spiral: starts at 0, no correction of the bias."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.value = 0.0

    def get(self) -> float:
        return self.value

    def update(self, reward: float) -> None:
        self.value = self.decay * self.value + (1 - self.decay) * reward


class SpiralActor:
    """The role baseline of ``SelfPlayActor.prepare_trajectories`` in SPIRAL's train_spiral.py."""

    def __init__(self, decay: float) -> None:
        self.ema = {player: SpiralEma(decay) for player in (0, 1)}

    def prepare_trajectories(self, rewards: dict[int, float]) -> list[float]:
        advantages = []
        for player in (0, 1):
            baseline = self.ema[player].get()
            self.ema[player].update(rewards[player])
            advantages.append(rewards[player] - baseline)
        return advantages


def advantages_of(baselines: RoleBaselines, step: list[Turn]) -> list[float]:
    """The whole way: averages, ``uid`` fields, estimator."""
    found = baselines.update(step)
    uids = [
        str(TrajectoryId(role, "a", None, baseline))
        for (role, _, _), baseline in zip(step, found, strict=True)
    ]
    rewards = torch.tensor([[0.0, reward] for _, _, reward in step])
    index = np.array(uids, dtype=object)
    advantages, returns = rae(rewards, torch.ones_like(rewards), index=index)
    assert torch.equal(advantages, returns)
    assert torch.equal(advantages[:, 0], advantages[:, 1])
    return advantages[:, 0].tolist()


@given(st.lists(batches.filter(bool), min_size=1, max_size=3), decays)
def test_advantages_are_prime_rls_rae(steps: list[list[Turn]], decay: float) -> None:
    """Any number of turns of either role in a game: forfeits, vanilla games, k assessors.

    prime-rl scores groups as they are completed, so that its averages depend on who is first;
    here the caller gives the order. It knows no truth weights, and its averages start anew after a
    restart.
    """
    baselines = RoleBaselines(decay)
    primes = {game_type: PrimeRae(decay) for game_type in (EASY, HARD)}
    for step in steps:
        found = advantages_of(baselines, step)
        for game_type, prime in primes.items():
            own = [at for at, turn in enumerate(step) if turn[1] == game_type]
            expected = prime.score_group((step[at][0].value, step[at][2]) for at in own)
            assert [found[at] for at in own] == pytest.approx(expected, abs=1e-6)
    for game_type, prime in primes.items():
        for role in Role:  # bit for bit: the same operations in the same order
            assert baselines.read(role, game_type) == prime.baselines[role.value]


@given(st.lists(st.tuples(st.sampled_from([EASY, HARD]), values), min_size=1, max_size=12), decays)
def test_advantages_are_spirals(games: list[tuple[str, float]], decay: float) -> None:
    """Games of two turns, zero sum, against SPIRAL with one actor.

    SPIRAL's actors each keep averages of their own; it drops rows whose advantage is 0, and its
    averages also follow games that it then leaves out of the batch. Here one set of averages
    follows the turns it is given, and rows of advantage 0 stay.
    """
    step: list[Turn] = []
    expected: list[float] = []
    actors = {game_type: SpiralActor(decay) for game_type in (EASY, HARD)}
    for game_type, reward in games:
        step += [(ATTACKER, game_type, -reward), (ASSESSOR, game_type, reward)]
        expected += actors[game_type].prepare_trajectories({0: -reward, 1: reward})
    assert advantages_of(RoleBaselines(decay), step) == pytest.approx(expected, abs=1e-6)


def test_a_role_that_always_wins_soon_learns_nothing_from_winning() -> None:
    baselines = RoleBaselines()
    advantages = [advantages_of(baselines, of(ATTACKER, HARD, *[1.0] * 16)) for _ in range(10)]
    assert advantages[0][0] == 1
    assert max(advantages[-1]) < 1e-3
