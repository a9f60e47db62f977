"""The report in a real Chromium, used as a person would: by mouse, keyboard and address."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from medical_team.game_record import GameRecord, Labels
from medical_team.medical_game_manager import Role
from medical_team.report.game_view import game_view
from medical_team.report.page import build_report, write_page
from report_reader import KEY, Reader
from report_runs import CONFIG, attacked, forfeited, vanilla, write_run

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
LONG = "pneumo" * 300
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><img src=x onerror='window.hacked = 2'>",
    f"\u202eevil \u2028 \u2029 \u200b ٱلْمَرِيض {LONG} {{{{ 7*7 }}}} <!-- &amp; \ud800",
)


def some_games() -> list[GameRecord]:
    fresh = attacked("right", "safe", "elsewhere", case_id="case-k", uid="many-assessors")
    attack = game_view(fresh).row["attack"]
    return [
        fresh,
        untrained(vanilla("Harmful", error=True, error_type="treatment", uid="row-1")),
        vanilla("Harmful", error=False, error_type="management", uid="row-2"),
        forfeited(step=2, uid="row-3"),
        attacked("safe", step=2, uid="row-4", labels=Labels(None, (None,), None, "vllm")),
        attacked(None, step=2, uid="row-5"),
        archived(attack),
    ]


def untrained(game: GameRecord) -> GameRecord:
    return replace(game, turns=tuple(replace(turn, trained=False) for turn in game.turns))


def archived(attack: str) -> GameRecord:
    game = attacked("safe", step=3, uid="row-6", case_id="case-k", source="archive")
    return replace(game, opponent="archive", attack_id=attack, turns=game.turns[1:])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with one game of each kind, and curves with an alarm."""
    folder = tmp_path_factory.mktemp("page")
    metrics = {
        step: {
            "training/global_step": step,
            "attacker/reward": 0.1 * step,
            "assessor/reward": -0.1 * step,
            "alarm/one_sided": float(step == 2),
            "alarm_value/one_sided": 0.95,
            "our/own": 5.0,
        }
        for step in (1, 2, 3)
    }
    run = write_run(
        folder / "run",
        games=some_games(),
        val=[vanilla("Safe", error=False, step=0), vanilla("Safe", error=False, step=2)],
        metrics=metrics,
    )
    write_page(build_report(run, now=NOW), folder / "index.html")
    return folder / "index.html"


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    game = attacked("right", case_id=HOSTILE[0], error_type=HOSTILE[1], source=HOSTILE[0])
    data = json.loads(game.to_json())
    data["source"] = [HOSTILE[0], *HOSTILE[1:]]
    data["note"] = [HOSTILE[0], HOSTILE[1], f"{HOSTILE[2]} more"]
    for turn in data["turns"]:
        turn |= {"reasoning": HOSTILE[2], "response": HOSTILE[1], "prompt": HOSTILE[0]}
        turn |= {"correction": HOSTILE[0]} if turn["role"] == Role.ASSESSOR else {}
    run = write_run(
        folder / "run",
        metrics={1: {"training/global_step": 1, HOSTILE[1]: 1.0, f"timing_s/{HOSTILE[0]}": 2.0}},
        config={**CONFIG, "trainer": {"experiment_name": HOSTILE[1]}},
    )
    path = run / "games" / "train" / "step_000001.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(f"{json.dumps(data)}\n{HOSTILE[0]}\n", encoding="utf-8")
    write_page(build_report(run, now=NOW), folder / "index.html")
    return folder / "index.html"


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({}, 9),
        ({"part": "val"}, 2),
        ({"from": "2"}, 5),
        ({"to": "1"}, 4),
        ({"from": "2", "to": "2", "part": "train"}, 3),
        ({"type": "vanilla_benign"}, 3),
        ({"error": "management"}, 1),
        ({"outcome": "found"}, 2),
        ({"outcome": "missed"}, 2),
        ({"outcome": "wrong sentence"}, 1),
        ({"outcome": "false alarm"}, 1),
        ({"outcome": "passed"}, 2),
        ({"outcome": "undecided"}, 1),
        ({"outcome": "broken format"}, 1),
        ({"outcome": "forfeit"}, 1),
        ({"opponent": "archive"}, 1),
        ({"min": "0.5"}, 3),
        ({"max": "-0.5"}, 4),
        ({"role": "attacker", "max": "-0.5"}, 1),
        ({"only": "truth"}, 4),
        ({"only": "gold"}, 4),
        ({"only": "archived"}, 1),
        ({"only": "attacked"}, 3),
        ({"only": "forfeit"}, 1),
        ({"only": "undecided"}, 1),
        ({"only": "clean"}, 3),
        ({"only": "judged"}, 3),
        ({"only": "broken"}, 1),
        ({"only": "untrained"}, 1),
        ({"q": "penicillin"}, 5),
        ({"q": "PENICILLIN hide"}, 3),
        ({"q": '"given azithromycin"'}, 8),
        ({"q": "many-assessors"}, 1),
        ({"q": "penicillin", "outcome": "forfeit"}, 0),
    ],
    ids=str,
)
def test_filters_leave_the_games_that_pass(
    reader: Reader, page: Path, values: dict[str, str], left: int
) -> None:
    reader.open(page, "view=games")
    assert reader.filter(**values) == left
    assert len(reader.all(".row")) == left
    # The address holds the filters: opened anew, it leaves the same games.
    target = reader.js("return location.hash.slice(1)")
    reader.open(page, target)
    assert reader.count() == left


