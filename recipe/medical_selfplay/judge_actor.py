"""The one Ray actor that owns the judge.

verl hands each game to one of several reward workers at random; a batch formed inside a worker
would see a fraction of the games. All workers queue in front of this actor instead.
"""

from __future__ import annotations

import ray

from medical_team.game_record import JudgeCost
from medical_team.judges import JudgeSettings, build_judge
from medical_team.judges.batching import BatchingQueue
from medical_team.medical_judge import JudgeError, JudgeQuery, Verdict

NAME = "medical_judge"


class JudgeActor:
    """Judges the games of all reward workers in common batches.

    Args:
        settings: which judge, and how games are batched.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._queue = BatchingQueue(
            build_judge(settings), max_batch=settings.max_batch, max_wait_ms=settings.max_wait_ms
        )
        self._unscored = 0

    async def judge(self, query: JudgeQuery) -> tuple[Verdict, JudgeCost]:
        """Waits for a verdict.

        Raises:
            JudgeError: if the judge cannot answer this query.
        """
        try:
            return await self._queue.judge(query)
        except JudgeError:
            self._unscored += 1
            raise

    async def take_unscored(self) -> int:
        """Number of games without a verdict since the last call."""
        unscored, self._unscored = self._unscored, 0
        return unscored


def judge_actor(settings: JudgeSettings) -> ray.actor.ActorHandle:
    """The actor, started by whoever asks first."""
    options = {"name": NAME, "get_if_exists": True, "num_cpus": 0, "max_concurrency": 4096}
    return ray.remote(JudgeActor).options(**options).remote(settings)
