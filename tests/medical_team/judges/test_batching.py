from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from medical_team.game_record import JudgeCost
from medical_team.judges.batching import BatchingQueue
from medical_team.medical_judge import (
    JudgeError,
    Judgement,
    JudgeQuery,
    JudgeUnavailableError,
    Unscored,
    Verdict,
)

Answer = tuple[Verdict, JudgeCost] | BaseException


class RecordingJudge:
    """Answers in reverse order and remembers its batches.

    ``lost`` are queries it leaves out, ``broken`` those that make the whole batch fail, and
    ``slow`` those that take a while.
    """

    name = "recording"
    fingerprint = "recording-1"

    def __init__(
        self,
        lost: Sequence[str] = (),
        broken: dict[str, Exception] | None = None,
        slow: Sequence[str] = (),
    ) -> None:
        self.batches: list[list[str]] = []
        self.closed = False
        self._lost, self._broken, self._slow = lost, broken or {}, slow

    def close(self) -> None:
        self.closed = True

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
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
        queue = BatchingQueue([judge], max_batch=3, max_wait_ms=200)
        await ask(queue, *"abcdef")

    run(main())
    assert judge.batches == [["a", "b", "c"], ["d", "e", "f"]]


def test_a_full_batch_does_not_wait() -> None:
    async def main() -> float:
        queue = BatchingQueue([RecordingJudge()], max_batch=2, max_wait_ms=10_000)
        started = time.monotonic()
        await ask(queue, "a", "b")
        return time.monotonic() - started

    assert run(main()) < 5


def test_an_unfilled_batch_is_judged_once_its_first_query_has_waited() -> None:
    judge = RecordingJudge()

    async def main() -> list[Answer]:
        queue = BatchingQueue([judge], max_batch=100, max_wait_ms=50)
        return await ask(queue, "a", "b")

    for answer in run(main()):
        assert not isinstance(answer, BaseException)
        assert answer[1].batch_size == 2
        assert answer[1].seconds >= 0.04
    assert judge.batches == [["a", "b"]]


def test_queries_that_queued_behind_a_slow_batch_are_judged_together_at_once() -> None:
    judge = RecordingJudge(slow=["first"])

    async def main() -> None:
        queue = BatchingQueue([judge], max_batch=8, max_wait_ms=0)
        first = asyncio.create_task(ask(queue, "first"))
        await asyncio.sleep(0.03)
        await asyncio.gather(first, ask(queue, "a", "b", "c"))

    run(main())
    assert judge.batches == [["first"], ["a", "b", "c"]]


def test_verdicts_are_matched_by_id_and_not_by_position() -> None:
    async def main() -> list[Answer]:
        return await ask(BatchingQueue([RecordingJudge()], max_batch=4, max_wait_ms=50), *"abcd")

    for query_id, answer in zip("abcd", run(main()), strict=True):
        assert answer[0].query_id == query_id
        assert answer[0].source == f"says {query_id}"


def test_a_query_without_a_verdict_fails_alone() -> None:
    async def main() -> list[Answer]:
        judge = RecordingJudge(lost=["b"])
        return await ask(BatchingQueue([judge], max_batch=3, max_wait_ms=50), *"abc")

    a, b, c = run(main())
    assert isinstance(b, JudgeError)
    assert "no verdict for b" in str(b)
    assert (a[0].query_id, c[0].query_id) == ("a", "c")


@pytest.mark.parametrize("error", [JudgeError("the server is down"), ZeroDivisionError("oops")])
def test_a_judge_that_raises_fails_its_whole_batch_and_no_other(error: Exception) -> None:
    async def main() -> tuple[list[Answer], list[Answer]]:
        judge = RecordingJudge(broken={"b": error})
        queue = BatchingQueue([judge], max_batch=2, max_wait_ms=50)
        return await ask(queue, "a", "b"), await ask(queue, "c", "d")

    failed, served = run(main())
    for answer in failed:
        assert isinstance(answer, JudgeError)
        assert str(error) in str(answer)
    assert [answer[0].query_id for answer in served] == ["c", "d"]


def test_a_judge_that_answers_nonsense_leaves_nobody_waiting() -> None:
    class Nonsense(RecordingJudge):
        def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
            return None  # type: ignore[return-value]

    async def main() -> list[Answer]:
        return await ask(BatchingQueue([Nonsense()], max_batch=1, max_wait_ms=0), "a", "b")

    assert all(isinstance(answer, JudgeError) for answer in run(main()))


def test_a_game_that_stopped_waiting_does_not_disturb_the_others() -> None:
    judge = RecordingJudge(slow=["a"])

    async def main() -> list[Answer]:
        queue = BatchingQueue([judge], max_batch=2, max_wait_ms=1000)
        impatient = asyncio.create_task(queue.judge(query("a")))
        other = asyncio.create_task(ask(queue, "b"))
        await asyncio.sleep(0.03)
        impatient.cancel()
        return [*await other, *await ask(queue, "c", "d")]

    assert [answer[0].query_id for answer in run(main())] == ["b", "c", "d"]


class FailingJudge(RecordingJudge):
    """Out of order for its first ``failures`` batches; of each it still answers ``partly``."""

    def __init__(self, failures: int, partly: Sequence[str] = ()) -> None:
        super().__init__()
        self._failures, self._partly = failures, partly

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        answered = super().judge(queries)
        if len(self.batches) <= self._failures:
            raise JudgeUnavailableError(
                "connection refused", [one for one in answered if one.query_id in self._partly]
            )
        return answered


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medical_team.judges.batching._FIRST_PROBE_S", 0.01)
    monkeypatch.setattr("medical_team.judges.batching._LONGEST_PROBE_S", 0.04)


