from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from game_records import game_record, turn_record
from medical_team.alarms import AlarmSettings
from medical_team.archive import ArchivedAttack, ArchiveSettings, write_frozen
from medical_team.game_record import ARCHIVE, GameRecord, Labels
from medical_team.matchmaking import MatchSettings
from medical_team.medec import Case
from medical_team.medical_game_manager import GameType, Role
from recipe.medical_selfplay.league import League, StateLog
from recipe.medical_selfplay.settings import LeagueSettings

AB, VB = GameType.ADVERSARIAL_BENIGN, GameType.VANILLA_BENIGN


@pytest.fixture
def cases(make_cases: Callable[..., list[Case]]) -> list[Case]:
    return make_cases(12)


def settings(seed: int | None = 0, **archive: Any) -> LeagueSettings:
    return LeagueSettings(
        MatchSettings(), ArchiveSettings(**archive), AlarmSettings(), rae_decay=0.5, seed=seed
    )


def attacked(case: Case, session: int = 0, won: bool = True, note: str = "Wrong.") -> GameRecord:
    """A game in which the attacker put one sentence in the place of the note."""
    reward, said = (1.0, "Safe") if won else (-1.0, "Harmful")
    outcomes = ("win", "loss") if won else ("loss", "win")
    return game_record(
        turn_record(Role.ATTACKER, reward=reward, outcome=outcomes[0], nll=0.5),
        turn_record(
            Role.ASSESSOR, reward=-reward, outcome=outcomes[1], nll=1.5, classification=said
        ),
        uid=case.case_id,
        session=session,
        case_id=case.case_id,
        error_type=case.error_type,
        source=case.clean_sentences,
        note=(note, *case.clean_sentences[1:]),
        labels=Labels(True, (not won,), None, "reference"),
    )


def finish(league: League, step: int, cases: list[Case], **changes: Any) -> Any:
    games = [attacked(case, **changes) for case in cases]
    return league.finish(step, games, {case.case_id: case for case in cases})


def test_a_row_is_the_datasets_own_game_while_there_is_no_past(
    cases: list[Case], tmp_path: Path
) -> None:
    league = League(settings(fraction=1.0), str(tmp_path))
    pairing = league.pair(1, 0, "uid", cases[0], AB)
    assert (pairing.case, pairing.game_type, pairing.attack) == (cases[0], AB, None)


def test_past_attacks_are_read_instead_of_fresh_ones(cases: list[Case], tmp_path: Path) -> None:
    league = League(settings(fraction=0.5), str(tmp_path))
    finish(league, 1, cases[:4])
    pairings = [league.pair(2, index, "uid", cases[5], AB) for index in range(400)]
    replayed = [one for one in pairings if one.attack is not None]
    assert len(replayed) / 400 == pytest.approx(0.5, abs=0.08)
    for one in replayed:
        assert one.case in cases[:4]
        assert one.case == one.attack.case
        assert one.attack.note[0] == "Wrong."
    vanilla = [league.pair(2, index, "uid", cases[5], VB) for index in range(50)]
    assert all(one.attack is None for one in vanilla)


def test_all_sessions_of_a_row_read_the_same_note(cases: list[Case], tmp_path: Path) -> None:
    for seed in (0, None):
        league = League(settings(seed, fraction=0.5), str(tmp_path / str(seed)))
        finish(league, 1, cases)
        for index in range(20):
            uid = f"uid {index}"
            first, second = (league.pair(2, index, uid, cases[0], AB) for _ in range(2))
            assert first == second


def test_a_step_does_not_read_its_own_attacks(cases: list[Case], tmp_path: Path) -> None:
    """In asynchronous training rows of a step are still drawn while others of it have finished."""
    league = League(settings(fraction=1.0), str(tmp_path))
    finish(league, 3, cases)
    assert league.pair(3, 0, "uid", cases[0], AB).attack is None
    assert league.pair(4, 0, "uid", cases[0], AB).attack is not None


def test_replays_are_counted_and_not_archived_again(cases: list[Case], tmp_path: Path) -> None:
    league = League(settings(fraction=1.0, weighting="missed"), str(tmp_path))
    finish(league, 1, cases[:1])
    attack = league.pair(2, 0, "uid", cases[0], AB).attack
    fresh = attacked(cases[0])
    replay = replace(fresh, opponent=ARCHIVE, attack_id=attack.attack_id, turns=fresh.turns[1:])
    standings = league.finish(2, [replay, replay], {cases[0].case_id: cases[0]})
    assert standings.metrics["archive/size"] == 1
    again = league.pair(3, 0, "uid", cases[0], AB).attack
    assert (again.played, again.missed) == (2, 2)


def test_a_frozen_attacker_never_changes(cases: list[Case], tmp_path: Path) -> None:
    attack = ArchivedAttack.of(
        step=0,
        case=cases[7],
        game_type=AB,
        note=("Frozen.", *cases[7].clean_sentences[1:]),
        error_present=True,
        source="reference",
        succeeded=True,
    )
    write_frozen(tmp_path / "frozen.jsonl", [attack])
    frozen = settings(fraction=1.0, file=str(tmp_path / "frozen.jsonl"))
    league = League(frozen, str(tmp_path / "run"))
    for step in (1, 2):
        assert league.pair(step, 0, "uid", cases[0], AB).attack == attack
        finish(league, step, cases)


