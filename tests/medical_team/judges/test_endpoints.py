"""The pool of servers: what is retried, what is not, and who is asked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from medical_team.judges.endpoints import Endpoints, Seat
from medical_team.judges.http_answers import LONGEST_PAUSE_S, TooLargeError, retry_after_s
from medical_team.medical_judge import JudgeError, JudgeUnavailableError

Connect = Callable[..., Endpoints]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens pools with short waits."""
    opened: list[Endpoints] = []

    def open_pool(*urls: str, **changed: Any) -> Endpoints:
        options = {"timeout_s": 5.0, "attempts": 4, "retry_wait_s": 0.01} | changed
        opened.append(Endpoints(urls, **options))
        return opened[-1]

    yield open_pool
    for pool in opened:
        pool.close()


def test_json_goes_out_and_comes_back(connect: Connect, server: Any) -> None:
    server.always = server.reply(200, {"answer": 42})
    assert connect(server.url + "/v1/").post("/ask", {"q": "\ud800 é"}) == {"answer": 42}
    assert server.requests[0].path == "/v1/ask"
    assert server.requests[0].json == {"q": "\ud800 é"}
    assert "authorization" not in server.requests[0].headers


def test_key_is_sent_as_a_bearer_token(connect: Connect, server: Any) -> None:
    server.always = server.reply(200, {})
    connect(server.url, api_key="secret\n").get("/health")
    assert server.requests[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_status_is_tried_again(connect: Connect, server: Any, status: int) -> None:
    server.then(server.reply(status), server.reply(status))
    server.always = server.reply(200, {"ok": True})
    assert connect(server.url).post("/x", {}) == {"ok": True}
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (400, "400"),
        (401, "environment variable MY_KEY"),
        (403, "environment variable MY_KEY"),
        (404, "judge.urls"),
        (422, "because of this"),
    ],
)
def test_refusal_is_not_tried_again_and_says_what_to_do(
    connect: Connect, server: Any, status: int, told: str
) -> None:
    server.always = server.reply(status, b"because of this")
    with pytest.raises(JudgeError, match=told) as caught:
        connect(server.url, api_key_env="MY_KEY").post("/x", {})
    assert not isinstance(caught.value, JudgeUnavailableError)
    assert f"{server.url}/x" in str(caught.value)
    assert len(server.requests) == 1


def test_too_large_is_told_apart(connect: Connect, server: Any) -> None:
    server.always = server.reply(413)
    with pytest.raises(TooLargeError):
        connect(server.url).post("/x", {})


def test_redirect_names_the_address_to_use(connect: Connect, server: Any) -> None:
    server.always = server.reply(307, b"", {"Location": "http://there/x"})
    with pytest.raises(JudgeError, match="http://there/x"):
        connect(server.url).post("/x", {})


def test_broken_address_is_an_error_at_once(connect: Connect) -> None:
    with pytest.raises(JudgeError, match=r"judge\.urls"):
        connect("http://host:port").get("/x")


def test_nothing_listening_names_the_address_and_the_attempts(
    connect: Connect, dead_url: str
) -> None:
    with pytest.raises(JudgeUnavailableError, match=rf"{dead_url}.*attempts: 3"):
        connect(dead_url, attempts=3).post("/x", {})


def test_time_limit_holds_for_a_server_that_drips_its_status_line(
    connect: Connect, server: Any
) -> None:
    server.always = server.drip(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000, every_s=0.02)
    start = time.monotonic()
    with pytest.raises(JudgeUnavailableError, match=r"0\.2 s"):
        connect(server.url, attempts=2, timeout_s=0.2).post("/x", {})
    assert time.monotonic() - start < 3


def test_retry_after_is_waited_for(connect: Connect, server: Any) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    server.then(server.reply(429, b"", {"Retry-After": "7"}))
    server.always = server.reply(200, {})
    connect(server.url, sleep=sleep).post("/x", {})
    assert len(waits) == 1
    assert 7 <= waits[0] < 7.1


