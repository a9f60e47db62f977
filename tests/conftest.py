"""Small MEDEC files for the tests, and the real one where it is at hand."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from medical_team.medec import COLUMNS, Case

# A shared machine may take a second over what needs a millisecond.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

MedecWriter = Callable[..., Path]


def medec_row(case: Case) -> dict[str, str]:
    return {
        "Text ID": case.case_id,
        "Text": case.error_note,
        "Sentences": "\n".join(f"{i} {text}" for i, text in enumerate(case.error_sentences)),
        "Error Flag": "1",
        "Error Type": case.error_type,
        "Error Sentence ID": str(case.error_sentence_id),
        "Error Sentence": case.error_sentence,
        "Corrected Sentence": case.corrected_sentence,
        "Corrected Text": case.clean_note,
    }


def medec_clean_row(text_id: str, sentences: Sequence[str]) -> dict[str, str]:
    return {
        **dict.fromkeys(COLUMNS, "NA"),
        "Text ID": text_id,
        "Text": " ".join(sentences),
        "Sentences": "\n".join(f"{i} {text}" for i, text in enumerate(sentences)),
        "Error Flag": "0",
        "Error Sentence ID": "-1",
    }


def some_cases(count: int, split: str = "train") -> list[Case]:
    """Cases sorted by error type, as MEDEC's are, no two notes alike."""
    types = sorted(["diagnosis", "management", "treatment"][i % 3] for i in range(count))
    return [
        Case(
            case_id=f"{split}-{i}",
            error_sentences=(
                f"A {20 + i}-year-old patient of clinic {split} has complaint number {i}.",
                f"Pulse is {60 + i}/min.",
                f"The patient is given drug wrong-{split}-{i}.",
            ),
            error_sentence_id=2,
            corrected_sentence=f"The patient is given drug right-{split}-{i}.",
            error_type=error_type,
            split=split,
        )
        for i, error_type in enumerate(types)
    ]


@pytest.fixture
def write_medec(tmp_path: Path) -> MedecWriter:
    """Writes a MEDEC file of cases, or of rows as they stand."""

    def write(
        cases: Sequence[Case] = (),
        *,
        rows: Sequence[dict[str, str]] = (),
        name: str = "medec.csv",
        columns: Sequence[str] = COLUMNS,
    ) -> Path:
        path = tmp_path / name
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, columns, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows([*map(medec_row, cases), *rows])
        return path

    return write


@pytest.fixture
def make_cases() -> Callable[..., list[Case]]:
    return some_cases


@pytest.fixture
def to_row() -> Callable[[Case], dict[str, str]]:
    return medec_row


@pytest.fixture
def to_clean_row() -> Callable[[str, Sequence[str]], dict[str, str]]:
    return medec_clean_row


@pytest.fixture(scope="session")
def medec_validation() -> Path:
    """The real MS validation file; it is not part of this project."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("MEDEC_DIR", root.parent / "shared" / "medec"))
    found = sorted(folder.glob("*ValidationSet*.csv"))
    if not found:
        pytest.skip(f"no MEDEC validation file in {folder}; set MEDEC_DIR to its folder")
    return found[0]
