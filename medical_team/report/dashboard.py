"""One frame of the live view: what a run's files say, laid out for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from medical_team.game_metrics import detection, win_rate
from medical_team.game_record import GameRecord, TurnRecord
from medical_team.medical_game_manager import GameType, Role
from medical_team.report.alarm_marks import alarm_marks
from medical_team.report.follow import RunState
from medical_team.report.progress import Progress, progress
from medical_team.report.run_config import flatten
from medical_team.report.terminal_text import duration, left_out, plain, shortened, sparkline

_WIDE: Final = 110  # columns from which panels stand side by side
_CURVES: Final = (
    ("attacker/win_rate", "attacker wins", 0.0, 1.0),
    ("assessor/win_rate", "assessor wins", 0.0, 1.0),
    ("assessor/reward", "assessor reward", -1.0, 1.0),
    ("attacker/reward", "attacker reward", -1.0, 1.0),
    ("assessor/balanced_accuracy", "balanced accuracy", 0.0, 1.0),
    ("assessor/true_negative_rate", "true negative rate", 0.0, 1.0),
    ("game/forfeit", "forfeits", 0.0, 1.0),
    ("attacker/format_violation", "attacker breaks format", 0.0, 1.0),
    ("assessor/format_violation", "assessor breaks format", 0.0, 1.0),
)
_TIMES: Final = ("gen", "old_log_prob", "adv", "update_actor", "update_critic", "testing")
_MEMORY: Final = (
    ("actor/perf/cpu_memory_used_gb", "host"),
    ("actor/perf/max_memory_allocated_gb", "trainer's peak"),
)


def dashboard(state: RunState, now: float, width: int, games: int = 8) -> RenderableType:
    """Draws a frame.

    Args:
        state: what the run's files say.
        now: seconds since the epoch.
        width: columns of the terminal.
        games: how many of the last games are shown.
    """
    told = progress(state, now)
    parts: list[RenderableType] = [_header(state, told, width)]
    if marks := _alarms(state, told.step):
        parts.append(marks)
    if state.by_step or state.train or state.validation:
        inner = (width // 2 if width >= _WIDE else width) - 4
        panels = [_curves(state, inner), _accuracy(state), _costs(state)]
        if width >= _WIDE:
            row = Table.grid(expand=True)
            row.add_column(ratio=1)
            row.add_column(ratio=1)
            row.add_row(panels[0], Group(*panels[1:]))
            parts.append(row)
        else:
            parts += panels
        parts.append(_games(state, width - 4, games))
    return Group(*parts)


def fitted(state: RunState, now: float, console: Console, games: int = 8) -> RenderableType:
    """A frame that is no longer than the terminal: fewer games first, then the end is cut off.

    Args:
        state: what the run's files say.
        now: seconds since the epoch.
        console: the terminal.
        games: how many of the last games are shown where there is room.
    """
    lines: list[list[Segment]] = []
    for shown in range(games, -1, -1):
        frame = dashboard(state, now, console.width, shown)
        lines = console.render_lines(frame, pad=False)
        if len(lines) <= console.height:
            return frame
    kept = lines[: console.height - 1]
    cut = f"{len(lines) - len(kept)} lines do not fit; a taller terminal or --once shows them"
    return Group(
        Segments([segment for line in kept for segment in (*line, Segment.line())]),
        Text(cut, style="dim", no_wrap=True, overflow="ellipsis"),
    )


def _header(state: RunState, told: Progress, width: int) -> Panel:
    flat = flatten(state.config)
    name = flat.get("trainer.experiment_name") or state.folder.name
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, keys in (
        ("algorithm", ("algorithm.adv_estimator",)),
        ("model", ("actor_rollout_ref.model.path", "model.path")),
        ("judge", ("judge.name", "judge.model")),
    ):
        values = [plain(str(flat[key])) for key in keys if flat.get(key)]
        if values:
            facts.add_row(label, Text(values[0] if label == "model" else ", ".join(values)))
    total = "?" if told.planned is None else str(told.planned)
    line = f"step {told.step} of {total}"
    if told.step_s is not None:
        line += f", {duration(told.step_s)} a step"
    if told.left_s:
        line += f", about {duration(told.left_s)} left"
    colour = "yellow" if told.quiet else "green" if told.ended else "cyan"
    rows: list[RenderableType] = [facts, Text(line)]
    if told.planned is not None:
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(told.planned, min(told.step, told.planned), width=width - 4))
        rows.append(bar)
    rows.append(Text(told.doing, style=colour))
    if state.damaged:
        rows.append(Text(left_out(state.damaged), style="yellow"))
    return Panel(Group(*rows), title=Text(plain(str(name)), style="bold"), border_style=colour)


def _alarms(state: RunState, step: int) -> Panel | None:
    """Alarms that stand now, and the last ones that stood."""
    marks = alarm_marks(state.by_step, state.config)
    if not marks:
        return None
    lines = []
    for mark in sorted(marks, key=lambda one: one.last)[-4:]:
        stands = mark.last >= step
        ended = f"steps {mark.first} to {mark.last}"
        if mark.first == mark.last:
            ended = f"step {mark.first}"
        when = f"since step {mark.first}" if stands else ended
        lines.append(
            Text(plain(f"{mark.name} ({when}): {mark.reason}"), style="red" if stands else "dim")
        )
    standing = any(mark.last >= step for mark in marks)
    return Panel(Group(*lines), title="Alarms", border_style="red" if standing else "dim")


def _curves(state: RunState, width: int) -> Panel:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for key, label, low, high in _CURVES:
        values = [data[key] for _, data in state.trained if key in data]
        if values:
            bars = sparkline(values, max(4, width - 33), low, high)
            table.add_row(label, f"{values[-1]:.3f}", Text(bars, style="cyan"))
    if not table.rows:
        table.add_row(Text("no complete training step yet", style="dim"), "", "")
    return Panel(table, title="Training, step by step", border_style="dim")


def _accuracy(state: RunState) -> Panel:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True)
    columns = [(name, one) for name, one in _columns(state) if one is not None]
    for _ in columns:
        table.add_column(justify="right", no_wrap=True)
    table.add_row(
        Text("right answers", style="dim"),
        *(Text(f"{name} {one.step}", style="dim") for name, one in columns),
    )
    for kind in GameType:
        table.add_row(kind.value, *(_accuracy_of(one.games, kind) for _, one in columns))
    for label, figure in (
        ("balanced accuracy", "balanced_accuracy"),
        ("true negative rate", "true_negative_rate"),
    ):
        table.add_row(label, *(_share(detection(one.games).get(figure)) for _, one in columns))
    for role in Role:
        table.add_row(f"{role} wins", *(_share(win_rate(one.games, role)) for _, one in columns))
    return Panel(table, title="Accuracy per game type", border_style="dim")


def _columns(state: RunState) -> Iterator[tuple[str, Any]]:
    yield "train", state.train
    yield "validation", state.validation


def _accuracy_of(games: Sequence[GameRecord], kind: GameType) -> str:
    part = [game for game in games if game.game_type == kind.value]
    found = detection(part).get("accuracy")
    return "-" if found is None else f"{found:.3f} of {len(part)}"


def _costs(state: RunState) -> Panel:
    data: Mapping[str, float] = state.trained[-1][1] if state.trained else {}
    whole = data.get("timing_s/step")
    lines = []
    if whole:
        shares = [
            (name, data[f"timing_s/{name}"] / whole)
            for name in _TIMES
            if data.get(f"timing_s/{name}")
        ]
        lines.append("time: " + ", ".join(f"{name} {share:.0%}" for name, share in shares))
    if "perf/throughput" in data:
        lines.append(f"throughput: {data['perf/throughput']:,.0f} tokens/s a device")
    memory = [f"{label} {data[key]:.1f} GB" for key, label in _MEMORY if key in data]
    if memory:
        lines.append("memory: " + ", ".join(memory))
    if "judge/unscored" in data:
        lines.append(f"judge: {data['judge/unscored']:.0f} games without a verdict")
    text = Text("\n".join(lines) or "nothing measured yet", style="" if lines else "dim")
    return Panel(text, title="Time and memory", border_style="dim")


def _games(state: RunState, width: int, count: int) -> Panel:
    """The last games, of every type, newest step first."""
    newest = max(
        (one for one in (state.train, state.validation) if one is not None and one.games),
        key=lambda one: one.step,
        default=None,
    )
    if newest is None:
        return Panel(Text("no game yet", style="dim"), title="Last games", border_style="dim")
    kinds = [
        [game for game in newest.games if game.game_type == kind.value][-count:]
        for kind in GameType
    ]
    mixed = [game for row in zip_longest(*kinds) for game in row if game is not None]
    lines = [line for game in mixed[:count] for line in _game(game, width)]
    return Panel(Group(*lines), title=f"Last games (step {newest.step})", border_style="dim")


def _game(game: GameRecord, width: int) -> Iterator[Text]:
    attackers = [turn for turn in game.turns if turn.role is Role.ATTACKER]
    assessors = [turn for turn in game.turns if turn.role is Role.ASSESSOR]
    rewards = ", ".join(
        f"{name} {turn.reward:+.1f}"
        for name, turns in (("attacker", attackers), ("assessor", assessors))
        for turn in turns
    )
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{plain(game.game_type):<20}", style="bold")
    line.append(shortened(f"{_said(game, assessors)}; {rewards}", width - 21))
    yield line
    if game.changed_ids and game.note is not None:
        at = game.changed_ids[0]
        yield Text(
            shortened(f"  {at}: {plain(game.note[at])}", width),
            style="dim",
            no_wrap=True,
            overflow="ellipsis",
        )


def _said(game: GameRecord, assessors: Sequence[TurnRecord]) -> str:
    if game.forfeit is not None:
        return f"forfeit ({plain(game.forfeit)})"
    truth = game.labels.error_present if game.labels else None
    held = "undecided" if truth is None else "error" if truth else "no error"
    said = ", ".join(
        "broken format"
        if turn.violation is not None
        else plain(str(turn.classification))
        + ("" if turn.sentence_id is None else f" {turn.sentence_id}")
        for turn in assessors
    )
    outcome = ", ".join(plain(turn.outcome) for turn in assessors)
    return f"{held}; said {said} ({outcome})"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
