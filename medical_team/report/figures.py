"""The curves as pictures, one a group of charts, for papers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Final

from medical_team.atomic_files import partial_file
from medical_team.report.charts import Chart, ChartGroup, Series
from medical_team.report.run_data import Run
from medical_team.report.terminal_text import plain, shortened

FORMATS: Final = ("png", "pdf", "svg")

# The page's colours in its light form.
_COLOURS: Final = (
    "#0b5f8f",
    "#b4531a",
    "#22794a",
    "#8c3f8f",
    "#8a6a00",
    "#c23b5c",
    "#4f5bb5",
    "#4d6a6d",
)
_ROLES: Final = {"attacker": _COLOURS[1], "assessor": _COLOURS[0]}
_ALARM: Final = "#a12622"
_COLUMNS: Final = 2
_LABEL: Final = 60  # characters of a line's name
_NAMED: Final = 8  # alarms that a picture names
_CAPTION: Final = 150  # characters of a line of its caption
_INSIDE: Final = 6  # lines whose legend has room in the chart
_FEW: Final = 24  # points that are marked one by one
_MANY: Final = 2000  # points among which matplotlib looks too long for the best place of a legend


def write_figures(
    runs: Sequence[Run],
    groups: Iterable[ChartGroup],
    folder: Path,
    formats: Sequence[str] = FORMATS[:1],
) -> list[Path]:
    """Draws every group of charts.

    Args:
        runs: one run, or two that are compared: the second is dashed.
        groups: the charts.
        folder: where ``curves_<group>.<format>`` go.
        formats: of :data:`FORMATS`.

    Returns:
        The files.
    """
    written = []
    for group in groups:
        figure = _drawn(runs, group)
        for name in formats:
            path = folder / f"curves_{group.name}.{name}"
            with partial_file(path) as partial:
                figure.savefig(partial, format=name, dpi=200)
            written.append(path)
    return written


def _drawn(runs: Sequence[Run], group: ChartGroup) -> Any:
    from matplotlib.figure import Figure

    rows = -(-len(group.charts) // _COLUMNS)
    figure = Figure(figsize=(5.2 * _COLUMNS, 3.1 * rows), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, chart in zip(grid, group.charts, strict=False):
        _draw(axes, runs, chart)
    for axes in grid[len(group.charts) :]:
        axes.axis("off")
    if caption := alarm_caption(runs):
        figure.supxlabel(_escaped(caption), fontsize=7, color=_ALARM)
    return figure


def alarm_caption(runs: Sequence[Run]) -> str:
    """What the red lines and bands stand for, as the caption of a picture; may be empty."""
    said = [
        f"{shortened(plain(mark.name), _LABEL)} (step {mark.first}"
        + (f" to {mark.last}" if mark.last > mark.first else "")
        + (f", {plain(run.name)}" if len(runs) > 1 else "")
        + ")"
        for run in runs
        for mark in run.alarms
    ]
    if not said:
        return ""
    more = f", and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
    dashed = ", the second run's dashed" if len(runs) > 1 and runs[1].alarms else ""
    return fill(f"red: alarms{dashed}: {', '.join(said[:_NAMED])}{more}", _CAPTION)


def _draw(axes: Any, runs: Sequence[Run], chart: Chart) -> None:
    from matplotlib.ticker import MaxNLocator

    for number, run in enumerate(runs):
        for index, series in enumerate(chart.series):
            steps = [step for step, data in run.by_step.items() if series.key in data]
            if not steps:
                continue
            axes.plot(
                sorted(steps),
                [run.by_step[step][series.key] for step in sorted(steps)],
                color=_colour(series, index),
                linestyle="--" if number else "-" if index < len(_COLOURS) else ":",
                linewidth=1.3,
                marker="o" if len(steps) <= _FEW else None,
                markersize=2.5,
                label=_plain(series.label if len(runs) == 1 else f"{series.label} ({run.name})"),
            )
        for mark in run.alarms:
            axes.axvspan(mark.first, mark.last, color=_ALARM, alpha=0.09, linewidth=0)
            axes.axvline(mark.first, color=_ALARM, linewidth=1, linestyle="--" if number else "-")
    axes.set_title(chart.title, fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel(chart.unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e2dfd9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    low, high = chart.bounds
    if (low, high) == (0.0, 1.0):
        axes.set_ylim(-0.02, 1.02)
    elif low is not None:
        axes.set_ylim(bottom=low)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(axes.get_legend_handles_labels()[0]) > _INSIDE:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": _COLUMNS}
        axes.legend(fontsize=7, frameon=False, **below)
        return
    drawn = sum(len(line.get_xdata()) for line in axes.lines)
    axes.legend(fontsize=7, frameon=False, loc="best" if drawn < _MANY else "upper right")


def _colour(series: Series, index: int) -> str:
    for role, colour in _ROLES.items():
        if series.label.startswith(role):
            return colour
    return _COLOURS[index % len(_COLOURS)]


def _plain(label: str) -> str:
    """A legend's label; matplotlib leaves out those that begin with _."""
    return _escaped(shortened(plain(label), _LABEL)).lstrip("_") or "-"


def _escaped(text: str) -> str:
    """Matplotlib reads dollar signs as mathematics."""
    return text.replace("$", r"\$")
