from __future__ import annotations

from collections.abc import Callable

import pytest
from omegaconf import DictConfig, OmegaConf

from medical_team.judges.settings import ReferenceSettings
from medical_team.medical_game_manager import GameRules
from medical_team.prompts import AttackMode, PromptStyle
from medical_team.rewards import MedicalGeneralSum, ZeroSum
from recipe.medical_selfplay.settings import LoopSettings, Settings, SettingsError


def config(**sections: dict[str, object]) -> DictConfig:
    defaults = {
        "game": {},
        "rewards": {"table": "zero_sum"},
        "judge": {"name": "reference"},
        "archive": {},
        "alarms": {},
    }
    return OmegaConf.create({**defaults, **sections})


def test_a_composed_configuration_becomes_settings(
    compose_config: Callable[..., DictConfig],
) -> None:
    settings = Settings.from_config(
        compose_config("medical_grpo", "hardware=cpu", "game.assessor_samples=3")
    )
    assert settings.rules == GameRules(prompt_style=PromptStyle.COMPACT, assessor_samples=3)
    assert settings.loop == LoopSettings(turn_timeout_s=3600, seed=0)
    assert settings.rewards == ZeroSum()
    assert settings.judge == ReferenceSettings(calibration="data/sample/judge_reference.json")


def test_values_are_read_as_their_own_types() -> None:
    settings = Settings.from_config(
        config(
            game={"attacker": "rewrite", "max_growth": 2, "seed": 7},
            rewards={
                "table": "medical_general_sum",
                "category": 2,
                "error_types": ["diagnosis", "treatment"],
            },
            judge={"name": "reference", "max_wait_ms": 1},
        )
    )
    assert settings.rules.attacker is AttackMode.REWRITE
    assert settings.loop.seed == 7
    assert settings.rewards == MedicalGeneralSum(
        category=2.0, error_types=("diagnosis", "treatment")
    )
    assert settings.judge.max_wait_ms == 1.0


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("rewards", {"table": "positive_sum"}, ["rewards.table", "positive_sum", "zero_sum"]),
        ("rewards", {}, ["rewards.table", "None", "medical_general_sum"]),
        ("rewards", {"table": "zero_sum", "category": 1}, ["rewards.category", "broken_category"]),
        ("rewards", {"table": "zero_sum", "missed": "much"}, ["rewards.missed", "'much'"]),
        ("rewards", {"table": "zero_sum", "remove_ties": 3}, ["rewards.remove_ties", "3"]),
        ("judge", {"name": "oracle"}, ["judge.name", "'oracle'", "reference"]),
        ("judge", {"name": "reference", "model": "x"}, ["judge.model", "max_batch"]),
        ("judge", {"name": "reference", "max_batch": 0}, ["judge.max_batch is 0"]),
        ("game", {"attacker": "delete"}, ["game.attacker", "'delete'", "'edit' or 'rewrite'"]),
        ("game", {"prompt_style": "long"}, ["game.prompt_style", "'full' or 'compact'"]),
        ("game", {"assessor_samples": 0}, ["game.assessor_samples is 0"]),
        ("game", {"assessor_samples": 1.5}, ["game.assessor_samples", "1.5"]),
        ("game", {"colour": "red"}, ["game.colour", "max_growth"]),
        ("game", {"seed": "x"}, ["game.seed", "'x'"]),
    ],
)
def test_a_bad_setting_is_named_with_what_is_known(
    section: str, values: dict[str, object], named: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_config(config(**{section: values}))
    for part in named:
        assert part in str(caught.value)


@pytest.mark.parametrize("section", ["game", "rewards", "judge"])
def test_a_missing_section_is_named_with_where_to_start(section: str) -> None:
    without = config()
    del without[section]
    with pytest.raises(SettingsError, match=f"no section '{section}'.*medical_grpo.yaml"):
        Settings.from_config(without)
