from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from medical_team.calibration.answers import collect
from medical_team.calibration.items import Item, Kind, chosen_cases, items_of, reword
from medical_team.calibration.rates import calibration_of
from medical_team.calibration.record import (
    Calibration,
    CalibrationError,
    check_calibration,
    read_calibration,
    summary_lines,
    write_calibration,
)
from medical_team.calibration.report import draw_reliability, report
from medical_team.calibration.statistics import (
    Scored,
    balanced_accuracy,
    best_threshold,
    cross_validated,
    label_rates,
    quality,
    rate,
)
from medical_team.calibration.store import Asked
from medical_team.judges.model_judge import Answer, ModelJudge
from medical_team.judges.questions import JudgePrompt, PromptKey, Question
from medical_team.judges.reference import ReferenceJudge
from medical_team.judges.settings import JudgeSettings, ReferenceSettings, TransformersSettings
from medical_team.medec import Case, read_medec
from medical_team.medical_game_manager import changed_sentences
from medical_team.medical_judge import (
    Judge,
    JudgeError,
    Judgement,
    JudgeQuery,
    JudgeUnavailableError,
    JudgeUsage,
    Unscored,
    Verdict,
)

ROOT = Path(__file__).resolve().parents[3]
NEGATIONS = {"no", "not", "without", "never", "none", "denies", "negative", "absent"}
REFERENCE = ReferenceSettings()
MODEL = TransformersSettings(model="scripted", device="cpu", max_batch=4, ask_realistic=False)


def some_cases(count: int) -> list[Case]:
    return [
        Case(
            case_id=f"case-{i}",
            error_sentences=(
                "The patient has complaints.",
                "Blood pressure is 120/80.",
                f"He takes drug wrong-{i}.",
            ),
            error_sentence_id=2,
            corrected_sentence=f"He takes drug right-{i}.",
            error_type="treatment" if i % 2 else "diagnosis",
            split="test",
        )
        for i in range(count)
    ]


def items_for(count: int) -> list[Item]:
    return [item for case in some_cases(count) for item in items_of(case, 0)]


class ScriptedJudge:
    """Calls every note with an error an error but every fourth, and every second rewording too."""

    name = "scripted"
    fingerprint = "scripted-1"

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = {item.query.query_id: item for item in items}
        self.asked: list[str] = []

    def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        self.asked += [query.query_id for query in queries]
        # Verdicts in another order, since they are matched by id.
        return [self.verdict(self.items[query.query_id]) for query in reversed(queries)]

    def verdict(self, item: Item) -> Judgement:
        number = int(item.case_id.partition("-")[2])
        present = item.kind.holds_error
        if item.kind is Kind.ERROR:
            present = number % 4 != 0
        elif item.kind is Kind.REWORDING:
            present = number % 2 == 0
        named = tuple(truth and present for truth in item.identified)
        return Verdict(item.query.query_id, present, named, None, self.name)

    def close(self) -> None:
        pass


class ScriptedEngine:
    """Gives each prompt the answer of a function; ``None`` leaves it out."""

    def __init__(self, answer: Callable[[PromptKey], Answer | JudgeError | None]) -> None:
        self.give = answer
        self.asked: list[PromptKey] = []

    def answer(
        self, prompts: Sequence[JudgePrompt], reasoning_tokens: int
    ) -> Mapping[PromptKey, Answer | JudgeError]:
        self.asked += [prompt.key for prompt in prompts]
        found = {prompt.key: self.give(prompt.key) for prompt in prompts}
        return {key: one for key, one in found.items() if one is not None}

    def close(self) -> None:
        pass


def calibrated(
    judge: Judge, settings: JudgeSettings, items: Sequence[Item], path: Path, concurrency: int = 1
) -> Calibration:
    asked = Asked(judge.name, judge.fingerprint, "0" * 64, 0, ())
    queries = [item.query for item in items]
    replies = collect(judge, settings, queries, path, asked, concurrency=concurrency)
    return calibration_of(items, replies, settings, asked, file="f.csv", date="2026-01-01")


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


