"""The sample clinic: its table decides every note, and the committed files follow from it."""

from __future__ import annotations

import csv
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medical_team.answers import parse_assessment, parse_edit, parse_response
from medical_team.medec import Case, read_medec
from medical_team.medical_game_manager import Game, GameRules, GameType
from medical_team.prompts import PromptStyle
from medical_team.sample_world.knowledge import (
    CONDITIONS,
    Condition,
    Fact,
    is_held_out,
    values,
    wrong_values,
)
from medical_team.sample_world.notes import stated_facts, write_note, wrong_facts
from medical_team.sample_world.splits import COLUMNS, MAX_OVERLAP, SPLIT_SIZES, note_overlap
from medical_team.sample_world.supervised import Task, random_example

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample"
SPLITS = tuple(SPLIT_SIZES)


def cases(split: str) -> list[Case]:
    return list(read_medec(SAMPLE / f"{split}.csv", split))


def rows(split: str) -> list[dict[str, str]]:
    with (SAMPLE / f"{split}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def wrong_fact(case: Case) -> tuple[str, Fact, str]:
    """What is wrong in an error note: the diagnosis, the fact and the wrong value."""
    fact = Fact(case.error_type)
    diagnosis = stated_facts(case.clean_sentences)[Fact.DIAGNOSIS][1]
    return diagnosis, fact, stated_facts(case.error_sentences)[fact][1]


def test_a_finding_tells_the_condition_apart() -> None:
    assert len({condition.finding for condition in CONDITIONS}) == len(CONDITIONS) == 24
    assert all(len(values(fact)) == 24 for fact in (Fact.DIAGNOSIS, Fact.ORGANISM, Fact.DRUG))


def test_no_word_of_one_fact_is_read_as_another() -> None:
    every = [value for fact in Fact for value in values(fact)] + [c.finding for c in CONDITIONS]
    assert len(every) == len(set(every))
    for value in every:
        clashes = [other for other in every if re.search(rf"\b{re.escape(value)}\b", other)]
        assert clashes == [value]


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(CONDITIONS))
def test_a_fresh_note_is_right_by_the_table(rng: random.Random, condition: Condition) -> None:
    note = write_note(condition, rng)
    assert 6 <= len(note.sentences) <= 9
    assert wrong_facts(note.sentences) == {}


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(CONDITIONS), st.sampled_from(list(Fact)))
def test_an_altered_fact_is_found_in_its_sentence(
    rng: random.Random, condition: Condition, fact: Fact
) -> None:
    note = write_note(condition, rng)
    altered = note.stating(fact, rng.choice(wrong_values(condition, fact)))
    assert wrong_facts(altered.sentences) == {fact: note.sentence_id(fact)}
    changed = [
        i
        for i, pair in enumerate(zip(note.sentences, altered.sentences, strict=True))
        if len(set(pair)) > 1
    ]
    assert changed == [note.sentence_id(fact)]


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(CONDITIONS))
def test_a_single_digit_in_a_note_is_never_a_fact(rng: random.Random, condition: Condition) -> None:
    assert not re.search(r"(?<![\d.])\d(?![\d.])", " ".join(write_note(condition, rng).sentences))


def test_a_note_without_its_finding_cannot_be_decided() -> None:
    note = write_note(CONDITIONS[0], random.Random(0))
    assert wrong_facts([s for s in note.sentences if CONDITIONS[0].finding not in s]) is None


def test_a_note_that_states_a_fact_twice_cannot_be_decided() -> None:
    note = write_note(CONDITIONS[0], random.Random(0))
    assert wrong_facts([*note.sentences, "Tests identify Candida."]) is None


