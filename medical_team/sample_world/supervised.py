"""Worked games of the sample clinic: what the tiny model learns the format and the table from.

The reasoning names the diagnosis, then for each fact what the table expects, what the note states,
a verdict and the number of the sentence: so small a model can compare what it has just written, and
bind a fact that it names to its sentence, but does neither in silence.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from medical_team.answers import (
    Assessment,
    Classification,
    Edit,
    format_assessment,
    format_edit,
    format_response,
)
from medical_team.prompts import (
    AttackMode,
    Message,
    PromptStyle,
    assessor_messages,
    attacker_messages,
)
from medical_team.sample_world.knowledge import CONDITIONS, Fact, is_held_out, wrong_values
from medical_team.sample_world.notes import SampleNote, write_note


class Task(StrEnum):
    """What is asked of the model."""

    ASSESS = "assess"
    INJECT = "inject"
    HIDE = "hide"


# Shares of the tasks in training. Hiding is the hardest of the three to learn.
TASK_SHARES: Final[dict[Task, float]] = {Task.ASSESS: 0.60, Task.INJECT: 0.22, Task.HIDE: 0.18}

# The order in which facts are read; a dose is read together with its drug.
_READING_ORDER: Final = (Fact.DIAGNOSIS, Fact.ORGANISM, Fact.DRUG, Fact.MANAGEMENT)


@dataclass(frozen=True, slots=True)
class Example:
    """One turn and the response to learn; the prompt ends in ``<think>``."""

    task: Task
    messages: list[Message]
    response: str


def random_example(rng: random.Random) -> Example:
    """Draws a task and a fresh note and answers rightly; never with a held-out wrong fact."""
    task = rng.choices(list(TASK_SHARES), weights=list(TASK_SHARES.values()))[0]
    note = write_note(rng.choice(CONDITIONS), rng)
    fact = rng.choice(list(Fact))
    wrong, other = rng.sample(_taught_values(note, fact), 2)
    if task is Task.INJECT:
        return _attack(task, note, fact, note.stating(fact, wrong))
    if task is Task.HIDE:
        return _attack(task, note.stating(fact, wrong), fact, note.stating(fact, other))
    return _assessment(note if rng.random() < 0.5 else note.stating(fact, wrong))


def _taught_values(note: SampleNote, fact: Fact) -> list[str]:
    return [
        value
        for value in wrong_values(note.condition, fact)
        if not is_held_out(note.condition, fact, value)
    ]


def _assessment(note: SampleNote) -> Example:
    right = SampleNote(note.condition, note.templates)
    steps: list[str] = []
    assessment = Assessment(Classification.SAFE, None, None)
    for fact in _READING_ORDER:
        at, expected, stated = (
            note.sentence_id(fact),
            _as_stated(right, fact),
            _as_stated(note, fact),
        )
        steps.append(f"{expected}? {stated} {'ok' if stated == expected else 'no'} {at}")
        if stated != expected:
            assessment = Assessment(Classification.HARMFUL, at, right.sentences[at])
            break
    return Example(
        Task.ASSESS,
        assessor_messages(note.sentences, PromptStyle.COMPACT),
        format_response(_reasoning(note, steps), format_assessment(assessment), think_opened=True),
    )


def _attack(task: Task, source: SampleNote, fact: Fact, target: SampleNote) -> Example:
    at = source.sentence_id(fact)
    # Told a number, it reads fact by fact until it comes to it: the way from a number to its fact
    # is much harder to learn than the way back.
    facts = _READING_ORDER if task is Task.HIDE else (fact,)
    steps: list[str] = []
    for read in facts:
        steps.append(f"{_as_stated(source, read)} {source.sentence_id(read)}")
        if source.sentence_id(read) == at:
            break
    steps[-1] += f" becomes {_as_stated(target, fact)}"
    return Example(
        task,
        attacker_messages(
            source.sentences,
            at if task is Task.HIDE else None,
            AttackMode.EDIT,
            PromptStyle.COMPACT,
        ),
        format_response(
            _reasoning(source, steps),
            format_edit(Edit(at, target.sentences[at])),
            think_opened=True,
        ),
    )


def _reasoning(note: SampleNote, steps: list[str]) -> str:
    condition = note.condition
    return f"finding {condition.finding} means {condition.diagnosis}: {', '.join(steps)}"


def _as_stated(note: SampleNote, fact: Fact) -> str:
    if fact in (Fact.DRUG, Fact.DOSE):
        return f"{note.value(Fact.DRUG)} {note.value(Fact.DOSE)}"
    return note.value(fact)
