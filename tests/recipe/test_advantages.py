from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import (
    compute_grpo_outcome_advantage,
    compute_reinforce_plus_plus_outcome_advantage,
    compute_rloo_outcome_advantage,
    get_adv_estimator_fn,
)

from medical_team.medical_game_manager import Role
from recipe.medical_selfplay.advantages import (
    rae,
    role_grpo,
    role_reinforce_pp,
    role_rloo,
    truth_weights,
)
from recipe.medical_selfplay.trajectory_id import TrajectoryId

Estimator = Callable[..., tuple[torch.Tensor, torch.Tensor]]

ATTACKER, ASSESSOR = Role.ATTACKER, Role.ASSESSOR
WIDTH = 5
ESTIMATORS: dict[str, Estimator] = {
    "role_grpo": role_grpo,
    "role_rloo": role_rloo,
    "rae": rae,
    "role_reinforce_pp": role_reinforce_pp,
}
estimators = pytest.mark.parametrize("estimator", ESTIMATORS.values())
batch_relative = pytest.mark.parametrize("estimator", [role_grpo, role_rloo, role_reinforce_pp])


@dataclass(frozen=True)
class Row:
    """A trajectory with its reward on its last token; ``padding`` is a row that verl adds."""

    role: Role
    group: str
    reward: float
    tokens: int = 2
    truth: bool | None = None
    padding: bool = False
    baseline: float | None = 0.0

    @property
    def uid(self) -> str:
        if self.padding:
            return "pad_0"
        return str(TrajectoryId(self.role, self.group, self.truth, self.baseline))