@pytest.fixture
def scripted(answers: Path) -> Calibration:
    items = items_for(8)
    return calibrated(ScriptedJudge(items), REFERENCE, items, answers)


# --- items ---------------------------------------------------------------------------------------


def test_a_case_gives_each_kind_with_right_wrong_and_missed_answers() -> None:
    case = some_cases(1)[0]
    items = {item.kind: item for item in items_of(case, 0)}
    assert set(items) == set(Kind)
    reworded = "BP is 120/80."
    assert items[Kind.ERROR].query.note == case.error_sentences
    assert items[Kind.UNCHANGED].query.note == case.clean_sentences
    assert items[Kind.REWORDING].query.note == (
        case.clean_sentences[0],
        reworded,
        case.clean_sentences[2],
    )
    both = items[Kind.ERROR_AND_REWORDING].query
    assert both.note == (case.error_sentences[0], reworded, case.error_sentences[2])
    right, wrong, missed = both.assessments
    assert right is not None and wrong is not None and missed is not None
    assert (right.sentence_id, right.correction) == (2, case.corrected_sentence)
    assert (wrong.sentence_id, wrong.correction) == (1, "Blood pressure is 120/80.")
    assert missed.sentence_id is None
    assert items[Kind.ERROR_AND_REWORDING].identified == (True, False, False)
    assert items[Kind.REWORDING].identified == (False, False)


def test_a_case_in_which_nothing_can_be_reworded_gives_no_rewording(answers: Path) -> None:
    case = replace(some_cases(1)[0], error_sentences=("He is ill.", "He rests.", "He takes A."))
    items = items_of(case, 0)
    assert [item.kind for item in items] == [Kind.ERROR, Kind.UNCHANGED]
    found = calibrated(ReferenceJudge(), REFERENCE, items, answers)
    assert found.data.not_reworded == 1
    assert found.error_present.false_positive is None


def test_a_case_of_one_sentence_has_no_wrong_sentence_to_name() -> None:
    case = replace(
        some_cases(1)[0],
        error_sentences=("He takes A prior to meals.",),
        error_sentence_id=0,
        corrected_sentence="He takes B prior to meals.",
    )
    items = {item.kind: item for item in items_of(case, 0)}
    assert items[Kind.ERROR].identified == (True, False)
    assert items[Kind.REWORDING].query.note == ("He takes B before meals.",)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("A 45-year-old man presents with cough.", "A 45 year old man comes in with cough."),
        ("Laboratory studies show anemia.", "Lab studies show anemia."),
        ("Her BP is low.", "Her blood pressure is low."),
        ("An electrocardiogram (ECG) is normal.", "An electrocardiogram (ECG) is normal."),
        ("She is given insulin.", "She receives insulin."),
        ("Consent is given.", "Consent is given."),
        ("X-ray shows no fracture.", "X-ray reveals no fracture."),
    ],
)
def test_rewording_changes_only_listed_phrases(sentence: str, expected: str) -> None:
    assert reword(sentence) == expected


def check_rewordings(path: Path) -> None:
    for case in read_medec(path, "test"):
        for item in items_of(case, 0):
            if item.kind not in (Kind.REWORDING, Kind.ERROR_AND_REWORDING):
                continue
            clean, note = item.query.clean_note, item.query.note
            changed = changed_sentences(clean, note)
            assert len(changed) == 1 + item.kind.holds_error
            for place in set(changed) - (
                {case.error_sentence_id} if item.kind.holds_error else set()
            ):
                for pattern in (r"\d+(?:[.,/]\d+)*", rf"(?i)\b(?:{'|'.join(NEGATIONS)})\b"):
                    assert re.findall(pattern, clean[place]) == re.findall(pattern, note[place])


def test_rewordings_of_the_sample_keep_numbers_and_negations() -> None:
    check_rewordings(ROOT / "data" / "sample" / "val.csv")


def test_rewordings_of_medec_keep_numbers_and_negations(medec_validation: Path) -> None:
    check_rewordings(medec_validation)


