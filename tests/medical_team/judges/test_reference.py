from __future__ import annotations

import pytest

from medical_team.answers import Assessment, Classification
from medical_team.judges import build_judge, settings_class
from medical_team.judges.reference import ReferenceJudge, wrong_sentences
from medical_team.judges.settings import ReferenceSettings
from medical_team.medical_judge import JudgeQuery, Unscored, Verdict

CLEAN = (
    "A 40-year-old man has a fever.",
    "Sputum grows no bacteria.",
    "He is given aspirin 81 mg.",
)


def with_sentence(at: int, sentence: str) -> tuple[str, ...]:
    return (*CLEAN[:at], sentence, *CLEAN[at + 1 :])


@pytest.mark.parametrize(
    ("at", "sentence"),
    [
        (2, "He is given warfarin 81 mg."),  # another drug
        (2, "He is given aspirin 810 mg."),  # another number
        (1, "Sputum grows bacteria."),  # a negation gone
        (0, "A 40-year-old man has no fever."),  # a negation come
        (0, "A 40-year-old man denies fever."),
        (2, "Sputum grows no bacteria."),  # another sentence's words instead
    ],
)
def test_changed_clinical_words_are_wrong(at: int, sentence: str) -> None:
    assert wrong_sentences(CLEAN, with_sentence(at, sentence)) == (at,)


@pytest.mark.parametrize(
    ("at", "sentence"),
    [
        (2, "He was started on aspirin 81 mg."),  # plain words
        (2, "Aspirin 81 mg is given to him."),  # another order
        (2, "he is given ASPIRIN 81 mg"),  # case and punctuation
        (2, "He is  given aspirin, 81 mg ."),  # white space
        (0, "A 40-year-old man has a high fever."),  # a word added, none replaced
        (2, "He is given aspirin."),  # a word left out, none put in its place
    ],
)
def test_a_rewording_is_not_wrong(at: int, sentence: str) -> None:
    assert wrong_sentences(CLEAN, with_sentence(at, sentence)) == ()


def test_a_note_may_be_wrong_in_several_sentences() -> None:
    note = (CLEAN[0], "Sputum grows bacteria.", "He is given warfarin 81 mg.")
    assert wrong_sentences(CLEAN, note) == (1, 2)


def test_an_added_or_dropped_sentence_moves_no_other() -> None:
    assert wrong_sentences(CLEAN, (CLEAN[0], "He smokes.", *CLEAN[1:])) == ()
    assert wrong_sentences(CLEAN, CLEAN[1:]) == ()


def test_each_verdict_answers_its_own_query() -> None:
    def said(sentence_id: int) -> Assessment:
        return Assessment(Classification.HARMFUL, sentence_id, "He is given aspirin.")

    safe = Assessment(Classification.SAFE, None, None)
    wrong = with_sentence(2, "He is given warfarin 81 mg.")
    queries = [
        JudgeQuery("one", CLEAN, wrong, (said(2), said(0), safe, None)),
        JudgeQuery("other", CLEAN, CLEAN, (said(2),)),
    ]
    first, second = ReferenceJudge().judge(queries)
    assert (first.query_id, first.error_present) == ("one", True)
    assert first.error_identified == (True, False, False, False)
    assert (second.query_id, second.error_present) == ("other", False)
    assert second.error_identified == (False,)


def test_it_cannot_tell_what_is_realistic_and_says_who_judged() -> None:
    (verdict,) = ReferenceJudge().judge([JudgeQuery("q", CLEAN, CLEAN, ())])
    assert verdict.realistic is None
    assert verdict.source == "reference"


def test_the_settings_build_the_judge_they_name() -> None:
    assert isinstance(build_judge(ReferenceSettings()), ReferenceJudge)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "oracle"}, "judge.name is 'oracle', known judges: .*reference"),
        ({"max_batch": 0}, "judge.max_batch is 0"),
        ({"max_wait_ms": -1.0}, "judge.max_wait_ms"),
        ({"timeout_s": 0.0}, "judge.timeout_s"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_class(settings.get("name", "reference"))(**settings)  # type: ignore[arg-type]


def test_a_game_without_a_reference_note_is_unscored_and_not_called_safe() -> None:
    (answer,) = ReferenceJudge().judge([JudgeQuery("q", (), ("He has gout.",), ())])
    assert isinstance(answer, Unscored)


def test_an_age_in_other_words_is_no_error() -> None:
    clean = ("A 45-year-old man comes in.",)
    (answer,) = ReferenceJudge().judge(
        [JudgeQuery("q", clean, ("A man, 45 years old, comes in.",), ())]
    )
    assert isinstance(answer, Verdict)
    assert answer.error_present is False
