from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from medical_team.alarms import Alarm, AlarmBook, AlarmName, AlarmSettings, stop_message
from medical_team.alarms.likeness import copied_share, likeness, word_runs, written_words
from medical_team.answers import Assessment, Classification, Edit
from medical_team.game_record import GameRecord, JudgeCost, TurnCost, record_game
from medical_team.medec import Case
from medical_team.medical_game_manager import Forfeit, Game, GameRules, GameType, Role
from medical_team.medical_judge import GOLD, Verdict, gold_verdict
from medical_team.rewards import ZeroSum

Play = Callable[..., Game]
Step = Callable[[int], Sequence[GameRecord]]

INJECT = GameType.ADVERSARIAL_BENIGN
SAFE = Assessment(Classification.SAFE, None, None)
FOUND = Assessment(Classification.HARMFUL, 1, "He has influenza.")
ROWS, SESSIONS = 8, 8
PATIENCE = AlarmSettings().patience
FIRST = AlarmSettings().first


def case_of(number: int) -> Case:
    return Case(
        case_id=f"case-{number}",
        error_sentences=("The man coughs.", "He has influenza.", f"He is given drug{number}."),
        error_sentence_id=2,
        corrected_sentence=f"He is given cure{number}.",
        error_type="treatment",
        split="train",
    )


def attacked(
    play: Play,
    row: int,
    session: int,
    *answers: Assessment | None,
    wrote: str | None = None,
    error: bool | None = True,
    forfeit: Forfeit | None = None,
    rules: GameRules | None = None,
) -> GameRecord:
    """A game against an attacker, who writes another diagnosis unless told what."""
    wrote = wrote or f"disease{row}x{session}"
    answers = () if forfeit else answers
    game = play(
        INJECT, *answers, case=case_of(row), attack=Edit(1, f"He has {wrote}."), rules=rules
    )
    if forfeit:
        game.refuse_note(forfeit)
        return _recorded(game, None, row, session)
    found = tuple(answer is FOUND for answer in answers)
    return _recorded(game, Verdict("q", error, found, None, "test"), row, session)


def vanilla(play: Play, row: int, session: int, answer: Assessment | None) -> GameRecord:
    game = play(GameType.VANILLA_BENIGN, answer, case=case_of(row))
    return _recorded(game, gold_verdict(game, "q"), row, session)


def _recorded(game: Game, verdict: Verdict | None, row: int, session: int) -> GameRecord:
    return record_game(
        game,
        step=1,
        uid=f"row-{row}",
        session=session,
        costs=[TurnCost("read this", 1, 1, 0.1) for _ in game.turns],
        verdict=verdict,
        judge=JudgeCost(),
        rewards=ZeroSum().score(game, verdict),
    )


def healthy(play: Play, seed: int, *, win_rate: float = 0.3) -> list[GameRecord]:
    """A step of 64 games, some of each outcome in every row."""
    rng = random.Random(seed)
    games = []
    for row in range(ROWS):
        for session in range(SESSIONS):
            broken = rng.random() < 0.02
            if row % 2:
                answer = SAFE if rng.random() < 0.6 else FOUND
                games.append(vanilla(play, row, session, None if broken else answer))
                continue
            answer = SAFE if rng.random() < win_rate else FOUND
            games.append(
                attacked(
                    play,
                    row,
                    session,
                    None if broken else answer,
                    error=rng.random() < 0.9,
                    forfeit=Forfeit.UNCHANGED if rng.random() < 0.1 else None,
                )
            )
    return [with_reasoning(game, "the dose does not fit the diagnosis", "A man.") for game in games]


def all_rows(make: Callable[[int, int], GameRecord]) -> list[GameRecord]:
    return [make(row, session) for row in range(ROWS) for session in range(SESSIONS)]


def alarms_by_step(
    book: AlarmBook, steps: Iterable[Sequence[GameRecord]], **kwargs: Any
) -> list[list[Alarm]]:
    return [book.check(step, games, **kwargs) for step, games in enumerate(steps, start=1)]


def names(alarms: Iterable[Alarm]) -> set[str]:
    return {alarm.name.value for alarm in alarms}


def with_reasoning(game: GameRecord, reasoning: str, prompt: str) -> GameRecord:
    turns = tuple(replace(turn, reasoning=reasoning, prompt=prompt) for turn in game.turns)
    return replace(game, turns=turns)


