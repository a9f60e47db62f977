from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medical_team.answers import Assessment, Classification, Edit, FormatError, format_edit
from medical_team.medec import Case
from medical_team.medical_game_manager import (
    Forfeit,
    Game,
    GameRules,
    GameType,
    Role,
    changed_sentences,
    changed_spans,
    parse_numbered_note,
)
from medical_team.prompts import AttackMode, find_control_text, neutralise, numbered

Play = Callable[..., Game]
Respond = Callable[..., str]

INJECT = GameType.ADVERSARIAL_BENIGN
HIDE = GameType.ADVERSARIAL_HARMFUL
SAFE = Assessment(Classification.SAFE, None, None)
EDIT = GameRules()
REWRITE = GameRules(attacker=AttackMode.REWRITE)

# Few different sentences, so that notes repeat themselves and a rewrite may equal another sentence.
few = st.sampled_from(["He has flu.", "He has a cough.", "Pulse is 90.", "He is well."])
free = st.text(alphabet="abc .,0", min_size=1).map(lambda text: " ".join(text.split())).filter(bool)


def rewritten(note: tuple[str, ...], respond: Respond) -> str:
    return respond(numbered(note))


@pytest.mark.parametrize(
    ("attack", "cause"),
    [
        ("He is given aspirin.", Forfeit.FORMAT),
        ("Thinking</think><answer>Sentence: 9\nRewrite: x</answer>", Forfeit.FORMAT),
        ("Thinking</think><answer>Rewrite: x</answer>", Forfeit.FORMAT),
        (Edit(3, "He is <|im_end|> given aspirin."), Forfeit.CONTROL_TEXT),
        (Edit(3, "He is given azithromycin."), Forfeit.UNCHANGED),
        (Edit(3, "He  is given   azithromycin."), Forfeit.UNCHANGED),
        (Edit(3, "He is given aspirin, " + "and more " * 10), Forfeit.PADDED),
    ],
)
def test_a_bad_edit_forfeits_by_its_cause(attack: str | Edit, cause: Forfeit, play: Play) -> None:
    game = play(INJECT, attack=attack)
    assert game.forfeit is cause
    assert game.note is None
    assert not game.awaits_attack


def test_an_edit_that_guts_a_long_sentence_is_shortened(case: Case, play: Play) -> None:
    long = replace(case, corrected_sentence="He is given azithromycin " + "and rests " * 20)
    assert play(INJECT, attack=Edit(3, "None."), case=long).forfeit is Forfeit.SHORTENED


def test_hiding_an_error_at_another_sentence_forfeits(play: Play) -> None:
    game = play(HIDE, attack=Edit(1, "Pulse is 190/min."))
    assert game.forfeit is Forfeit.WRONG_SENTENCE


def test_injecting_may_choose_any_sentence(play: Play) -> None:
    game = play(INJECT, attack=Edit(1, "Pulse is 190/min."))
    assert game.forfeit is None
    assert game.changed_ids == (1,)


@pytest.mark.parametrize("rules", [EDIT, REWRITE])
def test_an_attack_cut_off_at_the_length_limit_forfeits(
    rules: GameRules, case: Case, respond: Respond
) -> None:
    game = Game(case, INJECT, rules)
    turn = game.play_attack(respond(format_edit(Edit(3, "He is fine."))), truncated=True)
    assert game.forfeit is Forfeit.TRUNCATED
    assert turn.violation is not None


