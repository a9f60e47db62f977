"""The same games in two schedules on one engine: each game on its own, and with a turn barrier.

Ours, as the agent loop plays: each game's assessor starts as soon as its own attacker is done, and
the judge is asked as soon as the game is done. The barrier, as Self-RedTeam plays (arXiv
2506.07468): all attackers, then all assessors, then the judge. Vanilla games have no attacker; a
quarter of the games is of each type, as in a training batch.

The engine is this project's CPU rollout server with its continuous batching. Both schedules decode
the same number of tokens: how long each turn is comes from a seeded, long-tailed log-normal
distribution, and generation does not stop before. Such forced responses keep no answer format, so
the games are played beforehand with the case's known change of the note as the attack, and the
schedules decode at the prompts of these games. Prompts are tokenised beforehand too, since verl
does that in another process. The judge is the reference judge behind the real queue, with
``--judge-ms`` added to each batch.

The last line, ``ratio: X``, is wall time with the barrier over ours, the median of the rounds, on
the first engine listed. Beside it stands the ratio of decoding steps. The two differ because a step
of this engine takes longer the more rows it decodes, so that a half-empty engine loses little; a
GPU's step takes nearly the same time with few rows as with many. ``--step-ms`` gives every step at
least that time, which shows what the schedule is worth on such an engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from medical_team.answers import THINK_OPEN, Edit, format_edit, format_response
from medical_team.atomic_files import replacing
from medical_team.judges.batching import BatchingQueue
from medical_team.judges.reference import ReferenceJudge
from medical_team.medec import read_medec
from medical_team.medical_game_manager import Game, GameRules, GameType
from medical_team.medical_judge import Judgement, JudgeQuery, query_of
from medical_team.prompts import Message, PromptStyle

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from recipe.medical_selfplay.cpu.rollout import CpuRolloutServer

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 400
# A prompt of the sample's notes needs about 110 tokens.
MAX_MODEL_LEN = 1024


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the first engine only, two rounds")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--model", type=Path, default=ROOT / "data/tiny_model", help="its folder")
    parser.add_argument("--games", type=int, default=96, help="of a round (96); 4 types")
    parser.add_argument("--rounds", type=int, help="rounds, each with lengths of its own (7)")
    parser.add_argument("--max-num-seqs", type=int, nargs="+", default=[64, 32, 128], metavar="N")
    parser.add_argument("--mean-tokens", type=float, default=60, help="mean length of a turn (60)")
    parser.add_argument("--tail", type=float, default=1.0, help="sigma of the log-normal (1.0)")
    parser.add_argument("--judge-ms", type=float, default=0.0, help="cost of a judge's batch (0)")
    parser.add_argument("--step-ms", type=float, default=0.0, help="least time of a step (0)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not (args.model / "config.json").is_file():
        parser.error(
            f"--model {args.model}: no config.json there; name the folder of a Hugging Face model,"
            " or make data/tiny_model with scripts/make_tiny_model.py"
        )
    count = args.games
    if count % 4:
        parser.error(f"--games {count}: expected a multiple of 4, one for each game type")
    os.environ["HF_HUB_OFFLINE"] = "1"
    seeds = range(args.seed, args.seed + (args.rounds or (2 if args.quick else 7)))
    report = asyncio.run(
        compare(
            args.model,
            count,
            [TurnLengths(args.mean_tokens, args.tail, seed) for seed in seeds],
            slots=args.max_num_seqs[:1] if args.quick else args.max_num_seqs,
            judge_s=args.judge_ms / 1000,
            step_s=args.step_ms / 1000,
        )
    )
    show(report)
    if args.json:
        with replacing(args.json) as stream:
            json.dump({**report, "arguments": {k: str(v) for k, v in vars(args).items()}}, stream)
    print(f"ratio: {report['engines'][0]['ratio']:.2f}")


@dataclass(frozen=True, slots=True)
class TurnLengths:
    """Draws lengths of turns, in tokens.

    Attributes:
        mean: of the log-normal distribution, before it is clipped to 1 ... ``LONGEST``.
        sigma: of its logarithm.
        seed: makes each turn's length depend only on the turn's name.
    """

    mean: float
    sigma: float
    seed: int

    def __call__(self, turn: str) -> int:
        """The length of a turn."""
        drawn = random.Random(f"{self.seed} {turn}").lognormvariate(
            math.log(self.mean) - self.sigma**2 / 2, self.sigma
        )
        return min(max(1, round(drawn)), LONGEST)


@dataclass(frozen=True, slots=True)
class PlannedTurn:
    """A turn to decode."""

    name: str
    prompt_ids: list[int]
    tokens: int


@dataclass(frozen=True, slots=True)
class PlannedGame:
    """A game to play; vanilla games have no attack and need no judge."""

    attack: PlannedTurn | None
    assessment: PlannedTurn
    query: JudgeQuery | None


def plan_games(
    count: int, lengths: TurnLengths, tokenizer: PreTrainedTokenizerBase
) -> list[PlannedGame]:
    """A quarter of each game type, on cases of the sample data."""
    cases = list(read_medec(ROOT / "data/sample/train.csv", "train"))
    types = list(GameType)
    rules = GameRules(prompt_style=PromptStyle.COMPACT)

    def turn(name: str, messages: list[Message]) -> PlannedTurn:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt_ids = tokenizer(text + THINK_OPEN, add_special_tokens=False)["input_ids"]
        return PlannedTurn(name, prompt_ids, lengths(name))

    plans = []
    for i in range(count):
        game = Game(cases[i % len(cases)], types[i % len(types)], rules)
        attack = None
        if game.awaits_attack:
            attack = turn(f"attack {i}", game.attacker_messages())
            game.play_attack(known_attack(game))
        assessment = turn(f"assessment {i}", game.assessor_messages())
        game.play_assessment("", truncated=True)
        plans.append(PlannedGame(attack, assessment, attack and query_of(game, f"game {i}")))
    return plans


def known_attack(game: Game) -> str:
    """The attacker's response that puts the case's other sentence in the place of the annotated."""
    case = game.case
    new = case.corrected_sentence if game.game_type.harmful_source else case.error_sentence
    answer = format_edit(Edit(case.error_sentence_id, new))
    return format_response("the known change", answer, think_opened=True)


@dataclass(frozen=True, slots=True)
class SlowedJudge:
    """The reference judge with a fixed cost for each batch."""

    inner: ReferenceJudge
    seconds: float

    @property
    def name(self) -> str:
        """The judge's name."""
        return self.inner.name

    @property
    def fingerprint(self) -> str:
        """The judge's fingerprint."""
        return self.inner.fingerprint

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        """Labels a batch of games."""
        time.sleep(self.seconds)
        return self.inner.judge(queries)

    def close(self) -> None:
        """There is nothing to give back."""


