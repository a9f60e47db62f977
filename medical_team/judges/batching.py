"""One queue in front of a judge: queries from many games become batches.

A batch is flushed when it is full or when its first query has waited long enough. Verdicts are
matched by query id. While the judge is out of order its queries wait in the queue and a single
batch now and then tries whether it is back; only an outage longer than allowed fails them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from medical_team.game_record import JudgeCost
from medical_team.judges.breaker import CircuitBreaker
from medical_team.medical_judge import (
    Judge,
    JudgeError,
    Judgement,
    JudgeQuery,
    JudgeUnavailableError,
    Unscored,
    Verdict,
)

_log = logging.getLogger(__name__)
_FIRST_PROBE_S, _LONGEST_PROBE_S = 0.5, 15.0
_TRIES = 3  # of a query that a judge cannot answer while it answers others


@dataclass(slots=True)
class _Waiting:
    query: JudgeQuery
    since: float
    answer: asyncio.Future[tuple[Verdict, JudgeCost]]
    left_out: int = 0  # times that others of its batch were answered and it was not


class BatchingQueue:
    """Collects queries and has batches of them judged in worker threads.

    Args:
        judges: replicas of one judge; the first that is free takes the next batch.
        max_batch: most queries in a batch.
        max_wait_ms: how long the first query of a batch waits for others, in milliseconds.
        concurrency: batches that one replica judges at the same time.
        max_outage_s: how long queries wait while every replica is out of order, in seconds.
        batch_limit_s: how long a batch may take before its judge counts as out of order, in
            seconds; ``None`` for no limit.
    """

    def __init__(
        self,
        judges: Sequence[Judge],
        *,
        max_batch: int,
        max_wait_ms: float,
        concurrency: int = 1,
        max_outage_s: float = 0.0,
        batch_limit_s: float | None = None,
    ) -> None:
        self._judges = judges
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        self._concurrency = concurrency
        self._max_outage_s = max_outage_s
        self._batch_limit_s = batch_limit_s
        self._breakers = [CircuitBreaker(_FIRST_PROBE_S, _LONGEST_PROBE_S) for _ in judges]
        self._threads = ThreadPoolExecutor(len(judges) * concurrency, "judge")
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._collecting = asyncio.Lock()
        self._workers: list[asyncio.Task[None]] = []
        self._pending: set[asyncio.Future[tuple[Verdict, JudgeCost]]] = set()

    @property
    def waiting(self) -> int:
        """Queries that are accepted and not answered."""
        return len(self._pending)

    @property
    def outage_s(self) -> float:
        """For how many seconds every replica has been out of order; 0.0 if one is not."""
        since = [breaker.open_since for breaker in self._breakers]
        opened = [one for one in since if one is not None]
        return time.monotonic() - max(opened) if len(opened) == len(since) else 0.0

    async def judge(self, query: JudgeQuery) -> tuple[Verdict, JudgeCost]:
        """Waits for the verdict of one query.

        Raises:
            JudgeUnavailableError: if the judge has been out of order for too long.
            JudgeError: if the judge gave no verdict for it.
        """
        if not self._workers:
            self._workers = [
                asyncio.create_task(self._serve(judge, breaker))
                for judge, breaker in zip(self._judges, self._breakers, strict=True)
                for _ in range(self._concurrency)
            ]
        if self._given_up() and all(breaker.wait_s() > 0 for breaker in self._breakers):
            raise self._outage()
        waiting = _Waiting(query, time.monotonic(), asyncio.get_running_loop().create_future())
        self._pending.add(waiting.answer)
        waiting.answer.add_done_callback(self._pending.discard)
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.answer

    async def close(self) -> None:
        """Finishes what was accepted, then closes the judges."""
        while self._pending:
            await asyncio.wait(set(self._pending))
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._threads.shutdown()
        for judge in self._judges:
            judge.close()

    async def _serve(self, judge: Judge, breaker: CircuitBreaker) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._collect(breaker)
            queries = [waiting.query for waiting in batch]
            try:
                async with asyncio.timeout(self._batch_limit_s):
                    judgements = await loop.run_in_executor(self._threads, judge.judge, queries)
                self._answer(batch, judgements)
            except JudgeUnavailableError as error:
                self._answer(batch, error.answered)
                if error.answered:
                    breaker.succeeded()
                    self._try_again(batch, error)
                else:
                    self._wait_out(judge, breaker, batch, str(error))
            except TimeoutError:
                took = f"{judge.name}: a batch of {len(batch)} took over {self._batch_limit_s:g} s"
                self._wait_out(judge, breaker, batch, f"{took} (judge.timeout_s)")
            except JudgeError as error:
                breaker.succeeded()
                _fail(batch, error)
            # Whatever a back end raises, every game of the batch must learn of it.
            except Exception as error:
                _log.exception("%s failed on a batch of %d", judge.name, len(batch))
                _fail(batch, JudgeError(f"{judge.name}: {error!r}"))
            else:
                breaker.succeeded()
                for waiting in batch:
                    missing = f"{judge.name}: no verdict for {waiting.query.query_id}"
                    _fail([waiting], JudgeError(missing))

    def _wait_out(
        self,
        judge: Judge,
        breaker: CircuitBreaker,
        batch: Sequence[_Waiting],
        reason: str,
    ) -> None:
        if breaker.open_since is None:
            _log.warning("the judge is out of order, its games wait: %s", reason)
        breaker.failed(reason)
        self._put_back(batch)
        if self._given_up():
            outage = self._outage()
            _fail(self._queue, outage)
            self._queue.clear()
        self._arrived.set()

    def _try_again(self, batch: Sequence[_Waiting], error: JudgeUnavailableError) -> None:
        """What a judge left over that answered others: a few more tries, then it is unscored."""
        for waiting in batch:
            waiting.left_out += 1
            if waiting.left_out >= _TRIES:
                _fail([waiting], JudgeError(f"the judge fails on this game alone: {error}"))
        self._put_back(batch)
        self._arrived.set()

    def _put_back(self, batch: Sequence[_Waiting]) -> None:
        # In front: what has waited longest is asked first, by whichever replica is free.
        self._queue.extendleft(one for one in reversed(batch) if not one.answer.done())

    def _given_up(self) -> bool:
        opened = all(breaker.open_since is not None for breaker in self._breakers)
        return opened and self.outage_s >= self._max_outage_s

    def _outage(self) -> JudgeUnavailableError:
        reasons = " / ".join(dict.fromkeys(breaker.reason for breaker in self._breakers))
        return JudgeUnavailableError(
            f"the judge has been out of order for {self.outage_s:.0f} s"
            f" (judge.max_outage_s={self._max_outage_s:g}): {reasons}"
        )

    async def _collect(self, breaker: CircuitBreaker) -> list[_Waiting]:
        while True:
            await self._until_queued()
            if not breaker.take_probe():
                await asyncio.sleep(breaker.wait_s())
                continue
            async with self._collecting:
                batch = await self._gather()
            if batch:
                return batch

    async def _until_queued(self) -> None:
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()

    async def _gather(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        deadline = self._queue[0].since + self._max_wait_s if self._queue else 0.0
        while len(batch) < self._max_batch:
            # Whoever waits already joins, however late it is: a slow batch must not be followed by
            # batches of one.
            if self._queue:
                waiting = self._queue.popleft()
                if not waiting.answer.done():  # its game may have gone away
                    batch.append(waiting)
                continue
            left = deadline - time.monotonic()
            if not batch or left <= 0:
                break
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                break
        return batch

    def _answer(self, batch: Sequence[_Waiting], judgements: Iterable[Judgement]) -> None:
        by_id = {one.query_id: one for one in judgements}
        for waiting in batch:
            judgement = by_id.get(waiting.query.query_id)
            if judgement is None or waiting.answer.done():
                continue
            if isinstance(judgement, Unscored):
                waiting.answer.set_exception(JudgeError(judgement.reason))
                continue
            usage = judgement.usage
            cost = JudgeCost(
                seconds=time.monotonic() - waiting.since,
                batch_size=len(batch),
                prompt_tokens=usage.prompt_tokens,
                cached_tokens=usage.cached_tokens,
                output_tokens=usage.output_tokens,
                cached=judgement.cached,
            )
            waiting.answer.set_result((judgement, cost))


def _fail(batch: Iterable[_Waiting], error: JudgeError) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            # Each its own: an exception that is raised in several tasks mixes their tracebacks.
            waiting.answer.set_exception(type(error)(str(error)))
