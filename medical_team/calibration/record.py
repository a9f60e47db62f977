"""How often a judge errs: the record that calibration writes and training reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from medical_team.atomic_files import replacing

FORMAT = 1
_MAKE_AGAIN = "run scripts/calibrate_judge.py again"


class CalibrationError(ValueError):
    """A calibration that cannot be made or read; the message names the file and the fix."""


class _Strict:
    """A record whose file holds its fields and no others."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True)
class Rate(_Strict):
    """A share that was counted, with its 95 % interval (Wilson).

    Attributes:
        count: how many.
        of: of how many, at least 1.
        share: ``count / of``.
        low: lower end of the interval.
        high: upper end.
    """

    count: int
    of: int
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        """``12.0 % (95 % interval 8.1 to 17.2, 24 of 200)``."""
        ends = f"{100 * self.low:.1f} to {100 * self.high:.1f}"
        return f"{100 * self.share:.1f} % (95 % interval {ends}, {self.count} of {self.of})"


@dataclass(frozen=True, slots=True)
class LabelRates(_Strict):
    """How often one label is wrong.

    Attributes:
        accuracy: share of right labels.
        false_positive: share of yes where the truth is no; ``None`` where nothing is no.
        false_negative: share of no where the truth is yes; ``None`` where nothing is yes.
        undecided: labels inside the tie band, which count in none of the above.
    """

    accuracy: Rate | None
    false_positive: Rate | None
    false_negative: Rate | None
    undecided: int


@dataclass(frozen=True, slots=True)
class Bin(_Strict):
    """The answers whose P(yes) lies in one bin of the reliability diagram.

    Attributes:
        low: lower end, included.
        high: upper end, excluded but for 1.
        count: answers in it, at least 1.
        mean_p_yes: their mean P(yes).
        yes: share of them whose truth is yes.
    """

    low: float
    high: float
    count: int
    mean_p_yes: float
    yes: Rate


@dataclass(frozen=True, slots=True)
class ProbabilityQuality(_Strict):
    """What P(yes) of one question is worth.

    Attributes:
        auroc: chance that a yes case has the larger P(yes); ``None`` if only one class was seen.
        calibration_error: expected calibration error over the bins.
        bins: the reliability diagram, empty bins left out.
    """

    auroc: float | None
    calibration_error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class PositionBias(_Strict):
    """What changes when the note is shown before the reference note.

    Attributes:
        changed: share of note pairs whose label changes.
        mean_difference: mean of P(yes) with the note first minus with the reference first; ``None``
            without probabilities.
    """

    changed: Rate
    mean_difference: float | None


@dataclass(frozen=True, slots=True)
class Cost(_Strict):
    """What a verdict took; tokens are means, of every question that training asks of a game.

    Attributes:
        latency_s_median: time from asking a batch to its verdicts, in seconds.
        latency_s_p95: its 95th percentile.
        verdicts_per_s: verdicts per second while the judge was busy.
        prompt_tokens: tokens of the prompts.
        cached_tokens: how many of them were not computed again; ``None`` where it is not known.
        output_tokens: tokens generated.
    """

    latency_s_median: float
    latency_s_p95: float
    verdicts_per_s: float
    prompt_tokens: float
    cached_tokens: float | None
    output_tokens: float


@dataclass(frozen=True, slots=True)
class Data(_Strict):
    """What the judge was asked about.

    Attributes:
        file: name of the MEDEC file, without its folder.
        sha256: of the file.
        cases: error cases that were used.
        not_reworded: cases of which no sentence could safely be reworded, so that they say nothing
            about false positives.
        seed: which drew the cases and the sentences.
        items: number of items of each kind.
    """

    file: str
    sha256: str
    cases: int
    not_reworded: int
    seed: int
    items: dict[str, int]


