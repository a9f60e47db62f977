"""The recipe's part of the Hydra configuration, checked.

That is ``game``, ``rewards``, ``judge``, ``archive`` and ``alarms``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError

from medical_team.alarms import AlarmSettings
from medical_team.archive import ArchiveSettings
from medical_team.judges import settings_class
from medical_team.judges.settings import JudgeSettings
from medical_team.matchmaking import MatchSettings
from medical_team.medical_game_manager import GameRules, Role
from medical_team.rewards import REWARD_TABLES, RewardTable


class SettingsError(ValueError):
    """A setting that is unknown, of the wrong type or out of range.

    The message names it and the known ones.
    """


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How turns are generated and trained.

    Attributes:
        turn_timeout_s: longest wait for one response, in seconds; time in which the trainer holds
            generation counts.
        seed: makes each turn's samples depend only on the seed, the step, the row, the session and
            the turn; ``None`` leaves sampling to the engine.
        train_roles: whose turns reach the optimizer. The other role plays on with the shared
            weights.
        rae_decay: what one reward leaves of the moving average that ``rae`` subtracts, in [0, 1).
    """

    turn_timeout_s: float = 3600.0
    seed: int | None = None
    train_roles: Literal["both", "attacker", "assessor"] = "both"
    rae_decay: float = 0.95

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        if not 0 <= self.rae_decay < 1:
            raise ValueError(
                f"game.rae_decay is {self.rae_decay}; it must be at least 0 and below 1"
            )

    @property
    def trained_roles(self) -> tuple[str, ...]:
        """The same as names of roles."""
        return tuple(Role) if self.train_roles == "both" else (self.train_roles,)


@dataclass(frozen=True, slots=True)
class LeagueSettings:
    """What the league is told.

    Attributes:
        match: how games are made of rows.
        archive: which past attacks are kept and played again.
        alarms: what counts as a collapse.
        rae_decay: share of the old average that a step keeps, for ``rae``.
        seed: of all draws; ``None`` draws by the trainer's random row ids.
        trained_roles: the roles that are to learn.
    """

    match: MatchSettings
    archive: ArchiveSettings
    alarms: AlarmSettings
    rae_decay: float
    seed: int | None
    trained_roles: tuple[str, ...] = tuple(Role)

    @property
    def pairs(self) -> bool:
        """Whether a row may be played as anything else than what the dataset says."""
        return self.match.active or self.archive.fraction > 0


@dataclass(frozen=True, slots=True)
class Settings:
    """All of them."""

    rules: GameRules
    loop: LoopSettings
    rewards: RewardTable
    judge: JudgeSettings
    league: LeagueSettings

    @classmethod
    def from_config(cls, config: DictConfig) -> Settings:
        """Reads the sections.

        Raises:
            SettingsError: naming the key.
        """
        game = _section(config, "game")
        loop = {name: game.pop(name) for name in LoopSettings.__dataclass_fields__ if name in game}
        match = {
            name: game.pop(name) for name in MatchSettings.__dataclass_fields__ if name in game
        }
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
        loop_settings = _read(LoopSettings, loop, "game")
        return cls(
            rules=_read(GameRules, game, "game"),
            loop=loop_settings,
            rewards=_read(REWARD_TABLES[table], rewards, "rewards"),
            judge=_read(judge_settings, judge, "judge"),
            league=LeagueSettings(
                match=_read(MatchSettings, match, "game"),
                archive=_read(ArchiveSettings, _section(config, "archive"), "archive"),
                alarms=_read(AlarmSettings, _section(config, "alarms"), "alarms"),
                rae_decay=loop_settings.rae_decay,
                seed=loop_settings.seed,
                trained_roles=loop_settings.trained_roles,
            ),
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
