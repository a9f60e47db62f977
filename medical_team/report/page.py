"""The report of a run as one HTML file that needs no network and runs nothing from the games."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medical_team.atomic_files import replacing
from medical_team.game_record import UNSCORED, GameRecord
from medical_team.report.charts import ChartGroup, chart_groups
from medical_team.report.game_files import PARTITIONS, PLAYED
from medical_team.report.game_pack import GamePack, draw_games, shortened
from medical_team.report.packing import block, script_json
from medical_team.report.run_config import differing_keys, key_facts
from medical_team.report.run_data import Run, read_run
from medical_team.report.summary import (
    SummaryTable,
    training_table,
    validation_tables,
    verdicts,
)
from medical_team.report.terminal_text import visible

_PACKAGE: Final = "medical_team.report"
_SCRIPTS: Final = ("text", "data", "charts", "flips", "filters", "list", "related", "game", "main")

# Nothing is loaded from anywhere and no text ever becomes markup: a hostile game would have to pass
# both of these as well as textContent, by which all data enters the page.
_POLICY: Final = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; base-uri 'none';"
    " form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was made.

    Attributes:
        html: the page.
        runs: the runs, with what their games tell.
        groups: the charts.
        games: number of games in the log.
        shown: number of games in the page.
    """

    html: str
    runs: Sequence[Run]
    groups: Sequence[ChartGroup]
    games: int
    shown: int


def build_report(
    folder: Path,
    *,
    now: datetime,
    compare: Path | None = None,
    max_games: int | None = None,
) -> Report:
    """Makes the report of a run.

    Args:
        folder: the run's folder.
        now: the time that the page names as its own.
        compare: a second run's folder, whose curves and games are shown beside.
        max_games: most games in the page; more are sampled evenly, and the page says so.

    Raises:
        ReportError: if a folder holds no run.
    """
    runs = [read_run(path) for path in (folder, compare) if path is not None]
    if len(runs) == 2 and runs[0].name == runs[1].name:
        runs = [replace(run, name=f"{run.name} ({run.folder})") for run in runs]
    everything = [file for run in runs for file in run.files]
    pack = GamePack(draw_games(everything, max_games, random.Random(0)))
    tables = []
    counts: list[dict[str, int]] = []
    for number, run in enumerate(runs):
        counts.append(dict.fromkeys(PARTITIONS, 0))
        validations: dict[int, list[GameRecord]] = {}
        last = max((file.step for file in run.files if file.partition == "val"), default=None)
        for file in run.files:
            games = pack.add(run, number, file)
            counts[number][file.partition] += len(games)
            if file.partition == "val" and (not validations or file.step == last):
                validations[file.step] = games
        tables.append(_tables(run, validations))
    columns = pack.close()
    groups = chart_groups(key for run in runs for data in run.by_step.values() for key in data)
    style = _asset("report.css")
    script = (
        '"use strict";\n(() => {\n'
        + "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
        + "})();\n"
    )
    html = _template().render(
        title=" and ".join(run.name for run in runs),
        runs=[
            {
                "run": run,
                "facts": list(key_facts(run.config)),
                "tables": run_tables,
                "verdicts": lines,
                "counts": count,
                "notes": shortened(run.notes),
                "damaged": len(run.notes),
                "unlogged": unlogged(run.by_step, count[UNSCORED["train"]]),
                "steps": len(run.trained_steps)
                or sum(file.partition == PLAYED[0] for file in run.files),
            }
            for run, (run_tables, lines), count in zip(runs, tables, counts, strict=True)
        ],
        differences=differing_keys(runs[0].config, runs[1].config) if compare else [],
        games=pack.played,
        shown=pack.shown,
        now=now.strftime("%Y-%m-%d %H:%M %Z").strip(),
        policy=_POLICY.format(script=_hash(script), style=_hash(style)),
        style=Markup(style),
        script=Markup(script),
        data=Markup(script_json(_page_data(runs, groups, sampled=pack.shown < pack.played))),
        metrics=Markup(block([_columns(run.by_step) for run in runs])),
        columns=Markup(columns),
        blocks=[Markup(one) for one in pack.blocks],
    )
    return Report(html, runs, groups, pack.played, pack.shown)


def unlogged(by_step: Mapping[int, Mapping[str, float]], logged: int) -> int:
    """How many games of training the judge left unscored that are in no log."""
    counted = round(sum(data.get("judge/unscored", 0) for data in by_step.values()))
    return max(0, counted - logged)


def write_page(report: Report, path: Path) -> None:
    """Writes the page, whole or not at all."""
    with replacing(path) as stream:
        stream.write(report.html)


def _page_data(
    runs: Sequence[Run], groups: Sequence[ChartGroup], *, sampled: bool
) -> dict[str, Any]:
    return {
        "sampled": sampled,
        "runs": [
            {"name": run.name, "alarms": [asdict(mark) for mark in run.alarms]} for run in runs
        ],
        "groups": [asdict(group) for group in groups],
    }


def _columns(by_step: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """Metrics as one list of steps and one list of figures each, ``None`` where there is none."""
    keys = dict.fromkeys(key for data in by_step.values() for key in data)
    return {
        "steps": sorted(by_step),
        "values": {
            key: [_short(by_step[step].get(key)) for step in sorted(by_step)] for key in keys
        },
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _tables(
    run: Run, validations: Mapping[int, list[GameRecord]]
) -> tuple[list[SummaryTable], list[str]]:
    steps = run.trained_steps
    tables = [training_table(steps)] if steps else []
    if len(validations) < 2:
        return tables, []
    (first_step, first), (last_step, last) = sorted(validations.items())
    if not first or not last:
        return tables, []
    tables += validation_tables(first_step, first, last_step, last)
    return tables, list(verdicts(first, last))


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader(_PACKAGE, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html.j2")


def _visible(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> str:
    # A checkout may have turned line ends; a browser hashes them as \n.
    text = (files(_PACKAGE) / "templates" / name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
