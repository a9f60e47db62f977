"""A supervised start with verl's own SFT trainer: trained, resumed, exported, played."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medical_team.dataset.supervised import SupervisedSet, write_supervised
from medical_team.medec import read_medec
from medical_team.prompts import PromptStyle
from recipe.medical_selfplay.tiny.evaluation import evaluate
from recipe.medical_selfplay.tiny.training import Target, train

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample"


def sft(data: Path, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    command += ["-m", "verl.trainer.sft_trainer", "--config-dir", "configs"]
    command += ["--config-name", "medical_sft", "hardware=cpu"]
    command += [f"data_dir={data}", f"run_dir={folder}", *overrides]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def metrics_of(folder: Path) -> dict[int, dict[str, float]]:
    files = sorted(folder.glob("metrics*.jsonl"))
    assert [file.name for file in files] == ["metrics.from_step_4.jsonl", "metrics.jsonl"]
    entries = [json.loads(line) for file in files for line in file.open()]
    found: dict[int, dict[str, float]] = {}
    for entry in entries:
        found.setdefault(entry["step"], {}).update(entry["data"])
    return found


def test_a_supervised_start_exports_a_model_that_plays(tmp_path: Path) -> None:
    files = {split: SAMPLE / f"{split}.csv" for split in ("train", "val")}
    write_supervised(SupervisedSet(files, PromptStyle.COMPACT), tmp_path / "data")
    run = tmp_path / "run"
    # The second command goes on where the first one stopped.
    for steps in (4, 8):
        total = f"trainer.total_training_steps={steps}"
        done = sft(tmp_path / "data", run, total, "optim.lr=3e-4", "trainer.save_freq=4")
        assert done.returncode == 0, done.stderr[-4000:]
    metrics = metrics_of(run)
    assert set(metrics) == set(range(1, 9))
    assert metrics[8]["train/grad_norm"] > 0
    assert 0 < metrics[8]["val/loss"] < 0.5
    assert (run / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "8"
    assert any((run / "tensorboard").iterdir())
    exported = run / "checkpoints" / "global_step_8" / "huggingface"
    model = AutoModelForCausalLM.from_pretrained(
        exported, local_files_only=True, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(exported, local_files_only=True)
    start = AutoModelForCausalLM.from_pretrained(ROOT / "data/tiny_model", local_files_only=True)
    moved = [
        not torch.equal(one, other)
        for one, other in zip(model.parameters(), start.parameters(), strict=True)
    ]
    assert all(moved)
    cases = list(read_medec(SAMPLE / "val.csv", "val"))[:16]
    scores = evaluate(model, tokenizer, cases, temperature=0.0)
    assert scores.format_kept > 0.95
    assert scores.right_sentence > 0.2


def test_what_would_fail_later_is_told_at_once(tmp_path: Path) -> None:
    done = sft(tmp_path / "none", tmp_path / "run")
    assert done.returncode != 0
    assert "none/train.parquet does not exist" in done.stderr
    assert "scripts/create_sft_data.py" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_tiny_model_is_trained_by_verl_and_scored_at_each_checkpoint(tmp_path: Path) -> None:
    lines: list[str] = []
    cases = list(read_medec(SAMPLE / "val.csv", "val"))[:1]
    train(
        tmp_path / "model",
        cases,
        seed=0,
        max_steps=2,
        target=Target(),
        threads=1,
        log=lines.append,
    )
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    assert loaded.config.vocab_size == len(tokenizer)
    assert loaded.dtype == torch.float32
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id
    assert lines[-1].startswith("step 2")
