"""Decoded attacker tokens: the edit of one sentence against the whole rewritten note.

Every MEDEC case (all CSV files of the folder in MEDEC_DIR, else of ../shared/medec, else of
data/sample) is attacked once in each adversarial game, by the same change written in both ways:
``game.attacker=edit`` answers with a sentence number and the new sentence, ``rewrite`` with the
whole numbered note. The change is MEDEC's own pair of sentences: the correct one becomes the
erroneous one where an error is injected, the other way round where a given error is rewritten; its
length counts here, not its truth. Each response is played through the real game, which must end
with the same note in both ways.

The last line, ``ratio: X``, is the mean number of answer tokens of the rewrite over that of the
edit. A whole response also holds reasoning, the same in both, and tags: its ratio stands beside.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medical_team.answers import Edit, format_edit, format_response
from medical_team.atomic_files import replacing
from medical_team.medec import Case, read_medec
from medical_team.medical_game_manager import Game, GameRules, GameType
from medical_team.prompts import AttackMode, numbered

ROOT = Path(__file__).resolve().parents[1]
GAME_TYPES = (GameType.ADVERSARIAL_HARMFUL, GameType.ADVERSARIAL_BENIGN)
# The format asks for some reasoning, so 1 token is the least that a response can hold.
REASONING_TOKENS = (1, 50, 200)
QUICK_CASES = 60

Lengths = dict[str, list[int]]
CountTokens = Callable[[str], int]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"about {QUICK_CASES} cases only")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument(
        "--tokenizer", default=ROOT / "data/tiny_model", type=Path, help="folder of a tokenizer"
    )
    args = parser.parse_args()
    if not (args.tokenizer / "tokenizer_config.json").is_file():
        parser.error(
            f"--tokenizer {args.tokenizer}: no tokenizer_config.json there; name the folder of a"
            " Hugging Face tokenizer, or make data/tiny_model with scripts/make_tiny_model.py"
        )
    sources = medec_files()
    cases = [case for path in sources for case in read_medec(path, "val")]
    if args.quick:
        cases = cases[:: max(1, len(cases) // QUICK_CASES)]
    lengths, left_out = measure(cases, token_counter(args.tokenizer))
    figures = {name: summary(tokens) for name, tokens in lengths.items()}
    ratio = figures["answer, rewrite"]["mean"] / figures["answer, edit"]["mean"]
    report = {
        "sources": [path.name for path in sources],
        "tokenizer": args.tokenizer.name,
        "cases": len(cases),
        "games": len(lengths["answer, edit"]),
        "left_out": left_out,
        "tokens": figures,
        "ratio": ratio,
    }
    show(report)
    if args.json:
        with replacing(args.json) as stream:
            json.dump(report, stream, indent=2)
    print(f"ratio: {ratio:.2f}")


def medec_files() -> list[Path]:
    """The CSV files of MEDEC where they can be found, else of the sample."""
    folder = Path(os.environ.get("MEDEC_DIR", ROOT.parent / "shared" / "medec"))
    return sorted(folder.glob("*.csv")) or sorted((ROOT / "data/sample").glob("*.csv"))


def token_counter(folder: Path) -> CountTokens:
    """Counts the tokens that decoding a text costs."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def measure(cases: Sequence[Case], count: CountTokens) -> tuple[Lengths, int]:
    """Plays every case both ways and counts tokens.

    Args:
        cases: the cases.
        count: tokens of a text.

    Returns:
        Lengths per game, by what was counted; and how many games were left out, because the rules
        refuse MEDEC's own pair (a correction far longer than its sentence) in both ways.
    """
    reasonings = {tokens: reasoning_of(tokens, count) for tokens in REASONING_TOKENS}
    lengths: Lengths = {}
    left_out = 0
    for case in cases:
        for game_type in GAME_TYPES:
            answers = {mode: attack_answer(case, game_type, mode) for mode in AttackMode}
            if not playable(case, game_type, answers, reasonings[REASONING_TOKENS[0]]):
                left_out += 1
                continue
            for mode, answer in answers.items():
                lengths.setdefault(f"answer, {mode}", []).append(count(answer))
                lengths.setdefault(f"answer in words, {mode}", []).append(len(answer.split()))
                for tokens, reasoning in reasonings.items():
                    response = format_response(reasoning, answer, think_opened=True)
                    # One more than the text: the token that ends the turn is decoded too.
                    lengths.setdefault(f"{_response(tokens)}, {mode}", []).append(
                        count(response) + 1
                    )
    return lengths, left_out


def attack_answer(case: Case, game_type: GameType, mode: AttackMode) -> str:
    """The attacker's answer that changes the annotated sentence."""
    at = case.error_sentence_id
    source = Game(case, game_type, GameRules()).source
    new = case.corrected_sentence if game_type.harmful_source else case.error_sentence
    if mode is AttackMode.EDIT:
        return format_edit(Edit(at, new))
    return numbered((*source[:at], new, *source[at + 1 :]))


def playable(
    case: Case, game_type: GameType, answers: dict[AttackMode, str], reasoning: str
) -> bool:
    """Plays both answers; whether the rules accept them.

    Raises:
        SystemExit: if one way gives another note than the other, or only one is refused.
    """
    games = []
    for mode, answer in answers.items():
        game = Game(case, game_type, replace(GameRules(), attacker=mode))
        game.play_attack(format_response(reasoning, answer, think_opened=True))
        games.append(game)
    if games[0].note != games[1].note or games[0].forfeit != games[1].forfeit:
        raise SystemExit(
            f"case {case.case_id}, {game_type}: the edit ends in {games[0].forfeit or 'a note'},"
            f" the rewrite in {games[1].forfeit or 'a note'}; expected the same note from both,"
            " else the two ways are not compared on the same attack"
        )
    return games[0].note is not None


def reasoning_of(tokens: int, count: CountTokens) -> str:
    """A text of at least that many tokens, as near as whole words come to it."""
    words = ["the"]
    while count(" ".join(words)) < tokens:
        words.append("the")
    return " ".join(words)


def summary(tokens: list[int]) -> dict[str, float]:
    """Mean, median and 90th percentile."""
    return {
        "mean": statistics.fmean(tokens),
        "median": statistics.median(tokens),
        "p90": statistics.quantiles(tokens, n=10)[-1],
    }


def show(report: dict[str, Any]) -> None:
    """Prints the table."""
    console = Console()
    console.print(
        f"{', '.join(report['sources'])}: {report['games']} games, {report['left_out']} left out;"
        f" tokenizer {report['tokenizer']}"
    )
    table = Table(title="tokens of an attack: mean / median / p90")
    table.add_column("decoded")
    for mode in AttackMode:
        table.add_column(str(mode), justify="right")
    table.add_column("rewrite / edit", justify="right")
    rows = {"answer": "answer", "answer in words": "answer in words"}
    rows |= {_response(tokens): f"response, reasoning {tokens}" for tokens in REASONING_TOKENS}
    for what, label in rows.items():
        edit, rewrite = (report["tokens"][f"{what}, {mode}"] for mode in AttackMode)
        cells = [" / ".join(f"{value:.0f}" for value in way.values()) for way in (edit, rewrite)]
        table.add_row(label, *cells, f"{rewrite['mean'] / edit['mean']:.2f}")
    console.print(table)


def _response(reasoning_tokens: int) -> str:
    return f"response with {reasoning_tokens} of reasoning"


if __name__ == "__main__":
    main()
