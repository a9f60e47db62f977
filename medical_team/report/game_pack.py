"""The games of a report: a column for each thing the list shows, and blocks of whole games."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from medical_team.game_record import GameRecord
from medical_team.report.game_files import PLAYED, GameFile, each_game
from medical_team.report.game_view import GameView, Outcome, game_view
from medical_team.report.packing import block, coded
from medical_team.report.run_data import Run, counted

# Games in a block: opening one unpacks its block, searching unpacks all of them.
_BLOCK: Final = 128
_CODED: Final = ("type", "error", "opponent", "case", "uid", "forfeit", "judge", "attack")
_PLAIN: Final = (
    "step",
    "session",
    "outcomes",
    "attacker",
    "assessor",
    "truth",
    "p_error",
    "untrained",
    "broken",
    "seconds",
    "tokens",
    "preview",
)
_DAMAGED: Final = 20  # damaged lines named one by one


class GamePack:
    """Collects the games of one or two runs.

    Args:
        chosen: whether each game, by its number in the order of reading, is shown.
    """

    def __init__(self, chosen: Sequence[bool] | None = None) -> None:
        self.blocks: list[str] = []
        self.played = 0
        self.shown = 0
        self._chosen = chosen
        self._rows: list[dict[str, Any]] = []
        self._waiting: list[dict[str, Any]] = []
        self._names: Counter[str] = Counter()

    def add(self, run: Run, number: int, file: GameFile) -> list[GameRecord]:
        """Adds one file of a run's game log.

        Args:
            run: the run; damaged lines are noted in it, and what its games tell is added to its
                metrics.
            number: which run of the report, from 0.
            file: the file.

        Returns:
            Its games.
        """
        games = []
        for line, found in each_game(file.path):
            if isinstance(found, ValueError):
                run.notes.append(f"games/{file.partition}/{file.path.name}, line {line}: {found}")
                continue
            view = game_view(found)
            games.append(found)
            if self._chosen is None or (
                self.played < len(self._chosen) and self._chosen[self.played]
            ):
                self._show(view, number, file)
            self.played += 1
        if games and file.partition in PLAYED:
            run.by_step.setdefault(file.step, {}).update(counted(file.partition, games))
        return games

    def close(self) -> str:
        """Packs what is left.

        Returns:
            The block of the columns.
        """
        self._flush()
        columns: dict[str, Any] = {name: [row[name] for row in self._rows] for name in _PLAIN}
        columns |= {name: coded([row[name] for row in self._rows]) for name in _CODED}
        columns |= {name: [row[name] for row in self._rows] for name in ("id", "run")}
        columns["partition"] = coded([row["partition"] for row in self._rows])
        names = [outcome.value for outcome in Outcome]
        return block({"columns": columns, "outcomes": names, "per_block": _BLOCK})

    def _show(self, view: GameView, number: int, file: GameFile) -> None:
        # In the asynchronous modes a game is trained in a later step than it was started for.
        row = {**view.row, "partition": file.partition, "step": file.step}
        name = f"{file.partition}-{file.step}-{row['uid'][:8]}-{row['session']}"
        if number:
            name = f"compared-{name}"
        self._names[name] += 1
        if self._names[name] > 1:
            name = f"{name}-{self._names[name]}"
        self._rows.append({**row, "id": name, "run": number})
        self._waiting.append(view.detail)
        self.shown += 1
        if len(self._waiting) == _BLOCK:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self.blocks.append(block(self._waiting))
            self._waiting = []


def draw_games(
    files: Sequence[GameFile], most: int | None, rng: random.Random
) -> list[bool] | None:
    """Which games are shown where there are more than a page should hold.

    Args:
        files: the game logs, in the order in which they are read.
        most: the largest number of games; ``None`` for all.
        rng: draws them.

    Returns:
        A flag for each line; ``None`` where all are shown.
    """
    if most is None:
        return None
    lines = sum(_lines(files))
    if lines <= most:
        return None
    kept = set(rng.sample(range(lines), most))
    return [number in kept for number in range(lines)]


def shortened(notes: Sequence[str]) -> list[str]:
    """The first damaged lines, and how many more there are."""
    more = len(notes) - _DAMAGED
    return [*notes[:_DAMAGED], *([f"and {more} more"] if more > 0 else [])]


def _lines(files: Sequence[GameFile]) -> Iterator[int]:
    for file in files:
        with file.path.open("rb") as stream:
            yield sum(1 for _ in stream)
