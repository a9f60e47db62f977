"""Verifies training files: schema, balance, pairs, duplicates, leaks, ground truth and lengths.

Exits with 1 and names the file and row when something is wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from medical_team.dataset.checks import verify
from medical_team.dataset.report import token_counter
from medical_team.dataset.rows import DatasetError
from medical_team.dataset.tables import print_report

TINY_MODEL = Path(__file__).resolve().parents[1] / "data" / "tiny_model"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="Parquet file, or folder of such files"
    )
    parser.add_argument(
        "--tokenizer", type=Path, help="folder of a tokenizer (data/tiny_model where it is there)"
    )
    parser.add_argument("--max-prompt-length", type=int, help="most tokens that a prompt may have")
    args = parser.parse_args()
    tokenizer = args.tokenizer or (TINY_MODEL if (TINY_MODEL / "tokenizer.json").exists() else None)
    try:
        report = verify(
            args.paths, token_counter(tokenizer) if tokenizer else None, args.max_prompt_length
        )
    except DatasetError as error:
        parser.exit(1, f"error: {error}\n")
    print_report(report, Console())
    raise SystemExit(1 if report.problems else 0)


if __name__ == "__main__":
    main()
