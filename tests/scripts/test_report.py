from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx

from report_runs import attacked, write_run

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "scripts/report.py")]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_it_writes_the_page_and_the_pictures_into_the_run(tmp_path: Path) -> None:
    metrics = {1: {"training/global_step": 1, "attacker/reward": 0.5}}
    folder = write_run(tmp_path / "run", games=[attacked("right")], metrics=metrics)
    done = run(str(folder), "--compare", str(folder))
    assert done.returncode == 0, done.stderr
    assert "2 of 2 games" in done.stdout
    names = {path.name for path in (folder / "report").iterdir()}
    assert {"index.html", "curves_rewards.png"} <= names
    assert not [name for name in names if name.endswith(".partial")]


def test_a_folder_without_a_run_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run(str(tmp_path / "absent"))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "absent" in done.stderr and "outputs/RUN" in done.stderr
    done = run(str(tmp_path), "--max-games", "-1")
    assert done.returncode == 2 and "--max-games is -1" in done.stderr


def test_a_port_that_is_taken_is_told_before_the_page_is_made(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", games=[attacked("right")])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(str(folder), "--serve", "--port", port)
    assert done.returncode == 2 and f"port {port}" in done.stderr
    assert not (folder / "report").exists()


def test_serve_prints_its_address_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", games=[attacked("right")])
    process = subprocess.Popen(
        [*COMMAND, str(folder), "--figures", "none", "--serve"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        url = next(found[0] for line in lines if (found := re.findall(r"http://\S+", line)))
        assert "<!doctype html>" in httpx.get(url, timeout=60).text
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and errors == ""
