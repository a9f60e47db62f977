"""A judge that runs in this project's own server, ``scripts/serve_medical_judge.py``.

``python -m medical_team.remote_judge --url URL`` tests the connection to one.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medical_team.judges.endpoints import Endpoints, open_endpoints
from medical_team.judges.http_answers import TooLargeError
from medical_team.judges.settings import RemoteSettings
from medical_team.judges.wire import Health, JudgeRequest, QueryIn, UnscoredOut, VerdictOut
from medical_team.medical_judge import (
    JudgeError,
    Judgement,
    JudgeQuery,
    JudgeUnavailableError,
    Unscored,
    Verdict,
)

logger = logging.getLogger(__name__)


class _Answer(BaseModel):
    # The items are checked one by one, so that a bad one costs only its own game.
    model_config = ConfigDict(strict=True, extra="ignore")

    fingerprint: str
    verdicts: list[dict[str, Any]]
    unscored: list[dict[str, Any]]


class RemoteJudge:
    """Labels games by asking our server; thread-safe.

    Args:
        endpoints: the servers, all of which serve the same judge; closed with the judge.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._lock = threading.Lock()
        self._healthy: Health | None = None
        self._strangers_told = False

    @property
    def name(self) -> str:
        """``remote:`` and what the server serves; see :meth:`health` for what it raises."""
        return f"remote:{self.health().model}"

    @property
    def fingerprint(self) -> str:
        """The server's judge's own; see :meth:`health` for what it raises."""
        return self.health().fingerprint or ""

    def health(self) -> Health:
        """What the server says of itself, asked until it is healthy once.

        Raises:
            JudgeUnavailableError: if it is not up or still loading.
            JudgeError: if it is no judge server, or wants another key.
        """
        with self._lock:
            if self._healthy is None:
                found = self._endpoints.get("/health")
                try:
                    health = Health.model_validate(found)
                except ValidationError:
                    raise JudgeError(_stranger("/health")) from None
                if health.status != "healthy" or health.fingerprint is None:
                    raise JudgeUnavailableError(
                        f"the judge server is {health.status}: {health.detail or health.model}"
                    )
                self._healthy = health
            return self._healthy

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        """Labels a batch of games; see :class:`~medical_team.medical_judge.Judge`.

        Raises:
            JudgeUnavailableError: if the server, or the judge in it, is out of order for any of
                them; carries the others.
            JudgeError: if the server refuses the batch, is no judge server, or serves another judge
                than before.
        """
        judgements: list[Judgement] = []
        sent: list[tuple[JudgeQuery, QueryIn]] = []
        for query in queries:
            try:
                sent.append((query, QueryIn.from_query(query)))
            except ValidationError as error:
                judgements.append(Unscored(query.query_id, _first(error)))
        if sent:
            try:
                judgements += self._judge(sent)
            except JudgeUnavailableError as error:
                raise JudgeUnavailableError(str(error), (*judgements, *error.answered)) from error
        return judgements

    def close(self) -> None:
        """Gives back the connections."""
        self._endpoints.close()

    def _judge(self, sent: Sequence[tuple[JudgeQuery, QueryIn]]) -> list[Judgement]:
        name, fingerprint = self.name, self.fingerprint
        request = JudgeRequest(queries=[query for _, query in sent])
        try:
            found = self._endpoints.post("/judge", request.model_dump())
        except TooLargeError as error:
            if len(sent) == 1:
                return [Unscored(sent[0][0].query_id, str(error))]
            return self._halves(sent)
        try:
            answer = _Answer.model_validate(found)
        except ValidationError:
            raise JudgeError(_stranger("/judge")) from None
        if answer.fingerprint != fingerprint:
            raise JudgeError(
                f"the judge server now serves another judge ({answer.fingerprint}) than before"
                f" ({fingerprint}); serve the same one again, or start the run anew"
            )
        return self._bound(answer, [query for query, _ in sent], name)

    def _halves(self, sent: Sequence[tuple[JudgeQuery, QueryIn]]) -> list[Judgement]:
        judgements: list[Judgement] = []
        middle = len(sent) // 2
        for half in (sent[:middle], sent[middle:]):
            try:
                judgements += self._judge(half)
            except JudgeUnavailableError as error:
                raise JudgeUnavailableError(str(error), (*judgements, *error.answered)) from error
            except JudgeError as error:
                judgements += [Unscored(query.query_id, str(error)) for query, _ in half]
        return judgements

    def _bound(self, answer: _Answer, queries: Sequence[JudgeQuery], name: str) -> list[Judgement]:
        assessors = {query.query_id: len(query.assessments) for query in queries}
        found: dict[str, list[Verdict | UnscoredOut]] = {query_id: [] for query_id in assessors}
        for item in answer.verdicts:
            if (query_id := self._asked(item, found)) is not None:
                found[query_id].append(_verdict(query_id, item, assessors[query_id], name))
        for item in answer.unscored:
            if (query_id := self._asked(item, found)) is not None:
                found[query_id].append(_unscored(query_id, item))
        judgements: list[Judgement] = []
        away = ""
        for query_id, said in found.items():
            one = _one_of(query_id, said)
            if isinstance(one, UnscoredOut) and one.unavailable:
                away = one.reason
            else:
                judgements.append(one.to_unscored() if isinstance(one, UnscoredOut) else one)
        if away:
            raise JudgeUnavailableError(f"the server's judge is out of order: {away}", judgements)
        return judgements

    def _asked(self, item: dict[str, Any], asked: Container[str]) -> str | None:
        query_id = item.get("query_id")
        if isinstance(query_id, str) and query_id in asked:
            return query_id
        if not self._strangers_told:
            self._strangers_told = True
            logger.warning("The judge server answers what was not asked: query_id %.80r", query_id)
        return None


