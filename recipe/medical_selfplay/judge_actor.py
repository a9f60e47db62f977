"""The one Ray actor that owns the judge, and the replicas behind it.

verl hands each game to one of several reward workers at random; a batch formed inside a worker
would see a fraction of the games. All workers queue in front of this actor instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from medical_team.calibration.record import (
    Calibration,
    CalibrationError,
    check_calibration,
    read_calibration,
)
from medical_team.game_record import JudgeCost
from medical_team.judges import build_judge
from medical_team.judges.batching import BatchingQueue
from medical_team.judges.cache import cached
from medical_team.judges.settings import JudgeSettings, LocalModelSettings, VerlSettings
from medical_team.medical_judge import (
    Judge,
    JudgeError,
    Judgement,
    JudgeQuery,
    JudgeUnavailableError,
    Verdict,
)

NAME = "medical_judge"


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """What the judge did since the last report.

    Attributes:
        asked: games it was asked about.
        unscored: games that it gave no verdict for.
        outage: why no game can be judged at all, or ``None``.
        last_error: why the last unscored game was not judged.
        games: the records of those that it gave no verdict for, each as a line of JSON.
    """

    asked: int
    unscored: int
    outage: str | None
    last_error: str | None
    games: tuple[str, ...] = ()

    def after(self, earlier: JudgeReport) -> JudgeReport:
        """Both reports as one; the games of neither."""
        return JudgeReport(
            earlier.asked + self.asked,
            earlier.unscored + self.unscored,
            self.outage or earlier.outage,
            self.last_error or earlier.last_error,
        )


class JudgeActor:
    """Judges the games of all reward workers in common batches.

    Args:
        settings: which judge, and how games are batched.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._asked = self._unscored = 0
        self._outage: str | None = None
        self._last_error: str | None = None
        self._games: list[str] = []
        self._calibration: Calibration | None = None
        self._verifying = asyncio.Lock()
        try:
            if settings.calibration is not None:
                self._calibration = read_calibration(Path(settings.calibration))
            replicas = _replicas(settings)
            judges = cached(replicas, settings)
        except (JudgeError, CalibrationError) as error:
            self._outage = f"the judge could not be started: {error}"
            return
        except Exception as error:  # whatever an engine raises, the run must stop with it
            self._outage = f"the judge could not be started: {type(error).__name__}: {error}"
            return
        self._judge = replicas[0]
        self._queue = BatchingQueue(
            judges,
            max_batch=settings.max_batch,
            max_wait_ms=settings.max_wait_ms,
            concurrency=settings.concurrency,
            max_outage_s=settings.max_outage_s,
            batch_limit_s=settings.batch_limit_s,
        )

    async def judge(self, query: JudgeQuery) -> tuple[Verdict, JudgeCost]:
        """Waits for a verdict; for ever once the judge is lost.

        The trainer sees the outage and stops the run. If its games failed instead, each would print
        a traceback of its own before the one message that counts.

        Raises:
            JudgeError: if the judge cannot answer this query.
        """
        self._asked += 1
        try:
            await self._verify()
            if self._outage is None:
                return await self._queue.judge(query)
        except JudgeUnavailableError as error:
            self._outage = str(error)
        return await asyncio.Future()

    async def keep_unscored(self, record: str, reason: str) -> None:
        """Takes a game without a verdict, for the next report.

        Args:
            record: a :class:`~medical_team.game_record.GameRecord` as JSON.
            reason: why there is no verdict.
        """
        self._unscored += 1
        self._last_error = reason
        self._games.append(record)

    async def report(self) -> JudgeReport:
        """What happened since the last call."""
        report = JudgeReport(
            self._asked, self._unscored, self._outage, self._last_error, tuple(self._games)
        )
        self._asked = self._unscored = 0
        self._last_error = None
        self._games = []
        return report

    async def _verify(self) -> None:
        """Holds the judge against its calibration, once it can say who it is."""
        async with self._verifying:
            if self._calibration is None or self._outage is not None:
                return
            try:
                found = await asyncio.to_thread(lambda: self._judge.fingerprint)
            except JudgeUnavailableError:
                return  # the queue waits for it; the next game asks again
            self._outage = check_calibration(self._calibration, found)
            self._calibration = None


