"""The alarm book: a short history of each figure, and the alarms that stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from statistics import fmean
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from medical_team.alarms.alarm import Alarm
from medical_team.alarms.figures import Figure, self_play_reward, step_figures
from medical_team.alarms.settings import AlarmName, AlarmSettings
from medical_team.game_record import GameRecord
from medical_team.medical_game_manager import Role

_FROM_START = (AlarmName.ENTROPY, AlarmName.JUDGE_POSITIVE)


@dataclass(slots=True)
class _Series:
    """What is remembered of one figure.

    Attributes:
        waiting: sum over the turns that are not enough for a measurement yet.
        waiting_count: their number.
        first: sum of the measurements at the start.
        first_count: their number.
        side: on which side of its range the figure lies: 1 above, -1 below, 0 inside.
        measurements: how many in a row have been there; 0 inside.
        since: step of the first of them.
        count: turns behind them.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    waiting: float = 0.0
    waiting_count: int = 0
    first: float = 0.0
    first_count: int = 0
    side: int = 0
    measurements: int = 0
    since: int = 0
    count: int = 0


@dataclass(slots=True)
class _Validations:
    """The best validation so far, and the assessor's reward in self-play then and now.

    Attributes:
        best: best balanced accuracy, ``None`` before the first validation.
        reward: the assessor's reward in self-play at that time, ``None`` before the first games.
        rewards: the assessor's reward in the last steps.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    best: float | None = None
    reward: float | None = None
    rewards: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _History:
    """All that a resumed run needs; its size does not grow with the run."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    series: dict[str, _Series] = field(default_factory=dict)
    validations: _Validations = field(default_factory=_Validations)


class AlarmBook:
    """Watches the figures of a run.

    Args:
        settings: thresholds and patience.
    """

    def __init__(self, settings: AlarmSettings) -> None:
        self._settings = settings
        self._on = tuple(name for name in AlarmName if settings.limits(name))
        self._history = _History()
        self._measured: dict[AlarmName, float] = {}

    def check(
        self,
        step: int,
        games: Sequence[GameRecord],
        *,
        nll: Mapping[Role, float] | None = None,
        validation: float | None = None,
    ) -> list[Alarm]:
        """Learns of a step.

        Args:
            step: the trainer's step.
            games: its finished training games.
            nll: mean negative log-probability of each role's tokens as they were sampled, in nats.
            validation: balanced accuracy against fixed opponents, if a validation ran since the
                last step.

        Returns:
            The alarms that this step's measurements raise or confirm.
        """
        self._measured = {}
        alarms = [self._measure(step, figure) for figure in step_figures(games, nll, self._on)]
        if AlarmName.VALIDATION in self._on:
            alarms.append(self._validate(step, games, validation))
        return [alarm for alarm in alarms if alarm is not None]

    def metrics(self) -> dict[str, float]:
        """The alarms and the last step's measurements.

        Returns:
            ``alarm/<name>``: 1 while the alarm stands, else 0; ``alarm_value/<name>``: the figure
            that is compared with the threshold, of the role that is worse off, where the step gave
            a measurement. Alarms that are switched off are left out.
        """
        standing = {
            _alarm_of(key)
            for key, series in self._history.series.items()
            if series.measurements >= self._patience(_alarm_of(key))
        }
        return {
            **{f"alarm/{name.value}": float(name in standing) for name in self._on},
            **{f"alarm_value/{name.value}": value for name, value in self._measured.items()},
        }

    def as_dict(self) -> dict[str, Any]:
        """The history in plain JSON values, for a checkpoint."""
        return asdict(self._history)

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`as_dict`; thresholds may have changed since.

        Raises:
            ValueError: if it is not such a history.
        """
        try:
            history = _reader().validate_python(dict(state))
            for key in history.series:
                _alarm_of(key)
        except ValueError as error:  # pydantic's ValidationError is one
            reason = str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise ValueError(
                f"the checkpoint's alarm history cannot be read ({reason}); resume from another"
                " checkpoint"
            ) from error
        self._history, self._measured = history, {}

    def _measure(self, step: int, figure: Figure) -> Alarm | None:
        settings, series = self._settings, self._series(figure.alarm, figure.role)
        least = settings.min_groups if figure.alarm is AlarmName.ADVANTAGE else settings.min_games
        series.waiting += figure.value * figure.count
        series.waiting_count += figure.count
        if series.waiting_count < least:
            return None
        value, count = series.waiting / series.waiting_count, series.waiting_count
        series.waiting, series.waiting_count = 0.0, 0
        if figure.alarm in _FROM_START:
            if series.first_count < settings.first:
                series.first += value
                series.first_count += 1
                return None
            start = series.first / series.first_count
            if figure.alarm is AlarmName.JUDGE_POSITIVE:
                value -= start
            elif start > 0:
                value /= start
            else:
                return None  # it had no entropy from the start
        return self._judge(step, figure.alarm, figure.role, value, count)

    def _validate(
        self, step: int, games: Sequence[GameRecord], accuracy: float | None
    ) -> Alarm | None:
        known = self._history.validations
        reward = self_play_reward(games)
        if reward is not None:
            known.rewards = [*known.rewards, reward][-self._settings.patience :]
        now = fmean(known.rewards) if known.rewards else None
        if known.best is not None and known.reward is None:  # it was before the first game
            known.reward = now
        if accuracy is None:
            return None
        if known.best is None or accuracy >= known.best:
            known.best, known.reward = accuracy, now
        rising = now is not None and known.reward is not None and now > known.reward
        drop = known.best - accuracy
        return self._judge(step, AlarmName.VALIDATION, None, drop, 1, counts=rising)

    def _judge(
        self,
        step: int,
        name: AlarmName,
        role: Role | None,
        value: float,
        count: int,
        *,
        counts: bool = True,
    ) -> Alarm | None:
        """Compares a measurement with the thresholds; ``counts`` is false where it raises none."""
        limits = self._settings.limits(name)
        worst = self._measured.get(name, value)
        self._measured[name] = (max if limits[0].side > 0 else min)(worst, value)
        series = self._series(name, role)
        passed = next((one for one in limits if counts and one.passed(value)), None)
        side = passed.side if passed else 0
        if side != series.side:
            series.side, series.measurements, series.since, series.count = side, 0, step, 0
        if passed is None:
            return None
        series.measurements += 1
        series.count += count
        patience = self._patience(name)
        if series.measurements < patience:
            return None
        new = series.measurements == patience
        return Alarm(
            name, role, step, value, passed, series.measurements, series.since, series.count, new
        )

    def _series(self, name: AlarmName, role: Role | None) -> _Series:
        key = name.value if role is None else f"{name.value}/{role.value}"
        return self._history.series.setdefault(key, _Series())

    def _patience(self, name: AlarmName) -> int:
        settings = self._settings
        return settings.validation_patience if name is AlarmName.VALIDATION else settings.patience


@cache
def _reader() -> TypeAdapter[_History]:
    return TypeAdapter(_History)


def _alarm_of(key: str) -> AlarmName:
    return AlarmName(key.partition("/")[0])
