"""What the report makes of a run's files, before any browser sees it."""

from __future__ import annotations

import base64
import gzip
import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from medical_team.game_record import GameRecord, Labels
from medical_team.report.alarm_marks import alarm_marks
from medical_team.report.charts import chart_groups
from medical_team.report.figures import alarm_caption, write_figures
from medical_team.report.follow import RunFollower
from medical_team.report.game_view import Outcome, game_view, outcomes
from medical_team.report.hidden_values import HIDDEN, without_secrets
from medical_team.report.metric_files import metric_entries
from medical_team.report.packing import block, coded, script_json
from medical_team.report.page import build_report
from medical_team.report.progress import progress
from medical_team.report.run_config import differing_keys
from medical_team.report.run_data import ReportError, counted, read_run
from report_runs import CONFIG, attacked, forfeited, vanilla, write_run

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


@pytest.mark.parametrize(
    ("game", "expected"),
    [
        (attacked("right", "safe", "elsewhere"), ["found", "missed", "wrong sentence"]),
        (attacked(None), ["broken format"]),
        (attacked("safe", labels=Labels(None, (None,), None, "vllm")), ["undecided"]),
        (attacked("right", labels=Labels(True, (None,), None, "vllm")), ["undecided"]),
        (vanilla("Safe", error=False), ["passed"]),
        (vanilla("Harmful", error=False), ["false alarm"]),
        (vanilla("Safe", error=True), ["missed"]),
        (forfeited(), ["forfeit"]),
    ],
)
def test_every_way_to_end_has_its_name(game: GameRecord, expected: list[str]) -> None:
    assert outcomes(game) == [Outcome(name) for name in expected]


def test_labels_that_do_not_fit_the_assessors_are_refused() -> None:
    game = attacked("right", labels=Labels(True, (True, False), None, "vllm"))
    with pytest.raises(ValueError, match="2 entries, expected one for each of the 1"):
        GameRecord.from_json(game.to_json())


def test_a_fresh_attack_and_its_archived_copy_share_an_id() -> None:
    fresh = game_view(attacked("safe")).row["attack"]
    again = game_view(attacked("right", opponent="archive", attack_id=fresh)).row["attack"]
    assert fresh == again is not None
    assert game_view(vanilla("Safe", error=False)).row["attack"] is None


def test_the_preview_is_the_changed_sentence_as_the_assessor_read_it() -> None:
    assert game_view(attacked("safe")).row["preview"] == "He is given penicillin."
    assert game_view(forfeited()).row["preview"] == "forfeit: unchanged"


def test_figures_that_are_no_numbers_do_not_break_the_page() -> None:
    assert json.loads(script_json({"a": [math.nan, math.inf, 1.0]})) == {"a": [None, None, 1.0]}


def test_embedded_json_holds_no_markup() -> None:
    text = script_json({"</script><!--": "<b>&\u2028\u2029\ud800"})
    assert text.isascii() and not set("<>&") & set(text)
    assert json.loads(text) == {"</script><!--": "<b>&\u2028\u2029\ud800"}


def test_a_block_survives_with_lone_surrogates_and_is_no_markup() -> None:
    value = ["</script>", "\ud800 and \u202e"]
    text = block(value)
    assert not set("<>&\"'") & set(text)
    assert unpacked(text) == value


def test_coded_columns_decode_to_what_they_were() -> None:
    column = ["a", None, "b", "a"]
    packed = coded(column)
    assert [packed["texts"][code] for code in packed["codes"]] == column


def test_metrics_are_joined_over_attempts_and_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.history.jsonl").write_text(
        '{"step": 1, "data": {"loss": 1.0}}\n{"step": 2, "data": {"loss": 2.0}}\n'
    )
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 2, "data": {"loss": 3.0, "bad": NaN, "text": "x"}}\n[]\n{"step": "x", "data": {}}'
        '\n{"step": 3, "da'
    )
    entries = metric_entries(tmp_path)
    assert entries.by_step == {1: {"loss": 1.0}, 2: {"loss": 3.0}}
    assert [line.partition(":")[0] for line in entries.damaged] == [
        "metrics.jsonl, line 2",
        "metrics.jsonl, line 3",
        "metrics.jsonl, line 4",
    ]


