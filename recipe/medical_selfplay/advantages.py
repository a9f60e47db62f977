"""Role-wise advantage estimators: attacker and assessor never share a mean or a variance.

In a zero-sum game the mean reward over both roles is about 0 whatever the policy does, and the two
roles differ in spread and in answer length, so a shared baseline teaches each role about the other.
Rows with an empty mask (verl's padding, turns that must not be trained) count nowhere and get no
advantage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

from recipe.medical_selfplay.trajectory_id import TrajectoryId

_EPSILON = 1e-6


@register_adv_est("role_grpo")
def role_grpo(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """GRPO (arXiv 2402.03300, equation 3) with groups that hold one role.

    A group is one case and role, or the k assessors of one attack. A row alone in its group has
    nothing to be compared with and gets 0, as does a group of equal rewards.

    Args:
        token_level_rewards: rewards, [rows, length].
        response_mask: 1 for generated tokens, [rows, length].
        index: the rows' ``uid`` fields, [rows].
        config: verl's algorithm section; ``norm_adv_by_std_in_grpo`` is obeyed.
        **kwargs: not used.

    Returns:
        Advantages and returns, both [rows, length] and equal.
    """
    by_std = True if config is None else config.get("norm_adv_by_std_in_grpo", True)
    rewards, played, ids = _read(token_level_rewards, response_mask, index)
    advantages = torch.zeros_like(rewards)
    for rows in _comparable(rewards, played, ids):
        centred = rewards[rows] - rewards[rows].mean()
        advantages[rows] = centred / (rewards[rows].std() + _EPSILON) if by_std else centred
    return _over_tokens(advantages, response_mask, played, ids)


@register_adv_est("role_rloo")
def role_rloo(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """RLOO (arXiv 2402.14740, section 2.3, unnumbered) with groups that hold one role.

    Of k rows in a group, each is compared with the mean of the others:
    ``R_i - sum(R_j, j != i) / (k - 1)``, which is ``k / (k - 1) * (R_i - mean)``. Groups are those
    of :func:`role_grpo`; again a row alone and equal rewards get 0.

    Args:
        token_level_rewards: rewards, [rows, length].
        response_mask: 1 for generated tokens, [rows, length].
        index: the rows' ``uid`` fields, [rows].
        config: not used.
        **kwargs: not used.

    Returns:
        Advantages and returns, both [rows, length] and equal.
    """
    rewards, played, ids = _read(token_level_rewards, response_mask, index)
    advantages = torch.zeros_like(rewards)
    for rows in _comparable(rewards, played, ids):
        centred = rewards[rows] - rewards[rows].mean()
        advantages[rows] = centred * len(rows) / (len(rows) - 1)
    return _over_tokens(advantages, response_mask, played, ids)


@register_adv_est("rae")
def rae(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Role-conditioned advantages (SPIRAL, arXiv 2506.24119, equation 2).

    A row's reward minus the average reward of its role in its game type, which the replay buffer
    kept (:mod:`recipe.medical_selfplay.baselines`) and wrote into the row's ``uid``. No other row
    of the batch matters, so a row alone and equal rewards are no special cases: they get their
    distance from the average. A KL penalty in the reward is not part of the average.

    Args:
        token_level_rewards: rewards, [rows, length].
        response_mask: 1 for generated tokens, [rows, length].
        index: the rows' ``uid`` fields, [rows].
        config: not used.
        **kwargs: not used.

    Returns:
        Advantages and returns, both [rows, length] and equal.

    Raises:
        ValueError: if a trained row carries no baseline.
    """
    rewards, played, ids = _read(token_level_rewards, response_mask, index)
    advantages = torch.zeros_like(rewards)
    for row in played:
        advantages[row] = rewards[row] - _baseline(ids[row])
    return _over_tokens(advantages, response_mask, played, ids)