COLLAPSES: dict[str, tuple[AlarmName, Callable[[Play, int], list[GameRecord]], str]] = {
    "attacker always wins": (
        AlarmName.ONE_SIDED,
        lambda play, step: all_rows(lambda row, i: attacked(play, row, i, SAFE)),
        "the attacker won 100 % of its decided games (figure 1, alarms.win_rate_high=0.9",
    ),
    "attacker never wins": (
        AlarmName.ONE_SIDED,
        lambda play, step: all_rows(lambda row, i: attacked(play, row, i, FOUND)),
        "the attacker won 0 % of its decided games (figure 0, alarms.win_rate_low=0.05",
    ),
    "attacker forfeits": (
        AlarmName.FORFEITS,
        lambda play, step: all_rows(
            lambda row, i: attacked(play, row, i, forfeit=Forfeit.FORMAT if i % 4 else None)
        ),
        "75 % of the attacks were forfeits",
    ),
    "assessor breaks the format": (
        AlarmName.FORMAT,
        lambda play, step: all_rows(lambda row, i: vanilla(play, row, i, None if i % 2 else SAFE)),
        "50 % of the assessors' answers broke the format",
    ),
    "one phrase for every note": (
        AlarmName.ALIKE,
        lambda play, step: all_rows(
            lambda row, i: attacked(play, row, i, SAFE if i % 2 else FOUND, wrote="the plague")
        ),
        "what the attacker writes into different notes is alike by 100 %",
    ),
    "reasoning recites the prompt": (
        AlarmName.COPYING,
        lambda play, step: [
            with_reasoning(game, "a man has had a bad cough", "Note: A man has had a bad cough.")
            for game in healthy(play, step)
        ],
        "100 % of the attacker's reasoning is copied from its prompt",
    ),
    "groups without a difference": (
        AlarmName.ADVANTAGE,
        lambda play, step: all_rows(
            lambda row, i: vanilla(play, row, i, SAFE if row % 2 else FOUND)
        ),
        "in 100 % of the assessor's groups all rewards are equal",
    ),
}


@pytest.mark.parametrize("collapse", COLLAPSES)
def test_a_collapse_raises_its_alarm_after_patience_and_no_sooner(
    play: Play, collapse: str
) -> None:
    name, games, sentence = COLLAPSES[collapse]
    book = AlarmBook(AlarmSettings(min_groups=ROWS))
    assert not [a for a in alarms_by_step(book, [healthy(play, 1), healthy(play, 2)]) if a]
    for step in range(1, PATIENCE):
        assert name not in names(book.check(10 + step, games(play, step)))
        assert book.metrics()[f"alarm/{name.value}"] == 0
    raised = [a for a in book.check(10 + PATIENCE, games(play, PATIENCE)) if a.name is name]
    assert raised
    assert sentence in str(raised[0])
    assert f"step {10 + PATIENCE}" in str(raised[0])
    assert raised[0].new
    assert raised[0].since == 11
    assert raised[0].measurements == PATIENCE
    assert f"over {raised[0].count}" in str(raised[0])
    assert book.metrics()[f"alarm/{name.value}"] == 1
    again = [a for a in book.check(99, games(play, 99)) if a.name is name]
    assert again
    assert not again[0].new
    assert name not in {
        n for one in alarms_by_step(book, [healthy(play, 3), healthy(play, 4)]) for n in names(one)
    }
    assert book.metrics()[f"alarm/{name.value}"] == 0


@given(st.integers(0, 10**6), st.floats(0.2, 0.7))
@settings(max_examples=8, deadline=None)
def test_healthy_games_raise_no_alarm(play: Play, seed: int, win_rate: float) -> None:
    book = AlarmBook(AlarmSettings())
    rng = random.Random(seed)
    for step in range(1, 25):
        nll = {role: 0.05 * rng.uniform(0.6, 1.5) for role in Role}
        accuracy = 0.7 + rng.uniform(-0.05, 0.05) if step % 4 == 1 else None
        games = healthy(play, rng.randrange(10**9), win_rate=win_rate)
        assert book.check(step, games, nll=nll, validation=accuracy) == []
        assert all(book.metrics()[f"alarm/{name}"] == 0 for name in AlarmName)