def test_a_metric_is_in_one_chart_line_and_patterns_name_it() -> None:
    groups = chart_groups(["attacker/reward", "game/forfeit", "game/forfeit/too_many_changes"])
    charts = {chart.name: chart for group in groups for chart in group.charts}
    assert {*charts} == {"reward", "forfeits"}
    labels = {series.key: series.label for series in charts["forfeits"].series}
    assert labels == {"game/forfeit": "all", "game/forfeit/too_many_changes": "too many changes"}


def test_an_alarm_stands_from_its_first_step_to_its_last_with_its_reason() -> None:
    raised = {"alarm/one_sided": 1.0, "alarm_value/one_sided": 0.95}
    calm = {"alarm/one_sided": 0.0, "alarm_value/one_sided": 0.5}
    marks = alarm_marks({1: calm, 2: raised, 3: raised, 4: calm, 5: raised}, CONFIG)
    assert [(mark.name, mark.first, mark.last) for mark in marks] == [
        ("one_sided", 2, 3),
        ("one_sided", 5, 5),
    ]
    assert "won 95 %" in marks[0].reason and "alarms.win_rate_high=0.9" in marks[0].reason


def test_configurations_differ_in_all_but_names_and_secrets_stay_hidden() -> None:
    first = {"trainer": {"experiment_name": "a", "lr": 1}, "rollout": {"n": 8}, "same": None}
    second = {"trainer": {"experiment_name": "b", "lr": 2}, "judge": {"x": [1, 2]}, "same": None}
    assert differing_keys(first, second) == [
        ("judge.x", "-", "1, 2"),
        ("rollout.n", "8", "-"),
        ("trainer.lr", "1", "2"),
    ]
    secret = {"a": {"api_key": "k", "api_key_env": "KEY", "tokenizer": "t"}, "b": [{"password": 1}]}
    assert without_secrets(secret) == {
        "a": {"api_key": HIDDEN, "api_key_env": "KEY", "tokenizer": "t"},
        "b": [{"password": HIDDEN}],
    }


def test_accuracy_is_counted_by_error_type_and_against_fixed_opponents() -> None:
    games = [
        vanilla("Harmful", error=True, error_type="diagnosis"),
        vanilla("Safe", error=True, error_type="treatment"),
        vanilla("Safe", error=False, error_type="diagnosis"),
        attacked("safe", error_type="diagnosis"),
    ]
    assert counted("train", games) == {
        "games/train/error_type/diagnosis/accuracy": pytest.approx(2 / 3),
        "games/train/error_type/treatment/accuracy": 0.0,
    }
    assert counted("val", games)["games/val/opponent/gold/balanced_accuracy"] == 0.75


def test_a_damaged_game_costs_one_game_and_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", games=[attacked("right"), vanilla("Safe", error=False)])
    path = run / "games" / "train" / "step_000001.jsonl"
    bad = json.loads(attacked("right").to_json())
    bad["source"] = 7
    with path.open("ab") as stream:
        stream.write(json.dumps(bad).encode() + b'\n\xff\n{}\n{"step": 1, "uid": "ha')
    report = build_report(run, now=NOW)
    assert (report.games, report.shown) == (2, 2)
    places = [note.partition(":")[0] for note in report.runs[0].notes]
    assert places == [f"games/train/step_000001.jsonl, line {n}" for n in (3, 4, 5, 6)]
    assert "not JSON at column 20: " in report.runs[0].notes[3]
    assert "(cut off?)" in report.runs[0].notes[3] and "char" not in report.runs[0].notes[3]
    assert "4 lines could not be read" in report.html


