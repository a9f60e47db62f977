"""Writes contrastive pairs (error note, clean note) of a MEDEC file to OUTPUT_DIR/pairs.jsonl."""

from __future__ import annotations

import argparse
from pathlib import Path

from medical_team.dataset.contrastive import sample_cases, write_pairs
from medical_team.dataset.rows import SPLITS, DatasetError
from medical_team.medec import MedecError

DATA = Path(__file__).resolve().parents[1] / "data"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--input", type=Path, default=DATA / "sample" / "train.csv", help="MEDEC CSV file"
    )
    parser.add_argument(
        "--output-dir", type=Path, default=DATA / "medical_openrlhf", help="folder to write to"
    )
    parser.add_argument("--num-samples", type=int, help="how many pairs to draw, all if not given")
    parser.add_argument(
        "--split", choices=SPLITS, default="train", help="split the cases belong to"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    args = parser.parse_args()
    if args.num_samples is not None and args.num_samples < 1:
        parser.error(f"--num-samples is {args.num_samples}, expected at least 1")
    target = args.output_dir / "pairs.jsonl"
    try:
        count = write_pairs(
            sample_cases(args.input, args.split, args.num_samples, args.seed), target
        )
    except (DatasetError, MedecError) as error:
        parser.exit(2, f"error: {error}\n")
    asked = (
        ""
        if args.num_samples in (None, count)
        else f" of {args.num_samples} asked for, all that the file has,"
    )
    print(f"{count} pairs{asked} written to {target}")


if __name__ == "__main__":
    main()
