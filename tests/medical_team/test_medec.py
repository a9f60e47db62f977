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

from medical_team.medec import (
    COLUMNS,
    Case,
    Findings,
    MedecError,
    mend,
    read_medec,
    split_sentences,
)

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
MakeCases = Callable[..., list[Case]]

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


def test_a_sentence_without_text_counts_but_at_the_end() -> None:
    assert split_sentences("0 One.\n1 Two.\n2 \n") == ["One.", "Two."]
    assert split_sentences("0 One.\n1\n2 Three.") == ["One.", "", "Three."]


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


@pytest.mark.parametrize("correction", ["He is given azithromycin.", "He is given A, 500 mg."])
def test_a_file_cut_off_anywhere_in_its_last_row_is_refused(
    write_medec: WriteMedec, make_cases: MakeCases, correction: str
) -> None:
    # A correction with a comma makes the last field a quoted one.
    path = write_medec([*make_cases(40), replace(CASE, corrected_sentence=correction)])
    data = path.read_bytes().rstrip()
    for end in range(data.rindex(b"ms-1") + 1, len(data)):
        path.write_bytes(data[:end])
        message = message_of(path)
        assert "row 42" in message, message
    path.write_bytes(data)
    assert len(list(read_medec(path, "val"))) == 41


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("Error Flag", "2", "expected 0 or 1"),
        ("Error Flag", "yes", "expected 0 or 1"),
        ("Sentences", "A man has a cough.", "does not begin with '0 '"),
        ("Sentences", "", "no sentence with text"),
        ("Sentences", "0 \n1 ", "no sentence with text"),
        ("Text ID", "", "expected an id"),
    ],
)
@pytest.mark.parametrize("flag", ["0", "1"])
def test_a_row_that_breaks_the_format_stops_the_reading(
    write_medec: WriteMedec,
    to_row: ToRow,
    make_cases: MakeCases,
    field: str,
    value: str,
    expected: str,
    flag: str,
) -> None:
    broken = {**to_row(CASE), "Error Flag": flag, field: value}
    message = message_of(write_medec(make_cases(40), rows=[broken]))
    assert "medec.csv, row 42 (line 122," in message
    assert "Text ID " + ("missing" if field == "Text ID" else "ms-1") in message
    assert f"field {field!r}" in message
    assert expected in message


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("Error Sentence ID", "3", "a sentence id from 0 to 2"),
        ("Error Sentence ID", "-1", "a sentence id from 0 to 2"),
        ("Error Sentence ID", "NA", "a sentence id from 0 to 2"),
        ("Error Sentence", "Nothing of this note.", "sentence 2, 'He is given penicillin.'"),
        ("Error Sentence", "", "expected text"),
        ("Corrected Sentence", "NA", "expected text"),
        ("Corrected Sentence", " ", "expected text"),
        ("Corrected Sentence", "He is\tgiven  penicillin. ", "differs from the error sentence"),
        ("Error Type", "NA", "expected text"),
    ],
)
def test_an_error_row_with_a_wrong_annotation_is_left_out_with_one_warning(
    write_medec: WriteMedec,
    to_row: ToRow,
    make_cases: MakeCases,
    caplog: pytest.LogCaptureFixture,
    field: str,
    value: str,
    expected: str,
) -> None:
    others, findings = make_cases(40), Findings()
    path = write_medec(others, rows=[{**to_row(CASE), field: value}])
    assert list(read_medec(path, "train", findings)) == others
    assert list(findings.left_out) == ["ms-1"]
    assert not findings.mended
    (message,) = caplog.messages
    assert message.startswith(f"left out: {path}, row 42 (line 122, Text ID ms-1), field {field!r}")
    assert expected in message
    assert "\n" not in message


def test_a_wrong_id_is_mended_where_one_other_sentence_is_the_error_sentence(
    write_medec: WriteMedec, to_row: ToRow, caplog: pytest.LogCaptureFixture
) -> None:
    row = {**to_row(CASE), "Error Sentence ID": "1", "Error Sentence": "He is  given penicillin. "}
    path, findings = write_medec(rows=[row]), Findings()
    assert list(read_medec(path, "val", findings)) == [CASE]
    assert list(findings.mended) == ["ms-1"]
    assert not findings.left_out
    (message,) = caplog.messages
    assert message.startswith(f"mended: {path}, row 2 (line 2, Text ID ms-1)")
    assert "found 1, but the error sentence is sentence 2" in message


def test_an_equal_sentence_elsewhere_is_taken_before_an_alike_one_at_the_id(
    write_medec: WriteMedec, to_row: ToRow
) -> None:
    sentences = ("Pulse is 90/min, regular.", "Pulse is 95/min, regular.")
    case = Case("ms-1", sentences, 1, "Pulse is 59/min, regular.", "diagnosis", "val")
    path = write_medec(rows=[{**to_row(case), "Error Sentence ID": "0"}])
    assert list(read_medec(path, "val")) == [case]