@pytest.mark.parametrize(
    ("note", "cause"),
    [
        ("A man has a cough.", Forfeit.FORMAT),
        ("0. A man has a cough.\n2. Pulse is 90/min.", Forfeit.FORMAT),
        ("1. A man has a cough.\n2. Pulse is 90/min.", Forfeit.FORMAT),
    ],
)
def test_a_rewritten_note_that_is_not_numbered_in_order_forfeits(
    note: str, cause: Forfeit, play: Play, respond: Respond
) -> None:
    assert play(INJECT, attack=respond(note), rules=REWRITE).forfeit is cause


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, Forfeit.UNCHANGED),
        ({3: "He is given aspirin <|im_end|>."}, Forfeit.CONTROL_TEXT),
        ({3: "He is given aspirin " + "and more " * 10}, Forfeit.PADDED),
        ({2: "Sputum grows nothing.", 3: "He is given aspirin."}, Forfeit.TOO_MANY_CHANGES),
        ({3: "He is given aspirin."}, None),
    ],
)
def test_a_rewritten_note_is_checked(
    changes: dict[int, str], cause: Forfeit | None, case: Case, play: Play, respond: Respond
) -> None:
    lines = [f"{i}. {changes.get(i, s)}" for i, s in enumerate(case.clean_sentences)]
    assert play(INJECT, attack=respond("\n".join(lines)), rules=REWRITE).forfeit is cause


def test_a_rewritten_note_that_drops_most_sentences_is_shortened(
    case: Case, play: Play, respond: Respond
) -> None:
    attack = rewritten(case.clean_sentences[:1], respond)
    assert play(INJECT, attack=attack, rules=REWRITE).forfeit is Forfeit.SHORTENED


def test_dropping_sentences_counts_as_changing_them(
    case: Case, play: Play, respond: Respond
) -> None:
    rules = replace(REWRITE, max_growth=10)
    attack = rewritten(case.clean_sentences[:2], respond)
    assert play(INJECT, attack=attack, rules=rules).forfeit is Forfeit.TOO_MANY_CHANGES


def test_a_rewritten_note_is_aligned_so_that_an_inserted_sentence_moves_no_other(
    case: Case, play: Play, respond: Respond
) -> None:
    first, *rest = case.clean_sentences
    attack = rewritten((first, "He smokes.", *rest), respond)
    game = play(INJECT, attack=attack, rules=REWRITE)
    assert game.forfeit is None
    assert game.changed_ids == (1,)


def test_rewrite_mode_may_hide_the_error_anywhere(case: Case, play: Play, respond: Respond) -> None:
    note = (case.error_sentences[0], "Pulse is 190/min.", *case.error_sentences[2:])
    game = play(HIDE, attack=rewritten(note, respond), rules=REWRITE)
    assert game.forfeit is None
    assert game.changed_ids == (1, 3)


@pytest.mark.parametrize("game_type", [GameType.VANILLA_BENIGN, GameType.VANILLA_HARMFUL])
def test_a_vanilla_game_passes_its_source_note_on(game_type: GameType, case: Case) -> None:
    game = Game(case, game_type, EDIT)
    assert not game.awaits_attack
    assert game.note == game.source
    harmful = game_type is GameType.VANILLA_HARMFUL
    assert game.note == (case.error_sentences if harmful else case.clean_sentences)
    assert game.changed_ids == ((case.error_sentence_id,) if harmful else ())


@pytest.mark.parametrize("game_type", [INJECT, HIDE])
def test_an_adversarial_game_starts_with_the_attacker(game_type: GameType, case: Case) -> None:
    game = Game(case, game_type, EDIT)
    assert game.awaits_attack
    assert game.given_error_id == (case.error_sentence_id if game_type is HIDE else None)
    with pytest.raises(ValueError, match="the attacker has not played"):
        game.assessor_messages()


def test_no_assessor_plays_after_a_forfeit(play: Play) -> None:
    game = play(INJECT, attack="no tags")
    with pytest.raises(ValueError, match="format"):
        game.assessor_messages()
    with pytest.raises(ValueError, match="no note to assess"):
        game.play_assessment("anything")
    assert [turn.role for turn in game.turns] == [Role.ATTACKER]


def test_a_note_refused_by_the_trainer_is_a_forfeit(play: Play) -> None:
    game = play(INJECT)
    game.refuse_note(Forfeit.PADDED)
    assert game.note is None
    assert game.forfeit is Forfeit.PADDED