def build(settings: RemoteSettings) -> RemoteJudge:
    """Makes the judge; its servers need not be up yet."""
    return RemoteJudge(open_endpoints(settings))


def _verdict(
    query_id: str, item: dict[str, Any], assessors: int, name: str
) -> Verdict | UnscoredOut:
    """One verdict of an answer; what does not fit the query is unscored."""
    try:
        verdict = replace(VerdictOut.model_validate(item).to_verdict(), source=name)
    except ValidationError as error:
        reason = f"the judge server's verdict cannot be read: {_first(error)}"
        return UnscoredOut(query_id=query_id, reason=reason)
    told = verdict.probabilities.error_identified if verdict.probabilities else ()
    for labels in (verdict.error_identified, told or verdict.error_identified):
        if len(labels) != assessors:
            reason = f"the judge server labels {len(labels)} assessors, asked were {assessors}"
            return UnscoredOut(query_id=query_id, reason=reason)
    return verdict


def _unscored(query_id: str, item: dict[str, Any]) -> UnscoredOut:
    try:
        return UnscoredOut.model_validate(item)
    except ValidationError:
        return UnscoredOut(query_id=query_id, reason="the judge server gives no reason")


def _one_of(query_id: str, said: Sequence[Verdict | UnscoredOut]) -> Verdict | UnscoredOut:
    if not said:
        return UnscoredOut(query_id=query_id, reason="the judge server left the game out")
    if len({_labels(one) for one in said}) > 1:
        reason = "the judge server gives the game several verdicts that contradict each other"
        return UnscoredOut(query_id=query_id, reason=reason)
    return said[0]


def _labels(one: Verdict | UnscoredOut) -> object:
    # Not what it took: a repeated verdict may come from the server's cache.
    if isinstance(one, UnscoredOut):
        return None
    return (one.error_present, one.error_identified, one.realistic, one.probabilities)


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _stranger(path: str) -> str:
    return (
        f"what answers at {path} is no medical judge server; start one with"
        " scripts/serve_medical_judge.py and give its address, without a path, in judge.urls"
    )


if __name__ == "__main__":
    from medical_team.judges.connection_test import main

    sys.exit(main())