@pytest.mark.parametrize(
    ("metrics", "games", "said"),
    [
        (None, (), ["no metrics.jsonl", "no games in this run", "No step yet"]),
        ({}, (), ["no games in this run", "No step yet"]),
        ({1: {"training/global_step": 1}}, (), ["1 of 4 training steps", "No alarm was raised"]),
        (None, (attacked("right"),), ["no metrics.jsonl", "1 training games"]),
    ],
    ids=["only a configuration", "zero steps", "no games", "no file logger"],
)
def test_a_run_that_has_hardly_begun_has_a_report(
    tmp_path: Path, metrics: Any, games: Any, said: list[str]
) -> None:
    html = build_report(write_run(tmp_path / "run", games=games, metrics=metrics), now=NOW).html
    assert [text for text in said if text not in html] == []


def test_without_metrics_the_steps_are_those_of_the_games(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", games=[attacked("right"), attacked("right", step=2)])
    html = build_report(run, now=NOW).html
    assert "2 of 4 training steps" in html
    assert "of alarms nothing is known" in html and "No alarm was raised" not in html


def test_a_damaged_configuration_is_named_and_the_rest_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", games=[attacked("right")])
    (run / "config.yaml").write_text("a: [")
    report = build_report(run, now=NOW)
    assert report.shown == 1 and report.runs[0].notes[0].startswith("config.yaml: ")


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no such folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(ReportError, match=r"no config\.yaml"):
        read_run(tmp_path)


def test_more_games_than_wished_are_drawn_and_the_page_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", games=[attacked("right", session=i) for i in range(30)])
    report = build_report(run, now=NOW, max_games=10)
    assert (report.games, report.shown) == (30, 10)
    assert "10 of 30 games are shown" in report.html
    assert build_report(run, now=NOW, max_games=10).html == report.html


def test_the_same_id_twice_is_told_apart(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", games=[attacked("right"), attacked("safe")])
    html = build_report(run, now=NOW).html
    columns = unpacked(html.partition('id="columns">')[2].partition("<")[0])["columns"]
    assert columns["id"] == ["train-1-row-0", "train-1-row-0-2"]


def test_untrained_turns_broken_formats_and_forfeits_are_told_in_the_row() -> None:
    plain = game_view(attacked("right")).row
    assert not plain["untrained"] and not plain["broken"]
    game = attacked(None)
    untrained = replace(game, turns=(replace(game.turns[0], trained=False), *game.turns[1:]))
    row = game_view(untrained).row
    assert row["untrained"] and row["broken"]
    row = game_view(forfeited()).row
    assert (row["forfeit"], row["assessor"], row["attacker"]) == ("unchanged", None, -1.0)
    # A note that breaks a rule of the game was written in the right format.
    assert not row["broken"]


def test_figures_are_whole_pictures_of_each_group(tmp_path: Path) -> None:
    metrics = {
        step: {"training/global_step": step, "attacker/reward": 0.1 * step, "timing_s/$x_y": 1.0}
        for step in (1, 2, 3)
    }
    run = write_run(tmp_path / "run", metrics=metrics)
    report = build_report(run, now=NOW)
    written = write_figures(report.runs, report.groups, tmp_path / "out", ["png", "pdf"])
    assert {path.name for path in written} == {
        f"curves_{group}.{form}" for group in ("rewards", "time") for form in ("png", "pdf")
    }
    assert all(path.read_bytes()[:4] in (b"\x89PNG", b"%PDF") for path in written)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in written}


@pytest.mark.parametrize("trainer", ["foo", [1], {"total_training_steps": "ten"}, None])
def test_a_configuration_of_another_kind_costs_its_facts_only(tmp_path: Path, trainer: Any) -> None:
    run = write_run(tmp_path / "run", games=[attacked("right")], config={"trainer": trainer})
    assert build_report(run, now=NOW).runs[0].planned_steps is None
    assert progress(RunFollower(run).poll(), 0.0).planned is None


@pytest.mark.parametrize(
    "key",
    [
        "HF_TOKEN",
        "token",
        "aws_secret_access_key",
        "clientSecret",
        "wandbApiKey",
        "WANDB_API_KEY",
        "access_token",
        "db_password",
        "credentials",
        "Authorization",
        "X-Auth",
        "pwd",
        "db_pass",
    ],
)
def test_a_key_that_names_a_secret_hides_its_value(key: str) -> None:
    assert without_secrets({"a": {key: "s3cret"}}) == {"a": {key: HIDDEN}}
    assert without_secrets({key: ["s3cret", {"user": "s3cret"}]}) == {
        key: [HIDDEN, {"user": HIDDEN}]
    }


@pytest.mark.parametrize(
    "key",
    ["pad_token", "eos_token", "ppo_max_token_len_per_gpu", "prompt_tokens", "api_key_env", "key"],
)
def test_a_key_that_names_no_secret_is_shown(key: str) -> None:
    assert without_secrets({key: "shown"}) == {key: "shown"}


def test_environment_variables_are_hidden_unless_known_and_addresses_lose_their_users() -> None:
    shown = without_secrets(
        {
            "env_vars": {"OMP_NUM_THREADS": "2", "VERL_PLATFORM": "cpu", "MY_THING": "s3cret"},
            "urls": ["http://u:p@ss@host:80/v1?api_key=s3cret&n=1", "a@b"],
        }
    )
    assert shown == {
        "env_vars": {"OMP_NUM_THREADS": "2", "VERL_PLATFORM": "cpu", "MY_THING": HIDDEN},
        "urls": [f"http://host:80/v1?api_key={HIDDEN}&n=1", "a@b"],
    }


def test_secrets_in_overrides_and_commands_are_hidden() -> None:
    assert without_secrets(
        [
            "judge.api_key=s3cret",
            "+judge.token=s3cret",
            "serve --api-key s3cret --port 80",
            "tokenizer.pad_token=<pad>",
            "the auth server",
        ]
    ) == [
        f"judge.api_key={HIDDEN}",
        f"+judge.token={HIDDEN}",
        f"serve --api-key {HIDDEN} --port 80",
        "tokenizer.pad_token=<pad>",
        "the auth server",
    ]


def test_pictures_name_their_alarms_and_whose_they_are(tmp_path: Path) -> None:
    alarm = {"alarm/one_sided": 1.0, "alarm_value/one_sided": 0.95}
    metrics = {step: {"training/global_step": step, **alarm} for step in (1, 2)}
    first = write_run(tmp_path / "a$b", metrics=metrics)
    alone = build_report(first, now=NOW)
    assert alarm_caption(alone.runs) == "red: alarms: one_sided (step 1 to 2)"
    calm = write_run(tmp_path / "calm", metrics={1: {"training/global_step": 1}})
    compared = build_report(calm, now=NOW, compare=first)
    caption = alarm_caption(compared.runs)
    assert "the second run's dashed: one_sided (step 1 to 2, a run (" in caption
    assert "a$b" in caption.replace("\n", "")
    assert write_figures(compared.runs, compared.groups, tmp_path / "out")
    assert alarm_caption(build_report(calm, now=NOW).runs) == ""


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / name, games=[attacked("right")]) for name in "ab")
    report = build_report(first, now=NOW, compare=second)
    assert [run.name for run in report.runs] == [f"a run ({first})", f"a run ({second})"]


def test_validation_is_drawn_however_often_each_row_was_sampled() -> None:
    groups = chart_groups(["val-aux/medec/adversarial_benign/assessor_accuracy/mean@4"])
    assert [chart.series[0].label for chart in groups[0].charts] == ["adversarial benign"]


def test_any_name_of_a_line_can_be_drawn(tmp_path: Path) -> None:
    names = ["\ud800", "x" * 3000, "$x^{_bad", *map(str, range(6))]
    lines = {f"timing_s/{name}": 1.0 for name in names}
    alarms = {f"alarm/{name}": 1.0 for name in names[:3]}
    metrics = {1: {"training/global_step": 1, **lines, **alarms}}
    report = build_report(write_run(tmp_path / "run", metrics=metrics), now=NOW)
    assert [path.name for path in write_figures(report.runs, report.groups, tmp_path)] == [
        "curves_time.png"
    ]
    caption = alarm_caption(report.runs)
    assert "\\ud800" in caption and "\ud800" not in caption and len(caption) < 600
