"""Supervised games: true to the data, playable by the rules, and no truth told by a prompt."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_team.answers import Classification, parse_assessment, parse_edit, parse_response
from medical_team.dataset.rows import SPLITS, DatasetError
from medical_team.dataset.supervised import SupervisedSet, write_supervised
from medical_team.dataset.worked_turns import Task, changed_words, gold_turns
from medical_team.dataset.writer import Conversion, convert
from medical_team.medec import Case, read_medec
from medical_team.prompts import PromptStyle
from medical_team.sample_world.notes import wrong_facts
from medical_team.sample_world.supervised import case_turns

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample"
SAMPLE_FILES = {split: SAMPLE / f"{split}.csv" for split in SPLITS}
MakeCases = Callable[..., list[Case]]
WriteMedec = Callable[..., Path]

words = st.lists(st.text("abcd", min_size=1, max_size=3), min_size=1, max_size=6).map(" ".join)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def answer_of(row: dict[str, Any]) -> str:
    return parse_response(row["messages"][-1]["content"], think_opened=False).answer


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_supervised(SupervisedSet(SAMPLE_FILES, PromptStyle.COMPACT), folder)
    return folder


@given(words, words)
def test_changed_words_are_a_part_of_each_sentence_and_never_empty(before: str, after: str) -> None:
    if before == after:
        with pytest.raises(ValueError, match="same words"):
            changed_words(before, after)
        return
    old, new = changed_words(before, after)
    assert old
    assert new
    assert old != new
    # Put in place of the old words somewhere, the new ones give the other sentence.
    one, part, put = before.split(), old.split(), new.split()
    assert any(
        one[i : i + len(part)] == part and [*one[:i], *put, *one[i + len(part) :]] == after.split()
        for i in range(len(one))
    )


def test_changed_words_reach_from_the_first_to_the_last_difference() -> None:
    assert changed_words("He gets 5 mg warfarin daily.", "He gets 2 mg heparin daily.") == (
        "5 mg warfarin",
        "2 mg heparin",
    )
    assert changed_words("He gets warfarin.", "He never gets warfarin.") == ("He", "He never")
    assert changed_words("Give it now.", "Now give it now.") == ("Give", "Now give")


def test_a_gold_pair_gives_both_notes_and_the_injection_and_invents_no_second_error(
    make_cases: MakeCases,
) -> None:
    case = make_cases(3)[2]
    error, clean, inject = gold_turns(case, PromptStyle.FULL)
    assert [turn.task for turn in (error, clean, inject)] == [
        Task.ASSESS,
        Task.ASSESS,
        Task.INJECT,
    ]
    found = parse_assessment(parse_response(error.response, think_opened=True).answer, 3)
    assert found.sentence_id == 2
    assert found.correction == case.corrected_sentence
    passed = parse_assessment(parse_response(clean.response, think_opened=True).answer, 3)
    assert passed.classification is Classification.SAFE
    edit = parse_edit(parse_response(inject.response, think_opened=True).answer, 3)
    assert (edit.sentence_id, edit.rewrite) == (2, case.error_sentence)
    for turn in (error, inject):
        assert '"wrong-train-2."' in turn.response
        assert '"right-train-2."' in turn.response
        assert "(treatment)" in turn.response


@pytest.mark.parametrize("style", PromptStyle)
def test_an_assessors_prompt_tells_nothing_of_the_truth(
    style: PromptStyle, make_cases: MakeCases
) -> None:
    sample = [case for split in SPLITS for case in read_medec(SAMPLE_FILES[split], split)]
    for case in [*make_cases(6), *sample]:
        turns = case_turns(case, style, random.Random(0)) or gold_turns(case, style)
        error, clean = (turn.messages for turn in turns[:2])
        assert [turn.task for turn in turns[:2]] == [Task.ASSESS] * 2
        at = case.error_sentence_id
        one, other = f"{at}. {case.error_sentence}", f"{at}. {case.corrected_sentence}"
        assert [m["role"] for m in error] == [m["role"] for m in clean]
        for shown, expected in zip(error, clean, strict=True):
            lines = [other if line == one else line for line in shown["content"].split("\n")]
            assert "\n".join(lines) == expected["content"]
        assert error != clean


def test_no_prompt_of_the_two_truths_differs_but_in_the_annotated_sentence_of_medec(
    medec_validation: Path,
) -> None:
    for case in read_medec(medec_validation, "val"):
        error, clean, _ = (
            turn.messages[-1]["content"] for turn in gold_turns(case, PromptStyle.FULL)
        )
        pairs = zip(error.split("\n"), clean.split("\n"), strict=True)
        differing = [i for i, (one, other) in enumerate(pairs) if one != other]
        # The first line is the heading.
        assert differing == [case.error_sentence_id + 1]


def test_every_medec_case_gives_three_turns_that_the_rules_accept(
    medec_validation: Path, tmp_path: Path
) -> None:
    manifest = write_supervised(SupervisedSet({"val": medec_validation}), tmp_path / "out")
    file = manifest["files"]["val.parquet"]
    assert file["tasks"] == {"assess": 638, "inject": 319}
    assert file["reasoning"] == {"gold pair": 957}
    assert file["left_out"] == {}


def test_sample_cases_are_answered_fact_by_fact_and_hidden_errors_are_errors(sample: Path) -> None:
    for split in SPLITS:
        cases = {case.case_id: case for case in read_medec(SAMPLE_FILES[split], split)}
        rows = rows_of(sample / f"{split}.parquet")
        assert len(rows) == 4 * len(cases)
        for row in rows:
            case = cases[row["extra_info"]["case_id"]]
            assert row["messages"][-1]["content"].startswith("<think>\nfinding ")
            note = list(case.error_sentences)
            if row["extra_info"]["task"] == Task.HIDE:
                edit = parse_edit(answer_of(row), len(note))
                assert edit.sentence_id == case.error_sentence_id
                assert edit.rewrite not in (case.error_sentence, case.corrected_sentence)
                note[edit.sentence_id] = edit.rewrite
                assert list((wrong_facts(note) or {}).values()) == [edit.sentence_id]


def test_a_case_that_the_table_does_not_decide_is_answered_from_its_pair(
    make_cases: MakeCases,
) -> None:
    known = next(read_medec(SAMPLE_FILES["train"], "train"))
    at = known.error_sentence_id
    reworded = Case(
        known.case_id,
        known.error_sentences,
        at,
        known.corrected_sentence.replace(".", " today."),
        known.error_type,
        known.split,
    )
    braced = Case(
        known.case_id,
        (*known.error_sentences, "A {drug} was noted."),
        at,
        known.corrected_sentence,
        known.error_type,
        known.split,
    )
    assert case_turns(known, PromptStyle.COMPACT, random.Random(0)) is not None
    for case in (reworded, braced, make_cases(1)[0]):
        assert case_turns(case, PromptStyle.COMPACT, random.Random(0)) is None


def test_control_text_of_a_note_is_neutralised_or_its_row_left_out(
    write_medec: WriteMedec, tmp_path: Path
) -> None:
    sentences = ("A man has a cough.", "He gets <|im_end|> warfarin </think> daily.")
    case = Case("x", sentences, 1, "He gets <answer> heparin daily.", "treatment", "train")
    source = write_medec([case])
    write_supervised(SupervisedSet({"train": source}), tmp_path / "out")
    for row in rows_of(tmp_path / "out" / "train.parquet"):
        assert answer_of(row)
        assert "<|im_end|>" not in json.dumps(row["messages"])


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_hidden_errors(
    sample: Path, tmp_path: Path
) -> None:
    for seed in (0, 1):
        games = SupervisedSet(SAMPLE_FILES, PromptStyle.COMPACT, seed)
        write_supervised(games, tmp_path / str(seed))
    first, again, other = (
        (folder / "train.parquet").read_bytes()
        for folder in (sample, tmp_path / "0", tmp_path / "1")
    )
    assert first == again
    assert first != other


def test_a_case_of_two_splits_is_kept_by_the_held_out_one(
    write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    cases = make_cases(6)
    train, val = write_medec(cases, name="a.csv"), write_medec(cases[4:], name="b.csv")
    manifest = write_supervised(SupervisedSet({"train": train, "val": val}), tmp_path / "out")
    assert manifest["files"]["train.parquet"]["left_out"] == {"case of val too": 2}
    ids = {
        split: {
            row["extra_info"]["case_id"] for row in rows_of(tmp_path / "out" / f"{split}.parquet")
        }
        for split in ("train", "val")
    }
    assert ids["val"] == {case.case_id for case in cases[4:]}
    assert not ids["train"] & ids["val"]


def test_converted_data_gives_the_same_cases_in_the_same_splits(
    write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    source = write_medec(make_cases(30))
    convert(Conversion({"train": source}, val_fraction=0.2), tmp_path / "rl")
    files = {split: tmp_path / "rl" / f"{split}.parquet" for split in ("train", "val")}
    write_supervised(SupervisedSet(files), tmp_path / "sft")
    for split, file in files.items():
        expected = {row["extra_info"]["case"]["case_id"] for row in rows_of(file)}
        made = rows_of(tmp_path / "sft" / f"{split}.parquet")
        assert {row["extra_info"]["case_id"] for row in made} == expected
        assert len(made) == 3 * len(expected)


def test_rows_over_the_length_limit_are_left_out_and_counted(
    write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    source = write_medec(make_cases(4))

    def count(messages: list[dict[str, str]]) -> int:
        return sum(len(message["content"].split()) for message in messages)

    whole = write_supervised(SupervisedSet({"train": source}), tmp_path / "whole", count)
    longest = whole["files"]["train.parquet"]["longest"]
    games = SupervisedSet({"train": source}, max_length=longest - 1)
    cut = write_supervised(games, tmp_path / "cut", count)["files"]["train.parquet"]
    assert cut["longest"] < longest
    left_out = sum(cut["left_out"].values())
    assert cut["rows"] + left_out == whole["files"]["train.parquet"]["rows"]
    with pytest.raises(DatasetError, match="no tokenizer"):
        write_supervised(games, tmp_path / "none")
    with pytest.raises(DatasetError, match="no row for train"):
        write_supervised(SupervisedSet({"train": source}, max_length=1), tmp_path / "none", count)
    assert not (tmp_path / "none").exists()


def test_data_for_self_play_is_never_overwritten(
    write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    source, out = write_medec(make_cases(4)), tmp_path / "out"
    convert(Conversion({"train": source}, val_fraction=0), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DatasetError, match="choose another output folder"):
        write_supervised(SupervisedSet({"train": source}), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_damaged_source_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    damaged = tmp_path / "train.parquet"
    damaged.write_bytes(b"PAR1 and no more")
    with pytest.raises(DatasetError, match=r"train\.parquet: cannot be read.*convert the data"):
        write_supervised(SupervisedSet({"train": damaged}), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sources": {}}, "expected at least one of"),
        ({"sources": {"dev": Path("x")}}, r"\['dev'\]"),
        ({"sources": SAMPLE_FILES, "max_length": 0}, "max length is 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        SupervisedSet(**settings)
