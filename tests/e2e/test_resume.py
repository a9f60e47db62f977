"""A run that is killed goes on where its last checkpoint was, with the same command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


def rows_of(games: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """The dataset rows that were played; each is played rollout.n = 8 times."""
    counts = Counter((game["case_id"], game["game_type"]) for game in games)
    assert set(counts.values()) == {8}
    return Counter(dict.fromkeys(counts, 1))


def test_kill_and_resume_plays_every_row_of_the_epoch_once(
    train: Callable[..., Any], sample_rows: Path
) -> None:
    overrides = (
        f"data_dir={sample_rows}",
        "trainer.total_training_steps=6",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=2",
    )
    killed = train(*overrides)
    killed.wait_for(killed.folder / "games" / "train" / "step_000004.jsonl")
    killed.kill()
    before = killed.games()
    assert killed.metrics().keys() >= {1, 2}

    resumed = train(*overrides)
    assert resumed.wait() == 0, resumed.tail()
    games = resumed.games()
    assert sorted(games) == [1, 2, 3, 4, 5, 6]
    assert sorted(resumed.metrics()) == [1, 2, 3, 4, 5, 6]
    assert games[1] == before[1]
    assert games[2] == before[2]
    # 96 rows, 16 a step: over the epoch every row exactly once, also across the kill.
    played = sum((rows_of(games[step]) for step in games), Counter())
    assert len(played) == 96
    assert set(played.values()) == {1}
    # The step that was lost is played again with the same rows.
    assert rows_of(games[4]) == rows_of(before[4])

    again = train(*overrides, "trainer.total_training_steps=6")
    assert again.wait() == 0, again.tail()
    assert again.games() == games, "a finished run trains nothing more"
    assert sorted(again.metrics()) == [1, 2, 3, 4, 5, 6]


def test_a_folder_of_another_run_is_refused_before_anything_starts(
    train: Callable[..., Any], sample_rows: Path
) -> None:
    overrides = (
        f"data_dir={sample_rows}",
        "trainer.total_training_steps=1",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=1",
    )
    assert train(*overrides).wait() == 0
    other = train(*overrides, "actor_rollout_ref.actor.optim.lr=0.5")
    assert other.wait() == 1
    assert "belongs to a run with other settings" in other.tail()
    assert "actor_rollout_ref.actor.optim.lr" in other.tail()
    assert "Traceback" not in other.tail()