@pytest.mark.parametrize(("target", "left"), [("case=case-k", 2), ("row=row-1", 1)])
def test_a_link_to_related_games_filters_until_it_is_taken_away(
    reader: Reader, page: Path, target: str, left: int
) -> None:
    reader.open(page, target)
    assert reader.count() == left
    reader.js("document.querySelector('#count button').click()")
    assert reader.count() == 9


@pytest.mark.parametrize(
    ("order", "place", "game"),
    [
        ("played", 0, "many-ass"),
        ("latest", 0, "row-6"),
        ("assessor", 0, "row-2"),
        ("attacker", 0, "row-4"),
        ("tokens", 0, "many-ass"),
        ("seconds", 0, "many-ass"),
        ("case", 1, "row-6"),  # the case of the first game
    ],
)
def test_the_order_can_be_chosen(
    reader: Reader, page: Path, order: str, place: int, game: str
) -> None:
    reader.open(page, f"view=games&sort={order}").open_game(place)
    assert f"-{game}-" in reader.text("#game .crumbs")


def test_a_game_shows_notes_turns_labels_and_costs(reader: Reader, page: Path) -> None:
    reader.open(page, "view=games").open_game(0)
    assert reader.all("#game .note del") == ["removed: azithromycin end of removed "]
    assert "added: penicillin end of added " in reader.all("#game .note ins")
    assert reader.all("#game .turn h3")[0].startswith("Attacker")
    assert [head[:15] for head in reader.all("#game .turn h3")[1:]] == [
        f"Assessor {n} of 3" for n in (1, 2, 3)
    ]
    flags = reader.all("#game .flag")
    assert "the error is here" in flags
    assert "✓ assessor 1 points here" in flags and "✗ assessor 3 points here" in flags
    labels = reader.text("#game .labels")
    assert "0.910" in labels and "0.800" in labels and "0.700" in labels
    assert "by the judge reference" in reader.text("#game")
    assert "batch of 4" in reader.text("#game") and "2 response tokens" in reader.text("#game")


def test_forfeits_gold_and_archived_games_say_what_they_are(reader: Reader, page: Path) -> None:
    reader.open(page, "view=games").open_game(3)
    shown = reader.text("#game")
    assert "Forfeit" in shown and "unchanged" in shown and "no assessor read it" in shown
    reader.open(page, "view=games").open_game(1)
    shown = reader.text("#game")
    assert "no attacker" in shown and "by gold" in shown
    reader.open(page, "view=games&opponent=archive").open_game(0)
    shown = reader.text("#game")
    assert (
        "Archived attack" in shown and "kept from the game in which the attack was written" in shown
    )
    link = "the game in which step 1 wrote this attack"
    assert link in reader.all("#game .related a")
    reader.js("document.querySelector('#game .related a').click()")
    reader.until(lambda: "assessor 1 points here" in reader.text("#game"))