def test_queries_wait_out_an_outage_and_are_then_judged() -> None:
    judge = FailingJudge(failures=3)

    async def main() -> list[Answer]:
        queue = BatchingQueue([judge], max_batch=2, max_wait_ms=5, max_outage_s=10)
        return await ask(queue, *"abc")

    assert [answer[0].query_id for answer in run(main())] == ["a", "b", "c"]
    assert judge.batches == [["a", "b"]] * 4 + [["c"]]


def test_what_was_answered_before_an_outage_is_not_asked_again() -> None:
    judge = FailingJudge(failures=1, partly=["a"])

    async def main() -> list[Answer]:
        queue = BatchingQueue([judge], max_batch=3, max_wait_ms=5, max_outage_s=10)
        return await ask(queue, *"abc")

    assert [answer[0].query_id for answer in run(main())] == ["a", "b", "c"]
    assert judge.batches == [["a", "b", "c"], ["b", "c"]]


def test_an_outage_that_lasts_too_long_fails_every_query_with_its_reason() -> None:
    async def main() -> tuple[list[Answer], list[Answer]]:
        queue = BatchingQueue(
            [FailingJudge(failures=10_000)], max_batch=1, max_wait_ms=0, max_outage_s=0.2
        )
        return await ask(queue, *"abc"), await ask(queue, "late")

    started = time.monotonic()
    failed, late = run(main())
    assert 0.2 <= time.monotonic() - started < 5
    for answer in (*failed, *late):
        assert isinstance(answer, JudgeUnavailableError)
        assert "connection refused" in str(answer)


class PoisonedJudge(RecordingJudge):
    """Answers every game but those in ``poison``, on which its server falls over."""

    def __init__(self, poison: Sequence[str]) -> None:
        super().__init__()
        self._poison = poison

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        answered = super().judge(queries)
        if any(one.query_id in self._poison for one in queries):
            raise JudgeUnavailableError(
                "502 Bad Gateway", [one for one in answered if one.query_id not in self._poison]
            )
        return answered


def test_a_game_on_which_a_judge_fails_while_it_answers_others_is_unscored_and_no_outage() -> None:
    judge = PoisonedJudge(poison=["poison"])

    async def main() -> tuple[list[Answer], float]:
        queue = BatchingQueue([judge], max_batch=2, max_wait_ms=20, max_outage_s=60)
        answers = asyncio.gather(ask(queue, "poison"), ask(queue, *"abcd"))
        return [one for of_call in await answers for one in of_call], queue.outage_s

    (poison, *others), outage_s = run(main())
    assert [answer[0].query_id for answer in others] == list("abcd")
    assert isinstance(poison, JudgeError)
    assert not isinstance(poison, JudgeUnavailableError)
    assert "fails on this game alone: 502 Bad Gateway" in str(poison)
    assert sum("poison" in batch for batch in judge.batches) == 3
    assert outage_s == 0


def test_a_batch_that_takes_too_long_is_an_outage_that_names_the_limit() -> None:
    judge = RecordingJudge(slow="a")  # 0.1 s

    async def main() -> list[Answer]:
        queue = BatchingQueue([judge], max_batch=1, max_wait_ms=0, batch_limit_s=0.02)
        return await ask(queue, "a")

    (answer,) = run(main())
    assert isinstance(answer, JudgeUnavailableError)
    assert "recording: a batch of 1 took over 0.02 s (judge.timeout_s)" in str(answer)


def test_a_dead_judge_is_not_hammered() -> None:
    judge = FailingJudge(failures=10_000)

    async def main() -> None:
        queue = BatchingQueue([judge], max_batch=1, max_wait_ms=0, concurrency=4, max_outage_s=0.3)
        await ask(queue, *(str(number) for number in range(50)))

    run(main())
    assert len(judge.batches) < 30  # 4 in flight at first, then one probe every 0.03 s or so


def test_the_replica_that_works_takes_over_from_the_one_that_does_not() -> None:
    dead, alive = FailingJudge(failures=10_000), RecordingJudge()

    async def main() -> list[Answer]:
        queue = BatchingQueue([dead, alive], max_batch=1, max_wait_ms=0, max_outage_s=0)
        return await ask(queue, *"abcdef")

    assert [answer[0].query_id for answer in run(main())] == list("abcdef")


def test_several_batches_are_judged_at_the_same_time() -> None:
    judge = RecordingJudge(slow="abcd")

    async def main() -> float:
        queue = BatchingQueue([judge], max_batch=1, max_wait_ms=0, concurrency=4)
        started = time.monotonic()
        await ask(queue, *"abcd")
        return time.monotonic() - started

    assert run(main()) < 0.3  # 0.4 s one after another
    assert sorted(judge.batches) == [["a"], ["b"], ["c"], ["d"]]


def test_an_unscored_game_learns_why() -> None:
    class Undecided(RecordingJudge):
        def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
            return [Unscored(query.query_id, "off the menu") for query in queries]

    async def main() -> list[Answer]:
        return await ask(BatchingQueue([Undecided()], max_batch=1, max_wait_ms=0), "a")

    (answer,) = run(main())
    assert isinstance(answer, JudgeError)
    assert not isinstance(answer, JudgeUnavailableError)
    assert str(answer) == "off the menu"


def test_closing_finishes_what_was_accepted() -> None:
    judge = RecordingJudge(slow=["a", "b"])

    async def main() -> tuple[list[Answer], int]:
        queue = BatchingQueue([judge], max_batch=1, max_wait_ms=0)
        answers = asyncio.create_task(ask(queue, "a", "b"))
        await asyncio.sleep(0.02)
        waiting = queue.waiting
        await queue.close()
        return await answers, waiting

    answers, waiting = run(main())
    assert waiting == 2
    assert [answer[0].query_id for answer in answers] == ["a", "b"]
    assert judge.closed
