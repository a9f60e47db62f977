from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medical_team.calibration.record import read_calibration

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample" / "val.csv"
WriteMedec = Callable[..., Path]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "scripts/calibrate_judge.py", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
    )


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the command in this process, which is faster; gives the message of bad input."""

    def run_here(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["calibrate_judge.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / "scripts" / "calibrate_judge.py"), run_name="__main__")
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return run_here


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge model with random weights."""
    pytest.importorskip("torch")
    from recipe.medical_selfplay.tiny.random_models import write_random_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_random_model(folder, "gemma3")
    return folder


def test_the_reference_judge_is_calibrated_on_the_sample(out: Path) -> None:
    done = run("--judge", "reference", "--medec", SAMPLE, "--output", out, "--limit", 10)
    assert done.returncode == 0, done.stderr
    found = read_calibration(out / "calibration.json")
    assert (found.judge, found.data.file, found.data.cases) == ("reference", "val.csv", 10)
    assert found.error_present.false_positive is not None
    assert "it misses" in done.stdout and "not applicable" in done.stdout
    # No diagram without probabilities, and nothing of this machine in the record.
    assert {path.name for path in out.iterdir()} == {
        "answers.jsonl",
        "calibration.json",
        "report.md",
    }
    assert str(ROOT) not in (out / "calibration.json").read_text()


def test_more_cases_are_asked_without_asking_the_first_again(out: Path) -> None:
    for limit in (5, 8):
        done = run("--judge", "reference", "--medec", SAMPLE, "--output", out, "--limit", limit)
        assert done.returncode == 0, done.stderr
    lines = (out / "answers.jsonl").read_text().splitlines()[1:]
    ids = [json.loads(line)["query"]["query_id"] for line in lines]
    assert (
        len(ids)
        == len(set(ids))
        == sum(read_calibration(out / "calibration.json").data.items.values())
    )


def test_a_real_model_is_killed_and_goes_on(model: Path, out: Path) -> None:
    arguments = ["--judge", "transformers", "--medec", SAMPLE, "--output", out, "--limit", 12]
    arguments += ["--set", f"model={model}", "device=cpu", "dtype=float32", "max_batch=4"]
    answers = out / "answers.jsonl"
    running = subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        deadline = time.monotonic() + 90
        # The first line says what the answers are about; a batch is four more.
        while not (answers.exists() and answers.read_bytes().count(b"\n") >= 5):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    kept = answers.read_bytes()
    kept = kept[: kept.rindex(b"\n") + 1]
    assert not (out / "calibration.json").exists()

    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert answers.read_bytes().startswith(kept)
    found = read_calibration(out / "calibration.json")
    items = sum(found.data.items.values())
    assert answers.read_bytes().count(b"\n") == 1 + items
    assert found.threshold is not None and found.labelled_at == found.threshold
    assert found.present_quality is not None and found.identified_quality is not None
    assert found.position_bias is not None and found.position_bias.changed.of == items
    assert found.cost.prompt_tokens > 0
    assert (out / "reliability.png").stat().st_size > 1000
    # Its weights are random.
    assert "may be noise" in done.stdout


def test_answers_of_another_draw_are_refused(out: Path, refused: Callable[..., str]) -> None:
    arguments = ["--judge", "reference", "--medec", SAMPLE, "--output", out, "--limit", 2]
    assert run(*arguments).returncode == 0
    message = refused(*arguments, "--seed", 1)
    assert "seed 0 (now 1)" in message and "another output folder" in message


def test_a_judge_that_cannot_be_reached_stops_with_a_message_and_no_calibration(
    out: Path, tmp_path: Path
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    config = tmp_path / "gone.yaml"
    config.write_text(
        f"judge:\n  name: openai\n  model: m\n  urls: [http://127.0.0.1:{port}/v1]\n"
        "  attempts: 1\n  retry_wait_s: 0.01\n"
    )
    done = run("--judge", config, "--medec", SAMPLE, "--output", out, "--limit", 1)
    assert done.returncode == 1, done.stderr
    assert "the same command goes on" in done.stderr and "Traceback" not in done.stderr
    assert not (out / "calibration.json").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--judge", "nobody"], "--judge nobody: no file"),
        (["--judge", "reference", "--limit", "0"], "--limit is 0, expected at least 1"),
        (["--judge", "reference", "--concurrency", "0"], "--concurrency is 0"),
        (["--judge", "reference", "--set", "max_batch"], "expected KEY=VALUE"),
        (["--judge", "reference", "--set", "speed=3"], "judge.speed"),
        (["--judge", "reference", "--set", "max_batch=0"], "judge.max_batch is 0"),
        (["--judge", "reference", "--set", "name=oracle"], "judge.name is 'oracle', known"),
        (["--judge", "reference", "--medec", "missing.csv"], "missing.csv"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str], told: str, out: Path, refused: Callable[..., str]
) -> None:
    medec = [] if "--medec" in arguments else ["--medec", SAMPLE]
    assert told in refused(*arguments, *medec, "--output", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: reference", "no section 'judge'"),
        ("judge: {name: [", "cannot be read as YAML"),
        ("defaults: [base]\njudge: {name: reference}", "a list 'defaults'"),
        ("judge: {name: reference, cache_file: '${oc.env:X}'}", "--set cache_file=VALUE"),
    ],
)
def test_a_bad_settings_file_is_named(
    text: str, told: str, out: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    config = tmp_path / "judge.yaml"
    config.write_text(text)
    message = refused("--judge", config, "--medec", SAMPLE, "--output", out)
    assert told in message and str(config) in message


def test_a_file_without_error_rows_is_named(
    write_medec: WriteMedec,
    to_clean_row: Callable[..., dict[str, str]],
    out: Path,
    refused: Callable[..., str],
) -> None:
    clean = write_medec(rows=[to_clean_row("c-1", ("He is well.",))])
    message = refused("--judge", "reference", "--medec", clean, "--output", out)
    assert f"{clean}: no error row" in message and not out.exists()


def test_an_output_folder_that_cannot_be_made_is_named(
    out: Path, refused: Callable[..., str]
) -> None:
    out.write_text("a file")
    message = refused("--judge", "reference", "--medec", SAMPLE, "--output", out, "--limit", 1)
    assert f"{out}: not written" in message