def test_a_smaller_limit_gives_the_first_of_the_same_cases_and_items() -> None:
    cases = some_cases(10)
    few, all_of_them = chosen_cases(cases, 4, 3), chosen_cases(cases, None, 3)
    assert few == all_of_them[:4] and len(all_of_them) == 10
    assert chosen_cases(cases, None, 4) != all_of_them


def test_pairs_that_differ_in_letter_case_only_are_left_out() -> None:
    cases = some_cases(3)
    cases[1] = replace(cases[1], corrected_sentence=cases[1].error_sentence.upper())
    assert {case.case_id for case in chosen_cases(cases, None, 0)} == {"case-0", "case-2"}


# --- statistics ----------------------------------------------------------------------------------


def test_a_rate_has_the_interval_of_wilson() -> None:
    # By hand, z = 1.959964: centre (0.1 + z^2/400) / (1 + z^2/200), half width
    # z sqrt(0.09/200 + z^2/160000) / (1 + z^2/200).
    found = rate(20, 200)
    assert found.share == 0.1
    assert (found.low, found.high) == pytest.approx((0.06567, 0.149406), abs=1e-6)


def test_label_rates_count_each_class_and_leave_ties_out() -> None:
    labels = [(True, True)] * 3 + [(True, False)] + [(False, True)] * 2 + [(False, False)] * 4
    found = label_rates([*labels, (True, None), (False, None)])
    assert found.accuracy is not None and (found.accuracy.count, found.accuracy.of) == (7, 10)
    assert found.false_negative is not None and found.false_negative.share == 0.25
    assert found.false_positive is not None and found.false_positive.share == pytest.approx(1 / 3)
    assert found.undecided == 2


def scores(yes: Sequence[float], no: Sequence[float]) -> list[Scored]:
    return [
        Scored(f"{truth}-{i}", truth, p)
        for truth, values in ((True, yes), (False, no))
        for i, p in enumerate(values)
    ]


def test_the_threshold_separates_the_classes_and_of_equals_is_nearest_to_a_half() -> None:
    assert best_threshold(scores([0.9, 0.8], [0.7, 0.1])) == pytest.approx(0.75)
    assert best_threshold(scores([0.9, 0.8], [0.2, 0.1])) == 0.5
    # 0.25 and 0.8 both label three of four cases rightly, 0.5 only two; 0.25 is nearer to it.
    assert best_threshold(scores([0.9, 0.4], [0.1, 0.7])) == pytest.approx(0.25)


def test_there_is_no_threshold_without_both_classes() -> None:
    assert best_threshold(scores([0.9], [])) is None
    assert cross_validated(scores([0.9, 0.8], [])) is None


def test_an_answer_at_the_threshold_counts_as_yes() -> None:
    assert best_threshold(scores([0.5], [0.4])) == 0.5
    assert balanced_accuracy([(True, True), (False, False), (False, True)]) == 0.75


def test_cross_validation_does_not_label_a_case_with_its_own_scores() -> None:
    # Two cases, each separable by itself but at opposite thresholds: fitted on all, 3 of 4 labels
    # are right; each fitted on the other, half of them.
    both = [
        Scored("a", True, 0.3),
        Scored("a", False, 0.1),
        Scored("b", True, 0.9),
        Scored("b", False, 0.7),
    ]
    assert (
        balanced_accuracy([(s.truth, s.p_yes >= (best_threshold(both) or 0)) for s in both]) == 0.75
    )
    # Case a is labelled at b's 0.8: both no. Case b at a's 0.5 (0.2 separates equally, and 0.5 does
    # not): both yes.
    assert cross_validated(both) == 0.5


def test_quality_of_hand_worked_probabilities() -> None:
    found = quality(scores([0.9, 0.35], [0.32, 0.4]))
    assert found is not None
    assert found.auroc == 0.75  # of four pairs only 0.35 < 0.4 is wrong
    # [0.3, 0.4): mean 0.335, half yes. [0.4, 0.5): 0.4, none. [0.9, 1]: 0.9, all.
    assert [one.count for one in found.bins] == [2, 1, 1]
    expected = (2 * abs(0.335 - 0.5) + 0.4 + 0.1) / 4
    assert found.calibration_error == pytest.approx(expected, abs=1e-6)
    assert quality([]) is None


