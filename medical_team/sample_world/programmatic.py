"""Errors of the sample clinic that no model wrote: one fact of a clean note is stated wrongly."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from typing import Final

from medical_team.archive import ArchivedAttack
from medical_team.medec import Case
from medical_team.medical_game_manager import GameType
from medical_team.sample_world.knowledge import CONDITIONS, Fact, wrong_values
from medical_team.sample_world.notes import stated_facts, wrong_facts

SOURCE: Final = "table"


def programmatic_attacks(cases: Iterable[Case], seed: int) -> Iterator[ArchivedAttack]:
    """States one fact of each case's clean note wrongly.

    It is never the fact that the case's own error is about, and with more than one wrong value to
    choose from each is as likely.

    Args:
        cases: cases of the sample clinic; others are left out, since the table does not know them.
        seed: of the choices.
    """
    rng = random.Random(seed)
    for case in cases:
        clean = case.clean_sentences
        if wrong_facts(clean) != {}:
            continue
        stated = stated_facts(clean)
        diagnosis = stated[Fact.DIAGNOSIS][1]
        condition = next(one for one in CONDITIONS if one.diagnosis == diagnosis)
        fact = rng.choice([fact for fact in Fact if fact.value != case.error_type])
        at, right = stated[fact]
        wrong = rng.choice(wrong_values(condition, fact))
        sentence = re.sub(rf"\b{re.escape(right)}\b", wrong, clean[at])
        yield ArchivedAttack.of(
            step=0,
            case=case,
            game_type=GameType.ADVERSARIAL_BENIGN,
            note=(*clean[:at], sentence, *clean[at + 1 :]),
            error_present=True,
            source=SOURCE,
            succeeded=False,
        )
