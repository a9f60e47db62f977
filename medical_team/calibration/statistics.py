"""The statistics of a calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import binomtest, mannwhitneyu  # type: ignore[import-untyped]

from medical_team.calibration.record import Bin, LabelRates, ProbabilityQuality, Rate
from medical_team.judges.model_judge import DEFAULT_THRESHOLD

BINS = 10
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Scored:
    """One question with its P(yes).

    Attributes:
        case_id: the case it is about.
        truth: what the answer should be.
        p_yes: what the judge said.
    """

    case_id: str
    truth: bool
    p_yes: float


def rate(count: int, of: int) -> Rate:
    """A share with Wilson's 95 % interval; ``of`` is at least 1."""
    interval = binomtest(count, of).proportion_ci(method="wilson")
    # The interval's ends are off by a rounding error at 0 and 1.
    low, high = (round(float(end), 6) for end in (interval.low, interval.high))
    return Rate(count, of, round(count / of, 6), low, high)


def label_rates(labels: Iterable[tuple[bool, bool | None]]) -> LabelRates:
    """Counts how often labels are wrong.

    Args:
        labels: truth and label of each question; ``None`` is undecided.
    """
    all_labels = list(labels)
    decided = [(truth, label) for truth, label in all_labels if label is not None]

    def wrong(truths: tuple[bool, ...]) -> Rate | None:
        chosen = [truth != label for truth, label in decided if truth in truths]
        return rate(sum(chosen), len(chosen)) if chosen else None

    right = sum(truth == label for truth, label in decided)
    return LabelRates(
        accuracy=rate(right, len(decided)) if decided else None,
        false_positive=wrong((False,)),
        false_negative=wrong((True,)),
        undecided=len(all_labels) - len(decided),
    )


def best_threshold(scored: Sequence[Scored]) -> float | None:
    """The threshold of the best balanced accuracy: of equals, the one nearest to 0.5.

    Candidates are 0.5 and the middles between neighbouring scores. ``None`` where only one class
    was seen.
    """
    yes = np.sort([one.p_yes for one in scored if one.truth])
    no = np.sort([one.p_yes for one in scored if not one.truth])
    if not yes.size or not no.size:
        return None
    scores = np.unique(np.concatenate([yes, no]))
    candidates = np.append((scores[1:] + scores[:-1]) / 2, DEFAULT_THRESHOLD)
    # From a threshold on the label is yes: what lies left of it in the sorted scores is a no.
    hits = 1 - np.searchsorted(yes, candidates) / yes.size
    rejections = np.searchsorted(no, candidates) / no.size
    balanced = (hits + rejections) / 2
    best = candidates[np.isclose(balanced, balanced.max())]
    return float(best[np.argmin(abs(best - DEFAULT_THRESHOLD))])


def balanced_accuracy(labels: Iterable[tuple[bool, bool]]) -> float | None:
    """Mean of the shares of right labels in the two classes; ``None`` without both classes.

    Args:
        labels: truth and label of each question.
    """
    right: dict[bool, list[bool]] = {True: [], False: []}
    for truth, label in labels:
        right[truth].append(truth == label)
    if not all(right.values()):
        return None
    return round(fmean(fmean(one) for one in right.values()), 6)


def cross_validated(scored: Sequence[Scored], folds: int = FOLDS) -> float | None:
    """Balanced accuracy where each case is labelled at the threshold that the other folds give.

    Args:
        scored: the questions; those about one case fall into one fold.
        folds: most folds; never more than there are cases.
    """
    place = {case: i for i, case in enumerate(dict.fromkeys(one.case_id for one in scored))}
    folds = min(folds, len(place))
    labels: list[tuple[bool, bool]] = []
    for fold in range(folds):
        kept = [one for one in scored if place[one.case_id] % folds != fold]
        threshold = best_threshold(kept)
        if threshold is None:
            return None
        held_out = [one for one in scored if place[one.case_id] % folds == fold]
        labels += [(one.truth, one.p_yes >= threshold) for one in held_out]
    return balanced_accuracy(labels)


def quality(scored: Sequence[Scored]) -> ProbabilityQuality | None:
    """AUROC, calibration error and reliability diagram; ``None`` without probabilities."""
    if not scored:
        return None
    yes = [one.p_yes for one in scored if one.truth]
    no = [one.p_yes for one in scored if not one.truth]
    auroc = float(mannwhitneyu(yes, no).statistic) / (len(yes) * len(no)) if yes and no else None
    bins: list[Bin] = []
    for index in range(BINS):
        inside = [one for one in scored if min(int(one.p_yes * BINS), BINS - 1) == index]
        if inside:
            share = rate(sum(one.truth for one in inside), len(inside))
            mean = round(fmean(one.p_yes for one in inside), 6)
            bins.append(Bin(index / BINS, (index + 1) / BINS, len(inside), mean, share))
    error = sum(one.count * abs(one.mean_p_yes - one.yes.share) for one in bins) / len(scored)
    return ProbabilityQuality(
        None if auroc is None else round(auroc, 6), round(error, 6), tuple(bins)
    )
