from __future__ import annotations

import errno
import hashlib
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from medical_team.dataset.checks import verify
from medical_team.dataset.contrastive import write_openrlhf, write_pairs
from medical_team.dataset.rows import DatasetError, case_from_dict
from medical_team.dataset.writer import Conversion, convert, read_manifest
from medical_team.medec import Case, MedecError
from medical_team.prompts import PromptStyle

MakeCases = Callable[..., list[Case]]
WriteMedec = Callable[..., Path]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path).to_pylist())


def case_ids(path: Path) -> set[str]:
    return {row["extra_info"]["case"]["case_id"] for row in rows_of(path)}


@pytest.fixture
def train(write_medec: WriteMedec, make_cases: MakeCases) -> Path:
    return write_medec(make_cases(21), name="train.csv")


def test_every_case_gives_its_contrastive_pair(
    train: Path, make_cases: MakeCases, tmp_path: Path
) -> None:
    convert(Conversion({"train": train}, val_fraction=0), tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "train.parquet")
    cases = Counter(case_from_dict(row["extra_info"]["case"]) for row in rows)
    assert cases == Counter(dict.fromkeys(make_cases(21), 2))
    games = Counter(row["extra_info"]["game_type"] for row in rows)
    assert sorted(games.values()) == [10, 10, 11, 11]
    assert [row["extra_info"]["index"] for row in rows] == list(range(42))


def test_rows_are_shuffled_by_the_seed(train: Path, tmp_path: Path) -> None:
    files = [tmp_path / name / "train.parquet" for name in ("a", "b", "c")]
    for seed, file in zip((0, 0, 1), files, strict=True):
        convert(Conversion({"train": train}, seed=seed, val_fraction=0), file.parent)
    same, again, other = (file.read_bytes() for file in files)
    assert same == again
    assert same != other
    order = [row["extra_info"]["case"]["error_type"] for row in rows_of(files[0])]
    assert order != sorted(order)


def test_a_part_of_train_is_held_out_by_case_where_no_val_is_given(
    train: Path, tmp_path: Path
) -> None:
    convert(Conversion({"train": train}), tmp_path / "out")
    kept, held_out = (case_ids(tmp_path / "out" / f"{s}.parquet") for s in ("train", "val"))
    assert len(held_out) == 2
    assert len(kept) == 19
    assert not kept & held_out
    splits = {row["extra_info"]["split"] for row in rows_of(tmp_path / "out" / "val.parquet")}
    assert splits == {"val"}


