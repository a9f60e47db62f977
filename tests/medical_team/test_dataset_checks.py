from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medical_team.dataset.checks import verify
from medical_team.dataset.report import Report, token_counter
from medical_team.dataset.rows import DatasetError, parquet_schema
from medical_team.dataset.writer import Conversion, convert
from medical_team.medec import Case

MakeCases = Callable[..., list[Case]]
WriteMedec = Callable[..., Path]
Row = dict[str, Any]
Tamper = Callable[[list[Row]], None]


@pytest.fixture
def folder(write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path) -> Path:
    """A dataset of eight train cases and four val cases."""
    train = write_medec(make_cases(8), name="train.csv")
    val = write_medec(make_cases(4, "val"), name="val.csv")
    convert(Conversion({"train": train, "val": val}), tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def after(folder: Path) -> Callable[[Tamper], Report]:
    """Verifies the train file after its rows were changed."""

    def tampered(change: Tamper) -> Report:
        path = folder / "train.parquet"
        rows = pq.read_table(path).to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, parquet_schema()), path)
        return verify([path])

    return tampered


def first(rows: list[Row], game_type: str) -> Row:
    return next(row for row in rows if row["extra_info"]["game_type"] == game_type)


def show(row: Row, change: Callable[[str], str]) -> None:
    row["prompt"][-1]["content"] = change(row["prompt"][-1]["content"])


def test_a_fresh_dataset_passes(folder: Path) -> None:
    report = verify([folder])
    assert report.problems == report.warnings == []
    train, val = report.files
    assert (train.path.name, train.rows, val.path.name, val.rows) == (
        "train.parquet",
        16,
        "val.parquet",
        8,
    )
    assert set(train.game_types.values()) == {4}
    assert dict(train.error_types) == {"diagnosis": 6, "management": 6, "treatment": 4}
    assert 0 < train.words.smallest <= train.words.largest


def wrong_truth(rows: list[Row]) -> None:
    first(rows, "vanilla_benign")["reward_model"]["ground_truth"] = "error"


def wrong_source(rows: list[Row]) -> None:
    first(rows, "vanilla_benign")["data_source"] = "medec/vanilla_harmful"


def unknown_game(rows: list[Row]) -> None:
    rows[0]["extra_info"]["game_type"] = "easy"


def other_agent(rows: list[Row]) -> None:
    rows[0]["agent_name"] = "single_turn_agent"


def null_case(rows: list[Row]) -> None:
    rows[0]["extra_info"]["case"]["error_sentences"] = None


def trailing_blank(rows: list[Row]) -> None:
    show(first(rows, "vanilla_harmful"), lambda text: text + " ")


def unfolded_case(rows: list[Row]) -> None:
    rows[0]["extra_info"]["case"]["error_sentences"][0] += " "


def names_the_game(rows: list[Row]) -> None:
    show(first(rows, "vanilla_harmful"), lambda text: f"vanilla_harmful\n{text}")


def frame_tells(rows: list[Row]) -> None:
    for row in rows:
        if row["extra_info"]["game_type"] == "vanilla_harmful":
            show(row, lambda text: "Look closely.\n" + text)


def tells_the_correction(rows: list[Row]) -> None:
    row = first(rows, "vanilla_harmful")
    show(row, lambda text: text + "\n" + row["extra_info"]["case"]["corrected_sentence"])


def other_note(rows: list[Row]) -> None:
    row = first(rows, "vanilla_harmful")
    show(row, lambda text: text.replace("wrong", "right"))


def no_change(rows: list[Row]) -> None:
    case = rows[0]["extra_info"]["case"]
    case["corrected_sentence"] = case["error_sentences"][case["error_sentence_id"]]


def one_row_lost(rows: list[Row]) -> None:
    rows.remove(first(rows, "vanilla_benign"))


def one_row_twice(rows: list[Row]) -> None:
    rows.append(json.loads(json.dumps(first(rows, "vanilla_benign"))))


def unbalanced(rows: list[Row]) -> None:
    for row in rows:
        if row["extra_info"]["game_type"] == "vanilla_benign":
            row["extra_info"]["game_type"] = "adversarial_benign"


def id_used_twice(rows: list[Row]) -> None:
    for row in rows[1:]:
        row["extra_info"]["case"]["case_id"] = rows[0]["extra_info"]["case"]["case_id"]


def all_lost(rows: list[Row]) -> None:
    rows.clear()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (wrong_truth, "ground_truth is 'error', expected 'no_error'"),
        (wrong_source, "data_source is 'medec/vanilla_harmful', expected 'medec/vanilla_benign'"),
        (unknown_game, "row 0: game_type is 'easy'"),
        (other_agent, "row 0: agent_name is 'single_turn_agent'"),
        (null_case, "row 0: extra_info.case.error_sentences is null"),
        (trailing_blank, "trailing white space"),
        (unfolded_case, "white space is not folded"),
        (names_the_game, "names the game type 'vanilla_harmful'"),
        (frame_tells, "gives the class away: error notes only"),
        (tells_the_correction, "gives the class away: error notes only"),
        (other_note, "does not show the row's own note"),
        (no_change, "the corrected sentence is the error sentence"),
        (one_row_lost, "has no row of its clean note"),
        (one_row_twice, "a second row of the clean note"),
        (one_row_twice, "the same prompt of the same case"),
        (unbalanced, "vanilla_benign 0, adversarial_benign 8"),
        (id_used_twice, "is another case in row 0"),
        (all_lost, "no rows"),
    ],
)
def test_a_spoilt_row_is_found_and_named(
    after: Callable[[Tamper], Report], change: Tamper, told: str
) -> None:
    problems = after(change).problems
    assert any(told in problem for problem in problems), problems
    assert all("train.parquet" in problem for problem in problems)


