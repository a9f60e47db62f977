"""A supervised start's configuration and the checks before it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig

from recipe.medical_selfplay.run_folder import RunFolder
from recipe.medical_selfplay.supervised_guard import SupervisedGuard, problems

ROOT = Path(__file__).resolve().parents[2]
HARDWARE = sorted(path.stem for path in (ROOT / "configs" / "hardware").glob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    search = "hydra.searchpath=[pkg://verl.trainer.config]"
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        config = compose("medical_sft", [search, *overrides], return_hydra_config=True)
    with open_dict(config):
        config.pop("hydra")
    OmegaConf.resolve(config)
    return config


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    for name in ("VERL_FILE_LOGGER_PATH", "TENSORBOARD_DIR"):
        monkeypatch.setenv(name, "")
    for split in ("train", "val"):
        (tmp_path / f"{split}.parquet").touch()
    return composed("hardware=cpu", f"data_dir={tmp_path}", f"run_dir={tmp_path / 'run'}")


@pytest.mark.parametrize("hardware", HARDWARE)
def test_every_machine_trains_the_model_that_self_play_starts_from(hardware: str) -> None:
    config = composed(f"hardware={hardware}")
    assert config.model.path == config.actor_rollout_ref.model.path
    assert config.trainer.device == ("cpu" if hardware == "cpu" else "cuda")
    assert config.trainer.total_training_steps is None
    assert config.data.think_opened is True
    assert config.data.max_token_len_per_gpu >= config.data.max_length
    engine = omega_conf_to_dataclass(config.engine)
    assert isinstance(engine, FSDPEngineConfig)
    assert engine.strategy == "fsdp2"
    assert engine.use_torch_compile is (hardware != "cpu")
    assert isinstance(omega_conf_to_dataclass(config.optim), FSDPOptimizerConfig)


def test_a_run_gets_its_configuration_and_its_loggers_into_its_folder(
    config: DictConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    SupervisedGuard().on_job_start(config)
    assert OmegaConf.load(run / "config.yaml") == config
    assert os.environ["VERL_FILE_LOGGER_PATH"] == str(run / "metrics.jsonl")
    assert os.environ["TENSORBOARD_DIR"] == str(run / "tensorboard")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("40")
    SupervisedGuard().on_job_start(config)
    assert os.environ["VERL_FILE_LOGGER_PATH"] == str(run / "metrics.from_step_40.jsonl")


def test_another_setting_does_not_go_on_in_the_same_folder(
    config: DictConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    SupervisedGuard().on_job_start(config)
    config.trainer.total_epochs = 5
    SupervisedGuard().on_job_start(config)
    config.optim.lr = 1.0
    with pytest.raises(SystemExit):
        SupervisedGuard().on_job_start(config)
    assert "belongs to a run with other settings (optim.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "val.parquet").unlink(), r"data\.val_files: .*create_sft_data"),
        (lambda _: os.environ.pop("WORLD_SIZE"), "started by torchrun"),
    ],
)
def test_what_is_wrong_is_told_before_training(
    spoil: Callable[[Path], object], told: str, config: DictConfig, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    assert list(problems(config, folder)) == []
    spoil(tmp_path)
    with pytest.raises(SystemExit):
        SupervisedGuard().on_job_start(config)
    assert not folder.path.exists()
    (only,) = problems(config, folder)
    assert re.search(told, only)
