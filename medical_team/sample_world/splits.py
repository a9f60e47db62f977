"""The sample data set: cases of the sample clinic as CSV files in MEDEC's columns."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from medical_team.atomic_files import replacing
from medical_team.medec import COLUMNS
from medical_team.sample_world.knowledge import (
    CONDITIONS,
    Condition,
    Fact,
    is_held_out,
    wrong_values,
)
from medical_team.sample_world.notes import SampleNote, write_note

# Error cases a split.
SPLIT_SIZES: Final[dict[str, int]] = {"train": 400, "val": 64, "test": 250}
# Every second error row is followed by a retelling of its case without the error.
_CLEAN_EVERY: Final = 2
# Two notes of different splits share less than this of their three-word runs, numbers not counted.
MAX_OVERLAP: Final = 0.5
_NUMBER: Final = re.compile(r"\d+")


def note_overlap(one: Sequence[str], other: Sequence[str]) -> float:
    """Jaccard similarity, 0 to 1, of the three-word runs of two notes, with numbers masked."""
    first, second = _shingles(one), _shingles(other)
    return len(first & second) / len(first | second)


def sample_rows(seed: int) -> dict[str, list[dict[str, str]]]:
    """Writes the rows of each split, sorted by error type as MEDEC's are.

    Half of the errors of the test split are held-out wrong facts; the other splits hold none.

    Args:
        seed: everything follows from it.
    """
    rng = random.Random(seed)
    taken: list[tuple[str, Condition, frozenset[str]]] = []
    rows: dict[str, list[dict[str, str]]] = {}
    for split, size in SPLIT_SIZES.items():
        rows[split] = []
        facts = sorted(Fact, key=lambda fact: fact.value)
        for i in range(size):
            fact = facts[i * len(facts) // size]
            held_out = split == "test" and i % 2 == 0
            note = _fresh_note(rng, split, taken)
            while not (pool := _pool(note.condition, fact, held_out)):
                note = _fresh_note(rng, split, taken)
            error = note.stating(fact, rng.choice(pool))
            taken.append((split, note.condition, _shingles(note.sentences)))
            rows[split].append(_row(f"sample-{split}-{len(rows[split])}", error))
            if i % _CLEAN_EVERY == 0:
                retold = _fresh_note(rng, split, taken, note.condition)
                taken.append((split, retold.condition, _shingles(retold.sentences)))
                rows[split].append(_row(f"sample-{split}-{len(rows[split])}", retold))
    return rows


def write_samples(output_dir: Path, seed: int) -> list[Path]:
    """Writes ``train.csv``, ``val.csv`` and ``test.csv``, each whole or not at all.

    Args:
        output_dir: created if missing.
        seed: see :func:`sample_rows`.

    Returns:
        The files written.
    """
    paths = []
    for split, rows in sample_rows(seed).items():
        path = output_dir / f"{split}.csv"
        with replacing(path) as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        paths.append(path)
    return paths


def _pool(condition: Condition, fact: Fact, held_out: bool) -> list[str]:
    return [v for v in wrong_values(condition, fact) if is_held_out(condition, fact, v) == held_out]


def _fresh_note(
    rng: random.Random,
    split: str,
    taken: Iterable[tuple[str, Condition, frozenset[str]]],
    condition: Condition | None = None,
) -> SampleNote:
    while True:
        note = write_note(condition or rng.choice(CONDITIONS), rng)
        own = _shingles(note.sentences)
        # Notes about different conditions differ in every fact: only the same one can come near.
        if all(
            len(own & seen) < MAX_OVERLAP * len(own | seen)
            for where, other, seen in taken
            if where != split and other == note.condition
        ):
            return note


def _shingles(sentences: Sequence[str]) -> frozenset[str]:
    words = _NUMBER.sub("0", " ".join(sentences)).split()
    return frozenset(" ".join(words[i : i + 3]) for i in range(len(words) - 2))


def _row(text_id: str, note: SampleNote) -> dict[str, str]:
    row = dict.fromkeys(COLUMNS, "NA")
    row["Text ID"] = text_id
    row["Text"] = " ".join(note.sentences)
    row["Sentences"] = "\n".join(f"{i} {sentence}" for i, sentence in enumerate(note.sentences))
    row["Error Flag"], row["Error Sentence ID"] = "0", "-1"
    if note.altered is not None:
        at = note.sentence_id(note.altered)
        corrected = SampleNote(note.condition, note.templates).sentences
        row["Error Flag"], row["Error Sentence ID"] = "1", str(at)
        row["Error Type"] = note.altered.value
        row["Error Sentence"], row["Corrected Sentence"] = note.sentences[at], corrected[at]
        row["Corrected Text"] = " ".join(corrected)
    return row
