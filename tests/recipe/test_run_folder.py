from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from recipe.medical_selfplay.run_folder import RunFolder

Compose = Callable[..., DictConfig]


def lines(steps: Iterable[int], attempt: int = 1) -> str:
    entries = ({"step": step, "data": {"attempt": attempt}} for step in steps)
    return "".join(f"{json.dumps(entry)}\n" for entry in entries)


def read(path: Path) -> list[tuple[int, int]]:
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [(entry["step"], entry["data"]["attempt"]) for entry in entries]


def checkpoint(folder: RunFolder, step: int) -> None:
    tracker = folder.path / "checkpoints" / "latest_checkpointed_iteration.txt"
    tracker.parent.mkdir(parents=True, exist_ok=True)
    tracker.write_text(str(step))


def changed(config: DictConfig, **values: object) -> DictConfig:
    config = copy.deepcopy(config)
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


@pytest.fixture
def folder(cpu_config: DictConfig) -> RunFolder:
    """A run's folder with its configuration and a checkpoint at step 10."""
    folder = RunFolder(Path(cpu_config.run_dir))
    folder.open(cpu_config)
    checkpoint(folder, 10)
    return folder


def test_a_new_folder_is_nobodys(cpu_config: DictConfig, tmp_path: Path) -> None:
    assert list(RunFolder(tmp_path / "new").problems(cpu_config)) == []
    assert not (tmp_path / "new").exists()


def test_the_same_settings_resume_without_complaint(
    folder: RunFolder, cpu_config: DictConfig
) -> None:
    assert folder.checkpoint_step == 10
    assert list(folder.problems(cpu_config)) == []


def test_the_configuration_that_is_kept_holds_no_references(folder: RunFolder) -> None:
    assert "${" not in folder.config.read_text()