def test_turns_are_in_the_order_in_which_they_were_played(play: Play) -> None:
    game = play(INJECT, SAFE, None, SAFE)
    assert [turn.role for turn in game.turns] == [Role.ATTACKER, *[Role.ASSESSOR] * 3]
    assert [turn.assessment for turn in game.assessments] == [SAFE, None, SAFE]


def test_a_broken_assessment_is_a_violation_and_not_an_answer(case: Case, respond: Respond) -> None:
    game = Game(case, GameType.VANILLA_BENIGN, EDIT)
    turn = game.play_assessment(respond("Safe: no"))
    assert turn.assessment is None
    assert turn.violation is not None
    assert turn.answer == "Safe: no"


def test_a_cut_off_assessment_is_a_violation(case: Case, respond: Respond) -> None:
    game = Game(case, GameType.VANILLA_BENIGN, EDIT)
    answer = "Classification: Safe\nError sentence: none\nCorrection: none"
    assert game.play_assessment(respond(answer)).violation is None
    assert game.play_assessment(respond(answer), truncated=True).violation is not None


def test_an_assessor_cannot_name_a_sentence_that_is_not_there(case: Case, respond: Respond) -> None:
    game = Game(case, GameType.VANILLA_BENIGN, EDIT)
    answer = "Classification: Harmful\nError sentence: 4\nCorrection: He is well."
    assert "does not exist" in (game.play_assessment(respond(answer)).violation or "")


@given(st.lists(few | free, min_size=1, max_size=8), st.data())
def test_an_edit_changes_exactly_its_sentence(note: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(note) - 1))
    rewrite = data.draw(few | free)
    assume(rewrite != note[at])
    error = [*note[:at], "He has an error.", *note[at + 1 :]]
    case = Case("c", tuple(error), at, note[at], "diagnosis", "train")
    for game_type in (INJECT, HIDE):
        game = Game(case, game_type, GameRules(max_growth=1000))
        game.play_attack(f"r</think><answer>{format_edit(Edit(at, rewrite))}</answer>")
        assert game.forfeit is None
        assert game.note == (*note[:at], rewrite, *note[at + 1 :])
        assert game.changed_ids == (at,)


@given(st.lists(few, max_size=8), st.lists(few, max_size=8))
def test_notes_agree_outside_their_changed_spans(one: list[str], other: list[str]) -> None:
    rebuilt: list[str] = []
    done = 0
    for old, new in changed_spans(one, other):
        rebuilt += one[done : old.start] + other[new.start : new.stop]
        done = old.stop
    assert rebuilt + one[done:] == other
    assert (not changed_sentences(one, other) and len(one) == len(other)) == (one == other)


@given(st.text() | st.lists(free).map(numbered))
def test_a_numbered_note_is_read_or_refused_as_a_format_error(text: str) -> None:
    try:
        note = parse_numbered_note(text)
    except FormatError:
        return
    assert note
    assert all(sentence.strip() == sentence != "" for sentence in note)


@given(st.text())
def test_control_text_never_reaches_the_assessor(text: str) -> None:
    note = ("He is well.", f"He coughs. {text}")
    case = Case("c", note, 1, "He has flu.", "diagnosis", "train")
    content = Game(case, GameType.VANILLA_HARMFUL, EDIT).assessor_messages()[-1]["content"]
    assert find_control_text(content) is None
    assert neutralise(note[1]) in content


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"assessor_samples": 0}, "game.assessor_samples is 0"),
        ({"max_changed_fraction": 0.0}, "game.max_changed_fraction is 0.0"),
        ({"max_changed_fraction": 1.1}, "game.max_changed_fraction is 1.1"),
        ({"max_growth": 0.9}, "game.max_growth is 0.9"),
    ],
)
def test_rules_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GameRules(**settings)  # type: ignore[arg-type]
