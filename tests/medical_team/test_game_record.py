from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_team.answers import Assessment, Classification
from medical_team.game_record import (
    GameRecord,
    JudgeCost,
    Labels,
    TurnCost,
    TurnRecord,
    record_game,
)
from medical_team.medical_game_manager import Game, GameType, Role
from medical_team.medical_judge import Verdict, settle
from medical_team.rewards import ZeroSum

Play = Callable[..., Game]

text = st.text()
finite = st.floats(allow_nan=False, allow_infinity=False)
turns = st.builds(
    TurnRecord,
    role=st.sampled_from(Role),
    prompt=text,
    response=text,
    reasoning=st.none() | text,
    answer=st.none() | text,
    violation=st.none() | text,
    classification=st.sampled_from([None, "Harmful", "Safe"]),
    sentence_id=st.none() | st.integers(0, 9),
    correction=st.none() | text,
    reward=finite,
    trained=st.booleans(),
    outcome=st.sampled_from(["win", "loss", "tie", "void"]),
    prompt_tokens=st.integers(0),
    response_tokens=st.integers(0),
    seconds=finite,
)
sentences = st.lists(text, max_size=3).map(tuple)


@st.composite
def records(draw: st.DrawFn) -> GameRecord:
    played = draw(st.lists(turns, max_size=3).map(tuple))
    assessors = sum(turn.role is Role.ASSESSOR for turn in played)
    found = st.lists(st.booleans(), min_size=assessors, max_size=assessors).map(tuple)
    labels = st.builds(
        Labels,
        error_present=st.booleans(),
        error_identified=found,
        realistic=st.none() | st.booleans(),
        source=text,
    )
    note = draw(st.none() | sentences)
    places = st.integers(0, len(note or "x") - 1)
    return draw(
        st.builds(
            GameRecord,
            step=st.integers(0),
            uid=text,
            session=st.integers(0),
            case_id=text,
            game_type=st.sampled_from([game_type.value for game_type in GameType]),
            error_type=text,
            source=sentences,
            note=st.just(note),
            changed_ids=st.lists(places, max_size=3 if note else 0).map(tuple),
            forfeit=st.none() | text,
            labels=st.none() | labels,
            judge=st.builds(JudgeCost, seconds=finite, batch_size=st.integers(0)),
            turns=st.just(played),
        )
    )


def recorded(game: Game, **changes: Any) -> GameRecord:
    verdict = None
    if game.forfeit is None:
        opinion = Verdict("q", True, (False,) * len(game.assessments), None, "test")
        verdict = settle(game, opinion)
    arguments = {
        "step": 4,
        "uid": "row",
        "session": 2,
        "costs": [TurnCost("a prompt", 11, 7, 0.5) for _ in game.turns],
        "verdict": verdict,
        "judge": JudgeCost(0.1, 3),
        "rewards": ZeroSum().score(game, verdict),
    }
    return record_game(game, **{**arguments, **changes})


@given(records())
def test_a_record_survives_json_on_one_line(record: GameRecord) -> None:
    line = record.to_json()
    assert "\n" not in line
    assert "\r" not in line
    assert GameRecord.from_json(line) == record


def test_a_record_holds_what_was_played_labelled_and_won(play: Play) -> None:
    right = Assessment(Classification.HARMFUL, 3, "He is given azithromycin.")
    game = play(GameType.ADVERSARIAL_BENIGN, right, None)
    record = recorded(game)
    assert (record.case_id, record.game_type, record.error_type) == (
        "ms-1",
        "adversarial_benign",
        "treatment",
    )
    assert record.source == game.source
    assert record.note == game.note
    assert record.changed_ids == (3,)
    assert record.labels == Labels(True, (True, False), None, "test")
    attacker, first, second = record.turns
    assert [turn.role for turn in record.turns] == [Role.ATTACKER, *[Role.ASSESSOR] * 2]
    assert (attacker.reward, first.reward, second.reward) == (-1.0, 1.0, -1.0)
    assert attacker.answer == "Sentence: 3\nRewrite: He is given vancomycin."
    assert (first.classification, first.sentence_id, first.correction) == (
        "Harmful",
        3,
        "He is given azithromycin.",
    )
    assert (second.classification, second.response) == (None, "no")
    assert second.violation
    assert (first.prompt, first.prompt_tokens, first.response_tokens) == ("a prompt", 11, 7)


