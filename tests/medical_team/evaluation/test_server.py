"""Answers over real sockets, and a run that goes on where it stopped."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from medical_team.evaluation.answers_file import Setup, answers, setup_of
from medical_team.evaluation.assessor import load_assessor
from medical_team.evaluation.errors import EvaluationError, GenerationError
from medical_team.evaluation.generation import Decoding
from medical_team.evaluation.notes import Note, read_notes
from medical_team.evaluation.protocols import Protocol
from medical_team.evaluation.server import ServerGenerator, open_server, served_model
from medical_team.evaluation.systems import read_replies

SAFE = "Hm.</think><answer>Classification: Safe\nError sentence: none\nCorrection: none</answer>"
DECODING = Decoding(96)


class Server:
    """Counts what it is asked, and fails when told to.

    Attributes:
        asked: how often each prompt came.
        failures: statuses that the next requests get.
        die_after: answers after which every request gets a 503; ``None`` for never.
        most_in_flight: the most requests at one time.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.failures: list[int] = []
        self.die_after: int | None = None
        self.answer: dict[str, Any] = {"content": SAFE}
        self.bodies: list[dict[str, Any]] = []
        self.most_in_flight = self._in_flight = self._answered = 0
        self._lock = threading.Lock()
        self._gate = threading.Semaphore(64)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, {"data": [{"id": "the-model"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = outer.handle(self.path, body)
                self.reply(status, answer)

            def reply(self, status: int, answer: Any) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def handle(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            self.bodies.append(body)
            dead = self.die_after is not None and self._answered >= self.die_after
            failure = self.failures.pop() if self.failures else 503 if dead else None
            if failure is None:
                self._answered += 1
                self.asked[json.dumps(body.get("messages") or body["prompt"])] += 1
        threading.Event().wait(0.01)
        with self._lock:
            self._in_flight -= 1
        if failure is not None:
            return failure, {"error": "told to"}
        choice = {"finish_reason": "stop"}
        if path == "/v1/completions":
            return 200, {"choices": [{**choice, "text": self.answer["content"]}]}
        return 200, {"choices": [{**choice, "message": self.answer}], "usage": {}}

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


@pytest.fixture(scope="module")
def notes(sample_test: Path) -> list[Note]:
    return read_notes(sample_test)[:20]


def setup(sample_test: Path, generator: ServerGenerator) -> Setup:
    return setup_of(
        sample_test, Protocol.COMPACT, DECODING, think_opened=True, model=generator.identity
    )


def opened(server: Server, **options: Any) -> ServerGenerator:
    return open_server(server.url, "the-model", DECODING, retry_wait_s=0.01, **options)


def run(server: Server, notes: list[Note], data: Path, path: Path, **options: Any) -> Any:
    generator = opened(server, **options)
    try:
        return answers(notes, generator, setup(data, generator), path)
    finally:
        generator.close()


def test_every_note_is_asked_once_and_at_most_so_many_at_a_time(
    server: Server, notes: list[Note], sample_test: Path, tmp_path: Path
) -> None:
    replies = run(server, notes, sample_test, tmp_path / "a.jsonl", concurrency=3)
    assert set(server.asked.values()) == {1}
    assert len(server.asked) == len(replies) == 20
    assert 1 < server.most_in_flight <= 3
    assert len(read_replies(notes, replies, Protocol.COMPACT)[0]) == 20


def test_passing_failures_are_retried_and_others_are_not(
    server: Server, notes: list[Note], sample_test: Path, tmp_path: Path
) -> None:
    server.failures = [500, 429, 503]
    run(server, notes[:3], sample_test, tmp_path / "a.jsonl", concurrency=1)
    assert len(server.bodies) == 6
    server.failures = [401]
    with pytest.raises(EvaluationError, match=r"401.*OPENAI_API_KEY"):
        run(server, notes[3:4], sample_test, tmp_path / "b.jsonl")
    assert len(server.bodies) == 7


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "the server refused the prompt"), (200, "is no completion with one choice")],
)
def test_prompt_that_the_server_does_not_answer_is_counted_and_asked_again_by_the_next_run(
    server: Server, notes: list[Note], sample_test: Path, tmp_path: Path, status: int, reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    server.failures = [status]
    replies = run(server, notes[:3], sample_test, path, concurrency=1)
    predictions, violations = read_replies(notes[:3], replies, Protocol.COMPACT)
    assert len(predictions) == 2
    assert reason in violations[notes[0].text_id]
    again = run(server, notes[:3], sample_test, path, concurrency=1)
    assert all(reply.refusal is None for reply in again.values())
    assert set(server.asked.values()) == {1}


def test_run_goes_on_where_the_server_died_and_repeats_no_answered_request(
    server: Server, notes: list[Note], sample_test: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    server.die_after = 7
    with pytest.raises(GenerationError, match=r"503.*attempts: 2"):
        run(server, notes, sample_test, path, concurrency=2, attempts=2)
    assert len(path.read_text().splitlines()) == 1 + 7
    # As a kill in the middle of a line leaves it.
    with path.open("a") as stream:
        stream.write('{"text_id": "sample-te')
    server.die_after = None
    assert len(run(server, notes, sample_test, path, concurrency=2)) == 20
    assert len(server.asked) == 20
    assert set(server.asked.values()) == {1}
    run(server, notes, sample_test, path)
    assert sum(server.asked.values()) == 20


def test_other_settings_are_refused_by_name(
    server: Server, notes: list[Note], sample_test: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    run(server, notes[:2], sample_test, path)
    generator = open_server(server.url, "other", Decoding(96, 0.5))
    changed = setup_of(
        sample_test, Protocol.FULL, Decoding(96, 0.5), think_opened=True, model=generator.identity
    )
    with pytest.raises(EvaluationError) as caught:
        answers(notes, generator, changed, path)
    generator.close()
    for said in (
        "prompt 'compact' (now 'full')",
        "decoding.temperature 0.0 (now 0.5)",
        "model.model 'the-model' (now 'other')",
        "Choose another output folder",
    ):
        assert said in str(caught.value)


def test_two_runs_do_not_write_to_one_folder(
    server: Server, notes: list[Note], sample_test: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    caught: list[str] = []

    def another(_: int) -> None:
        with pytest.raises(EvaluationError) as error:
            run(server, notes, sample_test, path)
        caught.append(str(error.value))

    generator = opened(server)
    answers(notes[:2], generator, setup(sample_test, generator), path, another)
    generator.close()
    assert len(caught) == 3
    assert all("another evaluation is writing here" in one for one in caught)


def test_token_ids_are_those_of_the_model_in_process(
    server: Server, notes: list[Note], sample_test: Path, tmp_path: Path, tiny_model: Path
) -> None:
    assessor = load_assessor(tiny_model)
    expected = assessor.assess([notes[0].sentences])[0]
    server.answer = {"content": expected.response + "<|end|>"}
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    replies = run(server, notes[:1], sample_test, tmp_path / "a.jsonl", tokenizer=tokenizer)
    ids = server.bodies[0]["prompt"]
    assert tokenizer.convert_ids_to_tokens(ids[-2:]) == ["<|assistant|>", "<think>"]
    reply = replies[notes[0].text_id]
    assert (reply.text, reply.think_opened) == (expected.response, True)


@pytest.mark.parametrize(
    "answer",
    [
        {"content": f"<think>{SAFE}"},
        {"content": SAFE},
        {"content": SAFE.partition("</think>")[2], "reasoning_content": "Hm."},
        {"content": SAFE.partition("</think>")[2], "reasoning": "Hm."},
    ],
)
def test_reasoning_is_found_where_the_server_puts_it(
    server: Server, notes: list[Note], sample_test: Path, tmp_path: Path, answer: dict[str, str]
) -> None:
    server.answer = answer
    replies = run(server, notes[:1], sample_test, tmp_path / "a.jsonl")
    assert read_replies(notes[:1], replies, Protocol.COMPACT)[1] == {}


def test_server_tells_its_one_model(server: Server) -> None:
    assert served_model(server.url) == "the-model"
    with pytest.raises(EvaluationError, match="--server holds 'nowhere'"):
        open_server("nowhere", "m", DECODING)