@register_adv_est("role_reinforce_pp")
def role_reinforce_pp(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """REINFORCE++ (arXiv 2501.03262) normalised per role, as Self-RedTeam does (arXiv 2506.07468).

    Returns are discounted sums of token rewards; each role's are whitened with the mean and the
    variance over that role's tokens in the batch.

    Args:
        token_level_rewards: rewards, [rows, length].
        response_mask: 1 for generated tokens, [rows, length].
        index: the rows' ``uid`` fields, [rows].
        config: verl's algorithm section; ``gamma`` is obeyed.
        **kwargs: not used.

    Returns:
        Advantages and returns, both [rows, length].
    """
    gamma = 1.0 if config is None else config.get("gamma", 1.0)
    returns = torch.zeros_like(token_level_rewards)
    running = torch.zeros_like(token_level_rewards[:, 0])
    for token in reversed(range(token_level_rewards.shape[1])):
        mask = response_mask[:, token]
        # A token outside the mask is not an action: it neither earns nor discounts.
        running = torch.where(mask > 0, token_level_rewards[:, token] + gamma * running, running)
        returns[:, token] = running * mask
    played, ids = _played(response_mask, index)
    advantages = torch.zeros_like(returns)
    for role in {ids[row].role for row in played}:
        rows = [row for row in played if ids[row].role == role]
        tokens = response_mask[rows].sum()
        mean = returns[rows].sum() / tokens
        variance = (((returns[rows] - mean) ** 2) * response_mask[rows]).sum() / tokens
        advantages[rows] = (returns[rows] - mean) * torch.rsqrt(variance + _EPSILON)
    advantages = advantages * _weights(returns[:, 0], played, ids).unsqueeze(-1) * response_mask
    return advantages, returns


def truth_weights(truths: Sequence[bool | None]) -> tuple[float, float]:
    """Weights of assessor rows without and with an error: both truths count the same in the batch.

    Args:
        truths: ``error_present`` of each trained assessor row; ``None`` rows are not balanced.

    Returns:
        (weight where there is no error, weight where there is one); the mean over the rows is 1.
        Both are 1.0 if one of the truths is missing, since then there is nothing to balance.
    """
    known = [truth for truth in truths if truth is not None]
    with_error = sum(known)
    without = len(known) - with_error
    if not with_error or not without:
        return 1.0, 1.0
    return len(known) / (2 * without), len(known) / (2 * with_error)


def _played(
    response_mask: torch.Tensor, index: np.ndarray
) -> tuple[list[int], dict[int, TrajectoryId]]:
    played = [row for row, tokens in enumerate(response_mask.sum(-1).tolist()) if tokens > 0]
    return played, {row: TrajectoryId.parse(index[row]) for row in played}


def _read(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray
) -> tuple[torch.Tensor, list[int], dict[int, TrajectoryId]]:
    """Each row's reward, [rows], the rows that count, and who they are."""
    return (token_level_rewards * response_mask).sum(-1), *_played(response_mask, index)


def _comparable(
    rewards: torch.Tensor, played: list[int], ids: dict[int, TrajectoryId]
) -> list[list[int]]:
    """Groups of one role whose rewards differ, as lists of rows."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in played:
        groups[ids[row].role, ids[row].group].append(row)
    # A mean of equal float32 rewards may miss them by a rounding error, which the tiny deviation
    # would blow up.
    return [rows for rows in groups.values() if rewards[rows].min() < rewards[rows].max()]


def _baseline(row: TrajectoryId) -> float:
    if row.baseline is None:
        raise ValueError(
            f"uid '{row}' carries no baseline for algorithm.adv_estimator=rae to subtract; let the"
            " replay buffer write one (trainer.v1.sampler.custom_sampler as in"
            " configs/medical_selfplay.yaml, game.rae_decay), or set"
            " algorithm.adv_estimator=role_rloo, which needs none"
        )
    return row.baseline


def _over_tokens(
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    played: list[int],
    ids: dict[int, TrajectoryId],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Balances the truths and gives every token its row's advantage, [rows, length]."""
    weighted = advantages * _weights(advantages, played, ids)
    weighted = weighted.unsqueeze(-1) * response_mask
    return weighted, weighted


def _weights(like: torch.Tensor, played: list[int], ids: dict[int, TrajectoryId]) -> torch.Tensor:
    without, with_error = truth_weights([ids[row].error_present for row in played])
    weights = torch.ones_like(like)
    for row in played:
        truth = ids[row].error_present
        if truth is not None:
            weights[row] = with_error if truth else without
    return weights
