from __future__ import annotations

import random

from medical_team.judges.breaker import CircuitBreaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker_and_clock() -> tuple[CircuitBreaker, Clock]:
    clock = Clock()
    return CircuitBreaker(1.0, 8.0, clock, random.Random(0)), clock


def test_a_closed_breaker_lets_everybody_through() -> None:
    breaker, _ = breaker_and_clock()
    assert [breaker.take_probe() for _ in range(3)] == [True] * 3
    assert breaker.wait_s() == 0


def test_an_open_breaker_lets_one_probe_through_after_each_wait() -> None:
    breaker, clock = breaker_and_clock()
    breaker.failed("refused")
    assert not breaker.take_probe()
    assert 0.75 <= breaker.wait_s() <= 1.25
    clock.now += breaker.wait_s()
    assert [breaker.take_probe() for _ in range(3)] == [True, False, False]


def test_waits_double_up_to_the_longest() -> None:
    breaker, clock = breaker_and_clock()
    waits = []
    for _ in range(6):
        breaker.failed("refused")
        waits.append(breaker.wait_s())
        clock.now += waits[-1]
        assert breaker.take_probe()  # which fails in turn
    for wait, middle in zip(waits, (1, 2, 4, 8, 8, 8), strict=True):
        assert 0.75 * middle <= wait <= 1.25 * middle
    assert len(set(waits)) == 6  # jitter


def test_a_success_closes_it_and_forgets_the_failures() -> None:
    breaker, clock = breaker_and_clock()
    for _ in range(4):
        breaker.failed("refused")
    assert breaker.open_since == clock.now
    assert breaker.reason == "refused"
    breaker.succeeded()
    assert breaker.open_since is None
    breaker.failed("again")
    assert breaker.wait_s() <= 1.25


def test_it_remembers_since_when_it_is_open() -> None:
    breaker, clock = breaker_and_clock()
    breaker.failed("refused")
    clock.now += 50
    breaker.failed("refused")
    assert breaker.open_since == 100.0