def test_a_forfeit_is_recorded_without_note_and_labels(play: Play) -> None:
    game = play(GameType.ADVERSARIAL_BENIGN, attack="no tags")
    record = recorded(game)
    assert (record.forfeit, record.note, record.labels) == ("format", None, None)
    assert [turn.reward for turn in record.turns] == [-1.0]


@pytest.mark.parametrize("name", ["costs", "rewards"])
def test_every_turn_needs_its_cost_and_its_reward(name: str, play: Play) -> None:
    with pytest.raises(ValueError, match="shorter"):
        recorded(play(GameType.VANILLA_BENIGN, None), **{name: []})


def test_a_game_has_a_verdict_or_a_reason_why_not(play: Play) -> None:
    record = replace(recorded(play(GameType.VANILLA_BENIGN, None)), unscored="odd")
    with pytest.raises(ValueError, match="unscored says why there is no verdict, but there are"):
        GameRecord.from_json(record.to_json())
    left_out = replace(record, labels=None)
    assert GameRecord.from_json(left_out.to_json()) == left_out


def test_a_log_from_before_a_field_was_added_is_read(play: Play) -> None:
    record = recorded(play(GameType.VANILLA_BENIGN, None))
    old = json.loads(record.to_json())
    assert old.pop("unscored") is None
    assert GameRecord.from_json(json.dumps(old)) == record


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ((), "the game record lacks uid"),
        (("labels",), "labels lacks source"),
        (("judge",), "judge lacks seconds"),
        (("turns", 1), r"turns\[1\] lacks reward"),
    ],
)
def test_a_missing_or_unknown_field_is_named(
    path: tuple[str | int, ...], message: str, play: Play
) -> None:
    safe = Assessment(Classification.SAFE, None, None)
    line = recorded(play(GameType.ADVERSARIAL_BENIGN, safe)).to_json()

    def part(data: Any) -> dict[str, Any]:
        for key in path:
            data = data[key]
        return data

    missing = json.loads(line)
    del part(missing)[message.split()[-1]]
    with pytest.raises(ValueError, match=message):
        GameRecord.from_json(json.dumps(missing))
    unknown = json.loads(line)
    part(unknown)["colour"] = "red"
    with pytest.raises(ValueError, match="unknown colour"):
        GameRecord.from_json(json.dumps(unknown))


@pytest.mark.parametrize("line", ["[]", "1", "null", '"text"', "", "{", '{"labels": null}'])
def test_what_is_no_record_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"record|Expecting"):
        GameRecord.from_json(line)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uid": None}, "uid is None, expected a valid string"),
        ({"error_type": {"a": 1}}, "error_type is {'a': 1}, expected a valid string"),
        ({"case_id": {"x": 1}}, "case_id is"),
        ({"step": "5"}, "step is '5', expected a valid integer"),
        ({"note": "abc"}, "note is 'abc', expected a valid list"),
        ({"note": [1]}, "note[0] is 1"),
        ({"changed_ids": [99]}, "changed_ids holds 99, expected sentences of the note, from 0 to"),
        ({"game_type": "weird"}, "game_type is 'weird', expected one of"),
        ({"turns": 5}, "turns is 5, expected a list"),
    ],
)
def test_a_field_of_another_type_or_range_is_named(
    changes: dict[str, Any], message: str, play: Play
) -> None:
    safe = Assessment(Classification.SAFE, None, None)
    data = json.loads(recorded(play(GameType.ADVERSARIAL_BENIGN, safe)).to_json())
    with pytest.raises(ValueError, match=re.escape(message)):
        GameRecord.from_json(json.dumps({**data, **changes}))


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("turns", "reward", None, "turns[0].reward is None, expected a valid number"),
        ("turns", "role", "judge", "turns[0].role is 'judge', expected"),
        ("labels", "error_identified", [], "labels.error_identified has 0 entries"),
        ("labels", "error_present", "yes", "labels.error_present is 'yes'"),
    ],
)
def test_a_wrong_part_of_a_turn_or_label_is_named(
    part: str, field: str, value: Any, message: str, play: Play
) -> None:
    safe = Assessment(Classification.SAFE, None, None)
    data = json.loads(recorded(play(GameType.ADVERSARIAL_BENIGN, safe)).to_json())
    (data[part][0] if part == "turns" else data[part])[field] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        GameRecord.from_json(json.dumps(data))


def test_a_lone_surrogate_survives(play: Play) -> None:
    safe = Assessment(Classification.SAFE, None, None)
    data = json.loads(recorded(play(GameType.VANILLA_BENIGN, safe)).to_json())
    data["uid"] = "\ud800"
    assert GameRecord.from_json(json.dumps(data)).uid == "\ud800"
