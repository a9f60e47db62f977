"""Near-duplicate notes across files, found in near-linear time by MinHash and its LSH index."""

from __future__ import annotations

import re
from dataclasses import dataclass

from datasketch import MinHash, MinHashLSH

_WORD = re.compile(r"\w+")
_PERMUTATIONS = 64
_SHINGLE = 3


@dataclass(frozen=True, slots=True)
class NoteKey:
    """Where a note stands: the number of its file, its row there, and its case."""

    file: int
    row: int
    case_id: str


class NearDuplicateIndex:
    """Notes seen so far, searched by the share of word triples that two notes have in common.

    Args:
        threshold: estimated Jaccard similarity from which two notes count as near-duplicates, in
            (0, 1).
    """

    def __init__(self, threshold: float = 0.7) -> None:
        """Makes an empty index."""
        self._threshold = threshold
        self._lsh = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
        self._signatures: dict[NoteKey, MinHash] = {}

    def closest(self, note: str, key: NoteKey, *, add: bool) -> tuple[NoteKey, float] | None:
        """Looks for the most similar note of another file.

        Args:
            note: the note as running text.
            key: where it stands.
            add: whether later notes are compared with this one too.

        Returns:
            The other note's place and the estimated similarity, ``None`` if none reaches the
            threshold.
        """
        signature = MinHash(num_perm=_PERMUTATIONS)
        words = _WORD.findall(note.casefold())
        ends = range(_SHINGLE, max(len(words), _SHINGLE) + 1)
        signature.update_batch([" ".join(words[end - _SHINGLE : end]).encode() for end in ends])
        candidates = [
            (other, float(signature.jaccard(self._signatures[other])))
            for other in self._lsh.query(signature)
            if other.file != key.file
        ]
        if add:
            self._lsh.insert(key, signature, check_duplication=False)
            self._signatures[key] = signature
        best = max(candidates, key=lambda candidate: candidate[1], default=None)
        return best if best is not None and best[1] >= self._threshold else None
