"""A model that has learnt nothing yet: every turn is a forfeit or a broken answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
STEPS, ROWS, SESSIONS = 2, 8, 4


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """The tiny model with random weights."""
    folder = tmp_path / "untrained"
    source = ROOT / "data/tiny_model"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def test_an_untrained_model_does_not_diverge_and_the_log_says_why_it_learns_nothing(
    train: Callable[..., Any], sample_rows: Path, untrained: Path
) -> None:
    run = train(
        f"data_dir={sample_rows}",
        f"actor_rollout_ref.model.path={untrained}",
        f"trainer.total_training_steps={STEPS}",
        f"data.train_batch_size={ROWS}",
        f"actor_rollout_ref.rollout.n={SESSIONS}",
        "trainer.save_freq=-1",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
    )
    assert run.wait() == 0, run.tail()
    log = run.log.read_text(errors="replace")
    for step, games in run.games().items():
        assert len(games) == ROWS * SESSIONS
        turns = [turn for game in games for turn in game["turns"]]
        assert any(turn["trained"] for turn in turns)
        assert {turn["reward"] for turn in turns} == {-1.0}
        for role in ("attacker", "assessor"):
            groups = f"groups of the {role} are equal"
            assert any(f"step {step}:" in line and groups in line for line in log.splitlines())
    for step, figures in run.metrics().items():
        for name, value in figures.items():
            assert not isinstance(value, float) or math.isfinite(value), (step, name, value)
        assert figures["actor/grad_norm"] == 0.0
    assert sorted(run.metrics()) == list(range(1, STEPS + 1))
