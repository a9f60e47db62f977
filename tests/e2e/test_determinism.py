"""Two runs with one seed play the same games and log the same figures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

STEPS = 5
SETTINGS = (
    f"trainer.total_training_steps={STEPS}",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
    "data.train_batch_size=8",
    "archive.fraction=0.5",
    "game.assessor_samples=2",
)
# Times, rates and memory differ from run to run, as does how the judge's queue was filled.
MEASURED = re.compile(r"timing|perf/|seconds|throughput|judge/batch_size|memory|mfu")


def played(game: dict[str, Any]) -> tuple[Any, ...]:
    """A game without the trainer's random row id and what it took."""
    turns = [
        {name: value for name, value in turn.items() if name != "seconds"} for turn in game["turns"]
    ]
    return game["case_id"], game["game_type"], game["session"], game["attack_id"], turns


def test_two_runs_with_one_seed_are_the_same_run(
    train: Callable[..., Any], sample_rows: Path
) -> None:
    runs = []
    for folder in ("one", "two"):
        run = train(*SETTINGS, f"data_dir={sample_rows}", folder=folder)
        assert run.wait() == 0, run.tail()
        runs.append(run)
    one, two = (run.games() for run in runs)
    assert sorted(one) == sorted(two) == list(range(1, STEPS + 1))
    assert any(game["attack_id"] for game in one[STEPS])
    for step, games in one.items():
        assert [played(game) for game in games] == [played(game) for game in two[step]], step
    first, second = (run.metrics() for run in runs)
    compared = 0
    for step, figures in first.items():
        for name, value in figures.items():
            if not MEASURED.search(name) and isinstance(value, float | int):
                other = second[step][name]
                assert math.isclose(value, other, rel_tol=1e-6, abs_tol=1e-9), (step, name)
                compared += 1
    assert compared > 50 * STEPS
