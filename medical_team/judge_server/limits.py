"""What the judge server refuses: strangers, requests that are too large or too slow, a full queue.

All of it is decided before a request's queries reach the judge.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API_KEY_ENV = "MEDICAL_JUDGE_API_KEY"

_RATE_WINDOW_S = 30.0  # over which the judge's speed is taken
_LONGEST_RETRY_S = 60
_UNKNOWN_RATE_RETRY_S = 5


class ServerError(ValueError):
    """A server that cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the server takes on.

    Attributes:
        max_request_bytes: largest body.
        max_held_bytes: bodies that are held in memory, those of all requests together.
        max_queue: most queries that are accepted and not answered.
        body_timeout_s: longest time for a client to send a body, in seconds.
    """

    max_request_bytes: int = 4 * 2**20
    max_held_bytes: int = 64 * 2**20
    max_queue: int = 4096
    body_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ServerError: naming the limit, its value and what is allowed.
        """
        for name in ("max_request_bytes", "max_queue", "body_timeout_s"):
            if (value := getattr(self, name)) <= 0:
                raise ServerError(f"{name} is {value}, it must be above 0")
        if self.max_held_bytes < self.max_request_bytes:
            raise ServerError(
                f"max_held_bytes is {self.max_held_bytes}, it must be at least max_request_bytes"
                f" ({self.max_request_bytes})"
            )


class Admission:
    """Places in the queue: a request takes all that it needs, or none and is refused.

    Args:
        places: most queries that are accepted and not answered.
        backlog: queries that the judge's queue holds; those of clients that went away are among
            them until a batch passes over them.
        clock: monotonic time, in seconds.
    """

    def __init__(
        self,
        places: int,
        backlog: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = places
        self._backlog = backlog
        self._clock = clock
        self._taken = 0
        self._answered: deque[tuple[float, int]] = deque()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return max(self._taken, self._backlog())

    @contextmanager
    def places_for(self, count: int) -> Iterator[None]:
        """Holds places while a request's queries are judged.

        Raises:
            HTTPException: 413 if the request is larger than the queue; 429 if it does not fit in
                now, with the time after which it may.
        """
        if count > self._places:
            raise HTTPException(
                413,
                f"the request holds {count} queries, the server takes at most {self._places} at"
                " once (--max-queue); send them in several requests",
            )
        if (missing := (taken := self.taken) + count - self._places) > 0:
            wait_s = self.retry_after_s(missing)
            raise HTTPException(
                429,
                f"the queue has no room for {count} more queries ({taken} of {self._places} places"
                f" are taken); try again in {wait_s} s",
                {"Retry-After": str(wait_s)},
            )
        self._taken += count
        self._empty.clear()
        try:
            yield
            self._answered.append((self._clock(), count))
        finally:
            self._taken -= count
            if not self._taken:
                self._empty.set()

    def retry_after_s(self, missing: int) -> int:
        """Whole seconds after which so many places should be free, at the judge's latest speed."""
        now = self._clock()
        while self._answered and self._answered[0][0] < now - _RATE_WINDOW_S:
            self._answered.popleft()
        if not self._answered:
            return _UNKNOWN_RATE_RETRY_S
        seconds = max(1.0, now - self._answered[0][0])
        rate = sum(count for _, count in self._answered) / seconds
        return min(_LONGEST_RETRY_S, max(1, ceil(missing / rate)))

    async def emptied(self) -> None:
        """Waits until no place is taken."""
        await self._empty.wait()


class RequireKey:
    """ASGI layer: only requests that carry the key pass; the open paths need none.

    Args:
        app: the next layer.
        key: the key.
        open_paths: paths that anyone may ask for.
    """

    def __init__(self, app: ASGIApp, key: str, open_paths: frozenset[str]) -> None:
        self._app = app
        self._key = key.encode()
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http" or scope["path"] in self._open_paths or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        refused = _RefusedError(
            401,
            f"the API key is missing or wrong; send 'Authorization: Bearer KEY' with the server's"
            f" {API_KEY_ENV}",
            {"WWW-Authenticate": "Bearer"},
        )
        await refused.response(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        # Headers are Latin-1 by the standard; compared as bytes, since only they compare in
        # constant time whatever they hold.
        given = token.strip().encode("latin-1")
        return hmac.compare_digest(given, self._key) and scheme.lower() == "bearer"


class BoundedBody:
    """ASGI layer: reads a posted body within limits of size, time and memory, then passes it on.

    Size is counted on what arrives and not taken from the header, which a chunked body does not
    have. Without the time limit a client that sends a byte a minute would hold its body for ever.

    Args:
        app: the next layer.
        limits: the limits.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            try:
                self._check_announced(Headers(scope=scope))
                await self._read(receive, body)
            except _RefusedError as refused:
                await refused.response(scope, receive, send)
            except _ClientGoneError:
                pass  # nobody is left to be answered
            else:
                await self._app(scope, _replay(bytes(body), receive), send)
        finally:
            self._held -= len(body)

    async def _read(self, receive: Receive, body: bytearray) -> None:
        seconds = self._limits.body_timeout_s
        try:
            async with asyncio.timeout(seconds):
                await self._read_all(receive, body)
        except TimeoutError:
            raise _RefusedError(
                408, f"the body did not arrive within {seconds:g} s", {"Connection": "close"}
            ) from None

    async def _read_all(self, receive: Receive, body: bytearray) -> None:
        most = self._limits.max_request_bytes
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGoneError
            chunk = message.get("body", b"")
            if len(body) + len(chunk) > most:
                raise self._too_large()
            if self._held + len(chunk) > self._limits.max_held_bytes:
                raise _RefusedError(
                    429,
                    "too many large requests at once (--max-held-bytes); try again later",
                    {"Retry-After": str(_UNKNOWN_RATE_RETRY_S)},
                )
            self._held += len(chunk)
            body += chunk
            more = message.get("more_body", False)

    def _check_announced(self, headers: Headers) -> None:
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limits.max_request_bytes:
            raise self._too_large()

    def _too_large(self) -> _RefusedError:
        return _RefusedError(
            413,
            f"the body has more than {self._limits.max_request_bytes} bytes (--max-request-bytes);"
            " send fewer queries in a request",
        )


class _RefusedError(Exception):
    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.response = JSONResponse({"detail": detail}, status, headers)


class _ClientGoneError(Exception):
    pass


def _replay(body: bytes, receive: Receive) -> Receive:
    """First the whole body, then whatever else the client does."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return first.pop() if first else await receive()

    return next_message
