"""Cases kept on disk, so that a dataset can be shuffled without holding its text in memory."""

from __future__ import annotations

import json
from array import array
from typing import BinaryIO

from medical_team.dataset.rows import case_from_dict, case_to_dict
from medical_team.medec import Case
from medical_team.medical_game_manager import GameType


class CaseSpool:
    """Cases by their number.

    Args:
        stream: an empty file, open for reading and writing.

    Attributes:
        error_types: the error type of each case.
        given_games: for each case the game types that its source gives it, empty if it gives none.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offsets = array("Q")
        self.error_types: list[str] = []
        self.given_games: list[set[GameType]] = []

    def __len__(self) -> int:
        return len(self._offsets)

    def append(self, case: Case) -> None:
        """Adds a case; its number is the count of those before it."""
        self._offsets.append(self._stream.tell())
        self._stream.write(json.dumps(case_to_dict(case)).encode() + b"\n")
        self.error_types.append(case.error_type)
        self.given_games.append(set())

    def __getitem__(self, number: int) -> Case:
        self._stream.seek(self._offsets[number])
        return case_from_dict(json.loads(self._stream.readline()))
