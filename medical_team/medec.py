"""MEDEC clinical notes: the :class:`Case` record and the reader of the benchmark's CSV files.

Source: Ben Abacha et al., "MEDEC: A Benchmark for Medical Error Detection and Correction in
    Clinical
Notes", Findings of ACL 2025.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from os import PathLike
from pathlib import Path

from medical_team.medec_rows import ABSENT, COLUMNS, MedecError, Row, read_rows

__all__ = ["COLUMNS", "ERROR_TYPES", "Case", "MedecError", "mend", "read_medec", "split_sentences"]

ERROR_TYPES = ("management", "diagnosis", "pharmacotherapy", "treatment", "causalOrganism")

# How alike the annotated sentence and the sentence of the note must be: copies, up to a slip of
# typing.
_SAME_SENTENCE = 0.9


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


def read_medec(path: str | PathLike[str], split: str) -> Iterator[Case]:
    """Reads the error rows of a MEDEC CSV file, one at a time.

    Clean rows are checked but give no case: every clean row is the note of an error row told again.
    Rows are counted as a spreadsheet counts them: the header is row 1.

    Args:
        path: a CSV file with MEDEC's columns, in any order.
        split: the split that the cases belong to.

    Yields:
        The cases in file order, their white space folded and double-encoded characters mended.

    Raises:
        MedecError: while iterating, at the first row that breaks MEDEC's format.
    """
    first_seen: dict[str, int] = {}
    for row in read_rows(Path(path)):
        if row.text_id in ABSENT:
            row.fail("Text ID", row.text_id, "an id")
        if row.text_id in first_seen:
            row.fail(
                "Text ID",
                row.text_id,
                f"an id of its own: row {first_seen[row.text_id]} has it already",
            )
        first_seen[row.text_id] = row.number
        case = _case(row, split)
        if case is not None:
            yield case


def split_sentences(text: str) -> list[str]:
    """Splits MEDEC's ``Sentences`` field, lines of ``index text``, by the next expected index.

    A line that does not begin with that index continues the sentence before it, and the text after
    the index may begin with a digit itself. White space is folded; numbers without text at the
    end are left out.

    Raises:
        ValueError: if the first line is not ``0 text``, or a sentence amid others has no text.
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
    if not all(sentences):
        raise ValueError(
            f"sentence {next(i for i, words in enumerate(sentences) if not words)} has no text"
        )
    return [" ".join(words) for words in sentences]


def mend(text: str) -> str:
    """Folds white space and mends UTF-8 once read as Windows-1252: ``Î¼mol`` becomes ``μmol``."""
    if not text.isascii():
        # Imported here because most notes are plain ASCII and importing the game must stay instant.
        import ftfy

        # ftfy takes a double-encoded degree sign for two letters of a word.
        text = ftfy.fix_text(text, unescape_html=False).replace("\u00cb\u0161", "\u00b0")
    return " ".join(text.split())


def _case(row: Row, split: str) -> Case | None:
    flag = row.integer("Error Flag", "0 or 1")
    if flag not in (0, 1):
        row.fail("Error Flag", flag, "0 or 1")
    try:
        raw = split_sentences(row.cells["Sentences"])
    except ValueError as error:
        row.fail("Sentences", error, "lines '0 text', '1 text', ...")
    if not raw:
        row.fail("Sentences", "", "lines '0 text', '1 text', ...")
    _check_length(row, "Text", raw)
    if flag == 0:
        _check_clean(row)
        return None
    error_id = row.integer("Error Sentence ID", f"a sentence id from 0 to {len(raw) - 1}")
    if not 0 <= error_id < len(raw):
        row.fail("Error Sentence ID", error_id, f"a sentence id from 0 to {len(raw) - 1}")
    corrected = row.text("Corrected Sentence")
    _check_error_sentence(row, raw, error_id)
    _check_length(row, "Corrected Text", [*raw[:error_id], corrected, *raw[error_id + 1 :]])
    case = Case(
        case_id=row.text_id,
        error_sentences=tuple(mend(sentence) for sentence in raw),
        error_sentence_id=error_id,
        corrected_sentence=mend(corrected),
        error_type=row.text("Error Type"),
        split=split,
    )
    if case.corrected_sentence == case.error_sentence:
        row.fail("Corrected Sentence", corrected, "a sentence that differs from the error sentence")
    return case


def _check_clean(row: Row) -> None:
    if row.integer("Error Sentence ID", "-1, as the row's Error Flag is 0") != -1:
        row.fail(
            "Error Sentence ID", row.cells["Error Sentence ID"], "-1, as the row's Error Flag is 0"
        )
    for field in ("Error Type", "Error Sentence", "Corrected Sentence", "Corrected Text"):
        if row.cells[field].strip() not in ABSENT:
            row.fail(field, row.cells[field], "NA, as the row's Error Flag is 0")


def _check_error_sentence(row: Row, sentences: list[str], error_id: int) -> None:
    annotated = " ".join(row.text("Error Sentence").split())
    if sentences[error_id] == annotated or _alike(sentences[error_id], annotated):
        return
    elsewhere = [str(i) for i, sentence in enumerate(sentences) if _alike(sentence, annotated)]
    where = f"; it is sentence {' and '.join(elsewhere)}" if elsewhere else ""
    row.fail(
        "Error Sentence", annotated, f"sentence {error_id}, {sentences[error_id][:120]!r}{where}"
    )


def _alike(one: str, other: str) -> bool:
    matcher = SequenceMatcher(a=mend(one).casefold(), b=mend(other).casefold(), autojunk=False)
    return matcher.quick_ratio() >= _SAME_SENTENCE and matcher.ratio() >= _SAME_SENTENCE


def _check_length(row: Row, field: str, sentences: list[str]) -> None:
    # The text and its sentences say the same up to white space; only a cell that is cut off is far
    # shorter.
    found, expected = (
        sum(map(len, text.split())) for text in (row.text(field), " ".join(sentences))
    )
    if not expected <= 2 * found <= 4 * expected:
        row.fail(
            field, f"{found} characters", f"about {expected}, as many as the row's sentences hold"
        )
