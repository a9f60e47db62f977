"""Attacks of past steps, to be played again: fictitious self-play without past models.

An assessor that only meets the attacker of the moment forgets the ones before. Here the notes of
past attackers are kept, so that a share of the assessor's games can be against any of them; no
weights and no generation of theirs are needed.

Source: Heinrich, Lanctot, Silver, "Fictitious Self-Play in Extensive-Form Games", ICML 2015.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from heapq import nsmallest
from pathlib import Path
from typing import ClassVar, Final

from medical_team.archive.attack import ArchivedAttack, PlayedAgain, Weighting, draw_from
from medical_team.archive.file import (
    ArchiveContent,
    Counts,
    add_counts,
    append_attacks,
    append_plays,
    read_archive,
    replace_archive,
)

# Within so many steps a restore finds the archive exactly as it was; what is older is folded.
_REWIND: Final = 200
# The file is compacted when it has so many times more entries than the archive has room for.
_SLACK: Final = 4


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """Which past attacks are kept, and how many games are played with them.

    Attributes:
        fraction: share of the adversarial rows whose assessors read an archived attack instead of
            a fresh one, in [0, 1]; such a row has no attacker's turn.
        capacity: most attacks kept, at least 1.
        typical_share: share of the attacks that fooled nobody that is kept beside all that did, in
            [0, 1].
        weighting: ``uniform`` draws every kept attack alike, ``missed`` those more that assessors
            still miss.
        file: an archive to draw from instead of the run's own, which it leaves as it is: a frozen
            attacker. ``None`` for the run's own.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    fraction: float = 0.0
    capacity: int = 4096
    typical_share: float = 0.25
    weighting: Weighting = "uniform"
    file: str | None = None

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        for name in ("fraction", "typical_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"archive.{name} is {getattr(self, name)}, it must be in [0, 1]")
        if self.capacity < 1:
            raise ValueError(f"archive.capacity is {self.capacity}, it must be at least 1")
        if self.weighting not in ("uniform", "missed"):
            raise ValueError(f"archive.weighting is {self.weighting!r}, known: uniform, missed")
        if self.file is not None and not self.file.strip():
            raise ValueError("archive.file is empty; name a file, or null for the run's own")


class AttackArchive:
    """The attacks that a run keeps. One process writes its file.

    At most ``capacity`` attacks stay, and they are a uniform sample of all that were ever taken,
    of old attackers as well as new: those with the smallest hash of seed and ``attack_id``
    ("bottom-k sample"). The newest alone would forget the old attackers, which is what the archive
    is there to prevent. Of the ways to sample a stream this one gives the same sample in whatever
    order games end, for attacks seen twice and after a restore; a reservoir (Vitter) does not.

    Args:
        file: where it is kept; made where it is missing.
        capacity: most attacks kept.
        typical_share: share taken of the attacks that fooled nobody.
        seed: decides which attacks are taken and kept.

    Source: Cohen, Kaplan, "Summarizing Data using Bottom-k Sketches", PODC 2007.
    """

    def __init__(self, file: Path, capacity: int, typical_share: float, seed: int) -> None:
        self._file = file
        self._capacity = capacity
        self._typical_share = typical_share
        self._seed = seed
        self._attacks: dict[str, ArchivedAttack] = {}
        self._by_step: list[ArchivedAttack] | None = None
        self._entries = 0
        self._compact_at = _SLACK * capacity

    def __len__(self) -> int:
        return len(self._attacks)

    @property
    def attacks(self) -> tuple[ArchivedAttack, ...]:
        """What is kept, by step."""
        return tuple(self._ordered())

    def restore(self, before_step: int) -> None:
        """Reads the file, and removes from it what was written in steps that are played again.

        A run that was killed goes on at its last checkpoint. The attacks of later steps and the
        plays counted in them are dropped, and what they had crowded out is back, unless more than
        200 steps are played again. A damaged line is skipped with a warning.

        Args:
            before_step: the step that is played next.

        Raises:
            ArchiveError: if the file was written by another version, or cannot be written.
        """
        content = read_archive(self._file, before_step)
        self._attacks = self._sample(content.counted())
        self._by_step = None
        if content.later:
            self._compact(content)
        else:
            self._measure(content)

    def add(self, step: int, attacks: Iterable[ArchivedAttack]) -> int:
        """Takes attacks of a step: all that succeeded, and a share of the others.

        One that is there already stays as it was first seen.

        Args:
            step: the trainer's step; the attacks are filed under it.
            attacks: those that were played and judged, in any order.

        Returns:
            How many of them are kept.

        Raises:
            ArchiveError: if the file cannot be written.
        """
        fresh: dict[str, ArchivedAttack] = {}
        # Sorted, so that of two games with one note the same is taken whichever ended first.
        for attack in sorted(attacks, key=lambda one: (not one.succeeded, repr(one))):
            name = attack.attack_id
            if name in self._attacks or name in fresh:
                continue
            if attack.succeeded or self._hash("typical", name) < self._typical_share:
                fresh[name] = replace(attack, step=step)
        kept = self._sample({**self._attacks, **fresh})
        new = [attack for name, attack in fresh.items() if name in kept]
        if new:
            append_attacks(self._file, new)
            self._attacks, self._by_step = kept, None
            self._grow(len(new))
        return len(new)

    def record(self, step: int, outcomes: Iterable[PlayedAgain]) -> None:
        """Counts archived attacks that were played again; those no longer kept are left out.

        Args:
            step: the trainer's step in which they were played.
            outcomes: one for each assessor's turn.

        Raises:
            ArchiveError: if the file cannot be written.
        """
        plays: dict[str, Counts] = {}
        for outcome in outcomes:
            if outcome.attack_id in self._attacks:
                add_counts(plays, {outcome.attack_id: (1, int(outcome.missed))})
        if plays:
            append_plays(self._file, step, plays)
            for name, counts in plays.items():
                self._attacks[name] = self._attacks[name].played_again(*counts)
            self._by_step = None
            self._grow(len(plays))

    def draw(self, rng: random.Random, weighting: Weighting, step: int) -> ArchivedAttack | None:
        """Draws an attack of an earlier step.

        Args:
            rng: the source of randomness; the draw depends on it and on what is kept, only.
            weighting: see :func:`~medical_team.archive.attack.draw_from`.
            step: only attacks of steps before it are drawn.

        Returns:
            The attack, ``None`` if there is none.
        """
        ordered = self._ordered()
        earlier = ordered[: bisect_left(ordered, step, key=lambda attack: attack.step)]
        return draw_from(earlier, rng, weighting) if earlier else None

    def _ordered(self) -> list[ArchivedAttack]:
        if self._by_step is None:
            self._by_step = sorted(self._attacks.values(), key=_by_step)
        return self._by_step

    def _sample(self, attacks: dict[str, ArchivedAttack]) -> dict[str, ArchivedAttack]:
        if len(attacks) <= self._capacity:
            return attacks
        smallest = nsmallest(self._capacity, attacks, key=lambda it: (self._hash("kept", it), it))
        return {name: attacks[name] for name in smallest}

    def _hash(self, purpose: str, name: str) -> float:
        """A number in [0, 1); those of two purposes have nothing to do with each other."""
        digest = blake2b(f"{self._seed} {purpose} {name}".encode(), digest_size=6).digest()
        return int.from_bytes(digest) / 2**48

    def _grow(self, entries: int) -> None:
        self._entries += entries
        if self._entries > self._compact_at:
            self._compact(read_archive(self._file))

    def _compact(self, content: ArchiveContent) -> None:
        """Replaces the file by one with the same content for every step within reach."""
        steps = [*content.plays, *(attack.step for attack in content.attacks.values())]
        folded = max(steps, default=0) - _REWIND
        attacks = content.counted(until=folded)
        # Later ones stay even if they were crowded out since: a restore may bring them back.
        old = self._sample({name: one for name, one in attacks.items() if one.step <= folded})
        late = {name: one for name, one in attacks.items() if one.step > folded}
        ordered = sorted([*old.values(), *late.values()], key=_by_step)
        kept = ArchiveContent({attack.attack_id: attack for attack in ordered})
        for step, plays in content.plays.items():
            known = {name: counts for name, counts in plays.items() if name in kept.attacks}
            if step > folded and known:
                kept.plays[step] = known
        replace_archive(self._file, kept)
        self._measure(kept)

    def _measure(self, content: ArchiveContent) -> None:
        self._entries = content.entries
        # Twice what is left, or a file that cannot shrink would be compacted at every step.
        self._compact_at = max(_SLACK * self._capacity, 2 * content.entries)


def _by_step(attack: ArchivedAttack) -> tuple[int, str]:
    return attack.step, attack.attack_id