def test_equal_probabilities_rank_no_better_than_chance_and_one_is_in_the_last_bin() -> None:
    found = quality(scores([1.0, 1.0], [1.0]))
    assert found is not None and found.auroc == 0.5
    assert [(one.low, one.high, one.count) for one in found.bins] == [(0.9, 1.0, 3)]


# --- a judge without probabilities ---------------------------------------------------------------


def test_known_error_rates_are_found(scripted: Calibration) -> None:
    # Of 8 cases, 0 and 4 are missed; 0, 2, 4 and 6 raise a false alarm.
    present = scripted.error_present
    assert present.false_negative is not None and present.false_positive is not None
    assert (present.false_negative.count, present.false_negative.of) == (2, 8)
    assert (present.false_positive.count, present.false_positive.of) == (4, 8)
    assert present.accuracy is not None and present.accuracy.share == 10 / 16
    # Cases 0, 2, 4 and 6 are diagnoses.
    of_type = scripted.error_present_by_type["diagnosis"]
    assert of_type.false_negative is not None and of_type.false_negative.share == 0.5
    assert of_type.false_positive is not None and of_type.false_positive.share == 1.0
    unchanged = scripted.error_present_by_kind["unchanged"]
    assert unchanged.false_positive is not None and unchanged.false_positive.count == 0
    assert unchanged.false_negative is None


def test_safe_answers_do_not_flatter_the_second_label(scripted: Calibration) -> None:
    identified = scripted.error_identified
    assert identified.accuracy is not None and identified.accuracy.of == 16  # right, wrong
    assert identified.accuracy.share == 1.0
    missed = scripted.error_identified_by_kind["error"].false_negative
    assert missed is not None and (missed.count, missed.of) == (2, 8)


def test_what_needs_probabilities_is_left_out_and_not_made_up(
    scripted: Calibration, tmp_path: Path
) -> None:
    assert scripted.threshold is scripted.labelled_at is None
    assert scripted.present_quality is scripted.identified_quality is None
    assert scripted.position_bias is scripted.balanced_accuracy is None
    assert not draw_reliability(scripted, tmp_path / "reliability.png")
    assert not (tmp_path / "reliability.png").exists()
    page = report(scripted)
    for part in ("threshold to use", "position bias", "AUROC"):
        assert re.search(rf"{part}.*: not applicable", page)


def test_games_without_a_verdict_count_as_unscored_and_in_no_rate(answers: Path) -> None:
    items = items_for(4)

    class Silent(ScriptedJudge):
        def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
            said = super().judge(queries)
            return [
                Unscored(one.query_id, "refused") if one.query_id == "case-1/error" else one
                for one in said
                if one.query_id != "case-2/error"
            ]

    found = calibrated(Silent(items), REFERENCE, items, answers)
    assert (found.unscored.count, found.unscored.of) == (2, 16)
    missed = found.error_present.false_negative
    assert missed is not None and (missed.count, missed.of) == (1, 2)


def test_a_batch_that_cannot_be_judged_is_unscored_and_the_rest_goes_on(answers: Path) -> None:
    items = items_for(4)

    class Picky(ScriptedJudge):
        def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
            if any(query.query_id.startswith("case-0/") for query in queries):
                raise JudgeError("too long")
            return super().judge(queries)

    found = calibrated(Picky(items), replace(REFERENCE, max_batch=4), items, answers)
    assert (found.unscored.count, found.unscored.of) == (4, 16)
    assert "too long" in answers.read_text()


# --- resuming ------------------------------------------------------------------------------------


