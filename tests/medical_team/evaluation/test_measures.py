"""The official metrics, by hand and against slow restatements of their rules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
)

from medical_team.evaluation import measures as m
from medical_team.evaluation.baselines import ALWAYS_HARMFUL, ALWAYS_SAFE, LAST_SENTENCE, baselines
from medical_team.evaluation.comparison import compare, mcnemar
from medical_team.evaluation.corrections import ROUGE_1, Scorers
from medical_team.evaluation.errors import EvaluationError
from medical_team.evaluation.notes import Note, note_ids, read_notes
from medical_team.evaluation.official import text_scores
from medical_team.evaluation.predictions import NA, SAFE, Prediction, normalised, read_submission

ROOT = Path(__file__).resolve().parents[3]
# Random submissions for the sample clinic, and what the script said of them.
OFFICIAL = Path(__file__).parent / "official"
ROUGE = "ROUGE-1"
ROUGE_COMPOSITE = ROUGE + m.COMPOSITE


def note(number: int, correction: str | None = None, sentence: int = 1) -> Note:
    error = correction is not None
    return Note(
        f"ms-val-{number}",
        ("One.", "Two two.", "Three."),
        error,
        sentence if error else -1,
        correction,
        "diagnosis" if error else "",
    )


def harmful(sentence: int, correction: str) -> Prediction:
    return normalised(Prediction("1", str(sentence), correction))


def scored(notes: Sequence[Note], predictions: Mapping[str, Prediction]) -> m.Scored:
    return m.Scored(notes, predictions, Scorers.none())


def values(notes: Sequence[Note], predictions: Mapping[str, Prediction]) -> dict[str, float | None]:
    found = scored(notes, predictions).estimates(resamples=0)
    return {name: one.value for name, one in found.items()}


def test_metrics_by_hand() -> None:
    notes = [note(0, "a b c d"), note(1, "e f", 2), note(2, "g h"), note(3), note(4), note(5)]
    found = values(
        notes,
        {
            # a, b of four words on one side and of three on the other: 2 * 2/4 * 2/3 / (2/4 + 2/3)
            "ms-val-0": harmful(1, "a b x"),
            "ms-val-1": harmful(0, NA),  # right flag, wrong sentence, no correction: 0
            "ms-val-2": SAFE,  # missed: 0
            "ms-val-3": SAFE,  # neither has a correction: 1
            "ms-val-4": harmful(1, "y"),  # false alarm: 0
        },  # nothing about 5: wrong, 0, but no false alarm
    )
    rouge = 4 / 7
    assert found == pytest.approx(
        {
            m.FLAG_ACCURACY: 3 / 6,
            m.SENTENCE_ACCURACY: 2 / 6,
            m.BALANCED_ACCURACY: (2 / 3 + 1 / 3) / 2,
            m.PRECISION: 2 / 3,
            m.RECALL: 2 / 3,
            m.F1: 2 / 3,
            m.FALSE_POSITIVE_RATE: 1 / 3,
            m.SENTENCE_RECALL: 1 / 3,
            ROUGE: rouge,
            ROUGE_COMPOSITE: (rouge + 1) / 6,
        },
        abs=1e-7,
    )


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        ("The cat.", "the cat.", 0.5),  # letter case counts
        ("a a a b", "a b b b", 1.0),  # words are a set
        ("give 2.5 mg", "give 2. 5 mg", 1.0),  # a full stop parts words
        ("ab, c", "ab c", 0.5),  # other marks stay with their word
        ("a b", "...", 0.0),  # the official script stops here
    ],
)
def test_rouge_1_is_that_of_the_official_script(
    reference: str, candidate: str, expected: float
) -> None:
    found = values([note(0, reference)], {"ms-val-0": harmful(1, candidate)})
    assert found[ROUGE] == pytest.approx(expected, abs=1e-7)


def test_fields_are_compared_as_strings_as_officially() -> None:
    notes = [note(0, "a"), note(1, "a"), note(2)]
    found = text_scores(
        notes,
        {
            "ms-val-0": Prediction("01", "1", "a"),
            "ms-val-1": Prediction("1", "01", "a"),
            "ms-val-2": Prediction("00", "-1", NA),
        },
    )
    assert found.flag_right == (False, True, False)
    assert found.sentence_right == (True, False, True)


def test_nothing_to_measure_is_none_and_not_zero() -> None:
    found = values([note(0)], {"ms-val-0": SAFE})
    assert found[m.PRECISION] is None
    assert found[m.RECALL] is None
    assert found[m.BALANCED_ACCURACY] is None
    assert found[ROUGE] is None
    assert found[ROUGE_COMPOSITE] == 1.0


def restated(notes: Sequence[Note], predictions: Mapping[str, Prediction]) -> dict[str, float]:
    """The official rules once more, one text at a time, with ROUGE-1 written out."""

    def words(text: str) -> set[str]:
        return {word for part in text.split(".") if part for word in re.split(r"\s+", part.strip())}

    flags = sentences = 0
    pairs: list[float] = []
    composite = 0.0
    for one in notes:
        if one.text_id not in predictions:
            continue
        found = predictions[one.text_id]
        gold = "NA" if one.correction is None else one.correction
        flags += found.flag == ("1" if one.has_error else "0")
        sentences += found.sentence_id == str(one.error_sentence_id)
        if gold == "NA" or found.correction == "NA":
            composite += gold == found.correction
            continue
        said, meant = words(found.correction), words(gold)
        both = len(said & meant)
        precision, recall = both / len(said), both / len(meant)
        pairs.append(2 * precision * recall / (precision + recall + 1e-8))
        composite += pairs[-1]
    return {
        m.FLAG_ACCURACY: flags / len(notes),
        m.SENTENCE_ACCURACY: sentences / len(notes),
        ROUGE_COMPOSITE: composite / len(notes),
        **({ROUGE: sum(pairs) / len(pairs)} if pairs else {}),
    }


sentence = st.lists(
    st.sampled_from(["a", "b", "A", "c.d", "e.", "2.5", "mg,", "ü"]), min_size=1, max_size=6
).map(" ".join)


@st.composite
def systems(draw: st.DrawFn) -> tuple[list[Note], dict[str, Prediction]]:
    notes = [
        note(i, draw(st.none() | sentence), draw(st.integers(0, 2)))
        for i in range(draw(st.integers(1, 8)))
    ]
    said = st.builds(
        Prediction,
        st.sampled_from(["0", "1", "2"]),
        st.sampled_from(["-1", "0", "1", "2"]),
        sentence | st.sampled_from([NA, '"NA"']),
    ).map(normalised)
    return notes, {one.text_id: draw(said) for one in notes if draw(st.booleans())}


@given(systems())
def test_metrics_are_those_of_a_slow_restatement(
    system: tuple[list[Note], dict[str, Prediction]],
) -> None:
    found = values(*system)
    for name, expected in restated(*system).items():
        assert found[name] == pytest.approx(expected, abs=1e-6), name


@given(systems())
@settings(max_examples=40)
def test_detection_is_that_of_scikit_learn_where_all_are_answered(
    system: tuple[list[Note], dict[str, Prediction]],
) -> None:
    notes, some = system
    predictions = {one.text_id: SAFE for one in notes} | {
        key: one for key, one in some.items() if one.flag in "01"
    }
    truth = [one.has_error for one in notes]
    called = [predictions[one.text_id].flag == "1" for one in notes]
    found = values(notes, predictions)
    assert found[m.FLAG_ACCURACY] == pytest.approx(accuracy_score(truth, called))
    for name, function in ((m.PRECISION, precision_score), (m.RECALL, recall_score)):
        if found[name] is not None:
            assert found[name] == pytest.approx(function(truth, called))
    if found[m.F1] is not None:
        assert found[m.F1] == pytest.approx(f1_score(truth, called))
    if len(set(truth)) == 2:
        expected = balanced_accuracy_score(truth, called)
        assert found[m.BALANCED_ACCURACY] == pytest.approx(expected)


def test_interval_holds_the_value_and_repeats() -> None:
    notes = [note(i, "a b" if i % 2 else None) for i in range(60)]
    said = {one.text_id: SAFE if i % 3 else harmful(1, "a") for i, one in enumerate(notes)}
    one, again = (scored(notes, said).estimates(seed=3) for _ in range(2))
    assert one == again
    assert one != scored(notes, said).estimates(seed=4)
    found = one[m.FLAG_ACCURACY]
    assert found.low is not None and found.value is not None and found.high is not None
    assert found.low < found.value < found.high
    # The normal approximation of a share of 60 texts.
    half = 1.96 * (found.value * (1 - found.value) / 60) ** 0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)


def test_baselines_know_nothing() -> None:
    notes = [note(0, "Three. new", 2), note(1, "a"), note(2)]
    found = {name: values(notes, one) for name, one in baselines(notes).items()}
    assert found[ALWAYS_SAFE][m.FLAG_ACCURACY] == pytest.approx(1 / 3)
    assert found[ALWAYS_SAFE][ROUGE_COMPOSITE] == pytest.approx(1 / 3)
    assert found[ALWAYS_HARMFUL][m.FLAG_ACCURACY] == pytest.approx(2 / 3)
    assert found[ALWAYS_HARMFUL][ROUGE_COMPOSITE] == 0
    assert found[LAST_SENTENCE][m.SENTENCE_ACCURACY] == pytest.approx(1 / 3)
    assert all(one[m.BALANCED_ACCURACY] == 0.5 for one in found.values())


def test_mcnemar_is_the_exact_binomial_test() -> None:
    first = [True] * 9 + [False] * 2 + [True] * 5
    second = [False] * 9 + [True] * 2 + [True] * 5
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (9, 2)
    assert found.p == pytest.approx(2 * sum(comb(11, k) for k in range(3)) / 2**11)
    assert mcnemar(first, first).p == 1.0


def test_run_does_not_differ_from_itself() -> None:
    notes = [note(i, "a b" if i % 2 else None) for i in range(20)]
    one = scored(notes, {each.text_id: harmful(1, "a") for each in notes})
    for found in compare(one, one).differences.values():
        assert (found.change.value, found.change.low, found.change.high) == (0, 0, 0)


def test_paired_interval_is_narrower_than_that_of_two_separate_runs() -> None:
    notes = [note(i, "a b" if i % 2 else None) for i in range(200)]
    truth = {one.text_id: harmful(1, "a b") if one.has_error else SAFE for one in notes}
    rng = np.random.default_rng(0)
    wrong = [each for each in notes if rng.random() < 0.4]
    first = truth | {each.text_id: SAFE if each.has_error else harmful(0, "x") for each in wrong}
    second = first | {each.text_id: truth[each.text_id] for each in wrong[:10]}
    found = compare(scored(notes, first), scored(notes, second)).differences[m.FLAG_ACCURACY]
    assert found.change.value == pytest.approx(0.05)
    assert found.change.low is not None and found.change.high is not None
    assert 0 < found.change.low < 0.05 < found.change.high < 0.1


def test_runs_on_other_texts_are_not_compared() -> None:
    one, other = [note(0, "a")], [note(1, "a")]
    with pytest.raises(EvaluationError, match="not the same"):
        compare(scored(one, {}), scored(other, {}))


def test_blank_rows_float_flags_and_crlf_do_not_change_a_score(
    medec_validation: Path, tmp_path: Path
) -> None:
    notes = read_notes(medec_validation)
    assert (len(notes), sum(one.has_error for one in notes)) == (574, 319)
    raw = medec_validation.read_text(encoding="utf-8")
    floats = re.sub(r"(?<=,)(0|1),([A-Za-z]+),(-?\d+),", r"\1.0,\2,\3.0,", raw)
    assert floats.count(".0,") > 1000
    other = tmp_path / "floats.csv"
    other.write_bytes(
        (floats.rstrip("\n") + "\n" + ",,,,,,,,\n" * 300).replace("\n", "\r\n").encode()
    )
    found = read_notes(other)
    for one, same in zip(notes, found, strict=True):
        assert (one.text_id, one.has_error, one.error_sentence_id) == (
            same.text_id,
            same.has_error,
            same.error_sentence_id,
        )
    said = baselines(notes)[LAST_SENTENCE]
    assert values(found, said) == pytest.approx(values(notes, said), abs=1e-9)


@pytest.mark.parametrize("name", ["plain", "hostile", "hostile_crlf"])
def test_scores_are_those_that_the_official_script_printed(name: str) -> None:
    official = json.loads((OFFICIAL / "scores.json").read_text())
    notes = read_notes(ROOT / official["data"])
    found = read_submission(OFFICIAL / f"{name}.txt", note_ids(notes))
    assert bool(found.findings) == name.startswith("hostile")
    ours = values(notes, found.predictions)
    assert {key: ours[key] for key in official["scores"][name]} == pytest.approx(
        official["scores"][name], abs=1e-9
    )


def test_gold_annotation_of_medec_scores_fully(medec_validation: Path, tmp_path: Path) -> None:
    notes = read_notes(medec_validation)
    lines = [
        f"{one.text_id} {int(one.has_error)} {one.error_sentence_id}"
        f" {' '.join(one.correction.split()) if one.correction else 'NA'}"
        for one in notes
    ]
    path = tmp_path / "gold.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    found = read_submission(path, note_ids(notes))
    assert found.findings == ()
    perfect = values(notes, found.predictions)
    assert perfect.pop(m.FALSE_POSITIVE_RATE) == 0
    # A few gold corrections end in white space, which the script's ROUGE takes for a word.
    assert perfect.pop(ROUGE_1) == pytest.approx(0.99631426639, abs=1e-9)
    assert perfect.pop(ROUGE_1 + m.COMPOSITE) == pytest.approx(0.99795165676, abs=1e-9)
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0), abs=1e-7)
