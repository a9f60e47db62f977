"""How a plain note becomes sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_team.evaluation.errors import EvaluationError
from medical_team.evaluation.plain_note import PlainNote, plain_note


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He is ill. He has fever!\nSince when? Today", 4),
        ("Dr. Smith saw him at 3 a.m. on Monday. He took 5 mg. twice.", 2),
        ("He took 5 mg. She took none.", 2),
        ("He woke at 3 a.m. His pulse was 90.", 2),
        ("Seen by J. R. Miller, e.g. Monday. Temp. 38.5 °C, BP 120/80 mmHg.", 2),
        ("Temperature is 37.6 C. He is well.", 2),
        ("He was ill vs. well. (He said so.) End.", 3),
        ("He has hepatitis C. He received ledipasvir.", 2),
        ("Hepatitis C. He received ledipasvir.", 2),
        ("He takes vitamin D. Calcium is normal.", 2),
        ("Seen by J. Miller. John F. Kennedy came. J. R. R. Tolkien too.", 3),
        ("BP 120/80\nHR 88\nTemp 38", 3),
        ("- Fever. Cough\n- Rash", 3),
        ("He has had fever and\ncough for three\ndays", 1),
        ("He was seen in Boston by\nDr. Miller on Monday.", 1),
        ("No stop at the end\n\nA heading\n\nText.", 3),
    ],
)
def test_plain_text_is_cut_at_the_ends_of_sentences(text: str, sentences: int) -> None:
    assert len(plain_note(text).sentences) == sentences


@pytest.mark.parametrize(
    "lines", ["0 One. Two.\n1 Three", "1. One. Two.\n2. Three", "0) One. Two.\n\n1) Three"]
)
def test_numbered_lines_are_taken_as_they_stand(lines: str) -> None:
    assert plain_note(lines).sentences == ("One. Two.", "Three")


def test_lines_that_only_begin_with_figures_are_text() -> None:
    found = plain_note("38 years old. Male.\n90 kg he weighs. Ill.").sentences
    assert found == ("38 years old.", "Male.", "90 kg he weighs.", "Ill.")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("History:\n1. Fever\n2. Cough", ("History:", "1. Fever", "2. Cough")),
        ("1. Aspirin 81 mg\n2. Iron\n4. Zinc", ("1. Aspirin 81 mg", "2. Iron", "4. Zinc")),
        ("5. Fever\n6. Cough", ("5. Fever", "6. Cough")),
        ("He is ill. 1. Fever. 2. Cough.", ("He is ill.", "1. Fever.", "2. Cough.")),
        ("His score was 5. He left.", ("His score was 5.", "He left.")),
    ],
)
def test_the_number_of_an_item_stays_with_it(text: str, sentences: tuple[str, ...]) -> None:
    assert plain_note(text) == PlainNote(sentences)


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_a_note_without_text_is_refused(text: str) -> None:
    with pytest.raises(EvaluationError, match="the note is empty"):
        plain_note(text)


@given(st.text(alphabet="Ab. ?!\n1", max_size=60).filter(str.strip))
def test_no_word_is_lost(text: str) -> None:
    if any(line.strip()[:1].isdigit() for line in text.splitlines()):
        return
    assert " ".join(plain_note(text).sentences).split() == text.split()


@pytest.mark.parametrize(
    ("text", "sentences", "first"),
    [
        ("0 A 61-year-old man.", ("A 61-year-old man.",), 0),
        ("1. A man.", ("A man.",), 1),
        ("1 week of fever.", ("1 week of fever.",), 0),
        ("1. One.\n2. Two.", ("One.", "Two."), 1),
        ("0. One.\n1. Two.", ("One.", "Two."), 0),
        ("One. Two.", ("One.", "Two."), 0),
    ],
)
def test_the_authors_numbers_are_taken_off_and_remembered(
    text: str, sentences: tuple[str, ...], first: int
) -> None:
    assert plain_note(text) == PlainNote(sentences, first)