class JudgeReplica:
    """One of several judges side by side, in a process of its own.

    Args:
        settings: which judge.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._problem: str | None = None
        try:
            self._judge = build_judge(settings)
        except Exception as error:  # said by problem(): an actor that dies says it worse
            shown = "" if isinstance(error, JudgeError) else f"{type(error).__name__}: "
            self._problem = f"{shown}{error}"

    def problem(self) -> str | None:
        """Why it cannot judge."""
        return self._problem

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        """Labels a batch of games."""
        return self._judge.judge(queries)

    def fingerprint(self) -> str:
        """The judge's fingerprint."""
        return self._judge.fingerprint

    def decisions(self) -> str:
        """Digest of how it decides its labels."""
        return getattr(self._judge, "decisions", "")


class _ReplicaHandle:
    """A replica as a :class:`~medical_team.medical_judge.Judge`."""

    def __init__(self, actor: ray.actor.ActorHandle, name: str) -> None:
        self._actor = actor
        self.name = name

    @property
    def fingerprint(self) -> str:
        return self._get(self._actor.fingerprint.remote())

    @property
    def decisions(self) -> str:
        return self._get(self._actor.decisions.remote())

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        return self._get(self._actor.judge.remote(list(queries)))

    def close(self) -> None:
        ray.kill(self._actor)

    def _get(self, answer: ray.ObjectRef) -> Any:
        try:
            return answer.future().result()  # not ray.get, which warns inside an async actor
        except JudgeError as error:  # Ray's wrapper of it, which has not its fields
            raise getattr(error, "cause", error) from None
        except RayActorError as error:
            reason = str(error).strip().splitlines()[-1]
            raise JudgeUnavailableError(f"{self.name} died: {reason}") from error


def judge_actor(
    settings: JudgeSettings, router_address: str | None = None
) -> ray.actor.ActorHandle:
    """The actor, started by whoever asks first.

    Args:
        settings: which judge.
        router_address: ``HOST:PORT`` of verl's reward router, where there is one.
    """
    if isinstance(settings, VerlSettings) and router_address is not None:
        settings = replace(settings, urls=(f"http://{router_address}/v1",))
    options = _options(settings, 0) if settings.replicas == 1 else {"num_cpus": 0}
    return (
        ray.remote(JudgeActor)
        .options(name=NAME, get_if_exists=True, max_concurrency=4096, **options)
        .remote(settings)
    )


def _replicas(settings: JudgeSettings) -> list[Judge]:
    if settings.replicas == 1:
        return [build_judge(_as_shown(settings))]
    actors = [
        ray.remote(JudgeReplica)
        .options(
            max_concurrency=settings.concurrency + 1,
            max_restarts=-1,
            **_options(settings, index),
        )
        .remote(_as_shown(settings))
        for index in range(settings.replicas)
    ]
    for answer in [actor.problem.remote() for actor in actors]:
        if (problem := answer.future().result()) is not None:
            raise JudgeError(problem)
    return [_ReplicaHandle(actor, f"{settings.name} replica {i}") for i, actor in enumerate(actors)]


def _as_shown(settings: JudgeSettings) -> JudgeSettings:
    """The settings inside an actor, which sees one GPU, whatever its number outside."""
    if isinstance(settings, LocalModelSettings) and settings.device.startswith("cuda"):
        return replace(settings, device="cuda")
    return settings


def _options(settings: JudgeSettings, replica: int) -> dict[str, Any]:
    """Ray's options: no GPU of Ray's own, but a local model is shown those that it shares."""
    options: dict[str, Any] = {"num_cpus": 0}
    if isinstance(settings, LocalModelSettings) and settings.device.startswith("cuda"):
        first = int(settings.device.partition(":")[2] or 0)
        count = getattr(settings, "tensor_parallel_size", 1)
        shown = ",".join(str(first + replica * count + gpu) for gpu in range(count))
        # Ray hides all GPUs from an actor that asks for none, unless told to leave the variable.
        variables = {"CUDA_VISIBLE_DEVICES": shown, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        options["runtime_env"] = {"env_vars": variables}
    return options
