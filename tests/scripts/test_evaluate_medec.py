"""The command as its users type it: one command, a kill in the middle, and wrong input."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "evaluate_medec.py"
DATA = ROOT / "data" / "sample" / "test.csv"
MODEL = ROOT / "data" / "tiny_model"
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "100"}

pytestmark = pytest.mark.timeout(600)


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str]:
    """The exit code and what the command says, without the cost of a new process."""
    monkeypatch.setattr(sys, "argv", ["evaluate_medec.py", *map(str, arguments)])
    spec = importlib.util.spec_from_file_location("evaluate_medec", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        module.main()
    except SystemExit as end:
        return int(end.code or 0), capsys.readouterr().err
    return 0, capsys.readouterr().err


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=500
    )


def answered(folder: Path) -> list[str]:
    path = folder / "answers.jsonl"
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return [json.loads(line)["text_id"] for line in lines]


def gold(path: Path, *, limit: int | None = None, extra: str = "") -> Path:
    lines = [f"sample-test-{i} 0 -1 NA" for i in range(limit or 375)]
    path.write_text("\n".join(lines) + "\n" + extra)
    return path


def test_killed_run_goes_on_and_asks_nothing_again(tmp_path: Path) -> None:
    out = tmp_path / "eval"
    arguments = ("--data", DATA, "--model", MODEL, "--output", out, "--limit", 48)
    arguments = (*arguments, "--batch-size", 8, "--write-submission")
    with subprocess.Popen(command(*arguments), cwd=ROOT, env=ENVIRONMENT) as process:
        while len(answered(out)) < 8:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = answered(out)
    assert 8 <= len(before) < 48
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    after = answered(out)
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == 48
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["texts"] == 48
    assert metrics["format_kept"] > 0.9
    assert len((out / "predictions.txt").read_text().splitlines()) == metrics["answered"]
    assert "not computed" in (out / "report.md").read_text()
    # The lines that it wrote score the same.
    again = run("--data", DATA, "--predictions", out / "predictions.txt", "--limit", 48,
                "--output", tmp_path / "again")  # fmt: skip
    assert again.returncode == 0, again.stderr
    scores = json.loads((tmp_path / "again" / "metrics.json").read_text())["scores"]
    assert scores == metrics["scores"]
    compared = run("--data", DATA, "--limit", 48, "--compare", out, tmp_path / "again",
                   "--output", tmp_path / "compared")  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    assert "McNemar" in (tmp_path / "compared" / "comparison.md").read_text()
    # Other settings do not mix with these answers.
    other = run(*arguments, "--prompt", "full")
    assert other.returncode == 2
    assert "prompt 'compact' (now 'full')" in other.stderr


def test_wrong_input_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    other = tmp_path / "other.txt"
    other.write_text("ms-test-1 0 -1 NA\n")
    out = tmp_path / "out"
    missing = ["--bertscore-model", tmp_path / "no"]
    cases: list[tuple[list[object], str]] = [
        (["--data", DATA, "--model", MODEL, *missing], "no: no such folder"),
        (["--data", DATA, "--model", MODEL, "--bleurt-scores", wrong], "wrong.csv: cannot be read"),
        (["--data", tmp_path / "no.csv", "--model", MODEL], "no.csv: No such file"),
        (["--data", wrong, "--model", MODEL], "wrong.csv, row 1: wrong columns"),
        (["--data", DATA, "--model", tmp_path], "expected a folder with config.json"),
        (["--data", DATA, "--predictions", other], "of another split, ms-test"),
        (["--data", DATA, "--predictions", tmp_path / "no.txt"], "no.txt: No such file"),
        (["--data", DATA, "--split", "val", "--model", MODEL], "no Text ID of the split val"),
        (["--data", DATA, "--server", "nowhere"], "--server holds 'nowhere'"),
    ]
    for arguments, said in cases:
        code, said_so = in_process(monkeypatch, capsys, *arguments, "--output", out)
        assert code == 2, said_so
        assert said in said_so
        assert len(said_so.strip().splitlines()) == 1, said_so
    assert not answered(out)


def test_lines_on_texts_beyond_the_limit_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = gold(tmp_path / "gold.txt")
    arguments = ("--data", DATA, "--limit", 5, "--strict", "--output", tmp_path / "out")
    code, said = in_process(monkeypatch, capsys, *arguments, "--predictions", file)
    assert (code, said) == (0, "")
    compared = ("--data", DATA, "--limit", 5, "--strict", "--compare", file, tmp_path / "out")
    assert in_process(monkeypatch, capsys, *compared) == (0, "")
    gold(file, extra="sample-test-999 0 -1 NA\n")
    code, said = in_process(monkeypatch, capsys, *arguments, "--predictions", file)
    assert code == 2 and "sample-test-999" in said


def test_a_runs_checkpoint_is_told_to_be_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    model = run / "checkpoints" / "global_step_4" / "actor" / "huggingface"
    shutil.copytree(MODEL, model)
    (model / "assessor.json").unlink()
    arguments = ("--data", DATA, "--limit", 1, "--max-tokens", 1)
    for path, expected in ((run, 2), (run / "checkpoints/global_step_4", 2), (model, 0)):
        out = tmp_path / f"out{expected}"
        code, said = in_process(monkeypatch, capsys, *arguments, "--model", path, "--output", out)
        assert code == expected and "scripts/export_model.py" in said
    again = (*arguments, "--model", model, "--output", tmp_path / "told", "--prompt", "compact")
    assert in_process(monkeypatch, capsys, *again)[1].count("warning") == 0


@pytest.mark.parametrize("option", [("--seed", "-1"), ("--dtype", "foo")])
def test_values_that_no_run_can_use_are_named_with_their_option(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: tuple[str, str],
) -> None:
    arguments = ("--data", DATA, "--model", MODEL, "--output", tmp_path / "o", *option)
    code, said_so = in_process(monkeypatch, capsys, *arguments)
    assert code == 2
    assert option[0] in said_so.splitlines()[-1]


def test_comparison_keeps_the_runs_and_names_what_is_wrong_with_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, run_folder = gold(tmp_path / "good.txt"), tmp_path / "run"
    bad = gold(tmp_path / "bad.txt", limit=374, extra="nonsense\n")
    code, said = in_process(
        monkeypatch, capsys, "--data", DATA, "--predictions", good, "--output", run_folder
    )
    assert code == 0, said
    before = (run_folder / "metrics.json").read_bytes()
    assert json.loads(before)["evaluated"]["kind"] == "predictions"
    compared = ("--data", DATA, "--compare", run_folder, bad)
    code, said = in_process(monkeypatch, capsys, *compared, "--output", run_folder)
    assert (code, "holds an evaluation (texts.jsonl)" in said) == (2, True)
    assert (run_folder / "metrics.json").read_bytes() == before
    out = tmp_path / "compared"
    code, said = in_process(monkeypatch, capsys, *compared, "--output", out)
    assert code == 0 and "line 375: 1 fields" in said
    found = json.loads((out / "comparison.json").read_text())
    assert (found["a"], found["b"]) == (str(run_folder), str(bad))
    assert found["mcnemar"]["error flag accuracy"]["only_first"] == 0
    assert not (out / "metrics.json").exists()
    code, said = in_process(monkeypatch, capsys, *compared, "--strict")
    assert code == 2 and "2 problems" in said
    lines = [json.loads(line) for line in (run_folder / "texts.jsonl").read_text().splitlines()]
    lines[0]["gold"]["sentence_id"] = "99"
    (run_folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, said = in_process(monkeypatch, capsys, *compared)
    assert code == 2 and "Text ID sample-test-0: the run's gold annotation" in said


def test_every_problem_of_a_submission_is_named_and_strict_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = "nonsense\nsample-test-3 1 2 A.\nms-val-3 0 -1 NA\n"
    path = gold(tmp_path / "run.txt", limit=374, extra=extra)
    arguments = ("--data", DATA, "--predictions", path, "--output", tmp_path / "out")
    code, said_so = in_process(monkeypatch, capsys, *arguments)
    assert code == 0, said_so
    for said in (
        "line 375: 1 fields",
        "line 376: Text ID sample-test-3 is in line 4 already",
        "line 377: Text ID ms-val-3 is not in the data",
        "no line for Text ID sample-test-374",
    ):
        assert said in said_so
    code, said_so = in_process(monkeypatch, capsys, *arguments, "--strict")
    assert code == 2
    assert "4 problems" in said_so


def test_server_that_is_down_stops_the_run_with_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--data", DATA, "--server", "http://127.0.0.1:9/v1", "--output", tmp_path / "o")
    code, said_so = in_process(monkeypatch, capsys, *arguments, "--limit", 2)
    assert code == 1
    assert "http://127.0.0.1:9/v1" in said_so
    assert "(--server)" in said_so
