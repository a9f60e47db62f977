from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medical_team.medec import read_medec

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import learning_scores

    yield learning_scores
    for name in [name for name in sys.modules if name.startswith("learning_")]:
        del sys.modules[name]


@pytest.fixture
def benchmark_module(scores: Any) -> Any:
    import learning_cpu

    return learning_cpu


def test_answers_become_shares_a_note(scores: Any) -> None:
    case = next(iter(read_medec(ROOT / "data/sample/test.csv", "test")))
    note, answer = scores.FixedNote, scores.Answer
    notes = [
        note(case, case.error_sentences, case.error_sentence_id),
        note(case, case.clean_sentences, None),
    ]
    by_seed = [
        [[answer(True, True), answer(True, False)], [answer(None, False), answer(False, True)]],
        [[answer(False, False), answer(None, False)], [answer(True, False), answer(False, True)]],
    ]
    answered = scores.Answered.of(notes, by_seed)
    assert answered.detected.tolist() == [[1.0, 0.5], [0.0, 0.5]]  # a broken format is wrong
    assert answered.located.tolist() == [[0.5, 0.5], [0.0, 0.5]]


def test_balanced_accuracy_is_the_mean_over_truths_and_lies_in_its_interval(scores: Any) -> None:
    errors, clean = np.array([[1.0, 0.0, 0.5, 0.5]]), np.array([[1.0, 1.0]])
    found = scores.balanced_accuracy(errors, clean)
    assert found.value == 0.75
    assert 0.5 <= found.low < 0.75 < found.high <= 1.0


def test_always_the_same_answer_is_worth_a_half_without_doubt(scores: Any) -> None:
    found = scores.balanced_accuracy(np.ones((3, 20)), np.zeros((3, 20)))
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_a_difference_is_taken_on_the_same_notes(scores: Any) -> None:
    # One arm is better by exactly 0.2 on each note: however the notes are drawn, so is the mean.
    rng = np.random.default_rng(0)
    errors, clean = rng.uniform(0, 0.5, (1, 50)), rng.uniform(0, 0.5, (1, 50))
    found = scores.difference((errors + 0.2, clean + 0.2), (errors, clean))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))


def test_seeds_that_disagree_widen_the_interval(scores: Any) -> None:
    notes = np.full((1, 200), 0.5)
    same = scores.mean(np.vstack([notes, notes, notes]))
    apart = scores.mean(np.vstack([notes - 0.3, notes, notes + 0.3]))
    assert same.high - same.low == 0
    assert apart.high - apart.low > 0.3


def test_errors_are_counted_by_the_fact_that_is_wrong(scores: Any) -> None:
    cases = list(read_medec(ROOT / "data/sample/test.csv", "test"))[::25]
    notes = [scores.FixedNote(one, one.error_sentences, one.error_sentence_id) for one in cases]
    right = np.array([[float(one.error_type == "management") for one in cases]])
    found = scores.by_fact(notes, right)
    assert {kind: share for kind, (share, _) in found.items()} == {
        kind: float(kind == "management")
        for kind in ("diagnosis", "organism", "drug", "dose", "management")
    }
    assert sum(count for _, count in found.values()) == len(cases)


def test_annotated_cases_have_medecs_shares(benchmark_module: Any) -> None:
    cases = list(read_medec(ROOT / "data/sample/train.csv", "train"))
    kinds = Counter(case.error_type for case in benchmark_module.annotated(cases, 80))
    assert kinds == {
        "management": 42,
        "diagnosis": 22,
        "pharmacotherapy": 7,
        "treatment": 6,
        "causalOrganism": 3,
    }
    assert benchmark_module.annotated(cases, 0) == cases
    with pytest.raises(SystemExit, match="--annotated 400 needs 211 cases of management"):
        benchmark_module.annotated(cases, 400)


def test_runs_with_other_settings_are_not_mixed(benchmark_module: Any, tmp_path: Path) -> None:
    file = tmp_path / "runs/settings.json"
    benchmark_module.keep_settings(file, {"annotated": 48})
    benchmark_module.keep_settings(file, {"annotated": 48})
    with pytest.raises(SystemExit, match=r"holds runs with .*48.*choose another --output-dir"):
        benchmark_module.keep_settings(file, {"annotated": 0})