def test_folds_start_closed_and_open_one_by_one_or_all(reader: Reader, page: Path) -> None:
    reader.open(page, "view=games").open_game(0)
    opened = "return document.querySelectorAll('#game details[open]').length"
    folds = reader.js("return document.querySelectorAll('#game details').length")
    assert reader.js(opened) == 0
    reader.js("document.querySelector('#game summary').click()")
    assert reader.js(opened) == 1
    reader.js("document.querySelector('#game').focus()")
    reader.press("e")
    assert reader.js(opened) == folds
    reader.press("e")
    assert reader.js(opened) == 0


def test_a_link_leads_to_its_game_and_back_leads_back(reader: Reader, page: Path) -> None:
    reader.open(page, "game=train-1-row-1-0")
    reader.until(lambda: "train-1-row-1-0" in reader.text("#game"))
    reader.open(page, "view=games&outcome=found").open_game(0)
    assert "outcome=found" in reader.address() and "game=" in reader.address()
    reader.driver.back()
    reader.until(lambda: "game=" not in reader.address())
    reader.until(lambda: "Choose a game" in reader.text("#game"))
    assert reader.count() == 2
    reader.open(page, "game=absent")
    reader.until(lambda: "No game absent" in reader.text("#count"))


def test_everything_works_by_keyboard(reader: Reader, page: Path) -> None:
    reader.open(page)
    reader.press("3")
    reader.until(lambda: reader.js("return document.querySelector('.row') !== null"))
    reader.press("j", KEY["enter"])
    reader.until(lambda: "Game" not in reader.text("#game") and reader.all("#game h2"))
    assert reader.all("#game .crumbs")[0].endswith("train-1-row-1-0")
    reader.press("j")
    reader.until(lambda: reader.text("#game .crumbs").endswith("train-1-row-2-0"))
    reader.press("k")
    reader.until(lambda: reader.text("#game .crumbs").endswith("train-1-row-1-0"))
    reader.press(KEY["escape"])
    reader.until(lambda: "Choose a game" in reader.text("#game"))
    reader.press("/")
    assert reader.js("return document.activeElement.id") == "filter-q"
    reader.press("penicillin j")
    assert reader.address().endswith("q=penicillin+j")
    reader.press(KEY["escape"])
    assert reader.js("return document.activeElement.id") == "list"
    reader.press("x")
    assert reader.count() == 9
    reader.press("?")
    assert reader.js("return document.getElementById('help').open")
    reader.press(KEY["escape"])
    assert not reader.js("return document.getElementById('help').open")


def test_the_focus_can_be_seen_and_parts_are_named(reader: Reader, page: Path) -> None:
    reader.open(page, "view=games")
    reader.press(KEY["tab"])
    reader.press(KEY["tab"])
    style = "return getComputedStyle(document.activeElement).outlineStyle"
    assert reader.js(style) == "solid"
    assert reader.js("return document.getElementById('list').getAttribute('role')") == "listbox"
    unnamed = """
      return [...document.querySelectorAll('button, input, select, a')].filter((n) =>
        !(n.textContent.trim() || n.getAttribute('aria-label') || n.labels?.length)).length"""
    assert reader.js(unnamed) == 0


def test_curves_are_drawn_read_out_and_marked_with_alarms(reader: Reader, page: Path) -> None:
    reader.open(page, "view=curves")
    reader.until(lambda: reader.js("return document.querySelector('.plot path.line') !== null"))
    titles = reader.all(".chart h4")
    assert "Reward of both roles" in titles and "Accuracy by error type" in titles
    assert "one sided" in reader.text(".alarm-sign title")
    reader.js("document.querySelector('.plot').focus()")
    reader.press(KEY["right"], KEY["right"])
    assert reader.text(".at").startswith("step 2") and "alarm one sided" in reader.text(".at")
    assert reader.all(".legend output")[:2] == ["0.2", "-0.2"]
    lines = "return document.querySelector('.plot').querySelectorAll('path.line').length"
    assert reader.js(lines) == 2
    reader.js("document.querySelector('.legend button').click()")
    assert reader.js(lines) == 1
    reader.js("document.querySelector('.legend button').click()")
    reader.js("document.querySelector('.chart details summary').click()")
    reader.until(lambda: reader.all(".chart tbody tr"))
    assert reader.all(".chart tbody tr")[0] == "10.1-0.1"
    assert "our/own" in reader.all("#any-metric option")


