"""What leads from one part of the page to another: curves, alarms, groups, hits, downloads."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from medical_team.game_record import GameRecord, Labels
from medical_team.report.page import build_report, write_page
from report_reader import KEY, Reader
from report_runs import CLEAN, attacked, left_out, vanilla, write_run

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def rollout(session: int, said: str, **changes: object) -> GameRecord:
    return attacked(said, uid="row-g", session=session, **changes)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps with a group each, and a validation."""
    folder = tmp_path_factory.mktemp("tools")
    games = [
        rollout(0, "right"),
        rollout(1, "safe", note=(*CLEAN[:2], "He is given oxygen.")),
        rollout(2, "right"),
        *(rollout(n, "safe", step=2) for n in range(2)),
        attacked("safe", step=2, uid="sure", labels=Labels(True, (False,), True, "vllm", 0.99)),
        attacked("safe", step=2, uid="unsure", labels=Labels(True, (False,), True, "vllm", 0.52)),
    ]
    metrics = {
        step: {
            "training/global_step": step,
            "attacker/reward": 0.5,
            "val-aux/medec/vanilla_benign/assessor_accuracy/mean@1": 0.5,
            "alarm/one_sided": float(step == 2),
            "alarm_value/one_sided": 0.95,
        }
        for step in (1, 2, 3)
    }
    run = write_run(
        folder / "run",
        games=games,
        val=[vanilla("Safe", error=False, step=2)],
        metrics=metrics,
    )
    write_page(build_report(run, now=NOW), folder / "index.html")
    return folder / "index.html"


def test_a_game_stands_beside_the_other_rollouts_of_its_row(reader: Reader, page: Path) -> None:
    reader.open(page, "view=games").open_game(1)
    cells = reader.all("#game .rollouts tbody tr")
    assert len(cells) == 3
    columns = "return [...document.querySelectorAll('#game .rollouts tr')].map(" \
        "(row) => [...row.children].map((cell) => cell.textContent))"  # fmt: skip
    head, first, second, _ = reader.js(columns)
    assert (first[2], second[2]) == ("He is given penicillin.", "He is given oxygen.")
    assert head[3:7] == ["attacker", "vs mean", "assessor", "vs mean"]
    # Assessors got 1, -1 and 1: the mean is 1/3; the attacker's rewards are the negatives.
    assert first[3:7] == [f"{MINUS}1", f"{MINUS}0.67", "+1", "+0.67"]
    assert second[3:7] == ["+1", "+1.33", f"{MINUS}1", f"{MINUS}1.33"]
    assert reader.all("#game .rollouts tr[aria-current] th") == ["1"]
    reader.js("document.querySelector('#game .rollouts a').click()")
    reader.until(lambda: reader.all("#game .rollouts tr[aria-current] th") == ["0"])
    assert "All rewards" not in reader.text("#game")


def test_a_group_that_teaches_nothing_says_so_and_a_lone_game_has_no_group(
    reader: Reader, page: Path, tmp_path: Path
) -> None:
    reader.open(page, "view=games&from=2&row=row-g").open_game(0)
    assert "All rewards of the attacker and the assessor are equal." in reader.text("#game")
    reader.open(page, "view=games&row=sure").open_game(0)
    assert not reader.all("#game .rollouts")
    # Several assessors of an attack are compared with each other, so that equal means say nothing.
    run = write_run(
        tmp_path / "several",
        games=[attacked("right", "safe", uid="row-g", session=n) for n in range(2)],
    )
    write_page(build_report(run, now=NOW), tmp_path / "several.html")
    reader.open(tmp_path / "several.html", "view=games").open_game(0)
    assert "All rewards of the attacker are equal." in reader.text("#game")
    heads = reader.all("#game .rollouts thead th")
    assert heads == ["rollout", "outcome", "attacker", "vs mean", "assessors, mean"]
    # Of a page that holds only a part of the games nothing is said of what is missing.
    run = write_run(tmp_path / "run", games=[rollout(n, "safe") for n in range(40)])
    write_page(build_report(run, now=NOW, max_games=20), tmp_path / "index.html")
    reader.open(tmp_path / "index.html", "view=games").open_game(0)
    shown = reader.text("#game")
    assert "All rewards" not in shown and "may have been left out" in shown


