"""Turns contrastive pairs into JSON lines of four fields for OpenRLHF recipes.

The fields are vanilla, adversarial, completion and data_type. Each pair gives two rows, one a note;
the four game types are balanced to within one row.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medical_team.dataset.contrastive import write_openrlhf
from medical_team.dataset.rows import DatasetError

FOLDER = Path(__file__).resolve().parents[1] / "data" / "medical_openrlhf"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--input",
        type=Path,
        default=FOLDER / "pairs.jsonl",
        help="file of create_rl_training_data.py",
    )
    parser.add_argument("--output", type=Path, default=FOLDER / "train.jsonl", help="file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of game types")
    args = parser.parse_args()
    try:
        count = write_openrlhf(args.input, args.output, args.seed)
    except DatasetError as error:
        parser.exit(2, f"error: {error}\n")
    print(f"{count} rows written to {args.output}")


if __name__ == "__main__":
    main()