def test_a_wrong_id_is_not_guessed_where_two_sentences_are_the_error_sentence(
    write_medec: WriteMedec, to_row: ToRow, make_cases: MakeCases
) -> None:
    twice = replace(CASE, error_sentences=("No fever.", "Well.", "No fever."))
    row, findings = {**to_row(twice), "Error Sentence ID": "1"}, Findings()
    path = write_medec(make_cases(40), rows=[row])
    assert len(list(read_medec(path, "val", findings))) == 40
    assert list(findings.left_out) == ["ms-1"]
    kept = write_medec(rows=[to_row(twice)])
    assert list(read_medec(kept, "val")) == [twice]


def test_an_empty_sentence_in_the_middle_keeps_the_ids(
    write_medec: WriteMedec, to_row: ToRow
) -> None:
    case = replace(CASE, error_sentences=("A man has a cough.", "", "He is given penicillin."))
    assert list(read_medec(write_medec(rows=[to_row(case)]), "val")) == [case]


@pytest.mark.parametrize(("wrong", "refused"), [(2, False), (3, True)])
def test_more_than_one_wrong_annotation_in_twenty_refuses_the_file(
    write_medec: WriteMedec, to_row: ToRow, make_cases: MakeCases, wrong: int, refused: bool
) -> None:
    rows = [to_row(case) for case in make_cases(40)]
    for row in rows[:wrong]:
        row["Corrected Sentence"] = "NA"
    path = write_medec(rows=rows)
    if not refused:
        assert len(list(read_medec(path, "train"))) == 40 - wrong
        return
    message = message_of(path)
    assert f"{path}: 3 of 40 error rows have a wrong annotation, expected at most 5%" in message
    assert "probably not MEDEC's or is damaged" in message
    assert [f"Text ID train-{i})" in message for i in range(3)] == [True] * 3


def test_a_refused_file_names_three_rows_and_logs_none(
    write_medec: WriteMedec,
    to_row: ToRow,
    make_cases: MakeCases,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [{**to_row(case), "Error Sentence ID": "9"} for case in make_cases(40)]
    message = message_of(write_medec(rows=rows))
    assert len(message.splitlines()) == 4
    assert not caplog.messages


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Error Sentence ID", "none"),
        ("Error Sentence", "A man"),
        ("Corrected Text", "N"),
        ("Error Type", "diagnosis"),
        ("Text", ""),
    ],
)
def test_stray_fields_of_a_clean_row_are_ignored(
    write_medec: WriteMedec,
    to_clean_row: ToCleanRow,
    caplog: pytest.LogCaptureFixture,
    field: str,
    value: str,
) -> None:
    path = write_medec([CASE], rows=[{**to_clean_row("ms-2", ["Fine."]), field: value}])
    assert list(read_medec(path, "val")) == [CASE]
    assert not caplog.messages


def test_a_slip_of_typing_in_the_annotated_sentence_is_no_error(
    write_medec: WriteMedec, to_row: ToRow, caplog: pytest.LogCaptureFixture
) -> None:
    row = {**to_row(CASE), "Error Sentence": " He is given Penicillin"}
    assert list(read_medec(write_medec(rows=[row]), "val")) == [CASE]
    assert not caplog.messages


def test_the_whole_notes_of_an_error_row_need_not_repeat_its_sentences(
    write_medec: WriteMedec, to_row: ToRow
) -> None:
    row = {**to_row(CASE), "Text": "", "Corrected Text": "A man"}
    assert list(read_medec(write_medec(rows=[row]), "val")) == [CASE]


def test_a_repeated_id_names_both_rows(write_medec: WriteMedec) -> None:
    message = message_of(write_medec([CASE, replace(CASE, case_id="ms-2"), CASE]))
    assert "row 4" in message
    assert "row 2 has it already" in message


def test_a_row_with_an_unquoted_comma_is_refused(write_medec: WriteMedec) -> None:
    path = write_medec([CASE])
    path.write_text(path.read_text(encoding="utf-8").replace("ms-1,", "ms-1,x,"), encoding="utf-8")
    assert "row 2 (line 2): 10 fields, expected 9" in message_of(path)


def test_reading_holds_one_row_at_a_time(write_medec: WriteMedec, make_cases: MakeCases) -> None:
    path = write_medec(make_cases(4000))
    tracemalloc.start()
    count = sum(1 for _ in read_medec(path, "train"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4000
    assert peak < path.stat().st_size


def test_the_real_validation_file_gives_its_319_cases(medec_validation: Path) -> None:
    findings = Findings()
    found = list(read_medec(medec_validation, "val", findings))
    assert findings == Findings()
    assert Counter(case.error_type for case in found) == {
        "management": 168,
        "diagnosis": 86,
        "pharmacotherapy": 27,
        "treatment": 25,
        "causalOrganism": 13,
    }
    assert sum(case.error_sentence_id == len(case.error_sentences) - 1 for case in found) == 197
    assert not any(mark in case.error_note for case in found for mark in ("â", "Î", "Ë", "œ"))
