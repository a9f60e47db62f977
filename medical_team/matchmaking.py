"""Which game a row of the data is played as: the mix of game types, and of error types.

Self-play tilts where one side has it too easy. The mix holds the shares of the four game types, or
moves the share of attacked notes so that the attacker's win rate stays in a band; the curriculum
plays the error types more that the assessor neither always nor never finds.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any, ClassVar, Final

from medical_team.game_record import GameRecord
from medical_team.medec import Case
from medical_team.medical_game_manager import GameType

_STEP: Final = 0.2  # by which the log-odds of an attacked note move in one step
_LIMIT: Final = log(9)  # shares of 0.1 to 0.9
_MEMORY: Final = 0.9  # of the moving averages, a step
_LEAST_WEIGHT: Final = 0.05  # of an error type that is always or never found


@dataclass(frozen=True, slots=True)
class MatchSettings:
    """How games are made of rows.

    Attributes:
        game_mix: weight of each game type; rows are then drawn from these shares and their own
            types do not count. ``None`` plays each row as the dataset says.
        target_win_rate: lowest and highest wanted win rate of the attacker, each in (0, 1). Above
            it fewer notes are attacked, so that the assessor catches up; below it more. ``None``
            leaves the mix as it is.
        curriculum: share of the rows that are played with another case, drawn by error type: types
            that the assessor finds about half of the time are drawn most. In [0, 1].
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    game_mix: Mapping[GameType, float] | None = None
    target_win_rate: tuple[float, float] | None = None
    curriculum: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        if self.game_mix is not None:
            bad = {str(name): weight for name, weight in self.game_mix.items() if not weight >= 0}
            if bad or not sum(self.game_mix.values()) > 0:
                raise ValueError(
                    f"game.game_mix is {_plain(self.game_mix)}; its weights must be at least 0 and"
                    " one of them above"
                )
        if self.target_win_rate is not None:
            low, high = self.target_win_rate
            if not 0 < low < high < 1:
                raise ValueError(
                    f"game.target_win_rate is [{low}, {high}]; expected two numbers in (0, 1), the"
                    " lower one first"
                )
            if self.game_mix is not None and not _has_both_kinds(self.game_mix):
                raise ValueError(
                    f"game.game_mix is {_plain(self.game_mix)}; game.target_win_rate needs weights"
                    " above 0 for a vanilla and for an adversarial type"
                )
        if not 0 <= self.curriculum <= 1:
            raise ValueError(f"game.curriculum is {self.curriculum}, it must be in [0, 1]")

    @property
    def active(self) -> bool:
        """Whether rows are played as anything else than what the dataset says."""
        return bool(self.game_mix or self.target_win_rate or self.curriculum)


class GameMix:
    """Shares of the game types, moved towards the wanted win rate.

    Args:
        settings: ``game_mix`` and ``target_win_rate`` are read.
    """

    def __init__(self, settings: MatchSettings) -> None:
        weights = settings.game_mix or dict.fromkeys(GameType, 1.0)
        self._weights = {kind: float(weights.get(kind, 0.0)) for kind in GameType}
        self._target = settings.target_win_rate
        self.active = settings.game_mix is not None or self._target is not None
        """Whether game types are drawn from the shares; if not, each row keeps its own."""
        self._log_odds = 0.0
        if self._target is not None:
            share = self._kind_sum(adversarial=True) / sum(self._weights.values())
            self._log_odds = log(share / (1 - share))

    def draw(self, own: GameType, rng: random.Random) -> GameType:
        """The game type to play.

        Args:
            own: the type the dataset gives the row.
            rng: the source of randomness.
        """
        if not self.active:
            return own
        shares = self.shares()
        return rng.choices(list(shares), weights=list(shares.values()))[0]

    def shares(self) -> dict[GameType, float]:
        """Share of each game type; they sum to 1."""
        if self._target is None:
            total = sum(self._weights.values())
            return {kind: weight / total for kind, weight in self._weights.items()}
        attacked = 1 / (1 + exp(-self._log_odds))
        return {
            kind: weight
            / self._kind_sum(adversarial=kind.adversarial)
            * (attacked if kind.adversarial else 1 - attacked)
            for kind, weight in self._weights.items()
        }

    def observe(self, win_rate: float | None) -> None:
        """Moves the mix after a step.

        Args:
            win_rate: the attacker's share of wins in the step, ``None`` if it did not play.
        """
        if self._target is None or win_rate is None:
            return
        low, high = self._target
        if win_rate > high:
            self._log_odds = max(-_LIMIT, self._log_odds - _STEP)
        elif win_rate < low:
            self._log_odds = min(_LIMIT, self._log_odds + _STEP)

    def as_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"log_odds": self._log_odds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`as_dict`."""
        self._log_odds = float(state["log_odds"])

    def _kind_sum(self, *, adversarial: bool) -> float:
        return sum(w for kind, w in self._weights.items() if kind.adversarial is adversarial)


class Curriculum:
    """Draws cases by how well the assessor finds their error type.

    The weight of a type is ``p (1 - p)``, p being a moving average of the share of its errors that
    were identified: nothing is learnt from what is always or never found.

    Args:
        share: of the rows that get another case.
        cases: what is drawn from.
    """

    def __init__(self, share: float, cases: Iterable[Case]) -> None:
        self._share = share
        self._cases: dict[str, list[Case]] = {}
        for case in cases:
            self._cases.setdefault(case.error_type, []).append(case)
        self._found = dict.fromkeys(sorted(self._cases), 0.5)

    def draw(self, own: Case, rng: random.Random) -> Case:
        """The case to play.

        Args:
            own: the case of the row.
            rng: the source of randomness.
        """
        if not self._cases or rng.random() >= self._share:
            return own
        weights = self.weights()
        chosen = rng.choices(list(weights), weights=list(weights.values()))[0]
        return rng.choice(self._cases[chosen])

    def weights(self) -> dict[str, float]:
        """Weight of each error type."""
        return {kind: max(_LEAST_WEIGHT, p * (1 - p)) for kind, p in self._found.items()}

    def observe(self, games: Sequence[GameRecord]) -> None:
        """Moves the averages after a step."""
        for kind in self._found:
            found = [
                bool(identified)
                for game in games
                if game.error_type == kind and game.labels and game.labels.error_present
                for identified in game.labels.error_identified
                if identified is not None
            ]
            if found:
                mean = sum(found) / len(found)
                self._found[kind] = _MEMORY * self._found[kind] + (1 - _MEMORY) * mean

    def as_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return dict(self._found)

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`as_dict`; types without cases are left out."""
        self._found |= {kind: float(p) for kind, p in state.items() if kind in self._found}


def _has_both_kinds(mix: Mapping[GameType, float]) -> bool:
    kinds = {kind.adversarial for kind, weight in mix.items() if weight > 0}
    return kinds == {True, False}


def _plain(mix: Mapping[GameType, float]) -> dict[str, float]:
    return {str(kind): weight for kind, weight in mix.items()}
