"""What a self-play step costs beside a step of verl's stock single-turn loop.

One real ``python -m verl.trainer.main_ppo`` run on the CPU (``medical_grpo``, ``hardware=cpu``)
trains a self-play step, then a stock step, and so on: the same processes, engine, weights and
optimizer, so that neither start-up nor a busy machine favours one of them. Half of the games of a
self-play step are adversarial, so B rows played n times give 1.5 B n trajectories. The stock step
trains as many: B rows, 1.5 n responses each, a third of them to the attackers' and two thirds to
the assessors' prompts of the same notes.

==================  ==============================  ======================================
                    self-play step                  stock step
==================  ==============================  ======================================
agent loop          medical_selfplay                verl's single_turn_agent
reward              medical_selfplay, judge         verl's naive manager, a trivial score
sampling a batch    roles, game log and metrics     verl's ReplayBuffer
advantages          role_grpo                       verl's compute_grpo_outcome_advantage
held equal          trajectories (but for forfeits), prompts, mini- and micro-batches, model,
                    temperature, token limits, how often finished rows are looked for
==================  ==============================  ======================================

Response lengths are what the model samples, so times are divided by the response tokens that were
generated and trained in the step. A forfeit spares the assessor's turn, and verl pads what is
missing: that costs self-play time without tokens, and is counted against it. The first step of each
kind is left out.

The last line, ``ratio: X``, is the stock step's median time per token over ours; 1 means that
self-play costs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medical_team.atomic_files import replacing
from medical_team.dataset.rows import parquet_schema, training_row
from medical_team.medec import Case, read_medec
from medical_team.medical_game_manager import GameType
from medical_team.prompts import PromptStyle

ROOT = Path(__file__).resolve().parents[1]
HOOKS = "pkg://step_overhead_hooks"
AGENT_LOOP = {"name": "stock_single_turn", "_target_": "step_overhead_hooks.StockSingleTurn"}
WAYS = ("self-play", "stock")
PARTS = {
    "gen": "timing_s/gen",
    "old_log_prob": "timing_s/old_log_prob",
    "update_actor": "timing_s/update_actor",
}
MARK = "MEDICAL_SELFPLAY_BENCHMARK"


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small batches, few steps")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--model", type=Path, default=ROOT / "data/tiny_model", help="its folder")
    parser.add_argument("--rows", type=int, help="rows of a step (24), a multiple of 12")
    parser.add_argument("--sessions", type=int, help="games of a row (8), an even number")
    parser.add_argument("--pairs", type=int, help="counted pairs of steps (10)")
    parser.add_argument("--timeout", type=int, default=1200, help="of the run, in seconds (1200)")
    args = parser.parse_args()
    rows = args.rows or (12 if args.quick else 24)
    sessions = args.sessions or (4 if args.quick else 8)
    pairs = args.pairs or (3 if args.quick else 10)
    if rows % 12 or sessions % 2:
        parser.error(
            f"--rows {rows} --sessions {sessions}: expected a multiple of 12 (four game types in"
            " one step, three parts in the other) and an even number (1.5 times as many responses)"
        )
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "train.parquet"
        write_rows(data, rows, sessions, pairs + 1)
        # JSON is YAML; a file is how verl is told of an agent loop that no plugin registers.
        (Path(folder) / "agent_loops.yaml").write_text(json.dumps([AGENT_LOOP]), encoding="utf-8")
        overrides = overrides_of(args.model, data, Path(folder), rows, sessions, 2 * (pairs + 1))
        metrics = Path(folder) / "metrics.jsonl"
        train(overrides, metrics, Path(folder) / "log.txt", args.timeout)
        lines = metrics.read_text(encoding="utf-8").splitlines()
    report = summary([json.loads(line) for line in lines])
    report |= {"rows": rows, "sessions": sessions, "pairs": pairs}
    show(report)
    if args.json:
        with replacing(args.json) as stream:
            json.dump(report, stream, indent=2)
    print(f"ratio: {report['ratio']:.2f}")


def write_rows(path: Path, rows: int, sessions: int, pairs: int) -> None:
    """Writes the rows of all steps in the order in which they are trained.

    Args:
        path: the Parquet file.
        rows: rows of a step.
        sessions: games of a self-play row.
        pairs: number of self-play steps, each followed by a stock step.
    """
    import pyarrow as pa
    from pyarrow import parquet

    cases = list(read_medec(ROOT / "data/sample/train.csv", "train"))
    types = list(GameType)
    table: list[dict[str, Any]] = []
    for pair in range(pairs):
        at = pair * rows
        chosen = [cases[(at + i) % len(cases)] for i in range(rows)]
        games = [types[i % len(types)] for i in range(rows)]
        table += [row_of(*one, sessions) for one in zip(chosen, games, strict=True)]
        table += stock_rows(chosen, games, sessions * 3 // 2)
    for index, row in enumerate(table):
        row["extra_info"]["index"] = index
    schema = parquet_schema().append(pa.field("__rollout_n__", pa.int64()))
    parquet.write_table(pa.Table.from_pylist(table, schema), path)


def row_of(case: Case, game_type: GameType, sessions: int) -> dict[str, Any]:
    """A row with the number of sessions that verl plays of it."""
    row = training_row(case, game_type, 0, PromptStyle.COMPACT)
    return {**row, "__rollout_n__": sessions}


def stock_rows(
    cases: Sequence[Case], games: Sequence[GameType], sessions: int
) -> list[dict[str, Any]]:
    """As many single-turn rows: a third attackers' prompts, two thirds assessors'.

    An adversarial game's assessor reads the source note here, which differs from what it would read
    in a game by one sentence.
    """
    assessors = {True: GameType.VANILLA_HARMFUL, False: GameType.VANILLA_BENIGN}
    pairs = list(zip(cases, games, strict=True))
    attacked = [pair for pair in pairs if pair[1].adversarial][: len(pairs) // 3]
    read = [(case, assessors[game.harmful_source]) for case, game in pairs][: len(pairs) * 2 // 3]
    rows = [row_of(*pair, sessions) for pair in (*attacked, *read)]
    return [{**row, "agent_name": AGENT_LOOP["name"]} for row in rows]


def overrides_of(
    model: Path, data: Path, folder: Path, rows: int, sessions: int, steps: int
) -> dict[str, object]:
    """The run's settings beside those of ``medical_grpo`` with ``hardware=cpu``."""
    return {
        "hardware": "cpu",
        "run_dir": folder / "run",
        "data.train_files": data,
        "data.val_files": data,
        "data.shuffle": "false",
        "data.filter_overlong_prompts": "false",
        "data.train_batch_size": rows,
        "actor_rollout_ref.model.path": model,
        "actor_rollout_ref.rollout.n": sessions,
        "actor_rollout_ref.rollout.agent.agent_loop_config_path": folder / "agent_loops.yaml",
        "actor_rollout_ref.actor.ppo_mini_batch_size": rows // 2,
        # A third of a step's trajectories at once, as the defaults of hardware=cpu have it.
        "actor_rollout_ref.rollout.max_num_seqs": rows * sessions // 2,
        # Answers must stay as long as they are: both kinds of step decode with the same weights.
        "actor_rollout_ref.actor.optim.lr": 1e-7,
        "algorithm.adv_estimator": "alternating_grpo",
        "reward.reward_manager.source": "importlib",
        "reward.reward_manager.module.path": HOOKS,
        "reward.reward_manager.name": "AlternatingRewardManager",
        "trainer.v1.sampler.custom_sampler.path": HOOKS,
        "trainer.v1.sampler.custom_sampler.name": "AlternatingReplayBuffer",
        "trainer.total_training_steps": steps,
        "trainer.val_before_train": "false",
        "trainer.test_freq": -1,
        "trainer.save_freq": -1,
        "trainer.logger": "[file]",
    }


