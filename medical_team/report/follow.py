"""A run followed from its files alone, while they grow, are cut off, truncated or replaced.

Files are looked at again by size and time of change, never by notifications, which network file
systems do not send.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from medical_team.game_record import GameRecord
from medical_team.report.game_files import PLAYED, game_files, game_of
from medical_team.report.metric_files import METRIC_FILES, metric_entry, trained
from medical_team.report.run_config import CONFIG, ConfigError, read_config

Item = TypeVar("Item")
# As many bytes of the start and of the last part read tell whether a file is still the same.
_PROOF = 256


class FollowedLines(Generic[Item]):
    """The complete lines of a file; one that is being written waits for its line break.

    Args:
        path: the file; it need not exist yet.
        parse: reads one line without its line break, raises ``ValueError`` for a damaged one.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], Item]) -> None:
        self.path = path
        self.items: list[Item] = []
        self.damaged = 0
        self.changed_at: float | None = None
        self._parse = parse
        self._seen: tuple[int, int, int] | None = None
        self._start_over()

    def poll(self) -> bool:
        """Reads what is new.

        Returns:
            Whether anything was.
        """
        try:
            with self.path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                seen = (status.st_ino, status.st_size, status.st_mtime_ns)
                if seen == self._seen:
                    return False
                if not self._continues(stream, status.st_size):
                    self._start_over()
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            was_there = self._seen is not None
            self._start_over()
            self._seen, self.changed_at = None, None
            return was_there
        except OSError:  # a network file system that is away for a moment
            return False
        self._seen, self.changed_at = seen, status.st_mtime
        self._take(data)
        return True

    def _continues(self, stream: Any, size: int) -> bool:
        """Whether what was read still stands at the file's start."""
        if size < self._offset:
            return False
        if stream.read(len(self._head)) != self._head:
            return False
        stream.seek(self._offset - len(self._tail))
        return bool(stream.read(len(self._tail)) == self._tail)

    def _start_over(self) -> None:
        self.items, self.damaged = [], 0
        self._offset, self._head, self._tail, self._begun = 0, b"", b"", b""

    def _take(self, data: bytes) -> None:
        self._offset += len(data)
        self._head = (self._head + data)[:_PROOF] if len(self._head) < _PROOF else self._head
        self._tail = (self._tail + data)[-_PROOF:]
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            if not line.strip():
                continue
            try:
                self.items.append(self._parse(line))
            except ValueError:
                self.damaged += 1


@dataclass(frozen=True, slots=True)
class PlayedStep:
    """The games of one step.

    Attributes:
        step: the trainer's step.
        games: in the order of the log.
    """

    step: int
    games: tuple[GameRecord, ...]


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run's files say at one moment.

    Attributes:
        folder: the run's folder.
        config: its resolved configuration, empty where there is none yet.
        by_step: the figures of each step, in order, validation before the first one included.
        train: the last step whose games were played, ``None`` before the first.
        validation: the last validation, ``None`` before the first.
        damaged: complete lines that could not be read.
        changed_at: when any of the files last changed, in seconds since the epoch.
    """

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    by_step: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    train: PlayedStep | None = None
    validation: PlayedStep | None = None
    damaged: int = 0
    changed_at: float | None = None

    @property
    def trained(self) -> list[tuple[int, Mapping[str, float]]]:
        """The training steps that are complete."""
        return trained(self.by_step)


class RunFollower:
    """Reads a run's folder again and again; each look costs what has changed since the last.

    Args:
        folder: the run's folder; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Two files while a resumed run trains, joined when it ends: the later one wins.
        self._metrics = [FollowedLines(folder / name, metric_entry) for name in METRIC_FILES]
        self._games: dict[str, tuple[int, FollowedLines[GameRecord]]] = {}
        self._config: Mapping[str, Any] = {}
        self._config_seen: tuple[int, int] | None = None

    def poll(self) -> RunState:
        """Looks again."""
        self._read_config()
        for metrics in self._metrics:
            metrics.poll()
        self._follow_games()
        by_step = {step: data for metrics in self._metrics for step, data in metrics.items}
        played = {
            partition: PlayedStep(step, tuple(lines.items))
            for partition, (step, lines) in self._games.items()
        }
        files: list[FollowedLines[Any]] = [*self._metrics]
        files += [lines for _, lines in self._games.values()]
        times = [file.changed_at for file in files if file.changed_at is not None]
        if self._config_seen is not None:
            times.append(self._config_seen[1] / 1e9)
        return RunState(
            self._folder,
            self._config,
            {step: by_step[step] for step in sorted(by_step)},
            played.get(PLAYED[0]),
            played.get(PLAYED[1]),
            sum(file.damaged for file in files),
            max(times, default=None),
        )

    def _follow_games(self) -> None:
        """Follows the newest file of each partition, beginning anew where that is another one."""
        newest = {
            file.partition: file for file in game_files(self._folder) if file.partition in PLAYED
        }
        for partition in self._games.keys() - newest.keys():
            del self._games[partition]
        for partition, file in newest.items():
            if partition not in self._games or self._games[partition][0] != file.step:
                self._games[partition] = (file.step, FollowedLines(file.path, game_of))
            self._games[partition][1].poll()

    def _read_config(self) -> None:
        path = self._folder / CONFIG
        try:
            status = path.stat()
            seen = (status.st_size, status.st_mtime_ns)
            if seen == self._config_seen:
                return
            self._config = read_config(self._folder)
        except FileNotFoundError:
            self._config, self._config_seen = {}, None
            return
        except OSError:  # a network file system that is away for a moment
            return
        except ConfigError:
            self._config = {}
        self._config_seen = seen
