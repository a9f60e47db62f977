from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from medical_team.game_record import JudgeCost
from medical_team.judges.batching import BatchingQueue
from medical_team.medical_judge import JudgeError, JudgeQuery, Verdict

Answer = tuple[Verdict, JudgeCost] | BaseException


class RecordingJudge:
    """Answers in reverse order and remembers its batches.

    ``lost`` are queries it leaves out, ``broken`` those that make the whole batch fail, and
    ``slow`` those that take a while.
    """

    name = "recording"

    def __init__(
        self,
        lost: Sequence[str] = (),
        broken: dict[str, Exception] | None = None,
        slow: Sequence[str] = (),
    ) -> None:
        self.batches: list[list[str]] = []
        self._lost, self._broken, self._slow = lost, broken or {}, slow

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Verdict]:
        ids = [query.query_id for query in queries]
        self.batches.append(ids)
        for query_id in ids:
            if query_id in self._broken:
                raise self._broken[query_id]
            if query_id in self._slow:
                time.sleep(0.1)
        return [
            Verdict(query_id, True, (), None, f"says {query_id}")
            for query_id in reversed(ids)
            if query_id not in self._lost
        ]


def query(query_id: str) -> JudgeQuery:
    return JudgeQuery(query_id, ("He is well.",), ("He is ill.",), ())


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, timeout=20))


async def ask(queue: BatchingQueue, *query_ids: str) -> list[Answer]:
    answers = (queue.judge(query(query_id)) for query_id in query_ids)
    return await asyncio.gather(*answers, return_exceptions=True)


def test_queries_that_come_together_are_judged_together() -> None:
    judge = RecordingJudge()

    async def main() -> None:
        queue = BatchingQueue(judge, max_batch=3, max_wait_ms=200)
        await ask(queue, *"abcdef")

    run(main())
    assert judge.batches == [["a", "b", "c"], ["d", "e", "f"]]


def test_a_full_batch_does_not_wait() -> None:
    async def main() -> float:
        queue = BatchingQueue(RecordingJudge(), max_batch=2, max_wait_ms=10_000)
        started = time.monotonic()
        await ask(queue, "a", "b")
        return time.monotonic() - started

    assert run(main()) < 5


def test_an_unfilled_batch_is_judged_once_its_first_query_has_waited() -> None:
    judge = RecordingJudge()

    async def main() -> list[Answer]:
        queue = BatchingQueue(judge, max_batch=100, max_wait_ms=50)
        return await ask(queue, "a", "b")

    for answer in run(main()):
        assert not isinstance(answer, BaseException)
        assert answer[1].batch_size == 2
        assert answer[1].seconds >= 0.04
    assert judge.batches == [["a", "b"]]


def test_queries_that_queued_behind_a_slow_batch_are_judged_together_at_once() -> None:
    judge = RecordingJudge(slow=["first"])

    async def main() -> None:
        queue = BatchingQueue(judge, max_batch=8, max_wait_ms=0)
        first = asyncio.create_task(ask(queue, "first"))
        await asyncio.sleep(0.03)
        await asyncio.gather(first, ask(queue, "a", "b", "c"))

    run(main())
    assert judge.batches == [["first"], ["a", "b", "c"]]


def test_verdicts_are_matched_by_id_and_not_by_position() -> None:
    async def main() -> list[Answer]:
        return await ask(BatchingQueue(RecordingJudge(), max_batch=4, max_wait_ms=50), *"abcd")

    for query_id, answer in zip("abcd", run(main()), strict=True):
        assert answer[0].query_id == query_id
        assert answer[0].source == f"says {query_id}"


def test_a_query_without_a_verdict_fails_alone() -> None:
    async def main() -> list[Answer]:
        judge = RecordingJudge(lost=["b"])
        return await ask(BatchingQueue(judge, max_batch=3, max_wait_ms=50), *"abc")

    a, b, c = run(main())
    assert isinstance(b, JudgeError)
    assert "no verdict for b" in str(b)
    assert (a[0].query_id, c[0].query_id) == ("a", "c")


@pytest.mark.parametrize("error", [JudgeError("the server is down"), ZeroDivisionError("oops")])
def test_a_judge_that_raises_fails_its_whole_batch_and_no_other(error: Exception) -> None:
    async def main() -> tuple[list[Answer], list[Answer]]:
        judge = RecordingJudge(broken={"b": error})
        queue = BatchingQueue(judge, max_batch=2, max_wait_ms=50)
        return await ask(queue, "a", "b"), await ask(queue, "c", "d")

    failed, served = run(main())
    for answer in failed:
        assert isinstance(answer, JudgeError)
        assert str(error) in str(answer)
    assert [answer[0].query_id for answer in served] == ["c", "d"]


def test_a_judge_that_answers_nonsense_leaves_nobody_waiting() -> None:
    class Nonsense(RecordingJudge):
        def judge(self, queries: Sequence[JudgeQuery]) -> list[Verdict]:
            return None  # type: ignore[return-value]

    async def main() -> list[Answer]:
        return await ask(BatchingQueue(Nonsense(), max_batch=1, max_wait_ms=0), "a", "b")

    assert all(isinstance(answer, JudgeError) for answer in run(main()))


def test_a_game_that_stopped_waiting_does_not_disturb_the_others() -> None:
    judge = RecordingJudge(slow=["a"])

    async def main() -> list[Answer]:
        queue = BatchingQueue(judge, max_batch=2, max_wait_ms=1000)
        impatient = asyncio.create_task(queue.judge(query("a")))
        other = asyncio.create_task(ask(queue, "b"))
        await asyncio.sleep(0.03)
        impatient.cancel()
        return [*await other, *await ask(queue, "c", "d")]

    assert [answer[0].query_id for answer in run(main())] == ["b", "c", "d"]
