"""Scores on notes whose truth is known, with bootstrap intervals over seeds and notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from learning_players import Answer, FixedNote
from numpy.typing import NDArray

from medical_team.sample_world.notes import wrong_facts

_RESAMPLES = 2000

# One row a seed, one column a note; a broken format is a wrong answer.
Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: the figure.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Answered:
    """What an arm's models answered to one set of notes.

    Attributes:
        detected: share of a note's samples that told its truth, shape (seeds, notes).
        located: share that named the sentence as well (of a clean note: that it has none).
    """

    detected: Shares
    located: Shares

    @classmethod
    def of(cls, notes: Sequence[FixedNote], by_seed: Sequence[Sequence[list[Answer]]]) -> Answered:
        """From each seed's answers to the notes, several a note."""
        detected = [
            [
                sum(one.harmful is (note.error_id is not None) for one in answers) / len(answers)
                for note, answers in zip(notes, by_note, strict=True)
            ]
            for by_note in by_seed
        ]
        located = [
            [sum(one.located for one in answers) / len(answers) for answers in by_note]
            for by_note in by_seed
        ]
        return cls(np.array(detected), np.array(located))


def balanced_accuracy(errors: Shares, clean: Shares) -> Estimate:
    """Mean of the shares of errors found and of clean notes passed."""
    return _estimate(lambda e, c: (e.mean() + c.mean()) / 2, [[errors, clean]])


def mean(shares: Shares) -> Estimate:
    """Mean over notes and seeds."""
    return _estimate(lambda one: float(one.mean()), [[shares]])


def difference(ours: tuple[Shares, Shares], theirs: tuple[Shares, Shares]) -> Estimate:
    """Our balanced accuracy less theirs on the same notes, each given as (errors, clean)."""

    def less(e: Shares, c: Shares, e2: Shares, c2: Shares) -> float:
        return float((e.mean() + c.mean() - e2.mean() - c2.mean()) / 2)

    return _estimate(less, [list(ours), list(theirs)])


def by_fact(notes: Sequence[FixedNote], detected: Shares) -> Mapping[str, tuple[float, int]]:
    """Share of the errors found by the fact that is wrong, with the number of such notes."""
    kinds = [_fact(note) for note in notes]
    return {
        kind: (float(detected[:, [k == kind for k in kinds]].mean()), kinds.count(kind))
        for kind in sorted(set(kinds))
    }


def _fact(note: FixedNote) -> str:
    wrong = wrong_facts(note.note)
    return next(iter(wrong)).name.lower() if wrong and len(wrong) == 1 else "several"


def _estimate(statistic: Callable[..., float], arms: Sequence[Sequence[Shares]]) -> Estimate:
    """Resamples the seeds of each arm, and the notes of each set for all arms alike."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLES):
        columns = [rng.integers(one.shape[1], size=one.shape[1]) for one in arms[0]]
        sample = []
        for sets in arms:
            rows = rng.integers(len(sets[0]), size=len(sets[0]))
            sample += [one[rows][:, column] for one, column in zip(sets, columns, strict=True)]
        drawn.append(statistic(*sample))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(
        float(statistic(*(one for sets in arms for one in sets))), float(low), float(high)
    )
