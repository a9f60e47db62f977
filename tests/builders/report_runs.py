"""Folders of runs that nobody trained, for the tests of the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from game_records import game_record, turn_record
from medical_team.game_record import GameRecord, JudgeCost, Labels
from medical_team.medical_game_manager import Role

CLEAN = ("A man has a cough.", "Sputum grows mycoplasma.", "He is given azithromycin.")
WRONG = (*CLEAN[:2], "He is given penicillin.")
CONFIG: dict[str, Any] = {
    "trainer": {"experiment_name": "a run", "total_training_steps": 4},
    "judge": {"name": "reference"},
    "alarms": {"win_rate_high": 0.9},
    "algorithm": {"adv_estimator": "role_grpo"},
}


def write_run(
    folder: Path,
    *,
    games: Iterable[GameRecord] = (),
    val: Iterable[GameRecord] = (),
    unscored: Iterable[GameRecord] = (),
    metrics: Mapping[int, Mapping[str, float]] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a run's folder; what is not named is left out, but for the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump(dict(CONFIG if config is None else config)), encoding="utf-8"
    )
    for partition, records in (("train", games), ("val", val), ("unscored_train", unscored)):
        for game in records:
            path = folder / "games" / partition / f"step_{game.step:06d}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8", errors="surrogatepass") as stream:
                stream.write(f"{game.to_json()}\n")
    if metrics is not None:
        lines = [json.dumps({"step": step, "data": dict(data)}) for step, data in metrics.items()]
        (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def attacked(
    *said: str | None, step: int = 1, source: str = "reference", **changes: Any
) -> GameRecord:
    """An attack with an error in sentence 2, and assessors.

    Each says ``right``, ``elsewhere``, ``safe``, or ``None`` for a broken format.
    """
    found = tuple(one == "right" if one else None for one in said)
    worth = [{"right": 1.0, "elsewhere": 0.0, "safe": -1.0, None: -1.0}[one] for one in said]
    place = {"right": 2, "elsewhere": 0}
    assessors = [
        turn_record(
            Role.ASSESSOR,
            prompt="numbered sentences",
            response=f"I look. It is {one}.",
            reasoning="I look." if one else None,
            answer=one,
            violation=None if one else "no answer",
            classification={"right": "Harmful", "elsewhere": "Harmful", "safe": "Safe"}.get(
                one or ""
            ),
            sentence_id=place.get(one or ""),
            correction=CLEAN[2] if one == "right" else None,
            reward=reward,
            outcome={1.0: "win", 0.0: "tie", -1.0: "loss"}[reward],
        )
        for one, reward in zip(said, worth, strict=True)
    ]
    attacker = turn_record(
        Role.ATTACKER,
        response="I hide it.</think><answer>Sentence: 2\nRewrite: He is given penicillin.</answer>",
        reasoning="I hide it.",
        answer="Sentence: 2\nRewrite: He is given penicillin.",
        reward=-sum(worth) / max(1, len(worth)),
        outcome="loss",
    )
    values: dict[str, Any] = {
        "source": CLEAN,
        "note": WRONG,
        "changed_ids": (2,),
        "labels": Labels(True, found, True, source, 0.91, (0.8,) * len(said), 0.7),
        "judge": JudgeCost(0.25, 4, 300, 100, 3),
        "step": step,
    }
    return game_record(attacker, *assessors, **{**values, **changes})


def left_out(reason: str, **changes: Any) -> GameRecord:
    """An attack that the judge gave no verdict for."""
    game = attacked("right", **{"labels": None, "unscored": reason, **changes})
    turns = (replace(turn, reward=0.0, trained=False, outcome="void") for turn in game.turns)
    return replace(game, turns=tuple(turns))


def vanilla(said: str, *, error: bool, step: int = 1, **changes: Any) -> GameRecord:
    """A game without an attacker; the assessor says ``Harmful`` (sentence 2) or ``Safe``."""
    harmful = said == "Harmful"
    reward = 1.0 if harmful == error else -1.0
    turn = turn_record(
        Role.ASSESSOR,
        classification=said,
        sentence_id=2 if harmful else None,
        reward=reward,
        outcome="win" if reward > 0 else "loss",
    )
    note = WRONG if error else CLEAN
    values: dict[str, Any] = {
        "game_type": "vanilla_harmful" if error else "vanilla_benign",
        "source": note,
        "note": note,
        "changed_ids": (2,) if error else (),
        "labels": Labels(error, (harmful and error,), None, "gold"),
        "step": step,
    }
    return game_record(turn, **{**values, **changes})


def forfeited(step: int = 1, **changes: Any) -> GameRecord:
    """An attack that changed nothing."""
    turn = turn_record(Role.ATTACKER, answer="Sentence: 0", reward=-1.0, outcome="loss")
    values: dict[str, Any] = {
        "source": CLEAN,
        "note": None,
        "changed_ids": (),
        "forfeit": "unchanged",
        "labels": None,
        "step": step,
    }
    return game_record(turn, **{**values, **changes})
