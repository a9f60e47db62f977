from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_team.answers import Edit
from medical_team.archive.attack import (
    ArchivedAttack,
    attack_from_json,
    attack_id,
    attack_to_json,
    draw_from,
)
from medical_team.medec import Case
from medical_team.medical_game_manager import Game, GameRules, GameType

sentences = st.lists(st.text(), min_size=1, max_size=4).map(tuple)
cases = st.builds(
    Case,
    case_id=st.text(),
    error_sentences=sentences,
    error_sentence_id=st.just(0),
    corrected_sentence=st.text(),
    error_type=st.text(),
    split=st.text(),
)
attacks = st.builds(
    ArchivedAttack.of,
    step=st.integers(0),
    case=cases,
    game_type=st.sampled_from([kind for kind in GameType if kind.adversarial]),
    note=sentences,
    error_present=st.booleans(),
    source=st.text(),
    succeeded=st.booleans(),
)
counters = st.tuples(st.integers(0, 99), st.integers(0, 99)).map(sorted)


def attack_on(case: Case, **changes: Any) -> ArchivedAttack:
    note = (*case.clean_sentences[:3], "He is given vancomycin.")
    attack = ArchivedAttack.of(
        step=4,
        case=case,
        game_type=GameType.ADVERSARIAL_BENIGN,
        note=note,
        error_present=True,
        source="reference",
        succeeded=True,
    )
    return replace(attack, **changes)


@given(attacks, counters)
def test_an_attack_survives_json_on_one_line(attack: ArchivedAttack, counts: list[int]) -> None:
    missed, played = counts
    attack = attack.played_again(played, missed)
    line = attack_to_json(attack)
    assert "\n" not in line
    assert attack_from_json(line) == attack


@given(sentences, sentences, st.text(), st.text())
def test_the_id_tells_cases_and_notes_apart(
    note: tuple[str, ...], other: tuple[str, ...], case_id: str, other_id: str
) -> None:
    same = attack_id(case_id, note) == attack_id(other_id, other)
    assert same == ((case_id, note) == (other_id, other))


def test_the_id_sees_where_a_sentence_ends() -> None:
    assert attack_id("c", ("a b", "c")) != attack_id("c", ("a", "b c"))
    assert attack_id("c", ("a",)) != attack_id("", ("c", "a"))


def test_an_archived_attack_is_read_again_as_it_was(play: Callable[..., Game]) -> None:
    game = play(GameType.ADVERSARIAL_BENIGN, attack=Edit(3, "He is given vancomycin."))
    assert game.note is not None
    attack = ArchivedAttack.of(
        step=1,
        case=game.case,
        game_type=game.game_type,
        note=game.note,
        error_present=True,
        source="reference",
        succeeded=False,
    )
    found = attack_from_json(attack_to_json(attack))
    again = Game(found.case, found.game_type, GameRules(), replayed=found.note)
    assert not again.awaits_attack
    assert again.assessor_messages() == game.assessor_messages()
    assert again.changed_ids == game.changed_ids


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("attack_id", "0" * 32, "attack_id '0000"),
        ("note", ["Another note."], "attack_id"),
        ("step", "4", "step: Input should be a valid integer"),
        ("step", True, "step: Input should be a valid integer"),
        ("step", -1, "step is -1"),
        ("error_present", None, "error_present: Input should be a valid boolean"),
        ("error_present", 1, "error_present: Input should be a valid boolean"),
        ("note", "a note", "note: Input should be a valid array"),
        ("game_type", "vanilla_benign", "game_type is vanilla_benign"),
        ("game_type", "chess", "game_type: Input should be"),
        ("missed", 1, "missed is 1, expected 0 to 0"),
        ("colour", "red", "colour: Unexpected keyword argument"),
    ],
)
def test_damaged_json_is_refused_by_field(case: Case, field: str, value: Any, reason: str) -> None:
    data = json.loads(attack_to_json(attack_on(case)))
    with pytest.raises(ValueError, match=reason):
        attack_from_json(json.dumps({**data, field: value}))


@pytest.mark.parametrize("field", [item.name for item in fields(ArchivedAttack)])
def test_json_without_a_field_is_refused(case: Case, field: str) -> None:
    data = json.loads(attack_to_json(attack_on(case)))
    del data[field]
    with pytest.raises(ValueError, match=f"{field}|not all fields"):
        attack_from_json(json.dumps(data))


@pytest.mark.parametrize("change", [{"colour": "red"}, {"error_sentence_id": 4}, {"split": None}])
def test_a_case_that_is_not_as_written_is_refused(case: Case, change: dict[str, Any]) -> None:
    data = json.loads(attack_to_json(attack_on(case)))
    data["case"] |= change
    with pytest.raises(ValueError, match=r"case\.colour|case\.error_sentence_id is 4|case\.split"):
        attack_from_json(json.dumps(data))


def test_an_empty_note_is_no_attack(case: Case) -> None:
    with pytest.raises(ValueError, match="note is empty"):
        replace(attack_on(case), note=(), attack_id=attack_id(case.case_id, ()))


def test_the_miss_rate_is_smoothed(case: Case) -> None:
    fresh = attack_on(case)
    assert fresh.miss_rate == 1 / 2
    assert fresh.played_again(8, 8).miss_rate == 9 / 10
    assert fresh.played_again(8, 0).played_again(2, 2).miss_rate == 3 / 12


def test_missed_attacks_are_drawn_in_proportion_to_their_miss_rate(case: Case) -> None:
    easy, hard = attack_on(case).played_again(10, 0), attack_on(case).played_again(10, 9)
    rng = random.Random(0)
    hits = sum(draw_from([easy, hard], rng, "missed") is hard for _ in range(6000))
    # 10/12 against 1/12; four standard errors.
    assert abs(hits / 6000 - 10 / 11) < 4 * (10 / 121 / 6000) ** 0.5


def test_uniform_draws_do_not_look_at_what_was_missed(case: Case) -> None:
    easy, hard = attack_on(case).played_again(10, 0), attack_on(case).played_again(10, 9)
    rng = random.Random(0)
    hits = sum(draw_from([easy, hard], rng, "uniform") is hard for _ in range(6000))
    assert abs(hits / 6000 - 1 / 2) < 4 * (1 / 4 / 6000) ** 0.5
