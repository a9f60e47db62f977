"""Converts MEDEC files into the Parquet files that verl trains on.

Without a file it converts the sample data, with the short prompts of the embedded model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from medical_team.dataset.checks import verify
from medical_team.dataset.rows import SPLITS, DatasetError
from medical_team.dataset.tables import print_manifest, print_report
from medical_team.dataset.writer import Conversion, convert
from medical_team.medec import MedecError
from medical_team.prompts import PromptStyle

DATA = Path(__file__).resolve().parents[1] / "data"


def conversion(args: argparse.Namespace) -> Conversion:
    """What the command line asks for; without a source, the sample data."""
    paths = (args.train_csv or args.from_openrlhf, args.val_csv, args.test_csv)
    given = {split: path for split, path in zip(SPLITS, paths, strict=True) if path}
    sources = given or {split: DATA / "sample" / f"{split}.csv" for split in SPLITS}
    return Conversion(
        sources=dict(list(sources.items())[:1]) if args.test else sources,
        openrlhf=frozenset({"train"} if args.from_openrlhf else ()),
        seed=args.seed,
        limit=8 if args.test else args.limit,
        error_types=tuple(filter(None, args.error_types.replace(" ", "").split(","))),
        prompt_style=PromptStyle(args.prompt_style or ("full" if given else "compact")),
        val_fraction=0.0 if args.test else args.val_fraction,
    )


def main() -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    train = parser.add_mutually_exclusive_group()
    train.add_argument("--train-csv", type=Path, help="MEDEC file of the train split")
    train.add_argument("--from-openrlhf", type=Path, metavar="F", help="JSON lines for train")
    parser.add_argument("--val-csv", type=Path, help="MEDEC file of the val split")
    parser.add_argument("--test-csv", type=Path, help="MEDEC file of the test split")
    parser.add_argument("--output-dir", type=Path, default=DATA / "medical_verl")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (0)")
    parser.add_argument("--limit", type=int, help="cases per file (two rows each), all by default")
    parser.add_argument("--error-types", default="", help="types to keep: a,b (all by default)")
    parser.add_argument("--prompt-style", choices=list(map(str, PromptStyle)))
    parser.add_argument("--val-fraction", type=float, default=0.1, help="of train, if no --val-csv")
    parser.add_argument("--test", action="store_true", help="try eight cases in a temporary folder")
    args, console = parser.parse_args(), Console()
    try:
        if not args.test:
            print_manifest(convert(conversion(args), args.output_dir), args.output_dir, console)
            return 0
        with tempfile.TemporaryDirectory() as folder:
            print_manifest(convert(conversion(args), Path(folder)), Path(folder), console)
            print_report(report := verify([Path(folder)]), console)
            return 1 if report.problems else 0
    except (DatasetError, MedecError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    sys.exit(main())
