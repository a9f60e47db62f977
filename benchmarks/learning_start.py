"""The learning benchmark's supervised start: the embedded model, taught some more worked games.

The embedded model tells wrong drugs and doses no better than chance, and what a model does not know
at all, a short RL run does not teach it. A few hundred steps of verl's SFT trainer on games of the
sample clinic that are drawn afresh (never one of the held-out wrong facts) make a start that knows
a bit of everything.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

from medical_team.dataset.supervised import supervised_row, write_rows
from medical_team.sample_world.supervised import random_example
from recipe.medical_selfplay.tiny.training import BATCH, trainer_command

ROOT = Path(__file__).resolve().parents[1]


def supervised_start(model: Path, steps: int, folder: Path) -> Path:
    """Teaches a model that has not been taught yet; returns the taught one.

    Args:
        model: the embedded model.
        steps: of 16 games each.
        folder: the run's.

    Raises:
        RuntimeError: if verl's trainer fails; the message ends with its log.
    """
    start = folder / "model"
    if (start / "model.safetensors").is_file():
        return start
    rng = random.Random(123)
    games = (random_example(rng) for _ in range(steps * BATCH))
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(
        (supervised_row(game, number, "train", "") for number, game in enumerate(games)),
        folder / "train.parquet",
    )
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    command = trainer_command(
        model, folder, vocabulary, steps, "optim.lr_warmup_steps=30", "trainer.save_freq=-1"
    )
    log = folder / "trainer.log"
    print(f"start: {steps} steps of supervised training, log in {log}", flush=True)
    with log.open("wb") as stream:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    taught = folder / "checkpoints" / f"global_step_{steps}" / "huggingface"
    if done.returncode or not taught.is_dir():
        tail = log.read_text(errors="replace")[-3000:]
        raise RuntimeError(
            f"supervised training ended with {done.returncode}; its log ends:\n{tail}"
        )
    # Tokenizer and settings as they were; the checkpoint's configuration names another dtype.
    partial = folder / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(model, partial)
    shutil.copy(taught / "model.safetensors", partial / "model.safetensors")
    partial.rename(start)
    return start
