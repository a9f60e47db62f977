"""Does self-play teach the assessor more than training on gold notes does? Measured on the CPU.

From one supervised start, with the same number of generated tokens, several seeds each:

    start      no RL
    gold       assessor-only RL on gold notes
    frozen     self-play against the attacker of the start, which does not learn
    selfplay   self-play
    archive    self-play with an archive of past attacks and three assessors a note

Every model then assesses notes of cases that no arm has seen: gold errors, errors that the table
states wrongly, and errors by the attackers of the start, of ``selfplay`` and of ``archive``. Each
set holds as many clean notes. Runs are real ones of ``python -m verl.trainer.main_ppo``; one that
is there already is not run again, and a killed one resumes. The last line, ``ratio: X``, is the
balanced accuracy of ``archive`` over that of ``gold`` on the attackers' notes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from learning_players import FixedNote, Player
from rich.console import Console
from rich.table import Table

from medical_team.archive import ArchivedAttack, read_frozen, write_frozen
from medical_team.atomic_files import replacing
from medical_team.medec import Case, read_medec
from medical_team.sample_world.programmatic import programmatic_attacks

ROOT = Path(__file__).resolve().parents[1]
TOKENS_A_TURN = 38.5  # of the start, on the sample world
ROWS, SESSIONS = 32, 8
_RESAMPLES = 2000
VANILLA = "game.game_mix={vanilla_harmful: 1, vanilla_benign: 1}"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training.

    Attributes:
        turns: turns of an average game, by which arms get the same number of tokens.
        overrides: what it sets beside the common settings.
    """

    turns: float
    overrides: tuple[str, ...]


ARMS = {
    "gold": Arm(1.0, (VANILLA,)),
    "frozen": Arm(1.0, ("archive.fraction=1", "archive.file=FROZEN")),
    "selfplay": Arm(1.5, ()),
    "archive": Arm(1.75, ("archive.fraction=0.5", "game.assessor_samples=3")),
}


@dataclass(frozen=True, slots=True)
class Score:
    """A model on one set of notes; shares with 95 % intervals over the notes.

    Attributes:
        balanced_accuracy: mean of the next two; a broken format is a wrong answer.
        true_positive_rate: error notes called harmful.
        true_negative_rate: clean notes called safe.
        sentence_accuracy: notes whose truth and sentence were both right.
        notes: how many notes.
        low: lower end of the interval of the balanced accuracy.
        high: upper end.
    """

    balanced_accuracy: float
    true_positive_rate: float
    true_negative_rate: float
    sentence_accuracy: float
    notes: int
    low: float
    high: float


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, few tokens: does it run?")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--model", type=Path, default=ROOT / "data/tiny_model", help="the start")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "outputs/learning_cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--tokens", type=float, default=1.2e6, help="generated tokens a run")
    parser.add_argument("--set", action="append", default=[], help="override for every arm")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.tokens = args.seeds[:1], 2e4
    samples = 1 if args.quick else 4
    cases = {
        split: list(read_medec(ROOT / "data/sample" / f"{split}.csv", split))
        for split in ("train", "test")
    }
    if args.quick:
        cases["test"] = cases["test"][:24]
    frozen = args.output_dir / "frozen_attacks.jsonl"
    if not frozen.is_file():
        write_frozen(frozen, Player(args.model).attacks(cases["train"], samples=2, seed=0))
    models: dict[str, list[Path]] = {"start": [args.model]}
    for seed in args.seeds:
        for arm in args.arms:
            folder = args.output_dir / arm / f"seed_{seed}"
            models.setdefault(arm, []).append(
                train(arm, seed, folder, frozen, args.model, args.tokens, args.set)
            )
    sets = test_sets(cases["test"], models, args.output_dir, args.seeds)
    scores = {
        arm: {name: score(folders, notes, samples) for name, notes in sets.items()}
        for arm, folders in models.items()
    }
    used = {
        arm: [tokens_of(args.output_dir / arm / f"seed_{seed}") for seed in args.seeds]
        for arm in args.arms
    }
    report(scores, used)
    ratio = None
    if {"gold", "archive"} <= scores.keys():
        theirs, ours = (_on_attackers_notes(scores[arm]) for arm in ("gold", "archive"))
        ratio = ours / theirs
    if args.json:
        figures = {
            "seeds": args.seeds,
            "tokens": used,
            "scores": {
                arm: {name: asdict(one) for name, one in by_set.items()}
                for arm, by_set in scores.items()
            },
            "ratio": ratio,
        }
        with replacing(args.json) as stream:
            json.dump(figures, stream, indent=1)
    if ratio is not None:
        print(f"ratio: {ratio:.3f}")


def _on_attackers_notes(by_set: dict[str, Score]) -> float:
    trained = [name for name in by_set if name in ("by selfplay", "by archive")]
    return fmean(by_set[name].balanced_accuracy for name in trained)


