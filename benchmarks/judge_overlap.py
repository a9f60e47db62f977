"""What judging adds to a step: asked as each game ends, as the recipe does, or after the rollout.

The same games with the same forced lengths are played three times on one engine, this project's CPU
rollout server (see turn_overlap.py): without a judge, with the judge asked as soon as each game is
over, and with all games judged once the last is over. What a step takes beyond the first is what
judging adds to it.

Two judges. ``elsewhere`` stands for a judge that computes on another device: the reference judge
with ``--judge-ms`` of waiting for each batch of at most 16 games, batches one after another.
``same cores`` is the transformers back end with a random model on the CPU cores that also generate,
so that overlapping can save waiting but no computing.

The last line, ``ratio: X``, is the step's time with judging afterwards over ours, for the judge
elsewhere, the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from turn_overlap import (
    ROOT,
    Arena,
    PlannedGame,
    SlowedJudge,
    TurnLengths,
    metered_server,
    plan_games,
)

from medical_team.atomic_files import replacing
from medical_team.judges import build_judge
from medical_team.judges.batching import BatchingQueue
from medical_team.judges.reference import ReferenceJudge
from medical_team.judges.settings import TransformersSettings
from medical_team.medical_judge import Judge

if TYPE_CHECKING:
    from recipe.medical_selfplay.cpu.rollout import CpuRolloutServer

BATCH = 16


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds, 48 games")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--games", type=int, help="of a round (96); 4 types")
    parser.add_argument("--rounds", type=int, help="rounds, each with lengths of its own (5)")
    parser.add_argument("--judge-ms", type=float, default=250, help="cost of a batch (250)")
    args = parser.parse_args()
    games = args.games or (48 if args.quick else 96)
    if games % 4:
        parser.error(f"--games {games}: expected a multiple of 4, one for each game type")
    os.environ["HF_HUB_OFFLINE"] = "1"
    rounds = args.rounds or (2 if args.quick else 5)
    report = asyncio.run(compare(games, rounds, args.judge_ms / 1000))
    show(report)
    if args.json:
        with replacing(args.json) as stream:
            json.dump(report, stream)
    print(f"ratio: {report['elsewhere']['ratio']:.2f}")


async def play(arena: Arena, plans: Sequence[PlannedGame], judged: str) -> None:
    """Plays all games; ``judged`` says when: ``never``, ``ours`` (as each ends) or ``after``."""

    async def game(plan: PlannedGame) -> None:
        await arena.play(plan.attack)
        await arena.play(plan.assessment)
        if judged == "ours":
            await arena.judge(plan.query)

    await asyncio.gather(*map(game, plans))
    if judged == "after":
        await asyncio.gather(*(arena.judge(plan.query) for plan in plans))


async def compare(games: int, rounds: int, judge_s: float) -> dict[str, Any]:
    """Times the three ways by turns, with each judge."""
    from transformers import AutoTokenizer

    from recipe.medical_selfplay.tiny.random_models import write_random_model

    model = ROOT / "data" / "tiny_model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    server, _ = metered_server(model, 64, 0.0)
    plans = [plan_games(games, TurnLengths(60, 1.0, seed), tokenizer) for seed in range(rounds)]
    report: dict[str, Any] = {"games": games, "rounds": rounds, "judge_ms": judge_s * 1000}
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(Path(folder) / "judge", "qwen3", hidden_size=128, layers=4)
        judges: dict[str, Judge] = {
            "elsewhere": SlowedJudge(ReferenceJudge(), judge_s),
            "same cores": build_judge(
                TransformersSettings(
                    model=f"{folder}/judge", device="cpu", dtype="float32", min_label_mass=0.0
                )
            ),
        }
        for name, judge in judges.items():
            queue = BatchingQueue([judge], max_batch=BATCH, max_wait_ms=5)
            await play(Arena(server, queue), plans[0], "ours")  # warm
            report[name] = summary([await timed(server, queue, one) for one in plans])
            await queue.close()
    return report


async def timed(
    server: CpuRolloutServer, queue: BatchingQueue, plans: Sequence[PlannedGame]
) -> dict[str, float]:
    """Seconds of a step in each of the three ways."""

    async def seconds(step: Coroutine[Any, Any, None]) -> float:
        started = time.perf_counter()
        await step
        return time.perf_counter() - started

    ways = ("never", "ours", "after")
    return {way: await seconds(play(Arena(server, queue), plans, way)) for way in ways}


def summary(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians over the rounds."""
    return {
        "rollout_s": statistics.median(one["never"] for one in rounds),
        "added_ours_s": statistics.median(one["ours"] - one["never"] for one in rounds),
        "added_after_s": statistics.median(one["after"] - one["never"] for one in rounds),
        "ratio": statistics.median(one["after"] / one["ours"] for one in rounds),
    }


def show(report: dict[str, Any]) -> None:
    """Prints the table."""
    table = Table(title=f"{report['games']} games, median of {report['rounds']} rounds")
    for name in ("judge", "rollout (s)", "added, ours (s)", "added, after rollout (s)", "ratio"):
        table.add_column(name, justify="right")
    for name in ("elsewhere", "same cores"):
        figures = report[name]
        keys = ("rollout_s", "added_ours_s", "added_after_s", "ratio")
        table.add_row(name, *(f"{figures[key]:.2f}" for key in keys))
    Console().print(table)


if __name__ == "__main__":
    main()
