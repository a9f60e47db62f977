"""A server over real sockets that misbehaves when told to, and two judges' good answers."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from medical_team.answers import Assessment, Classification
from medical_team.medical_judge import JudgeQuery


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Behaviour = Callable[[socket.socket, Request], None]


class ScriptedServer:
    """Does what it is told with each request, in order; then what it always does.

    Attributes:
        url: its address.
        requests: what came, in order.
        always: what it does when nothing else is left to do.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.always: Behaviour = self.reply(404)
        self.stopped = threading.Event()
        self._next: deque[Behaviour] = deque()
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._connections: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads[0].start()

    def then(self, *behaviours: Behaviour) -> None:
        with self._lock:
            self._next.extend(behaviours)

    def reply(
        self, status: int = 200, body: object = b"", headers: dict[str, str] | None = None
    ) -> Behaviour:
        def behave(connection: socket.socket, request: Request) -> None:
            connection.sendall(whole_answer(status, body, headers or {}))

        return behave

    def break_off(self, body: object, *, reset: bool) -> Behaviour:
        """Half of an answer, then a reset or a plain close."""

        def behave(connection: socket.socket, request: Request) -> None:
            answer = whole_answer(200, body, {})
            connection.sendall(answer[: len(answer) - len(to_bytes(body)) // 2 - 1])
            if reset:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            # Not close(): that would wait for the stream that requests are read from.
            os.close(connection.detach())

        return behave

    def cut_without_length(self, body: object) -> Behaviour:
        """Half of a body whose end is the connection's end, so that it looks whole."""

        def behave(connection: socket.socket, request: Request) -> None:
            half = to_bytes(body)[: len(to_bytes(body)) // 2]
            connection.sendall(b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n" + half)
            os.close(connection.detach())

        return behave

    def silence(self) -> Behaviour:
        def behave(connection: socket.socket, request: Request) -> None:
            self.stopped.wait()

        return behave

    def drip(self, answer: bytes, every_s: float) -> Behaviour:
        """One byte after another, so that each arrives within any socket's timeout."""

        def behave(connection: socket.socket, request: Request) -> None:
            for byte in answer:
                if self.stopped.wait(every_s):
                    return
                connection.sendall(bytes([byte]))

        return behave

    def close(self) -> None:
        self.stopped.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, suppress(OSError, ValueError):
            while (request := read_request(stream)) is not None:
                with self._lock:
                    self.requests.append(request)
                    behave = self._next.popleft() if self._next else self.always
                behave(connection, request)


def read_request(stream: Any) -> Request | None:
    line = stream.readline()
    if not line:
        return None
    method, path, _ = line.decode().split()
    headers = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return Request(method, path, headers, stream.read(int(headers.get("content-length", 0))))


def to_bytes(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def whole_answer(status: int, body: object, headers: dict[str, str]) -> bytes:
    content = to_bytes(body)
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + content


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A misbehaving server."""
    one = ScriptedServer()
    yield one
    one.close()


@pytest.fixture
def start_server() -> Iterator[Callable[[], ScriptedServer]]:
    """Starts further ones."""
    started: list[ScriptedServer] = []

    def start() -> ScriptedServer:
        started.append(ScriptedServer())
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def dead_url() -> str:
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def game(number: int) -> JudgeQuery:
    """A game whose true labels follow from its number: odd ones hold an error."""
    clean = (f"Game {number} is about a cough.", "Pulse is 90/min.", "She is given penicillin.")
    drug = "WRONG" if number % 2 else "penicillin"
    note = (clean[0], "Her pulse is 90/min.", f"She is given {drug}.")
    return JudgeQuery(
        f"g{number}", clean, note, (Assessment(Classification.HARMFUL, 2, clean[2]), None)
    )


@pytest.fixture
def games() -> Callable[[int], list[JudgeQuery]]:
    """Games ``g0``, ``g1`` and so on; odd ones hold an error, which the first assessor names."""
    return lambda count: [game(number) for number in range(count)]


def completion(word: str, p_yes: float | None = None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": word}}
    if p_yes is not None:
        top = [
            {"token": "Yes", "logprob": math.log(p_yes)},
            {"token": "No", "logprob": math.log1p(-p_yes)},
        ]
        chosen = max(top, key=lambda one: float(str(one["logprob"])))
        choice["logprobs"] = {"content": [{**chosen, "top_logprobs": top}]}
    usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
    return {
        "id": "x",
        "object": "chat.completion",
        "choices": [choice],
        "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 64}},
    }


@pytest.fixture
def chat_answer() -> Callable[..., dict[str, Any]]:
    """A chat completion of one word, with P(yes) or without log-probabilities."""
    return completion


def game_number(text: str) -> int:
    found = re.search(r"Game (\d+) is", text)
    assert found is not None
    return int(found[1])


@pytest.fixture
def number_of() -> Callable[[str], int]:
    """The number of the game that a request is about."""
    return game_number
