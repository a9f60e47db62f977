"""What must hold for one row of a training file, whatever the other rows are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from medical_team.dataset.rows import (
    ABILITY,
    AGENT_NAME,
    GROUND_TRUTH,
    DatasetError,
    case_from_dict,
)
from medical_team.medec import Case
from medical_team.medical_game_manager import GameType
from medical_team.prompts import numbered


class Kind(StrEnum):
    """What a problem of a dataset is about."""

    FILE = "file"
    SCHEMA = "schema"
    TRUTH = "truth"
    BALANCE = "balance"
    PAIR = "pair"
    DUPLICATE = "duplicate"
    LEAK = "leak"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """A row whose values could be read.

    Attributes:
        case: the case that is played.
        game_type: which of the four games.
        prompt: the contents of the prompt's messages, joined by newlines.
        frame: the prompt without the note; in games without an attacker it must not depend on the
            class.
    """

    case: Case
    game_type: GameType
    prompt: str
    frame: str

    @property
    def case_digest(self) -> bytes:
        """Identifies the two notes of the case, whatever its id."""
        return digest("\n".join((*self.case.error_sentences, "", *self.case.clean_sentences)))


def digest(text: str) -> bytes:
    """A 16-byte fingerprint of a text."""
    return blake2b(text.encode(), digest_size=16).digest()


def check_row(
    row: Mapping[str, Any], index: int
) -> tuple[CheckedRow | None, list[tuple[Kind, str]]]:
    """Checks one row.

    Args:
        row: the row as plain Python values.
        index: its place in the file.

    Returns:
        The row's values, ``None`` if they cannot be read, and what is wrong with it.
    """
    null = _first_null(row)
    if null:
        return None, [(Kind.SCHEMA, f"{null} is null")]
    info = row["extra_info"]
    known = {str(game): game for game in GameType}
    game = known.get(info["game_type"])
    if game is None:
        return None, [
            (Kind.SCHEMA, f"game_type is {info['game_type']!r}, expected one of {', '.join(known)}")
        ]
    try:
        case = case_from_dict(info["case"])
    except DatasetError as error:
        return None, [(Kind.SCHEMA, str(error))]
    prompt = "\n".join(message["content"] for message in row["prompt"])
    note = numbered(case.error_sentences if game.harmful_source else case.clean_sentences)
    problems = [
        *_value_problems(row, index, case, game),
        *_case_problems(case),
        *_prompt_problems(row["prompt"], note),
    ]
    return CheckedRow(case, game, prompt, prompt.replace(note, "", 1)), problems


def _first_null(value: Any, path: str = "") -> str | None:
    if value is None:
        return path
    children: Sequence[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        children = [(f"{path}.{name}".lstrip("."), child) for name, child in value.items()]
    elif isinstance(value, list):
        children = [(f"{path}[{place}]", child) for place, child in enumerate(value)]
    return next((found for name, child in children if (found := _first_null(child, name))), None)


def _value_problems(
    row: Mapping[str, Any], index: int, case: Case, game: GameType
) -> list[tuple[Kind, str]]:
    info = row["extra_info"]
    comparisons = [
        (
            Kind.TRUTH,
            "reward_model.ground_truth",
            row["reward_model"]["ground_truth"],
            GROUND_TRUTH[game],
        ),
        (Kind.TRUTH, "data_source", row["data_source"], f"medec/{game}"),
        (Kind.SCHEMA, "reward_model.style", row["reward_model"]["style"], "rule"),
        (Kind.SCHEMA, "ability", row["ability"], ABILITY),
        (Kind.SCHEMA, "agent_name", row["agent_name"], AGENT_NAME),
        (Kind.SCHEMA, "extra_info.index", info["index"], index),
        (Kind.SCHEMA, "extra_info.case.split", case.split, info["split"]),
    ]
    return [
        (kind, f"{name} is {found!r}, expected {expected!r} for a {game} row")
        for kind, name, found, expected in comparisons
        if found != expected
    ]


def _case_problems(case: Case) -> list[tuple[Kind, str]]:
    problems: list[tuple[Kind, str]] = []
    if case.corrected_sentence == case.error_sentence:
        problems.append(
            (
                Kind.PAIR,
                "the corrected sentence is the error sentence, so its two notes are the same",
            )
        )
    for sentence in (*case.error_sentences, case.corrected_sentence):
        if sentence != " ".join(sentence.split()):
            problems.append(
                (
                    Kind.LEAK,
                    f"white space is not folded in {sentence[-60:]!r}, which can give the class"
                    " away",
                )
            )
            break
    return problems


def _prompt_problems(messages: Sequence[Mapping[str, str]], note: str) -> list[tuple[Kind, str]]:
    problems: list[tuple[Kind, str]] = []
    if not messages or messages[-1]["role"] != "user":
        problems.append((Kind.SCHEMA, "the prompt does not end with a message of the user"))
    text = "\n".join(message["content"] for message in messages)
    if note not in text:
        problems.append(
            (Kind.PAIR, "the prompt does not show the row's own note as numbered sentences")
        )
    # Around the note only: its sentences are checked on their own, and one without text is a number
    # and a blank.
    frame = text.replace(note, "", 1)
    blank = next((line for line in frame.split("\n") if line != line.rstrip()), None)
    if blank is not None:
        problems.append((Kind.LEAK, f"trailing white space in the prompt line {blank[-60:]!r}"))
    named = next((str(game) for game in GameType if game in text), None)
    if named is not None:
        problems.append((Kind.LEAK, f"the prompt names the game type {named!r}"))
    return problems
