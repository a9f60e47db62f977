"""One queue in front of a judge: queries from many games become batches.

A batch is flushed when it is full or when its first query has waited long enough. Verdicts are
matched by query id.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from medical_team.game_record import JudgeCost
from medical_team.medical_judge import Judge, JudgeError, JudgeQuery, Verdict


@dataclass(slots=True)
class _Waiting:
    query: JudgeQuery
    since: float
    answer: asyncio.Future[tuple[Verdict, JudgeCost]]


class BatchingQueue:
    """Collects queries and judges them in batches, one batch at a time, in a worker thread.

    Args:
        judge: the back end.
        max_batch: most queries in a batch.
        max_wait_ms: how long the first query of a batch waits for others, in milliseconds.
    """

    def __init__(self, judge: Judge, *, max_batch: int, max_wait_ms: float) -> None:
        self._judge = judge
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    async def judge(self, query: JudgeQuery) -> tuple[Verdict, JudgeCost]:
        """Waits for the verdict of one query.

        Raises:
            JudgeError: if the judge gave no verdict for it.
        """
        if self._worker is None:
            self._worker = asyncio.create_task(self._serve())
        waiting = _Waiting(query, time.monotonic(), asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return await waiting.answer

    async def _serve(self) -> None:
        while True:
            batch = await self._collect()
            try:
                verdicts = await asyncio.to_thread(
                    self._judge.judge, [waiting.query for waiting in batch]
                )
                by_id = {verdict.query_id: verdict for verdict in verdicts}
            except (
                Exception
            ) as error:  # whatever a back end raises, every game of the batch must learn of it
                failure = (
                    error
                    if isinstance(error, JudgeError)
                    else JudgeError(f"{self._judge.name}: {error!r}")
                )
                for waiting in batch:
                    _fail(waiting, failure)
                continue
            for waiting in batch:
                verdict = by_id.get(waiting.query.query_id)
                if verdict is None:
                    _fail(
                        waiting,
                        JudgeError(f"{self._judge.name}: no verdict for {waiting.query.query_id}"),
                    )
                elif not waiting.answer.done():
                    waiting.answer.set_result(
                        (verdict, JudgeCost(time.monotonic() - waiting.since, len(batch)))
                    )

    async def _collect(self) -> list[_Waiting]:
        batch = [await self._queue.get()]
        deadline = batch[0].since + self._max_wait_s
        while len(batch) < self._max_batch:
            # Whoever waits already joins, however late it is: a slow batch must not be followed by
            # batches of one.
            if not self._queue.empty():
                batch.append(self._queue.get_nowait())
                continue
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), deadline - time.monotonic()))
            except TimeoutError:
                break
        return batch


def _fail(waiting: _Waiting, error: JudgeError) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
