"""Labels become one reward per turn.

Two tables. :class:`ZeroSum` (the default): the assessor's outcome r, and minus its mean over the
assessors for the attacker, so that over games in which both roles played, kept the format and kept
the category the two sum to exactly 0. :class:`MedicalGeneralSum`: Self-RedTeam's sum of separate
terms (arXiv 2506.07468, section on rewards).

Where the judge is undecided, on the error or on who identified it, the turn is a tie worth 0 in
both tables: an uncertain label moves nobody.

A turn that is played but must not be trained (an attacker whose assessors all broke the format won
nothing; ties if they are removed) carries ``trained=False``; this module is the one place that
decides it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from medical_team.answers import Classification
from medical_team.medec import ERROR_TYPES
from medical_team.medical_game_manager import Forfeit, Game, Turn
from medical_team.medical_judge import Verdict


@dataclass(frozen=True, slots=True)
class TurnReward:
    """The reward of one turn.

    Attributes:
        value: the reward.
        trained: whether the turn may reach the optimizer.
        outcome: ``win``, ``loss`` or ``tie`` seen from the turn's own role, ``void`` if nobody won
            anything.
    """

    value: float
    trained: bool
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTable(ABC):
    """What both tables share.

    Attributes:
        remove_ties: leave tied turns out of the training batch.
        balance_truth: weight the assessor's advantages so that games with and without an error
            count the same in each step. Three of the four game types hold an error, and without
            this self-play tilts to "always harmful". Applied by the role-wise advantage estimators.
        error_types: train only on cases of these error types; ``None`` for all.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    remove_ties: bool = False
    balance_truth: bool = True
    error_types: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Checks the error types.

        Raises:
            ValueError: naming the unknown ones and the known ones.
        """
        unknown = sorted(set(self.error_types or ()) - set(ERROR_TYPES))
        if unknown:
            raise ValueError(
                f"rewards.error_types names {', '.join(unknown)}, known: {', '.join(ERROR_TYPES)}"
            )

    def score(self, game: Game, verdict: Verdict | None) -> list[TurnReward]:
        """Rewards a finished game.

        Args:
            game: the game.
            verdict: its labels; ``None`` if and only if the game is a forfeit.

        Returns:
            One reward for each of ``game.turns``, in order.

        Raises:
            ValueError: if a played game comes without labels, or a forfeit with them.
        """
        if (verdict is None) != (game.forfeit is not None):
            raise ValueError(
                f"case {game.case.case_id}: forfeit is {game.forfeit}, so a verdict was "
                f"{'expected' if verdict is None else 'not expected'}"
            )
        rewards = self._forfeited(game.forfeit) if verdict is None else self._played(game, verdict)
        if self.error_types is not None and game.case.error_type not in self.error_types:
            return [TurnReward(reward.value, False, reward.outcome) for reward in rewards]
        return rewards

    def _undecided(self) -> TurnReward:
        return TurnReward(0.0, not self.remove_ties, "tie")

    @abstractmethod
    def _forfeited(self, forfeit: Forfeit | None) -> list[TurnReward]: ...

    @abstractmethod
    def _played(self, game: Game, verdict: Verdict) -> list[TurnReward]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroSum(RewardTable):
    """The zero-sum table; r is the assessor's outcome.

    Attributes:
        identified: r where there is an error and the assessor names it.
        wrong_sentence: r where there is an error and the assessor says harmful but names another
            sentence: a tie.
        missed: r where there is an error and the assessor says safe.
        correct_safe: r where there is no error and the assessor says safe.
        false_alarm: r where there is no error and the assessor says harmful.
        broken_format: the assessor's reward for a broken format.
        forfeit: the attacker's reward for a forfeit.
        broken_category: the attacker's reward if its note holds no error, whatever the assessor
            said.
    """

    identified: float = 1.0
    wrong_sentence: float = 0.0
    missed: float = -1.0
    correct_safe: float = 1.0
    false_alarm: float = -1.0
    broken_format: float = -1.0
    forfeit: float = -1.0
    broken_category: float = -1.0

    def _forfeited(self, forfeit: Forfeit | None) -> list[TurnReward]:
        return [TurnReward(self.forfeit, True, "loss")]

    def _played(self, game: Game, verdict: Verdict) -> list[TurnReward]:
        assessors = [
            self._assessor(turn, verdict.error_present, identified)
            for turn, identified in zip(game.assessments, verdict.error_identified, strict=True)
        ]
        if game.attack is None:
            return assessors
        return [self._attacker(game, verdict, assessors), *assessors]

    def _assessor(
        self, turn: Turn, error_present: bool | None, identified: bool | None
    ) -> TurnReward:
        if turn.assessment is None:
            return TurnReward(self.broken_format, True, "loss")
        harmful = turn.assessment.classification is Classification.HARMFUL
        if error_present is None or (error_present and harmful and identified is None):
            return self._undecided()
        if not error_present:
            return (
                TurnReward(self.false_alarm, True, "loss")
                if harmful
                else TurnReward(self.correct_safe, True, "win")
            )
        if not harmful:
            return TurnReward(self.missed, True, "loss")
        if identified:
            return TurnReward(self.identified, True, "win")
        return TurnReward(self.wrong_sentence, not self.remove_ties, "tie")

    def _attacker(self, game: Game, verdict: Verdict, assessors: list[TurnReward]) -> TurnReward:
        if verdict.error_present is None:
            return self._undecided()
        if not verdict.error_present:
            return TurnReward(self.broken_category, True, "loss")
        values = [
            reward.value
            for turn, reward in zip(game.assessments, assessors, strict=True)
            if turn.assessment is not None and reward.trained
        ]
        if not values:
            return TurnReward(0.0, False, "void")
        value = 0.0 - fmean(values)  # not -0.0 for a tie
        return TurnReward(value, True, "win" if value > 0 else "loss" if value < 0 else "tie")


@dataclass(frozen=True, slots=True, kw_only=True)
class MedicalGeneralSum(RewardTable):
    """Self-RedTeam's table carried over: a sum of terms, each plus or minus its coefficient.

    Attributes:
        category: attacker: the note holds an error, as it must.
        undetected: attacker: the assessors called it safe; 0 where they said harmful at a wrong
            sentence.
        realistic: attacker: a clinician could have written it; no term where the judge cannot tell.
        classification: assessor: harmful or safe was right.
        identified: assessor: named the error; no term where there is none.
        format: both: kept the answer format.
    """

    category: float = 0.5
    undetected: float = 1.0
    realistic: float = 0.5
    classification: float = 1.0
    identified: float = 1.0
    format: float = 1.0

    def _forfeited(self, forfeit: Forfeit | None) -> list[TurnReward]:
        kept = forfeit not in (Forfeit.FORMAT, Forfeit.TRUNCATED)
        lost = -(self.category + self.undetected + self.realistic)
        return [TurnReward(lost + _signed(self.format, kept), True, "loss")]

    def _played(self, game: Game, verdict: Verdict) -> list[TurnReward]:
        assessors = [
            self._assessor(turn, verdict.error_present, identified)
            for turn, identified in zip(game.assessments, verdict.error_identified, strict=True)
        ]
        if game.attack is None:
            return assessors
        return [self._attacker(game, verdict), *assessors]

    def _assessor(
        self, turn: Turn, error_present: bool | None, identified: bool | None
    ) -> TurnReward:
        if turn.assessment is None:
            lost = self.classification + (self.identified if error_present else 0.0)
            return TurnReward(-lost - self.format, True, "loss")
        harmful = turn.assessment.classification is Classification.HARMFUL
        if error_present is None or (error_present and harmful and identified is None):
            return self._undecided()
        value = _signed(self.classification, harmful == error_present) + self.format
        if error_present:
            value += _signed(self.identified, bool(identified))
        if harmful != error_present:
            return TurnReward(value, True, "loss")
        if error_present and not identified:
            return TurnReward(value, not self.remove_ties, "tie")
        return TurnReward(value, True, "win")

    def _attacker(self, game: Game, verdict: Verdict) -> TurnReward:
        if verdict.error_present is None:
            return self._undecided()
        value = self.format + _signed(self.category, verdict.error_present)
        if verdict.realistic is not None:
            value += _signed(self.realistic, verdict.realistic)
        if not verdict.error_present:
            return TurnReward(value - self.undetected, True, "loss")
        escapes = [
            1.0
            if turn.assessment.classification is Classification.SAFE
            else -1.0
            if identified
            else 0.0
            for turn, identified in zip(game.assessments, verdict.error_identified, strict=True)
            if turn.assessment is not None
        ]
        if not escapes:
            return TurnReward(0.0, False, "void")
        escaped = fmean(escapes)
        outcome = "win" if escaped > 0 else "loss" if escaped < 0 else "tie"
        return TurnReward(
            value + self.undetected * escaped, outcome != "tie" or not self.remove_ties, outcome
        )


REWARD_TABLES: dict[str, type[RewardTable]] = {
    "zero_sum": ZeroSum,
    "medical_general_sum": MedicalGeneralSum,
}


def _signed(coefficient: float, good: bool) -> float:
    return coefficient if good else -coefficient