@pytest.mark.parametrize(
    ("title", "part", "games"),
    [("Reward of both roles", "train", 4), ("Accuracy by game type, forfeits left out", "val", 1)],
)
def test_a_step_of_a_curve_leads_to_its_games(
    reader: Reader, page: Path, title: str, part: str, games: int
) -> None:
    reader.open(page, "view=curves")
    plot = "[...document.querySelectorAll('.chart')].find((n) => n.querySelector('h4')" \
        ".textContent.startsWith(arguments[0])).querySelector('.plot')"  # fmt: skip
    reader.until(lambda: reader.js("return document.querySelector('.plot') !== null"))
    reader.js(f"{plot}.scrollIntoView(); {plot}.focus()", title)
    reader.until(lambda: reader.js(f"return {plot}.querySelector('svg') !== null", title))
    reader.press(KEY["right"], KEY["right"], KEY["enter"])
    reader.until(lambda: "view=games" in reader.address())
    assert f"part={part}" in reader.address() and "from=2&to=2" in reader.address()
    assert reader.count() == games
    reader.driver.back()
    reader.until(lambda: reader.js("return document.querySelector('#curves.current') !== null"))
    # By mouse, too; but not where no game was logged.
    click = f"""
      const svg = {plot}.querySelector('svg'), box = svg.getBoundingClientRect();
      const at = {{ clientX: box.left + box.width * arguments[1], bubbles: true }};
      svg.dispatchEvent(new PointerEvent('pointermove', at));
      svg.dispatchEvent(new PointerEvent('click', {{ ...at, pointerType: 'mouse' }}));"""
    reader.js(click, title, 0.99)
    assert "view=games" not in reader.address()
    reader.js(click, title, 0.5)
    assert f"part={part}" in reader.address()


