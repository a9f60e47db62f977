"""Shows contrastive pairs of a MEDEC file, counts them, and saves them as JSON lines."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from medical_team.dataset.contrastive import sample_cases, write_pairs
from medical_team.dataset.rows import DatasetError
from medical_team.dataset.tables import print_pairs
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
        "--output-dir", type=Path, default=DATA / "medical_openrlhf", help="folder for pairs.jsonl"
    )
    parser.add_argument("--num-samples", type=int, default=40, help="how many pairs to draw")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--no-save", action="store_true", help="show and count only, write nothing")
    args = parser.parse_args()
    if args.num_samples < 1:
        parser.error(f"--num-samples is {args.num_samples}, expected at least 1")
    try:
        cases = list(sample_cases(args.input, "train", args.num_samples, args.seed))
        print_pairs(cases, Console())
        if not args.no_save:
            target = args.output_dir / "pairs.jsonl"
            print(f"{write_pairs(cases, target)} pairs written to {target}")
    except (DatasetError, MedecError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
