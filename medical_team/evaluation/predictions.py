"""The official submission format: ``text-id flag sentence_id correction|NA``, a line a text.

Source: MEDIQA-CORR 2024, github.com/abachaa/MEDIQA-CORR-2024, evaluation/
    mediqa-corr-2024-eval-script-2-all-metrics.py, ``parse_run_submission_file``. What that script
    leaves out or overwrites without a word is left out and overwritten here too, and named.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from medical_team.atomic_files import replacing
from medical_team.evaluation.errors import EvaluationError
from medical_team.evaluation.notes import SPLITS, collection

NA = "NA"

_LINE = re.compile(r"[a-z0-9\-]+\s[0-9]+\s\-?[0-9]+\s.+")
_SPACE = re.compile(r"\s+")
_FORM = "expected 'text-id flag sentence_id correction|NA'"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a system says of one text; the fields are compared as strings, as officially.

    Attributes:
        flag: ``1`` for an error, ``0`` for none.
        sentence_id: the erroneous sentence, ``-1`` for none.
        correction: the corrected sentence, ``NA`` for none.
    """

    flag: str
    sentence_id: str
    correction: str


SAFE = Prediction("0", "-1", NA)


class Problem(StrEnum):
    """What can be wrong with a submission."""

    MALFORMED = "malformed line"
    FLAG = "flag off the menu"
    ESCAPE = "backslash"
    DUPLICATE = "duplicate id"
    UNKNOWN = "unknown id"
    MISSING = "missing id"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a submission.

    Attributes:
        problem: its kind.
        message: where it is, what was found, what it means for the scores and the fix.
    """

    problem: Problem
    message: str


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission file as the official script takes it.

    Attributes:
        predictions: by text id; those of texts that are not in the data are left out.
        findings: what was wrong, in the order of the file, missing ids last.
    """

    predictions: Mapping[str, Prediction]
    findings: tuple[Finding, ...]


def read_submission(
    path: Path, text_ids: Sequence[str], left_out: Collection[str] = ()
) -> Submission:
    """Reads a submission file.

    Args:
        path: the file, UTF-8.
        text_ids: the texts of the data, in order.
        left_out: texts of the data that are not evaluated; their lines are passed over.

    Raises:
        EvaluationError: if it cannot be read, or no line of it is about the data.
    """
    known = set(text_ids)
    predictions: dict[str, Prediction] = {}
    findings: list[Finding] = []
    line_of: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        if not _LINE.fullmatch(line):
            findings.append(Finding(Problem.MALFORMED, f"{where}: {_why_malformed(line)}"))
            continue
        text_id, prediction, kept = _parsed(line)
        if text_id in left_out:
            continue
        if not kept:
            findings.append(Finding(Problem.ESCAPE, f"{where} ({text_id}): {_BACKSLASH}"))
        if prediction.flag not in ("0", "1"):
            findings.append(Finding(Problem.FLAG, f"{where} ({text_id}): {_flag(prediction)}"))
        if text_id not in known:
            findings.append(Finding(Problem.UNKNOWN, f"{where}: {_unknown(text_id, text_ids)}"))
            continue
        if text_id in line_of:
            findings.append(
                Finding(
                    Problem.DUPLICATE,
                    f"{where}: Text ID {text_id} is in line {line_of[text_id]} already, expected"
                    " once. The last line counts, as officially; remove one.",
                )
            )
        line_of[text_id] = number
        predictions[text_id] = prediction
    if not predictions:
        raise EvaluationError(
            f"{path}: no line is about a text of the data, whose ids are like {text_ids[0]}"
            + (f". {findings[0].message}" if findings else f"; {_FORM}, a line a text.")
        )
    findings += (
        Finding(
            Problem.MISSING,
            f"{path}: no line for Text ID {text_id}; it counts as wrong, as officially. Add one.",
        )
        for text_id in text_ids
        if text_id not in predictions
    )
    return Submission(predictions, tuple(findings))


def write_submission(predictions: Mapping[str, Prediction], path: Path) -> tuple[str, ...]:
    """Writes a file that the official script reads as these predictions.

    Returns:
        The ids of the texts whose predictions it reads otherwise, since they are not
        :func:`normalised` and the format cannot hold them.

    Raises:
        EvaluationError: if an id does not fit the format.
    """
    lines = [submission_line(text_id, one) for text_id, one in predictions.items()]
    with replacing(path) as stream:
        stream.writelines(f"{line}\n" for line in lines)
    read = (_parsed(line)[1] for line in lines)
    return tuple(
        text_id
        for (text_id, one), again in zip(predictions.items(), read, strict=True)
        if again != one
    )


