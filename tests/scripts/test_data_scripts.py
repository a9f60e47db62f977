from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medical_team.medec import Case

ROOT = Path(__file__).resolve().parents[2]
MakeCases = Callable[..., list[Case]]
WriteMedec = Callable[..., Path]


def run(
    script: str, *arguments: object, limit_file_size: int | None = None
) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if limit_file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_size, limit_file_size))

    return subprocess.run(
        [sys.executable, f"scripts/{script}.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "100"},
        preexec_fn=limit,
    )


@pytest.fixture
def train(write_medec: WriteMedec, make_cases: MakeCases) -> Path:
    return write_medec(make_cases(12), name="train.csv")


def test_a_medec_file_is_converted_and_passes_verification(train: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("convert_dataset_to_verl", "--train-csv", train, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert "held out as val" in done.stdout
    assert {path.name for path in out.iterdir()} == {
        "train.parquet",
        "val.parquet",
        "manifest.json",
    }
    checked = run("verify_dataset", out)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok: 0 problem(s)" in checked.stdout


def test_rows_left_out_and_mended_are_told_once_and_counted(
    write_medec: WriteMedec,
    make_cases: MakeCases,
    to_row: Callable[[Case], dict[str, str]],
    tmp_path: Path,
) -> None:
    rows = [to_row(case) for case in make_cases(40)]
    rows[3]["Corrected Sentence"] = ""
    rows[5]["Error Sentence ID"] = "0"
    train = write_medec(rows=rows, name="train.csv")
    done = run("convert_dataset_to_verl", "--train-csv", train, "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "39 error cases in train.csv, 1 rows left out, 1 mended" in done.stdout
    made = run("create_rl_training_data", "--input", train, "--output-dir", tmp_path)
    assert made.stdout.startswith("39 pairs")
    for stderr in (done.stderr, made.stderr):
        left_out, mended = stderr.splitlines()
        assert left_out.startswith(f"left out: {train}, row 5 ")
        assert mended.startswith(f"mended: {train}, row 7 ")


def test_the_trial_run_converts_and_verifies_eight_cases(train: Path) -> None:
    done = run("convert_dataset_to_verl", "--test", "--train-csv", train)
    assert done.returncode == 0, done.stderr
    assert "16" in done.stdout
    assert "ok: 0 problem(s)" in done.stdout


def test_the_sample_is_converted_without_arguments_to_compact_prompts(tmp_path: Path) -> None:
    done = run("convert_dataset_to_verl", "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["files"]) == {"train.parquet", "val.parquet", "test.parquet"}
    assert manifest["settings"]["prompt_style"] == "compact"


def test_pairs_become_four_field_rows_and_then_a_dataset(train: Path, tmp_path: Path) -> None:
    made = run(
        "create_rl_training_data", "--input", train, "--output-dir", tmp_path, "--num-samples", 10
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("10 pairs")
    rows = tmp_path / "rlhf" / "train.jsonl"
    turned = run(
        "convert_to_openrlhf_format", "--input", tmp_path / "pairs.jsonl", "--output", rows
    )
    assert turned.returncode == 0, turned.stderr
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 20
    assert all(
        list(line) == ["vanilla", "adversarial", "completion", "data_type"] for line in lines
    )
    out = tmp_path / "out"
    done = run("convert_dataset_to_verl", "--from-openrlhf", rows, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert run("verify_dataset", out).returncode == 0


def test_pairs_are_shown_counted_and_not_saved_when_asked(train: Path, tmp_path: Path) -> None:
    options = ("--input", train, "--output-dir", tmp_path / "out", "--num-samples", 5)
    shown = run("prepare_medical_data", *options, "--no-save")
    assert shown.returncode == 0, shown.stderr
    assert "[-wrong-train-" in shown.stdout
    assert "{+right-train-" in shown.stdout
    assert not (tmp_path / "out").exists()
    assert run("prepare_medical_data", *options).returncode == 0
    pairs = (tmp_path / "out" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(pairs) == 5


def test_verification_names_the_spoilt_file_and_exits_with_1(train: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("convert_dataset_to_verl", "--train-csv", train, "--output-dir", out)
    data = bytearray((out / "train.parquet").read_bytes())
    data[len(data) // 2 :] = b""
    (out / "train.parquet").write_bytes(data)
    checked = run("verify_dataset", out)
    assert checked.returncode == 1
    assert "train.parquet: cannot be read as Parquet" in checked.stdout
    assert run("verify_dataset", tmp_path / "none").returncode == 1


def test_bad_input_is_told_on_one_screen_and_leaves_nothing(train: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, told in (
        (("--train-csv", tmp_path / "none.csv"), "none.csv: No such file"),
        (("--train-csv", train, "--error-types", "flu"), "expected some of"),
        (("--train-csv", train, "--limit", "0"), "limit is 0"),
    ):
        done = run("convert_dataset_to_verl", *arguments, "--output-dir", out)
        assert done.returncode == 2
        assert told in done.stderr
        assert len(done.stderr.splitlines()) < 10
        assert {path.name for path in tmp_path.iterdir()} == {"train.csv"}


def test_a_full_disk_is_told_and_leaves_nothing(
    write_medec: WriteMedec, make_cases: MakeCases, tmp_path: Path
) -> None:
    train = write_medec(make_cases(400), name="train.csv")
    arguments = ("--train-csv", train, "--output-dir", tmp_path / "out")
    done = run("convert_dataset_to_verl", *arguments, limit_file_size=20_000)
    assert done.returncode == 2, done.stderr
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"train.csv"}
