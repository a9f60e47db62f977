"""Worked games of the sample clinic: what the tiny model learns the format and the table from.

The reasoning names the diagnosis, then for each fact what the table expects, what the note states,
a verdict and the number of the sentence: so small a model can compare what it has just written, and
bind a fact that it names to its sentence, but does neither in silence.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

from medical_team.answers import (
    Assessment,
    Classification,
    Edit,
    format_assessment,
    format_edit,
    format_response,
)
from medical_team.dataset.worked_turns import Example, Task
from medical_team.medec import Case
from medical_team.prompts import (
    AttackMode,
    PromptStyle,
    assessor_messages,
    attacker_messages,
)
from medical_team.sample_world.knowledge import CONDITIONS, Fact, is_held_out, wrong_values
from medical_team.sample_world.notes import SampleNote, stated_facts, write_note, wrong_facts

# Shares of the tasks in training. Hiding is the hardest of the three to learn.
TASK_SHARES: Final[dict[Task, float]] = {Task.ASSESS: 0.60, Task.INJECT: 0.22, Task.HIDE: 0.18}

# The order in which facts are read; a dose is read together with its drug.
_READING_ORDER: Final = (Fact.DIAGNOSIS, Fact.ORGANISM, Fact.DRUG, Fact.MANAGEMENT)


def random_example(rng: random.Random) -> Example:
    """Draws a task and a fresh note and answers rightly; never with a held-out wrong fact."""
    task = rng.choices(list(TASK_SHARES), weights=list(TASK_SHARES.values()))[0]
    note = write_note(rng.choice(CONDITIONS), rng)
    fact = rng.choice(list(Fact))
    wrong, other = rng.sample(_taught_values(note, fact), 2)
    style = PromptStyle.COMPACT
    if task is Task.INJECT:
        return _attack(task, note, fact, note.stating(fact, wrong), style)
    if task is Task.HIDE:
        return _attack(task, note.stating(fact, wrong), fact, note.stating(fact, other), style)
    return _assessment(note if rng.random() < 0.5 else note.stating(fact, wrong), style)


def case_turns(case: Case, style: PromptStyle, rng: random.Random) -> list[Example] | None:
    """The turns of a case, answered from the table.

    The assessor reads both notes, the attacker injects the error of the pair, and hides it by
    stating another wrong value, never a held-out one.

    Args:
        case: any case.
        style: how much the prompts explain.
        rng: draws the other wrong value.

    Returns:
        ``None`` where the table does not decide: the notes do not state one finding and each fact
        once, or they do not differ in exactly one fact that only the error note states wrongly.
    """
    error, clean = _read(case.error_sentences), _read(case.clean_sentences)
    if error is None or clean is None or error.altered is None or clean.altered is not None:
        return None
    fact = error.altered
    if error.templates != clean.templates or error.sentence_id(fact) != case.error_sentence_id:
        return None
    other = rng.choice([v for v in _taught_values(error, fact) if v != error.stated])
    return [
        _assessment(error, style),
        _assessment(clean, style),
        _attack(Task.INJECT, clean, fact, error, style),
        _attack(Task.HIDE, error, fact, error.stating(fact, other), style),
    ]


def _read(sentences: Sequence[str]) -> SampleNote | None:
    """Takes a note apart again, ``None`` if the table does not know it or finds several errors."""
    wrong = wrong_facts(sentences)
    if wrong is None or len(wrong) > 1 or any({"{", "}"} & set(text) for text in sentences):
        return None
    condition = next(c for c in CONDITIONS if any(c.finding in text for text in sentences))
    stated = stated_facts(sentences)
    templates = list(sentences)
    for fact, (at, value) in stated.items():
        slot = f"{{{fact.name.lower()}}}"
        templates[at] = re.sub(rf"\b{re.escape(value)}\b", slot, templates[at], count=1)
    altered = next(iter(wrong), None)
    instead = stated[altered][1] if altered else None
    note = SampleNote(condition, tuple(templates), altered, instead)
    return note if note.sentences == tuple(sentences) else None


def _taught_values(note: SampleNote, fact: Fact) -> list[str]:
    return [
        value
        for value in wrong_values(note.condition, fact)
        if not is_held_out(note.condition, fact, value)
    ]


def _assessment(note: SampleNote, style: PromptStyle) -> Example:
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
        assessor_messages(note.sentences, style),
        format_response(_reasoning(note, steps), format_assessment(assessment), think_opened=True),
    )


def _attack(
    task: Task, source: SampleNote, fact: Fact, target: SampleNote, style: PromptStyle
) -> Example:
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
            style,
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
