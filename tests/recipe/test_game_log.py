from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from game_records import game_record, turn_record
from medical_team.game_record import GameRecord, Labels
from medical_team.medical_game_manager import Role
from medical_team.report.summary import read_games
from recipe.medical_selfplay.replay_buffer import GameLog, GameReplayBuffer, turn_index
from recipe.medical_selfplay.trajectory_id import TrajectoryId


def game(
    uid: str = "row", step: int = 1, *roles: Role, session: int = 0, error: bool | None = True
) -> GameRecord:
    turns = map(turn_record, roles or (Role.ATTACKER, Role.ASSESSOR))
    record = game_record(*turns, uid=uid, step=step, session=session)
    if error is None:
        return replace(record, note=None, forfeit="format", labels=None)
    return replace(record, labels=Labels(error, (True,), None, "test"))


def logged(folder: Path) -> dict[str, Sequence[GameRecord]]:
    return {path.name: read_games(path) for path in sorted(folder.iterdir())}


def test_each_steps_games_have_a_file(tmp_path: Path) -> None:
    log = GameLog(tmp_path)
    one, two = game(step=1), game(step=2)
    log.write("train", 1, [one])
    log.write("train", 2, [two])
    assert logged(tmp_path / "train") == {"step_000001.jsonl": [one], "step_000002.jsonl": [two]}


def test_a_step_that_comes_in_parts_keeps_them_all(tmp_path: Path) -> None:
    log = GameLog(tmp_path)
    games = [game(f"row-{i}", 0) for i in range(4)]
    log.write("val", 0, games[:1])
    log.write("val", 0, games[1:3])
    log.write("val", 0, games[3:])
    assert logged(tmp_path / "val") == {"step_000000.jsonl": games}


def test_training_between_two_validations_mixes_nothing(tmp_path: Path) -> None:
    log = GameLog(tmp_path)
    log.write("val", 0, [game("a", 0)])
    log.write("train", 1, [game("b", 1)])
    log.write("val", 1, [game("c", 1)])
    log.write("val", 1, [game("d", 1)])
    assert logged(tmp_path / "train") == {"step_000001.jsonl": [game("b", 1)]}
    assert logged(tmp_path / "val") == {
        "step_000000.jsonl": [game("a", 0)],
        "step_000001.jsonl": [game("c", 1), game("d", 1)],
    }


def test_a_resumed_run_holds_every_game_once(tmp_path: Path) -> None:
    killed = GameLog(tmp_path)
    for step in range(1, 6):
        killed.write("train", step, [game("first", step)])
    killed.write("val", 4, [game("first", 4)])
    resumed = GameLog(tmp_path)
    resumed.write("val", 2, [game("again", 2)])
    resumed.write("train", 3, [game("again", 3)])
    assert {name: games[0].uid for name, games in logged(tmp_path / "train").items()} == {
        "step_000001.jsonl": "first",
        "step_000002.jsonl": "first",
        "step_000003.jsonl": "again",
    }
    assert list(logged(tmp_path / "val")) == ["step_000002.jsonl"]


def test_without_games_there_is_no_file_and_those_of_a_killed_run_go(tmp_path: Path) -> None:
    GameLog(tmp_path).write("unscored_train", 3, [game("first", 3)])
    resumed = GameLog(tmp_path)
    resumed.write("unscored_train", 2, [])
    assert logged(tmp_path / "unscored_train") == {}
    resumed.write("unscored_train", 3, iter([game("again", 3)]))
    assert logged(tmp_path / "unscored_train") == {"step_000003.jsonl": [game("again", 3)]}


def test_a_write_that_is_killed_leaves_the_games_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = GameLog(tmp_path)
    log.write("train", 1, [game("a", 1)])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        log.write("train", 1, [game("b", 1)])
    assert read_games(tmp_path / "train" / "step_000001.jsonl") == [game("a", 1)]


def test_the_games_are_searched_for_under_the_names_that_are_written(tmp_path: Path) -> None:
    GameLog(tmp_path).write("val", 12, [game()])
    assert [path.name for path in (tmp_path / "val").glob("step_*.jsonl")] == ["step_000012.jsonl"]


@pytest.mark.parametrize(("key", "index"), [("uid_0_0", 0), ("a_b-c_3_12", 12)])
def test_a_key_names_its_turn(key: str, index: int) -> None:
    assert turn_index(key) == index


def identify(key: str, record: GameRecord, balance: bool = True) -> TrajectoryId:
    buffer = object.__new__(GameReplayBuffer)
    buffer._balance_truth = balance
    return buffer._identify(key, record, {})


def test_attackers_of_a_row_are_compared_over_its_sessions() -> None:
    ids = {identify(f"row_{i}_0", game(session=i)) for i in range(3)}
    assert ids == {TrajectoryId(Role.ATTACKER, "row")}


def test_a_single_assessor_is_compared_over_the_rows_sessions() -> None:
    ids = {identify(f"row_{i}_1", game(session=i)) for i in range(3)}
    assert ids == {TrajectoryId(Role.ASSESSOR, "row", True)}


def test_several_assessors_of_one_attack_are_compared_with_each_other_only() -> None:
    roles = (Role.ATTACKER, Role.ASSESSOR, Role.ASSESSOR)
    groups = [
        {identify(f"row_{i}_{at}", game("row", 1, *roles, session=i)).group for at in (1, 2)}
        for i in range(2)
    ]
    assert [len(group) for group in groups] == [1, 1]
    assert groups[0] != groups[1]


def test_the_truth_travels_with_assessors_unless_it_is_not_balanced() -> None:
    assert identify("row_0_1", game(error=False)).error_present is False
    assert identify("row_0_1", game(error=False), balance=False).error_present is None
    assert identify("row_0_0", game(error=False)).error_present is None


def test_the_attacker_of_a_forfeit_is_an_attacker_like_any_other() -> None:
    forfeit = game("row", 1, Role.ATTACKER, error=None)
    assert identify("row_0_0", forfeit) == TrajectoryId(Role.ATTACKER, "row")
