"""The judge server over real sockets: answers by id, refusals, limits, nothing held back."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from medical_team.answers import Assessment, Classification
from medical_team.judge_server.app import JudgeService, create_app
from medical_team.judge_server.classify import assessment_of, label_of, note_of
from medical_team.judge_server.limits import API_KEY_ENV, Admission, Limits, ServerError
from medical_team.judge_server.metrics import MeasuredJudge
from medical_team.judge_server.process import api_key_for, read_settings
from medical_team.judges.batching import BatchingQueue
from medical_team.judges.reference import ReferenceJudge
from medical_team.judges.settings import RemoteSettings
from medical_team.medical_judge import (
    Judge,
    Judgement,
    JudgeQuery,
    JudgeUnavailableError,
    JudgeUsage,
    Unscored,
    Verdict,
)
from medical_team.remote_judge import build

HARMFUL = Assessment(Classification.HARMFUL, 0, "No fever.")
SAFE = Assessment(Classification.SAFE, None, None)
WITH_KEY = {"Authorization": "Bearer secret"}


class WordJudge:
    """Calls a note wrong if it holds the word bad; needs no reference note."""

    name = "words"
    fingerprint = "words-1"

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.out_of_order = False
        self.judged = 0

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        assert self.may_answer.wait(30)
        self.judged += len(queries)
        judgements = [self._one(query) for query in reversed(queries)]
        if self.out_of_order:
            answered = [one for one in judgements if "lucky" in one.query_id]
            raise JudgeUnavailableError("the model is away", answered)
        return judgements

    def close(self) -> None:
        pass

    def _one(self, query: JudgeQuery) -> Judgement:
        text = " ".join(query.note)
        if "unreadable" in text:
            return Unscored(query.query_id, "no readable answer")
        identified = tuple(one is not None and one.sentence_id == 0 for one in query.assessments)
        usage = JudgeUsage(10, 4, 1)
        return Verdict(query.query_id, "bad" in text, identified, None, self.name, usage=usage)


@dataclass
class Served:
    """A running server."""

    url: str
    service: JudgeService
    judge: Judge
    limits: Limits
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=30)

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 0

    def open(self) -> None:
        measured = MeasuredJudge(self.judge, self.service.metrics)
        self.service.open(measured, BatchingQueue([measured], max_batch=8, max_wait_ms=1))


Serve = Callable[..., Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers on free ports and ends them; what they accepted must be answered."""
    with ExitStack() as stack:

        def start(
            judge: Judge | None = None,
            limits: Limits | None = None,
            key: str | None = None,
            loaded: bool = True,
        ) -> Served:
            limits = limits or Limits()
            service = JudgeService("some-model", limits)
            listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
            app = create_app(service, limits, key)
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error"))

            async def run() -> None:
                await server.serve([listening])
                await service.close()

            thread = threading.Thread(target=lambda: asyncio.run(run()))
            thread.start()
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            served = Served(url, service, judge or WordJudge(), limits)

            def stop() -> None:
                served.client.close()
                server.should_exit = True
                thread.join(20)
                assert not thread.is_alive(), "the server did not end"

            stack.callback(stop)
            if loaded:
                served.open()
            return served

        yield start


def query(query_id: str, *note: str, clean: Sequence[str] = ("All is well.",)) -> dict[str, Any]:
    harmful = {"classification": "Harmful", "sentence_id": 0, "correction": "All is well."}
    return {
        "query_id": query_id,
        "clean_note": list(clean),
        "note": list(note) or ["All is well."],
        "assessments": [harmful, None],
    }


def request(count: int, *note: str) -> dict[str, Any]:
    return {"queries": [query(f"q{index}", *note) for index in range(count)]}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_health_says_loading_until_the_judge_is_there(serve: Serve) -> None:
    served = serve(loaded=False)
    loading = served.client.get("/health")
    refused = served.client.post("/judge", json=request(1))
    served.open()
    healthy = served.client.get("/health")
    assert (loading.status_code, loading.json()["status"]) == (503, "loading")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert healthy.status_code == 200
    assert healthy.json()["status"] == "healthy"
    assert healthy.json()["model"] == "some-model"
    assert healthy.json()["fingerprint"] == "words-1"


