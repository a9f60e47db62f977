"""Notes of the sample clinic: written from the table, and checked against it."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from medical_team.sample_world.knowledge import CONDITIONS, Condition, Fact, values

# No digit stands alone in a note: a single digit is a sentence number to the tiny model.
_PRESENTATION: Final = (
    "A {age}-year-old {person} presents with {finding}.",
    "A {age}-year-old {person} comes to the clinic because of {finding}.",
    "Examination of this {age}-year-old {person} shows {finding}.",
    "This {age}-year-old {person} is seen for {finding}.",
)
_DIAGNOSIS: Final = (
    "The diagnosis is {diagnosis}.",
    "The patient is diagnosed with {diagnosis}.",
    "The picture is typical of {diagnosis}.",
    "The clinician finds {diagnosis}.",
)
_ORGANISM: Final = (
    "Tests identify {organism}.",
    "The laboratory reports {organism}.",
    "The causal organism is {organism}.",
    "Specimens are positive for {organism}.",
)
_REGIMEN: Final = (
    "The patient receives {drug} {dose}.",
    "Treatment with {drug} {dose} is started.",
    "The clinician prescribes {drug} {dose}.",
    "Therapy consists of {drug} {dose}.",
)
_MANAGEMENT: Final = (
    "The plan includes {management}.",
    "The next step is {management}.",
    "The team arranges {management}.",
    "The patient is scheduled for {management}.",
)
# The orders of diagnosis, organism, regimen and management that read naturally.
_ORDERS: Final = ("DORM", "ODRM", "DOMR", "ODMR", "DROM", "DMOR", "DRMO")
_BLOCKS: Final = {"D": _DIAGNOSIS, "O": _ORGANISM, "R": _REGIMEN, "M": _MANAGEMENT}

_FILLERS: Final = (
    ("Pulse is {pulse}/min.", "Heart rate is {pulse}/min."),
    ("Blood pressure is {pressure} mm Hg.", "Blood pressure measures {pressure} mm Hg at rest."),
    ("Temperature is {temperature} C.", "The patient has a temperature of {temperature} C."),
    ("Symptoms began {days} days ago.", "The patient has been unwell for {days} days."),
    ("There is a history of {history}.", "Past history includes {history}."),
    ("The patient works as a {job}.", "The patient is a retired {job}."),
    ("There is no known drug allergy.", "The patient denies any drug allergy."),
    (
        "The patient smokes daily.",
        "The patient has never smoked.",
        "The patient stopped smoking years ago.",
    ),
    ("The patient came back from {place} last month.", "There was recent travel to {place}."),
    ("A {relative} was ill last week.", "The patient lives with a healthy {relative}."),
    ("Weight is {weight} kg.", "The patient weighs {weight} kg."),
    ("Appetite is {state}.", "Sleep is {state}."),
)
_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "pulse": tuple(str(n) for n in range(64, 113, 4)),
    "pressure": tuple(f"{high}/{high - 46}" for high in range(106, 151, 4)),
    "temperature": tuple(f"{n / 10:.1f}" for n in range(366, 396, 2)),
    "days": ("two", "three", "four", "five", "six", "seven", "nine", "ten"),
    "history": (
        "hypertension",
        "asthma",
        "diabetes",
        "migraine",
        "gout",
        "eczema",
        "anemia",
        "arthritis",
    ),
    "job": ("teacher", "farmer", "nurse", "driver", "cook", "lawyer", "plumber", "pilot"),
    "place": ("Kenya", "Peru", "India", "Norway", "Spain", "Mexico", "Vietnam", "Egypt"),
    "relative": ("brother", "sister", "cousin", "partner", "son", "daughter"),
    "weight": tuple(str(n) for n in range(51, 98, 3)),
    "state": ("normal", "poor", "unchanged", "reduced"),
    "age": tuple(str(n) for n in range(19, 79, 3)),
    "person": ("man", "woman"),
}
_MAX_FILLERS: Final = 4


@dataclass(frozen=True, slots=True)
class SampleNote:
    """A note as templates, so that the same wording can state a right fact or a wrong one.

    Attributes:
        condition: what the patient has.
        templates: one template a sentence; only the facts are left open.
        altered: the fact that is stated wrongly, ``None`` in a correct note.
        stated: what is stated instead, ``None`` in a correct note.
    """

    condition: Condition
    templates: tuple[str, ...]
    altered: Fact | None = None
    stated: str | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """The note's sentences."""
        facts = {fact.name.lower(): self.value(fact) for fact in Fact}
        return tuple(
            template.format(finding=self.condition.finding, **facts) for template in self.templates
        )

    def value(self, fact: Fact) -> str:
        """A fact as the note states it."""
        if fact is self.altered and self.stated is not None:
            return self.stated
        return self.condition.value(fact)

    def sentence_id(self, fact: Fact) -> int:
        """The sentence that states a fact, 0-based."""
        slot = f"{{{fact.name.lower()}}}"
        return next(i for i, template in enumerate(self.templates) if slot in template)

    def stating(self, fact: Fact, value: str) -> SampleNote:
        """The same note with one fact stated as ``value`` and every other fact right."""
        return SampleNote(self.condition, self.templates, fact, value)


def write_note(condition: Condition, rng: random.Random) -> SampleNote:
    """Writes a correct note of 6 to 9 sentences.

    Args:
        condition: what the patient has.
        rng: the source of the wording, the order and the fillers.
    """
    order = rng.choice(_ORDERS)
    templates = [rng.choice(_PRESENTATION), *(rng.choice(_BLOCKS[block]) for block in order)]
    for variants in rng.sample(_FILLERS, rng.randint(1, _MAX_FILLERS)):
        templates.insert(rng.randint(0, len(templates)), rng.choice(variants))
    return SampleNote(condition, tuple(_fill(template, rng) for template in templates))


def stated_facts(sentences: Sequence[str]) -> dict[Fact, tuple[int, str]]:
    """Finds what a note states: for each fact the sentence and the value.

    A fact that is stated nowhere, or more than once, is left out: it cannot be bound to a sentence.
    """
    found: dict[Fact, tuple[int, str]] = {}
    for fact in Fact:
        hits = [
            (i, hit)
            for i, text in enumerate(sentences)
            for hit in _matcher(values(fact)).findall(text)
        ]
        if len(hits) == 1:
            found[fact] = hits[0]
    return found


def wrong_facts(sentences: Sequence[str]) -> dict[Fact, int] | None:
    """Checks a note against the table: the facts that are stated wrongly, each with its sentence.

    Returns:
        An empty dictionary for a correct note; ``None`` where the table cannot decide because the
        note does not state exactly one finding and each of the five facts once.
    """
    findings = _matcher(tuple(condition.finding for condition in CONDITIONS))
    hits = [hit for text in sentences for hit in findings.findall(text)]
    stated = stated_facts(sentences)
    if len(hits) != 1 or len(stated) != len(Fact):
        return None
    condition = next(condition for condition in CONDITIONS if condition.finding == hits[0])
    return {fact: i for fact, (i, value) in stated.items() if value != condition.value(fact)}


def _fill(template: str, rng: random.Random) -> str:
    for name, words in _WORDS.items():
        if f"{{{name}}}" in template:
            template = template.replace(f"{{{name}}}", rng.choice(words))
    return template


@cache
def _matcher(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b")