def test_a_figure_on_the_threshold_raises_nothing(play: Play) -> None:
    book = AlarmBook(AlarmSettings(forfeits=0.5))
    games = all_rows(lambda row, i: attacked(play, row, i, SAFE, forfeit=_half(i)))
    found = alarms_by_step(book, [games] * 2 * PATIENCE)
    assert "forfeits" not in {name for one in found for name in names(one)}
    assert book.metrics()["alarm_value/forfeits"] == 0.5


def _half(session: int) -> Forfeit | None:
    return Forfeit.PADDED if session % 2 else None


def test_both_ends_of_the_win_rate_do_not_add_up(play: Play) -> None:
    book = AlarmBook(AlarmSettings())
    for step in range(1, 3 * PATIENCE):
        answer = SAFE if step % 2 else FOUND
        games = all_rows(lambda row, i, said=answer: attacked(play, row, i, said))
        assert "one_sided" not in names(book.check(step, games))


def test_steps_with_few_games_are_put_together(play: Play) -> None:
    book = AlarmBook(AlarmSettings(min_games=32, patience=2))
    eight = [attacked(play, 0, session, SAFE) for session in range(8)]
    found = alarms_by_step(book, [eight] * 8)
    assert [step for step, one in enumerate(found, start=1) if "one_sided" in names(one)] == [8]
    assert found[-1][0].count == 64
    measured = []
    for step in range(4):
        book.check(9 + step, eight)
        measured.append("alarm_value/one_sided" in book.metrics())
    assert measured == [False, False, False, True]


def test_the_win_rate_is_that_of_decided_games_in_which_the_attacker_is_trained(play: Play) -> None:
    book = AlarmBook(AlarmSettings(min_games=1))
    won = attacked(play, 0, 0, SAFE)
    lost = attacked(play, 0, 1, FOUND)
    tie = attacked(play, 0, 2, SAFE, error=None)
    void = attacked(play, 0, 3, None)
    forfeit = attacked(play, 0, 4, forfeit=Forfeit.FORMAT)
    book.check(1, [won, lost, tie, void, forfeit])
    assert book.metrics()["alarm_value/one_sided"] == 0.5
    frozen = replace(won, turns=tuple(replace(turn, trained=False) for turn in won.turns))
    book.check(2, [frozen, lost])
    assert book.metrics()["alarm_value/one_sided"] == 0
    book.check(3, [frozen])
    assert "alarm_value/one_sided" not in book.metrics()


def test_replayed_attacks_tell_nothing_of_the_attacker_or_the_judge(play: Play) -> None:
    book = AlarmBook(AlarmSettings(min_games=1, first=1))
    replayed = []
    for row in range(4):
        game = attacked(play, row, 0, SAFE)
        assessor = tuple(turn for turn in game.turns if turn.role is Role.ASSESSOR)
        replayed.append(replace(game, turns=assessor))
    book.check(1, replayed)
    book.check(2, replayed)
    assert {name for name in book.metrics() if name.startswith("alarm_value/")} == {
        "alarm_value/format"
    }


def test_a_figure_without_games_is_left_out(play: Play) -> None:
    book = AlarmBook(AlarmSettings(min_games=1))
    assert book.check(1, []) == []
    assert book.metrics() == {f"alarm/{name}": 0 for name in AlarmName}
    book.check(2, [vanilla(play, 0, 0, SAFE)])
    assert book.metrics()["alarm_value/format"] == 0
    assert "alarm_value/forfeits" not in book.metrics()
    assert "alarm_value/alike" not in book.metrics()


def test_the_assessors_of_one_attack_are_a_group(play: Play) -> None:
    rules = GameRules(assessor_samples=2)
    equal = [attacked(play, 0, i, *[[SAFE, FOUND][i]] * 2, rules=rules) for i in range(2)]
    mixed = [attacked(play, 1, i, SAFE, FOUND, rules=rules) for i in range(2)]
    book = AlarmBook(AlarmSettings(min_groups=1))
    book.check(1, [*equal, *mixed])
    # Assessors: 2 of 4 groups are equal. Attackers: the row in which all get 0 is 1 of 2.
    assert book.metrics()["alarm_value/advantage"] == 0.5
    book.check(2, equal)
    assert book.metrics()["alarm_value/advantage"] == 1  # of the assessors, the role worse off


def test_a_turn_alone_in_its_group_is_no_group(play: Play) -> None:
    book = AlarmBook(AlarmSettings(min_groups=1))
    book.check(1, [vanilla(play, row, 0, SAFE) for row in range(20)])
    assert "alarm_value/advantage" not in book.metrics()


