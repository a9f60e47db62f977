"""How long a report takes to open, beside a plain page of the same games.

Both pages hold the same games, whole: full prompts, notes, reasoning, answers, labels, rewards. The
cases are the sample clinic's, or those of a MEDEC file (``--data``); the reasoning is of words that
are drawn from all notes, as many as ``--words`` says, which packs worse than a model's. Ours draws
the rows in view and unpacks a game when it is opened; the plain page is what a logger writes that
renders every game at once, each folded in a <details>. Both are opened in turns by a headless
Chromium, from a file, and the median counts.

"Open" is the time from the start of the navigation until the list of games is drawn: the page has
loaded, its scripts have run and two frames have passed. "Game" is the time from the click on a game
until its notes are drawn, "search" until a search of all texts has ended (Ctrl-F in the plain page
is not measured). "Frames" is the longest time between two frames while the list is scrolled.

The last line, ``ratio: X``, is the plain page's time to open over ours.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headless_chromium import chromium, missing_browser
from jinja2 import Environment
from rich.console import Console
from rich.table import Table
from selenium.webdriver import Chrome

from medical_team.atomic_files import replacing
from medical_team.game_record import GameRecord, JudgeCost, Labels, TurnRecord
from medical_team.medec import Case, read_medec
from medical_team.medical_game_manager import GameType, Role
from medical_team.prompts import AttackMode, PromptStyle, assessor_messages, attacker_messages
from medical_team.report.page import build_report, write_page

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data/sample/train.csv"
QUICK_GAMES = 500
GAMES_A_STEP = 256
ROLLOUTS = 8
_PATIENCE_S = 1200  # the plain page of many games takes minutes

PLAIN = """<!doctype html><meta charset="utf-8"><title>games</title><body>
{% for game in games %}<details>
<summary>step {{ game.step }}, {{ game.game_type }}, {{ game.error_type }}</summary>
<ol start="0">{% for text in game.source %}<li>{{ text }}</li>{% endfor %}</ol>
<ol start="0">{% for text in game.note %}<li>{{ text }}</li>{% endfor %}</ol>
{% for turn in game.turns %}<h4>{{ turn.role }}: {{ turn.outcome }}, {{ turn.reward }}</h4>
<details><summary>prompt</summary><pre>{{ turn.prompt }}</pre></details>
<details><summary>reasoning</summary><pre>{{ turn.reasoning }}</pre></details>
<pre>{{ turn.response }}</pre><p>{{ turn.response_tokens }} tokens, {{ turn.seconds }} s</p>
{% endfor %}
<p>{{ game.labels }}</p></details>
{% endfor %}"""

OPENED = """
const done = arguments[0];
const frames = (n) => {
  if (n) requestAnimationFrame(() => frames(n - 1)); else done(performance.now());
};
const wait = () => {
  const drawn = !document.querySelector('#rows') || document.querySelector('.row');
  if (drawn) frames(2); else requestAnimationFrame(wait);
};
wait();"""
GAME = """
const done = arguments[0], start = performance.now();
document.querySelectorAll('.row')[3].click();
const wait = () => {
  const there = document.querySelector('#game .sentence');
  if (there) done(performance.now() - start); else requestAnimationFrame(wait);
};
wait();"""
SEARCH = """
const done = arguments[0], start = performance.now();
const field = document.getElementById('filter-q');
field.value = 'surely not a word of any note';
field.dispatchEvent(new Event('input', { bubbles: true }));
const wait = () => {
  const told = document.getElementById('count').textContent;
  const ended = told.startsWith('0 of') && !told.includes('searching');
  if (ended) done(performance.now() - start); else requestAnimationFrame(wait);
};
wait();"""
SCROLL = """
const done = arguments[0], list = document.getElementById('list') ?? document.scrollingElement;
let last = performance.now(), worst = 0, n = 0;
const step = (now) => {
  if (n > 1) worst = Math.max(worst, now - last);
  last = now;
  list.scrollTop += 400;
  if (++n < 60) requestAnimationFrame(step); else done(worst);
};
requestAnimationFrame(step);"""


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_GAMES} games, opened once")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--games", type=int, default=20_000, help="number of games")
    parser.add_argument("--data", type=Path, default=SAMPLE, help="MEDEC file with the cases")
    parser.add_argument("--words", type=int, default=60, help="words of each turn's reasoning")
    parser.add_argument("--repeats", type=int, default=3, help="how often each page is opened")
    args = parser.parse_args()
    if missing := missing_browser():
        print(f"error: {missing}", file=sys.stderr)
        return 2
    if args.games < 10 or args.repeats < 1 or args.words < 1:
        parser.error("--games must be at least 10, --repeats and --words at least 1")
    count = QUICK_GAMES if args.quick else args.games
    with tempfile.TemporaryDirectory() as folder:
        pages = write_pages(Path(folder), some_games(count, args.data, args.words))
        figures = measure(pages, 1 if args.quick else args.repeats)
    show(figures, count)
    ratio = figures["plain"]["open"] / figures["ours"]["open"]
    if args.json:
        with replacing(args.json) as stream:
            settings = {"games": count, "data": args.data.name, "words": args.words}
            json.dump({**settings, "figures": figures, "ratio": ratio}, stream, indent=2)
    print(f"ratio: {ratio:.2f}")
    return 0


def write_pages(folder: Path, games: list[GameRecord]) -> dict[str, Path]:
    """Writes both pages of the same games."""
    run = folder / "run"
    for step in sorted({game.step for game in games}):
        path = run / "games" / "train" / f"step_{step:06d}.jsonl"
        with replacing(path) as stream:
            stream.writelines(f"{game.to_json()}\n" for game in games if game.step == step)
    ours, plain = folder / "ours.html", folder / "plain.html"
    write_page(build_report(run, now=datetime.now(UTC)), ours)
    with replacing(plain) as stream:
        stream.write(Environment(autoescape=True).from_string(PLAIN).render(games=games))
    return {"ours": ours, "plain": plain}


def some_games(count: int, data: Path, words: int) -> list[GameRecord]:
    """Attacks on a file's cases, each read by one assessor."""
    cases = list(read_medec(data, "train"))
    known = [word for case in cases for text in case.error_sentences for word in text.split()]
    rng = random.Random(0)
    return [
        a_game(
            cases[number // ROLLOUTS % len(cases)],
            number,
            [" ".join(rng.choices(known, k=words)) for _ in Role],
        )
        for number in range(count)
    ]


def a_game(case: Case, number: int, thoughts: Sequence[str]) -> GameRecord:
    """One adversarial game; the number makes its texts differ from the others'."""
    place = case.error_sentence_id
    clean = [*case.error_sentences]
    clean[place] = case.corrected_sentence
    wrong = f"{case.error_sentence} Seen {number} times."
    note = [*clean]
    note[place] = wrong
    prompts = (
        attacker_messages(clean, place, AttackMode.EDIT, PromptStyle.FULL),
        assessor_messages(note, PromptStyle.FULL),
    )
    found = number % 3 > 0
    attack = f"Sentence: {place}\nRewrite: {wrong}"
    verdict = f"Classification: Harmful\nError sentence: {place}\nCorrection: {clean[place]}"
    turns = tuple(
        TurnRecord(
            role=role,
            prompt="\n".join(message["content"] for message in prompt),
            response=f"{reasoning}\n</think>\n<answer>\n{answer}\n</answer>",
            reasoning=reasoning,
            answer=answer,
            violation=None,
            classification=None if role is Role.ATTACKER else "Harmful" if found else "Safe",
            sentence_id=place if role is Role.ASSESSOR and found else None,
            correction=clean[place] if role is Role.ASSESSOR and found else None,
            reward=1.0 if found == (role is Role.ASSESSOR) else -1.0,
            trained=True,
            outcome="win" if found == (role is Role.ASSESSOR) else "loss",
            prompt_tokens=100,
            response_tokens=120,
            seconds=1.5,
            nll=0.2,
        )
        for role, answer, prompt, reasoning in zip(
            (Role.ATTACKER, Role.ASSESSOR), (attack, verdict), prompts, thoughts, strict=True
        )
    )
    return GameRecord(
        step=number // GAMES_A_STEP + 1,
        uid=f"{number // ROLLOUTS:08x}-row",
        session=number % ROLLOUTS,
        case_id=case.case_id,
        game_type=GameType.ADVERSARIAL_BENIGN.value,
        error_type=case.error_type,
        source=tuple(clean),
        note=tuple(note),
        changed_ids=(place,),
        forfeit=None,
        labels=Labels(True, (found,), None, "reference"),
        judge=JudgeCost(0.01, 4),
        turns=turns,
    )


def measure(pages: dict[str, Path], repeats: int) -> dict[str, dict[str, float]]:
    """Opens the pages in turns, each in a browser of its own."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
    for _ in range(repeats):
        for name, path in pages.items():
            with chromium() as driver:
                found[name].append(opened(driver, path, ours=name == "ours"))
    return {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        for name, runs in found.items()
    }


def opened(driver: Chrome, path: Path, *, ours: bool) -> dict[str, float]:
    """Times in milliseconds, memory and size in MiB."""
    driver.set_page_load_timeout(_PATIENCE_S)
    driver.set_script_timeout(_PATIENCE_S)
    driver.command_executor.client_config.timeout = _PATIENCE_S
    driver.get(f"{path.as_uri()}#view=games")
    figures: dict[str, Any] = {"open": driver.execute_async_script(OPENED)}
    figures["frames"] = driver.execute_async_script(SCROLL)
    if ours:
        figures["game"] = driver.execute_async_script(GAME)
        figures["search"] = driver.execute_async_script(SEARCH)
    driver.execute_cdp_cmd("Performance.enable", {})
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    figures["nodes"] = next(one["value"] for one in metrics if one["name"] == "Nodes")
    figures["mib"] = path.stat().st_size / 2**20
    return figures


def show(figures: dict[str, dict[str, float]], count: int) -> None:
    """Prints the table."""
    table = Table(title=f"{count} games in a headless Chromium")
    table.add_column("")
    for name in figures:
        table.add_column(name, justify="right")
    for key, label, form in (
        ("open", "open, ms", "{:.0f}"),
        ("frames", "longest frame while scrolling, ms", "{:.0f}"),
        ("game", "a game, ms", "{:.0f}"),
        ("search", "a search of all texts, ms", "{:.0f}"),
        ("nodes", "nodes in the document", "{:.0f}"),
        ("mib", "size, MiB", "{:.1f}"),
    ):
        table.add_row(
            label, *(form.format(one[key]) if key in one else "-" for one in figures.values())
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    sys.exit(main())
