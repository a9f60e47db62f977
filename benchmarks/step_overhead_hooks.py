"""What lets one verl run alternate between self-play steps and stock single-turn steps.

Odd steps are self-play, even steps are stock: the rows that ``step_overhead.py`` writes come in
that order, and each row's ``agent_name`` chooses the agent loop, which is verl's own mechanism. The
hooks below hand each step on to this project's class or to verl's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transfer_queue import KVBatchMeta
from verl import DataProto
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, register_adv_est
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from medical_team.medical_game_manager import Role
from recipe.medical_selfplay.advantages import role_grpo
from recipe.medical_selfplay.replay_buffer import GameReplayBuffer
from recipe.medical_selfplay.reward_manager import MedicalRewardManager


class StockSingleTurn(SingleTurnAgentLoop):
    """verl's ``single_turn_agent`` for any tokenizer.

    For a Qwen model verl looks up Qwen's end-of-turn token, which the tiny model's tokenizer lacks.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "hf_model_type": None})


class AlternatingReplayBuffer(GameReplayBuffer):
    """``trainer.v1.sampler.custom_sampler``: both ways look for finished rows equally often."""

    def sample(
        self, global_steps: int, partition_id: str, batch_size: int
    ) -> tuple[KVBatchMeta, dict[str, float]]:
        """Samples an odd step as self-play does, an even one as verl does."""
        if global_steps % 2:
            batch, metrics = super().sample(global_steps, partition_id, batch_size)
        else:
            batch, metrics = ReplayBuffer.sample(self, global_steps, partition_id, batch_size)
        return batch, {**metrics, "benchmark/trajectories": len(batch.keys)}


class AlternatingRewardManager(RewardManagerBase):
    """``reward.reward_manager``: games are judged, single turns get a score by verl's manager."""

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **kwargs: Any) -> None:
        super().__init__(config, tokenizer, compute_score)
        self._games = MedicalRewardManager(config, tokenizer, compute_score, **kwargs)
        self._stock = NaiveRewardManager(config, tokenizer, parity_score, **kwargs)

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Rewards a game or a single turn."""
        extra = data.non_tensor_batch["tool_extra_fields"][-1]
        return await (self._games if "played_game" in extra else self._stock).run_single(data)


def parity_score(solution_str: str, **kwargs: Any) -> float:
    """A score that costs nothing and differs within a group, so that there are gradients."""
    return float(len(solution_str) % 2)


@register_adv_est("alternating_grpo")
def alternating_grpo(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``algorithm.adv_estimator``: role-wise GRPO for games, verl's GRPO for single turns."""
    roles = tuple(role.value for role in Role)
    estimate = (
        role_grpo
        if any(str(uid).startswith(roles) for uid in index)
        else compute_grpo_outcome_advantage
    )
    return estimate(token_level_rewards, response_mask, index, config=config)