def train(
    arm: str,
    seed: int,
    folder: Path,
    frozen: Path,
    model: Path,
    tokens: float,
    overrides: Sequence[str],
) -> Path:
    """Runs an arm if it has not run, resumes it if it was killed; returns the trained model."""
    steps = max(2, round(tokens / (ROWS * SESSIONS * ARMS[arm].turns * TOKENS_A_TURN)))
    trained = folder / "checkpoints" / f"global_step_{steps}" / "actor" / "huggingface"
    if not (trained / "model.safetensors").is_file():
        settings = [
            f"run_dir={folder}",
            f"trainer.experiment_name={arm}_{seed}",
            f"actor_rollout_ref.model.path={model}",
            f"game.seed={seed}",
            f"data.seed={seed + 1}",
            f"data.train_batch_size={ROWS}",
            f"actor_rollout_ref.rollout.n={SESSIONS}",
            "actor_rollout_ref.actor.ppo_mini_batch_size=16",
            "actor_rollout_ref.actor.optim.lr=1e-4",
            "trainer.total_epochs=1000",
            f"trainer.total_training_steps={steps}",
            "trainer.save_freq=20",
            "trainer.test_freq=-1",
            "trainer.val_before_train=false",
            "trainer.max_actor_ckpt_to_keep=1",
            "trainer.logger=[file]",
            *(
                one.format(frozen=frozen) if "{frozen}" in one else one
                for one in ARMS[arm].overrides
            ),
            *overrides,
        ]
        command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-dir", "configs"]
        command += ["--config-name", "medical_grpo", "hardware=cpu", *settings]
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_suffix(".log")
        print(f"{arm}, seed {seed}: {steps} steps, log in {log}", flush=True)
        with log.open("ab") as stream:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode or not trained.is_dir():
            tail = log.read_text(errors="replace")[-3000:]
            sys.exit(f"{arm}, seed {seed} ended with {done.returncode}; its log ends:\n{tail}")
    return trained


def test_sets(
    cases: Sequence[Case], models: dict[str, list[Path]], folder: Path, seeds: Sequence[int]
) -> dict[str, list[FixedNote]]:
    """The fixed notes of unseen cases, by who made the errors; half of each set is clean."""
    sets = {
        "gold": [FixedNote(case, case.error_sentences, case.error_sentence_id) for case in cases],
        "programmatic": [_note(attack) for attack in programmatic_attacks(cases, seed=0)],
    }
    for arm in ("start", "selfplay", "archive"):
        attacks: list[ArchivedAttack] = []
        for seed, model in zip(seeds, models.get(arm, []), strict=False):
            file = folder / "attacks" / f"{arm}_{seed}_{len(cases)}.jsonl"
            if not file.is_file():
                write_frozen(file, Player(model).attacks(cases, samples=1, seed=1000 + seed))
            attacks += read_frozen(file)
        if attacks:
            chosen = random.Random(0).sample(attacks, min(len(attacks), len(cases)))
            sets[f"by {arm}"] = [_note(attack) for attack in chosen]
    return {
        name: [*notes, *(FixedNote(one.case, one.case.clean_sentences, None) for one in notes)]
        for name, notes in sets.items()
    }


def _note(attack: ArchivedAttack) -> FixedNote:
    clean = attack.case.clean_sentences
    changed = next(i for i, (a, b) in enumerate(zip(clean, attack.note, strict=True)) if a != b)
    return FixedNote(attack.case, attack.note, changed)


def score(folders: Iterable[Path], notes: Sequence[FixedNote], samples: int) -> Score:
    """Mean over an arm's seeds; the interval is over notes, each with all seeds' answers."""
    by_note: list[list[tuple[bool | None, bool]]] = [[] for _ in notes]
    for folder in folders:
        for answers, new in zip(
            by_note, Player(folder).answers(notes, samples, 1.0, seed=7), strict=True
        ):
            answers += new
    right = [
        fmean(said is (note.error_id is not None) for said, _ in answers)
        for note, answers in zip(notes, by_note, strict=True)
    ]
    errors = [share for share, note in zip(right, notes, strict=True) if note.error_id is not None]
    clean = [share for share, note in zip(right, notes, strict=True) if note.error_id is None]
    rng = random.Random(0)
    resampled = sorted(
        (fmean(rng.choices(errors, k=len(errors))) + fmean(rng.choices(clean, k=len(clean)))) / 2
        for _ in range(_RESAMPLES)
    )
    return Score(
        balanced_accuracy=(fmean(errors) + fmean(clean)) / 2,
        true_positive_rate=fmean(errors),
        true_negative_rate=fmean(clean),
        sentence_accuracy=fmean(fmean(ok for _, ok in answers) for answers in by_note),
        notes=len(notes),
        low=resampled[round(0.025 * _RESAMPLES)],
        high=resampled[round(0.975 * _RESAMPLES) - 1],
    )


def tokens_of(folder: Path) -> int:
    """Tokens that a run generated in training."""
    return sum(
        turn["response_tokens"]
        for file in sorted((folder / "games/train").glob("step_*.jsonl"))
        for line in file.open(encoding="utf-8")
        for turn in json.loads(line)["turns"]
    )


def report(scores: dict[str, dict[str, Score]], used: dict[str, list[int]]) -> None:
    """Prints the table."""
    console = Console(width=120)
    for name in next(iter(scores.values())):
        table = Table(title=f"{name}: {scores['start'][name].notes} notes, temperature 1")
        for column in ("", "balanced accuracy", "95 %", "TPR", "TNR", "sentence", "tokens"):
            table.add_column(column, justify="left" if not column else "right")
        for arm, by_set in scores.items():
            one = by_set[name]
            table.add_row(
                arm,
                f"{one.balanced_accuracy:.3f}",
                f"{one.low:.3f} to {one.high:.3f}",
                f"{one.true_positive_rate:.3f}",
                f"{one.true_negative_rate:.3f}",
                f"{one.sentence_accuracy:.3f}",
                f"{fmean(used[arm]):,.0f}" if arm in used else "0",
            )
        table.add_row("always Harmful", "0.500", "", "1.000", "0.000", "", "")
        table.add_row("always Safe", "0.500", "", "0.000", "1.000", "0.500", "")
        console.print(table)


if __name__ == "__main__":
    main()
