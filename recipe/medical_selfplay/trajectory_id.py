"""What the advantage estimators know of a row.

verl hands an estimator only the rows' ``uid`` field, so the role, the group, the truth and the
baseline travel in it. The field is written by the replay buffer; the TransferQueue key keeps verl's
form.
"""

from __future__ import annotations

from dataclasses import dataclass

from medical_team.medical_game_manager import Role

_SEPARATOR = "|"


@dataclass(frozen=True, slots=True)
class TrajectoryId:
    """Identity of a trained trajectory.

    Attributes:
        role: who played it.
        group: rows of one role and group are compared with each other: same prompt, or same case
            for attackers.
        error_present: the truth of an assessor's note; ``None`` where it does not count (attackers,
            balance off).
        baseline: what ``rae`` subtracts from the row's reward, see
            :class:`~recipe.medical_selfplay.baselines.RoleBaselines`; ``None`` where no average is
            kept.
    """

    role: Role
    group: str
    error_present: bool | None = None
    baseline: float | None = None

    def __str__(self) -> str:
        """The form that is written into the ``uid`` field."""
        truth = "" if self.error_present is None else str(int(self.error_present))
        # The shortest digits that read back as the same number; a NumPy float's own differ.
        baseline = "" if self.baseline is None else repr(float(self.baseline))
        # The group may hold the separator, so it comes last.
        return _SEPARATOR.join((self.role.value, truth, baseline, self.group))

    @classmethod
    def parse(cls, uid: str) -> TrajectoryId:
        """Reads a ``uid`` field.

        Raises:
            ValueError: if the field was not written by the replay buffer.
        """
        try:
            role, truth, baseline, group = str(uid).split(_SEPARATOR, 3)
            return cls(
                Role(role),
                group,
                bool(int(truth)) if truth else None,
                float(baseline) if baseline else None,
            )
        except ValueError as error:
            raise ValueError(
                f"uid {uid!r} carries no role; set trainer.v1.sampler.custom_sampler to"
                " recipe.medical_selfplay.replay_buffer (configs/medical_grpo.yaml does)"
            ) from error