@dataclass(frozen=True, slots=True)
class Calibration(_Strict):
    """How often one judge errs on one file.

    Attributes:
        format: version of this record.
        judge: the judge's name.
        fingerprint: the judge's.
        date: when it was made, ISO 8601.
        data: what it was made from.
        threshold: P(yes) to use, with the best balanced accuracy on ``error`` and ``rewording``
            items; ``None`` for a judge without probabilities.
        labelled_at: threshold at which all rates below were counted.
        unscored: share of items without a verdict.
        error_present: rates of the first label on ``error`` and ``rewording`` items, which are the
            ones like those of training.
        error_present_by_kind: the same for each kind of item.
        error_present_by_type: the same as ``error_present`` for each error type.
        error_identified: rates of the second label on ``error_and_rewording`` items, the ones in
            which the text itself does not decide it.
        error_identified_by_kind: the same for each kind of item.
        balanced_accuracy: of ``error_present`` at ``threshold``; fitted on the same items.
        balanced_accuracy_cross_validated: the same with every case labelled at the threshold that
            the other cases give.
        present_quality: P(yes) of the first label, on the items of ``error_present``.
        identified_quality: P(yes) of the second, on the items of ``error_identified``.
        position_bias: ``None`` for a judge whose order of notes cannot be chosen.
        cost: time and tokens.
    """

    format: int
    judge: str
    fingerprint: str
    date: str
    data: Data
    threshold: float | None
    labelled_at: float | None
    unscored: Rate
    error_present: LabelRates
    error_present_by_kind: dict[str, LabelRates]
    error_present_by_type: dict[str, LabelRates]
    error_identified: LabelRates
    error_identified_by_kind: dict[str, LabelRates]
    balanced_accuracy: float | None
    balanced_accuracy_cross_validated: float | None
    present_quality: ProbabilityQuality | None
    identified_quality: ProbabilityQuality | None
    position_bias: PositionBias | None
    cost: Cost


@cache
def _json() -> TypeAdapter[Calibration]:
    # Made when it is needed: building it takes longer than importing this module.
    return TypeAdapter(Calibration)


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Writes the record as JSON, whole or not at all."""
    with replacing(path) as stream:
        stream.write(_json().dump_json(calibration, indent=2).decode() + "\n")


def read_calibration(path: Path) -> Calibration:
    """Reads what :func:`write_calibration` wrote.

    Raises:
        CalibrationError: if it cannot be read, naming the file and the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
    except OSError as error:
        raise CalibrationError(
            f"{path}: {error.strerror}. Expected a judge's calibration; {_MAKE_AGAIN}."
        ) from error
    except ValueError as error:  # of the JSON or of its UTF-8
        raise CalibrationError(
            f"{path}: not JSON ({error}). Expected a judge's calibration; {_MAKE_AGAIN}."
        ) from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise CalibrationError(
            f"{path}, field format: found {version!r}, expected {FORMAT}; {_MAKE_AGAIN}."
        )
    try:
        return _json().validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        shown = str(first["input"])[:80]
        raise CalibrationError(
            f"{path}, field {field}: {first['msg']} (found {shown}); {_MAKE_AGAIN}."
        ) from error


def check_calibration(calibration: Calibration, fingerprint: str) -> str | None:
    """Says on one line if the record is about another judge than the one with this fingerprint."""
    if calibration.fingerprint == fingerprint:
        return None
    return (
        f"the calibration of {calibration.date} is of another judge, model or prompt version"
        f" ({calibration.judge}, fingerprint {calibration.fingerprint}; this judge's is"
        f" {fingerprint}): {_MAKE_AGAIN}"
    )


def summary_lines(calibration: Calibration | None) -> list[str]:
    """What the table at the end of a run says of its judge; ``None`` for an uncalibrated one."""
    if calibration is None:
        return [
            "Nobody knows how often this judge errs: the judge's labels may be noise.",
            "Calibrate it with scripts/calibrate_judge.py.",
        ]
    rates = calibration.error_present
    data = calibration.data
    lines = [
        f"Judge {calibration.judge}, calibrated on {data.cases} cases of {data.file}:",
        f"it misses {_shown(rates.false_negative)} of the errors",
        f"and calls {_shown(rates.false_positive)} of the harmless rewordings an error.",
    ]
    if not _better_than_chance(rates):
        lines.append("That is not surely better than chance: the judge's labels may be noise.")
    return lines


def _shown(rate: Rate | None) -> str:
    return "an unknown share" if rate is None else str(rate)


def _better_than_chance(rates: LabelRates) -> bool:
    """Whether both rates together stay below a coin's, at the bad ends of their intervals."""
    if rates.false_negative is None or rates.false_positive is None:
        return False
    return rates.false_negative.high + rates.false_positive.high < 1
