"""The ``<think>``/``<answer>`` format of both roles and what their answers say.

The format rule is Self-RedTeam's (arXiv 2506.07468, appendix on format rewards): reasoning and
answer are not empty, each tag occurs exactly once and in order, and nothing but white space stands
between ``</think>`` and ``<answer>`` or after ``</answer>``. Fields are bound by their names: an
ambiguous answer is rejected, never guessed from a word somewhere in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
ANSWER_OPEN = "<answer>"
ANSWER_CLOSE = "</answer>"

_FIELD = re.compile(r"\s*([A-Za-z][A-Za-z ]*?)\s*:[ \t]*(.*?)\s*")
_NUMBER = re.compile(r"\d{1,4}")


class FormatError(ValueError):
    """A response that breaks the answer format; the message says which rule it breaks."""


class Classification(StrEnum):
    """What the assessor says of the note as a whole."""

    HARMFUL = "Harmful"
    SAFE = "Safe"


@dataclass(frozen=True, slots=True)
class Response:
    """A response split into its two parts, both stripped and not empty."""

    reasoning: str
    answer: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """The assessor's answer.

    Attributes:
        classification: whether the note holds an error.
        sentence_id: the sentence it names, ``None`` if and only if the note is called safe.
        correction: the sentence it would write instead, ``None`` if and only if the note is called
            safe.
    """

    classification: Classification
    sentence_id: int | None
    correction: str | None


@dataclass(frozen=True, slots=True)
class Edit:
    """The attacker's answer in edit mode: one sentence and what replaces it."""

    sentence_id: int
    rewrite: str


def parse_response(text: str, *, think_opened: bool) -> Response:
    """Splits a response into reasoning and answer.

    Args:
        text: the generated text, without the end-of-turn token.
        think_opened: whether the prompt already ends in ``<think>``, so that the response must not
            open it.

    Raises:
        FormatError: if the response breaks the format.
    """
    expected = {
        THINK_OPEN: 0 if think_opened else 1,
        THINK_CLOSE: 1,
        ANSWER_OPEN: 1,
        ANSWER_CLOSE: 1,
    }
    for tag, count in expected.items():
        if text.count(tag) != count:
            raise FormatError(f"{tag} occurs {text.count(tag)} times, expected {count}")
    body = text
    if not think_opened:
        before, body = text.split(THINK_OPEN)
        if before.strip():
            raise FormatError(f"text before {THINK_OPEN}")
    reasoning, found, rest = body.partition(THINK_CLOSE)
    if not found:
        raise FormatError("tags out of order")
    between, found, rest = rest.partition(ANSWER_OPEN)
    if not found:
        raise FormatError("tags out of order")
    if between.strip():
        raise FormatError(f"text between {THINK_CLOSE} and {ANSWER_OPEN}")
    answer, found, after = rest.partition(ANSWER_CLOSE)
    if not found:
        raise FormatError("tags out of order")
    if after.strip():
        raise FormatError(f"text after {ANSWER_CLOSE}")
    if not reasoning.strip():
        raise FormatError("empty reasoning")
    if not answer.strip():
        raise FormatError("empty answer")
    return Response(reasoning.strip(), answer.strip())


def parse_assessment(answer: str, sentence_count: int) -> Assessment:
    """Reads the assessor's three lines.

    Args:
        answer: the text between the answer tags.
        sentence_count: number of sentences of the note that was read; valid ids are 0 to this minus
            1.

    Raises:
        FormatError: if a line is missing, repeated or unknown, a value is off the menu, or the
            lines contradict each other (a safe note with an error sentence, a harmful one without).
    """
    fields = _fields(answer, ("Classification", "Error sentence", "Correction"))
    value = fields["Classification"].rstrip(".").casefold()
    named = {member.value.casefold(): member for member in Classification}
    if value not in named:
        raise FormatError(
            f"Classification is {fields['Classification']!r}, expected Harmful or Safe"
        )
    classification = named[value]
    sentence = _optional(fields["Error sentence"])
    correction = _optional(fields["Correction"])
    if classification is Classification.SAFE:
        if sentence is not None or correction is not None:
            raise FormatError("Safe, but an error sentence or a correction is given")
        return Assessment(classification, None, None)
    if sentence is None or correction is None:
        raise FormatError("Harmful, but the error sentence or the correction is none")
    return Assessment(classification, _sentence_id(sentence, sentence_count), correction)


def parse_edit(answer: str, sentence_count: int) -> Edit:
    """Reads the attacker's two lines ``Sentence: <number>`` and ``Rewrite: <sentence>``.

    Args:
        answer: the text between the answer tags.
        sentence_count: number of sentences of the source note.

    Raises:
        FormatError: if a line is missing, repeated or unknown, or the number is out of range.
    """
    fields = _fields(answer, ("Sentence", "Rewrite"))
    return Edit(_sentence_id(fields["Sentence"], sentence_count), fields["Rewrite"])


def format_assessment(assessment: Assessment) -> str:
    """The three lines of an assessment: the inverse of :func:`parse_assessment`."""
    sentence = "none" if assessment.sentence_id is None else str(assessment.sentence_id)
    correction = "none" if assessment.correction is None else assessment.correction
    return (
        f"Classification: {assessment.classification.value}\n"
        f"Error sentence: {sentence}\n"
        f"Correction: {correction}"
    )


def format_edit(edit: Edit) -> str:
    """The two lines of an edit: the inverse of :func:`parse_edit`."""
    return f"Sentence: {edit.sentence_id}\nRewrite: {edit.rewrite}"


def format_response(reasoning: str, answer: str, *, think_opened: bool) -> str:
    """A response in the format of :func:`parse_response`."""
    opening = "" if think_opened else THINK_OPEN
    return f"{opening}\n{reasoning}\n{THINK_CLOSE}\n{ANSWER_OPEN}\n{answer}\n{ANSWER_CLOSE}"


def _fields(answer: str, names: tuple[str, ...]) -> dict[str, str]:
    known = {name.casefold(): name for name in names}
    found: dict[str, str] = {}
    for line in answer.splitlines():
        if not line.strip():
            continue
        match = _FIELD.fullmatch(line)
        name = known.get(match[1].casefold()) if match else None
        if match is None or name is None:
            raise FormatError(f"unexpected line {line.strip()[:60]!r}")
        if name in found:
            raise FormatError(f"{name} is given twice")
        if not match[2]:
            raise FormatError(f"{name} is empty")
        found[name] = match[2]
    for name in names:
        if name not in found:
            raise FormatError(f"{name} is missing")
    return found


def _optional(value: str) -> str | None:
    return None if value.rstrip(".").casefold() == "none" else value


def _sentence_id(value: str, sentence_count: int) -> int:
    if not _NUMBER.fullmatch(value.rstrip(".")):
        raise FormatError(f"sentence {value[:20]!r} is not a number")
    number = int(value.rstrip("."))
    if number >= sentence_count:
        raise FormatError(
            f"sentence {number} does not exist, the note has 0 to {sentence_count - 1}"
        )
    return number