def test_entropy_is_compared_with_the_start_of_each_role(play: Play) -> None:
    book = AlarmBook(AlarmSettings())
    games = healthy(play, 1)
    steady = {Role.ATTACKER: 1.0, Role.ASSESSOR: 0.1}
    for step in range(1, FIRST + 1):
        assert book.check(step, games, nll=steady) == []
        assert "alarm_value/entropy" not in book.metrics()
    collapsed = {Role.ATTACKER: 0.9, Role.ASSESSOR: 0.01}
    found = alarms_by_step(book, [games] * PATIENCE, nll=collapsed)
    assert not any(found[:-1])
    (alarm,) = found[-1]
    assert (alarm.name, alarm.role) == (AlarmName.ENTROPY, Role.ASSESSOR)
    assert alarm.figure == pytest.approx(0.1)
    assert book.metrics()["alarm_value/entropy"] == pytest.approx(0.1)
    assert "the assessor's entropy per token is 10 % of what it was at the start" in str(alarm)


@pytest.mark.parametrize("start", [0.0, float("nan"), float("inf")])
def test_an_entropy_that_says_nothing_is_left_out(play: Play, start: float) -> None:
    book = AlarmBook(AlarmSettings())
    games = healthy(play, 1)
    assert not any(alarms_by_step(book, [games] * 3 * PATIENCE, nll={Role.ASSESSOR: start}))
    assert "alarm_value/entropy" not in book.metrics()
    json.dumps(book.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [
        (1.0, 0.5, "in fewer attacked notes than at the start, by 50 % of them"),
        (0.5, 1.0, "in more attacked notes than at the start, by 50 % of them"),
        (0.5, 0.75, None),  # attackers that learn
        (1.0, 0.875, None),
    ],
)
def test_the_judge_is_compared_with_its_start(
    play: Play, before: float, after: float, seen: str | None
) -> None:
    def step(share: float) -> list[GameRecord]:
        answers = (SAFE, FOUND)
        return all_rows(
            lambda row, i: attacked(play, row, i, answers[row % 2], error=i < share * SESSIONS)
        )

    book = AlarmBook(AlarmSettings())
    assert not any(alarms_by_step(book, [step(before)] * FIRST))
    found = alarms_by_step(book, [step(after)] * PATIENCE)
    assert not any(found[:-1])
    assert book.metrics()["alarm_value/judge_positive"] == pytest.approx(after - before)
    assert [seen in str(alarm) for alarm in found[-1]] == ([] if seen is None else [True])


def test_labels_that_no_judge_gave_tell_nothing_of_the_judge(play: Play) -> None:
    book = AlarmBook(AlarmSettings(min_games=1, first=1))
    judged = attacked(play, 0, 0, SAFE)
    assert judged.labels is not None
    gold = replace(judged, labels=replace(judged.labels, error_present=False, source=GOLD))
    undecided = attacked(play, 0, 1, SAFE, error=None)
    book.check(1, [judged])
    book.check(2, [judged, gold, undecided])
    assert book.metrics()["alarm_value/judge_positive"] == 0
    book.check(3, [gold, undecided])
    assert "alarm_value/judge_positive" not in book.metrics()


def validated(
    book: AlarmBook, play: Play, accuracies: Sequence[float], win_rates: Sequence[float]
) -> list[set[str]]:
    """A validation before each of several steps with one win rate of the attacker."""
    found = []
    for number, (accuracy, win_rate) in enumerate(zip(accuracies, win_rates, strict=True)):
        raised: set[str] = set()
        for step in range(PATIENCE):
            won = round(win_rate * SESSIONS)
            games = all_rows(lambda r, i, w=won: attacked(play, r, i, SAFE if i < w else FOUND))
            value = accuracy if step == 0 else None
            raised |= names(book.check(number * PATIENCE + step, games, validation=value))
        found.append(raised)
    return found


def test_validation_that_falls_while_self_play_pays_better_is_an_alarm(play: Play) -> None:
    book = AlarmBook(AlarmSettings())
    found = validated(book, play, [0.7, 0.8, 0.6, 0.6, 0.75], [0.75, 0.5, 0.25, 0.25, 0.25])
    assert found == [set(), set(), set(), {"validation"}, set()]
    assert validated(book, play, [0.65], [0.25]) == [set()]
    book.check(100, [], validation=0.65)
    assert book.metrics()["alarm/validation"] == 1
    assert book.metrics()["alarm_value/validation"] == pytest.approx(0.15)


