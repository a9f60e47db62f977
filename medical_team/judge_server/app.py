"""The judge server's HTTP interface: one queue behind ``/judge`` and ``/classify``.

Requests of many trainers become common batches. Ids are only distinct within a request, so each
request's queries are renamed on their way into the queue and back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from medical_team.judge_server.classify import label_of, queries_of
from medical_team.judge_server.limits import Admission, BoundedBody, Limits, RequireKey
from medical_team.judge_server.metrics import CLIENT_GONE, CountRequests, ServerMetrics
from medical_team.judges.batching import BatchingQueue
from medical_team.judges.reference import ReferenceJudge
from medical_team.judges.wire import (
    ClassifyRequest,
    ClassifyResponse,
    Health,
    JudgeRequest,
    JudgeResponse,
    UnscoredOut,
    VerdictOut,
)
from medical_team.medical_judge import (
    Judge,
    JudgeError,
    JudgeQuery,
    JudgeUnavailableError,
    Verdict,
)

T = TypeVar("T")

_RETRY_S = 5  # for a client whose judge is loading or out of order
_OPEN_PATHS = frozenset({"/health"})
_ERRORS_SHOWN = 10


class Problem(BaseModel):
    """Why a request is refused."""

    detail: str


class JudgeService:
    """One judge and its queue, from before it is loaded until its last query is answered.

    Args:
        model: what is served, as ``/health`` says it.
        limits: how much is accepted.
    """

    def __init__(self, model: str, limits: Limits) -> None:
        self.model = model
        self.metrics = ServerMetrics(lambda: self.admission.taken)
        self.admission = Admission(
            limits.max_queue, lambda: self._queue.waiting if self._queue else 0
        )
        self._queue: BatchingQueue | None = None
        self._judge: Judge | None = None
        self._closing = False
        self._numbers = count()

    def open(self, judge: Judge, queue: BatchingQueue) -> None:
        """Begins to judge.

        Args:
            judge: names itself in answers.
            queue: holds this judge or its replicas.
        """
        self._judge, self._queue = judge, queue

    @property
    def judge(self) -> Judge:
        """The judge.

        Raises:
            HTTPException: 503 while it is loading.
        """
        if self._judge is None:
            raise _unavailable(f"{self.model} is still loading")
        return self._judge

    async def outcomes(self, queries: Sequence[JudgeQuery]) -> list[Verdict | JudgeError]:
        """Labels the queries of one request.

        Returns:
            For each query, in their order, its verdict or why it has none.

        Raises:
            HTTPException: 413 or 429 if there is no room; 503 if the judge is loading or out of
                order for all of them, or the server shuts down.
        """
        if self._queue is None or self._closing:
            raise _unavailable(
                "the server shuts down" if self._closing else f"{self.model} is still loading"
            )
        number = next(self._numbers)
        with self.admission.places_for(len(queries)):
            outcomes = await asyncio.gather(
                *(self._outcome(self._queue, query, number) for query in queries)
            )
            away = [str(one) for one in outcomes if isinstance(one, JudgeUnavailableError)]
            if away and len(away) == len(outcomes):
                raise _unavailable(away[0])
        self.metrics.count_outcomes(outcomes)
        return outcomes

    async def close(self) -> None:
        """Refuses what is new, waits until all that was accepted is answered, closes the judge."""
        self._closing = True
        await self.admission.emptied()
        if self._queue is not None:
            await self._queue.close()

    async def _outcome(
        self, queue: BatchingQueue, query: JudgeQuery, number: int
    ) -> Verdict | JudgeError:
        try:
            verdict, _ = await queue.judge(replace(query, query_id=f"{number}:{query.query_id}"))
        except JudgeError as error:
            return error
        return replace(verdict, query_id=query.query_id)


def create_app(service: JudgeService, limits: Limits, api_key: str | None) -> FastAPI:
    """The server's application.

    Args:
        service: what judges.
        limits: how much a request may bring.
        api_key: the key that all paths but ``/health`` ask for, or ``None`` for none.
    """
    # For the documentation; RequireKey refuses strangers before their body is read.
    bearer = [Depends(HTTPBearer(auto_error=False))] if api_key else []
    app = FastAPI(title="Medical judge", version="1", redoc_url=None)
    app.add_exception_handler(RequestValidationError, _invalid)
    # The last one added is the outermost.
    app.add_middleware(BoundedBody, limits=limits)
    if api_key:
        app.add_middleware(RequireKey, key=api_key, open_paths=_OPEN_PATHS)
    app.add_middleware(CountRequests, metrics=service.metrics)

    @app.get("/health", responses={503: {"model": Health}})
    async def health(response: Response) -> Health:
        """Says whether the judge is loaded."""
        try:
            judge = service.judge
        except HTTPException:
            response.status_code = 503
            response.headers["Retry-After"] = str(_RETRY_S)
            return Health(status="loading", model=service.model)
        return Health(status="healthy", model=service.model, fingerprint=judge.fingerprint)

    @app.post("/judge", responses=_refusals(bool(api_key)), dependencies=bearer)
    async def judge(body: JudgeRequest, request: Request) -> JudgeResponse:
        """Labels games; verdicts and unscored games carry the ids of their queries."""
        named = service.judge
        queries = [query.to_query() for query in body.queries]
        outcomes = await _unless_gone(request, service.outcomes(queries))
        return JudgeResponse(
            judge=named.name,
            fingerprint=named.fingerprint,
            verdicts=[VerdictOut.from_verdict(one) for one in outcomes if isinstance(one, Verdict)],
            unscored=[
                UnscoredOut(
                    query_id=query.query_id,
                    reason=str(one),
                    unavailable=isinstance(one, JudgeUnavailableError),
                )
                for query, one in zip(queries, outcomes, strict=True)
                if isinstance(one, JudgeError)
            ],
        )

    @app.post(
        "/classify",
        responses={**_refusals(bool(api_key)), 501: {"model": Problem}},
        dependencies=bearer,
    )
    async def classify(body: ClassifyRequest, request: Request) -> ClassifyResponse:
        """Labels games in the shape that Self-RedTeam's trainer reads, without a reference."""
        if service.judge.name == ReferenceJudge.name:
            raise HTTPException(
                501,
                "the reference judge compares a note with a reference note, which /classify does"
                " not carry; serve a model, or use /judge",
            )
        queries = queries_of(body.queries)
        outcomes = await _unless_gone(request, service.outcomes(list(queries.values())))
        for outcome in outcomes:
            # The labels cannot say "ask again", and what was answered is in the cache of verdicts.
            if isinstance(outcome, JudgeUnavailableError):
                raise _unavailable(str(outcome))
        found = dict(zip(queries, outcomes, strict=True))
        return ClassifyResponse(
            labels=[
                label_of(game.game_idx, queries.get(place), found.get(place))
                for place, game in enumerate(body.queries)
            ]
        )

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **_unauthorised(bool(api_key))},
        dependencies=bearer,
    )
    async def metrics() -> Response:
        """What the server has counted, for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Does the work; gives it up if the client goes away, so that it holds no place in the queue.

    Raises:
        HTTPException: if the client is gone.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise HTTPException(CLIENT_GONE, "the client went away")
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _invalid(request: Request, error: Exception) -> Response:
    # Without the input that FastAPI's own answer repeats: it may be large, and need not be text
    # that can be sent.
    found = error.errors()[:_ERRORS_SHOWN] if isinstance(error, RequestValidationError) else []
    shown = [{key: one[key] for key in ("loc", "msg", "type")} for one in found]
    return Response(json.dumps({"detail": shown}), 422, media_type="application/json")


def _unavailable(detail: str) -> HTTPException:
    return HTTPException(503, detail, {"Retry-After": str(_RETRY_S)})


def _refusals(has_key: bool) -> dict[int | str, dict[str, Any]]:
    said = {
        400: "The body cannot be read",
        408: "The body came too slowly",
        413: "The body or its number of queries is too large",
        429: "The queue is full",
        503: "The judge is loading or out of order",
    }
    retry = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
    return _unauthorised(has_key) | {
        status: {
            "model": Problem,
            "description": description,
            **({"headers": retry} if status in (429, 503) else {}),
        }
        for status, description in said.items()
    }


def _unauthorised(has_key: bool) -> dict[int | str, dict[str, Any]]:
    if not has_key:
        return {}
    return {401: {"model": Problem, "description": "The API key is missing or wrong"}}