def test_a_changed_file_is_not_the_one_of_the_manifest(
    after: Callable[[Tamper], Report], folder: Path
) -> None:
    after(lambda rows: rows.reverse())
    assert any("sha256 differs" in problem for problem in verify([folder]).problems)


def test_a_lost_file_is_missed(folder: Path) -> None:
    (folder / "val.parquet").unlink()
    assert verify([folder]).problems == [
        f"{folder / 'val.parquet'}: missing, manifest.json names it; convert the data again"
    ]


def test_another_schema_is_described(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "answer": ["b"]}), path)
    (problem,) = verify([path]).problems
    assert "data_source is missing" in problem
    assert "answer is unexpected" in problem
    assert "prompt is string, expected list<" in problem


def test_a_truncated_parquet_file_is_a_problem(folder: Path) -> None:
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:2000])
    (problem,) = verify([path]).problems
    assert "train.parquet: cannot be read as Parquet" in problem


def test_paths_without_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        verify([tmp_path / "none"])
    with pytest.raises(DatasetError, match=r"no \*\.parquet in it"):
        verify([tmp_path])


def test_a_case_in_two_splits_is_a_problem(
    write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    cases = make_cases(6)
    renamed = [replace(case, case_id="other-" + case.case_id) for case in cases[:2]]
    train = write_medec(cases, name="train.csv")
    val = write_medec(renamed, name="val.csv")
    convert(Conversion({"train": train, "val": val}), tmp_path / "data")
    problems = verify([tmp_path / "data"]).problems
    assert sum("is in" in problem and problem.endswith("too") for problem in problems) == 2


def long_case(case_id: str, age: int, split: str) -> Case:
    note = f"A {age}-year-old woman has had a dry cough and a low fever for about three weeks now."
    more = "She takes no drugs and does not smoke, and her chest is clear on both sides."
    bad = "She is given penicillin."
    return Case(case_id, (note, more, bad), 2, "She is given doxycycline.", "treatment", split)


def test_near_duplicates_across_files_are_warnings_only(
    write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    train = write_medec([*make_cases(6), long_case("a", 40, "train")], name="train.csv")
    val = write_medec([*make_cases(3, "val"), long_case("b", 41, "val")], name="val.csv")
    convert(Conversion({"train": train, "val": val}), tmp_path / "data")
    report = verify([tmp_path / "data"])
    assert report.problems == []
    (warning,) = report.warnings
    assert "near-duplicate" in warning
    assert "case a" in warning
    assert "case b" in warning
    assert sum(file.near_duplicates for file in report.files) == 1


def test_a_pair_that_differs_in_letter_case_only_is_a_warning(
    write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    case, *others = make_cases(4)
    case = replace(case, corrected_sentence=case.error_sentence.upper())
    convert(Conversion({"train": write_medec([case, *others])}, val_fraction=0), tmp_path / "data")
    report = verify([tmp_path / "data"])
    assert report.problems == []
    assert ["letter case only" in warning for warning in report.warnings] == [True]


def test_two_errors_made_in_one_note_are_a_warning(
    write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    cases = [long_case("a", 40, "train"), long_case("b", 40, "train")]
    cases[1] = replace(
        cases[1],
        error_sentences=(*cases[1].error_sentences[:2], "She is given aspirin."),
    )
    data = tmp_path / "data"
    convert(Conversion({"train": write_medec(cases)}, val_fraction=0, seed=1), data)
    report = verify([data])
    assert report.problems == []
    for warning in report.warnings:
        assert "has the prompt of another case" in warning


def test_rows_over_the_prompt_limit_are_named(folder: Path) -> None:
    def words(messages: list[dict[str, str]]) -> int:
        return sum(len(message["content"].split()) for message in messages)

    train = folder / "train.parquet"
    longest = verify([train], words).files[0].tokens.largest
    assert verify([train], words, longest).problems == []
    (problem, *_) = verify([train], words, longest - 1).problems
    assert f"the prompt has {longest} tokens, the limit is {longest - 1}" in problem
    assert "train.parquet, row " in problem


def test_a_prompt_limit_needs_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="give --tokenizer DIR"):
        verify([folder], None, 100)
    with pytest.raises(DatasetError, match="expected one with a tokenizer"):
        token_counter(tmp_path / "none")
    with pytest.raises(DatasetError, match="no tokenizer can be loaded"):
        token_counter(tmp_path)