def test_a_run_stopped_by_an_outage_asks_only_what_is_left(answers: Path) -> None:
    items = items_for(4)
    settings = replace(REFERENCE, max_batch=4)

    class Failing(ScriptedJudge):
        def judge(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
            if len(self.asked) >= 8:
                raise JudgeUnavailableError("gone", super().judge(queries[:1]))
            return super().judge(queries)

    failing, whole = Failing(items), ScriptedJudge(items)
    with pytest.raises(JudgeUnavailableError, match="gone"):
        calibrated(failing, settings, items, answers)
    again = ScriptedJudge(items)
    found = calibrated(again, settings, items, answers)
    answered = failing.asked
    assert len(answered) < 16
    assert sorted(answered + again.asked) == sorted(item.query.query_id for item in items)
    fresh = calibrated(whole, settings, items, answers.with_name("fresh.jsonl"))
    assert replace(found, cost=fresh.cost) == fresh


def test_a_line_cut_off_by_a_kill_is_asked_again(answers: Path) -> None:
    items = items_for(3)
    calibrated(ScriptedJudge(items), REFERENCE, items, answers)
    whole = answers.read_bytes()
    answers.write_bytes(whole[:-20])
    again = ScriptedJudge(items)
    calibrated(again, REFERENCE, items, answers)
    assert len(again.asked) == 1
    third = ScriptedJudge(items)
    calibrated(third, REFERENCE, items, answers)
    assert not third.asked


def test_a_file_whose_first_line_was_cut_off_is_begun_anew(answers: Path) -> None:
    items = items_for(1)
    answers.write_bytes(b'{"judge":"scr')
    calibrated(ScriptedJudge(items), REFERENCE, items, answers)
    assert len(answers.read_bytes().splitlines()) == 5


def test_answers_of_another_judge_are_refused_and_kept(answers: Path) -> None:
    items = items_for(1)
    calibrated(ScriptedJudge(items), REFERENCE, items, answers)
    before = answers.read_bytes()
    with pytest.raises(CalibrationError, match=r"answers\.jsonl.*'scripted' \(now 'reference'\)"):
        calibrated(ReferenceJudge(), REFERENCE, items, answers)
    assert answers.read_bytes() == before


def test_a_damaged_line_is_named(answers: Path) -> None:
    items = items_for(1)
    calibrated(ScriptedJudge(items), REFERENCE, items, answers)
    lines = answers.read_text().splitlines()
    answers.write_text("\n".join([lines[0], '{"query": 3}', *lines[2:]]) + "\n")
    with pytest.raises(CalibrationError, match=r"answers\.jsonl, line 2, query: "):
        calibrated(ScriptedJudge(items), REFERENCE, items, answers)


def test_a_question_that_has_changed_since_is_asked_again(answers: Path) -> None:
    items = items_for(2)
    calibrated(ScriptedJudge(items), REFERENCE, items, answers)
    changed = [
        replace(items[0], query=replace(items[0].query, note=("Other words.",))),
        *items[1:],
    ]
    again = ScriptedJudge(changed)
    calibrated(again, REFERENCE, changed, answers)
    assert again.asked == [items[0].query.query_id]


# --- a judge that is a model ---------------------------------------------------------------------


def p_present(key: PromptKey) -> float:
    """0.8 for errors, 0.6 for rewordings, 0.1 for unchanged notes; swapped 0.2 less."""
    kind = key.query_id.partition("/")[2]
    p = {"error": 0.8, "error_and_rewording": 0.8, "rewording": 0.6, "unchanged": 0.1}[kind]
    return p - 0.2 if key.swapped and kind != "unchanged" else p


def answered(key: PromptKey) -> Answer:
    usage = JudgeUsage(10, 4, 1)
    if key.question is Question.ERROR_IDENTIFIED:
        # Right about the right answer; in every case with an odd number taken in by the wrong one.
        p = 0.9 if key.assessor == 0 or int(key.query_id[5]) % 2 else 0.2
    else:
        p = p_present(key)
    return Answer(p >= 0.5, p, 0.99, usage)


def model_judge(
    give: Callable[[PromptKey], Answer | JudgeError | None], settings: TransformersSettings = MODEL
) -> tuple[ModelJudge, ScriptedEngine]:
    engine = ScriptedEngine(give)
    return ModelJudge(engine, settings), engine


def test_a_model_is_labelled_at_the_threshold_that_separates(answers: Path) -> None:
    found = calibrated(model_judge(answered)[0], MODEL, items_for(8), answers, concurrency=2)
    assert found.threshold == found.labelled_at == pytest.approx(0.7)
    assert found.balanced_accuracy == found.balanced_accuracy_cross_validated == 1.0
    assert found.error_present.accuracy is not None and found.error_present.accuracy.share == 1.0
    assert found.present_quality is not None and found.present_quality.auroc == 1.0
    identified = found.error_identified
    assert identified.false_positive is not None and identified.false_negative is not None
    assert (identified.false_positive.count, identified.false_positive.of) == (4, 8)
    assert identified.false_negative.count == 0


def test_a_threshold_that_is_set_decides_the_labels_but_not_the_recommendation(
    answers: Path,
) -> None:
    settings = replace(MODEL, threshold=0.5)
    found = calibrated(model_judge(answered)[0], settings, items_for(8), answers)
    assert (found.labelled_at, found.threshold) == (0.5, pytest.approx(0.7))
    alarms = found.error_present.false_positive
    assert alarms is not None and alarms.share == 1.0


def test_position_bias_is_the_share_of_labels_that_move_with_the_order(answers: Path) -> None:
    found = calibrated(model_judge(answered)[0], MODEL, items_for(4), answers)
    bias = found.position_bias
    # At 0.7 the 8 notes with an error fall below when swapped, of 16; 12 of 16 move by -0.2.
    assert bias is not None and (bias.changed.count, bias.changed.of) == (8, 16)
    assert bias.mean_difference == pytest.approx(-0.15)


def test_the_swapped_question_costs_nothing_unless_training_asks_it(answers: Path) -> None:
    items = items_for(2)
    once = calibrated(model_judge(answered)[0], MODEL, items, answers)
    # One question a note, and one for each of the two answers where two sentences differ. Where
    # none differs, one for the answer that calls an unchanged note harmful.
    assert once.cost.prompt_tokens == 10 * (1 + 3 + 1 + 2) / 4
    assert once.cost.cached_tokens == 4 * (1 + 3 + 1 + 2) / 4
    both = replace(MODEL, both_orders=True)
    twice = calibrated(model_judge(answered, both)[0], both, items, answers.with_name("2.jsonl"))
    assert twice.cost.prompt_tokens == 10 * (2 + 4 + 2 + 3) / 4


def test_a_contradiction_between_the_orders_is_unscored_where_both_are_asked(
    answers: Path,
) -> None:
    both = replace(MODEL, both_orders=True, threshold=0.7)
    found = calibrated(model_judge(answered, both)[0], both, items_for(4), answers)
    assert (found.unscored.count, found.unscored.of) == (8, 16)


def test_labels_inside_the_tie_band_are_undecided(answers: Path) -> None:
    banded = replace(MODEL, threshold=0.7, tie_band=0.3)
    found = calibrated(model_judge(answered, banded)[0], banded, items_for(4), answers)
    assert found.error_present.undecided == 8 and found.error_present.accuracy is None


def test_a_model_without_probabilities_has_labels_and_order_but_no_threshold(answers: Path) -> None:
    def words_only(key: PromptKey) -> Answer:
        return replace(answered(key), p_yes=None, label_mass=None)

    found = calibrated(model_judge(words_only)[0], MODEL, items_for(4), answers)
    assert found.threshold is found.labelled_at is found.present_quality is None
    alarms = found.error_present.false_positive
    assert alarms is not None and alarms.share == 1.0  # 0.6 is a yes
    assert found.position_bias is not None and found.position_bias.mean_difference is None
    assert found.position_bias.changed.count == 4  # the rewordings: yes, then no


def test_an_answer_off_the_menu_leaves_its_game_unscored(answers: Path) -> None:
    def sometimes(key: PromptKey) -> Answer | JudgeError | None:
        if key.query_id == "case-0/error":
            return JudgeError("said maybe")
        return None if key.query_id == "case-1/error" else answered(key)

    found = calibrated(model_judge(sometimes)[0], MODEL, items_for(4), answers)
    assert found.unscored.count == 2
    judge, engine = model_judge(answered)
    calibrated(judge, MODEL, items_for(4), answers)
    assert not engine.asked  # a refusal is an answer too


def test_a_model_that_goes_away_is_asked_again_about_what_it_left_open(answers: Path) -> None:
    def away(key: PromptKey) -> Answer | JudgeError:
        return JudgeUnavailableError("no route") if key.query_id[5] == "2" else answered(key)

    items = items_for(4)
    with pytest.raises(JudgeUnavailableError, match="no route"):
        calibrated(model_judge(away)[0], MODEL, items, answers)
    judge, engine = model_judge(answered)
    found = calibrated(judge, MODEL, items, answers)
    assert "case-2/error" in {key.query_id for key in engine.asked}
    assert "case-0/error" not in {key.query_id for key in engine.asked}
    assert found.unscored.count == 0


def test_the_reliability_diagram_is_a_picture(answers: Path, tmp_path: Path) -> None:
    found = calibrated(model_judge(answered)[0], MODEL, items_for(4), answers)
    picture = tmp_path / "reliability.png"
    assert draw_reliability(found, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"answers.jsonl", "reliability.png"}


# --- the record ----------------------------------------------------------------------------------


def test_a_calibration_is_read_as_it_was_written(answers: Path, tmp_path: Path) -> None:
    found = calibrated(model_judge(answered)[0], MODEL, items_for(4), answers)
    path = tmp_path / "calibration.json"
    write_calibration(found, path)
    assert read_calibration(path) == found


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 99}, "field format: found 99, expected 1"),
        ({"judge": 3}, "field judge: "),
        ({"surprise": 1}, "field surprise: "),
        ({"data": {"file": "f.csv"}}, "field data.sha256: "),
        ({"unscored": {"count": 1, "of": 2, "share": "x", "low": 0, "high": 1}}, "unscored.share"),
    ],
)
def test_a_wrong_field_is_named(
    scripted: Calibration, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(scripted, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CalibrationError) as error:
        read_calibration(path)
    assert str(path) in str(error.value) and told in str(error.value)
    assert "calibrate_judge.py" in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[1]"])
def test_a_file_that_is_no_calibration_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "calibration.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CalibrationError, match=re.escape(str(path))):
        read_calibration(path)


def test_a_calibration_of_another_judge_is_told_on_one_line(scripted: Calibration) -> None:
    assert check_calibration(scripted, "scripted-1") is None
    problem = check_calibration(scripted, "scripted-2")
    assert problem is not None and "\n" not in problem
    assert "scripted-1" in problem and "scripted-2" in problem


def test_the_summary_gives_error_rates_with_their_intervals(scripted: Calibration) -> None:
    text = " ".join(summary_lines(scripted))
    assert "misses 25.0 % (95 % interval 7.1 to 59.1, 2 of 8)" in text
    assert "calls 50.0 % (95 % interval 21.5 to 78.5, 4 of 8)" in text
    # 59 % and 79 % together are more than a coin's.
    assert "may be noise" in text


def test_the_summary_of_a_judge_that_is_never_wrong_does_not_speak_of_noise(answers: Path) -> None:
    found = calibrated(model_judge(answered)[0], MODEL, items_for(8), answers)
    assert "noise" not in " ".join(summary_lines(found))


def test_the_summary_of_an_uncalibrated_judge_says_that_its_labels_may_be_noise() -> None:
    assert "the judge's labels may be noise" in " ".join(summary_lines(None))


def test_the_committed_calibration_is_the_reference_judges_of_today(answers: Path) -> None:
    committed = read_calibration(ROOT / "data" / "sample" / "judge_reference.json")
    assert check_calibration(committed, ReferenceJudge.fingerprint) is None
    path = ROOT / "data" / "sample" / committed.data.file
    cases = chosen_cases(list(read_medec(path, "test")), None, committed.data.seed)
    items = [item for case in cases for item in items_of(case, committed.data.seed)]
    found = calibrated(ReferenceJudge(), REFERENCE, items, answers)
    same = {"date": committed.date, "data": committed.data, "cost": committed.cost}
    assert replace(found, **same) == committed
    assert found.data.items == committed.data.items
