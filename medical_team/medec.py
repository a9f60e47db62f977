"""MEDEC clinical notes: the :class:`Case` record and the reader of the benchmark's CSV files.

Source: Ben Abacha et al., "MEDEC: A Benchmark for Medical Error Detection and Correction in
    Clinical Notes", Findings of ACL 2025.

A file that is not MEDEC's, or is damaged, is refused. A single error row whose annotation is wrong
is left out and told of, so that a benchmark file can be used in spite of its slips.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from os import PathLike
from pathlib import Path

from medical_team.medec_rows import (
    ABSENT,
    COLUMNS,
    MedecError,
    Row,
    ends_in_line_break,
    read_rows,
)

__all__ = [
    "COLUMNS",
    "ERROR_TYPES",
    "Case",
    "Findings",
    "MedecError",
    "mend",
    "read_medec",
    "split_sentences",
]

ERROR_TYPES = ("management", "diagnosis", "pharmacotherapy", "treatment", "causalOrganism")

# How alike the annotated sentence and the sentence of the note must be: copies, up to a slip of
# typing.
_SAME_SENTENCE = 0.9
# A benchmark has a few slips; more than this share of the error rows means another kind of file.
_MOST_LEFT_OUT = 0.05

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Case:
    """One clinical note with one annotated error, and its correction.

    The two notes of the contrastive pair are held as sentences and differ in exactly one of them,
    so no other difference (white space, order) can give the class away.

    Attributes:
        case_id: MEDEC's ``Text ID``.
        error_sentences: sentences of the erroneous note; the index is MEDEC's sentence id
            (0-based).
        error_sentence_id: index of the erroneous sentence.
        corrected_sentence: what that sentence should say.
        error_type: one of MEDEC's error types, such as ``diagnosis``.
        split: ``train``, ``val`` or ``test``.
    """

    case_id: str
    error_sentences: tuple[str, ...]
    error_sentence_id: int
    corrected_sentence: str
    error_type: str
    split: str

    @property
    def error_sentence(self) -> str:
        """The erroneous sentence."""
        return self.error_sentences[self.error_sentence_id]

    @property
    def clean_sentences(self) -> tuple[str, ...]:
        """Sentences of the corrected note."""
        at = self.error_sentence_id
        return (
            *self.error_sentences[:at],
            self.corrected_sentence,
            *self.error_sentences[at + 1 :],
        )

    @property
    def error_note(self) -> str:
        """The erroneous note as running text."""
        return " ".join(self.error_sentences)

    @property
    def clean_note(self) -> str:
        """The corrected note as running text."""
        return " ".join(self.clean_sentences)


@dataclass(slots=True)
class Findings:
    """Error rows of one file that could not be taken as they stand.

    Attributes:
        left_out: rows that gave no case: ``Text ID`` to what is wrong.
        mended: rows whose sentence id was wrong, but whose error sentence stands in the note
            exactly once: ``Text ID`` to what was changed.
    """

    left_out: dict[str, str] = field(default_factory=dict)
    mended: dict[str, str] = field(default_factory=dict)


def read_medec(
    path: str | PathLike[str], split: str, findings: Findings | None = None
) -> Iterator[Case]:
    """Reads the error rows of a MEDEC CSV file, one at a time.

    An error row whose annotation is wrong gives no case, and a clean row gives none either: it is
    the note of an error row told again. Rows left out or mended are logged as warnings when the end
    of the file is reached. Rows are counted as a spreadsheet counts them: the header is row 1.

    Args:
        path: a CSV file with MEDEC's columns, in any order.
        split: the split that the cases belong to.
        findings: takes up which rows were left out or mended.

    Yields:
        The cases in file order, their white space folded and double-encoded characters mended.

    Raises:
        MedecError: while iterating, at the first row that breaks MEDEC's format; at the end, if
            more than 5 % of the error rows would be left out or the last row is cut off.
    """
    path, findings = Path(path), findings or Findings()
    first_seen: dict[str, int] = {}
    error_rows = 0
    last: tuple[Row, Case] | None = None
    for row in read_rows(path):
        last = None
        _check_id(row, first_seen)
        sentences = _sentences(row)
        if not _flag(row):
            continue
        error_rows += 1
        try:
            case = _case(row, sentences, split, findings)
        except MedecError as fault:
            findings.left_out[row.text_id] = str(fault)
            continue
        last = row, case
        yield case
    if last and not ends_in_line_break(path):
        _check_not_cut_off(*last)
    _report(path, error_rows, findings)


def split_sentences(text: str) -> list[str]:
    """Splits MEDEC's ``Sentences`` field, lines of ``index text``, by the next expected index.

    A line that does not begin with that index continues the sentence before it, and the text after
    the index may begin with a digit itself. White space is folded. A sentence amid others may have
    no text, so that those after it keep their ids; numbers without text at the end are left out.

    Raises:
        ValueError: if the first line does not begin with ``0``, or no sentence has text.
    """
    sentences: list[list[str]] = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == str(len(sentences)):
            sentences.append(words[1:])
        elif sentences:
            sentences[-1] += words
        elif words:
            raise ValueError(f"first line {line.strip()[:40]!r} does not begin with '0 '")
    while sentences and not sentences[-1]:
        sentences.pop()
    if not sentences:
        raise ValueError("no sentence with text")
    return [" ".join(words) for words in sentences]


def mend(text: str) -> str:
    """Folds white space and mends UTF-8 once read as Windows-1252: ``Î¼mol`` becomes ``μmol``."""
    if not text.isascii():
        # Imported here because most notes are plain ASCII and importing the game must stay instant.
        import ftfy

        # ftfy takes a double-encoded degree sign for two letters of a word.
        text = ftfy.fix_text(text, unescape_html=False).replace("\u00cb\u0161", "\u00b0")
    return " ".join(text.split())


def _check_id(row: Row, first_seen: dict[str, int]) -> None:
    if row.text_id in ABSENT:
        row.fail("Text ID", row.text_id, "an id")
    first = first_seen.setdefault(row.text_id, row.number)
    if first != row.number:
        row.fail("Text ID", row.text_id, f"an id of its own: row {first} has it already")


def _flag(row: Row) -> int:
    flag = row.integer("Error Flag", "0 or 1")
    if flag not in (0, 1):
        row.fail("Error Flag", flag, "0 or 1")
    return flag


def _sentences(row: Row) -> list[str]:
    try:
        return split_sentences(row.cells["Sentences"])
    except ValueError as error:
        row.fail("Sentences", error, "lines '0 text', '1 text', ...")


def _case(row: Row, raw: list[str], split: str, findings: Findings) -> Case:
    sentences = tuple(map(mend, raw))
    expected = f"a sentence id from 0 to {len(sentences) - 1}"
    named = row.integer("Error Sentence ID", expected)
    if not 0 <= named < len(sentences):
        row.fail("Error Sentence ID", named, expected)
    annotated = _text(row, "Error Sentence")
    place = _place(sentences, annotated, named)
    if place is None:
        row.fail("Error Sentence", annotated, f"sentence {named}, {sentences[named][:120]!r}")
    case = Case(
        case_id=row.text_id,
        error_sentences=sentences,
        error_sentence_id=place,
        corrected_sentence=_text(row, "Corrected Sentence"),
        error_type=_text(row, "Error Type"),
        split=split,
    )
    if case.corrected_sentence == case.error_sentence:
        row.fail(
            "Corrected Sentence",
            case.corrected_sentence,
            "a sentence that differs from the error sentence",
        )
    if place != named:
        findings.mended[row.text_id] = (
            f"{row}, field 'Error Sentence ID': found {named}, but the error sentence is sentence"
            f" {place}, which is used instead."
        )
    return case


def _text(row: Row, field: str) -> str:
    text = mend(row.cells[field])
    if text in ABSENT:
        row.fail(field, text, "text, which an error row needs")
    return text


def _place(sentences: Sequence[str], annotated: str, named: int) -> int | None:
    """Where the annotated sentence stands, ``None`` if that cannot be told for sure."""
    equal = [i for i, sentence in enumerate(sentences) if sentence == annotated]
    if named in equal:
        return named
    if len(equal) == 1:
        return equal[0]
    return named if _alike(sentences[named], annotated) else None


def _alike(one: str, other: str) -> bool:
    matcher = SequenceMatcher(a=one.casefold(), b=other.casefold(), autojunk=False)
    return matcher.quick_ratio() >= _SAME_SENTENCE and matcher.ratio() >= _SAME_SENTENCE


def _check_not_cut_off(row: Row, case: Case) -> None:
    # A cut inside a last field without quotes leaves a row that lacks nothing but its line break.
    found, whole = (
        "".join(mend(text).split()) for text in (row.cells["Corrected Text"], case.clean_note)
    )
    if found != whole and whole.startswith(found):
        row.fail(
            "Corrected Text",
            row.cells["Corrected Text"][-80:],
            "the whole note: the file is cut off here",
        )


def _report(path: Path, error_rows: int, findings: Findings) -> None:
    left_out = list(findings.left_out.values())
    if len(left_out) > _MOST_LEFT_OUT * error_rows:
        raise MedecError(
            f"{path}: {len(left_out)} of {error_rows} error rows have a wrong annotation, expected"
            f" at most {_MOST_LEFT_OUT:.0%}. The file is probably not MEDEC's or is damaged; get it"
            " again. The first of them:\n" + "\n".join(left_out[:3])
        )
    for fault in left_out:
        _log.warning("left out: %s", fault)
    for change in findings.mended.values():
        _log.warning("mended: %s", change)
