"""What a judge is asked when it is calibrated: games made from MEDEC's pairs, whose truth is known.

A gold note is never put to the judge in training, since it needs none. So the clean note is also
shown with one sentence harmlessly reworded: a judge that only sees that something changed calls
that an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from medical_team.answers import Assessment, Classification
from medical_team.medec import Case
from medical_team.medical_game_manager import changed_sentences
from medical_team.medical_judge import JudgeQuery

# Pairs that say the same in a clinical note whatever stands around them. None holds a number, a
# negation, a drug or a finding.
_SAME_MEANING = {
    "-year-old": " year old",
    "presents with": "comes in with",
    "presented with": "came in with",
    "because of": "due to",
    "complains of": "reports",
    "shows": "reveals",
    "showed": "revealed",
    "reveals": "shows",
    "revealed": "showed",
    "is started on": "is begun on",
    "was started on": "was begun on",
    "he is given": "he receives",
    "she is given": "she receives",
    "patient is given": "patient receives",
    "he was given": "he received",
    "she was given": "she received",
    "patient was given": "patient received",
    "he receives": "he is given",
    "she receives": "she is given",
    "patient receives": "patient is given",
    "approximately": "about",
    "prior to": "before",
    "for the past": "over the past",
    "over the past": "for the past",
    "blood pressure": "BP",
    "BP": "blood pressure",
    "heart rate": "HR",
    "electrocardiogram": "ECG",
    "electrocardiography": "ECG",
    "EKG": "ECG",
    "computed tomography": "CT",
    "magnetic resonance imaging": "MRI",
    "complete blood count": "CBC",
    "emergency department": "ED",
    "intravenous": "IV",
    "physical examination": "physical exam",
    "physical exam": "physical examination",
    "the laboratory": "the lab",
    "laboratory studies": "lab studies",
    "laboratory results": "lab results",
    "laboratory tests": "lab tests",
}
for _place in ("physician", "clinic", "office", "emergency department", "emergency room"):
    for _one, _other in (("comes", "presents"), ("came", "presented")):
        _SAME_MEANING[f"{_one} to the {_place}"] = f"{_other} to the {_place}"
        _SAME_MEANING[f"{_other} to the {_place}"] = f"{_one} to the {_place}"
_REPLACEMENTS = {phrase.casefold(): other for phrase, other in _SAME_MEANING.items()}
_PHRASE = re.compile(
    rf"(?<![A-Za-z])(?:{'|'.join(sorted(map(re.escape, _REPLACEMENTS), key=len, reverse=True))})"
    # An abbreviation in brackets follows its long form.
    r"(?![A-Za-z-]|\s*\()",
    re.IGNORECASE,
)


class Kind(StrEnum):
    """How an item's note differs from the clean note, which decides the truth."""

    ERROR = "error"
    ERROR_AND_REWORDING = "error_and_rewording"
    REWORDING = "rewording"
    UNCHANGED = "unchanged"

    @property
    def holds_error(self) -> bool:
        """The truth about the note."""
        return self in (Kind.ERROR, Kind.ERROR_AND_REWORDING)


@dataclass(frozen=True, slots=True)
class Item:
    """One game whose labels are known.

    Attributes:
        kind: what the note is.
        case_id: the case it was made from.
        error_type: the case's error type.
        query: what the judge is shown.
        identified: for each assessor, whether its answer names the note's error.
    """

    kind: Kind
    case_id: str
    error_type: str
    query: JudgeQuery
    identified: tuple[bool, ...]


def reword(sentence: str) -> str:
    """The sentence in other words of the same meaning; unchanged where no safe ones are known."""

    def other(match: re.Match[str]) -> str:
        words = _REPLACEMENTS[match[0].casefold()]
        return words[0].upper() + words[1:] if match.start() == 0 else words

    return _PHRASE.sub(other, sentence)


def items_of(case: Case, seed: int) -> list[Item]:
    """The items of one case; without those that need a rewording where none is safe.

    Args:
        case: the pair.
        seed: with the case's id it decides which sentence is reworded and which is wrongly named.
    """
    # Seeded by the case, so that its items do not depend on which other cases are asked about.
    random = Random(f"{seed} {case.case_id}")
    clean, error, at = case.clean_sentences, case.error_sentences, case.error_sentence_id
    # An assessor that names the wrong sentence copies it where it has nothing better to say.
    others = [i for i in range(len(clean)) if i != at]
    wrong = random.choice(others) if others else None
    right = _harmful(at, case.corrected_sentence)
    items = [
        _item(
            case, Kind.ERROR, error, right, None if wrong is None else _harmful(wrong, clean[wrong])
        ),
        _item(case, Kind.UNCHANGED, clean, _harmful(at, case.error_sentence)),
    ]
    places = [i for i in others if reword(clean[i]) != clean[i]]
    if places:
        place = random.choice(places)
        note = _with(error, place, reword(error[place]))
        if changed_sentences(clean, note) == tuple(sorted((at, place))):
            named = _harmful(place, clean[place])
            items.append(_item(case, Kind.ERROR_AND_REWORDING, note, right, named))
    elif reword(clean[at]) != clean[at]:
        place = at
    else:
        return items
    note = _with(clean, place, reword(clean[place]))
    items.append(_item(case, Kind.REWORDING, note, _harmful(place, clean[place])))
    return items


def chosen_cases(cases: Sequence[Case], limit: int | None, seed: int) -> list[Case]:
    """The cases to ask about, in an order drawn by the seed; a smaller limit gives a prefix.

    Pairs that differ in nothing but letter case are left out, since they hold no real error.
    """
    real = [
        case
        for case in cases
        if case.error_sentence.casefold() != case.corrected_sentence.casefold()
    ]
    Random(seed).shuffle(real)
    return real[:limit]


def _item(case: Case, kind: Kind, note: tuple[str, ...], *harmful: Assessment | None) -> Item:
    assessments = [one for one in harmful if one is not None]
    safe = Assessment(Classification.SAFE, None, None)
    query = JudgeQuery(f"{case.case_id}/{kind}", case.clean_sentences, note, (*assessments, safe))
    identified = (kind.holds_error, *[False] * len(assessments))
    return Item(kind, case.case_id, case.error_type, query, identified)


def _harmful(sentence_id: int, correction: str) -> Assessment:
    return Assessment(Classification.HARMFUL, sentence_id, correction)


def _with(sentences: tuple[str, ...], place: int, sentence: str) -> tuple[str, ...]:
    return (*sentences[:place], sentence, *sentences[place + 1 :])
