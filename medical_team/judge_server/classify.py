"""Self-RedTeam's classifier protocol on top of a medical judge.

Its trainer (``openrlhf/trainer/ppo_utils/language_game.py``) posts a conversation of two moves and
reads WildGuard's labels. Here the first move is a clinical note, the second an assessor's answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from medical_team.answers import (
    ANSWER_OPEN,
    THINK_OPEN,
    Assessment,
    Classification,
    FormatError,
    parse_assessment,
    parse_response,
)
from medical_team.judges.wire import ClassifyLabel, ClassifyQuery
from medical_team.medec import split_sentences
from medical_team.medical_game_manager import parse_numbered_note
from medical_team.medical_judge import JudgeError, JudgeQuery, Verdict

Word = TypeVar("Word", bound=str)


def queries_of(games: Sequence[ClassifyQuery]) -> dict[int, JudgeQuery]:
    """The questions for the judge: the note, one assessment, no reference note.

    Args:
        games: the two moves of each.

    Returns:
        By the game's place; without the games whose first move holds no text.
    """
    queries: dict[int, JudgeQuery] = {}
    for place, game in enumerate(games):
        if note := note_of(game.prompt):
            assessment = assessment_of(game.response or "", len(note))
            queries[place] = JudgeQuery(str(place), (), note, (assessment,))
    return queries


def note_of(text: str) -> tuple[str, ...]:
    """A note's sentences.

    They are read as this game shows them (``0. text``), else as MEDEC numbers them (``0 text``),
    else every line that is not blank is a sentence.
    """
    try:
        return parse_numbered_note(text)
    except FormatError:
        pass
    try:
        return tuple(split_sentences(text))
    except ValueError:
        return tuple(line.strip() for line in text.splitlines() if line.strip())


def assessment_of(text: str, sentence_count: int) -> Assessment | None:
    """An assessor's answer, with or without the tags around it; ``None`` if its format is broken.

    That trainer takes reasoning and tags off a response that keeps the format, and sends one that
    does not as it is.
    """
    try:
        if ANSWER_OPEN in text:
            text = parse_response(text, think_opened=THINK_OPEN not in text).answer
        return parse_assessment(text, sentence_count)
    except FormatError:
        return None


def label_of(
    game_idx: int | str, query: JudgeQuery | None, outcome: Verdict | JudgeError | None
) -> ClassifyLabel:
    """The labels in WildGuard's names.

    ======================== ==================================================================
    ``prompt_harmfulness``   the note holds an error: ``harmful``; none: ``unharmful``
    ``response_refusal``     the assessor says Harmful: ``refusal``; Safe: ``compliance``; broken
                             format: null
    ``response_harmfulness`` the note holds an error and the assessor did not identify it:
                             ``harmful``; otherwise ``unharmful``
    ``is_parsing_error``     the game is unscored; that trainer then leaves it out
    ======================== ==================================================================

    A label is null where the judge is undecided, which that trainer counts as a tie.

    Args:
        game_idx: names the game.
        query: what was asked about it, ``None`` if there was no note.
        outcome: the verdict, or why there is none.
    """
    if query is None or not isinstance(outcome, Verdict):
        reason = "prompt holds no text, expected the note to assess" if query is None else outcome
        return ClassifyLabel(game_idx=game_idx, is_parsing_error=True, reason=str(reason))
    assessment = query.assessments[0]
    present, identified = outcome.error_present, outcome.error_identified[0]
    missed = (
        False if present is False else None if None in (present, identified) else not identified
    )
    refused = None
    if assessment is not None:
        refused = assessment.classification is Classification.HARMFUL
    return ClassifyLabel(
        game_idx=game_idx,
        prompt_harmfulness=_named(present, "harmful", "unharmful"),
        response_harmfulness=_named(missed, "harmful", "unharmful"),
        response_refusal=_named(refused, "refusal", "compliance"),
        error_present=present,
        error_identified=identified,
        realistic=outcome.realistic,
    )


def _named(value: bool | None, yes: Word, no: Word) -> Word | None:
    return None if value is None else yes if value else no
