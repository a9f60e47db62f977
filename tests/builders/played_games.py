"""Games as verl's agent loop hands them to a reward worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import torch
from omegaconf import DictConfig
from tensordict import TensorDict

from medical_team.answers import (
    Assessment,
    Classification,
    Edit,
    format_assessment,
    format_edit,
    format_response,
)
from medical_team.game_record import TurnCost
from medical_team.medec import Case
from medical_team.medical_game_manager import Game, GameRules, GameType
from recipe.medical_selfplay.agent_loop import PlayedGame


@contextmanager
def reward_worker(config: DictConfig, router: str | None = None) -> Iterator[Any]:
    """verl's own reward worker, with the judge that it starts."""
    from verl.experimental.reward_loop import RewardLoopWorker

    worker = ray.remote(RewardLoopWorker).remote(config, router)
    yield worker
    ray.kill(worker)
    ray.kill(ray.get_actor("medical_judge"))


def trajectories(
    case: Case, game_type: GameType, attack: str, *, step: int = 1, session: int = 0
) -> Any:
    """An attack on the case's sentence, and an assessor that names it with its correction."""
    from verl import DataProto

    game = Game(case, game_type, GameRules(max_growth=1e6))
    at, opened = case.error_sentence_id, game.rules.think_opened
    named = Assessment(Classification.HARMFUL, at, case.corrected_sentence)
    game.play_attack(format_response("Hm.", format_edit(Edit(at, attack)), think_opened=opened))
    game.play_assessment(format_response("Hm.", format_assessment(named), think_opened=opened))
    assert game.forfeit is None
    cost = TurnCost(prompt="", prompt_tokens=1, response_tokens=1, seconds=0.0)
    played = PlayedGame(game, [cost, cost], step=step, uid="u", session=session)
    extra = np.array([{}, {"played_game": played}], dtype=object)
    return DataProto(
        TensorDict({"responses": torch.zeros(2, 1)}, batch_size=2), {"tool_extra_fields": extra}
    )