def batch(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    rewards, mask = torch.zeros(len(rows), WIDTH), torch.zeros(len(rows), WIDTH)
    for i, row in enumerate(rows):
        mask[i, : row.tokens] = 1
        rewards[i, max(row.tokens - 1, 0)] = row.reward
    return rewards, mask, np.array([row.uid for row in rows], dtype=object)


def run(estimator: Estimator, rows: list[Row], **config: Any) -> torch.Tensor:
    rewards, mask, index = batch(rows)
    return estimator(rewards, mask, index=index, config=OmegaConf.create(config))[0]


rewards = st.floats(-2, 2, width=16)


@st.composite
def games(draw: st.DrawFn, min_tokens: int = 0) -> Row:
    role = draw(st.sampled_from(Role))
    truth = draw(st.none() | st.booleans()) if role is ASSESSOR else None
    tokens = draw(st.integers(min_tokens, WIDTH))
    group, baseline = draw(st.sampled_from("abc")), draw(rewards)
    return Row(role, group, draw(rewards), tokens, truth, baseline=baseline)


batches = st.lists(games(), min_size=1, max_size=14)


def weight(rows: list[Row], row: Row) -> float:
    counted = [other.truth for other in rows if other.truth is not None and other.tokens]
    if row.truth is None or not any(counted) or all(counted):
        return 1.0
    same = sum(truth == row.truth for truth in counted)
    return len(counted) / (2 * same)


def slow_grpo(rows: list[Row], by_std: bool) -> list[float]:
    expected = []
    for row in rows:
        mates = [
            other.reward
            for other in rows
            if (other.role, other.group) == (row.role, row.group) and other.tokens
        ]
        if not row.tokens or len(set(mates)) < 2:
            expected.append(0.0)
            continue
        mean = sum(mates) / len(mates)
        spread = (sum((r - mean) ** 2 for r in mates) / (len(mates) - 1)) ** 0.5
        advantage = (row.reward - mean) / (spread + 1e-6) if by_std else row.reward - mean
        expected.append(advantage * weight(rows, row))
    return expected


def slow_rloo(rows: list[Row]) -> list[float]:
    expected = []
    for at, row in enumerate(rows):
        others = [
            other.reward
            for index, other in enumerate(rows)
            if index != at and (other.role, other.group) == (row.role, row.group) and other.tokens
        ]
        if not row.tokens or not others:
            expected.append(0.0)
            continue
        expected.append((row.reward - sum(others) / len(others)) * weight(rows, row))
    return expected


def slow_rae(rows: list[Row]) -> list[float]:
    return [
        (row.reward - row.baseline) * weight(rows, row) if row.baseline is not None else 0.0
        for row in rows
    ]


def slow_reinforce_pp(rows: list[Row], gamma: float) -> list[list[float]]:
    returns = [
        [row.reward * gamma ** (row.tokens - 1 - at) for at in range(row.tokens)] for row in rows
    ]
    expected = []
    for row, own in zip(rows, returns, strict=True):
        pool = [
            value
            for other, values in zip(rows, returns, strict=True)
            for value in values
            if other.role is row.role
        ]
        if not pool:
            expected.append([0.0] * WIDTH)
            continue
        mean = sum(pool) / len(pool)
        variance = sum((value - mean) ** 2 for value in pool) / len(pool)
        whitened = [(v - mean) / (variance + 1e-6) ** 0.5 * weight(rows, row) for v in own]
        expected.append(whitened + [0.0] * (WIDTH - row.tokens))
    return expected


def test_role_grpo_by_hand() -> None:
    rows = [
        Row(ATTACKER, "a", 1.0),
        Row(ATTACKER, "a", -1.0),
        Row(ASSESSOR, "a", 1.0),
        Row(ASSESSOR, "a", 0.0),
        Row(ASSESSOR, "a", -1.0),
        Row(ASSESSOR, "b", 1.0),
        Row(ASSESSOR, "b", 0.0),
    ]
    root = 2**0.5
    by_hand = [1 / root, -1 / root, 1, 0, -1, 0.5 * root, -0.5 * root]
    assert run(role_grpo, rows)[:, 0].tolist() == pytest.approx(by_hand, abs=1e-5)
    centred = run(role_grpo, rows, norm_adv_by_std_in_grpo=False)
    assert centred[:, 0].tolist() == [1, -1, 1, 0, -1, 0.5, -0.5]


def test_role_rloo_by_hand() -> None:
    rows = [
        Row(ATTACKER, "a", 1.0),
        Row(ATTACKER, "a", -1.0),
        # The others' means are -0.5, 0 and 0.5.
        Row(ASSESSOR, "a_0", 1.0),
        Row(ASSESSOR, "a_0", 0.0),
        Row(ASSESSOR, "a_0", -1.0),
        # The same case's other attack is a group of its own.
        Row(ASSESSOR, "a_1", 1.0),
        Row(ASSESSOR, "a_1", 0.0),
        Row(ASSESSOR, "b", 1.0),
    ]
    assert run(role_rloo, rows)[:, 0].tolist() == [2, -2, 1.5, 0, -1.5, 1, -1, 0]


def test_rae_by_hand() -> None:
    rows = [
        Row(ATTACKER, "a", 1.0, baseline=0.25),
        Row(ATTACKER, "a", 1.0, baseline=-0.5),
        Row(ASSESSOR, "a", -1.0, baseline=-1.0),
        Row(ASSESSOR, "b", -1.0, tokens=3, baseline=0.5),
        Row(ASSESSOR, "b", 5.0, tokens=0, baseline=None),
    ]
    advantages = run(rae, rows)
    assert advantages[:, 0].tolist() == [0.75, 1.5, 0, -1.5, 0]
    assert advantages[3].tolist() == [-1.5, -1.5, -1.5, 0, 0]


def test_role_reinforce_pp_by_hand() -> None:
    # Attacker tokens return 1, 1 and -3: mean -1/3, variance (2 * 16/9 + 64/9) / 3 = 32/9.
    rows = [Row(ATTACKER, "a", 1.0), Row(ATTACKER, "b", -3.0, tokens=1)]
    # Assessor tokens return 2 and 0: mean 1, variance 1, whatever the attackers got.
    rows += [Row(ASSESSOR, "a", 2.0, tokens=1), Row(ASSESSOR, "b", 0.0, tokens=1)]
    spread = (32 / 9) ** 0.5
    advantages = run(role_reinforce_pp, rows, gamma=1.0)
    expected = [[4 / 3 / spread] * 2, [-8 / 3 / spread, 0], [1, 0], [-1, 0]]
    torch.testing.assert_close(advantages[:, :2], torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert not advantages[:, 2:].any()


def test_role_reinforce_pp_discounts_over_the_response_only() -> None:
    token_rewards = torch.tensor([[0.0, 0.0, 4.0, 8.0]])
    mask = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    index = np.array([str(TrajectoryId(ATTACKER, "a"))], dtype=object)
    config = OmegaConf.create({"gamma": 0.5})
    _, returns = role_reinforce_pp(token_rewards, mask, index=index, config=config)
    assert returns.tolist() == [[2.0, 0.0, 4.0, 0.0]]


@given(batches, st.booleans())
def test_role_grpo_equals_a_slow_implementation(rows: list[Row], by_std: bool) -> None:
    advantages = run(role_grpo, rows, norm_adv_by_std_in_grpo=by_std)
    assert_over_tokens(advantages, rows, slow_grpo(rows, by_std), tolerance=2e-3)


@given(batches)
def test_role_rloo_equals_a_slow_implementation(rows: list[Row]) -> None:
    assert_over_tokens(run(role_rloo, rows), rows, slow_rloo(rows))


@given(batches)
def test_rae_equals_a_slow_implementation(rows: list[Row]) -> None:
    assert_over_tokens(run(rae, rows), rows, slow_rae(rows))


def assert_over_tokens(
    advantages: torch.Tensor, rows: list[Row], expected: list[float], tolerance: float = 1e-5
) -> None:
    for row, found, one in zip(rows, advantages, expected, strict=True):
        wanted = [one] * row.tokens + [0.0] * (WIDTH - row.tokens)
        assert found.tolist() == pytest.approx(wanted, abs=tolerance, rel=tolerance)


@given(batches, st.sampled_from([1.0, 0.9]))
def test_role_reinforce_pp_equals_a_slow_implementation(rows: list[Row], gamma: float) -> None:
    found = run(role_reinforce_pp, rows, gamma=gamma)
    expected = torch.tensor(slow_reinforce_pp(rows, gamma))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


@estimators
@given(st.lists(games(min_tokens=1), min_size=1, max_size=10), st.data())
def test_padding_and_untrained_rows_change_nothing_and_get_nothing(
    estimator: Estimator, rows: list[Row], data: st.DataObject
) -> None:
    plain = run(estimator, rows)
    marked = [(row, True) for row in rows]
    for _ in range(data.draw(st.integers(1, 4))):
        padding = data.draw(st.booleans())
        truth = None if padding else data.draw(st.none() | st.booleans())
        empty = Row(ASSESSOR, "a", data.draw(rewards), 0, truth, padding)
        marked.insert(data.draw(st.integers(0, len(marked))), (empty, False))
    advantages = run(estimator, [row for row, _ in marked])
    kept = torch.tensor([counts for _, counts in marked])
    assert torch.equal(advantages[kept], plain)
    assert not advantages[~kept].any()


@estimators
@given(st.lists(games(), min_size=1, max_size=14), st.sampled_from(Role), st.data())
def test_one_roles_rewards_never_touch_the_other_role(
    estimator: Estimator, rows: list[Row], changed: Role, data: st.DataObject
) -> None:
    others = [
        replace(row, reward=data.draw(rewards)) if row.role is changed else row for row in rows
    ]
    kept = torch.tensor([row.role is not changed for row in rows])
    assert torch.equal(run(estimator, rows)[kept], run(estimator, others)[kept])


@estimators
def test_swapping_the_roles_rewards_is_seen(estimator: Estimator) -> None:
    played = [(1.0, -1.0), (-1.0, 1.0), (1.0, -1.0)]
    rows, swapped = [], []
    for attacker, assessor in played:
        rows += [Row(ATTACKER, "a", attacker), Row(ASSESSOR, "a", assessor)]
        swapped += [Row(ATTACKER, "a", assessor), Row(ASSESSOR, "a", attacker)]
    right = run(estimator, rows)
    torch.testing.assert_close(run(estimator, swapped), -right)
    assert right[0, 0] > 0 > right[1, 0]


@batch_relative
@pytest.mark.parametrize(
    "rows",
    [
        [Row(ATTACKER, "a", 1.0)],
        [Row(ATTACKER, "a", 0.3, tokens=1)],
        [Row(ASSESSOR, "a", 1.0, truth=True)],
        [Row(ATTACKER, "a", 1 / 3) for _ in range(7)],
        [Row(ASSESSOR, "a", 0.1, truth=True) for _ in range(3)],
        [Row(ATTACKER, "a", 1.0), Row(ASSESSOR, "a", -1.0, truth=False)],
        [Row(ATTACKER, "a", 1.0, tokens=0)],
        [Row(ATTACKER, "a", 1.0, tokens=0, padding=True)],
        [Row(ASSESSOR, "a", 0.0, tokens=0, padding=True), Row(ASSESSOR, "a", 1.0)],
    ],
)
def test_rows_with_nothing_to_compare_get_nothing(estimator: Estimator, rows: list[Row]) -> None:
    advantages = run(estimator, rows)
    torch.testing.assert_close(advantages, torch.zeros(len(rows), WIDTH), atol=1e-3, rtol=0)


@pytest.mark.parametrize("estimator", [role_grpo, role_rloo])
@pytest.mark.parametrize("value", [1 / 3, 0.1, -1 / 7])
@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_equal_rewards_in_a_group_give_exactly_nothing(
    estimator: Estimator, value: float, count: int
) -> None:
    assert not run(estimator, [Row(ATTACKER, "a", value) for _ in range(count)]).any()


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("count", [1, 4])
def test_rae_needs_no_other_row_and_no_other_role(role: Role, count: int) -> None:
    """A batch of forfeits alone, say: each still learns from its distance to the average."""
    rows = [Row(role, "a", -1.0, baseline=-0.25) for _ in range(count)]
    assert run(rae, rows)[:, 0].tolist() == [-0.75] * count


@batch_relative
def test_a_batch_of_forfeits_alone_teaches_nothing_relative_to_itself(
    estimator: Estimator,
) -> None:
    rows = [Row(ATTACKER, group, -1.0) for group in "aabbc"]
    torch.testing.assert_close(run(estimator, rows), torch.zeros(5, WIDTH))


@estimators
@given(batches, st.sampled_from([0.0, 1e-8, 1.0, 1e4]))
def test_advantages_are_always_finite(estimator: Estimator, rows: list[Row], scale: float) -> None:
    scaled = [replace(row, reward=row.reward * scale) for row in rows]
    assert run(estimator, scaled).isfinite().all()


@given(st.lists(st.none() | st.booleans()))
def test_both_truths_weigh_the_same_and_the_mean_weight_is_one(truths: list[bool | None]) -> None:
    without, with_error = truth_weights(truths)
    errors, clean = truths.count(True), truths.count(False)
    if not errors or not clean:
        assert (without, with_error) == (1.0, 1.0)
    else:
        assert without * clean == pytest.approx(with_error * errors)
        assert (without * clean + with_error * errors) / (errors + clean) == pytest.approx(1)


@estimators
def test_balancing_weighs_assessors_after_normalisation_and_leaves_attackers(
    estimator: Estimator,
) -> None:
    def rows(balanced: bool) -> list[Row]:
        truths = [True, True, True, False] if balanced else [None] * 4
        assessors = [
            Row(ASSESSOR, "a", reward, truth=truth)
            for reward, truth in zip((1.0, -1.0, 1.0, -1.0), truths, strict=True)
        ]
        return [Row(ATTACKER, "a", 1.0), Row(ATTACKER, "a", -1.0), *assessors]

    plain, balanced = run(estimator, rows(False)), run(estimator, rows(True))
    ratio = balanced[:, 0] / plain[:, 0]
    torch.testing.assert_close(ratio, torch.tensor([1, 1, 2 / 3, 2 / 3, 2 / 3, 2]))


@given(st.lists(games(min_tokens=1), min_size=2, max_size=12), st.sampled_from(Role))
def test_role_grpo_of_one_role_is_verls_grpo(rows: list[Row], role: Role) -> None:
    rows = [Row(role, row.group, row.reward, row.tokens) for row in rows]
    # verl leaves the reward of a row alone in its group as it is, and blows rounding errors up.
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row.reward)
    rows = [row for row in rows if len(set(groups[row.group])) > 1]
    if not rows:
        return
    token_rewards, mask, index = batch(rows)
    expected, _ = compute_grpo_outcome_advantage(token_rewards, mask, index)
    torch.testing.assert_close(run(role_grpo, rows), expected)


@given(
    st.lists(games(min_tokens=1), min_size=2, max_size=12),
    st.sampled_from(Role),
    st.sampled_from([1.0, 0.9]),
)
def test_role_reinforce_pp_of_one_role_is_verls_but_for_its_unbiased_variance(
    rows: list[Row], role: Role, gamma: float
) -> None:
    rows = [Row(role, row.group, row.reward, row.tokens) for row in rows]
    token_rewards, mask, index = batch(rows)
    config = OmegaConf.create({"gamma": gamma})
    verls, expected = compute_reinforce_plus_plus_outcome_advantage(
        token_rewards, mask, config=config
    )
    found, returns = role_reinforce_pp(token_rewards, mask, index=index, config=config)
    torch.testing.assert_close(returns, expected)
    tokens = mask.sum()
    if float(returns[mask > 0].var(correction=0)) > 0.01:  # else the two epsilons show
        unbiased = ((tokens - 1) / tokens) ** 0.5
        torch.testing.assert_close(found * unbiased, verls, atol=1e-3, rtol=1e-3)


@given(st.lists(games(min_tokens=1), min_size=1, max_size=12), st.sampled_from(Role))
def test_role_rloo_of_one_role_is_verls_but_for_rows_alone(rows: list[Row], role: Role) -> None:
    """verl's ``rloo`` leaves the reward of a row that is alone in its group as it is."""
    rows = [Row(role, row.group, row.reward, row.tokens) for row in rows]
    mates = Counter(row.group for row in rows)
    rows = [row for row in rows if mates[row.group] > 1]
    if not rows:
        return
    token_rewards, mask, index = batch(rows)
    expected, _ = compute_rloo_outcome_advantage(token_rewards, mask, index)
    torch.testing.assert_close(run(role_rloo, rows), expected, atol=1e-5, rtol=1e-5)


@dataclass(frozen=True)
class PrimeRollout:
    """What prime-rl's ``hierarchical_grpo`` reads of a rollout."""

    agent: str
    reward: float


def prime_rl_hierarchical_grpo(
    group: list[list[PrimeRollout]], episode_agents: set[str]
) -> list[list[float]]:
    """``HierarchicalGRPOAlgorithm.score_group``: PrimeIntellect-ai/prime-rl, hierarchical_grpo.py.

    Args:
        group: episodes of one source task, each a list of rollouts.
        episode_agents: roles that are compared within one episode.
    """
    peers: dict[tuple[str, int | None], list[tuple[int, int]]] = defaultdict(list)
    for e, episode in enumerate(group):
        for r, rollout in enumerate(episode):
            scoped = rollout.agent in episode_agents
            peers[rollout.agent, e if scoped else None].append((e, r))
    advantages = [[0.0] * len(episode) for episode in group]
    for members in peers.values():
        baseline = sum(group[e][r].reward for e, r in members) / len(members)
        for e, r in members:
            advantages[e][r] = group[e][r].reward - baseline
    return advantages


@given(st.data(), st.integers(1, 3), st.integers(1, 4), st.integers(2, 4))
def test_role_grpo_is_prime_rls_hierarchical_grpo(
    data: st.DataObject, cases: int, attacks: int, assessors: int
) -> None:
    """Attackers are the proposers, the k assessors of an attack the solvers of its episode.

    prime-rl does not divide by the deviation, so ``norm_adv_by_std_in_grpo`` is off. With k = 1 the
    two differ: a solver alone in its episode gets 0 there, while here the assessors of a case's
    games form one group, which for vanilla games (one prompt) is GRPO's own. prime-rl knows
    neither truth weights nor turns that are left out.
    """
    rows, expected = [], []
    for case in "abc"[:cases]:
        group = [
            [PrimeRollout("attacker", data.draw(rewards))]
            + [PrimeRollout("assessor", data.draw(rewards)) for _ in range(assessors)]
            for _ in range(attacks)
        ]
        for session, episode in enumerate(group):
            rows.append(Row(ATTACKER, case, episode[0].reward))
            rows += [Row(ASSESSOR, f"{case}_{session}", one.reward) for one in episode[1:]]
        for advantages in prime_rl_hierarchical_grpo(group, {"assessor"}):
            expected += advantages
    found = run(role_grpo, rows, norm_adv_by_std_in_grpo=False)
    assert found[:, 0].tolist() == pytest.approx(expected, abs=1e-5)


def self_redteam_normalise(advantages: list[torch.Tensor]) -> list[torch.Tensor]:
    """``NaiveReplayBuffer.normalize`` of mickelliu/selfplay-redteaming, replay_buffer.py, one rank.

    Args:
        advantages: of one role's items, without padding, so that every token is an action.
    """
    vector = torch.cat(advantages).float().flatten()
    mask = torch.ones_like(vector)
    count = mask.sum()
    mean = vector.sum() / count
    std = ((vector - mean).pow(2) * mask).sum()
    rstd = (std / count).clamp(min=1e-8).rsqrt()
    return [(one - mean) * rstd for one in advantages]


def self_redteam_returns(rewards: torch.Tensor, gamma: float) -> torch.Tensor:
    """``get_cumulative_returns`` of its experience_maker.py, every token an action."""
    returns = torch.zeros_like(rewards)
    cumulative = torch.zeros(rewards.size(0))
    for t in reversed(range(rewards.size(1))):
        cumulative = rewards[:, t] + gamma * cumulative
        returns[:, t] = cumulative
    return returns


@given(st.lists(games(min_tokens=1), min_size=1, max_size=14), st.sampled_from([1.0, 0.9]))
def test_role_reinforce_pp_is_self_redteams_normalisation(rows: list[Row], gamma: float) -> None:
    """Self-RedTeam normalises the attacker's and the defender's tokens with moments of their own.

    The two differ where a role's returns are all but equal (it bounds the variance by 1e-8 from
    below, verl and this recipe add their epsilon to it) and in the truth weights, which it has
    not.
    """
    rows = [replace(row, truth=None) for row in rows]
    found = run(role_reinforce_pp, rows, gamma=gamma)
    for role in Role:
        of_role = [at for at, row in enumerate(rows) if row.role is role]
        if not of_role:
            continue
        returns = []
        for at in of_role:
            token_rewards = torch.zeros(1, rows[at].tokens)
            token_rewards[0, -1] = rows[at].reward
            returns.append(self_redteam_returns(token_rewards, gamma)[0])
        if float(torch.cat(returns).var(correction=0)) < 0.01:
            continue
        for at, expected in zip(of_role, self_redteam_normalise(returns), strict=True):
            torch.testing.assert_close(found[at, : rows[at].tokens], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "estimator"), ESTIMATORS.items())
def test_verl_finds_the_estimators_by_name(name: str, estimator: Estimator) -> None:
    assert get_adv_estimator_fn(name) is estimator


@estimators
def test_a_row_without_a_role_is_refused(estimator: Estimator) -> None:
    token_rewards, mask, _ = batch([Row(ATTACKER, "a", 1.0)])
    with pytest.raises(ValueError, match="carries no role"):
        estimator(token_rewards, mask, index=np.array(["7f3a"], dtype=object))


def test_rae_refuses_a_row_without_a_baseline_and_names_the_setting() -> None:
    rows = [Row(ATTACKER, "a", 1.0), Row(ASSESSOR, "b", 1.0, baseline=None)]
    with pytest.raises(ValueError, match=r"assessor\|\|\|b.*custom_sampler.*game\.rae_decay"):
        run(rae, rows)


@batch_relative
def test_a_baseline_changes_nothing_but_rae(estimator: Estimator) -> None:
    rows = [Row(ATTACKER, "a", reward) for reward in (1.0, 0.0, -1.0)]
    moved = [replace(row, baseline=0.5) for row in rows]
    assert torch.equal(run(estimator, rows), run(estimator, moved))
    assert not torch.equal(run(rae, rows), run(rae, moved))
