"""The judge server's process: settings from the command line, loading, signals, exit code."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import uvicorn
from pydantic import TypeAdapter, ValidationError

from medical_team.judge_server.app import JudgeService, create_app
from medical_team.judge_server.limits import API_KEY_ENV, Limits, ServerError
from medical_team.judge_server.metrics import MeasuredJudge
from medical_team.judges import build_judge, settings_class
from medical_team.judges.batching import BatchingQueue
from medical_team.judges.cache import cached
from medical_team.judges.settings import JudgeSettings
from medical_team.medical_judge import Judge, JudgeError

_WRITE_TIMEOUT_S = 10  # for clients to take the last answers before the server ends


def read_settings(
    backend: str, values: dict[str, Any], assignments: Sequence[str]
) -> JudgeSettings:
    """The judge's settings from the command line.

    An outage is reported at once (``max_outage_s`` is 0 unless it is set), since it is the client
    that waits.

    Args:
        backend: the back end's name.
        values: settings by name; ``None`` leaves one at its default.
        assignments: further ones as ``KEY=VALUE``, the value as JSON or plain text.

    Raises:
        ServerError: naming the setting, what was found and what is known.
    """
    try:
        kind = settings_class(backend)
    except ValueError as error:
        raise ServerError(str(error)) from error
    read: dict[str, Any] = {"max_outage_s": 0.0}
    read |= {name: value for name, value in values.items() if value is not None}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ServerError(f"--set {assignment}: expected KEY=VALUE")
        read[name] = _value(text)
    known = sorted(field.name for field in fields(kind))
    if unknown := sorted(read.keys() - set(known)):
        raise ServerError(
            f"the {backend} judge has no setting {', '.join(unknown)}; known: {', '.join(known)}"
        )
    try:
        return TypeAdapter(kind).validate_python(read)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ServerError(f"{where or backend}: {first['msg']}") from error


def api_key_for(host: str) -> str | None:
    """The key from the environment.

    Args:
        host: where the server will listen.

    Raises:
        ServerError: if there is none and others than this machine could connect.
    """
    key = os.environ.get(API_KEY_ENV, "").strip()
    if not key and not _is_loopback(host):
        raise ServerError(
            f"--host {host} can be reached from other machines and {API_KEY_ENV} is not set;"
            " set it to a secret, or listen on 127.0.0.1"
        )
    return key or None


def serve(settings: JudgeSettings, limits: Limits, *, host: str, port: int) -> int:
    """Listens at once, loads the judge, serves until a signal, finishes what was accepted.

    Args:
        settings: the judge's.
        limits: how much is accepted.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.

    Returns:
        The process's exit code.

    Raises:
        ServerError: if the server may not or cannot listen there.
    """
    key = api_key_for(host)
    listening = _listen(host, port)
    model = str(getattr(settings, "model", "") or settings.name)
    service = JudgeService(model, limits)
    config = uvicorn.Config(
        create_app(service, limits, key),
        http="h11",
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_WRITE_TIMEOUT_S,
    )
    server = _Server(config, service, settings)
    shown = f"[{host}]" if ":" in host else host
    print(f"listening on http://{shown}:{listening.getsockname()[1]}, loading {model}", flush=True)
    server.run(sockets=[listening])
    if server.failure is not None:
        print(f"the judge could not be loaded: {server.failure}", file=sys.stderr, flush=True)
    code = 0 if server.failure is None else 1
    if server.loading:
        os._exit(code)  # a thread in the midst of loading a model cannot be stopped
    return code


class _Server(uvicorn.Server):
    """Loads the judge while it listens, and ends in good order.

    Args:
        config: uvicorn's.
        service: what judges.
        settings: the judge's.
    """

    def __init__(
        self, config: uvicorn.Config, service: JudgeService, settings: JudgeSettings
    ) -> None:
        super().__init__(config)
        self._service = service
        self._settings = settings
        self.loading = True
        self.failure: str | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._load, args=(loop,), name="load", daemon=True).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        await self._service.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: object) -> None:
        # Unlike uvicorn's, it does not raise the signal again at the end: an orderly end is 0.
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            built = [build_judge(self._settings) for _ in range(self._settings.replicas)]
            measured = [MeasuredJudge(judge, self._service.metrics) for judge in built]
            judges = cached(measured, self._settings)
            _ = judges[0].fingerprint  # asked now, in this thread, where it may take a while
        except JudgeError as error:
            loop.call_soon_threadsafe(self._failed, str(error))
        # Whatever an engine raises on bad weights, a missing package or a lack of memory: the
        # process must say so and end.
        except Exception as error:
            loop.call_soon_threadsafe(self._failed, f"{type(error).__name__}: {error}")
        else:
            loop.call_soon_threadsafe(self._loaded, judges)

    def _failed(self, why: str) -> None:
        self.loading, self.failure, self.should_exit = False, why, True

    def _loaded(self, judges: Sequence[Judge]) -> None:
        settings = self._settings
        queue = BatchingQueue(
            judges,
            max_batch=settings.max_batch,
            max_wait_ms=settings.max_wait_ms,
            concurrency=settings.concurrency,
            max_outage_s=settings.max_outage_s,
            batch_limit_s=settings.batch_limit_s,
        )
        self._service.open(judges[0], queue)
        self.loading = False
        print(f"healthy: {judges[0].name} is loaded", flush=True)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ServerError(
            f"cannot listen on {host} port {port} ({error}); choose another --port or --host"
        ) from error
    # asyncio sets it on its own sockets only; without it small answers wait 40 ms for the client.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Connections inherit it: who does not take an answer must not hold its memory for ever.
        milliseconds = 60_000
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
