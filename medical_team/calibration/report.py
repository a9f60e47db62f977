"""A calibration for people: a page of text and the reliability diagram."""

from __future__ import annotations

from pathlib import Path

from medical_team.atomic_files import partial_file
from medical_team.calibration.items import Kind
from medical_team.calibration.record import (
    Calibration,
    Cost,
    LabelRates,
    ProbabilityQuality,
    Rate,
    summary_lines,
)

_NOT_APPLICABLE = "not applicable"
# Blue and orange of Okabe and Ito's palette, which colour-blind readers tell apart.
_COLOURS = ("#0072B2", "#D55E00")
_MARKERS = ("o", "s")
_KINDS = {
    Kind.ERROR: "error note",
    Kind.ERROR_AND_REWORDING: "error note, another sentence reworded",
    Kind.REWORDING: "clean note, one sentence reworded",
    Kind.UNCHANGED: "clean note as it is",
}


def report(calibration: Calibration) -> str:
    """The calibration as a Markdown page."""
    data, at = calibration.data, calibration.labelled_at
    threshold = "" if at is None else f" Labels are counted at P(yes) >= {at:.4g}."
    lines = [
        f"# Calibration of {calibration.judge}",
        "",
        *summary_lines(calibration),
        "",
        f"Made {calibration.date} from {data.cases} cases of {data.file} (sha256"
        f" {data.sha256[:12]}, seed {data.seed}). {data.not_reworded} cases have no sentence that"
        f" can safely be reworded.{threshold}",
        f"Without a verdict: {calibration.unscored}.",
        "",
        "## Does the note hold an error?",
        "",
        *_header("items"),
        _row("**error notes and rewordings**", calibration.error_present),
        *(_row(_KINDS[kind], calibration.error_present_by_kind[kind]) for kind in Kind),
        *(_row(f"type {name}", rates) for name, rates in calibration.error_present_by_type.items()),
        "",
        *_quality(calibration.present_quality),
        *_threshold(calibration),
        *_position_bias(calibration),
        "",
        "## Does the answer name the error?",
        "",
        "Where one sentence differs from the clean note, the text itself says which sentence is"
        " wrong; the judge is only asked where more differ. Answers that say safe are not counted.",
        "",
        *_header("answers about"),
        *(_row(_KINDS[kind], calibration.error_identified_by_kind[kind]) for kind in Kind),
        "",
        *_quality(calibration.identified_quality),
        "",
        "## Cost",
        "",
        *_cost(calibration.cost),
    ]
    return "\n".join(lines) + "\n"


def draw_reliability(calibration: Calibration, path: Path) -> bool:
    """Draws how often yes is right against P(yes), and how many answers lie where.

    Args:
        calibration: the numbers.
        path: the PNG file.

    Returns:
        Whether there is anything to draw: a judge without probabilities has no diagram.
    """
    curves = [
        (name, quality)
        for name, quality in (
            ("error present", calibration.present_quality),
            ("error identified", calibration.identified_quality),
        )
        if quality is not None
    ]
    if not curves:
        return False
    # Imported here, since it takes a second; and without pyplot, which would look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 1), (0, 1), color="0.6", linestyle="--", linewidth=1, label="perfect")
    for index, (name, quality) in enumerate(curves):
        bins = quality.bins
        x, y = [one.mean_p_yes for one in bins], [one.yes.share for one in bins]
        below = [max(0.0, one.yes.share - one.yes.low) for one in bins]
        above = [max(0.0, one.yes.high - one.yes.share) for one in bins]
        upper.errorbar(
            x,
            y,
            yerr=(below, above),
            color=_COLOURS[index],
            marker=_MARKERS[index],
            capsize=3,
            label=name,
        )
        width = (bins[0].high - bins[0].low) / (len(curves) + 1)
        bars = lower.bar(
            [one.low + width * (index + 1) for one in bins],
            [one.count for one in bins],
            width=width,
            color=_COLOURS[index],
        )
        lower.bar_label(bars, fontsize=6)
    upper.set(
        title=calibration.judge, ylabel="share of yes in truth", xlim=(0, 1), ylim=(-0.03, 1.03)
    )
    figure.legend(loc="outside lower center", ncols=3)
    lower.set(xlabel="P(yes)", ylabel="answers")
    lower.margins(y=0.2)
    with partial_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
    return True


def _header(first: str) -> list[str]:
    return [
        f"| {first} | accuracy | false positives | false negatives | undecided |",
        "|---|---|---|---|---|",
    ]


def _row(name: str, rates: LabelRates) -> str:
    cells = [_cell(one) for one in (rates.accuracy, rates.false_positive, rates.false_negative)]
    return f"| {name} | {' | '.join(cells)} | {rates.undecided} |"


def _cell(rate: Rate | None) -> str:
    if rate is None:
        return "-"
    return f"{rate.share:.1%} ({rate.low:.1%} to {rate.high:.1%}, {rate.count}/{rate.of})"


def _quality(quality: ProbabilityQuality | None) -> list[str]:
    if quality is None:
        return [f"- AUROC, calibration error, reliability: {_NOT_APPLICABLE} (no probabilities)"]
    return [
        f"- AUROC: {_number(quality.auroc)}",
        f"- expected calibration error: {quality.calibration_error:.3f}",
    ]


def _threshold(calibration: Calibration) -> list[str]:
    if calibration.threshold is None:
        return [f"- threshold to use: {_NOT_APPLICABLE}"]
    return [
        f"- threshold to use: {calibration.threshold:.4g} (balanced accuracy"
        f" {_number(calibration.balanced_accuracy)} on the items that it was fitted to,"
        f" {_number(calibration.balanced_accuracy_cross_validated)} cross-validated over cases)"
    ]


def _position_bias(calibration: Calibration) -> list[str]:
    bias = calibration.position_bias
    if bias is None:
        return [f"- position bias: {_NOT_APPLICABLE} (the order of the notes cannot be chosen)"]
    return [
        f"- position bias: the label changes with the order of the notes in {_cell(bias.changed)}"
        f" of the pairs; P(yes) is larger by {_number(bias.mean_difference)} with the note first"
    ]


def _cost(cost: Cost) -> list[str]:
    cached = _NOT_APPLICABLE if cost.cached_tokens is None else f"{cost.cached_tokens:.1f}"
    return [
        f"- seconds from asking a batch to its verdicts: median {cost.latency_s_median:.3g},"
        f" 95th percentile {cost.latency_s_p95:.3g}",
        f"- verdicts per second: {cost.verdicts_per_s:.4g}",
        f"- tokens per verdict: {cost.prompt_tokens:.1f} of prompt (not computed again: {cached}),"
        f" {cost.output_tokens:.1f} generated",
    ]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
