"""What the judge server counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medical_team.medical_judge import Judge, JudgeError, Judgement, JudgeQuery, Verdict

CLIENT_GONE = 499  # nginx's status for it; only counted, since nobody is left to read it

_PATHS = frozenset({"/health", "/judge", "/classify", "/metrics", "/docs", "/openapi.json"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class ServerMetrics:
    """The server's counters, in a registry of their own.

    Args:
        waiting: gives the number of queries that are accepted and not answered.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "medical_judge_requests", "Requests", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "medical_judge_request_seconds",
            "Time from a request's head to its answer",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._verdicts = self._counter("verdicts", "Queries that got a verdict")
        self._unscored = self._counter("unscored", "Queries that got none")
        self._cached = self._counter("cached_verdicts", "Verdicts that came from the cache")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of the judge's prompts")
        self._prefix_tokens = self._counter(
            "prefix_cache_tokens", "Tokens of the judge's prompts that were not computed again"
        )
        self._batch_size = Histogram(
            "medical_judge_batch_size",
            "Queries judged together",
            buckets=_SIZES,
            registry=self.registry,
        )
        self._batch_seconds = Histogram(
            "medical_judge_batch_seconds",
            "Time to judge a batch",
            buckets=_SECONDS,
            registry=self.registry,
        )
        queue = Gauge(
            "medical_judge_queue_length",
            "Queries that are accepted and not answered",
            registry=self.registry,
        )
        queue.set_function(waiting)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Counts an answered request.

        Args:
            path: one of the server's own paths.
            status: HTTP status.
            seconds: how long it took.
        """
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_outcomes(self, outcomes: Iterable[Verdict | JudgeError]) -> None:
        """Counts what was answered to queries."""
        for one in outcomes:
            if isinstance(one, JudgeError):
                self._unscored.inc()
                continue
            self._verdicts.inc()
            self._cached.inc(one.cached)
            self._prompt_tokens.inc(one.usage.prompt_tokens)
            self._prefix_tokens.inc(one.usage.cached_tokens or 0)

    def count_batch(self, size: int, seconds: float) -> None:
        """Counts a batch, whether or not it was answered."""
        self._batch_size.observe(size)
        self._batch_seconds.observe(seconds)

    def _counter(self, name: str, says: str) -> Counter:
        return Counter(f"medical_judge_{name}", says, registry=self.registry)


class MeasuredJudge:
    """A judge whose batches are counted.

    Args:
        judge: who is asked.
        metrics: where they are counted.
    """

    def __init__(self, judge: Judge, metrics: ServerMetrics) -> None:
        self._judge = judge
        self._metrics = metrics

    @property
    def name(self) -> str:
        """The judge's name."""
        return self._judge.name

    @property
    def fingerprint(self) -> str:
        """The judge's fingerprint."""
        decisions = getattr(self._judge, "decisions", "")
        # A client cannot see by what threshold labels are decided here.
        return "-".join(filter(None, (self._judge.fingerprint, decisions)))

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        """Labels a batch; see :class:`~medical_team.medical_judge.Judge`."""
        began = time.perf_counter()
        try:
            return self._judge.judge(queries)
        finally:
            self._metrics.count_batch(len(queries), time.perf_counter() - began)

    def close(self) -> None:
        """Closes the judge."""
        self._judge.close()


class CountRequests:
    """ASGI layer: counts requests by path and status.

    Args:
        app: the next layer.
        metrics: where they are counted.
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = CLIENT_GONE, time.perf_counter()

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            status = 500
            raise
        finally:
            path = scope["path"] if scope["path"] in _PATHS else "other"
            self._metrics.count_request(path, status, time.perf_counter() - began)