class Arena:
    """Plays on one engine and keeps what was decoded.

    Args:
        server: the engine.
        judge: the queue in front of the judge.
    """

    def __init__(self, server: CpuRolloutServer, judge: BatchingQueue) -> None:
        self._server = server
        self._judge = judge
        self.decoded: dict[str, list[int]] = {}

    async def play(self, turn: PlannedTurn | None) -> None:
        """One turn, if the game has it."""
        if turn is not None:
            # A seed of its own makes a response independent of what else is in the batch.
            seed = random.Random(turn.name).getrandbits(32)
            sampling = {"max_tokens": turn.tokens, "ignore_eos": True, "seed": seed}
            output = await self._server.generate(turn.prompt_ids, sampling, turn.name)
            self.decoded[turn.name] = output.token_ids

    async def judge(self, query: JudgeQuery | None) -> None:
        """The verdict, if the game needs one."""
        if query is not None:
            await self._judge.judge(query)


async def play_overlapped(arena: Arena, plans: Sequence[PlannedGame]) -> None:
    """Each game runs on by itself."""

    async def play(plan: PlannedGame) -> None:
        await arena.play(plan.attack)
        await arena.play(plan.assessment)
        await arena.judge(plan.query)

    await asyncio.gather(*map(play, plans))


async def play_with_barrier(arena: Arena, plans: Sequence[PlannedGame]) -> None:
    """No turn starts before all turns of the kind before it are done."""
    await asyncio.gather(*(arena.play(plan.attack) for plan in plans))
    await asyncio.gather(*(arena.play(plan.assessment) for plan in plans))
    await asyncio.gather(*(arena.judge(plan.query) for plan in plans))


SCHEDULES: dict[str, Callable[[Arena, Sequence[PlannedGame]], Awaitable[None]]] = {
    "ours": play_overlapped,
    "barrier": play_with_barrier,
}