def test_requests_with_the_same_ids_get_their_own_answers(serve: Serve) -> None:
    judge = WordJudge()
    served = serve(judge)
    judge.may_answer.clear()
    with ThreadPoolExecutor(2) as threads:
        notes = ("a bad note", "a good note")
        asked = [
            threads.submit(served.client.post, "/judge", json=request(3, note)) for note in notes
        ]
        wait_until(lambda: served.service.admission.taken == 6)
        judge.may_answer.set()
        bad, good = (one.result().json() for one in asked)
    assert (bad["judge"], bad["fingerprint"]) == ("words", "words-1")
    for answer, expected in ((bad, True), (good, False)):
        labels = {one["query_id"]: one["error_present"] for one in answer["verdicts"]}
        assert labels == {"q0": expected, "q1": expected, "q2": expected}
        assert answer["unscored"] == []


def test_unscored_games_are_named_beside_the_verdicts(serve: Serve) -> None:
    body = {"queries": [query("a", "fine"), query("b", "unreadable"), query("c", "bad")]}
    answer = serve().client.post("/judge", json=body).json()
    assert {one["query_id"] for one in answer["verdicts"]} == {"a", "c"}
    (unscored,) = answer["unscored"]
    assert (unscored["query_id"], unscored["reason"]) == ("b", "no readable answer")
    assert unscored["unavailable"] is False


def test_judge_out_of_order_is_503_and_never_a_label(serve: Serve) -> None:
    judge = WordJudge()
    judge.out_of_order = True
    served = serve(judge)
    refused = served.client.post("/judge", json=request(3))
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert "the model is away" in refused.json()["detail"]
    assert served.service.admission.taken == 0


def test_outage_in_the_midst_of_a_request_says_what_to_ask_again(serve: Serve) -> None:
    judge = WordJudge()
    judge.out_of_order = True
    served = serve(judge)
    answer = served.client.post("/judge", json={"queries": [query("lucky"), query("other")]})
    assert [one["query_id"] for one in answer.json()["verdicts"]] == ["lucky"]
    (unscored,) = answer.json()["unscored"]
    assert (unscored["query_id"], unscored["unavailable"]) == ("other", True)


def test_remote_judge_gets_every_verdict_of_a_batch_larger_than_the_queue(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY_ENV, "secret")
    served = serve(limits=Limits(max_queue=10), key="secret")
    remote = build(RemoteSettings(urls=(served.url,), retry_wait_s=0.01))
    notes = [("a bad note",) if index % 2 else ("a good note",) for index in range(35)]
    queries = [JudgeQuery(f"g{i}", (), note, (SAFE, None)) for i, note in enumerate(notes)]
    try:
        here = {one.query_id: one for one in WordJudge().judge(queries)}
        there = {one.query_id: one for one in remote.judge(queries)}
    finally:
        remote.close()
    assert remote.fingerprint == "words-1"
    assert there.keys() == here.keys()
    for query_id, verdict in there.items():
        assert isinstance(verdict, Verdict)
        assert replace(verdict, source="words") == here[query_id]


