"""Writes supervised games, made from gold pairs, for verl's SFT trainer (configs/medical_sft.yaml).

Without a source it takes the sample data, with the short prompts of the embedded model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medical_team.dataset.report import token_counter
from medical_team.dataset.rows import SPLITS, DatasetError
from medical_team.dataset.supervised import SupervisedSet, write_supervised
from medical_team.dataset.worked_turns import Task
from medical_team.dataset.writer import read_manifest
from medical_team.medec import MedecError
from medical_team.prompts import PromptStyle

DATA = Path(__file__).resolve().parents[1] / "data"


def sources(args: argparse.Namespace) -> dict[str, Path]:
    """The file of each split that the command line names; without one, the sample data."""
    if args.data:
        found = {split: args.data / f"{split}.parquet" for split in SPLITS}
        found = {split: path for split, path in found.items() if path.exists()}
        if not found:
            raise DatasetError(
                f"{args.data}: no train.parquet, val.parquet or test.parquet in it, expected a"
                " folder of scripts/convert_dataset_to_verl.py"
            )
        return found
    paths = (args.train_csv, args.val_csv, args.test_csv)
    given = {split: path for split, path in zip(SPLITS, paths, strict=True) if path}
    return given or {split: DATA / "sample" / f"{split}.csv" for split in SPLITS}


def default_style(data: Path | None, csv: bool) -> str:
    """Converted data's own style, compact for the sample data and full for MEDEC files."""
    if data is None:
        return str(PromptStyle.FULL if csv else PromptStyle.COMPACT)
    manifest = read_manifest(data) or {}
    return str(manifest.get("settings", {}).get("prompt_style", PromptStyle.FULL))


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="converted data: the same cases in the same splits as self-play will have",
    )
    for split in SPLITS:
        parser.add_argument(f"--{split}-csv", type=Path, help=f"MEDEC file of the {split} split")
    parser.add_argument("--output-dir", type=Path, default=DATA / "medical_sft")
    parser.add_argument(
        "--prompt-style",
        choices=list(map(str, PromptStyle)),
        help="that of --data by default, compact for the sample data, else full",
    )
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FOLDER", help="counts tokens; a model's folder will do"
    )
    parser.add_argument(
        "--max-length", type=int, help="leave out rows of more tokens; needs --tokenizer"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (0)")
    args = parser.parse_args()
    csv = [f"--{split}-csv" for split in SPLITS if getattr(args, f"{split}_csv")]
    if args.data and csv:
        parser.error(f"--data and {csv[0]} are both given; choose one")
    try:
        style = args.prompt_style or default_style(args.data, bool(csv))
        games = SupervisedSet(sources(args), PromptStyle(style), args.seed, args.max_length)
        counter = token_counter(args.tokenizer) if args.tokenizer else None
        manifest = write_supervised(games, args.output_dir, counter)
    except (DatasetError, MedecError) as error:
        parser.exit(2, f"error: {error}\n")
    print_counts(manifest, Console())
    print(f"written to {args.output_dir}")


def print_counts(manifest: dict[str, Any], console: Console) -> None:
    """Shows what was written and what was left out, a column a file."""
    files = manifest["files"]
    table = Table("", title=f"supervised games, seed {manifest['seed']}")
    for name in files:
        table.add_column(name, justify="right")
    for label, group in (("cases", "cases"), ("rows", "rows"), ("longest, tokens", "longest")):
        if any(file[group] is not None for file in files.values()):
            table.add_row(label, *(str(file[group]) for file in files.values()))
    for group in ("tasks", "reasoning", "left_out"):
        names = dict.fromkeys(name for file in files.values() for name in file[group])
        order = list(map(str, Task)) if group == "tasks" else list(names)
        title = group.replace("_", " ")
        for name in order:
            cells = (str(file[group].get(name, 0)) for file in files.values())
            table.add_row(f"  {title}: {name}", *cells)
    console.print(table)


if __name__ == "__main__":
    main()