def test_validation_that_falls_while_self_play_pays_less_is_none(play: Play) -> None:
    book = AlarmBook(AlarmSettings())
    falling = validated(book, play, [0.8, 0.6, 0.6, 0.6], [0.25, 0.5, 0.5, 0.5])
    assert falling == [set()] * 4
    assert book.metrics()["alarm/validation"] == 0


def test_a_validation_before_the_first_game_counts(play: Play) -> None:
    book = AlarmBook(AlarmSettings(validation_patience=1))
    assert book.check(0, [], validation=0.8) == []
    assert validated(book, play, [0.79, 0.6], [0.75, 0.25]) == [set(), {"validation"}]


@given(st.integers(0, PATIENCE + FIRST + 3))
@settings(max_examples=12, deadline=None)
def test_a_resumed_run_raises_the_same_alarms(play: Play, cut: int) -> None:
    setting = AlarmSettings(min_games=100, min_groups=12)  # steps wait for each other
    games = all_rows(lambda row, i: attacked(play, row, i, SAFE, error=row + i > 0))
    whole, book = AlarmBook(setting), AlarmBook(setting)
    for step in range(2 * (PATIENCE + FIRST) + 2):
        if step == cut:
            state = json.loads(json.dumps(book.as_dict()))
            book = AlarmBook(setting)
            book.restore(state)
        kwargs: dict[str, Any] = {
            "nll": {Role.ATTACKER: 1.0 / (1 + step) ** 2},
            "validation": 0.9 / (1 + step),
        }
        assert book.check(step, games, **kwargs) == whole.check(step, games, **kwargs)
        assert book.metrics() == whole.metrics()
    assert whole.metrics()["alarm/one_sided"] == 1
    assert whole.metrics()["alarm/entropy"] == 1


def test_a_restored_book_still_shows_the_alarms_that_stand(play: Play) -> None:
    book = AlarmBook(AlarmSettings())
    steps = [all_rows(lambda row, i: attacked(play, row, i, SAFE))] * PATIENCE
    alarms_by_step(book, steps)
    other = AlarmBook(AlarmSettings())
    other.restore(book.as_dict())
    assert other.metrics()["alarm/one_sided"] == 1
    assert not any(name.startswith("alarm_value/") for name in other.metrics())


