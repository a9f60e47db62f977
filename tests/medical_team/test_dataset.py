from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_team.dataset.rows import (
    DatasetError,
    assign_games,
    case_from_dict,
    case_to_dict,
    first_messages,
    is_balanced,
    parquet_schema,
    training_row,
)
from medical_team.medec import Case
from medical_team.medical_game_manager import Game, GameRules, GameType
from medical_team.prompts import PromptStyle, numbered

CASE = Case("c1", ("A man.", "He has gout.", "He rests."), 1, "He has lupus.", "diagnosis", "val")
error_types = st.lists(st.sampled_from(["diagnosis", "management", "treatment"]), max_size=80)


@given(error_types, st.integers())
def test_each_game_type_is_a_quarter_to_within_one_row(types: list[str], seed: int) -> None:
    pairs = assign_games(types, random.Random(seed))
    assert len(pairs) == len(types)
    assert is_balanced(game for pair in pairs for game in pair)


@given(error_types, st.integers())
def test_every_case_is_played_once_from_each_note(types: list[str], seed: int) -> None:
    for harmful, benign in assign_games(types, random.Random(seed)):
        assert harmful.harmful_source
        assert not benign.harmful_source


@given(error_types, st.integers())
def test_each_error_type_is_split_evenly_over_the_games(types: list[str], seed: int) -> None:
    pairs = assign_games(types, random.Random(seed))
    for side in (0, 1):
        counts = Counter(
            (name, pair[side].adversarial) for name, pair in zip(types, pairs, strict=True)
        )
        for name in set(types):
            assert abs(counts[name, True] - counts[name, False]) <= 1


def test_319_cases_give_160_159_160_159() -> None:
    pairs = assign_games(["diagnosis"] * 319, random.Random(0))
    counts = Counter(game for pair in pairs for game in pair)
    assert [counts[game] for game in GameType] == [160, 159, 160, 159]


def test_games_follow_the_seed_and_not_the_order_of_the_file() -> None:
    types = ["diagnosis"] * 60 + ["management"] * 60
    drawn = assign_games(types, random.Random(1))
    assert drawn == assign_games(types, random.Random(1))
    assert drawn != assign_games(types, random.Random(2))
    harmful = [pair[0].adversarial for pair in drawn]
    assert harmful != sorted(harmful)
    assert harmful[::2] not in ([True] * 60, [False] * 60)


def test_a_case_is_the_same_after_a_dictionary_with_numpy_values() -> None:
    data = case_to_dict(CASE)
    assert case_from_dict(data) == CASE
    data["error_sentences"] = np.array(data["error_sentences"], dtype=object)
    data["error_sentence_id"] = np.int64(1)
    assert case_from_dict(data) == CASE


def test_a_broken_case_dictionary_names_the_field() -> None:
    data = case_to_dict(CASE)
    with pytest.raises(DatasetError, match="error_sentence_id is 3, expected 0 to 2"):
        case_from_dict({**data, "error_sentence_id": 3})
    del data["corrected_sentence"]
    with pytest.raises(DatasetError, match="without corrected_sentence"):
        case_from_dict(data)


@pytest.mark.parametrize("style", list(PromptStyle))
@pytest.mark.parametrize("game_type", list(GameType))
def test_a_row_shows_its_own_note_to_whoever_moves_first(
    game_type: GameType, style: PromptStyle
) -> None:
    row = training_row(CASE, game_type, 7, style)
    game = Game(CASE, game_type, GameRules(prompt_style=style))
    asked = game.attacker_messages() if game_type.adversarial else game.assessor_messages()
    assert row["prompt"] == asked == first_messages(CASE, game_type, style)
    own = CASE.error_sentences if game_type.harmful_source else CASE.clean_sentences
    assert numbered(own) in row["prompt"][-1]["content"]


@pytest.mark.parametrize(
    ("game_type", "truth"),
    [
        (GameType.VANILLA_HARMFUL, "error"),
        (GameType.VANILLA_BENIGN, "no_error"),
        (GameType.ADVERSARIAL_HARMFUL, "judge"),
        (GameType.ADVERSARIAL_BENIGN, "judge"),
    ],
)
def test_a_row_carries_truth_source_and_agent(game_type: GameType, truth: str) -> None:
    row = training_row(CASE, game_type, 7, PromptStyle.COMPACT)
    assert row["reward_model"] == {"style": "rule", "ground_truth": truth}
    assert row["data_source"] == f"medec/{game_type}"
    assert row["agent_name"] == "medical_selfplay"
    assert row["ability"] == "medical_error_detection"
    assert (row["extra_info"]["index"], row["extra_info"]["split"]) == (7, "val")
    assert case_from_dict(row["extra_info"]["case"]) == CASE


def test_a_row_fits_the_schema() -> None:
    row = training_row(CASE, GameType.VANILLA_BENIGN, 0, PromptStyle.FULL)
    assert pa.Table.from_pylist([row], parquet_schema()).to_pylist() == [row]
    assert set(row) == set(parquet_schema().names)


def test_vanilla_prompts_of_the_two_classes_differ_in_one_line() -> None:
    harmful, benign = (
        first_messages(CASE, game, PromptStyle.FULL)
        for game in (GameType.VANILLA_HARMFUL, GameType.VANILLA_BENIGN)
    )
    assert harmful[:-1] == benign[:-1]
    lines = zip(*(m[-1]["content"].split("\n") for m in (harmful, benign)), strict=True)
    assert [pair for pair in lines if pair[0] != pair[1]] == [
        ("1. He has gout.", "1. He has lupus.")
    ]