def test_a_given_val_is_taken_whole(
    train: Path, write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    val = write_medec(make_cases(5, "val"), name="val.csv")
    manifest = convert(Conversion({"train": train, "val": val}), tmp_path / "out")
    assert {name: file["cases"] for name, file in manifest["files"].items()} == {
        "train.parquet": 21,
        "val.parquet": 5,
    }
    assert manifest["settings"]["val_fraction"] is None


def test_limit_and_error_types_keep_the_balance(train: Path, tmp_path: Path) -> None:
    chosen = Conversion(
        {"train": train}, limit=6, error_types=("diagnosis", "treatment"), val_fraction=0
    )
    manifest = convert(chosen, tmp_path / "out")
    file = manifest["files"]["train.parquet"]
    assert set(file["game_types"].values()) == {3}
    assert set(file["error_types"]) == {"diagnosis", "treatment"}
    assert len(case_ids(tmp_path / "out" / "train.parquet")) == 6


def test_the_manifest_describes_the_files(train: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    style = PromptStyle.COMPACT
    manifest = convert(Conversion({"train": train}, seed=3, prompt_style=style), out)
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8")) == manifest
    assert read_manifest(out) == manifest
    source = manifest["sources"]["train"]
    assert source["sha256"] == hashlib.sha256(train.read_bytes()).hexdigest()
    assert source["error_cases"] == {"diagnosis": 7, "management": 7, "treatment": 7}
    assert (manifest["seed"], manifest["settings"]["prompt_style"]) == (3, "compact")
    for name, file in manifest["files"].items():
        assert file["sha256"] == hashlib.sha256((out / name).read_bytes()).hexdigest()
        assert file["rows"] == len(rows_of(out / name)) == sum(file["game_types"].values())


def test_the_manifest_counts_rows_left_out_and_mended_by_source(
    train: Path,
    write_medec: WriteMedec,
    make_cases: MakeCases,
    to_row: Callable[[Case], dict[str, str]],
    tmp_path: Path,
) -> None:
    rows = [to_row(case) for case in make_cases(30, "val")]
    rows[4]["Corrected Sentence"] = "NA"
    rows[7]["Error Sentence ID"] = "0"
    val = write_medec(rows=rows, name="val.csv")
    manifest = convert(Conversion({"train": train, "val": val}), tmp_path / "out")
    source = manifest["sources"]["val"]
    assert source["left_out"] == {"number": 1, "text_ids": ["val-4"]}
    assert source["mended"] == {"number": 1, "text_ids": ["val-7"]}
    assert sum(source["error_cases"].values()) == 29
    assert manifest["files"]["val.parquet"]["rows"] == 58
    nothing = {"number": 0, "text_ids": []}
    assert manifest["sources"]["train"]["left_out"] == nothing
    assert manifest["sources"]["train"]["mended"] == nothing


def test_a_note_with_an_empty_sentence_is_converted_and_passes_verification(
    write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    cases = make_cases(4)
    first = cases[0].error_sentences
    cases[0] = replace(cases[0], error_sentences=(first[0], "", first[2]))
    source = write_medec(cases)
    convert(Conversion({"train": source}, val_fraction=0), tmp_path / "out")
    assert not verify([tmp_path / "out"]).problems
    rows = rows_of(tmp_path / "out" / "train.parquet")
    assert sum("\n1. \n2. The" in row["prompt"][-1]["content"] for row in rows) == 2


def test_a_new_conversion_replaces_all_files_of_the_old_one(train: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(Conversion({"train": train, "test": train}), out)
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    convert(Conversion({"train": train}, val_fraction=0), out)
    assert {path.name for path in out.iterdir()} == {"train.parquet", "manifest.json", "notes.txt"}


def test_openrlhf_rows_of_a_case_are_paired_and_keep_their_games(
    make_cases: MakeCases, tmp_path: Path
) -> None:
    write_pairs(make_cases(9), tmp_path / "pairs.jsonl")
    source = tmp_path / "rlhf.jsonl"
    write_openrlhf(tmp_path / "pairs.jsonl", source, seed=5)
    lines = source.read_text(encoding="utf-8").splitlines()
    source.write_text("\n".join(lines[::-1]), encoding="utf-8")
    sources = {"train": source}
    whole = Conversion(sources, openrlhf=frozenset(sources), val_fraction=0)
    manifest = convert(whole, tmp_path / "out")
    assert manifest["files"]["train.parquet"]["game_types_from"] == "source"
    given = Counter((json.loads(line)["vanilla"], json.loads(line)["data_type"]) for line in lines)
    rows = rows_of(tmp_path / "out" / "train.parquet")
    assert given == Counter(
        (row["prompt"][-1]["content"].partition("\n")[2], row["extra_info"]["game_type"])
        for row in rows
    )

    source.write_text("\n".join(lines[::2]), encoding="utf-8")
    manifest = convert(whole, tmp_path / "out")
    assert manifest["files"]["train.parquet"]["game_types_from"] == "seed"
    assert manifest["files"]["train.parquet"]["rows"] == 18


def test_repeated_openrlhf_rows_are_refused(make_cases: MakeCases, tmp_path: Path) -> None:
    write_pairs(make_cases(2), tmp_path / "pairs.jsonl")
    source = tmp_path / "rlhf.jsonl"
    write_openrlhf(tmp_path / "pairs.jsonl", source, seed=0)
    source.write_text(source.read_text(encoding="utf-8") * 2, encoding="utf-8")
    with pytest.raises(DatasetError, match="two rows hold the same notes and data_type"):
        convert(Conversion({"train": source}, openrlhf=frozenset({"train"})), tmp_path / "out")


def assert_refused(conversion: Conversion, out: Path, *told: str) -> None:
    before = {path.name for path in out.parent.iterdir()}
    with pytest.raises((DatasetError, MedecError)) as caught:
        convert(conversion, out)
    assert all(part in str(caught.value) for part in told), str(caught.value)
    assert {path.name for path in out.parent.iterdir()} == before


def test_an_unknown_error_type_lists_the_known_ones(train: Path, tmp_path: Path) -> None:
    wrong = Conversion({"train": train}, error_types=("diagnosys",))
    assert_refused(wrong, tmp_path / "out", "'diagnosys'", "causalOrganism, diagnosis, management")


def test_a_filter_that_leaves_nothing_says_what_the_file_has(train: Path, tmp_path: Path) -> None:
    absent = Conversion({"train": train}, error_types=("pharmacotherapy",))
    assert_refused(absent, tmp_path / "out", "train.csv", "no case of", "management (7)")


def test_an_empty_split_is_refused(train: Path, write_medec: WriteMedec, tmp_path: Path) -> None:
    empty = write_medec(name="val.csv")
    pair = Conversion({"train": train, "val": empty})
    assert_refused(pair, tmp_path / "out", "val.csv", "no error row")


def test_one_case_cannot_be_split_into_train_and_val(train: Path, tmp_path: Path) -> None:
    assert_refused(Conversion({"train": train}, limit=1), tmp_path / "out", "too few to hold out")


def test_a_broken_second_source_leaves_nothing_of_the_first(
    train: Path, write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    broken = write_medec(make_cases(2), name="test.csv")
    broken.write_bytes(broken.read_bytes()[:-150])
    both = Conversion({"train": train, "test": broken})
    assert_refused(both, tmp_path / "out", "test.csv, row 3")


def test_a_failed_conversion_keeps_the_earlier_dataset(
    train: Path, write_medec: WriteMedec, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(Conversion({"train": train}), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DatasetError):
        convert(Conversion({"train": write_medec(name="empty.csv")}), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_no_disk_space_is_told_and_leaves_nothing(
    train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    whole = Conversion({"train": train})
    assert_refused(whole, tmp_path / "out", "out: not written (no space left", "free some space")


def test_an_output_that_is_a_file_is_refused(train: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    assert_refused(Conversion({"train": train}), tmp_path / "out", "Not a directory")


def test_a_folder_with_a_foreign_manifest_is_left_alone(train: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text('{"name": "a web page"}', encoding="utf-8")
    with pytest.raises(DatasetError, match="no manifest of this project"):
        convert(Conversion({"train": train}), out)
    assert [path.name for path in out.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"val_fraction": 1.0}, "val fraction is 1.0"),
        ({"sources": {}}, "at least one of train, val, test"),
        ({"sources": {"dev": Path("x")}}, "'dev'"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        replace(Conversion({"train": Path("x")}), **setting)


def test_memory_does_not_grow_with_the_text(
    write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    def peak(count: int) -> int:
        padding = " on and on" * 100
        cases = [
            replace(case, error_sentences=(padding.strip(), *case.error_sentences[1:]))
            for case in make_cases(count)
        ]
        source = write_medec(cases, name=f"{count}.csv")
        tracemalloc.start()
        convert(Conversion({"train": source}, val_fraction=0), tmp_path / str(count))
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    peak(2)  # Imports what is imported late.
    small = peak(280)
    assert peak(1120) < 1.5 * small


def test_the_real_validation_file_gives_638_balanced_rows(
    medec_validation: Path, tmp_path: Path
) -> None:
    whole = Conversion({"train": medec_validation}, val_fraction=0)
    manifest = convert(whole, tmp_path / "out")
    source, file = manifest["sources"]["train"], manifest["files"]["train.parquet"]
    assert source["left_out"]["number"] == source["mended"]["number"] == 0
    assert file["rows"] == 638
    assert sorted(file["game_types"].values()) == [159, 159, 160, 160]
    assert file["error_types"]["management"] == 336
