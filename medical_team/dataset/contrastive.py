"""Contrastive pairs as JSON lines, and the four-field form that OpenRLHF recipes of self-play read.

A pair is the error note and the clean note of one case, as numbered sentences. In the four-field
form each case gives two rows; ``vanilla`` is the row's own note, ``adversarial`` the other note of
the pair, ``completion`` the right answer about ``vanilla`` and ``data_type`` the game type.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from medical_team.answers import Assessment, Classification, format_assessment
from medical_team.atomic_files import replacing, why_not_written
from medical_team.dataset.rows import DatasetError, assign_games
from medical_team.medec import Case, mend, read_medec
from medical_team.medical_game_manager import GameType

UNKNOWN_TYPE = "unknown"
"""Error type of a case rebuilt from the four fields, which do not hold it."""

OPENRLHF_FIELDS = ("vanilla", "adversarial", "completion", "data_type")
_PAIR_FIELDS = ("case_id", "split", "error_type", "error_sentence_id", "error_note", "clean_note")


def sample_cases(path: Path, split: str, count: int | None, seed: int) -> Iterator[Case]:
    """Draws cases of a MEDEC file without holding its text in memory.

    Args:
        path: a MEDEC CSV file.
        split: the split its cases belong to.
        count: how many cases, all where ``None`` or more than the file has.
        seed: of the draw.

    Yields:
        The drawn cases, in file order.

    Raises:
        DatasetError: if the file holds no error row.
    """
    total = sum(1 for _ in read_medec(path, split))
    if not total:
        raise DatasetError(
            f"{path}: no error row (Error Flag 1), so there is no pair; check that it is the"
            " right file"
        )
    drawn = set(
        random.Random(seed).sample(range(total), min(total, total if count is None else count))
    )
    # Ending at the last one drawn, this second pass does not tell again of the rows left out.
    for position, case in enumerate(islice(read_medec(path, split), max(drawn) + 1)):
        if position in drawn:
            yield case


def write_pairs(cases: Iterable[Case], path: Path) -> int:
    """Writes one contrastive pair a line and returns how many.

    Raises:
        DatasetError: if the file cannot be written.
    """
    return _write_lines(map(_pair, cases), path)


def read_pairs(path: Path) -> Iterator[Case]:
    """Reads what :func:`write_pairs` wrote.

    Raises:
        DatasetError: at the first line that is no pair.
    """
    for line, row in _read_lines(path, _PAIR_FIELDS):
        error_note, clean_note = (
            _note(path, line, "error_note", row),
            _note(path, line, "clean_note", row),
        )
        changed = _changed_sentence(path, line, error_note, clean_note)
        if row["error_sentence_id"] != changed:
            raise DatasetError(
                f"{path}, line {line}: error_sentence_id is {row['error_sentence_id']!r}, but"
                " the notes differ in sentence"
                f" {changed}; make the file again with scripts/create_rl_training_data.py"
            )
        yield Case(
            case_id=str(row["case_id"]),
            error_sentences=error_note,
            error_sentence_id=changed,
            corrected_sentence=clean_note[changed],
            error_type=str(row["error_type"]),
            split=str(row["split"]),
        )


def write_openrlhf(pairs: Path, path: Path, seed: int) -> int:
    """Turns pairs into four-field rows, balanced over the game types, and returns how many.

    Raises:
        DatasetError: if ``pairs`` holds no pair or a wrong one, or ``path`` cannot be written.
    """
    games = assign_games([case.error_type for case in read_pairs(pairs)], random.Random(seed))
    if not games:
        raise DatasetError(
            f"{pairs}: no pair; make the file with scripts/create_rl_training_data.py"
        )
    rows = (
        openrlhf_row(case, game)
        for case, both in zip(read_pairs(pairs), games, strict=True)
        for game in both
    )
    return _write_lines(rows, path)


def openrlhf_row(case: Case, game_type: GameType) -> dict[str, str]:
    """The four fields of one row."""
    error_note, clean_note = _numbered(case.error_sentences), _numbered(case.clean_sentences)
    if game_type.harmful_source:
        own, other = error_note, clean_note
        gold = Assessment(Classification.HARMFUL, case.error_sentence_id, case.corrected_sentence)
    else:
        own, other = clean_note, error_note
        gold = Assessment(Classification.SAFE, None, None)
    completion = format_assessment(gold)
    return dict(zip(OPENRLHF_FIELDS, (own, other, completion, str(game_type)), strict=True))


def read_openrlhf(path: Path, split: str) -> Iterator[tuple[Case, GameType]]:
    """Rebuilds the case of each four-field row.

    Rows of the same two notes give the same case, id included. Notes are numbered lines, or one
    sentence a line.

    Args:
        path: a file of JSON lines with ``vanilla``, ``adversarial``, ``completion`` and
            ``data_type``; other fields are ignored.
        split: the split the cases belong to.

    Yields:
        The case and the row's game type, in file order.

    Raises:
        DatasetError: at the first line from which no case can be rebuilt.
    """
    known = {str(game): game for game in GameType}
    for line, row in _read_lines(path, OPENRLHF_FIELDS):
        game = known.get(str(row["data_type"]))
        if game is None:
            raise DatasetError(
                f"{path}, line {line}: data_type is {row['data_type']!r}, expected one of "
                f"{', '.join(known)}"
            )
        own, other = _note(path, line, "vanilla", row), _note(path, line, "adversarial", row)
        error_note, clean_note = (own, other) if game.harmful_source else (other, own)
        changed = _changed_sentence(path, line, error_note, clean_note)
        digest = hashlib.sha256("\n".join((*error_note, "", *clean_note)).encode()).hexdigest()
        case = Case(
            f"openrlhf-{digest[:16]}", error_note, changed, clean_note[changed], UNKNOWN_TYPE, split
        )
        yield case, game


def _pair(case: Case) -> dict[str, Any]:
    values = (
        case.case_id,
        case.split,
        case.error_type,
        case.error_sentence_id,
        _numbered(case.error_sentences),
        _numbered(case.clean_sentences),
    )
    return dict(zip(_PAIR_FIELDS, values, strict=True))


def _numbered(sentences: Sequence[str]) -> str:
    # Not prompts.numbered: a file keeps the note as it is, control text is neutralised when it is
    # shown.
    return "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(sentences))


def _note(path: Path, line: int, field: str, row: dict[str, Any]) -> tuple[str, ...]:
    text = row[field]
    if not isinstance(text, str) or not text.strip():
        raise DatasetError(
            f"{path}, line {line}: {field} is {text!r}, expected a note, one numbered sentence a"
            " line"
        )
    lines = [mend(line) for line in text.splitlines() if line.strip()]
    # A number may stand alone: MEDEC's notes have sentences without text.
    if all(f"{sentence} ".startswith(f"{i}. ") for i, sentence in enumerate(lines)):
        lines = [sentence.partition(".")[2].lstrip() for sentence in lines]
    return tuple(lines)


def _changed_sentence(path: Path, line: int, one: Sequence[str], other: Sequence[str]) -> int:
    differing = [i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]]
    if len(one) != len(other) or len(differing) != 1:
        raise DatasetError(
            f"{path}, line {line}: the two notes have {len(one)} and {len(other)} sentences and"
            " differ in"
            f" {len(differing)} of them, expected the same number and exactly one that differs"
            " (one sentence a line)"
        )
    return differing[0]


def _write_lines(rows: Iterable[dict[str, Any]], path: Path) -> int:
    count = 0
    try:
        with replacing(path) as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
    except OSError as error:
        raise DatasetError(why_not_written(error, path)) from error
    return count


def _read_lines(path: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    expected = f"expected a JSON object with {', '.join(required)}"
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DatasetError(
                        f"{path}, line {number}: no JSON in UTF-8 ({error}), {expected}"
                    ) from None
                missing = [
                    name for name in required if not isinstance(row, dict) or name not in row
                ]
                if missing:
                    raise DatasetError(
                        f"{path}, line {number}: without {', '.join(missing)}, {expected}"
                    )
                yield number, row
    except OSError as error:
        raise DatasetError(
            f"{path}: {error.strerror}; {expected} on each line, check the path"
        ) from error
