"""How far a run is, what it is doing and how long it will take, told from its files."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Final

from medical_team.report.follow import RunState
from medical_team.report.run_config import CONFIG, planned_steps
from medical_team.report.terminal_text import duration, plain

_RECENT: Final = 20  # steps whose mean time is taken
_QUIET_S: Final = 600.0
_QUIET_STEPS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a run.

    Attributes:
        step: the last complete training step, 0 before the first.
        planned: how many there are to be, ``None`` where the configuration does not say.
        step_s: mean time of the last steps, in seconds; ``None`` before the first.
        left_s: time until the last step, in seconds; ``None`` where it cannot be told.
        doing: what the run is doing, in words.
        ended: whether all steps are trained.
        quiet: whether nothing has changed for longer than a run takes for anything.
    """

    step: int
    planned: int | None
    step_s: float | None
    left_s: float | None
    doing: str
    ended: bool
    quiet: bool


def progress(state: RunState, now: float) -> Progress:
    """Tells how far a run is.

    Args:
        state: what its files say.
        now: seconds since the epoch.
    """
    trained = state.trained
    step = trained[-1][0] if trained else 0
    times = [data["timing_s/step"] for _, data in trained if "timing_s/step" in data]
    step_s = fmean(times[-_RECENT:]) if times else None
    planned = planned_steps(state.config)
    ended = planned is not None and step >= planned
    # Another machine's clock may be ahead of this one's.
    silent = 0.0 if state.changed_at is None else max(0.0, now - state.changed_at)
    quiet = silent > max(_QUIET_S, _QUIET_STEPS * (step_s or 0.0)) and not ended
    left = None
    if planned is not None and step_s is not None and not quiet:
        left = 0.0 if ended else max(0.0, (planned - step) * step_s - min(silent, step_s))
    doing = _doing(state, step, ended)
    if quiet:
        doing = f"quiet for {duration(silent)} (ended, killed or stuck); last seen: {doing}"
    return Progress(step, planned, step_s, left, doing, ended, quiet)


def _doing(state: RunState, step: int, ended: bool) -> str:
    if ended:
        return "ended: all steps are trained"
    if not state.config and not state.by_step and state.train is None:
        runs = sorted(path.parent.name for path in state.folder.glob(f"*/{CONFIG}"))
        below = f"; runs below it: {plain(', '.join(runs[:4]))}" if runs else ""
        return f"waiting: no run in this folder yet{below}"
    if state.train is not None and state.train.step > step:
        validated = state.validation is not None and state.validation.step >= state.train.step
        what = "validated" if validated else f"{len(state.train.games)} games played, training on"
        return f"step {state.train.step}: {what}" + ("" if validated else " them")
    if state.train is None and not state.by_step:
        if state.validation is not None:
            return "validated before the first step; playing its games"
        return "starting"
    return f"step {step + 1}: playing games"
