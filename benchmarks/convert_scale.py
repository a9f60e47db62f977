"""How conversion scales: rows per second and peak memory at 1, 10 and 100 times the MEDEC val set.

The MEDEC validation file (folder in MEDEC_DIR, else ../shared/medec, else data/sample) is repeated
with fresh ids. Each size is converted in a process of its own, by this project and in the obvious
way: pandas reads the whole file, a list of all rows is built with the same functions, shuffled and
written by ``DataFrame.to_parquet``.

The last line, ``ratio: X``, is the peak memory of the obvious way over ours at the largest size,
each above what a bare Python interpreter needs. Rows per second that stay level from size to size
mean that the time grows in a straight line.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medical_team.dataset.rows import assign_games, training_row
from medical_team.dataset.writer import Conversion, convert
from medical_team.medec import Case, mend, split_sentences
from medical_team.prompts import PromptStyle

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("ours", "obvious")


def main() -> None:
    """Runs the benchmark, or one conversion of it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1x and 10x only, under a minute")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.worker, *args.files)))
        return
    source = find_source()
    command = [sys.executable, "-c", "import resource as r; print(r.getrusage(0).ru_maxrss)"]
    baseline = int(subprocess.run(command, check=True, capture_output=True).stdout) / 1024
    print(f"source: {source.name}; a bare interpreter needs {baseline:.0f} MiB")
    print(f"{'size':>5} {'way':>8} {'rows':>7} {'seconds':>8} {'rows/s':>7} {'MiB above bare':>15}")
    results = []
    for factor in (1, 10) if args.quick else (1, 10, 100):
        with tempfile.TemporaryDirectory() as folder:
            enlarged = Path(folder) / "medec.csv"
            repeat(source, enlarged, factor)
            for way in WAYS:
                result = {"factor": factor, "way": way, **run(way, enlarged, Path(folder) / way)}
                result["peak_mib"] -= baseline
                results.append(result)
                print(
                    f"{factor:>4}x {way:>8} {result['rows']:>7} {result['seconds']:>8.2f}"
                    f" {result['rows'] / result['seconds']:>7.0f} {result['peak_mib']:>15.0f}"
                )
    ours, obvious = results[-2:]
    ratio = obvious["peak_mib"] / ours["peak_mib"]
    if args.json:
        figures = {"baseline_mib": baseline, "results": results, "ratio": ratio}
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"ratio: {ratio:.2f}")


def find_source() -> Path:
    """The MEDEC validation file where it can be found, else the sample's largest file."""
    folder = Path(os.environ.get("MEDEC_DIR", ROOT.parent / "shared" / "medec"))
    return next(iter(sorted(folder.glob("*Validation*.csv"))), ROOT / "data/sample/train.csv")


def repeat(source: Path, target: Path, factor: int) -> None:
    """Writes the rows of a MEDEC file several times, each time with ids of its own."""
    with target.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        for copy in range(factor):
            with source.open(encoding="utf-8-sig", newline="") as original:
                reader = csv.reader(original)
                header = next(reader)
                if copy == 0:
                    writer.writerow(header)
                at = header.index("Text ID")
                writer.writerows(
                    [f"{value}-{copy}" if i == at else value for i, value in enumerate(row)]
                    for row in reader
                    if any(row)
                )


def run(way: str, source: Path, output: Path) -> dict[str, float]:
    """Converts in a fresh process, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--worker", way, "--files", str(source), str(output)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def measure(way: str, source: Path, output: Path) -> dict[str, float]:
    """Converts in this process; returns rows, seconds and the peak memory in MiB."""
    start = time.perf_counter()
    rows = convert_streaming(source, output) if way == "ours" else convert_at_once(source, output)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": rows, "seconds": seconds, "peak_mib": peak}


def convert_streaming(source: Path, output: Path) -> int:
    """This project's conversion."""
    manifest = convert(Conversion({"train": source}, val_fraction=0.0), output)
    return int(manifest["files"]["train.parquet"]["rows"])


def convert_at_once(source: Path, output: Path) -> int:
    """The obvious conversion: everything in memory at once."""
    import pandas as pd

    frame = pd.read_csv(source, dtype=str, keep_default_na=False)
    cases = [
        Case(
            case_id=row["Text ID"],
            error_sentences=tuple(map(mend, split_sentences(row["Sentences"]))),
            error_sentence_id=int(float(row["Error Sentence ID"])),
            corrected_sentence=mend(row["Corrected Sentence"]),
            error_type=row["Error Type"],
            split="train",
        )
        for row in frame.to_dict("records")
        if row["Error Flag"] == "1"
    ]
    games = assign_games([case.error_type for case in cases], random.Random(0))
    pairs = [(case, game) for case, both in zip(cases, games, strict=True) for game in both]
    random.Random(0).shuffle(pairs)
    rows = [training_row(*pair, i, PromptStyle.FULL) for i, pair in enumerate(pairs)]
    output.mkdir()
    pd.DataFrame(rows).to_parquet(output / "train.parquet")
    return len(rows)


if __name__ == "__main__":
    main()
