from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from medical_team.archive import ArchivedAttack, attack_from_json, write_frozen
from medical_team.dataset.fixed_opponents import fixed_rows
from medical_team.medec import Case, read_medec
from medical_team.medical_game_manager import GameType
from medical_team.prompts import PromptStyle, numbered
from medical_team.sample_world.notes import wrong_facts
from medical_team.sample_world.programmatic import programmatic_attacks

ROOT = Path(__file__).resolve().parents[2]
VAL = ROOT / "data" / "sample" / "val.csv"


@pytest.fixture(scope="module")
def attacks() -> list[ArchivedAttack]:
    return list(programmatic_attacks(read_medec(VAL, "val"), seed=0))


def test_each_case_of_the_clinic_gets_one_wrong_fact_in_one_sentence(
    attacks: list[ArchivedAttack],
) -> None:
    assert len(attacks) == 64
    for attack in attacks:
        clean = attack.case.clean_sentences
        changed = [i for i, (a, b) in enumerate(zip(clean, attack.note, strict=True)) if a != b]
        wrong = wrong_facts(attack.note)
        assert wrong is not None
        assert list(wrong.values()) == changed
        assert attack.case.error_type not in {fact.value for fact in wrong}
        assert attack.error_present


def test_the_choice_is_seeded(attacks: list[ArchivedAttack]) -> None:
    cases = list(read_medec(VAL, "val"))
    assert list(programmatic_attacks(cases, seed=0)) == attacks
    assert list(programmatic_attacks(cases, seed=1)) != attacks


def test_cases_that_the_table_does_not_know_are_left_out(
    make_cases: Callable[..., list[Case]],
) -> None:
    assert list(programmatic_attacks(make_cases(4), seed=0)) == []


def test_each_attack_stands_beside_the_clean_note_of_its_case(
    attacks: list[ArchivedAttack],
) -> None:
    rows = list(fixed_rows(attacks[:3], "early", PromptStyle.COMPACT, first_index=10))
    assert [row["extra_info"]["index"] for row in rows] == list(range(10, 16))
    for attack, attacked, clean in zip(attacks, rows[::2], rows[1::2], strict=False):
        assert numbered(attack.note) in attacked["prompt"][-1]["content"]
        assert numbered(attack.case.clean_sentences) in clean["prompt"][-1]["content"]
        assert attack_from_json(attacked["extra_info"]["attack"]) == attack
        assert clean["extra_info"]["attack"] == ""
        assert clean["extra_info"]["game_type"] == GameType.VANILLA_BENIGN.value
        for row in (attacked, clean):
            assert row["data_source"] == "fixed/early"
            assert row["extra_info"]["opponent"] == "early"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/create_fixed_opponents.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_script_writes_validation_rows(attacks: list[ArchivedAttack], tmp_path: Path) -> None:
    write_frozen(tmp_path / "old.jsonl", attacks[:5])
    output = tmp_path / "new" / "fixed.parquet"
    done = run(
        "--programmatic", VAL, "--attacks", f"old={tmp_path / 'old.jsonl'}", "--num-samples", 4,
        "--output", output,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(output).to_pylist()
    assert [row["data_source"] for row in rows] == ["fixed/old"] * 8 + ["fixed/programmatic"] * 8
    assert [row["extra_info"]["index"] for row in rows] == list(range(16))
    assert sorted(path.name for path in output.parent.iterdir()) == ["fixed.parquet"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--attacks NAME=FILE or --programmatic CSV"),
        (("--attacks", "nameless.jsonl"), "--attacks nameless.jsonl: expected NAME=FILE"),
        (("--attacks", "old=nowhere.jsonl"), "nowhere.jsonl"),
        (("--programmatic", "nowhere.csv"), "nowhere.csv"),
        (("--programmatic", VAL, "--num-samples", "0"), "--num-samples is 0"),
    ],
)
def test_bad_input_is_named(arguments: tuple[str, ...], named: str, tmp_path: Path) -> None:
    done = run(*arguments, "--output", tmp_path / "fixed.parquet")
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "fixed.parquet").exists()
