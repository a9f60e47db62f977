"""Trains the embedded tiny model on the sample clinic, or shows how well one plays.

The training is verl's own SFT trainer with configs/medical_sft.yaml.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from medical_team.medec import MedecError, read_medec
from recipe.medical_selfplay.tiny.evaluation import as_table, evaluate
from recipe.medical_selfplay.tiny.training import Target, TrainerFailed, train


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output-dir", type=Path, default=Path("data/tiny_model"), help="the model's folder"
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data/sample"), help="holds val.csv and test.csv"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--max-steps", type=int, default=3000, help="upper limit; training stops at its target"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the trainer")
    parser.add_argument(
        "--evaluate-only", action="store_true", help="only show the scores of --output-dir"
    )
    args = parser.parse_args()
    if args.max_steps < 1:
        parser.error(f"--max-steps is {args.max_steps}, expected at least 1")
    torch.set_num_threads(1)
    disable_progress_bar()
    try:
        cases = {
            split: list(read_medec(args.data_dir / f"{split}.csv", split))
            for split in ("val", "test")
        }
        if args.evaluate_only and not (args.output_dir / "config.json").is_file():
            raise FileNotFoundError(
                f"{args.output_dir}: no config.json, expected a model's folder; leave"
                " --evaluate-only out to train one there"
            )
        if not args.evaluate_only:
            train(
                args.output_dir,
                cases["val"],
                seed=args.seed,
                max_steps=args.max_steps,
                target=Target(),
                threads=args.threads,
                log=lambda line: print(line, flush=True),
            )
        model = AutoModelForCausalLM.from_pretrained(args.output_dir, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(args.output_dir, local_files_only=True)
    except (OSError, MedecError, TrainerFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    columns = {
        f"{split}, {name}": evaluate(
            model, tokenizer, cases[split], temperature=temperature, samples=samples, seed=args.seed
        )
        for split in cases
        for name, temperature, samples in (("greedy", 0.0, 1), ("T=1", 1.0, 4))
    }
    print(as_table(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
