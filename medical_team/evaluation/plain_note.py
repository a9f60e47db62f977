"""A note of somebody's own, as plain text, cut into the sentences that an assessor reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from medical_team.evaluation.errors import NoteError
from medical_team.medec import mend

# A full stop after one of these seldom ends a sentence in a clinical note.
_INSIDE: Final = """
dr mr mrs ms prof st vs no approx ca cf e.g i.e q.i.d i.v i.m s.c temp resp pt pts hx dx tx rx fig
al
jan feb mar apr jun jul aug sep sept oct nov dec
"""
# So does one after these, unless a capital letter follows: a time or a dose may be the last word.
_LAST: Final = "a.m p.m mg mcg ml kg mmhg bpm hr hrs min wk yr yrs b.i.d t.i.d q.d q.h.s p.o p.r.n"
_OFTEN_LAST: Final = frozenset(_LAST.split())
_ABBREVIATIONS: Final = frozenset(_INSIDE.split()) | _OFTEN_LAST
# What a single capital letter is an initial after, and what begins a sentence behind none.
_BEFORE_NAMES: Final = frozenset(("dr", "mr", "mrs", "ms", "prof", "by"))
_OPENERS: Final = frozenset(
    ("he", "she", "it", "they", "we", "his", "her", "its", "their", "the", "this", "these", "no")
)
_INITIAL: Final = re.compile(r"[A-Z]\.?")
_END: Final = re.compile(r"([.!?][\"')\]]*)\s+(?=(\S+))")
# Characters before a full stop that tell whether it ends a sentence, so that long notes take no
# time.
_LOOK_BACK: Final = 80
_STOPPED: Final = re.compile(r"[.!?][\"')\]]*$")
_ITEM: Final = re.compile(r"\(?\d{1,3}[.)]+")
_NUMBERED: Final = re.compile(r"(\d{1,4})([.):]?)\s+(\S.*)")


@dataclass(frozen=True, slots=True)
class PlainNote:
    """A note as an assessor reads it.

    Attributes:
        sentences: white space folded and double-encoded characters mended.
        first: the number that the note's author gave its first sentence: 0, or 1.
    """

    sentences: tuple[str, ...]
    first: int = 0


def plain_note(text: str) -> PlainNote:
    """Cuts a note into sentences.

    Lines numbered from 0 or from 1 (``0. text``, ``0) text`` or MEDEC's ``0 text``) are sentences
    as they stand; so is a single line numbered 0, or ``1.``, ``1)`` or ``1:``. Other text is cut at
    every empty line and at full stops, question and exclamation marks before white space, but for
    those of common abbreviations and initials. A single capital letter is an initial after a title,
    a capitalised word or "by", at the beginning, or before another initial, unless a word such as
    "He" or "The" follows. A paragraph of lines of which none ends in a full stop, question or
    exclamation mark and none goes on in lower case is a list: each line is cut alone. The number of
    a list's item stays with the item.

    Args:
        text: the note.

    Raises:
        NoteError: if there is no text.
    """
    lines = [line.strip() for line in text.splitlines()]
    numbered = _numbered([line for line in lines if line])
    if numbered is None:
        paragraphs = re.split(r"\n\s*\n", text)
        numbered = PlainNote(
            tuple(found for part in paragraphs for piece in _pieces(part) for found in _cut(piece))
        )
    mended = tuple(found for sentence in numbered.sentences if (found := mend(sentence)))
    if not mended:
        raise NoteError("the note is empty; expected text, or sentences numbered from 0.")
    return PlainNote(mended, numbered.first)


def _numbered(lines: list[str]) -> PlainNote | None:
    """The sentences of numbered lines, ``None`` if they are none."""
    found = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    if not found or len(found) < len(lines):
        return None
    first = int(found[0][1])
    if [int(match[1]) for match in found] != list(range(first, first + len(found))) or first > 1:
        return None
    if len(found) == 1 and first == 1 and not found[0][2]:  # as in "1 week of fever"
        return None
    return PlainNote(tuple(match[3] for match in found), first)


def _pieces(paragraph: str) -> list[str]:
    """The lines of a list, or the whole paragraph as one line."""
    lines = [folded for line in paragraph.splitlines() if (folded := " ".join(line.split()))]
    wrapped = any(line[0].islower() for line in lines[1:])
    if wrapped or any(_STOPPED.search(line) for line in lines):
        return [" ".join(lines)]
    return lines


def _cut(text: str) -> list[str]:
    sentences, start = [], 0
    for match in _END.finditer(text):
        if _ITEM.fullmatch(text, start, match.end(1)):  # the number of what follows
            continue
        if match[1].startswith(".") and _goes_on(
            text[max(start, match.start() - _LOOK_BACK) : match.start()], match[2]
        ):
            continue
        sentences.append(text[start : match.end(1)])
        start = match.end()
    return [*sentences, text[start:]] if text[start:] else sentences


def _goes_on(before: str, following: str) -> bool:
    """Whether a sentence goes on after this full stop, with the word that follows."""
    if following[0].islower():
        return True
    *_, previous, word = ("", "", *before.split())
    previous, word = (one.lstrip("(\"'[") for one in (previous, word))
    if _INITIAL.fullmatch(word):  # as in J. Smith, but not in hepatitis C. or 38 C.
        return following.casefold().strip(".,") not in _OPENERS and (
            not previous
            or previous[0].isupper()
            or previous.casefold().rstrip(".") in _BEFORE_NAMES
            or bool(_INITIAL.fullmatch(following) and following.endswith("."))
        )
    word = word.casefold()
    return word in _ABBREVIATIONS and not (word in _OFTEN_LAST and following[0].isupper())
