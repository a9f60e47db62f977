"""The ``verl.plugins`` entry point: importing it registers the recipe.

verl imports this module in every process. It swallows a plugin's errors at debug level, so a
failure is reported here first.
"""

from __future__ import annotations

import sys
import traceback

REPLAY_BUFFER = (
    "pkg://recipe.medical_selfplay.replay_buffer"  # trainer.v1.sampler.custom_sampler.path
)
REWARD_MANAGER = "medical_selfplay"  # reward.reward_manager.name


def register() -> None:
    """Registers the recipe's parts with verl.

    These are the agent loop, the reward manager, the advantage estimators, and the CPU's platform,
    rollout and engines.
    """
    # The platform comes first: verl resolves it when the modules below are imported.
    from recipe.medical_selfplay.cpu.platform import CPU  # isort: skip
    from verl.plugin.platform import get_platform
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY
    from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

    from recipe.medical_selfplay import advantages, agent_loop, reward_manager  # noqa: F401  registered by decorators
    from recipe.medical_selfplay.cpu.rollout import NAME

    def load_replica() -> type[RolloutReplica]:
        from recipe.medical_selfplay.cpu.rollout import CpuRolloutReplica

        return CpuRolloutReplica

    RolloutReplicaRegistry.register(NAME, load_replica)
    _ROLLOUT_REGISTRY[(NAME, "async")] = "recipe.medical_selfplay.cpu.rollout.CpuRolloutAdapter"
    if get_platform().device_name == CPU:
        from recipe.medical_selfplay.cpu import engines

        engines.use_gloo_only()


try:
    register()
except Exception:
    print("medical_selfplay: the verl plugin failed to load:", file=sys.stderr)
    traceback.print_exc()
    raise