def test_baselines_are_read_before_they_move(cases: list[Case], tmp_path: Path) -> None:
    league = League(settings(), str(tmp_path))
    first = finish(league, 1, cases[:2]).baselines
    uids = [case.case_id for case in cases[:2]]
    assert [first[uid, 0, 0] for uid in uids] == [0.0, 0.5]  # decay 0.5, rewards 1
    assert [first[uid, 0, 1] for uid in uids] == [0.0, -0.5]
    assert finish(league, 2, cases[:1]).baselines[uids[0], 0, 0] == 0.75


def test_entropy_is_estimated_for_each_role(cases: list[Case], tmp_path: Path) -> None:
    metrics = finish(League(settings(), str(tmp_path)), 1, cases).metrics
    assert metrics["policy/nll/attacker"] == 0.5
    assert metrics["policy/nll/assessor"] == 1.5


@pytest.mark.parametrize(
    ("match", "logged"),
    [
        (MatchSettings(curriculum=0.5), False),
        (MatchSettings(game_mix={VB: 1}), True),
        (MatchSettings(target_win_rate=(0.3, 0.5)), True),
    ],
)
def test_the_mix_is_logged_where_games_are_drawn_by_it(
    cases: list[Case], tmp_path: Path, match: MatchSettings, logged: bool
) -> None:
    league = League(replace(settings(), match=match), str(tmp_path), cases)
    metrics = finish(league, 1, cases).metrics
    assert any(name.startswith("mix/") for name in metrics) is logged


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(
    fraction: float, cases: list[Case], tmp_path: Path
) -> None:
    """Killed after step 3, resumed at the checkpoint of step 2."""
    told = settings(fraction=fraction)
    straight = League(told, str(tmp_path / "straight"))
    killed = League(told, str(tmp_path / "killed"))
    for step in (1, 2):
        for league in (straight, killed):
            finish(league, step, cases[4 * step - 4 : 4 * step], note=f"Wrong {step}.")
    finish(killed, 3, cases, note="Never saved.")
    resumed = League(told, str(tmp_path / "killed"))
    rows = range(30)
    for league in (straight, resumed):
        league.pair(3, 0, "uid", cases[0], AB)
    assert [resumed.pair(3, i, "", cases[0], AB) for i in rows] == [
        straight.pair(3, i, "", cases[0], AB) for i in rows
    ]
    assert finish(resumed, 3, cases) == finish(straight, 3, cases)


def test_a_row_that_was_in_flight_at_the_checkpoint_forgets_nothing(
    cases: list[Case], tmp_path: Path
) -> None:
    league = League(settings(fraction=1.0), str(tmp_path))
    for step in (1, 2, 3):
        finish(league, step, cases[step : step + 1])
    tracker = tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt"
    tracker.parent.mkdir()
    tracker.write_text("2")
    resumed = League(settings(fraction=1.0), str(tmp_path))
    resumed.pair(1, 0, "uid", cases[0], AB)  # issued in step 1, and not finished since
    drawn = {resumed.pair(9, index, "", cases[0], AB).attack.step for index in range(50)}
    assert drawn == {1, 2}


def test_a_step_that_teaches_a_role_nothing_says_so(cases: list[Case], tmp_path: Path) -> None:
    league = League(settings(), str(tmp_path))
    case, other = cases[:2]
    mixed = [attacked(case, session, won=session == 0) for session in range(3)]
    known = {one.case_id: one for one in cases}
    assert league.finish(1, mixed, known).warnings == ()
    equal = [attacked(other, session) for session in range(3)]
    warnings = league.finish(2, equal, known).warnings
    assert len(warnings) == 2
    assert "step 2: the rewards of all 1 groups of the attacker are equal" in warnings[0]
    frozen = [
        replace(game, turns=(replace(game.turns[0], trained=False), game.turns[1]))
        for game in mixed
    ]
    assert league.finish(3, frozen, known).warnings == (
        "step 3: none of the 3 turns of the attacker may be trained",
    )
    only_assessor = replace(settings(), trained_roles=("assessor",))
    league = League(only_assessor, str(tmp_path / "assessor"))
    assert league.finish(1, frozen, known).warnings == ()


def test_an_alarm_warns_once_and_stops_the_run_if_it_is_to(
    cases: list[Case], tmp_path: Path
) -> None:
    alarms = AlarmSettings(patience=2, min_games=4, stop=("one_sided",))
    league = League(replace(settings(), alarms=alarms), str(tmp_path))
    one, two, three = (finish(league, step, cases) for step in (1, 2, 3))
    assert (one.warnings, one.stop) == ((), None)
    assert any("alarms.win_rate_high" in warning for warning in two.warnings)
    assert two.metrics["alarm/one_sided"] == 1
    assert "one_sided" in two.stop
    assert three.warnings == ()
    assert three.stop is not None


def test_a_state_cut_off_by_a_kill_is_as_if_it_had_not_been_written(tmp_path: Path) -> None:
    file = tmp_path / "state.jsonl"
    log = StateLog(file)
    for step in (1, 2):
        log.append(step, {"value": step})
    with file.open("ab") as stream:
        stream.write(b'{"step": 3, "val')
    assert log.restore(before_step=9) == {"step": 2, "value": 2}
    log.append(3, {"value": 3})
    assert log.restore(before_step=9) == {"step": 3, "value": 3}
    assert log.restore(before_step=2) == {"step": 1, "value": 1}
    assert log.restore(before_step=1) is None