@pytest.mark.parametrize("target", ["view=games", "game=train-1-row-0", "view=curves", ""])
def test_hostile_text_is_shown_and_not_run(reader: Reader, hostile_page: Path, target: str) -> None:
    reader.open(hostile_page, target)
    if target.startswith("game"):
        reader.until(lambda: reader.all("#game .turn"))
        reader.press("e")
        reader.js("for (const one of document.querySelectorAll('#game details')) one.open = true")
        shown = reader.text("#game")
        assert HOSTILE[0] in shown and HOSTILE[1] in shown
        assert "U+202E" in shown and "U+2028" in shown and "U+D800" in shown
        assert "\u202e" not in shown and "{{ 7*7 }}" in shown
    elif target == "":
        assert HOSTILE[1] in reader.text("h1")
        assert "1 line could not be read" in reader.text("#overview")
    else:
        reader.until(lambda: reader.all(".row" if "games" in target else ".plot svg"))
    time.sleep(0.2)
    assert reader.js("return window.hacked") is None
    assert reader.js("return document.querySelectorAll('main img, main script').length") == 0
    assert reader.troubles() == []


def test_the_policy_forbids_scripts_that_slip_through(reader: Reader, page: Path) -> None:
    reader.open(page)
    slipped = """
      const node = document.createElement('script');
      try { node.textContent = 'window.hacked = 3'; document.body.append(node); } catch {}
      try { document.body.innerHTML = '<img src=x onerror="window.hacked = 4">'; } catch {}"""
    reader.js(slipped)
    time.sleep(0.2)
    assert reader.js("return window.hacked") is None
    reader.troubles()  # the browser says what it refused


@pytest.mark.parametrize(
    "target", ["view=overview", "view=curves", "view=games", "game=train-1-row-0", "view=config"]
)
@pytest.mark.parametrize("text", ["plain", "hostile"])
def test_a_narrow_window_scrolls_down_only(
    reader: Reader, page: Path, hostile_page: Path, target: str, text: str
) -> None:
    if text == "plain":
        target = target.replace("train-1-row-0", "train-1-many-ass-0")
    reader.open(hostile_page if text == "hostile" else page, target)
    reader.resize(400, 800)
    if target.startswith("game"):
        reader.until(lambda: reader.all("#game .turn"))
        assert reader.js("return document.getElementById('list').offsetParent") is None
    time.sleep(0.2)
    assert reader.js("return document.documentElement.scrollWidth") <= 400
    heights = """return [...document.querySelectorAll('.top nav a')].map((link) => {
      const style = getComputedStyle(link);
      return (link.clientHeight - 2 * parseFloat(style.paddingTop)) / parseFloat(style.lineHeight)
    })"""
    assert all(lines < 1.5 for lines in reader.js(heights))
    reader.resize(1280, 900)


def test_the_notes_follow_the_width_of_the_window(reader: Reader, page: Path) -> None:
    shown = """
      return [...document.querySelectorAll('#game .note .sentence')].filter((n) => n.offsetWidth)
        .map((n) => n.querySelector('.n').textContent).join('')"""
    reader.open(page, "view=games").open_game(0)
    for width, expected in ((1280, "001122"), (400, "0122"), (1280, "001122")):
        reader.resize(width, 900)
        reader.until(lambda expected=expected: reader.js(shown) == expected)
    left = "return document.querySelectorAll('#game .note > .sentence')[4].textContent"
    assert "azithromycin" in reader.js(left)