def test_waits_between_tries_double_and_differ(connect: Connect, server: Any) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    server.always = server.reply(429)
    with pytest.raises(JudgeUnavailableError):
        connect(server.url, sleep=sleep, retry_wait_s=1.0).post("/x", {})
    assert [round(wait // 1) for wait in waits[:1]] == [1]
    for wait, least in zip(waits, (1.0, 2.0, 4.0), strict=True):
        assert least <= wait <= 1.5 * least
    assert len({wait / least for wait, least in zip(waits, (1, 2, 4), strict=True)}) == 3


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("3", 3),
        ("-3", 0),
        ("soon", 0),
        ("nan", 0),
        ("inf", 0),
        ("99999", LONGEST_PAUSE_S),
        (format_datetime(NOW + timedelta(seconds=9), usegmt=True), 9),
        (format_datetime(NOW - timedelta(seconds=9), usegmt=True), 0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date_and_bounded(
    header: str | None, seconds: float
) -> None:
    assert retry_after_s(header, NOW) == seconds


def test_requests_spread_over_the_servers(
    connect: Connect, start_server: Callable[[], Any]
) -> None:
    servers = [start_server() for _ in range(3)]
    together = threading.Barrier(12, timeout=10)

    def wait_for_all(connection: Any, request: Any) -> None:
        together.wait()
        servers[0].reply(200, {})(connection, request)

    for server in servers:
        server.always = wait_for_all
    pool = connect(*(server.url for server in servers))
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda _: pool.post("/x", {}), range(12)))
    assert [len(server.requests) for server in servers] == [4, 4, 4]


def test_requests_in_flight_are_limited(connect: Connect, server: Any) -> None:
    now, most, lock = 0, 0, threading.Lock()

    def count(connection: Any, request: Any) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        server.reply(200, {})(connection, request)

    server.always = count
    pool = connect(server.url, max_connections=3)
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda _: pool.post("/x", {}), range(12)))
    assert most == 3


def test_requests_of_one_seat_stay_on_one_server(
    connect: Connect, start_server: Callable[[], Any]
) -> None:
    servers = [start_server() for _ in range(3)]
    for server in servers:
        server.always = server.reply(200, {})
    pool = connect(*(server.url for server in servers))

    async def one_game() -> None:
        seat = Seat()
        for _ in range(4):
            await pool.send("POST", "/x", {}, seat)

    pool.run(one_game())
    assert sorted(len(server.requests) for server in servers) == [0, 0, 4]


def test_server_that_fails_is_left_alone_while_another_is_well(
    connect: Connect, start_server: Callable[[], Any]
) -> None:
    bad, good = start_server(), start_server()
    bad.always = bad.reply(500)
    good.always = good.reply(200, {})
    pool = connect(bad.url, good.url, retry_wait_s=5.0, sleep=lambda _: asyncio.sleep(0))
    for _ in range(20):
        pool.post("/x", {})
    assert len(bad.requests) <= 1
    assert len(good.requests) == 20


def test_server_that_comes_back_beside_another_is_used_again(
    connect: Connect, start_server: Callable[[], Any]
) -> None:
    first, second = start_server(), start_server()
    first.then(*[first.reply(500)] * 3)
    first.always = first.reply(200, {})
    second.always = second.reply(200, {})
    pool = connect(first.url, second.url)
    deadline = time.monotonic() + 10
    while len(first.requests) < 6 and time.monotonic() < deadline:
        pool.post("/x", {})
    assert len(first.requests) >= 6


def test_dead_server_is_asked_by_one_request_at_a_time(connect: Connect, server: Any) -> None:
    server.always = server.reply(500)
    pool = connect(server.url, retry_wait_s=0.02, attempts=3)

    def ask(_: int) -> str:
        try:
            pool.post("/x", {})
        except JudgeUnavailableError:
            return "away"
        return "answered"

    with ThreadPoolExecutor(20) as threads:
        assert Counter(threads.map(ask, range(20))) == {"away": 20}
    # Without a breaker it would be three from each; those that began together all ask once.
    first = len(server.requests)
    assert first <= 35
    with ThreadPoolExecutor(20) as threads:
        assert Counter(threads.map(ask, range(20))) == {"away": 20}
    assert len(server.requests) - first <= 8  # probes only


def test_server_that_comes_back_is_used_again(connect: Connect, server: Any) -> None:
    server.always = server.reply(503)
    pool = connect(server.url, attempts=2)
    with pytest.raises(JudgeUnavailableError):
        pool.post("/x", {})
    server.always = server.reply(200, {"back": True})
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: pool.post("/x", {}), range(8)))
    assert found == [{"back": True}] * 8


def test_closing_ends_what_is_under_way_and_leaves_no_thread(server: Any) -> None:
    server.always = server.silence()
    pool = Endpoints([server.url])
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.post, "/x", {})
        while not server.requests:
            time.sleep(0.01)
        pool.close()
        with pytest.raises(JudgeUnavailableError, match="closed"):
            waiting.result(timeout=5)
    with pytest.raises(JudgeUnavailableError, match="closed"):
        pool.get("/x")
    pool.close()
    assert "judge-http" not in {thread.name for thread in threading.enumerate()}