def test_only_health_is_open_without_the_key(serve: Serve) -> None:
    served = serve(key="s3cret-ü")
    client = served.client
    assert client.get("/health").status_code == 200
    for wrong in (None, "Bearer nope", "Bearer", "Basic s3cret-ü", "s3cret-ü", "Bearer \xff"):
        headers = {} if wrong is None else {"Authorization": wrong.encode("utf-8")}
        for path in ("/metrics", "/docs", "/openapi.json", "/elsewhere"):
            assert client.get(path, headers=headers).status_code == 401
        answer = client.post("/judge", json=request(1), headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert API_KEY_ENV in answer.json()["detail"]
    right = {"Authorization": "bearer s3cret-ü".encode()}
    assert client.post("/judge", json=request(1), headers=right).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_body_over_the_limit_is_413(serve: Serve, chunked: bool) -> None:
    served = serve(limits=Limits(max_request_bytes=100_000))
    body = json.dumps(request(1, "x" * 300_000)).encode()
    chunks = (body[start : start + 5000] for start in range(0, len(body), 5000))
    sent = chunks if chunked else body
    headers = {"Content-Type": "application/json"}
    refused = served.client.post("/judge", content=sent, headers=headers)
    assert refused.request.headers.get("Content-Length") == (None if chunked else str(len(body)))
    assert refused.status_code == 413
    assert "100000 bytes" in refused.json()["detail"]
    assert served.client.post("/judge", json=request(1)).status_code == 200


def test_request_larger_than_the_queue_is_413(serve: Serve) -> None:
    refused = serve(limits=Limits(max_queue=4)).client.post("/judge", json=request(5))
    assert refused.status_code == 413
    assert "at most 4" in refused.json()["detail"]


def test_full_queue_is_429_until_there_is_room(serve: Serve) -> None:
    judge = WordJudge()
    served = serve(judge, Limits(max_queue=4))
    judge.may_answer.clear()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(served.client.post, "/judge", json=request(3))
        wait_until(lambda: served.service.admission.taken == 3)
        refused = served.client.post("/judge", json=request(2))
        judge.may_answer.set()
        assert first.result().status_code == 200
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert served.client.post("/judge", json=request(4)).status_code == 200


def test_retry_after_follows_the_latest_speed() -> None:
    now = [0.0]
    admission = Admission(100, lambda: 0, lambda: now[0])
    with admission.places_for(50):
        pass
    now[0] = 10.0  # 50 queries in ten seconds
    assert admission.retry_after_s(1) == 1
    assert admission.retry_after_s(40) == 8
    assert admission.retry_after_s(10_000) == 60


def test_client_that_goes_away_gives_its_places_back(serve: Serve) -> None:
    judge = WordJudge()
    served = serve(judge, Limits(max_queue=12))
    judge.may_answer.clear()
    with ThreadPoolExecutor(1) as threads:
        blocking = threads.submit(served.client.post, "/judge", json=request(1))
        wait_until(lambda: served.service.admission.taken == 1)
        with socket.create_connection(("127.0.0.1", served.port)) as leaver:
            leaver.sendall(raw_post(json.dumps(request(11)).encode()))
            wait_until(lambda: served.service.admission.taken == 12)
        wait_until(lambda: served.service.admission.taken == 1)
        judge.may_answer.set()
        assert blocking.result().status_code == 200
    assert served.client.post("/judge", json=request(12)).status_code == 200
    assert judge.judged == 13  # nothing was judged for who went away
    assert 'status="499"' in served.client.get("/metrics").text


def test_body_that_comes_too_slowly_is_408_and_closed(serve: Serve) -> None:
    served = serve(limits=Limits(body_timeout_s=0.3))
    with socket.create_connection(("127.0.0.1", served.port)) as slow:
        slow.settimeout(10)
        slow.sendall(raw_post(b"{" * 10, length=1000))
        answer = b"".join(iter(lambda: slow.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"within 0.3 s" in answer


def test_bodies_held_at_once_are_bounded(serve: Serve) -> None:
    served = serve(limits=Limits(max_request_bytes=10_000, max_held_bytes=160_000))
    large = request(1, "x" * 9_000)
    with ExitStack() as stack:
        for _ in range(16):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            one.sendall(raw_post(b" " * 9_500, length=9_999))
        wait_until(lambda: served.client.post("/judge", json=large).status_code == 429)
    wait_until(lambda: served.client.post("/judge", json=large).status_code == 200)


def raw_post(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = "POST /judge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {size}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    "game",
    [
        b'{"query_id": "\\ud800", "\\udfff": "secret"}',  # no Unicode text
        b'{"query_id": 1, "clean_note": "secret", "note": "secret", "assessments": "secret"}',
    ],
)
def test_invalid_request_is_422_without_its_text(serve: Serve, game: bytes) -> None:
    refused = serve().client.post(
        "/judge", content=b'{"queries": [%s]}' % game, headers={"Content-Type": "application/json"}
    )
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"][:2] == ["body", "queries"]
    assert "secret" not in refused.text


def test_self_redteam_client_reads_the_labels_by_position(serve: Serve) -> None:
    wrong = "Classification: Harmful\nError sentence: 1\nCorrection: x"
    moves = [
        ("0. a bad note\n1. more", "Classification: Harmful\nError sentence: 0\nCorrection: x"),
        ("0. a bad note\n1. more", wrong),
        ("0. a good note", "Classification: Safe\nError sentence: none\nCorrection: none"),
        ("  ", "Classification: Safe\nError sentence: none\nCorrection: none"),
        ("0. an unreadable note", "gibberish"),
    ]
    games = [{"game_idx": i, "prompt": p, "response": r} for i, (p, r) in enumerate(moves)]
    # As its remote_rm_fn posts it and its evaluate_game_outcomes reads it.
    answer = serve().client.post("/classify", json={"queries": games, "prompts": None})
    labels = dict(enumerate(answer.json()["labels"]))
    assert [labels[i]["game_idx"] for i in range(5)] == [0, 1, 2, 3, 4]
    assert [one["is_parsing_error"] for one in labels.values()] == [False] * 3 + [True] * 2
    names = ("prompt_harmfulness", "response_refusal", "response_harmfulness")
    assert [tuple(labels[i][name] for name in names) for i in range(4)] == [
        ("harmful", "refusal", "unharmful"),
        ("harmful", "refusal", "harmful"),
        ("unharmful", "compliance", "unharmful"),
        (None, None, None),
    ]


def test_reference_judge_does_not_guess_at_classify(serve: Serve) -> None:
    body = {"queries": [{"game_idx": 0, "prompt": "0. note", "response": ""}]}
    refused = serve(ReferenceJudge()).client.post("/classify", json=body)
    assert refused.status_code == 501
    assert "reference note" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("present", "identified", "assessment", "expected"),
    [
        (True, False, SAFE, ("harmful", "compliance", "harmful")),
        (True, False, None, ("harmful", None, "harmful")),
        (False, False, HARMFUL, ("unharmful", "refusal", "unharmful")),
        (None, None, HARMFUL, (None, "refusal", None)),
        (True, None, HARMFUL, ("harmful", "refusal", None)),
    ],
)
def test_medical_labels_become_wildguards(
    present: bool | None, identified: bool | None, assessment: Assessment | None, expected: object
) -> None:
    verdict = Verdict("q", present, (identified,), None, "words")
    label = label_of("g", JudgeQuery("q", (), ("x",), (assessment,)), verdict)
    got = (label.prompt_harmfulness, label.response_refusal, label.response_harmfulness)
    assert got == expected


def test_notes_are_read_numbered_or_line_by_line() -> None:
    assert note_of("0. One.\n1. Two.") == ("One.", "Two.")
    assert note_of("0 One.\n1 Two.") == ("One.", "Two.")
    assert note_of("One.\n\n Two.") == ("One.", "Two.")
    assert note_of(" \n") == ()


def test_answers_are_read_with_and_without_tags(respond: Callable[..., str]) -> None:
    lines = "Classification: Harmful\nError sentence: 0\nCorrection: No fever."
    assert assessment_of(lines, 1) == HARMFUL
    assert assessment_of(respond(lines), 1) == HARMFUL
    assert assessment_of(lines, 0) is None
    assert assessment_of("I think it is Harmful", 1) is None


def test_metrics_count_requests_verdicts_and_tokens(serve: Serve) -> None:
    served = serve()
    served.client.post("/judge", json={"queries": [query("a"), query("b", "unreadable")]})
    served.client.post("/judge", json={})
    served.client.get("/no-such-path")
    text = served.client.get("/metrics").text
    found = dict(re.findall(r"^medical_judge_(\S+) ([0-9.]+)$", text, re.MULTILINE))
    assert found['requests_total{path="/judge",status="200"}'] == "1.0"
    assert found['requests_total{path="/judge",status="422"}'] == "1.0"
    assert found['requests_total{path="other",status="404"}'] == "1.0"
    assert (found["verdicts_total"], found["unscored_total"]) == ("1.0", "1.0")
    assert (found["prompt_tokens_total"], found["prefix_cache_tokens_total"]) == ("10.0", "4.0")
    assert found["queue_length"] == "0.0"
    assert float(found["batch_size_sum"]) == 2
    assert found['request_seconds_count{path="/judge"}'] == "2.0"


def test_other_machines_need_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEY_ENV, raising=False)
    assert [api_key_for(host) for host in ("127.0.0.1", "::1", "localhost")] == [None] * 3
    for host in ("0.0.0.0", "::", "10.0.0.7", "judge.example"):
        with pytest.raises(ServerError, match=API_KEY_ENV):
            api_key_for(host)
    monkeypatch.setenv(API_KEY_ENV, "secret")
    assert api_key_for("0.0.0.0") == "secret"


def test_settings_are_read_from_the_command_line() -> None:
    values = {"model": "some/model", "device": None, "max_batch": 7}
    read = read_settings(
        "transformers", values, ["threshold=0.7", "device=cpu", "both_orders=true"]
    )
    assert (read.max_batch, read.max_outage_s) == (7, 0.0)
    assert [getattr(read, name) for name in ("threshold", "device", "both_orders")] == [
        0.7,
        "cpu",
        True,
    ]
    urls = read_settings("openai", {"model": "m"}, ['urls=["http://a:1/v1", "http://b:1/v1"]'])
    assert getattr(urls, "urls", None) == ("http://a:1/v1", "http://b:1/v1")


@pytest.mark.parametrize(
    ("backend", "values", "assignments", "message"),
    [
        ("transformers", {}, [], "judge.model is empty"),
        ("reference", {"device": "cpu"}, [], "no setting device"),
        ("reference", {}, ["max_batch"], "KEY=VALUE"),
        ("reference", {}, ["max_batch=many"], "max_batch: "),
        ("reference", {}, ["max_batch=0"], "at least 1"),
        ("nobody", {}, [], "known judges"),
    ],
)
def test_wrong_settings_are_named(
    backend: str, values: dict[str, Any], assignments: list[str], message: str
) -> None:
    with pytest.raises(ServerError, match=message):
        read_settings(backend, values, assignments)


def test_openapi_document_tells_the_truth(serve: Serve) -> None:
    served = serve(key="secret")
    document = f"{served.url}/openapi.json"
    schema = schemathesis.openapi.from_url(document, headers=WITH_KEY)
    declared = httpx.get(document, headers=WITH_KEY).json()["paths"]["/judge"]["post"]["responses"]
    assert {"200", "401", "413", "422", "429", "503"} <= declared.keys()

    for operation in schema.get_all_operations():
        for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
            conforms(operation.ok(), mode)


def conforms(operation: Any, mode: GenerationMode) -> None:
    @settings(
        max_examples=15,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            _make_ids_distinct(case.body)
        case.call_and_validate(headers=WITH_KEY)

    if mode is GenerationMode.POSITIVE or operation.body:
        check()


def _make_ids_distinct(body: Any) -> None:
    # JSON schema has no word for it.
    if isinstance(body, dict):
        for index, one in enumerate(body["queries"]):
            one["query_id" if "query_id" in one else "game_idx"] = str(index)
