"""The settings of the alarms: what each figure may be, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class AlarmName(StrEnum):
    """The alarms, under the names that ``alarms.stop`` and the metrics use."""

    ONE_SIDED = "one_sided"
    FORFEITS = "forfeits"
    FORMAT = "format"
    ENTROPY = "entropy"
    ALIKE = "alike"
    COPYING = "copying"
    JUDGE_POSITIVE = "judge_positive"
    ADVANTAGE = "advantage"
    VALIDATION = "validation"


@dataclass(frozen=True, slots=True)
class Limit:
    """One end of what a figure may be.

    Attributes:
        setting: the setting that holds it.
        value: the setting's value.
        side: 1 if the figure may not be above ``bound``, -1 if not below.
        bound: what the figure is compared with, of the figure's own sign.
    """

    setting: str
    value: float
    side: int
    bound: float

    def passed(self, figure: float) -> bool:
        """Whether the figure lies beyond."""
        return figure > self.bound if self.side > 0 else figure < self.bound


@dataclass(frozen=True, slots=True)
class AlarmSettings:
    """Thresholds of the alarms; ``None`` switches one off.

    An alarm is raised when ``patience`` measurements in a row lie beyond its threshold. A
    measurement is the figure of one step; steps with too few games are put together until there
    are enough, so that no alarm rests on a handful of games. Thresholds are far from what healthy
    runs show, since a figure of a few dozen games from a dozen cases is noisy.

    Attributes:
        win_rate_low: lowest share of wins of the attacker over the decided games (no forfeit, no
            tie) in which it is trained.
        win_rate_high: highest such share.
        forfeits: highest share of the attacker's turns that are forfeits.
        format: highest share of the assessors' turns that break the format.
        entropy: lowest entropy per token of a role, as a share of what it was at the start. RL that
            goes well also spends most of its entropy (arXiv 2505.22617).
        alike: highest mean cosine similarity, in words, of what the attacker wrote into notes of
            different cases. If every attack is one of m phrases drawn alike, it is 1/m.
        copying: highest share of a role's reasoning, in runs of five words, that stands in its
            prompt.
        judge_rise: how far the judge's share of attacked notes that hold an error may rise above
            the start's. Attackers that learn their task raise it too.
        judge_fall: how far it may fall.
        advantage: highest share of a role's groups in which all rewards are equal: they train
            nothing.
        validation: how far balanced accuracy on the fixed opponents may fall below its best while
            the assessor's reward in self-play is higher than it was then.
        patience: measurements in a row, at least 1.
        validation_patience: the same for ``validation``, in validations.
        min_games: fewest turns in a measurement, at least 1.
        min_groups: fewest groups in a measurement of ``advantage``, at least 1.
        first: measurements whose mean is the start, for ``entropy``, ``judge_rise`` and
            ``judge_fall``, at least 1.
        stop: names of the alarms that end the run.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    win_rate_low: float | None = 0.05
    win_rate_high: float | None = 0.9
    forfeits: float | None = 0.5
    format: float | None = 0.3
    entropy: float | None = 0.2
    alike: float | None = 0.3
    copying: float | None = 0.5
    judge_rise: float | None = 0.4
    judge_fall: float | None = 0.2
    advantage: float | None = 0.9
    validation: float | None = 0.1
    patience: int = 5
    validation_patience: int = 2
    min_games: int = 32
    min_groups: int = 16
    first: int = 5
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        for limit in self._all():
            if not 0 < limit.value < 1:
                raise ValueError(
                    f"alarms.{limit.setting} is {limit.value}, it must be above 0 and below 1, or"
                    " null to switch it off"
                )
        low, high = self.win_rate_low, self.win_rate_high
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"alarms.win_rate_low is {low} and alarms.win_rate_high is {high}; the low one must"
                " be below the high one"
            )
        for name in ("patience", "validation_patience", "min_games", "min_groups", "first"):
            if getattr(self, name) < 1:
                raise ValueError(f"alarms.{name} is {getattr(self, name)}, it must be at least 1")
        for name in self.stop:
            if name not in tuple(AlarmName):
                raise ValueError(
                    f"alarms.stop names {name!r}, known alarms: {', '.join(sorted(AlarmName))}"
                )
            if not self.limits(AlarmName(name)):
                raise ValueError(
                    f"alarms.stop names {name!r}, which is switched off; give it a threshold or"
                    " take it out of alarms.stop"
                )

    def limits(self, name: AlarmName) -> tuple[Limit, ...]:
        """The ends of what the alarm's figure may be; none if it is switched off."""
        found = {
            AlarmName.ONE_SIDED: (
                _limit("win_rate_low", self.win_rate_low, -1),
                _limit("win_rate_high", self.win_rate_high),
            ),
            AlarmName.FORFEITS: (_limit("forfeits", self.forfeits),),
            AlarmName.FORMAT: (_limit("format", self.format),),
            AlarmName.ENTROPY: (_limit("entropy", self.entropy, -1),),
            AlarmName.ALIKE: (_limit("alike", self.alike),),
            AlarmName.COPYING: (_limit("copying", self.copying),),
            AlarmName.JUDGE_POSITIVE: (
                _limit("judge_fall", self.judge_fall, -1, sign=-1),
                _limit("judge_rise", self.judge_rise),
            ),
            AlarmName.ADVANTAGE: (_limit("advantage", self.advantage),),
            AlarmName.VALIDATION: (_limit("validation", self.validation),),
        }[name]
        return tuple(limit for limit in found if limit is not None)

    def _all(self) -> list[Limit]:
        return [limit for name in AlarmName for limit in self.limits(name)]


def _limit(setting: str, value: float | None, side: int = 1, *, sign: int = 1) -> Limit | None:
    return None if value is None else Limit(setting, value, side, sign * value)
