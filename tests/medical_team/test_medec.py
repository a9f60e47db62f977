from __future__ import annotations

import csv
import io
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medical_team.medec import COLUMNS, Case, MedecError, mend, read_medec, split_sentences

CASE = Case(
    case_id="ms-1",
    error_sentences=("A man has a cough.", "Pulse is 90/min.", "He is given penicillin."),
    error_sentence_id=2,
    corrected_sentence="He is given azithromycin.",
    error_type="treatment",
    split="val",
)
Row = dict[str, str]
ToRow = Callable[[Case], Row]
ToCleanRow = Callable[[str, Sequence[str]], Row]
WriteMedec = Callable[..., Path]

words = st.text(alphabet="abcXYZ,;\"'().%/-0123456789", min_size=1, max_size=8)
letters = st.text(alphabet="abcdefXYZ", min_size=1, max_size=8)
sentence = st.builds(
    lambda first, rest: " ".join([first, *rest]), letters, st.lists(words, max_size=8)
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sentences = draw(st.lists(sentence, min_size=1, max_size=14))
    at = draw(st.integers(0, len(sentences) - 1))
    return Case("id-1", tuple(sentences), at, draw(sentence) + " zzz", "diagnosis", "train")


def message_of(path: Path) -> str:
    with pytest.raises(MedecError) as caught:
        list(read_medec(path, "val"))
    return str(caught.value)


def test_reads_an_error_row_as_a_case(write_medec: WriteMedec) -> None:
    assert list(read_medec(write_medec([CASE]), "val")) == [CASE]


def test_a_clean_row_gives_no_case(write_medec: WriteMedec, to_clean_row: ToCleanRow) -> None:
    path = write_medec([CASE], rows=[to_clean_row("ms-2", ["A man is well."])])
    assert [case.case_id for case in read_medec(path, "val")] == ["ms-1"]


def test_columns_may_stand_in_another_order(write_medec: WriteMedec) -> None:
    assert list(read_medec(write_medec([CASE], columns=COLUMNS[::-1]), "val")) == [CASE]


def test_accepts_a_byte_order_mark(write_medec: WriteMedec) -> None:
    path = write_medec([CASE])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(read_medec(path, "val")) == [CASE]


def test_blank_tail_rows_and_float_integers_are_read(
    write_medec: WriteMedec, to_row: ToRow, to_clean_row: ToCleanRow
) -> None:
    row = {**to_row(CASE), "Error Flag": "1.0", "Error Sentence ID": "2.0"}
    clean = {**to_clean_row("ms-2", ["Fine."]), "Error Flag": "0.0", "Error Sentence ID": "-1.0"}
    path = write_medec(rows=[row, clean, *[dict.fromkeys(COLUMNS, "")] * 300])
    assert list(read_medec(path, "val")) == [CASE]


def test_line_breaks_in_fields_are_folded(write_medec: WriteMedec, to_row: ToRow) -> None:
    row = to_row(CASE)
    for field in ("Text", "Sentences", "Corrected Sentence", "Corrected Text"):
        row[field] = row[field].replace("\n", "\r\n").replace("He is", "He\r\nis ")
    assert list(read_medec(write_medec(rows=[row]), "val")) == [CASE]


def test_wrapped_and_digit_led_sentences_keep_their_ids() -> None:
    text = "0 Labs:\nNa+ 137 mEq/L\n\n1 106/min is fast.\n2 3 days ago\n 120 mg were given.\n3 Ok."
    assert split_sentences(text) == [
        "Labs: Na+ 137 mEq/L",
        "106/min is fast.",
        "3 days ago 120 mg were given.",
        "Ok.",
    ]


def test_a_sentence_without_text_is_not_guessed() -> None:
    assert split_sentences("0 One.\n1 Two.\n2 \n") == ["One.", "Two."]
    with pytest.raises(ValueError, match="sentence 1 has no text"):
        split_sentences("0 One.\n1\n2 Three.")


@given(st.lists(sentence, min_size=1, max_size=30), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_splitting_inverts_numbering(sentences: list[str], newline: str) -> None:
    text = newline.join(f"{i} {text}" for i, text in enumerate(sentences))
    assert split_sentences(text) == sentences


@given(case=cases(), newline=st.sampled_from(["\n", "\r\n"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_case_survives_the_csv_round_trip(
    case: Case, newline: str, tmp_path: Path, to_row: ToRow
) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator=newline)
    writer.writeheader()
    writer.writerow(to_row(case))
    path = tmp_path / "round.csv"
    path.write_bytes(buffer.getvalue().encode())
    assert list(read_medec(path, "train")) == [case]


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("15 Î¼mol/L", "15 μmol/L"),
        ("â‰¥ 500", "≥ 500"),
        ("â€œfeeling downâ€\x9d", '"feeling down"'),
        ("37ËšC", "37°C"),
        ("p &lt; 0.05, β", "p &lt; 0.05, β"),
        (" a \u00a0b\t\r\nc ", "a b c"),
    ],
)
def test_double_encoded_text_is_mended(broken: str, whole: str) -> None:
    assert mend(broken) == whole


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    message = message_of(tmp_path / "none.csv")
    assert "none.csv" in message
    assert "No such file" in message


def test_an_empty_file_is_told_from_one_without_cases(
    tmp_path: Path, write_medec: WriteMedec
) -> None:
    (tmp_path / "empty.csv").touch()
    assert "is empty" in message_of(tmp_path / "empty.csv")
    assert list(read_medec(write_medec(), "val")) == []


def test_wrong_columns_are_listed(write_medec: WriteMedec) -> None:
    columns = [name for name in COLUMNS if name != "Error Flag"] + ["Flag"]
    message = message_of(write_medec([CASE], columns=columns))
    assert "missing: 'Error Flag'" in message
    assert "unexpected: 'Flag'" in message
    assert "given twice: 'Text'" in message_of(write_medec([CASE], columns=[*COLUMNS, "Text"]))


def test_a_latin_1_file_is_refused_with_byte_row_and_remedy(write_medec: WriteMedec) -> None:
    other = replace(CASE, case_id="ms-2", corrected_sentence="He has a café au lait spot.")
    path = write_medec([CASE, other])
    data = path.read_text(encoding="utf-8").encode("latin-1")
    path.write_bytes(data)
    message = message_of(path)
    assert f"byte {data.index(0xE9)} is 0xe9" in message
    assert "row 3" in message
    assert "iconv -f WINDOWS-1252 -t UTF-8" in message


def test_a_utf_16_file_is_refused_as_such(write_medec: WriteMedec) -> None:
    path = write_medec([CASE])
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-16")
    assert "iconv -f UTF-16" in message_of(path)


def test_a_file_cut_off_anywhere_in_its_last_row_is_refused(
    write_medec: WriteMedec, to_row: ToRow
) -> None:
    quoted = replace(CASE, corrected_sentence="He is given azithromycin, 500 mg.")
    path = write_medec([replace(CASE, case_id="ms-0"), quoted])
    data = path.read_bytes().rstrip()
    start = data.rindex(b"ms-1")
    # The last five bytes are left out: without them the last field is still plausible text.
    for end in range(start + 1, len(data) - 40, 7):
        path.write_bytes(data[:end])
        message = message_of(path)
        assert "row 3" in message, message


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("Error Flag", "2", "expected 0 or 1"),
        ("Error Flag", "yes", "expected 0 or 1"),
        ("Error Sentence ID", "3", "a sentence id from 0 to 2"),
        ("Error Sentence ID", "-1", "a sentence id from 0 to 2"),
        ("Error Sentence ID", "NA", "a sentence id from 0 to 2"),
        ("Error Sentence ID", "1", "it is sentence 2"),
        ("Error Sentence", "Nothing of this note.", "sentence 2, 'He is given penicillin.'"),
        ("Corrected Sentence", "NA", "expected text"),
        ("Corrected Sentence", "", "expected text"),
        ("Corrected Sentence", "He is given  penicillin. ", "differs from the error sentence"),
        ("Corrected Text", "", "expected text"),
        ("Corrected Text", "A man", "as many as the row's sentences hold"),
        ("Text", "A man", "as many as the row's sentences hold"),
        ("Error Type", "NA", "expected text"),
        ("Sentences", "A man has a cough.", "does not begin with '0 '"),
        ("Sentences", "", "'0 text'"),
        ("Text ID", "", "expected an id"),
    ],
)
def test_a_wrong_field_of_an_error_row_is_named(
    write_medec: WriteMedec, to_row: ToRow, field: str, value: str, expected: str
) -> None:
    message = message_of(write_medec(rows=[{**to_row(CASE), field: value}]))
    assert "medec.csv, row 2" in message
    assert expected in message
    assert "Text ID " + ("missing" if field == "Text ID" else "ms-1") in message
    assert field in message or field == "Error Sentence ID"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Error Sentence ID", "2"),
        ("Error Sentence", "A man"),
        ("Corrected Text", "N"),
        ("Error Type", "diagnosis"),
    ],
)
def test_a_clean_row_with_an_error_field_is_refused(
    write_medec: WriteMedec, to_clean_row: ToCleanRow, field: str, value: str
) -> None:
    message = message_of(write_medec(rows=[{**to_clean_row("ms-2", ["Fine."]), field: value}]))
    assert f"field {field!r}" in message
    assert "row 2" in message


