"""The rows of a MEDEC CSV file, and what is said when the file is not one."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from os import SEEK_END
from pathlib import Path
from typing import NoReturn

COLUMNS = (
    "Text ID",
    "Text",
    "Sentences",
    "Error Flag",
    "Error Type",
    "Error Sentence ID",
    "Error Sentence",
    "Corrected Sentence",
    "Corrected Text",
)
ABSENT = ("", "NA")
"""What a field holds that does not apply."""

# A note is a few kilobytes. The limit keeps memory bounded when an unclosed quote swallows the
# rest of a file.
_FIELD_LIMIT = 1 << 24
_INTEGER = re.compile(r"(-?\d{1,6})(?:\.0+)?")


class MedecError(ValueError):
    """A MEDEC file that cannot be read; the message names the file, row, field and fix."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row that is not blank.

    Attributes:
        path: the file.
        number: the row as a spreadsheet counts it, the header being row 1.
        line: line of the file on which it starts, from 1.
        cells: its fields by column, as they stand in the file.
    """

    path: Path
    number: int
    line: int
    cells: dict[str, str]

    @property
    def text_id(self) -> str:
        """MEDEC's id of the note."""
        return self.cells["Text ID"].strip()

    def __str__(self) -> str:
        """Where the row stands, as messages name it."""
        text_id = self.text_id or "missing"
        return f"{self.path}, row {self.number} (line {self.line}, Text ID {text_id})"

    def fail(self, field: str, found: object, expected: str) -> NoReturn:
        """Raises a :class:`MedecError` about one field."""
        raise MedecError(
            f"{self}, field {field!r}: found {str(found)[:160]!r}, expected {expected}. Correct"
            " this row or remove it."
        )

    def integer(self, field: str, expected: str) -> int:
        """A field as a number; ``expected`` says what it should be if it is none."""
        # Blank rows at the end of a file turn a spreadsheet's integers into "1.0".
        match = _INTEGER.fullmatch(self.cells[field].strip())
        if match is None:
            self.fail(field, self.cells[field], expected)
        return int(match[1])


def read_rows(path: Path) -> Iterator[Row]:
    """Reads the rows of a MEDEC CSV file one at a time; blank rows are left out but counted.

    Raises:
        MedecError: if the file cannot be read as UTF-8 CSV with MEDEC's columns.
    """
    csv.field_size_limit(_FIELD_LIMIT)
    number, line = 0, 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            columns: list[str] = []
            for number, values in enumerate(reader, start=1):
                if number == 1:
                    columns = _columns(path, values)
                elif any(value.strip() for value in values):
                    yield Row(path, number, line, _cells(path, number, line, columns, values))
                line = reader.line_num + 1
    except UnicodeDecodeError:
        raise _undecodable(path) from None
    except csv.Error as error:
        raise MedecError(
            f"{path}, row {number + 1} (starts at line {line}): {error}. A quoted field"
            " is not closed: the file is cut off, or a quote inside a field is not doubled. Copy or"
            " export the file again."
        ) from None
    except OSError as error:
        raise MedecError(
            f"{path}: {error.strerror}. Expected a MEDEC CSV file; check the path."
        ) from error
    if not number:
        raise MedecError(f"{path}: the file is empty, expected a header with {', '.join(COLUMNS)}")


def ends_in_line_break(path: Path) -> bool:
    """Whether the last byte of a file that is not empty ends a line."""
    with path.open("rb") as stream:
        stream.seek(-1, SEEK_END)
        return stream.read() in b"\r\n"


def _columns(path: Path, header: list[str]) -> list[str]:
    names = [name.strip() for name in header]
    missing = [name for name in COLUMNS if name not in names]
    unexpected = [name for name in names if name not in COLUMNS]
    twice = [name for name in COLUMNS if names.count(name) > 1]
    problems = [("missing", missing), ("unexpected", unexpected), ("given twice", twice)]
    if any(found for _, found in problems):
        told = "; ".join(
            f"{problem}: {', '.join(map(repr, found))}" for problem, found in problems if found
        )
        raise MedecError(
            f"{path}, row 1: wrong columns. {told[:400]}. Expected exactly {', '.join(COLUMNS)},"
            " in any order."
        )
    return names


def _cells(
    path: Path, number: int, line: int, columns: list[str], values: list[str]
) -> dict[str, str]:
    if len(values) != len(columns):
        raise MedecError(
            f"{path}, row {number} (line {line}): {len(values)} fields, expected {len(columns)}."
            " The file is cut off here or a comma is not quoted. Copy or export the file again."
        )
    return dict(zip(columns, values, strict=True))


def _undecodable(path: Path) -> MedecError:
    bad, byte = 0, b""
    with path.open("rb") as stream:
        for raw in stream:
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as error:
                bad, byte = bad + error.start, raw[error.start : error.start + 1]
                break
            bad += len(raw)
    # Latin-1 has one character a byte, so the row can be found by counting characters.
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        with path.open(encoding="latin-1", newline="") as stream:
            for text in stream:
                read += len(text)
                yield text

    row = next((row for row, _ in enumerate(csv.reader(lines()), start=1) if read > bad), 0)
    encoding = "UTF-16" if byte in (b"\xff", b"\xfe") and bad == 0 else "WINDOWS-1252"
    return MedecError(
        f"{path}, row {row}: byte {bad} is 0x{byte.hex()}, which is not UTF-8. The file looks like"
        f" {'UTF-16' if encoding == 'UTF-16' else 'Latin-1 (Windows-1252)'}; convert it:"
        f" iconv -f {encoding} -t UTF-8 '{path}' > utf8.csv"
    )
