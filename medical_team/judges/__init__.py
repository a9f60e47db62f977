"""Judge back ends; each lives in its own module and imports its engine there."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, cast

from medical_team.medical_judge import Judge

_BACK_ENDS = {"reference": "medical_team.judges.reference:ReferenceJudge"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """How games are judged.

    Attributes:
        name: the back end.
        max_batch: most games judged at once.
        max_wait_ms: how long the first game of a batch waits for others, in milliseconds.
        timeout_s: how long a game waits for its verdict, the queue included, in seconds.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str = "reference"
    max_batch: int = 64
    max_wait_ms: float = 5.0
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        if self.name not in _BACK_ENDS:
            raise ValueError(
                f"judge.name is {self.name!r}, known judges: {', '.join(sorted(_BACK_ENDS))}"
            )
        if self.max_batch < 1:
            raise ValueError(f"judge.max_batch is {self.max_batch}, it must be at least 1")
        if self.max_wait_ms < 0 or self.timeout_s <= 0:
            raise ValueError(
                "judge.max_wait_ms must not be negative and judge.timeout_s must be positive"
            )


def build_judge(settings: JudgeSettings) -> Judge:
    """Makes the back end that the settings name."""
    module, _, name = _BACK_ENDS[settings.name].partition(":")
    return cast(Judge, getattr(import_module(module), name)())