def test_the_script_reproduces_the_committed_files_byte_for_byte(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "scripts/make_sample_data.py",
            "--output-dir",
            str(tmp_path),
            "--seed",
            "0",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    for split in SPLITS:
        assert (tmp_path / f"{split}.csv").read_bytes() == (SAMPLE / f"{split}.csv").read_bytes(), (
            split
        )


@pytest.mark.parametrize("split", SPLITS)
def test_every_error_row_is_read_as_a_case(split: str) -> None:
    read = cases(split)
    assert len(read) == SPLIT_SIZES[split]
    assert [case.case_id for case in read] == [
        row["Text ID"] for row in rows(split) if row["Error Flag"] == "1"
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_the_table_confirms_every_annotation(split: str) -> None:
    for case in cases(split):
        assert wrong_facts(case.error_sentences) == {
            Fact(case.error_type): case.error_sentence_id
        }, case.case_id
        assert wrong_facts(case.clean_sentences) == {}, case.case_id


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_laid_out_like_medec(split: str) -> None:
    found = rows(split)
    assert tuple(found[0]) == COLUMNS
    types = [row["Error Type"] for row in found if row["Error Flag"] == "1"]
    assert types == sorted(types)
    counts = Counter(types)
    assert set(counts) == {fact.value for fact in Fact}
    assert max(counts.values()) - min(counts.values()) <= 1
    for row in found:
        sentences = [line.partition(" ")[2] for line in row["Sentences"].split("\n")]
        assert row["Text"] == " ".join(sentences)
        if row["Error Flag"] == "0":
            assert row["Error Sentence ID"] == "-1"
            assert {row[name] for name in COLUMNS[4:5] + COLUMNS[6:]} == {"NA"}
            assert wrong_facts(sentences) == {}


def test_held_out_wrong_facts_stand_in_the_test_split_only() -> None:
    held_out = {split: [wrong_fact(case) for case in cases(split)] for split in SPLITS}
    by_name = {condition.diagnosis: condition for condition in CONDITIONS}
    counts = {
        split: sum(is_held_out(by_name[name], fact, value) for name, fact, value in found)
        for split, found in held_out.items()
    }
    assert counts == {"train": 0, "val": 0, "test": SPLIT_SIZES["test"] // 2}


def test_no_near_duplicate_stands_in_two_splits() -> None:
    notes: dict[str, list[tuple[str, str]]] = {condition.finding: [] for condition in CONDITIONS}
    for split in SPLITS:
        for row in rows(split):
            finding = next(finding for finding in notes if finding in row["Text"])
            clean = row["Corrected Text"] if row["Error Flag"] == "1" else row["Text"]
            notes[finding].append((split, clean))
    across = [
        note_overlap([one], [other])
        for same in notes.values()
        for (here, one), (there, other) in combinations(same, 2)
        if here != there
    ]
    assert max(across) < MAX_OVERLAP


def test_overlap_does_not_see_numbers() -> None:
    assert note_overlap(["Pulse is 64/min today."], ["Pulse is 72/min today."]) == 1.0
    assert note_overlap(["Pulse is 64/min today."], ["Tests identify no Candida."]) == 0.0


def test_worked_games_keep_the_rules_and_never_teach_a_held_out_fact() -> None:
    rng = random.Random(3)
    by_finding = {condition.finding: condition for condition in CONDITIONS}
    seen: Counter[tuple[Task, bool]] = Counter()
    for _ in range(1500):
        example = random_example(rng)
        sentences = [
            line.partition(". ")[2] for line in example.messages[0]["content"].split("\n")[1:]
        ]
        answer = parse_response(example.response, think_opened=True).answer
        notes = [sentences]
        if example.task is Task.ASSESS:
            assessment = parse_assessment(answer, len(sentences))
            wrong = wrong_facts(sentences)
            assert wrong is not None
            assert list(wrong.values()) == (
                [] if assessment.sentence_id is None else [assessment.sentence_id]
            )
            if assessment.sentence_id is not None and assessment.correction is not None:
                corrected = list(sentences)
                corrected[assessment.sentence_id] = assessment.correction
                assert wrong_facts(corrected) == {}
            seen[example.task, bool(wrong)] += 1
        else:
            edit = parse_edit(answer, len(sentences))
            attacked = list(sentences)
            attacked[edit.sentence_id] = edit.rewrite
            assert attacked != sentences
            before, after = wrong_facts(sentences), wrong_facts(attacked)
            assert before == (after if example.task is Task.HIDE else {})
            assert after is not None
            assert list(after.values()) == [edit.sentence_id]
            notes.append(attacked)
            seen[example.task, True] += 1
        for note in notes:
            finding = next(f for f in by_finding if f in " ".join(note))
            facts = stated_facts(note)
            for fact in wrong_facts(note) or {}:
                assert not is_held_out(by_finding[finding], fact, facts[fact][1])
    assert min(seen[Task.ASSESS, True], seen[Task.ASSESS, False]) > 350
    assert min(seen[Task.INJECT, True], seen[Task.HIDE, True]) > 200


def test_worked_games_are_prompted_as_games_are() -> None:
    rng = random.Random(5)
    rules = GameRules(prompt_style=PromptStyle.COMPACT)
    for example in (random_example(rng) for _ in range(60)):
        task, *lines = example.messages[0]["content"].split("\n")
        note = tuple(line.partition(". ")[2] for line in lines)
        told = re.search(r"\d", task)
        case = Case(
            "x",
            note,
            int(told[0]) if told else 0,
            note[int(told[0]) if told else 0],
            "diagnosis",
            "train",
        )
        if example.task is Task.ASSESS:
            messages = Game(case, GameType.VANILLA_BENIGN, rules).assessor_messages()
        else:
            hides = example.task is Task.HIDE
            game_type = GameType.ADVERSARIAL_HARMFUL if hides else GameType.ADVERSARIAL_BENIGN
            messages = Game(case, game_type, rules).attacker_messages()
        assert example.messages == messages
