"""What a training run leaves behind is what was played, rewarded and trained."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

Game = dict[str, Any]


def trained_turns(games: list[Game]) -> Iterator[tuple[Game, dict[str, Any]]]:
    return ((game, turn) for game in games for turn in game["turns"] if turn["trained"])


def truth_weight(games: list[Game], game: Game, turn: dict[str, Any]) -> float:
    if turn["role"] == "attacker":
        return 1.0
    truths = [
        other["labels"]["error_present"]
        for other, one in trained_turns(games)
        if one["role"] == "assessor"
    ]
    if len(set(truths)) < 2:  # an asynchronous batch may hold one truth only: nothing to balance
        return 1.0
    return len(truths) / (2 * truths.count(game["labels"]["error_present"]))


def group_of(game: Game, turn: dict[str, Any]) -> tuple[Any, ...]:
    several = sum(one["role"] == "assessor" for one in game["turns"]) > 1
    alone = several and turn["role"] == "assessor"
    return (turn["role"], game["uid"], game["session"] if alone else None)


def role_grpo_by_hand(games: list[Game]) -> list[tuple[float, int]]:
    """Advantage and number of tokens of every trained turn."""
    groups = defaultdict(list)
    for game, turn in trained_turns(games):
        groups[group_of(game, turn)].append(turn["reward"])
    found = []
    for game, turn in trained_turns(games):
        rewards = groups[group_of(game, turn)]
        spread = stdev(rewards) if len(rewards) > 1 else 0.0
        advantage = (turn["reward"] - fmean(rewards)) / (spread + 1e-6) if len(rewards) > 1 else 0.0
        found.append((advantage * truth_weight(games, game, turn), turn["response_tokens"]))
    return found


def role_reinforce_pp_by_hand(games: list[Game]) -> list[tuple[float, int]]:
    """Advantage and number of tokens of every trained turn."""
    found = []
    for role in ("attacker", "assessor"):
        played = [(g, t) for g, t in trained_turns(games) if t["role"] == role]
        tokens = sum(turn["response_tokens"] for _, turn in played)
        mean = sum(turn["reward"] * turn["response_tokens"] for _, turn in played) / tokens
        variance = (
            sum((turn["reward"] - mean) ** 2 * turn["response_tokens"] for _, turn in played)
            / tokens
        )
        for game, turn in played:
            advantage = (turn["reward"] - mean) / math.sqrt(variance + 1e-6)
            found.append((advantage * truth_weight(games, game, turn), turn["response_tokens"]))
    return found


def assert_advantages(games: list[Game], metrics: dict[str, float], by_hand: Callable) -> None:
    """verl logs mean, largest and smallest advantage over the trained tokens of a step."""
    advantages = by_hand(games)
    mean = sum(a * n for a, n in advantages) / sum(n for _, n in advantages)
    assert metrics["critic/advantages/mean"] == pytest.approx(mean, abs=2e-4)
    assert metrics["critic/advantages/max"] == pytest.approx(
        max(a for a, _ in advantages), abs=2e-4
    )
    assert metrics["critic/advantages/min"] == pytest.approx(
        min(a for a, _ in advantages), abs=2e-4
    )


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def assert_assessor_saw_only_the_note(game: Game) -> None:
    attack = next((turn for turn in game["turns"] if turn["role"] == "attacker"), None)
    for turn in game["turns"]:
        if turn["role"] != "assessor":
            continue
        prompt = turn["prompt"]
        note = "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(game["note"]))
        assert prompt.count(note) == 1
        rest = prompt.replace(note, "")
        for kind in ("vanilla", "adversarial", "harmful", "benign", game["case_id"]):
            assert kind not in prompt.lower()
        for sentence in game["source"]:
            assert sentence not in rest
            assert sentence in game["note"] or sentence not in prompt
        if attack:
            for line in attack["reasoning"].splitlines():
                assert len(words(line)) < 3 or line.strip() not in prompt


def test_a_grpo_run_logs_and_trains_exactly_what_was_played(grpo_run: Any) -> None:
    run = grpo_run
    metrics, games = run.metrics(), run.games()
    assert sorted(games) == [1, 2, 3]
    for step, played in games.items():
        assert len(played) == metrics[step]["game/count"] == 16 * 8
        assert_advantages(played, metrics[step], role_grpo_by_hand)
        for game in played:
            assert_assessor_saw_only_the_note(game)
        # verl's own dump of the trained rows: same keys, texts and rewards, nothing left out.
        rows = [json.loads(line) for line in (run.folder.parent / "rows" / f"{step}.jsonl").open()]
        dumped = {row["uid"]: row for row in rows if not row["uid"].startswith("pad")}
        logged = {
            f"{game['uid']}_{game['session']}_{i}": turn
            for game in played
            for i, turn in enumerate(game["turns"])
        }
        assert dumped.keys() == logged.keys()
        for key, turn in logged.items():
            assert dumped[key]["score"] == pytest.approx(turn["reward"], abs=1e-6)
            assert words(turn["response"]) == words(dumped[key]["output"])
        assert not [k for k, v in metrics[step].items() if not math.isfinite(v)]
    assert len({turn["reward"] for _, turn in trained_turns(games[1])}) >= 3
    for role in ("attacker", "assessor"):
        for figure in ("reward", "win_rate", "format_violation", "response_tokens"):
            assert f"{role}/{figure}" in metrics[1]
    assert metrics[3]["game/zero_sum_gap"] == 0
    for kind in ("vanilla_harmful", "adversarial_harmful", "vanilla_benign", "adversarial_benign"):
        assert f"val-core/medec/{kind}/acc/mean@1" in metrics[3]
    assert sorted(run.games("val")) == [0, 3]
    assert "Validation" in run.tail()
    assert (run.folder / "config.yaml").is_file()
    assert list((run.folder / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("config", "mode", "fraction", "by_hand"),
    [
        ("medical_reinforce_pp", "sync", 0.0, role_reinforce_pp_by_hand),
        ("medical_grpo", "colocate_async", 0.5, role_grpo_by_hand),
    ],
)
def test_three_assessors_a_note(
    train: Callable[..., Any],
    sample_rows: Path,
    config: str,
    mode: str,
    fraction: float,
    by_hand: Callable,
) -> None:
    run = train(
        f"data_dir={sample_rows}",
        "trainer.total_training_steps=3",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        "game.assessor_samples=3",
        f"archive.fraction={fraction}",
        "algorithm.use_kl_in_reward=false",
        f"trainer.v1.trainer_mode={mode}",
        config=config,
    )
    assert run.wait() == 0, run.tail()
    metrics, games = run.metrics(), run.games()
    for step in (1, 2, 3):
        assert_advantages(games[step], metrics[step], by_hand)
    attacked = [game for game in games[3] if game["note"] and game["game_type"].startswith("adv")]
    fresh = [game for game in attacked if game["attack_id"] is None]
    assert {sum(turn["role"] == "assessor" for turn in game["turns"]) for game in fresh} == {3}
    archived = [game for game in attacked if game["attack_id"] is not None]
    assert bool(archived) is (fraction > 0)
    assert not [turn for game in archived for turn in game["turns"] if turn["role"] == "attacker"]


def test_ppo_trains_actor_and_critic(train: Callable[..., Any], sample_rows: Path) -> None:
    run = train(
        f"data_dir={sample_rows}",
        "rewards=medical_general_sum",
        "game.attacker=rewrite",
        "actor_rollout_ref.actor.use_kl_loss=true",  # with the reference policy
        "trainer.total_training_steps=1",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        config="medical_ppo",
    )
    assert run.wait() == 0, run.tail()
    metrics = run.metrics()[1]
    assert metrics["critic/grad_norm"] > 0
    assert metrics["actor/grad_norm"] > 0
    assert "actor/kl_loss" in metrics


def test_medec_itself_trains(
    train: Callable[..., Any], medec_validation: Path, tmp_path: Path
) -> None:
    from medical_team.dataset.writer import Conversion, convert
    from medical_team.prompts import PromptStyle

    convert(
        Conversion({"train": medec_validation}, prompt_style=PromptStyle.COMPACT), tmp_path / "data"
    )
    run = train(
        f"data_dir={tmp_path / 'data'}",
        "data.max_prompt_length=1024",
        "data.max_response_length=64",
        "data.train_batch_size=8",
        "data.val_max_samples=8",
        "actor_rollout_ref.rollout.n=4",
        "trainer.total_training_steps=2",
        "trainer.val_before_train=false",
        "trainer.test_freq=2",
        "trainer.save_freq=-1",
    )
    assert run.wait() == 0, run.tail()
    assert [len(games) for games in run.games().values()] == [32, 32]
