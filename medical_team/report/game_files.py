"""The files of a run's game log, read so that one damaged line costs one game."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medical_team.game_record import UNSCORED, GameRecord
from medical_team.report.metric_files import plain_errors

PLAYED: Final = ("train", "val")
PARTITIONS: Final = (*PLAYED, *UNSCORED.values())
_PREFIX: Final = "step_"


@dataclass(frozen=True, slots=True)
class GameFile:
    """The games of one step.

    Attributes:
        partition: ``train``, ``val``, or games without a verdict of either.
        step: the trainer's step.
        path: the file.
    """

    partition: str
    step: int
    path: Path


def game_files(folder: Path) -> list[GameFile]:
    """The game log of a run: training, validations, games without a verdict, by their steps.

    Args:
        folder: the run's folder.
    """
    found = []
    for partition in PARTITIONS:
        for path in (folder / "games" / partition).glob(f"{_PREFIX}*.jsonl"):
            number = path.stem.removeprefix(_PREFIX)
            if number.isdecimal():
                found.append(GameFile(partition, int(number), path))
    return sorted(found, key=lambda file: (PARTITIONS.index(file.partition), file.step))


def each_game(path: Path) -> Iterator[tuple[int, GameRecord | ValueError]]:
    """Reads one file of the game log, line by line.

    Args:
        path: the file.

    Yields:
        The line's number, from 1, and its game, or why it is none.
    """
    # By newlines only: a text stream with universal newlines would also split at the lone carriage
    # return, and str.splitlines at the U+2028 or U+0085, that a response may hold.
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                yield number, game_of(line)
            except ValueError as error:
                yield number, error


def game_of(line: bytes) -> GameRecord:
    """Reads one line of the game log.

    Raises:
        ValueError: if it holds no game, saying why.
    """
    with plain_errors():
        return GameRecord.from_json(line.decode("utf-8"))
