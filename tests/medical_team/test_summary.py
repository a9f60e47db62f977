from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from medical_team.answers import Assessment, Classification
from medical_team.calibration.record import read_calibration, summary_lines
from medical_team.game_metrics import game_metrics
from medical_team.game_record import GameRecord, JudgeCost, TurnCost, record_game
from medical_team.medical_game_manager import Game, GameType
from medical_team.medical_judge import gold_verdict
from medical_team.report.metric_files import metric_entries
from medical_team.report.metric_files import trained as trained_steps
from medical_team.report.summary import CALIBRATION, print_summary, read_games
from medical_team.rewards import ZeroSum

Play = Callable[..., Game]
MakeGame = Callable[[GameType, Assessment], GameRecord]

SAFE = Assessment(Classification.SAFE, None, None)
RIGHT = Assessment(Classification.HARMFUL, 3, "He is given azithromycin.")
HARMFUL = GameType.VANILLA_HARMFUL
BENIGN = GameType.VANILLA_BENIGN


@pytest.fixture(scope="module")
def make(play: Play) -> MakeGame:
    def record(game_type: GameType, answer: Assessment) -> GameRecord:
        game = play(game_type, answer)
        verdict = gold_verdict(game, "q")
        return record_game(
            game,
            step=0,
            uid="row",
            session=0,
            costs=[TurnCost("a prompt", 1, 1, 0.1)],
            verdict=verdict,
            judge=JudgeCost(),
            rewards=ZeroSum().score(game, verdict),
        )

    return record


def write_games(path: Path, games: Sequence[GameRecord]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{game.to_json()}\n" for game in games), encoding="utf-8")
    return path


def write_metrics(folder: Path, steps: Sequence[dict[str, float]]) -> None:
    entries = [{"step": i, "data": step} for i, step in enumerate(steps)]
    text = "".join(f"{json.dumps(entry)}\n" for entry in entries)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


def trained(folder: Path, games: Sequence[GameRecord], steps: int = 2) -> None:
    """Leaves what a run of some steps leaves, validation aside."""
    step = {"training/global_step": 1, **game_metrics(games)}
    write_metrics(folder, [{"val-core/acc": 0.5}, *([step] * steps)])
    write_games(folder / "games" / "train" / "step_000001.jsonl", games)
    (folder / "config.yaml").write_text("judge: {name: transformers, model: some/judge}\n")


def without_bars(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def printed(folder: Path) -> str:
    stream = io.StringIO()
    print_summary(folder, Console(file=stream, width=100))
    return " ".join(stream.getvalue().split())


def test_the_summary_says_how_training_and_validation_went(tmp_path: Path, make: MakeGame) -> None:
    trained(tmp_path, [make(HARMFUL, RIGHT), make(BENIGN, SAFE)])
    validation = tmp_path / "games" / "val"
    write_games(validation / "step_000000.jsonl", [make(HARMFUL, SAFE), make(BENIGN, SAFE)])
    write_games(validation / "step_000012.jsonl", [make(HARMFUL, RIGHT), make(BENIGN, SAFE)])
    text = printed(tmp_path)
    assert "step 0" in text
    assert "step 12" in text
    assert "reward on the fixed notes (vanilla games) rose: 0.000 -> 1.000." in text
    rows = without_bars(text)
    assert "gold (2 notes): balanced accuracy 0.500 1.000 0.500 0.500 0.500" in rows
    assert "false positive rate 0.000 0.000 1.000 0.000 1.000" in rows
    assert "right truth and sentence 0.500 1.000 0.000 0.500 0.500" in rows
    assert "2 steps, 4 games." in text
    assert "assessor win rate" in text
    for left in ("config.yaml", "metrics.jsonl", "games/train", "games/val"):
        assert left in text
    assert "tensorboard" not in text
    assert "checkpoints" not in text


@pytest.mark.parametrize("last", [RIGHT, SAFE])
def test_the_summary_says_plainly_that_the_reward_did_not_rise(
    last: Assessment, tmp_path: Path, make: MakeGame
) -> None:
    trained(tmp_path, [make(HARMFUL, RIGHT)])
    validation = tmp_path / "games" / "val"
    write_games(validation / "step_000000.jsonl", [make(HARMFUL, RIGHT)])
    write_games(validation / "step_000012.jsonl", [make(HARMFUL, last)])
    text = printed(tmp_path)
    assert "did NOT rise: 1.000 ->" in text
    assert " rose:" not in text


def test_the_summary_survives_a_run_without_validation(tmp_path: Path, make: MakeGame) -> None:
    trained(tmp_path, [make(HARMFUL, RIGHT)])
    text = printed(tmp_path)
    assert "2 steps, 2 games." in text
    assert "no comparison" in text


def test_the_summary_survives_a_run_that_never_trained_a_step(tmp_path: Path) -> None:
    write_metrics(tmp_path, [])
    assert "0 steps, 0 games." in printed(tmp_path)


def test_the_summary_survives_a_run_without_the_file_logger(tmp_path: Path, make: MakeGame) -> None:
    validation = tmp_path / "games" / "val"
    write_games(validation / "step_000000.jsonl", [make(HARMFUL, SAFE)])
    write_games(validation / "step_000012.jsonl", [make(HARMFUL, RIGHT)])
    text = printed(tmp_path)
    assert "rose: -1.000 -> 1.000" in text
    assert "metrics.jsonl" not in text


def test_only_training_steps_are_read_as_metrics(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"val-core/acc": 0.5}, {"training/global_step": 1, "loss": 2.0}])
    assert trained_steps(metric_entries(tmp_path).by_step) == [
        (1, {"training/global_step": 1, "loss": 2.0})
    ]