def test_a_game_belongs_to_the_step_that_trained_it(reader: Reader, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", games=[attacked("right", step=3)])
    folder = run / "games/train"
    (folder / "step_000003.jsonl").rename(folder / "step_000005.jsonl")
    write_page(build_report(run, now=NOW), tmp_path / "index.html")
    reader.open(tmp_path / "index.html", "view=games&from=5&to=5")
    assert reader.count() == 1
    reader.open_game(0)
    assert "training, step 5, started for step 3" in reader.text("#game .crumbs")


def test_an_alarm_leads_to_the_games_of_its_steps(reader: Reader, page: Path) -> None:
    reader.open(page)
    reader.js("document.querySelector('.alarmed a').click()")
    reader.until(lambda: reader.js("return document.querySelector('#games.current') !== null"))
    assert reader.count() == 4


def test_hits_are_gone_through_and_unfolded(reader: Reader, page: Path) -> None:
    reader.open(page, "view=games&q=penicillin").open_game(0)
    hits = reader.js("return document.querySelectorAll('#game mark').length")
    assert hits > 2
    reader.js("document.getElementById('game').focus()")
    reader.press("n")
    assert reader.text("#hits") == f"hit 1 of {hits}"
    assert reader.all("mark.here") == ["penicillin"]
    reader.press("NN")
    assert reader.text("#hits") == f"hit {hits - 1} of {hits}"
    assert reader.js("""
      const box = document.querySelector('mark.here').closest('details');
      return box === null || box.open""")
    # What stands in the response alone is seen without unfolding.
    reader.open(page, "view=games&q=%3C/answer%3E").open_game(0)
    folded = "return [...document.querySelectorAll('#game mark')].filter((n) => " \
        "n.closest('details:not([open])')).length"  # fmt: skip
    assert reader.all("#game mark") and reader.js(folded) == 0


def test_what_the_filters_leave_can_be_downloaded_as_it_was_logged(
    reader: Reader, page: Path, tmp_path: Path
) -> None:
    reader.driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    reader.open(page, "view=games&part=train&to=1")
    assert reader.count() == 3
    reader.js("document.getElementById('download').click()")
    file = tmp_path / "games.jsonl"
    reader.until(lambda: file.exists() and file.read_text().count("\n") == 3)
    log = (page.parent / "run/games/train/step_000001.jsonl").read_text().splitlines()
    for line, logged in zip(file.read_text().splitlines(), log, strict=True):
        found = json.loads(line)
        assert found == json.loads(logged)
        assert GameRecord.from_json(line) == GameRecord.from_json(logged)
    assert reader.troubles() == []


def test_the_judges_doubts_come_first_where_asked(reader: Reader, page: Path) -> None:
    reader.open(page, "view=games&part=train&from=2&sort=unsure").open_game(0)
    assert "unsure" in reader.text("#game .crumbs")


def test_games_without_a_verdict_are_there_with_the_reason(reader: Reader, tmp_path: Path) -> None:
    reason = "the prompt has <b>9000</b> tokens"
    metrics = {1: {"training/global_step": 1, "attacker/reward": 0.5, "judge/unscored": 3}}
    run = write_run(
        tmp_path / "run",
        games=[rollout(0, "right")],
        unscored=[left_out(reason, uid="row-g", session=1), left_out("odd", uid="row-h")],
        metrics=metrics,
    )
    write_page(build_report(run, now=NOW), tmp_path / "index.html")
    reader.open(tmp_path / "index.html")
    assert "1 training games" in reader.text("#overview .lede")
    assert "1 unscored game is in no log" in reader.text("#overview .lede")
    reader.js("document.querySelector('#overview .lede a').click()")
    reader.until(lambda: reader.js("return document.querySelector('#games.current') !== null"))
    assert reader.count() == 2
    assert reader.filter(q="9000") == 1
    reader.open_game(0)
    assert reader.all("#game mark") == ["9000"]
    shown = reader.text("#game")
    assert reason in shown and "No verdict" in shown and "not trained" in shown
    assert "reward" not in reader.text("#game .turn")
    assert not [flag for flag in reader.all("#game .flag") if "✗" in flag]
    # It is one of the rollouts of its row, and counts in no mean.
    rows = "return [...document.querySelectorAll('#game .rollouts tbody tr')].map(" \
        "(row) => [...row.children].slice(-4).map((cell) => cell.textContent))"  # fmt: skip
    assert reader.js(rows) == [[f"{MINUS}1", NONE, "+1", NONE], [NONE] * 4]
    assert "All rewards" not in shown
    # A step of such games alone is no step of the run.
    write_run(tmp_path / "run", unscored=[left_out("odd", step=7)])
    assert 7 not in build_report(run, now=NOW).runs[0].by_step


def validated(said: str, step: int, case: str, **changes: object) -> GameRecord:
    return vanilla(said, error=False, step=step, case_id=case, **changes)


def test_notes_that_a_validation_got_right_and_another_wrong_are_found(
    reader: Reader, tmp_path: Path
) -> None:
    good, bad = "Safe", "Harmful"
    said = {"kept": (good, good), "won": (bad, good), "lost": (good, bad)}
    val = [validated(one[n], 8 * n, case) for n in (0, 1) for case, one in said.items()]
    # Two notes that cannot be told apart, and an attack, which is another note each time.
    val += [validated(one, 8 * n, "twice") for n, one in enumerate((good, bad)) for _ in range(2)]
    val += [attacked(one, step=8 * n, uid="f") for n, one in enumerate(("right", "safe"))]
    first = write_run(tmp_path / "first", val=val)
    second = write_run(
        tmp_path / "second", val=[validated(bad, 8, "kept"), validated(bad, 8, "lost")]
    )
    write_page(build_report(first, now=NOW, compare=second), tmp_path / "index.html")
    for only, run, expected in (
        ("gained", "", ["won"]),
        ("lost", "", ["lost"]),
        ("better", "0", ["kept"]),
        ("worse", "1", ["kept"]),
        ("better", "1", []),
    ):
        reader.open(tmp_path / "index.html", f"view=games&only={only}&run={run}")
        assert reader.count() == len(expected), only
        for place, case in enumerate(expected):
            reader.open_game(place)
            assert f"case {case}" in reader.text("#game .crumbs")
            assert "step 8" in reader.text("#game .crumbs")
    write_page(build_report(first, now=NOW), tmp_path / "alone.html")
    reader.open(tmp_path / "alone.html", "view=games")
    assert not [one for one in reader.all("#filter-only option") if "other run" in one]


def test_reasoning_is_printed(reader: Reader, page: Path) -> None:
    reader.open(page, "view=games").open_game(0)
    opened = "return document.querySelectorAll('#game details.reasoning[open]').length"
    assert reader.js(opened) == 0
    reader.driver.execute_cdp_cmd("Page.printToPDF", {})
    assert reader.js(opened) == 2


def test_a_search_of_more_text_than_is_kept_finds_the_same(reader: Reader, tmp_path: Path) -> None:
    games = [
        replace(attacked("right", uid=f"{n:04d}"), source=("x" * 400_000, f"word{n % 2}"))
        for n in range(300)
    ]
    run = write_run(tmp_path / "run", games=games)
    write_page(build_report(run, now=NOW), tmp_path / "index.html")
    reader.open(tmp_path / "index.html", "view=games")
    for _ in range(2):
        assert reader.filter(q="word1") == 150
        assert reader.filter(q="word0 penicillin") == 150
