"""Faults over real sockets: a judge over HTTP never gives a verdict that no server gave."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from medical_team.judges import openai
from medical_team.judges.reference import ReferenceJudge
from medical_team.judges.settings import OpenAISettings, RemoteSettings
from medical_team.judges.wire import QueryIn, VerdictOut
from medical_team.medical_judge import (
    Judge,
    JudgeError,
    Judgement,
    JudgeUnavailableError,
    Unscored,
    Verdict,
)
from medical_team.remote_judge import build as build_remote

TIMEOUT_S = 0.5
ATTEMPTS = 3


class Rig:
    """A judge over HTTP and the server behind it, which knows the true labels.

    Args:
        server: a scripted server.
        path: where games are asked about.
        true_answer: the right answer to a request.
        games_in: the games that a request asks about.
    """

    def __init__(
        self,
        server: Any,
        path: str,
        true_answer: Callable[[Any], Any],
        games_in: Callable[[Any], list[str]],
    ) -> None:
        self.server = server
        self.path = path
        self.true_answer = true_answer
        self.games_in = games_in
        self.told: Counter[str] = Counter()  # true answers that were sent whole, by game
        self.faults: list[Any] = []
        self.rng = random.Random(0)
        self.fault_rate = 0.0
        self.always: Any = None
        self.judge: Judge
        server.always = self.behave

    def behave(self, connection: Any, request: Any) -> None:
        if request.path != self.path:
            health = {"status": "healthy", "model": "tiny", "fingerprint": "f1", "data": []}
            self.server.reply(200, health)(connection, request)
        elif self.always is not None:
            self.always(connection, request)
        elif self.faults and self.rng.random() < self.fault_rate:
            self.rng.choice(self.faults)(connection, request)
        else:
            self.answer(connection, request)

    def answer(self, connection: Any, request: Any) -> None:
        # Counted first: the client may be done before this thread goes on.
        self.told.update(self.games_in(request.json))
        self.server.reply(200, self.true_answer(request.json))(connection, request)

    @property
    def asked(self) -> int:
        return sum(request.path == self.path for request in self.server.requests)


HARMLESS = "Answer Yes."


def text_of(body: Any) -> str:
    return str(body["messages"][0]["content"])


@pytest.fixture(params=["openai", "remote"])
def rig(
    request: pytest.FixtureRequest, server: Any, chat_answer: Any, number_of: Any
) -> Iterator[Rig]:
    """One judge that asks question by question, and one that asks game by game."""
    shared: dict[str, Any] = {"timeout_s": TIMEOUT_S, "retry_wait_s": 0.01, "attempts": ATTEMPTS}
    if request.param == "openai":

        def word(body: Any) -> Any:
            if text_of(body) == HARMLESS:
                return chat_answer("Yes", 0.9)
            true = number_of(text_of(body)) % 2
            return chat_answer("Yes" if true else "No", 0.9 if true else 0.1)

        one = Rig(
            server,
            "/v1/chat/completions",
            word,
            lambda body: [f"g{number_of(text_of(body))}"] if text_of(body) != HARMLESS else [],
        )
        one.judge = openai.build(
            OpenAISettings(urls=(server.url + "/v1",), model="m", ask_realistic=False, **shared)
        )
    else:

        def labels(body: Any) -> Any:
            queries = [QueryIn.model_validate(query).to_query() for query in body["queries"]]
            verdicts = [v for v in ReferenceJudge().judge(queries) if isinstance(v, Verdict)]
            return {
                "judge": "reference",
                "fingerprint": "f1",
                "verdicts": [VerdictOut.from_verdict(v).model_dump() for v in verdicts],
                "unscored": [],
            }

        one = Rig(
            server,
            "/judge",
            labels,
            lambda body: [query["query_id"] for query in body["queries"]],
        )
        one.judge = build_remote(RemoteSettings(urls=(server.url,), **shared))
    server.requests.clear()
    yield one
    one.judge.close()


def a_body(rig: Rig) -> Any:
    """An answer that is good but for what a fault does to it."""
    return {"choices": [{"message": {"content": "Yes"}}], "verdicts": [], "padding": "x" * 200}


PASSING: dict[str, Callable[[Rig], Any]] = {
    "reset in the body": lambda rig: rig.server.break_off(a_body(rig), reset=True),
    "closed in the body": lambda rig: rig.server.break_off(a_body(rig), reset=False),
    "body cut without a length": lambda rig: rig.server.cut_without_length(a_body(rig)),
    "500": lambda rig: rig.server.reply(500, b"Internal Server Error"),
    "502 with a page": lambda rig: rig.server.reply(502, b"<html>bad gateway</html>"),
    "503 with a pause": lambda rig: rig.server.reply(503, b"", {"Retry-After": "0"}),
    "429": lambda rig: rig.server.reply(429, b"", {"Retry-After": "0"}),
    "no answer": lambda rig: rig.server.silence(),
    "drip": lambda rig: rig.server.drip(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 99, 0.05),
    "drip in the body": lambda rig: rig.server.drip(
        b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + b" " * 999, 0.01
    ),
    "no JSON": lambda rig: rig.server.reply(200, b"Yes"),
    "empty body": lambda rig: rig.server.reply(200, b""),
    "deep JSON": lambda rig: rig.server.reply(200, b"[" * 200_000),
    "not HTTP": lambda rig: lambda connection, request: connection.sendall(b"Yes\r\n\r\n"),
}
LASTING: dict[str, Callable[[Rig], Any]] = {
    "400": lambda rig: rig.server.reply(400, b"no"),
    "401": lambda rig: rig.server.reply(401),
    "404": lambda rig: rig.server.reply(404),
    "413": lambda rig: rig.server.reply(413),
    "418": lambda rig: rig.server.reply(418),
    "redirect": lambda rig: rig.server.reply(302, b"", {"Location": "http://there/"}),
    "a list": lambda rig: rig.server.reply(200, []),
    "a word": lambda rig: rig.server.reply(200, "Yes"),
    "null": lambda rig: rig.server.reply(200, b"null"),
    "an error with 200": lambda rig: rig.server.reply(200, {"error": {"message": "no"}}),
    "no choices": lambda rig: rig.server.reply(200, {"choices": [], "verdicts": []}),
    "two choices": lambda rig: rig.server.reply(
        200, {"choices": [{"message": {"content": "Yes"}}] * 2}
    ),
    "null content": lambda rig: rig.server.reply(
        200, {"choices": [{"message": {"content": None}}], "verdicts": None}
    ),
    "off the menu": lambda rig: rig.server.reply(
        200, {"choices": [{"message": {"content": "It says yes"}}], "fingerprint": 1}
    ),
}


def judged(judge: Judge, queries: Any) -> list[Judgement]:
    """What was judged, whether or not the judge went away."""
    try:
        return judge.judge(queries)
    except JudgeUnavailableError as error:
        return list(error.answered)
    except JudgeError:
        return []


def verdicts_of(found: list[Judgement]) -> dict[str, Verdict]:
    return {one.query_id: one for one in found if isinstance(one, Verdict)}


def assert_true(verdicts: dict[str, Verdict]) -> None:
    for query_id, verdict in verdicts.items():
        assert verdict.error_present is bool(int(query_id[1:]) % 2)


@pytest.mark.parametrize("fault", PASSING)
def test_passing_fault_is_tried_again(rig: Rig, games: Any, fault: str) -> None:
    behave = PASSING[fault](rig)
    rig.judge.fingerprint  # noqa: B018  (a remote judge asks for the server's health first)
    rig.server.then(behave)
    start = time.monotonic()
    verdicts = verdicts_of(rig.judge.judge(games(2)))
    assert set(verdicts) == {"g0", "g1"}
    assert_true(verdicts)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("fault", [name for name in PASSING if name != "drip in the body"])
def test_passing_fault_that_stays_makes_the_judge_unavailable(
    rig: Rig, games: Any, fault: str
) -> None:
    rig.always = PASSING[fault](rig)
    start = time.monotonic()
    with pytest.raises(JudgeUnavailableError, match=rig.server.url) as caught:
        rig.judge.judge(games(1))
    assert caught.value.answered == ()
    # After a 500 the openai judge asks a harmless question too: is it the game or the server?
    twice = (rig.path, fault) == ("/v1/chat/completions", "500")
    assert rig.asked == ATTEMPTS * (2 if twice else 1)
    assert time.monotonic() - start < rig.asked * TIMEOUT_S + 3


@pytest.mark.parametrize("fault", LASTING)
def test_lasting_fault_scores_no_game_and_is_not_tried_again(
    rig: Rig, games: Any, fault: str
) -> None:
    rig.always = LASTING[fault](rig)
    try:
        found = rig.judge.judge(games(1))
    except JudgeUnavailableError:
        raise
    except JudgeError:
        found = []
    assert all(isinstance(one, Unscored) for one in found)
    assert rig.asked <= 1


def test_refused_connection_makes_the_judge_unavailable(games: Any, dead_url: str) -> None:
    shared: dict[str, Any] = {"urls": (dead_url,), "timeout_s": 1.0, "retry_wait_s": 0.01}
    for judge in (
        openai.build(OpenAISettings(model="m", **shared)),
        build_remote(RemoteSettings(**shared)),
    ):
        with pytest.raises(JudgeUnavailableError, match=dead_url) as caught:
            judge.judge(games(3))
        assert caught.value.answered == ()
        judge.close()


def test_pause_that_the_server_asks_for_is_kept(rig: Rig, games: Any) -> None:
    rig.judge.fingerprint  # noqa: B018
    rig.server.then(rig.server.reply(429, b"", {"Retry-After": "1"}))
    start = time.monotonic()
    assert len(verdicts_of(rig.judge.judge(games(1)))) == 1
    assert time.monotonic() - start >= 1


def test_what_was_answered_before_the_server_went_away_is_kept(rig: Rig, games: Any) -> None:
    queries = games(6)
    first = verdicts_of(rig.judge.judge(queries[:3]))
    assert set(first) == {"g0", "g1", "g2"}
    rig.always = rig.server.reply(503)
    with pytest.raises(JudgeUnavailableError):
        rig.judge.judge(queries[3:])
    rig.always = None
    again = verdicts_of(rig.judge.judge(queries[3:]))
    assert set(again) == {"g3", "g4", "g5"}
    assert_true(first | again)


def test_over_all_faults_no_verdict_is_given_that_the_server_did_not_give(
    rig: Rig, games: Any
) -> None:
    slow = {"no answer", "drip", "drip in the body"}  # each costs the time limit
    rig.faults = [make(rig) for name, make in (PASSING | LASTING).items() if name not in slow]
    rig.judge.fingerprint  # noqa: B018
    rig.fault_rate = 0.5
    queries = {query.query_id: query for query in games(60)}
    scored: dict[str, Verdict] = {}
    for _ in range(12):
        left = [query for query_id, query in queries.items() if query_id not in scored]
        for start in range(0, len(left), 10):
            before = Counter(rig.told)
            found = verdicts_of(judged(rig.judge, left[start : start + 10]))
            assert all(rig.told[query_id] > before[query_id] for query_id in found)
            scored |= found
    assert len(scored) > 30
    assert_true(scored)


def test_answers_that_come_late_are_not_taken_for_another_game_s(rig: Rig, games: Any) -> None:
    """The connection that a late answer arrives on must not be used again."""
    rig.judge.fingerprint  # noqa: B018

    def late(connection: Any, request: Any) -> None:
        time.sleep(TIMEOUT_S + 0.2)
        wrong = json.loads(json.dumps(rig.true_answer(request.json)))
        for verdict in wrong.get("verdicts", []):
            verdict["error_present"] = not verdict["error_present"]
        for choice in wrong.get("choices", []):
            choice["message"]["content"] = "Yes"
            choice.pop("logprobs", None)
        with suppress(OSError):
            rig.server.reply(200, wrong)(connection, request)

    rig.server.then(late)
    verdicts = verdicts_of(rig.judge.judge(games(1)))
    time.sleep(0.4)
    verdicts |= verdicts_of(rig.judge.judge(games(4)))
    assert set(verdicts) == {"g0", "g1", "g2", "g3"}
    assert_true(verdicts)
