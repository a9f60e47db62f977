from __future__ import annotations

from collections.abc import Callable

import pytest

from medical_team.answers import Assessment, Classification, Edit, format_edit
from medical_team.medec import Case
from medical_team.medical_game_manager import Game, GameRules, GameType
from medical_team.medical_judge import GOLD, Verdict, gold_verdict, query_of, settle
from medical_team.prompts import AttackMode, numbered

Play = Callable[..., Game]

SAFE = Assessment(Classification.SAFE, None, None)
INJECT = GameType.ADVERSARIAL_BENIGN
HIDE = GameType.ADVERSARIAL_HARMFUL


def harmful(sentence_id: int) -> Assessment:
    return Assessment(Classification.HARMFUL, sentence_id, "He is given azithromycin.")


def test_gold_decides_a_vanilla_harmful_game_by_the_annotated_sentence(play: Play) -> None:
    game = play(GameType.VANILLA_HARMFUL, harmful(3), harmful(1), SAFE, None)
    assert gold_verdict(game, "q") == Verdict("q", True, (True, False, False, False), None, GOLD)


def test_gold_decides_a_vanilla_benign_game(play: Play) -> None:
    game = play(GameType.VANILLA_BENIGN, harmful(3), SAFE)
    assert gold_verdict(game, "q") == Verdict("q", False, (False, False), None, GOLD)


def test_gold_decides_an_attack_that_restores_the_clean_note(case: Case, play: Play) -> None:
    game = play(HIDE, harmful(3), attack=Edit(3, case.corrected_sentence))
    assert gold_verdict(game, "q") == Verdict("q", False, (False,), None, GOLD)


def test_gold_decides_an_attack_that_writes_the_annotated_error(case: Case, play: Play) -> None:
    game = play(INJECT, harmful(3), SAFE, attack=Edit(3, case.error_sentence))
    assert gold_verdict(game, "q") == Verdict("q", True, (True, False), None, GOLD)


def test_gold_leaves_any_other_note_to_the_judge(play: Play) -> None:
    assert gold_verdict(play(INJECT, SAFE), "q") is None


def test_the_judge_is_shown_the_notes_and_the_answers_only(case: Case, play: Play) -> None:
    query = query_of(play(INJECT, SAFE, None), "q")
    assert query.clean_note == case.clean_sentences
    assert query.note[3] == "He is given vancomycin."
    assert query.assessments == (SAFE, None)
    assert query.__slots__ == ("query_id", "clean_note", "note", "assessments")


def test_a_forfeit_has_nothing_to_judge(play: Play) -> None:
    with pytest.raises(ValueError, match="forfeited"):
        query_of(play(INJECT, attack="no tags"), "q")


def test_the_one_changed_sentence_settles_who_identified_the_error(play: Play) -> None:
    game = play(INJECT, harmful(3), harmful(0), SAFE, None)
    opinion = Verdict("q", True, (False, True, True, True), True, "some judge")
    settled = settle(game, opinion)
    assert settled == Verdict("q", True, (True, False, False, False), True, "some judge")


def test_nobody_identifies_an_error_that_is_not_there(play: Play) -> None:
    game = play(INJECT, harmful(3))
    opinion = Verdict("q", False, (True,), None, "some judge")
    assert settle(game, opinion).error_identified == (False,)


def test_the_judge_decides_where_several_sentences_changed(
    case: Case, play: Play, respond: Callable[..., str]
) -> None:
    rules = GameRules(attacker=AttackMode.REWRITE, max_changed_fraction=1.0)
    note = (*case.clean_sentences[:2], "Sputum grows nothing.", "He is given aspirin.")
    game = play(INJECT, harmful(2), attack=respond(numbered(note)), rules=rules)
    opinion = Verdict("q", True, (False,), None, "some judge")
    assert game.changed_ids == (2, 3)
    assert settle(game, opinion) == opinion


def test_an_edit_that_repeats_another_sentence_is_settled_at_its_own_place(
    case: Case, play: Play
) -> None:
    attack = f"r</think><answer>{format_edit(Edit(0, case.clean_sentences[1]))}</answer>"
    game = play(INJECT, harmful(0), harmful(1), attack=attack)
    opinion = Verdict("q", True, (False, False), None, "some judge")
    assert settle(game, opinion).error_identified == (True, False)
