"""The recipe's part of the Hydra configuration, checked: ``game``, ``rewards`` and ``judge``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError

from medical_team.judges import settings_class
from medical_team.judges.settings import JudgeSettings
from medical_team.medical_game_manager import GameRules
from medical_team.rewards import REWARD_TABLES, RewardTable


class SettingsError(ValueError):
    """A setting that is unknown, of the wrong type or out of range.

    The message names it and the known ones.
    """


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How turns are generated.

    Attributes:
        turn_timeout_s: longest wait for one response, in seconds; time in which the trainer holds
            generation counts.
        seed: makes each turn's samples depend only on the seed, the step, the row, the session and
            the turn; ``None`` leaves sampling to the engine.
    """

    turn_timeout_s: float = 3600.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """All of them."""

    rules: GameRules
    loop: LoopSettings
    rewards: RewardTable
    judge: JudgeSettings

    @classmethod
    def from_config(cls, config: DictConfig) -> Settings:
        """Reads ``game``, ``rewards`` and ``judge``.

        Raises:
            SettingsError: naming the key.
        """
        game = _section(config, "game")
        loop = {name: game.pop(name) for name in LoopSettings.__dataclass_fields__ if name in game}
        rewards = _section(config, "rewards")
        table = rewards.pop("table", None)
        if table not in REWARD_TABLES:
            raise SettingsError(
                f"rewards.table is {table!r}, known tables: {', '.join(sorted(REWARD_TABLES))}"
            )
        judge = _section(config, "judge")
        try:
            judge_settings = settings_class(judge.get("name"))
        except ValueError as error:
            raise SettingsError(str(error)) from error
        return cls(
            rules=_read(GameRules, game, "game"),
            loop=_read(LoopSettings, loop, "game"),
            rewards=_read(REWARD_TABLES[table], rewards, "rewards"),
            judge=_read(judge_settings, judge, "judge"),
        )


def _section(config: DictConfig, name: str) -> dict[str, Any]:
    section = config.get(name)
    if not isinstance(section, DictConfig):
        raise SettingsError(
            f"the configuration has no section '{name}'; start from configs/medical_grpo.yaml"
        )
    return OmegaConf.to_container(section, resolve=True)  # type: ignore[return-value]


@cache
def _validator(kind: Any) -> TypeAdapter[Any]:
    # Building one takes longer than using it, and every game reads its settings.
    return TypeAdapter(kind)


def _read(kind: type[Any], values: dict[str, Any], section: str) -> Any:
    try:
        return _validator(kind).validate_python(values)  # type: ignore[arg-type]  # a class is hashable
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([section, *(str(part) for part in first["loc"])])
        if not first["loc"]:  # a check over several settings, which names them itself
            raise SettingsError(first["msg"].removeprefix("Value error, ")) from error
        known = ", ".join(sorted(item.name for item in fields(kind)))
        raise SettingsError(
            f"{key}: {first['msg']} (found {first['input']!r}; known: {known})"
        ) from error
