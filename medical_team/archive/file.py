"""The file of an attack archive: JSON lines, each complete in itself, written by one process.

A line is an attack, or how often attacks were played again in a step. A process that is killed
while it writes leaves at most one line cut off; what is appended next starts on a line of its own.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from medical_team.archive.attack import ArchivedAttack, from_json, to_json
from medical_team.atomic_files import replacing, why_not_written

_log = logging.getLogger(__name__)

_FORMAT: Final = 1

Counts = tuple[int, int]
"""How often an attack was played again, and how often it was missed."""


class ArchiveError(ValueError):
    """An archive that cannot be read or written; the message names the file and the fix."""


@dataclass(slots=True)
class ArchiveContent:
    """What the lines of a file say.

    Attributes:
        attacks: the attacks by id, in the order of the file.
        plays: for each step, what was played again, by attack.
        later: number of lines left out, those of steps that are played again.
    """

    attacks: dict[str, ArchivedAttack] = field(default_factory=dict)
    plays: dict[int, dict[str, Counts]] = field(default_factory=dict)
    later: int = 0

    @property
    def entries(self) -> int:
        """Number of attacks, and of attacks played again in a step."""
        return len(self.attacks) + sum(map(len, self.plays.values()))

    def counted(self, until: int | None = None) -> dict[str, ArchivedAttack]:
        """The attacks, with plays added to their counters.

        Args:
            until: the last step whose plays are added, ``None`` for all.
        """
        counts: dict[str, Counts] = {}
        for step, plays in self.plays.items():
            if until is None or step <= until:
                add_counts(counts, plays)
        return {
            name: attack.played_again(*counts[name]) if name in counts else attack
            for name, attack in self.attacks.items()
        }


def add_counts(counts: dict[str, Counts], more: Mapping[str, Counts]) -> None:
    """Adds ``more`` to ``counts``."""
    for name, (played, missed) in more.items():
        before = counts.get(name, (0, 0))
        counts[name] = (before[0] + played, before[1] + missed)


def read_archive(file: Path, before_step: int | None = None) -> ArchiveContent:
    """Reads a file; a damaged line is skipped with a warning that names it.

    Args:
        file: the file; where it is missing, the content is empty.
        before_step: lines of this step and of later ones are left out.

    Raises:
        ArchiveError: if it was written by another version.
    """
    content = ArchiveContent()
    if not file.exists():
        return content
    for number, line in _lines(file):
        if isinstance(line, _DamageError):
            _log.warning("%s, line %d is skipped: %s", file, number, line)
        elif before_step is not None and line.step >= before_step:
            content.later += 1
        else:
            line.add_to(content)
    return content


def append_attacks(file: Path, attacks: Iterable[ArchivedAttack]) -> None:
    """Adds attacks to a file, which is made where it is missing.

    Raises:
        ArchiveError: if it cannot be written.
    """
    _append(file, [_AttackLine(_FORMAT, attack) for attack in attacks])


def append_plays(file: Path, step: int, plays: Mapping[str, Counts]) -> None:
    """Adds to a file what was played again in a step.

    Raises:
        ArchiveError: if it cannot be written.
    """
    _append(file, [_PlaysLine(_FORMAT, step, dict(plays))])


def replace_archive(file: Path, content: ArchiveContent) -> None:
    """Writes a file anew; until it is whole, the old one stays.

    Raises:
        ArchiveError: if it cannot be written.
    """
    try:
        with replacing(file) as stream:
            for attack in content.attacks.values():
                stream.write(_text(_AttackLine(_FORMAT, attack)))
            for step, plays in content.plays.items():
                stream.write(_text(_PlaysLine(_FORMAT, step, plays)))
    except OSError as error:
        raise ArchiveError(why_not_written(error, file)) from error


def read_frozen(file: Path) -> tuple[ArchivedAttack, ...]:
    """The attacks in a file that is only read: a frozen set, or the archive of another run.

    Raises:
        ArchiveError: if it cannot be read, has a damaged line or holds no attack.
    """
    content = ArchiveContent()
    try:
        for number, line in _lines(file):
            if isinstance(line, _DamageError):
                raise ArchiveError(
                    f"{file}, line {number}: {line}. A frozen set must be whole; delete this line"
                    " or get the file again."
                ) from line
            line.add_to(content)
    except OSError as error:
        raise ArchiveError(
            f"{file} cannot be read ({error.strerror or error}); name a file of archived attacks"
        ) from error
    if not content.attacks:
        raise ArchiveError(f"{file} holds no attack; name a file of archived attacks")
    return tuple(content.counted().values())


def write_frozen(file: Path, attacks: Sequence[ArchivedAttack]) -> None:
    """Writes a set of attacks that no run changes; the inverse of :func:`read_frozen`.

    Raises:
        ArchiveError: if there is no attack or the file cannot be written.
    """
    if not attacks:
        raise ArchiveError(f"{file}: not written, there is no attack; archive some first")
    replace_archive(file, ArchiveContent({attack.attack_id: attack for attack in attacks}))


@dataclass(frozen=True, slots=True)
class _AttackLine:
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    format: int
    attack: ArchivedAttack

    @property
    def step(self) -> int:
        return self.attack.step

    def add_to(self, content: ArchiveContent) -> None:
        content.attacks.setdefault(self.attack.attack_id, self.attack)


@dataclass(frozen=True, slots=True)
class _PlaysLine:
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    format: int
    step: int
    plays: dict[str, Counts]

    def __post_init__(self) -> None:
        for played, missed in self.plays.values():
            if not 0 <= missed <= played:
                raise ValueError(f"{missed} of {played} plays are missed")

    def add_to(self, content: ArchiveContent) -> None:
        add_counts(content.plays.setdefault(self.step, {}), self.plays)


class _DamageError(ValueError):
    """Why a line is not one of an archive."""


def _append(file: Path, lines: Iterable[_AttackLine | _PlaysLine]) -> None:
    text = "".join(map(_text, lines)).encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab+") as stream:
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                # A line that was cut off must not swallow the one after it.
                if stream.read(1) != b"\n":
                    text = b"\n" + text
            stream.write(text)
    except OSError as error:
        raise ArchiveError(why_not_written(error, file)) from error


def _lines(file: Path) -> Iterator[tuple[int, _AttackLine | _PlaysLine | _DamageError]]:
    with file.open("rb") as stream:
        for number, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                yield number, _parsed(text, f"{file}, line {number}")
            except _DamageError as damage:
                yield number, damage


def _parsed(text: bytes, where: str) -> _AttackLine | _PlaysLine:
    try:
        data = json.loads(text.rstrip())
    except (ValueError, RecursionError) as error:
        raise _DamageError(_why_no_json(text, error)) from error
    version = data.get("format") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise _DamageError("it is no line of an attack archive, it has no format number")
    if version != _FORMAT:
        raise ArchiveError(
            f"{where}: an attack archive of format {version}, this version reads format {_FORMAT}."
            " Move the file away to start with an empty archive, or use the version that wrote it."
        )
    kind = _AttackLine if "attack" in data else _PlaysLine
    try:
        line: _AttackLine | _PlaysLine = from_json(kind, text)
    except ValueError as error:
        raise _DamageError(str(error)) from error
    return line


def _why_no_json(text: bytes, error: Exception) -> str:
    if not text.endswith(b"\n"):
        return "it is cut off, its writer was stopped"
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON: {error.msg}, column {error.colno}"
    return f"it is no JSON: {error}"


def _text(line: _AttackLine | _PlaysLine) -> str:
    return to_json(line) + "\n"
