"""The short form: what it maps to, what it refuses, and how it starts verl."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from recipe.medical_selfplay.installation import compose
from recipe.medical_selfplay.short_form import (
    CONFIG_DIR,
    ShortForm,
    ShortFormError,
    known_keys,
    read_short_form,
    verl_command,
)

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train_medical_verl.py"

EVERY_KEY = {
    "experiment_name": "it's {a}, b=c\\",
    "data_dir": "/data/my notes",
    "hardware": "cpu",
    "judge": "reference",
    "rewards": "medical_general_sum",
    "model": {"path": "Qwen/Qwen2.5-3B-Instruct"},
    "algorithm": {"name": "ppo", "gamma": 0.99, "lam": 0.9},
    "game": {"attacker": "rewrite", "assessor_samples": 3},
    "rollout": {
        "batch_size": 12,
        "n": 2,
        "temperature": 0.7,
        "max_prompt_length": 100,
        "max_response_length": 50,
    },
    "train": {
        "batch_size": 6,
        "learning_rate": 2e-6,
        "num_epochs": 3,
        "num_steps": 17,
        "validate_every": 5,
        "save_every": 4,
    },
}


def write(folder: Path, text: str) -> Path:
    path = folder / "short.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def error_of(path: Path) -> str:
    with pytest.raises(ShortFormError) as caught:
        read_short_form(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def run_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=ROOT,
        env=environment or None,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_key_arrives_under_verls_name() -> None:
    form = ShortForm.model_validate(EVERY_KEY)
    command = verl_command(form, [])
    name = command[command.index("--config-name") + 1]
    overrides = command[command.index("--config-name") + 2 :]
    assert len(overrides) == len(known_keys()) - 1  # algorithm.name chooses the file

    config = compose(CONFIG_DIR, name, overrides)
    assert name == "medical_ppo"
    assert config.trainer.experiment_name == "it's {a}, b=c\\"
    assert config.data.train_files == "/data/my notes/train.parquet"
    assert config.trainer.device == "cpu"
    assert config.rewards.table == "medical_general_sum"
    assert config.actor_rollout_ref.model.path == "Qwen/Qwen2.5-3B-Instruct"
    assert (config.algorithm.gamma, config.algorithm.lam) == (0.99, 0.9)
    assert (config.game.attacker, config.game.assessor_samples) == ("rewrite", 3)
    assert (config.data.train_batch_size, config.actor_rollout_ref.rollout.n) == (12, 2)
    assert config.actor_rollout_ref.rollout.temperature == 0.7
    assert (config.data.max_prompt_length, config.data.max_response_length) == (100, 50)
    assert config.actor_rollout_ref.actor.ppo_mini_batch_size == 6
    assert config.critic.ppo_mini_batch_size == 6
    assert config.actor_rollout_ref.actor.optim.lr == 2e-6
    assert (config.trainer.total_epochs, config.trainer.total_training_steps) == (3, 17)
    assert (config.trainer.test_freq, config.trainer.save_freq) == (5, 4)


@pytest.mark.parametrize("name", ["grpo", "reinforce_pp", "ppo"])
def test_the_algorithm_chooses_a_configuration_that_exists(tmp_path: Path, name: str) -> None:
    form = read_short_form(write(tmp_path, f"algorithm: {{name: {name}}}"))
    command = verl_command(form, [])
    assert command[-1] == f"medical_{name}"
    assert (CONFIG_DIR / f"medical_{name}.yaml").is_file()


def test_what_is_left_out_or_null_is_not_overridden(tmp_path: Path) -> None:
    assert read_short_form(write(tmp_path, "")).overrides() == {}
    assert read_short_form(write(tmp_path, "model: {path: null}")).overrides() == {}


def test_the_example_file_is_valid_and_runs_on_the_cpu() -> None:
    form = read_short_form(CONFIG_DIR / "verl_config.yaml")
    assert form.hardware == "cpu"
    assert form.without_effect() == []


def test_an_override_on_the_command_line_wins_over_the_file() -> None:
    form = ShortForm.model_validate({"hardware": "cpu", "rollout": {"batch_size": 4}})
    command = verl_command(form, ["hardware=gpu_96gb", "++data.train_batch_size=8"])
    assert command[-2:] == ["hardware=gpu_96gb", "++data.train_batch_size=8"]
    assert not {"hardware=cpu", "data.train_batch_size=4"} & set(command)


@pytest.mark.parametrize(
    "text", ["true", "null", "12", "1e3", "a b", "x,y", "'", "\\'", "[a]", "~/m"]
)
def test_text_stays_text_through_hydras_grammar(text: str) -> None:
    form = ShortForm.model_validate({"experiment_name": text})
    parsed = OverridesParser.create().parse_override(verl_command(form, [])[-1])
    assert parsed.value() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("algorithm: {gama: 1.0}", "algorithm.gama: unknown key, did you mean algorithm.gamma?"),
        ("batch_size: 4", "did you mean rollout.batch_size or train.batch_size?"),
        ("zzz: 4", "zzz: unknown key\nknown keys: experiment_name, "),
        ("rollout: {batch_size: -1}", "rollout.batch_size: found -1, it should be greater than 0"),
        ("rollout: {batch_size: '8'}", "rollout.batch_size: found '8', it should be a valid int"),
        ("rollout: {n: true}", "rollout.n: found True, it should be a valid integer"),
        ("train: {learning_rate: 0}", "train.learning_rate: found 0, it should be greater than 0"),
        ("train: {learning_rate: .nan}", "train.learning_rate: found nan"),
        ("algorithm: {lam: 1.5}", "algorithm.lam: found 1.5"),
        ("algorithm: {name: dpo}", "algorithm.name: found 'dpo', known: grpo, reinforce_pp, ppo"),
        ("hardware: tpu", "hardware: found 'tpu', known: cpu, gpu_48gb"),
        ("judge: oracle", "judge: found 'oracle', known: "),
        ("rewards: big", "rewards: found 'big', known: "),
        ("model: gpt2", "model: found 'gpt2', expected a mapping"),
        ("- model", "the file: found ['model'], expected a mapping"),
        ("model: [", "not a readable YAML mapping"),
        ("model: {path: '${nowhere}'}", "not a readable YAML mapping"),
    ],
)
def test_a_mistake_is_named_with_what_was_expected(tmp_path: Path, text: str, message: str) -> None:
    assert message in error_of(write(tmp_path, text))


def test_a_missing_file_names_the_example(tmp_path: Path) -> None:
    assert "configs/verl_config.yaml is an example" in error_of(tmp_path / "nope.yaml")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("experiment_name: caf\xe9".encode("latin-1"))
    assert "not a readable YAML mapping" in error_of(path)


def test_a_mini_batch_that_does_not_divide_the_step_is_refused(tmp_path: Path) -> None:
    text = "{rollout: {batch_size: 16}, train: {batch_size: 6}}"
    assert "6 must divide 16" in error_of(write(tmp_path, text))


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    message = error_of(write(tmp_path, "{rollout: {n: 0}, train: {batch_size: 0}, seed: 1}"))
    assert all(key in message for key in ("rollout.n", "train.batch_size", "seed: unknown"))


def test_dry_run_prints_the_command_and_starts_nothing(tmp_path: Path) -> None:
    config = write(tmp_path, "train: {learning_rate: 1e-6}\nalgorithm: {lam: 0.9}")
    done = run_script("--config", str(config), "--dry-run", "trainer.nnodes=2")
    assert done.returncode == 0, done.stderr
    assert "actor_rollout_ref.actor.optim.lr=1e-06 " in done.stdout
    assert done.stdout.rstrip().endswith("trainer.nnodes=2")
    assert "note: algorithm.lam has no effect with grpo" in done.stderr


def test_a_bad_file_exits_2_without_a_traceback(tmp_path: Path) -> None:
    done = run_script("--config", str(write(tmp_path, "seed: 1")))
    assert done.returncode == 2
    assert "seed: unknown key" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_run_is_verls_own_process_with_its_exit_code(tmp_path: Path) -> None:
    fake = tmp_path / "site" / "verl" / "trainer"
    fake.mkdir(parents=True)
    (fake.parent / "__init__.py").touch()
    (fake / "__init__.py").touch()
    (fake / "main_ppo.py").write_text("import sys\nprint(sys.argv[1:])\nsys.exit(7)\n")
    config = write(tmp_path, "hardware: cpu")
    path = f"{fake.parents[1]}:{ROOT}"
    done = run_script("--config", str(config), "trainer.nnodes=2", PYTHONPATH=path)
    assert done.returncode == 7, done.stderr
    arguments = ["--config-dir", str(CONFIG_DIR), "--config-name", "medical_grpo"]
    assert str([*arguments, "hardware=cpu", "trainer.nnodes=2"]) in done.stdout


def test_short_form_files_are_read_as_omegaconf_reads_them(tmp_path: Path) -> None:
    # YAML 1.1 reads 1e-6 as text; a learning rate is often written so.
    path = write(tmp_path, "train: {learning_rate: 1e-6}")
    assert read_short_form(path).train.learning_rate == OmegaConf.load(path).train.learning_rate
