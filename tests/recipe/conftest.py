"""A run's configuration as verl gets it, for the tests of what reads it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

ROOT = Path(__file__).resolve().parents[2]
TINY_MODEL = ROOT / "data" / "tiny_model"


def composed(name: str = "medical_grpo", *overrides: str) -> DictConfig:
    offline = f"actor_rollout_ref.model.path={TINY_MODEL}"
    search = "hydra.searchpath=[pkg://verl.trainer.config]"
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        config = compose(name, [offline, search, *overrides], return_hydra_config=True)
    with open_dict(config):
        config.pop("hydra")
    return config


@pytest.fixture(scope="session")
def compose_config() -> Callable[..., DictConfig]:
    """Composes a configuration as ``verl.trainer.main_ppo`` does, with the embedded model."""
    return composed


@pytest.fixture(scope="session")
def resolved_cpu_config() -> DictConfig:
    config = composed("medical_grpo", "hardware=cpu")
    OmegaConf.resolve(config)
    return config


@pytest.fixture
def cpu_config(resolved_cpu_config: DictConfig, tmp_path: Path) -> DictConfig:
    """The resolved configuration of a run on the CPU that reads and writes a temporary folder."""
    config = copy.deepcopy(resolved_cpu_config)
    OmegaConf.update(config, "run_dir", str(tmp_path / "run"))
    for split in ("train", "val"):
        OmegaConf.update(config, f"data.{split}_files", str(tmp_path / f"{split}.parquet"))
    return config
