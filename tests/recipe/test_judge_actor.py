"""The judge actor in a real Ray: counting, outages, replicas, and who is let in."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from medical_team.answers import Assessment, Classification
from medical_team.judges.settings import (
    JudgeSettings,
    ReferenceSettings,
    RemoteSettings,
    TransformersSettings,
    VerlSettings,
    VllmSettings,
)
from medical_team.medical_judge import JudgeError, JudgeQuery
from recipe.medical_selfplay.judge_actor import JudgeReport, _options, judge_actor
from recipe.medical_selfplay.replay_buffer import JudgeLostError, _check

CALIBRATION = Path(__file__).resolve().parents[2] / "data" / "sample" / "judge_reference.json"
REFERENCE = ReferenceSettings(calibration=str(CALIBRATION))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=2**27)
    yield
    ray.shutdown()


@pytest.fixture
def actor() -> Iterator[Callable[..., ray.actor.ActorHandle]]:
    started = []

    def start(*arguments: Any) -> ray.actor.ActorHandle:
        started.append(judge_actor(*arguments))
        return started[-1]

    yield start
    ray.kill(started[0])


def query(query_id: str) -> JudgeQuery:
    safe = Assessment(Classification.SAFE, None, None)
    return JudgeQuery(query_id, ("He has asthma.",), ("He has gout.",), (safe,))


def ask(actor: ray.actor.ActorHandle, *query_ids: str) -> list[Any]:
    answers = [actor.judge.remote(query(query_id)) for query_id in query_ids]
    found = []
    for answer in answers:
        try:
            found.append(ray.get(answer, timeout=60))
        except JudgeError as error:
            found.append(error)
    return found


def outage_of(actor: ray.actor.ActorHandle) -> str:
    """Why the judge is lost, once a game has been put to it; the game itself waits for ever."""
    actor.judge.remote(query("lost"))
    end = time.monotonic() + 60
    while (found := ray.get(actor.report.remote(), timeout=60).outage) is None:
        assert time.monotonic() < end, "the judge was never lost"
        time.sleep(0.05)
    return str(found)


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def unreachable(**changes: Any) -> RemoteSettings:
    return RemoteSettings(
        urls=(f"http://127.0.0.1:{closed_port()}",),
        attempts=1,
        max_outage_s=0.2,
        allow_uncalibrated=True,
        **changes,
    )


def test_every_worker_finds_the_same_judge_and_its_counts(
    actor: Callable[..., ray.actor.ActorHandle],
) -> None:
    first, second = actor(REFERENCE), actor(REFERENCE)
    (verdict, cost), _ = ask(first, "a", "b")
    assert (verdict.query_id, verdict.error_present, verdict.source) == ("a", True, "reference")
    assert cost.batch_size >= 1
    assert ray.get(second.report.remote()) == JudgeReport(2, 0, None, None)
    assert ray.get(second.report.remote()) == JudgeReport(0, 0, None, None)
    ray.get(first.keep_unscored.remote("a record", "odd"))
    assert ray.get(second.report.remote()) == JudgeReport(0, 1, None, "odd", ("a record",))
    assert ray.get(second.report.remote()) == JudgeReport(0, 0, None, None)


def test_a_judge_that_cannot_be_reached_is_an_outage_that_stops_the_run(
    actor: Callable[..., ray.actor.ActorHandle],
) -> None:
    settings = unreachable()
    handle = actor(settings)
    assert settings.urls[0] in outage_of(handle)
    with pytest.raises(JudgeLostError, match="out of order"):
        _check(ray.get(handle.report.remote()), max_unscored=1.0)


def test_a_judge_that_cannot_be_made_stops_the_run_with_the_reason(
    actor: Callable[..., ray.actor.ActorHandle], tmp_path: Path
) -> None:
    missing = TransformersSettings(
        model=str(tmp_path / "nowhere"), device="cpu", allow_uncalibrated=True
    )
    handle = actor(missing)
    assert "nowhere" in outage_of(handle)
    with pytest.raises(JudgeLostError, match="could not be started"):
        _check(ray.get(handle.report.remote()), max_unscored=1.0)


@pytest.mark.parametrize("allow", [False, True])
def test_a_judge_with_another_ones_calibration_is_never_let_in(
    actor: Callable[..., ray.actor.ActorHandle], tmp_path: Path, allow: bool
) -> None:
    other = json.loads(CALIBRATION.read_text())
    other["fingerprint"] = "another"
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(other))
    handle = actor(replace(REFERENCE, calibration=str(file), allow_uncalibrated=allow))
    assert "another judge" in outage_of(handle)


def test_a_cache_that_cannot_be_used_stops_the_run_with_the_reason(
    actor: Callable[..., ray.actor.ActorHandle], tmp_path: Path
) -> None:
    file = tmp_path / "notes.csv"
    file.write_text("Text ID,Text\n" * 200)
    assert "judge.cache_file" in outage_of(actor(replace(REFERENCE, cache_file=str(file))))


def test_replicas_that_cannot_be_made_say_why_at_once(
    actor: Callable[..., ray.actor.ActorHandle], tmp_path: Path
) -> None:
    missing = TransformersSettings(
        model=str(tmp_path / "nowhere"), device="cpu", allow_uncalibrated=True, replicas=2
    )
    assert "nowhere" in outage_of(actor(missing))


def test_replicas_share_the_queue(actor: Callable[..., ray.actor.ActorHandle]) -> None:
    settings = replace(REFERENCE, replicas=2, max_batch=1, cache_size=0)
    answers = ask(actor(settings), *(str(number) for number in range(20)))
    assert [verdict.query_id for verdict, _ in answers] == [str(number) for number in range(20)]


@ray.remote
def shown_gpus() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("settings", "replica", "shown"),
    [
        (TransformersSettings(model="m", device="cuda"), 0, "0"),
        (TransformersSettings(model="m", device="cuda:2"), 1, "3"),
        (VllmSettings(model="m", device="cuda", tensor_parallel_size=2), 1, "2,3"),
    ],
)
def test_a_local_model_is_shown_the_gpus_it_shares(
    settings: JudgeSettings, replica: int, shown: str
) -> None:
    options = _options(settings, replica)
    assert ray.get(shown_gpus.options(**options).remote(), timeout=60) == shown


def test_other_judges_get_no_gpu() -> None:
    assert _options(REFERENCE, 0) == {"num_cpus": 0}
    assert _options(TransformersSettings(model="m", device="cpu"), 0) == {"num_cpus": 0}


def test_verls_router_becomes_the_judges_url(
    actor: Callable[..., ray.actor.ActorHandle],
) -> None:
    port = closed_port()
    settings = VerlSettings(model="m", attempts=1, max_outage_s=0.2, allow_uncalibrated=True)
    assert f"http://127.0.0.1:{port}/v1" in outage_of(actor(settings, f"127.0.0.1:{port}"))
