"""The checks of scripts/verify_verl_installation.py, on what is whole and on what is broken."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from recipe.medical_selfplay import installation
from recipe.medical_selfplay.installation import (
    Check,
    check_configs,
    check_disk,
    check_plugin,
    check_ray,
    check_versions,
    matching_requirements,
)

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "verify_verl_installation.py"


def versions(**installed: str) -> Callable[[str], str | None]:
    return lambda name: installed.get(name)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that holds what verl's checks read: a configuration and a tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config

    folder = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "head_dim": 32}
    counts = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    architecture = {"architectures": ["Qwen3ForCausalLM"], "vocab_size": 3}
    Qwen3Config(**sizes, **counts, **architecture).save_pretrained(folder)
    words = models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>")
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), **special)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    path = tmp_path / "requirements-cpu.txt"
    path.write_text("# torch first\ntorch==2.13.0\n\nray[default]==2.60.0  # and its extras\n")
    return path


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A copy of the configurations, cut down to one algorithm on two machines."""
    folder = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", folder)
    for name in ("medical_ppo", "medical_reinforce_pp", "hardware/gpu_96gb", "hardware/gpu_8x80gb"):
        (folder / f"{name}.yaml").unlink()
    return folder


def test_installed_pins_pass_and_a_local_build_counts_as_its_version(pins: Path) -> None:
    checks = list(check_versions(pins, versions(torch="2.13.0+cpu", ray="2.60.0")))
    assert [(check.status, check.what) for check in checks] == [("ok", "torch"), ("ok", "ray")]


def test_a_version_off_its_pin_fails_with_both_and_the_fix(pins: Path) -> None:
    torch, ray = check_versions(pins, versions(torch="2.12.1", ray="2.60.0"))
    assert torch.status == "FAIL"
    assert torch.detail == "2.12.1, requirements-cpu.txt has torch==2.13.0"
    assert "requirements-cpu.txt" in torch.fix
    assert ray.status == "ok"


def test_a_distribution_that_is_not_installed_fails(pins: Path) -> None:
    _, ray = check_versions(pins, versions(torch="2.13.0"))
    assert (ray.status, ray.what) == ("FAIL", "ray")
    assert "not installed" in ray.detail


def test_the_gpu_pins_are_used_where_vllm_is_installed() -> None:
    assert matching_requirements(ROOT, versions(vllm="0.24.0")).name == "requirements.txt"
    assert matching_requirements(ROOT, versions()).name == "requirements-cpu.txt"


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-cpu.txt"])
def test_both_stacks_pin_what_decides_the_results_exactly(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert pinned[0].startswith("torch==")
    for package in ("verl", "transformers", "tensordict", "TransferQueue", "ray"):
        assert any(line.startswith((f"{package}==", f"{package}[")) for line in pinned)
    assert all("==" in line for line in pinned)


def test_the_plugin_that_is_not_installed_is_found_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda group: ())
    (check,) = check_plugin()
    assert check.status == "FAIL"
    assert "-e ." in check.fix


def test_a_plugin_that_fails_to_import_shows_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("medical_selfplay", "recipe.medical_selfplay.gone", "verl.plugins")
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: (point,) if group == "verl.plugins" else ()
    )
    (check,) = check_plugin()
    assert check.status == "FAIL"
    assert "recipe.medical_selfplay.gone" in check.detail


def test_the_plugin_has_registered_everything_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    # The entry point is given here, so that the project need not be installed to be tested.
    point = metadata.EntryPoint("medical_selfplay", plugin_module(), "verl.plugins")
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: (point,) if group == "verl.plugins" else ()
    )
    checks = {check.what: check.status for check in check_plugin()}
    assert checks == dict.fromkeys(
        ("plugin", "agent loop", "advantage estimators", "platform"), "ok"
    )


def plugin_module() -> str:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["entry-points"]["verl.plugins"]["medical_selfplay"])


def test_a_name_that_is_not_registered_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("medical_selfplay", plugin_module(), "verl.plugins")
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: (point,) if group == "verl.plugins" else ()
    )
    monkeypatch.setattr(installation, "ESTIMATORS", ("role_grpo", "role_of_the_dice"))
    failed = [check for check in check_plugin() if check.status == "FAIL"]
    assert [check.what for check in failed] == ["advantage estimators"]
    assert "role_of_the_dice not registered" in failed[0].detail


def test_too_little_disk_space_fails_with_the_figures(tmp_path: Path) -> None:
    assert check_disk(tmp_path, min_free_gb=0).status == "ok"
    check = check_disk(tmp_path, min_free_gb=1e9)
    assert check.status == "FAIL"
    assert "GB needed" in check.detail


def test_every_algorithm_composes_with_every_hardware_and_passes_verls_checks(
    tiny_model: Path,
) -> None:
    checks = list(check_configs(ROOT / "configs", tiny_model))
    hardware = sorted(path.stem for path in (ROOT / "configs" / "hardware").glob("*.yaml"))
    assert len(hardware) >= 4
    for name in ("medical_grpo", "medical_ppo", "medical_reinforce_pp"):
        for machine in hardware:
            assert Check("ok", f"{name} hardware={machine}", "composes, verl accepts it") in checks
    assert [check for check in checks if check.status != "ok"] == []


def test_a_broken_configuration_is_named_and_the_others_are_still_checked(
    configs: Path, tiny_model: Path
) -> None:
    with (configs / "hardware" / "cpu.yaml").open("a") as stream:
        stream.write("\nno_such_option_anywhere: ${nowhere.at.all}\n")
    checks = {check.what: check for check in check_configs(configs, tiny_model)}
    broken = checks["medical_grpo hardware=cpu"]
    assert broken.status == "FAIL"
    assert "nowhere" in broken.detail
    assert "hardware/cpu.yaml" in broken.fix
    assert checks["medical_grpo hardware=gpu_48gb"].status == "ok"


def test_a_value_that_verl_rejects_fails(configs: Path, tiny_model: Path) -> None:
    cpu = configs / "hardware" / "cpu.yaml"
    cpu.write_text(cpu.read_text().replace("use_dynamic_bsz: true", "use_dynamic_bsz: false", 1))
    checks = {check.what: check for check in check_configs(configs, tiny_model)}
    assert checks["medical_grpo hardware=cpu"].status == "FAIL"
    assert "micro_batch_size" in checks["medical_grpo hardware=cpu"].detail


def test_ray_starts_and_is_stopped_again() -> None:
    import ray

    assert check_ray().status == "ok"
    assert not ray.is_initialized()


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("skip", 0), ("FAIL", 1)])
def test_the_script_prints_a_line_a_check_and_exits_1_on_a_failure(
    status: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = [Check("ok", "torch", "2.13.0"), Check(status, "disk", "1 GB", "buy one")]  # type: ignore[arg-type]
    monkeypatch.setattr(installation, "check_all", lambda ray: iter(found))
    monkeypatch.setattr("sys.argv", [str(SCRIPT), "--quick"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert exit_.value.code == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [status, "disk", "1", "GB", "fix:", "buy", "one"]
    assert len(lines) == 3


def test_a_python_without_the_project_gets_a_line_and_no_traceback() -> None:
    bare = [sys.executable, "-I", "-S", str(SCRIPT)]  # no site-packages
    done = subprocess.run(bare, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "has no recipe" in done.stdout
    assert "./setup_env.sh" in done.stdout
    assert done.stderr == ""
