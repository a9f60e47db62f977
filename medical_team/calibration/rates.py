"""The numbers of a calibration, counted from what the judge said about the items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median

import numpy as np

from medical_team.answers import Classification
from medical_team.calibration.answers import both_orders, judgements
from medical_team.calibration.items import Item, Kind
from medical_team.calibration.record import (
    FORMAT,
    Calibration,
    Cost,
    Data,
    LabelRates,
    PositionBias,
)
from medical_team.calibration.statistics import (
    Scored,
    balanced_accuracy,
    best_threshold,
    cross_validated,
    label_rates,
    quality,
    rate,
)
from medical_team.calibration.store import Asked, Reply
from medical_team.judges.model_judge import DEFAULT_THRESHOLD, Answer
from medical_team.judges.settings import JudgeSettings, ModelSettings
from medical_team.medical_judge import JudgeUsage, Verdict

_LIKE_TRAINING = (Kind.ERROR, Kind.REWORDING)


Labelled = tuple[Item, Verdict]


def calibration_of(
    items: Sequence[Item],
    replies: Mapping[str, Reply],
    settings: JudgeSettings,
    asked: Asked,
    *,
    file: str,
    date: str,
) -> Calibration:
    """Counts everything.

    Args:
        items: what was asked.
        replies: a reply for each item, by query id.
        settings: the judge's.
        asked: the judge and the data.
        file: name of the MEDEC file, without its folder.
        date: now, ISO 8601.
    """
    # At a threshold of 0 every answer is yes, so no game is left out for a contradiction between
    # the two orders and every P(yes) comes out.
    everything = _labelled(items, replies, settings, 0.0)
    present = _present_scores(_of(everything, *_LIKE_TRAINING))
    identified = _identified_scores(_of(everything, Kind.ERROR_AND_REWORDING))
    threshold = best_threshold(present)
    at = _labelled_at(settings, threshold) if present else None
    labelled = _labelled(items, replies, settings, at)
    like_training = _of(labelled, *_LIKE_TRAINING)
    return Calibration(
        format=FORMAT,
        judge=asked.judge,
        fingerprint=asked.fingerprint,
        date=date,
        data=_data(items, asked, file),
        threshold=threshold,
        labelled_at=at,
        unscored=rate(len(items) - len(labelled), len(items)),
        error_present=_present_rates(like_training),
        error_present_by_kind={kind.value: _present_rates(_of(labelled, kind)) for kind in Kind},
        error_present_by_type={
            error_type: _present_rates(
                [one for one in like_training if one[0].error_type == error_type]
            )
            for error_type in sorted({item.error_type for item in items})
        },
        error_identified=_identified_rates(_of(labelled, Kind.ERROR_AND_REWORDING)),
        error_identified_by_kind={
            kind.value: _identified_rates(_of(labelled, kind)) for kind in Kind
        },
        balanced_accuracy=None
        if threshold is None
        else balanced_accuracy([(one.truth, one.p_yes >= threshold) for one in present]),
        balanced_accuracy_cross_validated=cross_validated(present),
        present_quality=quality(present),
        identified_quality=quality(identified),
        position_bias=position_bias(both_orders(replies), at),
        cost=_cost(list(replies.values()), [verdict.usage for _, verdict in labelled]),
    )


def position_bias(
    pairs: Sequence[tuple[Answer, Answer]], threshold: float | None
) -> PositionBias | None:
    """How the answers differ between the two orders; ``None`` where one order only was asked.

    Args:
        pairs: the answers with the reference note first and with the note under review first.
        threshold: P(yes) from which an answer is yes; unused where there are no probabilities.
    """
    if not pairs:
        return None
    least = DEFAULT_THRESHOLD if threshold is None else threshold

    def yes(answer: Answer) -> bool:
        return answer.yes if answer.p_yes is None else answer.p_yes >= least

    differences = [
        swapped.p_yes - first.p_yes
        for first, swapped in pairs
        if first.p_yes is not None and swapped.p_yes is not None
    ]
    changed = sum(yes(first) != yes(swapped) for first, swapped in pairs)
    mean = round(fmean(differences), 6) if differences else None
    return PositionBias(rate(changed, len(pairs)), mean)


def _labelled(
    items: Sequence[Item],
    replies: Mapping[str, Reply],
    settings: JudgeSettings,
    threshold: float | None,
) -> list[Labelled]:
    found = judgements(replies, settings, threshold)
    pairs = [(item, found[item.query.query_id]) for item in items]
    return [(item, verdict) for item, verdict in pairs if isinstance(verdict, Verdict)]


def _of(labelled: Sequence[Labelled], *kinds: Kind) -> list[Labelled]:
    return [one for one in labelled if one[0].kind in kinds]


def _present_rates(labelled: Sequence[Labelled]) -> LabelRates:
    return label_rates((item.kind.holds_error, verdict.error_present) for item, verdict in labelled)


def _identified_rates(labelled: Sequence[Labelled]) -> LabelRates:
    return label_rates(
        (truth, label)
        for item, verdict in labelled
        for truth, label, answer in zip(
            item.identified, verdict.error_identified, item.query.assessments, strict=True
        )
        # Who says safe identifies nothing, whatever the judge thinks: it would only flatter it.
        if answer is not None and answer.classification is Classification.HARMFUL
    )


def _present_scores(labelled: Sequence[Labelled]) -> list[Scored]:
    return [
        Scored(item.case_id, item.kind.holds_error, verdict.probabilities.error_present)
        for item, verdict in labelled
        if verdict.probabilities is not None and verdict.probabilities.error_present is not None
    ]


def _identified_scores(labelled: Sequence[Labelled]) -> list[Scored]:
    return [
        Scored(item.case_id, truth, p_yes)
        for item, verdict in labelled
        if verdict.probabilities is not None
        for truth, p_yes in zip(
            item.identified, verdict.probabilities.error_identified, strict=True
        )
        if p_yes is not None
    ]


def _labelled_at(settings: JudgeSettings, best: float | None) -> float | None:
    if not isinstance(settings, ModelSettings):
        return None
    if settings.threshold is not None:
        return settings.threshold
    return DEFAULT_THRESHOLD if best is None else best


def _data(items: Sequence[Item], asked: Asked, file: str) -> Data:
    kinds = Counter(item.kind for item in items)
    cases = {item.case_id for item in items}
    reworded = {item.case_id for item in items if item.kind is Kind.REWORDING}
    return Data(
        file=file,
        sha256=asked.data_sha256,
        cases=len(cases),
        not_reworded=len(cases - reworded),
        seed=asked.seed,
        items={kind.value: kinds[kind] for kind in Kind},
    )


def _cost(replies: Sequence[Reply], usages: Sequence[JudgeUsage]) -> Cost:
    latencies = [reply.latency_s for reply in replies]
    busy = sum(reply.share_s for reply in replies)
    cached = [one.cached_tokens for one in usages if one.cached_tokens is not None]
    return Cost(
        latency_s_median=round(median(latencies), 6),
        latency_s_p95=round(float(np.percentile(latencies, 95)), 6),
        verdicts_per_s=round(len(replies) / busy, 3),
        prompt_tokens=_mean([one.prompt_tokens for one in usages]),
        cached_tokens=_mean(cached) if cached else None,
        output_tokens=_mean([one.output_tokens for one in usages]),
    )


def _mean(values: Sequence[int]) -> float:
    return round(fmean(values), 3) if values else 0.0