def test_a_slip_of_typing_in_the_annotated_sentence_is_no_error(
    write_medec: WriteMedec, to_row: ToRow
) -> None:
    row = {**to_row(CASE), "Error Sentence": " He is given Penicillin"}
    assert list(read_medec(write_medec(rows=[row]), "val")) == [CASE]


def test_a_repeated_id_names_both_rows(write_medec: WriteMedec) -> None:
    message = message_of(write_medec([CASE, replace(CASE, case_id="ms-2"), CASE]))
    assert "row 4" in message
    assert "row 2 has it already" in message


def test_a_row_with_an_unquoted_comma_is_refused(write_medec: WriteMedec) -> None:
    path = write_medec([CASE])
    path.write_text(path.read_text(encoding="utf-8").replace("ms-1,", "ms-1,x,"), encoding="utf-8")
    assert "row 2 (line 2): 10 fields, expected 9" in message_of(path)


def test_reading_holds_one_row_at_a_time(
    write_medec: WriteMedec, make_cases: Callable[[int], list[Case]]
) -> None:
    path = write_medec(make_cases(4000))
    tracemalloc.start()
    count = sum(1 for _ in read_medec(path, "train"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4000
    assert peak < path.stat().st_size


def test_the_real_validation_file_gives_its_319_cases(medec_validation: Path) -> None:
    found = list(read_medec(medec_validation, "val"))
    assert Counter(case.error_type for case in found) == {
        "management": 168,
        "diagnosis": 86,
        "pharmacotherapy": 27,
        "treatment": 25,
        "causalOrganism": 13,
    }
    assert sum(case.error_sentence_id == len(case.error_sentences) - 1 for case in found) == 197
    assert not any(mark in case.error_note for case in found for mark in ("â", "Î", "Ë", "œ"))