def test_a_game_is_read_back_whatever_line_separators_a_response_holds(
    tmp_path: Path, play: Play
) -> None:
    game = play(BENIGN)
    game.play_assessment("one\u2028two\u0085three\rfour\n")
    verdict = gold_verdict(game, "q")
    record = record_game(
        game,
        step=0,
        uid="row",
        session=0,
        costs=[TurnCost("", 1, 1, 0.1)],
        verdict=verdict,
        judge=JudgeCost(),
        rewards=ZeroSum().score(game, verdict),
    )
    path = write_games(tmp_path / "step_000001.jsonl", [record, record])
    assert read_games(path) == [record, record]


def test_a_line_that_is_no_game_is_named(tmp_path: Path, make: MakeGame) -> None:
    path = write_games(tmp_path / "step_000001.jsonl", [make(BENIGN, SAFE)])
    path.write_text(path.read_text() + '{"step": 1}\n')
    with pytest.raises(ValueError, match=r"step_000001.jsonl, line 2: the game record lacks"):
        read_games(path)


def test_the_summary_names_the_judge_and_says_that_nobody_calibrated_it(
    tmp_path: Path, make: MakeGame
) -> None:
    trained(tmp_path, [make(HARMFUL, RIGHT)])
    text = printed(tmp_path)
    assert "Judge transformers (some/judge):" in text
    assert "the judge's labels may be noise" in " ".join(text.split())


def test_the_summary_says_how_often_the_judge_errs(tmp_path: Path, make: MakeGame) -> None:
    calibration = Path(__file__).parents[2] / "data" / "sample" / "judge_reference.json"
    trained(tmp_path, [make(HARMFUL, RIGHT)])
    (tmp_path / CALIBRATION).write_text(calibration.read_text())
    text = printed(tmp_path)
    assert "the judge's labels may be noise" not in text
    for line in summary_lines(read_calibration(calibration)):
        assert line.split()[0] in text


def test_damaged_lines_are_left_out_and_the_summary_says_so(tmp_path: Path, make: MakeGame) -> None:
    trained(tmp_path, [make(HARMFUL, RIGHT)])
    validation = tmp_path / "games" / "val"
    write_games(validation / "step_000000.jsonl", [make(HARMFUL, SAFE)])
    last = write_games(validation / "step_000012.jsonl", [make(HARMFUL, RIGHT)] * 2)
    last.write_bytes(last.read_bytes()[:-200])
    (validation / "step_old.jsonl").write_text("no step of its own")
    text = printed(tmp_path)
    assert "rose: -1.000 -> 1.000" in text
    assert "1 damaged line left out, the first: step_000012.jsonl, line 2: not JSON at" in text
    last.write_text("{}")
    assert "no comparison" in printed(tmp_path)
    (tmp_path / CALIBRATION).write_text("{")
    (tmp_path / "config.yaml").write_text("judge: [1]")
    assert CALIBRATION in printed(tmp_path)
