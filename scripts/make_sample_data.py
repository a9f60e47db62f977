"""Writes the synthetic sample data set (train.csv, val.csv, test.csv) in MEDEC's columns."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medical_team.atomic_files import why_not_written
from medical_team.sample_world.splits import write_samples


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output-dir", type=Path, default=Path("data/sample"), help="folder to write to"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    args = parser.parse_args()
    try:
        paths = write_samples(args.output_dir, args.seed)
    except OSError as error:
        print(f"error: {why_not_written(error, args.output_dir)}", file=sys.stderr)
        return 2
    for path in paths:
        print(f"{path}  {path.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