def test_charts_fit_a_width_that_changed_out_of_their_sight(reader: Reader, page: Path) -> None:
    reader.open(page, "view=curves")
    reader.until(lambda: reader.all(".plot svg"))
    reader.js("location.hash = 'view=overview'")
    reader.until(lambda: reader.js("return document.querySelector('#overview.current') !== null"))
    reader.resize(400, 900)
    reader.js("location.hash = 'view=curves'")
    reader.until(lambda: reader.js("return document.querySelector('#curves.current') !== null"))
    width = "return document.querySelector('.plot svg').viewBox.baseVal.width"
    reader.until(lambda: reader.js(width) < 400)
    reader.js("""const find = document.getElementById('find-metric');
      find.value = 'zzzz'; find.dispatchEvent(new Event('input'));""")
    assert not reader.js("return document.getElementById('no-chart').hidden")


def test_dark_mode_is_dark_and_light_mode_light(reader: Reader, page: Path) -> None:
    reader.open(page, "view=games")
    shade = """
      const of = (name) => getComputedStyle(document.body)[name].match(/\\d+/g).map(Number);
      const light = ([r, g, b]) => (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
      return [light(of('backgroundColor')), light(of('color'))]"""
    back, ink = reader.js(shade)
    assert back > 0.9 and ink < 0.2
    reader.dark(True)
    back, ink = reader.js(shade)
    assert back < 0.15 and ink > 0.8
    reader.dark(False)


@pytest.mark.parametrize("target", ["view=games", "game=train-1-row-1-0"])
def test_it_prints_the_curves_and_the_game_or_the_list(
    reader: Reader, page: Path, target: str
) -> None:
    reader.open(page, target)
    if target.startswith("game"):
        reader.until(lambda: reader.all("#game .turn"))
    reader.until(lambda: reader.all(".plot"))
    printed = reader.driver.execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert len(base64.b64decode(printed)) > 20_000
    rows = reader.all("#printed tbody tr")
    assert len(rows) == (0 if target.startswith("game") else 9)
    plots = reader.js("return document.querySelectorAll('.plot').length")
    assert plots == reader.js("return document.querySelectorAll('.plot svg').length") > 0


def test_two_runs_are_compared_on_the_same_axes(reader: Reader, tmp_path: Path) -> None:
    reward = {step: {"training/global_step": step, "attacker/reward": 0.1} for step in (1, 2)}
    first = write_run(tmp_path / "a", games=[attacked("right")], metrics=reward)
    other = {**CONFIG, "algorithm": {"adv_estimator": "rae"}}
    second = write_run(tmp_path / "b", games=[attacked("safe")], metrics=reward, config=other)
    write_page(build_report(first, now=NOW, compare=second), tmp_path / "index.html")
    reader.open(tmp_path / "index.html")
    assert "algorithm.adv_estimatorrole_grporae" in "".join(
        reader.all("#overview table.keys td, #overview table.keys th")
    )
    reader.open(tmp_path / "index.html", "view=curves")
    reader.until(lambda: reader.all(".plot svg"))
    dashes = """
      return [...document.querySelector('.plot').querySelectorAll('path.line')].map(
        (n) => n.getAttribute('stroke-dasharray'))"""
    assert reader.js(dashes) == [None, "6 4"]
    reader.open(tmp_path / "index.html", "view=games")
    assert reader.filter(run="1") == 1
    assert "missed" in reader.all(".row")[0]


def test_only_the_rows_in_view_are_in_the_document(reader: Reader, tmp_path: Path) -> None:
    games = [attacked("right", step=1 + i // 500, session=i) for i in range(3000)]
    run = write_run(tmp_path / "run", games=games)
    write_page(build_report(run, now=NOW), tmp_path / "index.html")
    reader.open(tmp_path / "index.html", "view=games")
    assert reader.count() == 3000 and len(reader.all(".row")) < 60
    reader.js("document.getElementById('list').focus()")
    reader.press("\ue010")  # End
    reader.until(lambda: reader.js("return document.getElementById('row-2999') !== null"))
    assert len(reader.all(".row")) < 60
    assert reader.troubles() == []
