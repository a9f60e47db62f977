from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medical_team.answers import parse_assessment
from medical_team.dataset.contrastive import (
    UNKNOWN_TYPE,
    openrlhf_row,
    read_openrlhf,
    read_pairs,
    sample_cases,
    write_openrlhf,
    write_pairs,
)
from medical_team.dataset.rows import DatasetError, is_balanced
from medical_team.medec import Case
from medical_team.medical_game_manager import GameType

MakeCases = Callable[..., list[Case]]
WriteMedec = Callable[..., Path]
CASE = Case("c1", ("A man.", "He has gout.", "He rests."), 1, "He has lupus.", "diagnosis", "val")

word = st.text(alphabet="abcXYZ,;:\"'().%/-0123456789μ", min_size=1, max_size=8)
sentence = st.lists(word, min_size=1, max_size=9).map(" ".join)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sentences = draw(st.lists(sentence | st.just(""), max_size=12))
    at = draw(st.integers(0, len(sentences)))
    sentences.insert(at, draw(sentence))
    return Case("id-1", tuple(sentences), at, draw(sentence) + " zzz", "diagnosis", "train")


def test_the_four_fields_hold_the_own_note_the_other_note_and_the_gold_answer() -> None:
    assert openrlhf_row(CASE, GameType.ADVERSARIAL_HARMFUL) == {
        "vanilla": "0. A man.\n1. He has gout.\n2. He rests.",
        "adversarial": "0. A man.\n1. He has lupus.\n2. He rests.",
        "completion": "Classification: Harmful\nError sentence: 1\nCorrection: He has lupus.",
        "data_type": "adversarial_harmful",
    }
    assert openrlhf_row(CASE, GameType.VANILLA_BENIGN) == {
        "vanilla": "0. A man.\n1. He has lupus.\n2. He rests.",
        "adversarial": "0. A man.\n1. He has gout.\n2. He rests.",
        "completion": "Classification: Safe\nError sentence: none\nCorrection: none",
        "data_type": "vanilla_benign",
    }


@given(case=cases(), game=st.sampled_from(list(GameType)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_case_is_rebuilt_from_one_four_field_row(
    case: Case, game: GameType, tmp_path: Path
) -> None:
    path = tmp_path / "row.jsonl"
    path.write_text(json.dumps(openrlhf_row(case, game)) + "\n", encoding="utf-8")
    ((rebuilt, given_game),) = read_openrlhf(path, "train")
    assert given_game is game
    assert rebuilt.error_sentences == case.error_sentences
    assert rebuilt.clean_sentences == case.clean_sentences
    assert rebuilt.error_sentence_id == case.error_sentence_id
    assert rebuilt.error_type == UNKNOWN_TYPE


@given(st.lists(cases(), min_size=1, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_pairs_survive_the_round_trip(tmp_path: Path, written: list[Case]) -> None:
    path = tmp_path / "pairs.jsonl"
    assert write_pairs(written, path) == len(written)
    assert list(read_pairs(path)) == written


def test_both_rows_of_a_case_give_the_same_case(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [openrlhf_row(CASE, game) for game in GameType]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert len({case for case, _ in read_openrlhf(path, "train")}) == 1


def test_four_field_rows_are_balanced_and_their_answers_parse(
    make_cases: MakeCases, tmp_path: Path
) -> None:
    write_pairs(make_cases(13), tmp_path / "pairs.jsonl")
    assert write_openrlhf(tmp_path / "pairs.jsonl", tmp_path / "train.jsonl", seed=0) == 26
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert is_balanced(GameType(row["data_type"]) for row in rows)
    assert {tuple(row) for row in rows} == {("vanilla", "adversarial", "completion", "data_type")}
    for row in rows:
        answer = parse_assessment(row["completion"], 3)
        assert (answer.correction is not None) == GameType(row["data_type"]).harmful_source


def test_a_sample_is_drawn_by_seed_over_the_whole_file(
    write_medec: WriteMedec, make_cases: MakeCases
) -> None:
    path = write_medec(make_cases(60))
    drawn = [case.case_id for case in sample_cases(path, "train", 12, seed=0)]
    assert len(drawn) == 12
    assert drawn == [case.case_id for case in sample_cases(path, "train", 12, seed=0)]
    assert drawn != [case.case_id for case in sample_cases(path, "train", 12, seed=1)]
    types = Counter(case.error_type for case in sample_cases(path, "train", 12, seed=0))
    assert len(types) == 3
    assert len(list(sample_cases(path, "train", 100, seed=0))) == 60


def test_a_file_without_error_rows_has_no_pairs(write_medec: WriteMedec) -> None:
    with pytest.raises(DatasetError, match="no error row"):
        list(sample_cases(write_medec(), "train", 3, seed=0))


GOOD = openrlhf_row(CASE, GameType.VANILLA_HARMFUL)


def test_notes_of_unnumbered_lines_are_read(tmp_path: Path) -> None:
    row = {**GOOD, "vanilla": "A man.\nHe has gout.", "adversarial": "A man.\nHe has lupus."}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    ((case, _),) = read_openrlhf(path, "train")
    assert (case.error_sentence, case.corrected_sentence) == ("He has gout.", "He has lupus.")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{not json", "no JSON"),
        ('["a"]', "without vanilla, adversarial, completion, data_type"),
        (json.dumps({"vanilla": "a", "data_type": "b"}), "without adversarial, completion"),
        (json.dumps({**GOOD, "data_type": "harmful"}), "data_type is 'harmful'"),
        (json.dumps({**GOOD, "adversarial": ""}), "adversarial is ''"),
        (json.dumps({**GOOD, "adversarial": GOOD["vanilla"]}), "differ in 0 of them"),
        (json.dumps({**GOOD, "adversarial": "0. B.\n1. C.\n2. He rests."}), "differ in 2"),
        (json.dumps({**GOOD, "adversarial": "0. A man."}), "3 and 1 sentences"),
    ],
)
def test_a_row_that_is_no_pair_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(DatasetError) as caught:
        list(read_openrlhf(path, "train"))
    assert "rows.jsonl, line 3" in str(caught.value)
    assert told in str(caught.value)


def test_a_pair_with_the_wrong_sentence_id_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs([CASE], path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"error_sentence_id": 1', '"error_sentence_id": 2'), "utf-8")
    with pytest.raises(DatasetError, match="line 1: error_sentence_id is 2, but the notes"):
        list(read_pairs(path))


def test_a_failed_write_keeps_the_earlier_file(make_cases: MakeCases, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    write_pairs(make_cases(3), pairs)
    target = tmp_path / "train.jsonl"
    write_openrlhf(pairs, target, seed=0)
    before = target.read_bytes()
    pairs.write_text(pairs.read_text(encoding="utf-8") + "{broken\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="line 4"):
        write_openrlhf(pairs, target, seed=0)
    assert target.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.jsonl", "train.jsonl"}


def test_a_row_that_fails_midway_leaves_no_file(make_cases: MakeCases, tmp_path: Path) -> None:
    def failing() -> Iterator[Case]:
        yield make_cases(1)[0]
        raise DatasetError("broken source")

    with pytest.raises(DatasetError, match="broken source"):
        write_pairs(failing(), tmp_path / "pairs.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.jsonl: No such file"):
        write_openrlhf(tmp_path / "none.jsonl", tmp_path / "out.jsonl", seed=0)