def test_the_history_does_not_grow(play: Play) -> None:
    book = AlarmBook(AlarmSettings())
    games = healthy(play, 1)
    sizes = []
    for step in range(300):
        book.check(step, games[:8], nll={Role.ASSESSOR: 0.3}, validation=0.7)
        sizes.append(len(json.dumps(book.as_dict())))
    assert max(sizes[100:]) < max(sizes[:100]) + 50


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"series": {"one_sided": {"waiting": "x"}}}, "series.one_sided.waiting"),
        ({"series": {"boredom": {}}}, "boredom"),
        ({"games": 3}, "games"),
    ],
)
def test_a_history_that_is_none_is_refused(state: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"alarm history cannot be read \(.*{reason}"):
        AlarmBook(AlarmSettings()).restore(state)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"forfeits": 1.0}, r"alarms\.forfeits is 1\.0, it must be above 0 and below 1, or null"),
        ({"alike": 0}, r"alarms\.alike is 0, it must be above 0"),
        ({"entropy": float("nan")}, r"alarms\.entropy is nan"),
        ({"judge_fall": -0.2}, r"alarms\.judge_fall is -0\.2"),
        ({"win_rate_low": 0.9, "win_rate_high": 0.4}, r"win_rate_low is 0\.9 .* below the high"),
        ({"patience": 0}, r"alarms\.patience is 0, it must be at least 1"),
        ({"min_groups": 0}, r"alarms\.min_groups is 0"),
        ({"stop": ("one-sided",)}, r"alarms\.stop names 'one-sided', known alarms: advantage"),
        ({"stop": ("alike",), "alike": None}, r"names 'alike', which is switched off"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlarmSettings(**values)


def test_settings_are_read_from_plain_values() -> None:
    reader = TypeAdapter(AlarmSettings)
    read = reader.validate_python({"stop": ["forfeits"], "alike": None, "patience": 3})
    assert read == AlarmSettings(stop=("forfeits",), alike=None, patience=3)
    with pytest.raises(ValidationError, match="Unexpected keyword argument"):
        reader.validate_python({"forfeit": 0.5})


def test_a_null_threshold_switches_an_alarm_off(play: Play) -> None:
    off = {"win_rate_high": None, "validation": None, "alike": None, "format": None}
    book = AlarmBook(AlarmSettings(**off, copying=None, judge_rise=None, judge_fall=None))
    steps = [all_rows(lambda row, i: attacked(play, row, i, SAFE))] * 2 * PATIENCE
    found = alarms_by_step(book, steps, validation=0.5)
    assert "one_sided" not in {name for one in found for name in names(one)}
    assert "alarm/one_sided" in book.metrics()  # its other end still holds
    for name in ("validation", "alike", "format", "copying", "judge_positive"):
        assert f"alarm/{name}" not in book.metrics()
        assert f"alarm_value/{name}" not in book.metrics()


def test_only_the_alarms_that_are_told_to_stop_the_run(play: Play) -> None:
    steps = [all_rows(lambda row, i: attacked(play, row, i, SAFE))] * PATIENCE
    *_, last = alarms_by_step(AlarmBook(AlarmSettings()), steps)
    assert names(last) == {"one_sided"}
    assert stop_message(last, AlarmSettings()) is None
    assert stop_message(last, AlarmSettings(stop=("forfeits",))) is None
    assert stop_message([], AlarmSettings(stop=("one_sided",))) is None
    message = stop_message(last, AlarmSettings(stop=("one_sided",)))
    assert message is not None
    for part in ("one_sided", f"step {PATIENCE}", "figure 1", "win_rate_high=0.9", "alarms.stop"):
        assert part in message


def test_written_words_are_those_that_are_new() -> None:
    source = ("He is  well.", "He takes aspirin 100 mg daily.")
    assert written_words(source, (source[0], "He takes warfarin 5 mg daily.")) == ("warfarin", "5")
    assert written_words(source, ("He is well.", "HE takes aspirin, 100 mg daily")) == ()
    assert written_words(source, (source[0], "He takes aspirin daily.")) == ("-100", "-mg")
    assert written_words(source, (*source, "No fever.")) == ("no", "fever")


def test_likeness_of_hand_worked_attacks() -> None:
    assert likeness([("a", ["gout"]), ("b", ["gout"])]) == pytest.approx(1)
    assert likeness([("a", ["gout"]), ("b", ["mumps"])]) == 0
    # Counts (viral 1, gout 1, "viral gout" 1) and (gout 1): cosine 1 / sqrt(3).
    assert likeness([("a", ["viral", "gout"]), ("b", ["gout"])]) == pytest.approx(3**-0.5)
    assert likeness([("a", ["gout"]), ("a", ["gout"])]) is None
    assert likeness([("a", ["gout"]), ("b", [])]) is None
    assert likeness([]) is None


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from("xyz"), max_size=4)), max_size=12
    )
)
def test_likeness_is_the_mean_over_pairs_of_cases(attacks: list[tuple[str, list[str]]]) -> None:
    written = [(case, words) for case, words in attacks if words]
    pairs = [
        likeness([("1", one), ("2", other)])
        for i, (case, one) in enumerate(written)
        for other_case, other in written[:i]
        if case != other_case
    ]
    value = likeness(attacks)
    if pairs:
        assert value == pytest.approx(sum(pair or 0 for pair in pairs) / len(pairs))
    else:
        assert value is None


@given(st.integers(2, 6), st.integers(2, 6))
def test_likeness_of_m_phrases_is_one_in_m_whatever_their_number(m: int, times: int) -> None:
    phrases = [f"phrase{i}" for i in range(m)]
    attacks = [(f"{t}", [phrase]) for t in range(times) for phrase in phrases]
    assert likeness(attacks) == pytest.approx(1 / m)


def test_copied_share_counts_runs_of_five_words() -> None:
    prompt = word_runs("0. A man of 40 has gout.\n1. He limps.")
    assert copied_share("a man of 40 has gout; he limps", prompt) == 2 / 4
    assert copied_share("The man of 40 has mumps, not gout", prompt) == 0
    assert copied_share("gout gout gout", prompt) is None