def train(overrides: dict[str, object], metrics: Path, log: Path, timeout: float) -> None:
    """Runs verl's trainer in processes of its own and ends them all.

    Args:
        overrides: the run's settings.
        metrics: file for the metrics, one line a step.
        log: file for the output.
        timeout: longest run, in seconds.

    Raises:
        SystemExit: if it fails or takes too long; the end of its output has been shown.
    """
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-dir", "configs"]
    command += ["--config-name", "medical_grpo", *(f"{k}={v}" for k, v in overrides.items())]
    # The checks before a self-play run refuse, rightly, whatever is not self-play's own.
    command += ["~hydra.callbacks.medical_selfplay"]
    mark = uuid.uuid4().hex
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(__file__).parent),  # where verl finds HOOKS
        "VERL_FILE_LOGGER_PATH": str(metrics),
        MARK: mark,
    }
    with log.open("w", encoding="utf-8") as output:
        run = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = run.wait(timeout)
            failure = f"exit code {code}" if code else None
        except subprocess.TimeoutExpired:
            failure = f"not done after {timeout:.0f} s; give it longer with --timeout"
        finally:
            end_processes(mark)
    if failure:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
        print("\n".join(tail), file=sys.stderr)
        raise SystemExit(f"the training run failed: {failure}; the end of its output is above")


def end_processes(mark: str) -> None:
    """Kills whatever the run left, Ray's daemons too, by the mark in their environment."""
    import psutil

    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                process.send_signal(signal.SIGKILL)
                left.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    psutil.wait_procs(left, timeout=10)


def summary(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of both kinds of step.

    Args:
        steps: the lines of verl's metrics file.
    """
    counted = [line["data"] for line in steps if "timing_s/step" in line["data"]][len(WAYS) :]
    ways = {way: [figures_of(step) for step in counted[i::2]] for i, way in enumerate(WAYS)}
    medians = {
        way: {name: statistics.median(step[name] for step in found) for name in found[0]}
        for way, found in ways.items()
    }
    ours, stock = (medians[way]["ms_per_token"] for way in WAYS)
    return {"ratio": stock / ours, "median": medians, "steps": ways}


def figures_of(step: dict[str, float]) -> dict[str, float]:
    """What is reported of one step: seconds, their split, and what was trained."""
    parts = {name: step[key] for name, key in PARTS.items()}
    seconds = step["timing_s/step"]
    tokens = step["benchmark/trajectories"] * step["response_length/mean"]
    return {
        "trajectories": step["benchmark/trajectories"],
        "response_tokens": tokens,
        "prompt_tokens": step["benchmark/trajectories"] * step["prompt_length/mean"],
        "seconds": seconds,
        **parts,
        "rest": seconds - sum(parts.values()),
        "ms_per_token": 1000 * seconds / tokens,
    }


def show(report: dict[str, Any]) -> None:
    """Prints the table."""
    table = Table(
        title=f"median of {report['pairs']} steps of each kind, {report['rows']} rows,"
        f" {report['sessions']} games a row"
    )
    table.add_column("a step")
    for way in WAYS:
        table.add_column(way, justify="right")
    for name in report["median"][WAYS[0]]:
        digits = 0 if name.endswith(("trajectories", "tokens")) else 2
        table.add_row(name, *(f"{report['median'][way][name]:.{digits}f}" for way in WAYS))
    Console().print(table)


if __name__ == "__main__":
    main()
