"""Archive: attacks of past steps, kept to be read again by assessors without their attacker."""

from medical_team.archive.archive import ArchiveSettings, AttackArchive
from medical_team.archive.attack import (
    ArchivedAttack,
    PlayedAgain,
    attack_from_json,
    attack_to_json,
    draw_from,
)
from medical_team.archive.file import ArchiveError, read_frozen, write_frozen

__all__ = [
    "ArchiveError",
    "ArchiveSettings",
    "ArchivedAttack",
    "AttackArchive",
    "PlayedAgain",
    "attack_from_json",
    "attack_to_json",
    "draw_from",
    "read_frozen",
    "write_frozen",
]
