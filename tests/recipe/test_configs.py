from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

from recipe.medical_selfplay.plugin import REPLAY_BUFFER, REWARD_MANAGER
from recipe.medical_selfplay.settings import Settings

Compose = Callable[..., DictConfig]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OURS = ("game", "rewards", "judge", "data_dir", "run_dir", "sampler_kwargs")


def group(name: str) -> list[str]:
    found = sorted(path.stem for path in (CONFIGS / name).glob("*.yaml"))
    assert found, f"no {name} in {CONFIGS}"
    return found


@pytest.fixture(scope="module", params=group("hardware"))
def hardware(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("rewards", group("rewards"))
@pytest.mark.parametrize("name", ["medical_grpo", "medical_reinforce_pp", "medical_ppo"])
def test_every_combination_composes_and_verl_accepts_it(
    name: str, hardware: str, rewards: str, compose_config: Compose
) -> None:
    config = compose_config(name, f"hardware={hardware}", f"rewards={rewards}")
    # verl's Ray task resolves the configuration where there is no Hydra any more.
    OmegaConf.resolve(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    settings = Settings.from_config(config)
    assert type(settings.rewards).__name__.casefold() == rewards.replace("_", "")
    assert need_critic(config) == (name == "medical_ppo")
    assert config.trainer.v1.sampler.custom_sampler.path == REPLAY_BUFFER
    assert config.reward.reward_manager.name == REWARD_MANAGER
    assert config.actor_rollout_ref.actor.strategy == config.critic.strategy == "fsdp2"


@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        ("medical_grpo", "role_grpo"),
        ("medical_reinforce_pp", "role_reinforce_pp"),
        ("medical_ppo", "gae"),
    ],
)
def test_each_algorithm_keeps_its_own_folder_and_estimator(
    name: str, estimator: str, compose_config: Compose
) -> None:
    config = compose_config(name, "hardware=cpu")
    OmegaConf.resolve(config)
    assert config.algorithm.adv_estimator == estimator
    assert config.run_dir == f"outputs/{name}"
    assert config.trainer.default_local_dir == f"outputs/{name}/checkpoints"
    assert config.trainer.v1.sampler.sampler_kwargs.output_dir == config.run_dir


def test_the_replay_buffer_follows_the_settings_it_copies(compose_config: Compose) -> None:
    config = compose_config(
        "medical_grpo", "rewards.balance_truth=false", "actor_rollout_ref.rollout.n=5"
    )
    kwargs = config.trainer.v1.sampler.sampler_kwargs
    assert kwargs.balance_truth is False
    assert kwargs.rollouts == 5


def test_a_judge_group_names_its_own_judge(compose_config: Compose) -> None:
    for judge in group("judge"):
        config = compose_config("medical_grpo", f"judge={judge}")
        assert Settings.from_config(config).judge.name == judge


def test_the_48_and_96_gb_presets_train_the_models_they_are_sized_for() -> None:
    models = {
        name: OmegaConf.load(CONFIGS / "hardware" / f"{name}.yaml").actor_rollout_ref.model.path
        for name in ("gpu_48gb", "gpu_96gb")
    }
    assert models == {"gpu_48gb": "Qwen/Qwen2.5-3B-Instruct", "gpu_96gb": "Qwen/Qwen3-4B"}


@pytest.mark.parametrize(
    "path", ["medical_selfplay.yaml", "rewards/*.yaml", "judge/*.yaml"], ids=str
)
def test_every_key_of_our_own_says_what_it_does(path: str) -> None:
    for file in sorted(CONFIGS.glob(path)):
        lines = file.read_text(encoding="utf-8").splitlines()
        uncommented = [
            f"{file.name}: {line.strip()}"
            for line in own_keys(lines)
            if not re.search(r"\s# \S", line)
        ]
        assert uncommented == []


def own_keys(lines: list[str]) -> list[str]:
    """Lines that set a key inside, or as, one of our own sections."""
    found: list[str] = []
    inside = -1
    for line in lines:
        key = re.match(r"( *)([a-z_]+):(.*)", line)
        if key is None:
            continue
        indent, name = len(key[1]), key[2]
        if indent <= inside:
            inside = -1
        is_section = not key[3].split("#")[0].strip()
        if inside < 0 and name in OURS and is_section:
            inside = indent
        elif inside >= 0 or (indent == 0 and name in OURS):
            found.append(line)
    return found
