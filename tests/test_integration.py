"""The five-minute check: a few games of each type through the real classes, on the tiny model.

    python tests/test_integration.py [--games 2] [--seed 0] [--rewards zero_sum]

No trainer and no Ray: the embedded model plays both roles, the reference judge labels, the reward
table pays, and every game is printed. It is also a test of its own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from medical_team.game_metrics import game_metrics, zero_sum_gap
from medical_team.game_record import GameRecord, JudgeCost, TurnCost, record_game
from medical_team.judges.reference import ReferenceJudge
from medical_team.medec import read_medec
from medical_team.medical_game_manager import Game, GameRules, GameType
from medical_team.medical_judge import gold_verdict, query_of, settle
from medical_team.prompts import Message, PromptStyle
from medical_team.rewards import REWARD_TABLES

ROOT = Path(__file__).resolve().parents[1]
RULES = GameRules(prompt_style=PromptStyle.COMPACT)


class Policy:
    """The embedded model, one response at a time."""

    def __init__(self, seed: int) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from recipe.medical_selfplay.cpu.decoder import ContinuousBatch

        folder = str(ROOT / "data" / "tiny_model")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        eos = self.tokenizer.eos_token_id
        self.batch = ContinuousBatch(model, [eos], self.tokenizer.pad_token_id)
        self.seed = seed

    def respond(self, messages: list[Message]) -> tuple[str, bool, TurnCost]:
        """Response, whether it was cut off, and what it took."""
        from recipe.medical_selfplay.cpu.decoder import Request

        prompt = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        prompt += "<think>"
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        self.seed += 1
        request = Request(ids, max_tokens=96, seed=self.seed)
        started = time.monotonic()
        done = self.batch.add([request])
        while not done:
            done = self.batch.step()
        seconds = time.monotonic() - started
        ended = request.token_ids[-1] == self.tokenizer.eos_token_id
        text = self.tokenizer.decode(request.token_ids[: -1 if ended else None])
        return text, not ended, TurnCost(prompt, len(ids), len(request.token_ids), seconds)


def play(games_per_type: int, seed: int, table: str) -> Iterator[GameRecord]:
    """Plays games of every type, one after the other."""
    policy, judge, rewards = Policy(seed), ReferenceJudge(), REWARD_TABLES[table]()
    cases = list(read_medec(ROOT / "data" / "sample" / "val.csv", "val"))
    for number, game_type in enumerate([*GameType] * games_per_type):
        game, costs = Game(cases[number % len(cases)], game_type, RULES), []
        if game.awaits_attack:
            text, cut_off, cost = policy.respond(game.attacker_messages())
            game.play_attack(text, truncated=cut_off)
            costs.append(cost)
        verdict = None
        if game.note is not None:
            text, cut_off, cost = policy.respond(game.assessor_messages())
            game.play_assessment(text, truncated=cut_off)
            costs.append(cost)
            query_id = f"game {number}"
            verdict = gold_verdict(game, query_id)
            verdict = verdict or settle(game, judge.judge([query_of(game, query_id)])[0])
        yield record_game(
            game,
            step=0,
            uid=str(number),
            session=0,
            costs=costs,
            verdict=verdict,
            judge=JudgeCost(),
            rewards=rewards.score(game, verdict),
        )


def describe(game: GameRecord) -> Iterator[str]:
    """What happened in a game, in a few lines."""
    yield f"{game.game_type}  case {game.case_id} ({game.error_type})"
    for i in game.changed_ids:
        yield f"  differs from the clean note  {i}. {game.note[i] if game.note else ''}"
    if game.forfeit:
        yield f"  the attacker forfeits: {game.forfeit}"
    for turn in game.turns:
        answer = (turn.answer or turn.response).strip().replace("\n", " | ")
        answer += f" (broken format: {turn.violation})" if turn.violation else ""
        yield f"  {turn.role.value:<9} {turn.reward:+.1f} {turn.outcome:<5} {answer}"
    if game.labels:
        found = "an error" if game.labels.error_present else "no error"
        yield f"  label: {found}, by {game.labels.source}"


def test_games_of_every_type_are_played_to_a_reward() -> None:
    games = list(play(games_per_type=3, seed=0, table="zero_sum"))
    assert {game.game_type for game in games} == {game_type.value for game_type in GameType}
    for game in games:
        assert game.turns
        assert (game.labels is None) == (game.forfeit is not None)
        assert all(-1 <= turn.reward <= 1 for turn in game.turns)
        assert zero_sum_gap(game) in (None, 0)
    assert any(turn.violation is None for game in games for turn in game.turns)


def main() -> None:
    parser = argparse.ArgumentParser(description="Plays a few games of each type and prints them.")
    parser.add_argument("--games", type=int, default=2, help="games of each type")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rewards", choices=sorted(REWARD_TABLES), default="zero_sum")
    arguments = parser.parse_args()
    started, games = time.monotonic(), []
    for game in play(arguments.games, arguments.seed, arguments.rewards):
        games.append(game)
        print("\n".join(describe(game)), end="\n\n")
    figures = game_metrics(games)
    for name in ("assessor/win_rate", "attacker/win_rate", "game/forfeit", "game/category_kept"):
        print(f"{name:<22} {figures[name]:.2f}" if name in figures else f"{name:<22} -")
    print(f"{len(games)} games in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