async def compare(
    model: Path,
    games: int,
    draws: Sequence[TurnLengths],
    *,
    slots: Sequence[int],
    judge_s: float,
    step_s: float,
) -> dict[str, Any]:
    """Plays the games in both schedules, by turns, on engines of several sizes.

    Args:
        model: folder of the model.
        games: number of games in a round.
        draws: each round's lengths; the first round is played once more before, uncounted.
        slots: how many requests an engine decodes at once, one engine after another.
        judge_s: cost of each of the judge's batches, in seconds.
        step_s: least time of a decoding step, in seconds.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rounds = [plan_games(games, lengths, tokenizer) for lengths in draws]
    slowed = SlowedJudge(ReferenceJudge(), judge_s)
    judge = BatchingQueue([slowed], max_batch=32, max_wait_ms=5)
    engines = []
    for max_num_seqs in slots:
        server, rows = metered_server(model, max_num_seqs, step_s)
        await play_overlapped(Arena(server, judge), rounds[0])
        played = [await play_round(server, rows, judge, plans) for plans in rounds]
        engines.append(summary(max_num_seqs, played))
    return {
        "games": games,
        "rounds": len(draws),
        "judge_ms": judge_s * 1000,
        "step_ms": step_s * 1000,
        "engines": engines,
    }


async def play_round(
    server: CpuRolloutServer, rows: list[int], judge: BatchingQueue, plans: Sequence[PlannedGame]
) -> dict[str, dict[str, float]]:
    """Plays the same games in both schedules.

    Returns:
        For each schedule its seconds, decoding steps, rows per step and tokens.

    Raises:
        SystemExit: if a turn has more tokens in one schedule than in the other.
    """
    figures: dict[str, dict[str, float]] = {}
    decoded: list[dict[str, list[int]]] = []
    for name, schedule in SCHEDULES.items():
        arena = Arena(server, judge)
        rows.clear()
        started = time.perf_counter()
        await schedule(arena, plans)
        figures[name] = {
            "seconds": time.perf_counter() - started,
            "steps": len(rows),
            "rows": statistics.fmean(rows),
            "tokens": sum(map(len, arena.decoded.values())),
        }
        decoded.append(arena.decoded)
    ours, barrier = decoded
    for turn in ours.keys() | barrier.keys():
        found = [len(way.get(turn, ())) for way in decoded]
        if found[0] != found[1]:
            raise SystemExit(
                f"{turn}: {found[0]} tokens in our schedule, {found[1]} with the barrier; expected"
                " the same, so the two wall times cannot be compared"
            )
    figures["ours"]["same_turns"] = sum(ours[turn] == barrier[turn] for turn in ours) / len(ours)
    return figures


def metered_server(
    model: Path, max_num_seqs: int, step_s: float
) -> tuple[CpuRolloutServer, list[int]]:
    """An engine, and a list to which it adds the rows of every decoding step."""
    import torch

    with warnings.catch_warnings(action="ignore"):  # verl names every engine that is not installed
        import verl  # noqa: F401  first: it loads the plugin that imports the server

    from recipe.medical_selfplay.cpu.rollout import CpuRolloutServer

    torch.set_num_threads(1)  # as in hardware=cpu; more threads only wait for each other here
    rows: list[int] = []
    server = CpuRolloutServer(str(model), max_num_seqs, MAX_MODEL_LEN)
    batch = server._batch
    step = batch.step

    def metered_step() -> list[Any]:
        if len(batch):
            rows.append(len(batch))
        ends = time.perf_counter() + (step_s if len(batch) else 0)
        complete = step()
        time.sleep(max(0.0, ends - time.perf_counter()))
        return complete

    batch.step = metered_step
    return server, rows


def summary(max_num_seqs: int, rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Medians over the rounds, and of the two schedules' ratio in each round."""

    def median(name: str, key: str) -> float:
        return statistics.median(one[name][key] for one in rounds)

    def ratio(key: str) -> float:
        return statistics.median(one["barrier"][key] / one["ours"][key] for one in rounds)

    return {
        "max_num_seqs": max_num_seqs,
        "ratio": ratio("seconds"),
        "steps_ratio": ratio("steps"),
        "same_turns": min(one["ours"]["same_turns"] for one in rounds),
        "median": {
            name: {key: median(name, key) for key in ("seconds", "steps", "rows", "tokens")}
            for name in SCHEDULES
        },
        "rounds": list(rounds),
    }


def show(report: dict[str, Any]) -> None:
    """Prints the table."""
    table = Table(
        title=f"{report['games']} games, median of {report['rounds']} rounds,"
        f" judge {report['judge_ms']:.0f} ms a batch, step at least {report['step_ms']:.0f} ms"
    )
    for name in ("slots", "schedule", "seconds", "steps", "rows/step", "tokens"):
        table.add_column(name, justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("of steps", justify="right")
    for engine in report["engines"]:
        for name, median in engine["median"].items():
            ratios = (f"{engine[key]:.2f}" for key in ("ratio", "steps_ratio"))
            table.add_row(
                str(engine["max_num_seqs"]),
                name,
                f"{median['seconds']:.2f}",
                f"{median['steps']:.0f}",
                f"{median['rows']:.1f}",
                f"{median['tokens']:.0f}",
                *(ratios if name == "ours" else ()),
            )
    console = Console()
    console.print(table)
    same = min(engine["same_turns"] for engine in report["engines"])
    console.print(f"turns with the same tokens in both schedules: {same:.1%}")


if __name__ == "__main__":
    main()
