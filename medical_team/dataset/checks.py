"""Verification of training files: row by row, within each file, and across files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any

from medical_team.dataset.near_duplicates import NearDuplicateIndex, NoteKey
from medical_team.dataset.report import FileReport, Report, TokenCounter
from medical_team.dataset.row_checks import CheckedRow, Kind, check_row, digest
from medical_team.dataset.rows import DatasetError, parquet_schema
from medical_team.dataset.writer import MANIFEST, read_manifest
from medical_team.medical_game_manager import GameType

_BATCH = 512


def verify(
    paths: Sequence[Path],
    count_tokens: TokenCounter | None = None,
    max_prompt_length: int | None = None,
) -> Report:
    """Checks training files and folders of them.

    Args:
        paths: Parquet files, or folders that hold them.
        count_tokens: gives the length of a prompt in tokens; lengths in tokens are left out without
            it.
        max_prompt_length: most tokens that a prompt may have.

    Raises:
        DatasetError: if a path is not there, a folder holds no Parquet file, or tokens are limited
            but not counted.
    """
    if max_prompt_length is not None and count_tokens is None:
        raise DatasetError(
            "a prompt limit is given but no tokenizer to count with; give --tokenizer DIR"
        )
    files = _parquet_files(paths)
    report = Report([FileReport(path) for path in files])
    _check_manifests(paths, report)
    _Verification(report, count_tokens, max_prompt_length).run()
    return report


class _Verification:
    """One pass over all files, the smallest first, with what must be remembered from row to row."""

    def __init__(
        self, report: Report, count_tokens: TokenCounter | None, max_prompt_length: int | None
    ) -> None:
        self._report = report
        self._count_tokens = count_tokens
        self._max_prompt_length = max_prompt_length
        # Where a prompt, the notes of a case, and a case id were first seen: (file number, row).
        self._prompts: dict[bytes, tuple[int, int, bytes]] = {}
        self._cases: dict[bytes, int] = {}
        self._notes = NearDuplicateIndex()

    def run(self) -> None:
        files = self._report.files
        order = sorted(range(len(files)), key=lambda number: files[number].path.stat().st_size)
        for number in order:
            # Only notes of other files are looked for, so the largest file is compared but never
            # remembered.
            self._check_file(number, remember=number != order[-1], compare=len(files) > 1)

    def _check_file(self, number: int, *, remember: bool, compare: bool) -> None:
        import pyarrow as pa

        file = self._report.files[number]
        sides: dict[bytes, tuple[dict[bool, int], str]] = {}
        ids: dict[str, tuple[bytes, int]] = {}
        frames: dict[bool, dict[bytes, int]] = {True: {}, False: {}}
        try:
            for index, raw in self._rows(file):
                row, problems = check_row(raw, index)
                for kind, message in problems:
                    self._problem(number, kind, index, message)
                if row is None:
                    continue
                self._count(number, index, row, raw["prompt"])
                self._check_duplicates(number, index, row)
                self._check_pairing(number, index, row, sides, ids)
                if not row.game_type.adversarial:
                    frames[row.game_type.harmful_source].setdefault(digest(row.frame), index)
                if compare and not row.game_type.harmful_source:
                    self._compare(number, index, row, remember=remember)
        except (pa.ArrowException, OSError) as error:
            self._problem(number, Kind.FILE, None, f"cannot be read as Parquet: {error}")
            return
        self._check_frames(number, frames)
        self._check_counts(number, sides)

    def _rows(self, file: FileReport) -> Iterator[tuple[int, dict[str, Any]]]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(file.path) as parquet:
            expected, found = parquet_schema(), parquet.schema_arrow
            wrong = [f"{name} is missing" for name in expected.names if name not in found.names]
            wrong += [f"{name} is unexpected" for name in found.names if name not in expected.names]
            wrong += [
                f"{name} is {found.field(name).type}, expected {expected.field(name).type}"
                for name in expected.names
                if name in found.names
                and not found.field(name).type.equals(expected.field(name).type)
            ]
            if wrong:
                message = f"another schema: {'; '.join(wrong)[:600]}; convert the data again"
                self._problem(self._report.files.index(file), Kind.SCHEMA, None, message)
                return
            start = 0
            for batch in parquet.iter_batches(batch_size=_BATCH):
                yield from enumerate(batch.to_pylist(), start)
                start += batch.num_rows

    def _problem(self, number: int, kind: Kind, row: int | None, message: str) -> None:
        file = self._report.files[number]
        file.problems[kind] += 1
        place = f"{file.path}" if row is None else f"{file.path}, row {row}"
        self._report.problems.append(f"{place}: {message}")

    def _warning(self, number: int, row: int, message: str) -> None:
        self._report.warnings.append(f"{self._report.files[number].path}, row {row}: {message}")

    def _count(
        self, number: int, index: int, row: CheckedRow, messages: list[dict[str, str]]
    ) -> None:
        file = self._report.files[number]
        file.rows += 1
        file.game_types[row.game_type] += 1
        file.error_types[row.case.error_type] += 1
        file.words.add(len(row.prompt.split()))
        if self._count_tokens is None:
            return
        tokens = self._count_tokens(messages)
        file.tokens.add(tokens)
        if self._max_prompt_length is not None and tokens > self._max_prompt_length:
            message = f"the prompt has {tokens} tokens, the limit is {self._max_prompt_length}"
            self._problem(number, Kind.LENGTH, index, message)

    def _check_duplicates(self, number: int, index: int, row: CheckedRow) -> None:
        first = self._prompts.setdefault(digest(row.prompt), (number, index, row.case_digest))
        if first[:2] == (number, index):
            return
        self._report.files[number].duplicates += 1
        where = f"{self._report.files[first[0]].path}, row {first[1]}"
        if first[2] == row.case_digest:
            self._problem(
                number, Kind.DUPLICATE, index, f"the same prompt of the same case as {where}"
            )
        else:
            # Two errors made in one note share its clean note: a fact of the source, not of the
            # conversion.
            self._warning(
                number, index, f"case {row.case.case_id} has the prompt of another case, {where}"
            )

    def _check_pairing(
        self,
        number: int,
        index: int,
        row: CheckedRow,
        sides: dict[bytes, tuple[dict[bool, int], str]],
        ids: dict[str, tuple[bytes, int]],
    ) -> None:
        case, key = row.case, row.case_digest
        rows, _ = sides.setdefault(key, ({}, case.case_id))
        harmful = row.game_type.harmful_source
        note = "error" if harmful else "clean"
        if not rows:
            other = self._cases.setdefault(key, number)
            if other != number:
                path = self._report.files[other].path
                self._problem(
                    number, Kind.DUPLICATE, index, f"case {case.case_id} is in {path} too"
                )
            if case.error_sentence.casefold() == case.corrected_sentence.casefold():
                self._warning(
                    number, index, f"the notes of case {case.case_id} differ in letter case only"
                )
        if harmful in rows:
            self._problem(
                number,
                Kind.PAIR,
                index,
                f"a second row of the {note} note of case {case.case_id}, after row"
                f" {rows[harmful]}",
            )
        rows.setdefault(harmful, index)
        first = ids.setdefault(case.case_id, (key, index))
        if first[0] != key:
            self._problem(
                number,
                Kind.PAIR,
                index,
                f"case_id {case.case_id} is another case in row {first[1]}",
            )

    def _compare(self, number: int, index: int, row: CheckedRow, *, remember: bool) -> None:
        key = NoteKey(number, index, row.case.case_id)
        closest = self._notes.closest(row.case.clean_note, key, add=remember)
        if closest is None:
            return
        other, similarity = closest
        self._report.files[number].near_duplicates += 1
        self._warning(
            number,
            index,
            f"the note of case {key.case_id} is a near-duplicate ({similarity:.2f}) of case"
            f" {other.case_id},"
            f" {self._report.files[other.file].path}, row {other.row}",
        )

    def _check_frames(self, number: int, frames: dict[bool, dict[bytes, int]]) -> None:
        for harmful, others in ((True, frames[False]), (False, frames[True])):
            alone = [row for frame, row in frames[harmful].items() if frame not in others]
            if alone and others:
                kind = "error" if harmful else "clean"
                message = f"the prompt around the note gives the class away: {kind} notes only"
                self._problem(number, Kind.LEAK, alone[0], message)

    def _check_counts(self, number: int, sides: dict[bytes, tuple[dict[bool, int], str]]) -> None:
        file = self._report.files[number]
        for rows, case_id in sides.values():
            if len(rows) < 2:
                (harmful, row), *_ = rows.items()
                missing = "clean" if harmful else "error"
                self._problem(
                    number,
                    Kind.PAIR,
                    row,
                    f"case {case_id} has no row of its {missing} note, so no pair",
                )
        if file.problems[Kind.SCHEMA]:
            return
        if not file.rows:
            self._problem(number, Kind.FILE, None, "no rows, expected at least one case")
        counts = {str(game): file.game_types[game] for game in GameType}
        if max(counts.values()) - min(counts.values()) > 1:
            told = ", ".join(f"{game} {count}" for game, count in counts.items())
            self._problem(
                number, Kind.BALANCE, None, f"game types are not balanced to within one row: {told}"
            )


def _parquet_files(paths: Sequence[Path]) -> list[Path]:
    files: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise DatasetError(
                f"{path}: no such file or folder; make it with scripts/convert_dataset_to_verl.py"
            )
        found = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not found:
            raise DatasetError(
                f"{path}: no *.parquet in it; make them with scripts/convert_dataset_to_verl.py"
            )
        files.update(dict.fromkeys(found))
    return list(files)


def _check_manifests(paths: Sequence[Path], report: Report) -> None:
    for folder in (path for path in paths if path.is_dir()):
        manifest = read_manifest(folder)
        if manifest is None:
            report.warnings.append(
                f"{folder}: no {MANIFEST}, so the files cannot be compared with it"
            )
            continue
        for name, entry in manifest["files"].items():
            path = folder / name
            if not path.exists():
                report.problems.append(
                    f"{path}: missing, {MANIFEST} names it; convert the data again"
                )
                continue
            with path.open("rb") as stream:
                if file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
                    report.problems.append(
                        f"{path}: not the file that {MANIFEST} names (sha256 differs); convert"
                        " the data again"
                    )
