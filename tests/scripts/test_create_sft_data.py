from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medical_team.medec import Case

ROOT = Path(__file__).resolve().parents[2]
TINY_MODEL = ROOT / "data" / "tiny_model"


def run(*arguments: object, script: str = "create_sft_data") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"scripts/{script}.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "100"},
    )


@pytest.fixture
def csv(write_medec: Callable[..., Path], make_cases: Callable[..., list[Case]]) -> Path:
    return write_medec(make_cases(12), name="cases.csv")


def manifest_of(folder: Path) -> dict[str, dict[str, str]]:
    return dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))


def test_the_sample_needs_no_argument_and_medec_files_get_full_prompts(
    csv: Path, tmp_path: Path
) -> None:
    done = run("--output-dir", tmp_path / "sample")
    assert done.returncode == 0, done.stderr
    assert "reasoning: table" in done.stdout
    manifest = manifest_of(tmp_path / "sample")
    assert set(manifest["files"]) == {"train.parquet", "val.parquet", "test.parquet"}
    assert manifest["settings"]["prompt_style"] == "compact"
    done = run(
        "--train-csv",
        csv,
        "--tokenizer",
        TINY_MODEL,
        "--max-length",
        900,
        "--output-dir",
        tmp_path / "m",
    )
    assert done.returncode == 0, done.stderr
    assert "longest, tokens" in done.stdout
    assert manifest_of(tmp_path / "m")["settings"]["prompt_style"] == "full"


def test_converted_data_keeps_its_splits_and_its_prompt_style(csv: Path, tmp_path: Path) -> None:
    arguments = ("--train-csv", csv, "--prompt-style", "compact", "--output-dir", tmp_path / "rl")
    assert run(*arguments, script="convert_dataset_to_verl").returncode == 0
    done = run("--data", tmp_path / "rl", "--output-dir", tmp_path / "sft")
    assert done.returncode == 0, done.stderr
    manifest = manifest_of(tmp_path / "sft")
    assert set(manifest["files"]) == {"train.parquet", "val.parquet"}
    assert manifest["settings"]["prompt_style"] == "compact"


def test_wrong_arguments_are_told_in_a_line_and_nothing_is_written(
    csv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for arguments, told in (
        (("--train-csv", tmp_path / "none.csv"), "none.csv"),
        (("--data", tmp_path), "no train.parquet, val.parquet or test.parquet"),
        (("--data", tmp_path, "--train-csv", csv), "choose one"),
        (("--train-csv", csv, "--max-length", 9), "no tokenizer is given"),
        (("--train-csv", csv, "--tokenizer", tmp_path / "none"), "expected one with a tokenizer"),
    ):
        done = run(*arguments, "--output-dir", out)
        assert done.returncode == 2, told
        assert told in done.stderr
        assert "Traceback" not in done.stderr
        assert not out.exists()
