"""An attacked note that is kept, to be read again by assessors without its attacker."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from typing import Any, ClassVar, Literal, Self

from pydantic import TypeAdapter, ValidationError

from medical_team.medec import Case
from medical_team.medical_game_manager import GameType

Weighting = Literal["uniform", "missed"]


@dataclass(frozen=True, slots=True)
class ArchivedAttack:
    """An attacked note, and all that it takes to have it read again without its attacker.

    Attributes:
        attack_id: digest of the case's id and the note.
        step: the step in which it was played.
        case: the case that was attacked.
        game_type: one of the two adversarial games.
        note: the note that the assessors read, as sentences.
        error_present: whether it holds an error.
        source: who decided that; see :class:`~medical_team.medical_judge.Verdict`.
        succeeded: whether it fooled the assessors of its own step.
        played: how often an assessor read it in later steps.
        missed: how often it fooled that assessor.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    attack_id: str
    step: int
    case: Case
    game_type: GameType
    note: tuple[str, ...]
    error_present: bool
    source: str
    succeeded: bool
    played: int = 0
    missed: int = 0

    def __post_init__(self) -> None:
        """Checks what the types do not say.

        Raises:
            ValueError: naming the field, its value and what was expected.
        """
        if self.attack_id != attack_id(self.case.case_id, self.note):
            raise ValueError(f"attack_id {self.attack_id!r} is not that of the case and the note")
        if not self.note:
            raise ValueError("note is empty, expected sentences")
        if not self.game_type.adversarial:
            raise ValueError(f"game_type is {self.game_type}, expected an adversarial one")
        if not 0 <= self.case.error_sentence_id < len(self.case.error_sentences):
            raise ValueError(
                f"case.error_sentence_id is {self.case.error_sentence_id}, expected 0 to"
                f" {len(self.case.error_sentences) - 1}"
            )
        if self.step < 0:
            raise ValueError(f"step is {self.step}, it must be at least 0")
        if not 0 <= self.missed <= self.played:
            raise ValueError(f"missed is {self.missed}, expected 0 to {self.played}, the plays")

    @classmethod
    def of(
        cls,
        *,
        step: int,
        case: Case,
        game_type: GameType,
        note: tuple[str, ...],
        error_present: bool,
        source: str,
        succeeded: bool,
    ) -> Self:
        """An attack that was just played; see the attributes."""
        digest = attack_id(case.case_id, note)
        return cls(digest, step, case, game_type, note, error_present, source, succeeded)

    @property
    def miss_rate(self) -> float:
        """Smoothed share of later plays in which it fooled the assessor, in (0, 1).

        One half where it was not played again.
        """
        return (self.missed + 1) / (self.played + 2)

    def played_again(self, played: int, missed: int) -> Self:
        """The attack with further plays in its counters."""
        return replace(self, played=self.played + played, missed=self.missed + missed)


@dataclass(frozen=True, slots=True)
class PlayedAgain:
    """One assessor's turn on an archived attack.

    Attributes:
        attack_id: the attack.
        missed: whether the assessor was wrong about the error.
    """

    attack_id: str
    missed: bool


def attack_id(case_id: str, note: Sequence[str]) -> str:
    """The digest that tells attacks apart: of the case's id and the note's sentences."""
    content = json.dumps([case_id, list(note)]).encode()
    return blake2b(content, digest_size=16).hexdigest()


def draw_from(
    attacks: Sequence[ArchivedAttack], rng: random.Random, weighting: Weighting
) -> ArchivedAttack:
    """Draws one of some attacks.

    Args:
        attacks: at least one.
        rng: the source of randomness.
        weighting: ``uniform`` for each alike, so that a step counts by how many attacks it gave;
            ``missed`` in proportion to :attr:`ArchivedAttack.miss_rate`.
    """
    if weighting == "uniform":
        return rng.choice(attacks)
    return rng.choices(attacks, weights=[attack.miss_rate for attack in attacks])[0]


def attack_to_json(attack: ArchivedAttack) -> str:
    """The attack as one line of JSON, without a line break."""
    return to_json(attack)


def attack_from_json(text: str) -> ArchivedAttack:
    """The inverse of :func:`attack_to_json`.

    Raises:
        ValueError: if it is damaged or was written by another version; names the field.
    """
    attack: ArchivedAttack = from_json(ArchivedAttack, text)
    return attack


def to_json(record: Any) -> str:
    """A dataclass as one line of JSON."""
    kind: Any = type(record)
    return _adapter(kind).dump_json(record).decode()


def from_json(kind: Any, text: str | bytes) -> Any:
    """The inverse of :func:`to_json`; takes nothing but what that wrote.

    Args:
        kind: the dataclass.
        text: its JSON.

    Raises:
        ValueError: naming the field that is missing, unknown or of the wrong type.
    """
    try:
        record = _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "the line"
        raise ValueError(f"{at}: {first['msg']}") from error
    # Validation lets pass that a field with a default is missing.
    if _adapter(kind).dump_python(record, mode="json") != json.loads(text):
        raise ValueError("it has not all fields")
    return record


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
