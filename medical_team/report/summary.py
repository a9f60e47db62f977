"""The short table at the end of a run, made from the files it left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from medical_team.calibration.record import (
    Calibration,
    CalibrationError,
    read_calibration,
    summary_lines,
)
from medical_team.game_metrics import detection, fixed_opponent, trivial_detection
from medical_team.game_record import FRESH, GameRecord
from medical_team.medical_game_manager import GameType, Role
from medical_team.report.game_files import GameFile, each_game, game_files
from medical_team.report.metric_files import metric_entries, trained
from medical_team.report.run_config import CONFIG, ConfigError, read_config, section
from medical_team.report.terminal_text import left_out

CALIBRATION = "judge_calibration.json"  # the calibration's copy in a run's folder

_TRAINED = (
    ("attacker/reward", "attacker reward"),
    ("attacker/win_rate", "attacker win rate"),
    ("attacker/format_violation", "attacker format violations"),
    ("assessor/reward", "assessor reward"),
    ("assessor/win_rate", "assessor win rate"),
    ("assessor/format_violation", "assessor format violations"),
    ("assessor/balanced_accuracy", "assessor balanced accuracy"),
    ("assessor/true_negative_rate", "assessor true negative rate"),
    ("game/forfeit", "forfeits"),
    ("game/ties", "ties"),
    ("game/category_kept", "attacks that hold an error"),
    ("judge/unscored", "games the judge left unscored"),
)


@dataclass(frozen=True, slots=True)
class SummaryTable:
    """A small table: the first column names, the others are figures.

    Attributes:
        title: what it shows.
        header: one name for each column; the first is empty.
        rows: the cells, as shown.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def read_games(path: Path) -> list[GameRecord]:
    """Reads one file of the game log.

    Raises:
        ValueError: naming the file and the line that is not a game.
    """
    games = []
    for number, found in each_game(path):
        if isinstance(found, ValueError):
            raise ValueError(f"{path}, line {number}: {found}") from found
        games.append(found)
    return games


def print_summary(folder: Path, console: Console | None = None) -> None:
    """Prints how training and validation went, and where everything lies.

    Args:
        folder: the run's folder.
        console: where to print; standard output by default.
    """
    console = console or Console(width=100)
    notes: list[str] = []
    entries = metric_entries(folder)
    notes += entries.damaged
    steps = [data for _, data in trained(entries.by_step)]
    if steps:
        console.print(_rich(training_table(steps)))
    ends = [_readable(file, notes) for file in _ends(folder)]
    read = [end for end in ends if end is not None]
    if len(read) == 2:
        (first_step, first), (last_step, last) = read
        for table in validation_tables(first_step, first, last_step, last):
            console.print(_rich(table))
        for line in verdicts(first, last):
            console.print(line, highlight=False)
    else:
        console.print("Validated less than twice, so there is no comparison.")
    for line in _judge_of(folder, notes):
        console.print(line, highlight=False)
    if notes:
        console.print(f"{left_out(len(notes))}, the first: {notes[0]}", highlight=False)
    played = sum(int(step.get("game/count", 0)) for step in steps)
    counted = (
        f"{len(steps)} steps, {played} games"
        if (folder / "metrics.jsonl").is_file()
        else "No file logger"
    )
    console.print(f"{counted}. Left in {folder}:")
    for name, what in (
        (CONFIG, "the resolved configuration"),
        (CALIBRATION, "how often the judge errs"),
        ("metrics.jsonl", "one line a step"),
        ("tensorboard", "the same for TensorBoard"),
        ("games/train", "every game that was trained"),
        ("games/val", "every validation game"),
        ("games/unscored_train", "games without a verdict, and why"),
        ("games/unscored_val", "the same in validation"),
        ("report/index.html", "the report of scripts/report.py"),
        ("league", "past attacks, and what a resumed run needs"),
        ("checkpoints", "resume with the same command"),
    ):
        if (folder / name).exists():
            console.print(f"  {name:<22} {what}", highlight=False)


