"""The client of our server: answers bound by id, batches split, the connection test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medical_team.judges.reference import ReferenceJudge
from medical_team.judges.settings import RemoteSettings
from medical_team.judges.wire import QueryIn, UnscoredOut, VerdictOut
from medical_team.medical_judge import (
    JudgeError,
    JudgeQuery,
    JudgeUnavailableError,
    JudgeUsage,
    LabelProbabilities,
    Unscored,
    Verdict,
)
from medical_team.remote_judge import RemoteJudge, build

ROOT = Path(__file__).resolve().parents[3]
HEALTHY = {"status": "healthy", "model": "tiny", "fingerprint": "f1"}

Edit = Callable[[dict[str, Any]], None]


def answer_of(queries: list[dict[str, Any]], edit: Edit = lambda answer: None) -> dict[str, Any]:
    asked = [QueryIn.model_validate(query).to_query() for query in queries]
    verdicts = [one for one in ReferenceJudge().judge(asked) if isinstance(one, Verdict)]
    answer = {
        "judge": "reference",
        "fingerprint": "f1",
        "verdicts": [VerdictOut.from_verdict(one).model_dump() for one in verdicts],
        "unscored": [],
    }
    edit(answer)
    return answer


@pytest.fixture
def serve(server: Any) -> Callable[..., None]:
    """Lets the server be ours, its answers edited before they are sent."""

    def always(edit: Edit = lambda answer: None, most: int = 1000) -> None:
        def behave(connection: Any, request: Any) -> None:
            if request.path == "/health":
                return server.reply(200, HEALTHY)(connection, request)
            queries = request.json["queries"]
            if len(queries) > most:
                return server.reply(413)(connection, request)
            return server.reply(200, answer_of(queries, edit))(connection, request)

        server.always = behave

    return always


@pytest.fixture
def judge(server: Any) -> Iterator[RemoteJudge]:
    one = build(RemoteSettings(urls=(server.url,), retry_wait_s=0.01, timeout_s=10.0))
    yield one
    one.close()


def by_id(found: Any) -> dict[str, Any]:
    return {one.query_id: one for one in found}


def test_records_survive_the_wire(games: Any) -> None:
    query = games(2)[1]
    assert QueryIn.model_validate_json(QueryIn.from_query(query).model_dump_json()).to_query() == (
        query
    )
    verdict = Verdict(
        "a",
        True,
        (None, False),
        None,
        "m",
        LabelProbabilities(0.5, (None, 0.25), None),
        JudgeUsage(3, None, 1),
        True,
    )
    sent = VerdictOut.from_verdict(verdict).model_dump_json()
    assert VerdictOut.model_validate_json(sent).to_verdict() == verdict
    unscored = Unscored("a", "why")
    assert UnscoredOut.from_unscored(unscored).to_unscored() == unscored


def test_games_are_labelled_and_the_server_is_the_source(
    serve: Any, judge: RemoteJudge, games: Any
) -> None:
    serve()
    found = by_id(judge.judge(games(4)))
    assert [found[f"g{n}"].error_present for n in range(4)] == [False, True, False, True]
    assert found["g1"].error_identified == (True, False)
    assert {one.source for one in found.values()} == {judge.name} == {"remote:tiny"}
    assert judge.fingerprint == "f1"


def test_answers_in_another_order_are_matched_by_id(
    serve: Any, judge: RemoteJudge, games: Any
) -> None:
    serve(lambda answer: answer["verdicts"].reverse())
    found = by_id(judge.judge(games(6)))
    assert [found[f"g{n}"].error_present for n in range(6)] == [False, True] * 3


def test_missing_id_is_unscored(serve: Any, judge: RemoteJudge, games: Any) -> None:
    serve(lambda answer: answer["verdicts"].pop(1))
    found = by_id(judge.judge(games(3)))
    assert isinstance(found["g1"], Unscored)
    assert isinstance(found["g0"], Verdict)
    assert isinstance(found["g2"], Verdict)


def test_repeated_verdict_counts_if_it_says_the_same(
    serve: Any, judge: RemoteJudge, games: Any
) -> None:
    serve(lambda answer: answer["verdicts"].append(answer["verdicts"][0] | {"cached": True}))
    assert all(isinstance(one, Verdict) for one in judge.judge(games(2)))


@pytest.mark.parametrize(
    "again",
    [{"error_present": True}, {"realistic": False}, {"error_present": None}, {"error_present": 1}],
)
def test_repeated_verdict_that_contradicts_is_unscored(
    serve: Any, judge: RemoteJudge, games: Any, again: dict[str, Any]
) -> None:
    serve(lambda answer: answer["verdicts"].append(answer["verdicts"][0] | again))
    found = by_id(judge.judge(games(2)))
    assert isinstance(found["g0"], Unscored)
    assert isinstance(found["g1"], Verdict)


def test_game_that_is_both_judged_and_unscored_is_unscored(
    serve: Any, judge: RemoteJudge, games: Any
) -> None:
    serve(lambda answer: answer["unscored"].append({"query_id": "g0", "reason": "no"}))
    assert isinstance(by_id(judge.judge(games(2)))["g0"], Unscored)


def test_unknown_id_is_ignored_and_told_once(
    serve: Any, judge: RemoteJudge, games: Any, caplog: pytest.LogCaptureFixture
) -> None:
    serve(lambda answer: answer["verdicts"].append(answer["verdicts"][0] | {"query_id": "who"}))
    assert len(judge.judge(games(2))) == 2
    judge.judge(games(2))
    assert caplog.text.count("'who'") == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"error_present": "true"},
        {"error_present": 1},
        {"error_identified": [True]},
        {"error_identified": [True, "no"]},
        {"probabilities": {"error_present": 1.5}},
        {"probabilities": {"error_present": 0.5, "error_identified": [0.5]}},
        {"realistic": 0},
    ],
)
def test_verdict_of_another_shape_costs_only_its_own_game(
    serve: Any, judge: RemoteJudge, games: Any, broken: dict[str, Any]
) -> None:
    serve(lambda answer: answer["verdicts"][0].update(broken))
    found = by_id(judge.judge(games(2)))
    assert isinstance(found["g0"], Unscored)
    assert isinstance(found["g1"], Verdict)


def test_unscored_game_keeps_the_server_s_reason(
    serve: Any, judge: RemoteJudge, games: Any
) -> None:
    def edit(answer: dict[str, Any]) -> None:
        answer["verdicts"].pop(0)
        answer["unscored"].append({"query_id": "g0", "reason": "it contradicts itself"})

    serve(edit)
    assert by_id(judge.judge(games(2)))["g0"] == Unscored("g0", "it contradicts itself")


def test_game_whose_judge_was_out_of_order_may_be_asked_again(
    serve: Any, judge: RemoteJudge, games: Any
) -> None:
    def edit(answer: dict[str, Any]) -> None:
        answer["verdicts"].pop(0)
        answer["unscored"].append({"query_id": "g0", "reason": "no GPU", "unavailable": True})

    serve(edit)
    with pytest.raises(JudgeUnavailableError, match="no GPU") as caught:
        judge.judge(games(3))
    assert set(by_id(caught.value.answered)) == {"g1", "g2"}


def test_batch_that_is_too_large_is_split(
    serve: Any, judge: RemoteJudge, games: Any, server: Any
) -> None:
    serve(most=3)
    found = by_id(judge.judge(games(8)))
    assert [found[f"g{n}"].error_present for n in range(8)] == [False, True] * 4
    sizes = [len(one.json["queries"]) for one in server.requests if one.path == "/judge"]
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


def test_single_game_that_is_too_large_is_unscored(
    serve: Any, judge: RemoteJudge, games: Any
) -> None:
    serve(most=0)
    found = judge.judge(games(3))
    assert len(found) == 3
    assert all(isinstance(one, Unscored) and "413" in one.reason for one in found)


def test_query_that_does_not_fit_the_wire_is_unscored_and_not_sent(
    serve: Any, judge: RemoteJudge, games: Any, server: Any
) -> None:
    serve()
    odd = [
        replace(games(1)[0], query_id="\ud800"),
        JudgeQuery("empty", (), (), ()),
        replace(games(1)[0], query_id="x" * 201),
    ]
    assert all(isinstance(judge.judge([one])[0], Unscored) for one in odd)
    assert server.requests == []


def test_another_judge_behind_the_address_is_refused(
    serve: Any, judge: RemoteJudge, games: Any
) -> None:
    serve(lambda answer: answer.update(fingerprint="f2"))
    with pytest.raises(JudgeError, match="another judge"):
        judge.judge(games(2))


def test_loading_server_is_waited_for_and_then_asked(
    serve: Any, judge: RemoteJudge, games: Any, server: Any
) -> None:
    server.always = server.reply(503, {"status": "loading", "model": "tiny"})
    with pytest.raises(JudgeUnavailableError, match="loading"):
        judge.judge(games(1))
    with pytest.raises(JudgeUnavailableError, match="loading"):
        _ = judge.fingerprint
    serve()
    assert isinstance(judge.judge(games(1))[0], Verdict)
    assert judge.fingerprint == "f1"


def test_health_is_asked_once(serve: Any, judge: RemoteJudge, games: Any, server: Any) -> None:
    serve()
    for _ in range(3):
        judge.judge(games(1))
    assert [one.path for one in server.requests].count("/health") == 1


def run_connection_test(url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medical_team.remote_judge", "--url", url, "--timeout", "5"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_connection_test_shows_latency_and_a_sample(serve: Any, server: Any) -> None:
    serve()
    done = run_connection_test(server.url, MEDICAL_JUDGE_API_KEY="secret")
    assert done.returncode == 0, done.stderr
    for word in ("healthy", "tiny", "latency of one verdict, median", "with an error"):
        assert word in done.stdout
    assert {one.headers.get("authorization") for one in server.requests} == {"Bearer secret"}


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (503, {"status": "loading", "model": "tiny"}, "wait until it is ready"),
        (401, b"", "environment variable MEDICAL_JUDGE_API_KEY"),
        (200, {"status": "ok"}, "scripts/serve_medical_judge.py"),
        (404, b"", "judge.urls"),
    ],
)
def test_connection_test_fails_with_one_line_that_says_what_to_do(
    server: Any, status: int, body: object, told: str
) -> None:
    server.always = server.reply(status, body)
    done = run_connection_test(server.url)
    assert done.returncode == 1
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_connection_test_says_that_nothing_listens(dead_url: str) -> None:
    done = run_connection_test(dead_url)
    assert done.returncode == 1
    assert dead_url in done.stderr
    assert "Check that the server runs" in done.stderr
    assert "Traceback" not in done.stderr
