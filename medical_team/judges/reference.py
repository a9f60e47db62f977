"""The embedded default judge: no model, only words.

It calls a sentence wrong where a clinical word of the clean note was put in place of another, or a
negation came or went. That is a lexical approximation: a synonym counts as an error, an error
written in the same words does not. It cannot tell whether a note is realistic. It stands in for a
medical judge where there is none, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from medical_team.answers import Classification
from medical_team.judges.settings import JudgeSettings
from medical_team.medical_game_manager import changed_spans, normalise_sentence
from medical_team.medical_judge import Judgement, JudgeQuery, Unscored, Verdict

_WORD = re.compile(
    r"[a-z0-9]+(?:[.,/'][a-z0-9]+)*"
)  # "45-year-old" is three words, as in "45 years old"
_NEGATIONS = frozenset(
    {"no", "not", "without", "never", "none", "denies", "negative", "absent", "neither", "nor"}
)
# Words that carry no clinical fact: replacing them is a rewording.
_PLAIN = frozenset(
    word
    for line in (
        "a an the this that these those and or but so as of in on at to for from by with into onto",
        "over under within is are was were be been being has have had having do does did it its he",
        "she they his her their him them who which there here then than also very quite now still",
        "yet again once patient man woman he's she's mr mrs ms comes presents presented reports",
        "reported states shows showed shown reveals revealed found finds seen noted given gave",
        "gets got receives received started starts begins began continued treated treatment",
        "therapy taking taken took put because due after before during while since when",
        "year years old",
    )
    for word in line.split()
)


class ReferenceJudge:
    """Labels games by comparing words with the clean note."""

    name = "reference"
    fingerprint = "reference-2"

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        """Labels each game; ``realistic`` is always unknown."""
        return [self._verdict(query) for query in queries]

    def close(self) -> None:
        """There is nothing to give back."""

    def _verdict(self, query: JudgeQuery) -> Judgement:
        if not query.clean_note:
            return Unscored(
                query.query_id, "the reference judge compares with a clean note and there is none"
            )
        wrong = wrong_sentences(query.clean_note, query.note)
        identified = tuple(
            assessment is not None
            and assessment.classification is Classification.HARMFUL
            and assessment.sentence_id in wrong
            for assessment in query.assessments
        )
        return Verdict(query.query_id, bool(wrong), identified, None, self.name)


def build(settings: JudgeSettings) -> ReferenceJudge:
    """Makes the judge."""
    return ReferenceJudge()


def wrong_sentences(clean_note: Sequence[str], note: Sequence[str]) -> tuple[int, ...]:
    """Ids, in ``note``, of the sentences whose clinical words differ from the clean note's."""
    before = [normalise_sentence(sentence).casefold() for sentence in clean_note]
    after = [normalise_sentence(sentence).casefold() for sentence in note]
    wrong: list[int] = []
    for old, new in changed_spans(before, after):
        # Sentences of a replaced span belong together in order; one without a partner was added or
        # left out.
        wrong.extend(b for a, b in zip(old, new, strict=False) if _differs(before[a], after[b]))
    return tuple(wrong)


def _differs(clean: str, other: str) -> bool:
    before, after = set(_WORD.findall(clean)), set(_WORD.findall(other))
    if before & _NEGATIONS != after & _NEGATIONS:
        return True
    return bool(before - after - _PLAIN) and bool(after - before - _PLAIN)
