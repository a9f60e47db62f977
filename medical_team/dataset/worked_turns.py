"""Worked turns: a prompt of the game and the response to learn, made from one case's gold pair.

The reasoning is templated and short. It says what the annotation says and nothing else: which
sentence is wrong, which words make it wrong, which words belong there. It cannot say why.
"""

from __future__ import annotations

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
from medical_team.medec import ERROR_TYPES, Case
from medical_team.prompts import (
    AttackMode,
    Message,
    PromptStyle,
    assessor_messages,
    attacker_messages,
    neutralise,
)


class Task(StrEnum):
    """What is asked of the model."""

    ASSESS = "assess"
    INJECT = "inject"
    HIDE = "hide"


@dataclass(frozen=True, slots=True)
class Example:
    """One turn and the response to learn; the prompt ends in ``<think>``."""

    task: Task
    messages: list[Message]
    response: str


_NAMES: Final = {name: name for name in ERROR_TYPES} | {"causalOrganism": "causal organism"}


def gold_turns(case: Case, style: PromptStyle) -> list[Example]:
    """The turns that the gold pair of any case can answer.

    The assessor reads the error note and the clean note; the attacker puts the error of the pair
    into the clean note. There is no turn that hides an error: the pair holds one erroneous sentence
    and no second one that would be harder to notice.

    Args:
        case: the case; what stands in its answers and reasoning is neutralised.
        style: how much the prompts explain.
    """
    at, last = case.error_sentence_id, len(case.error_sentences) - 1
    wrong, right = (
        f'"{neutralise(words)}"'
        for words in changed_words(case.error_sentence, case.corrected_sentence)
    )
    kind = f" ({_NAMES[case.error_type]})" if case.error_type in _NAMES else ""
    scan = f"I check sentences 0 to {last}."
    found = Assessment(Classification.HARMFUL, at, neutralise(case.corrected_sentence))
    nothing = Assessment(Classification.SAFE, None, None)
    return [
        Example(
            Task.ASSESS,
            assessor_messages(case.error_sentences, style),
            _response(
                f"{scan} Sentence {at} says {wrong} and should say {right}{kind}."
                " The others hold no error.",
                format_assessment(found),
            ),
        ),
        Example(
            Task.ASSESS,
            assessor_messages(case.clean_sentences, style),
            _response(f"{scan} None of them holds an error.", format_assessment(nothing)),
        ),
        Example(
            Task.INJECT,
            attacker_messages(case.clean_sentences, None, AttackMode.EDIT, style),
            _response(
                f"The note is correct. Sentence {at} says {right}; {wrong} instead is an"
                f" error{kind}.",
                format_edit(Edit(at, neutralise(case.error_sentence))),
            ),
        ),
    ]


def changed_words(before: str, after: str) -> tuple[str, str]:
    """The words in which two sentences differ, from the first to the last difference.

    Where one sentence only has words more than the other, the word beside them is taken along, so
    that neither side is empty.

    Raises:
        ValueError: if the sentences have the same words.
    """
    old, new = before.split(), after.split()
    if old == new:
        raise ValueError(f"two sentences with the same words: {before[:80]!r}")
    shorter = min(len(old), len(new))
    start = 0
    while start < shorter and old[start] == new[start]:
        start += 1
    tail = 0
    while tail < shorter - start and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    if shorter == start + tail:
        if start:
            start -= 1
        else:
            tail = max(0, tail - 1)
    return " ".join(old[start : len(old) - tail]), " ".join(new[start : len(new) - tail])


def _response(reasoning: str, answer: str) -> str:
    return format_response(reasoning, answer, think_opened=True)
