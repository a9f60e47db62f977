"""Average reward of each role in each game type: what ``rae`` compares a reward with.

Role-conditioned advantage estimation (SPIRAL, arXiv 2506.24119, equation 2) keeps, for game ``G``
and role ``p``, an exponential moving average ``b`` of the rewards ``R``, starting at 0::

    A = R - b            (the average as it was before this game)
    b <- decay * b + (1 - decay) * R

The equation is printed in the other order; SPIRAL's code and prime-rl's ``rae.py`` read first, so
that a reward is not part of what it is compared with. (The printed order multiplies every advantage
by ``decay``.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from medical_team.medical_game_manager import Role


class RoleBaselines:
    """The moving averages, by role and game type.

    The rewards of a batch follow one another, as in SPIRAL and prime-rl, instead of moving the
    average once by the batch's mean. Like theirs, an average starts at 0 and is not corrected for
    that; the start fades within some ``1 / (1 - decay)`` rewards.

    Args:
        decay: what one reward leaves of the average, SPIRAL's alpha; at least 0, below 1.

    Raises:
        ValueError: if ``decay`` is out of range.
    """

    def __init__(self, decay: float = 0.95) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(
                f"game.rae_decay is {decay!r}; it must be at least 0 and below 1, such as 0.95"
            )
        self._decay = decay
        self._averages: dict[tuple[Role, str], float] = {}

    def read(self, role: Role, game_type: str) -> float:
        """The average as it stands: what the next reward is compared with, 0 before the first."""
        return self._averages.get((role, game_type), 0.0)

    def update(self, rewards: Sequence[tuple[Role, str, float]]) -> list[float]:
        """Lets the averages follow a batch of rewards.

        Args:
            rewards: role, game type and reward of each trained turn, in the order in which they
                count. Sort them by what is the same in every run and knows nothing of the outcome,
                such as row, session and turn, never by when a game ended: short answers end first,
                and are not rewarded like long ones.

        Returns:
            The baseline of each turn: the average before its own reward moved it.

        Raises:
            ValueError: if a reward is not finite; nothing has changed then.
        """
        for role, game_type, reward in rewards:
            if not math.isfinite(reward):
                raise ValueError(
                    f"a reward of the {role.value} in {game_type} is {reward}, which would stay in"
                    " its average for good; check the rewards section of the configuration"
                )
        found = []
        for role, game_type, reward in rewards:
            before = self.read(role, game_type)
            found.append(before)
            self._averages[role, game_type] = self._decay * before + (1.0 - self._decay) * reward
        return found

    def as_dict(self) -> dict[str, dict[str, float]]:
        """The averages by role and game type for a checkpoint; JSON keeps them without loss."""
        averages: dict[str, dict[str, float]] = {}
        for (role, game_type), average in sorted(self._averages.items()):
            averages.setdefault(role.value, {})[game_type] = average
        return averages

    def restore(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Goes on from the averages of :meth:`as_dict`.

        Raises:
            ValueError: if it is not such a state; nothing has changed then.
        """
        averages: dict[tuple[Role, str], float] = {}
        try:
            for role, by_type in state.items():
                for game_type, average in by_type.items():
                    if not math.isfinite(average):
                        raise ValueError(f"the average of the {role} in {game_type} is {average}")
                    averages[Role(role), game_type] = float(average)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"the saved role baselines are damaged ({error}); resume from an earlier checkpoint"
            ) from error
        self._averages = averages
