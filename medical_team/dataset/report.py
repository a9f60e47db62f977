"""What a verification of training files measures and finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from medical_team.dataset.row_checks import Kind
from medical_team.dataset.rows import DatasetError
from medical_team.medical_game_manager import GameType

TokenCounter = Callable[[list[dict[str, str]]], int]
"""Gives the length of a prompt in tokens."""


@dataclass(slots=True)
class Lengths:
    """Smallest, mean and largest of a number of lengths."""

    count: int = 0
    total: int = 0
    smallest: int = 0
    largest: int = 0

    def add(self, length: int) -> None:
        """Takes one more length in."""
        self.smallest = length if self.count == 0 else min(self.smallest, length)
        self.largest = max(self.largest, length)
        self.count += 1
        self.total += length

    def __str__(self) -> str:
        """``smallest / mean / largest``."""
        return (
            f"{self.smallest} / {self.total / self.count:.0f} / {self.largest}"
            if self.count
            else "-"
        )


@dataclass(slots=True)
class FileReport:
    """What one file holds."""

    path: Path
    rows: int = 0
    game_types: Counter[GameType] = field(default_factory=Counter)
    error_types: Counter[str] = field(default_factory=Counter)
    words: Lengths = field(default_factory=Lengths)
    tokens: Lengths = field(default_factory=Lengths)
    problems: Counter[Kind] = field(default_factory=Counter)
    duplicates: int = 0
    near_duplicates: int = 0


@dataclass(slots=True)
class Report:
    """What a verification found.

    Attributes:
        files: one report a file, in the order they were given.
        problems: what is wrong, each naming its file and row; a dataset with any must not be
            trained on.
        warnings: what a reader should know.
    """

    files: list[FileReport]
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def token_counter(folder: Path) -> TokenCounter:
    """Counts a prompt's tokens as verl does: the chat template with the generation prompt.

    Args:
        folder: a folder with a tokenizer, such as a model's.

    Raises:
        DatasetError: if there is no tokenizer that can be loaded.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: no such folder, expected one with a tokenizer (tokenizer.json)"
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{folder}: no tokenizer can be loaded from it ({str(error)[:200]})"
        ) from error

    def count(messages: list[dict[str, str]]) -> int:
        return len(
            tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        )

    return count