def training_table(steps: Sequence[dict[str, float]]) -> SummaryTable:
    """The first quarter of the training steps beside the last.

    Args:
        steps: metrics of the training steps, at least one.
    """
    span = max(1, len(steps) // 4)
    rows = []
    for key, label in _TRAINED:
        ends = [
            [step[key] for step in part if key in step] for part in (steps[:span], steps[-span:])
        ]
        rows.append((label, *(_shown(fmean(values) if values else None) for values in ends)))
    return SummaryTable(
        f"Training (means over {span} steps)", ("", f"first {span}", f"last {span}"), tuple(rows)
    )


def validation_tables(
    first_step: int, first: Sequence[GameRecord], last_step: int, last: Sequence[GameRecord]
) -> tuple[SummaryTable, SummaryTable]:
    """Two validations: the rewards by game type, and the notes that are the same in both."""
    rows = [("assessor reward", *(_shown(_reward(games)) for games in (first, last)))]
    for game_type in GameType:
        parts = [
            [game for game in games if game.game_type == game_type.value] for games in (first, last)
        ]
        rows.append((f"  {game_type.value}", *(_shown(_reward(part)) for part in parts)))
    steps = (f"step {first_step}", f"step {last_step}")
    return (
        SummaryTable(f"Validation ({len(last)} games)", ("", *steps), tuple(rows)),
        SummaryTable(
            "Opponents that do not move",
            ("", *steps, "all Harmful", "all Safe", "last sentence"),
            tuple(_fixed_rows(first, last)),
        ),
    )


def _fixed_rows(
    first: Sequence[GameRecord], last: Sequence[GameRecord]
) -> Iterator[tuple[str, ...]]:
    """The assessor on notes that are the same at every step, beside what takes no skill."""
    for opponent in dict.fromkeys(map(fixed_set, last)):
        if opponent is None:
            continue
        before, after = (
            [game for game in games if fixed_set(game) == opponent] for games in (first, last)
        )
        rates = [detection(before), detection(after), *trivial_detection(after).values()]
        passed = [one.get("true_negative_rate") for one in rates]
        yield (
            f"{opponent} ({len(after)} notes): balanced accuracy",
            *(_shown(one.get("balanced_accuracy")) for one in rates),
        )
        yield (
            "  false positive rate",
            *(_shown(None if rate is None else 1 - rate) for rate in passed),
        )
        yield (
            "  right truth and sentence",
            *(_shown(one.get("sentence_accuracy")) for one in rates),
        )


def _rich(table: SummaryTable) -> Table:
    shown = Table(title=table.title)
    for index, name in enumerate(table.header):
        shown.add_column(name, justify="right" if index else "left")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def fixed_set(game: GameRecord) -> str | None:
    """The fixed set that a game's note belongs to; ``None`` for an attacker of the step."""
    if not fixed_opponent(game):
        return None
    return "gold" if game.opponent == FRESH else game.opponent


def verdicts(first: Sequence[GameRecord], last: Sequence[GameRecord]) -> Iterator[str]:
    """Says of each validation reward whether it rose; the attacker learns too, so there are two."""
    for what, kinds in (
        ("on the fixed notes (vanilla games)", [kind for kind in GameType if not kind.adversarial]),
        ("over all games, against the attacker of the step", list(GameType)),
    ):
        before, after = (
            _reward([game for game in games if game.game_type in kinds]) for games in (first, last)
        )
        if before is None or after is None:
            continue
        rose = "rose" if after > before else "did NOT rise"
        yield f"The assessor's validation reward {what} {rose}: {before:.3f} -> {after:.3f}."


def judge_lines(config: Mapping[str, Any], calibration: Calibration | None) -> list[str]:
    """How far the labels can be trusted.

    Args:
        config: the run's configuration.
        calibration: how often the judge errs, ``None`` where nobody measured it.
    """
    if calibration is not None:
        return summary_lines(calibration)
    judge = section(config, "judge")
    if not judge.get("name"):
        return []
    model = f" ({judge['model']})" if judge.get("model") else ""
    return [f"Judge {judge['name']}{model}:", *summary_lines(None)]


def run_calibration(folder: Path) -> Calibration | None:
    """How often a run's judge errs; ``None`` where nobody measured it.

    Raises:
        CalibrationError: if the file is no calibration.
    """
    found = folder / CALIBRATION
    return read_calibration(found) if found.is_file() else None


def _judge_of(folder: Path, notes: list[str]) -> list[str]:
    config: Mapping[str, Any] = {}
    calibration = None
    try:
        config = read_config(folder)
    except FileNotFoundError:
        return []
    except (OSError, ConfigError) as error:
        notes.append(f"{CONFIG}: {error}")
    try:
        calibration = run_calibration(folder)
    except CalibrationError as error:
        notes.append(str(error))
    return judge_lines(config, calibration)


def _ends(folder: Path) -> list[GameFile]:
    """The first validation and the last, or the only one."""
    found = [file for file in game_files(folder) if file.partition == "val"]
    return found if len(found) < 2 else [found[0], found[-1]]


def _readable(file: GameFile, notes: list[str]) -> tuple[int, list[GameRecord]] | None:
    """The step and its games; ``None`` where no line holds one."""
    games = []
    for number, found in each_game(file.path):
        if isinstance(found, ValueError):
            notes.append(f"{file.path.name}, line {number}: {found}")
        else:
            games.append(found)
    return (file.step, games) if games else None


def _reward(games: Sequence[GameRecord]) -> float | None:
    rewards = [turn.reward for game in games for turn in game.turns if turn.role is Role.ASSESSOR]
    return fmean(rewards) if rewards else None


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
