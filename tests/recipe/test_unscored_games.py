"""Games without a verdict: kept with the reason, never rewarded; too many of them end a run.

The judge is real and refuses every prompt; verl's reward worker runs as in training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from omegaconf import DictConfig

from medical_team.medec import Case
from medical_team.medical_game_manager import GameType
from medical_team.medical_judge import JudgeError
from medical_team.report.summary import read_games
from played_games import reward_worker, trajectories
from recipe.medical_selfplay.replay_buffer import JudgeLostError, _GameSampling

Compose = Callable[..., DictConfig]

KIND = GameType.ADVERSARIAL_BENIGN
CASE = Case("c", ("He coughs.", "He gets penicillin."), 1, "He gets azithromycin.", "t", "train")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, compose_config: Compose) -> DictConfig:
    from recipe.medical_selfplay.tiny.random_models import write_random_model

    model = tmp_path_factory.mktemp("judge")
    write_random_model(model, "qwen3")
    return compose_config(
        "medical_grpo",
        "hardware=cpu",
        "judge=transformers",
        f"judge.model={model}",
        "judge.max_prompt_tokens=1",
        "judge.device=cpu",
        "judge.allow_uncalibrated=true",
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=2**27)
    yield
    ray.shutdown()


@pytest.fixture
def worker(config: DictConfig, cluster: None) -> Iterator[Any]:
    with reward_worker(config) as worker:
        yield worker


def refused(worker: Any, games: int) -> None:
    for session in range(games):
        played = trajectories(CASE, KIND, "He gets aspirin.", step=3, session=session)
        with pytest.raises(JudgeError):
            ray.get(worker.compute_score.remote(played), timeout=120)


class Queue:
    """Stands in for verl's queue: there is never anything to sample."""

    def __init__(self, **_: Any) -> None:
        self.polls = 0

    def _terminal_eviction_reasons(self, *_: Any) -> Any:
        self.polls += 1

    def sample(self, *arguments: Any) -> Any:
        raise RuntimeError("nothing to sample")


class AsyncQueue(Queue):
    """Waits for games for ever, as verl does where failed ones are played anew."""

    def sample(self, step: int, partition_id: str, batch_size: int) -> Any:
        while True:
            self._terminal_eviction_reasons(step, partition_id)
            assert self.polls < 50, "the run waits for ever"


class Sampling(_GameSampling, Queue):
    pass


class AsyncSampling(_GameSampling, AsyncQueue):
    pass


def buffer(kind: type[Any], folder: Path, max_unscored: float = 0.5) -> Any:
    kwargs = {"output_dir": str(folder), "balance_truth": True, "rollouts": 2}
    return kind(SimpleNamespace(**kwargs, max_unscored=max_unscored, poll_interval_s=0.1))


def test_a_game_without_a_verdict_is_kept_with_the_plain_reason(worker: Any) -> None:
    refused(worker, 1)
    report = ray.get(ray.get_actor("medical_judge").report.remote())
    assert (report.asked, report.unscored, report.outage) == (1, 1, None)
    record = json.loads(report.games[0])
    assert record["unscored"] == report.last_error
    assert "judge.max_prompt_tokens is 1" in report.last_error
    assert "Traceback" not in report.last_error and "\x1b" not in report.last_error
    assert (record["step"], record["uid"], record["labels"]) == (3, "u", None)
    assert record["turns"][0]["answer"] and record["turns"][1]["sentence_id"] == 1
    assert [(t["reward"], t["trained"]) for t in record["turns"]] == [(0.0, False)] * 2


@pytest.mark.parametrize("kind", [Sampling, AsyncSampling])
def test_a_judge_that_fails_every_game_ends_the_run_with_its_reason(
    worker: Any, tmp_path: Path, kind: type[Any]
) -> None:
    refused(worker, 4)
    sampling = buffer(kind, tmp_path)
    reason = r"4 of 4 games.*judge\.max_unscored=0\.5.*judge\.max_prompt_tokens is 1"
    with pytest.raises(JudgeLostError, match=reason):
        sampling.sample(5, "train", 2)
    kept = read_games(tmp_path / "games/unscored_train/step_000005.jsonl")
    assert [game.session for game in kept] == [0, 1, 2, 3]


def test_few_games_without_a_verdict_are_logged_and_the_run_is_left_alone(
    worker: Any, tmp_path: Path
) -> None:
    refused(worker, 2)
    with pytest.raises(RuntimeError, match="nothing to sample"):
        buffer(Sampling, tmp_path).sample(5, "val", 2)
    assert len(read_games(tmp_path / "games/unscored_val/step_000005.jsonl")) == 2


def test_a_report_joins_the_one_before_it(worker: Any, tmp_path: Path) -> None:
    refused(worker, 3)
    sampling = buffer(Sampling, tmp_path)
    sampling._terminal_eviction_reasons(5, "train")
    refused(worker, 1)
    with pytest.raises(JudgeLostError, match="4 of 4 games"):
        sampling.sample(5, "train", 2)
    assert len(read_games(tmp_path / "games/unscored_train/step_000005.jsonl")) == 4