@pytest.mark.parametrize(
    "override",
    [
        "trainer.total_training_steps=99",
        "trainer.total_epochs=7",
        "trainer.save_freq=3",
        "trainer.test_freq=3",
        "trainer.logger=[console]",
        "trainer.val_before_train=false",
        "judge.timeout_s=9",
    ],
)
def test_how_long_and_how_loud_a_run_is_may_change(
    override: str, compose_config: Compose, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    base = ("hardware=cpu", f"run_dir={tmp_path}")
    folder.open(compose_config("medical_grpo", *base))
    checkpoint(folder, 10)
    assert list(folder.problems(compose_config("medical_grpo", *base, override))) == []


def test_what_is_learnt_may_not_change(folder: RunFolder, cpu_config: DictConfig) -> None:
    other = changed(cpu_config, actor_rollout_ref__actor__optim__lr=0.5)
    (problem,) = folder.problems(other)
    assert "actor_rollout_ref.actor.optim.lr 5e-05 -> 0.5" in problem
    assert str(folder.path) in problem
    assert "trainer.experiment_name" in problem


def test_the_judges_error_rates_may_not_change_under_a_run(
    folder: RunFolder, cpu_config: DictConfig, tmp_path: Path
) -> None:
    kept = Path(cpu_config.judge.calibration).read_text(encoding="utf-8")
    folder.calibration.write_text(kept, encoding="utf-8")
    assert list(folder.problems(cpu_config)) == []
    folder.calibration.write_text(kept.replace("0", "1"), encoding="utf-8")
    (problem,) = folder.problems(cpu_config)
    assert f"contents of judge.calibration={cpu_config.judge.calibration}" in problem


def test_a_wholly_different_run_is_shown_in_a_few_keys(
    folder: RunFolder, cpu_config: DictConfig
) -> None:
    keys = ("identified", "missed", "correct_safe", "false_alarm", "forfeit", "broken_format")
    other = changed(cpu_config, **{f"rewards__{key}": 9.0 for key in keys})
    (problem,) = folder.problems(other)
    assert problem.count(" -> ") == 4
    assert "and 2 more" in problem


def test_a_run_is_not_overwritten(folder: RunFolder, cpu_config: DictConfig) -> None:
    fresh = changed(cpu_config, trainer__resume_mode="disable")
    (problem,) = folder.problems(fresh)
    assert "trainer.resume_mode=disable would overwrite" in problem


@pytest.mark.parametrize("name", ["games", "checkpoints", "metrics.jsonl"])
def test_a_folder_with_results_but_no_configuration_is_not_this_runs(
    name: str, cpu_config: DictConfig
) -> None:
    path = Path(cpu_config.run_dir)
    (path / name).mkdir(parents=True)
    (problem,) = RunFolder(path).problems(cpu_config)
    assert f"holds {name} but no config.yaml" in problem


def test_an_empty_folder_is_taken(cpu_config: DictConfig) -> None:
    Path(cpu_config.run_dir).mkdir()
    assert list(RunFolder(Path(cpu_config.run_dir)).problems(cpu_config)) == []


def test_a_resumed_run_has_each_step_once(folder: RunFolder, cpu_config: DictConfig) -> None:
    folder.metrics.write_text(lines(range(14)))  # killed at 13, the checkpoint is at 10
    folder.open(cpu_config)
    folder.metrics.write_text(lines(range(10, 13), attempt=2))  # verl starts its file anew
    folder.close()
    assert read(folder.metrics) == [*((step, 1) for step in range(10)), (10, 2), (11, 2), (12, 2)]
    assert not folder.history.exists()


def test_a_line_cut_off_by_a_kill_is_dropped(folder: RunFolder, cpu_config: DictConfig) -> None:
    folder.metrics.write_text(lines(range(9)) + '{"step": 9, "da')
    folder.open(cpu_config)
    folder.metrics.write_text(lines([11], attempt=2))
    folder.close()
    assert read(folder.metrics) == [*((step, 1) for step in range(9)), (11, 2)]


def test_a_run_killed_before_its_first_step_loses_no_metrics(
    folder: RunFolder, cpu_config: DictConfig
) -> None:
    folder.metrics.write_text(lines(range(12)))
    folder.open(cpu_config)
    folder.metrics.write_text("")
    folder.open(cpu_config)
    folder.metrics.write_text(lines([11, 12], attempt=3))
    folder.close()
    assert [step for step, _ in read(folder.metrics)] == list(range(13))


def test_metrics_kept_by_several_resumes_are_joined(
    folder: RunFolder, cpu_config: DictConfig
) -> None:
    folder.metrics.write_text(lines(range(13)))
    folder.open(cpu_config)
    folder.metrics.write_text(lines(range(11, 24), attempt=2))
    checkpoint(folder, 20)
    folder.open(cpu_config)
    folder.metrics.write_text(lines(range(21, 25), attempt=3))
    folder.close()
    found = read(folder.metrics)
    assert [step for step, _ in found] == list(range(25))
    assert dict(found)[10] == 1
    assert dict(found)[11] == dict(found)[20] == 2
    assert dict(found)[21] == 3


def test_metrics_of_a_run_whose_checkpoints_were_deleted_are_forgotten(
    folder: RunFolder, cpu_config: DictConfig
) -> None:
    folder.metrics.write_text(lines(range(1, 13)))
    folder.open(cpu_config)
    (folder.path / "checkpoints" / "latest_checkpointed_iteration.txt").unlink()
    folder.metrics.write_text("")
    folder.open(cpu_config)
    folder.metrics.write_text(lines([1, 2], attempt=2))
    folder.close()
    assert read(folder.metrics) == [(1, 2), (2, 2)]


def test_a_run_that_was_never_resumed_keeps_its_metrics_as_they_are(folder: RunFolder) -> None:
    folder.metrics.write_text(lines(range(3)))
    folder.close()
    assert read(folder.metrics) == [(0, 1), (1, 1), (2, 1)]