def submission_line(text_id: str, prediction: Prediction) -> str:
    """One line, without its end.

    Raises:
        EvaluationError: if the id does not fit the format.
    """
    correction = prediction.correction
    # The official script drops quotes at the ends, but keeps the white space behind them.
    before = '"' if correction[:1].isspace() else ""
    after = '"' if correction[-1:].isspace() else ""
    # Doubled, because the official script expands the line as the template of a substitution; an
    # empty correction is a line break there, which it folds away.
    escaped = " ".join(f"{before}{correction}{after}".split()).replace("\\", "\\\\") or "\\n"
    line = f"{text_id} {prediction.flag} {prediction.sentence_id} {escaped}"
    if not _LINE.fullmatch(line):
        raise EvaluationError(
            f"Text ID {text_id!r} does not fit a submission line, whose ids hold a-z, 0-9 and '-'"
            " only; rename it in the data, or leave --write-submission out."
        )
    return line


def normalised(prediction: Prediction) -> Prediction:
    """A prediction as the official script holds it after reading its line."""
    correction = " ".join(prediction.correction.split())
    while correction.startswith('"') and len(correction) > 1:
        correction = correction[1:]
    while correction.endswith('"') and len(correction) > 1:
        correction = correction[:-1]
    if prediction.flag == "0":
        correction = NA
    return Prediction(prediction.flag, prediction.sentence_id, correction)


def summary(findings: Iterable[Finding], most: int = 5) -> list[str]:
    """The messages, of each kind the first few and how many more there are."""
    by_problem: dict[Problem, list[str]] = {}
    for finding in findings:
        by_problem.setdefault(finding.problem, []).append(finding.message)
    lines: list[str] = []
    for problem, messages in by_problem.items():
        lines += messages[:most]
        if len(messages) > most:
            lines.append(f"... and {len(messages) - most} more of the kind '{problem}'")
    return lines


_BACKSLASH = (
    "a backslash that the official script stops at; it is read as it stands. Write it twice."
)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if stripped := line.strip():
                    yield number, stripped
    except UnicodeDecodeError as error:
        raise EvaluationError(
            f"{path}: byte {error.start} of a block is not UTF-8. Convert it:"
            f" iconv -f WINDOWS-1252 -t UTF-8 '{path}' > predictions.txt"
        ) from None
    except OSError as error:
        raise EvaluationError(
            f"{path}: {error.strerror}. Expected a submission file; check the path."
        ) from error


def _parsed(line: str) -> tuple[str, Prediction, bool]:
    """Id, prediction, and whether the official script would get as far."""
    kept = True
    try:
        # The official script calls re.sub with its arguments exchanged: the line is not searched
        # but expanded as a template, so that "\n" in it becomes a line break.
        expanded = _SPACE.sub(line, " ")
    except (re.error, IndexError):
        expanded, kept = line, False
    text_id, flag, sentence_id, *words = expanded.split()
    return text_id, normalised(Prediction(flag, sentence_id, " ".join(words))), kept


def _why_malformed(line: str) -> str:
    fields = line.split(maxsplit=3)
    found = repr(line[:80])
    if line.startswith("\ufeff"):
        why, fix = "a byte-order mark before the first id", "Save the file without one"
    elif not re.fullmatch(r"[a-z0-9\-]+", fields[0]):
        why, fix = f"the id {fields[0][:40]!r}, expected a-z, 0-9 and '-' only", "Correct it"
    elif len(fields) < 4:
        why, fix = f"{len(fields)} fields, {_FORM}", "Write NA where there is no correction"
    elif not re.fullmatch(r"[0-9]+", fields[1]):
        why, fix = f"the flag {fields[1][:20]!r}, expected 0 or 1", "Write 1, not 1.0"
    elif not re.fullmatch(r"-?[0-9]+", fields[2]):
        why = f"the sentence id {fields[2][:20]!r}, expected an integer, -1 for no error"
        fix = "Write 3, not 3.0"
    else:
        why, fix = f"more than one space between the fields, {_FORM}", "Write one"
    return (
        f"{why} (found {found}). The line is left out, as officially, and counts as wrong. {fix}."
    )


def _flag(prediction: Prediction) -> str:
    return f"flag {prediction.flag!r}, expected 0 or 1; it counts as wrong. Correct it."


def _unknown(text_id: str, text_ids: Sequence[str]) -> str:
    collections = sorted({collection(one) for one in text_ids})
    told = f"Text ID {text_id} is not in the data ({', '.join(collections[:3])})"
    split = next((one for one in SPLITS if one in text_id.split("-")), None)
    if split and collection(text_id) not in collections:
        told += f" but of another split, {collection(text_id)}"
    return f"{told}. It is left out; remove it, or give that split's file as --data."
