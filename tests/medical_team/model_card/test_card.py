"""What the model card says, and what it does not claim."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from game_records import game_record, turn_record
from medical_team.dataset.writer import Conversion, convert
from medical_team.evaluation.measures import Estimate
from medical_team.evaluation.metrics_file import Metrics
from medical_team.game_record import Labels
from medical_team.medical_game_manager import GameType, Role
from medical_team.model_card.card import ModelFacts, model_card
from medical_team.model_card.run_facts import RunFacts, Validation, read_run

ROOT = Path(__file__).resolve().parents[3]
FACTS = ModelFacts(
    name="finder",
    parameters=1234567,
    architecture="Qwen3ForCausalLM",
    dtype="float32",
    base_model="some/base",
    base_on_hub=True,
    licence="apache-2.0",
    step=8,
    prompt_style="compact",
    prompt="<|user|>find the error",
    messages=[{"role": "user", "content": "find the error\n0. A."}],
    think_opened=True,
    max_new_tokens=96,
    eos_token_ids=[1],
    hidden_tags=[],
    versions={"verl": "0.9.1"},
)


def front_of(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def config(data: Path) -> dict[str, Any]:
    return {
        "algorithm": {"adv_estimator": "role_grpo"},
        "actor_rollout_ref": {"rollout": {"val_kwargs": {"temperature": 0}}},
        "judge": {"name": "reference"},
        "data": {"train_files": str(data / "train.parquet")},
    }


def write_validation(run: Path, step: int, said: list[str]) -> None:
    """Two error notes, the error in the first sentence, and a clean one."""
    games = []
    for answer, error in zip(said, (True, True, False), strict=True):
        kind = GameType.VANILLA_HARMFUL if error else GameType.VANILLA_BENIGN
        turn = turn_record(Role.ASSESSOR, classification=answer)
        labels = Labels(error, (answer == "Harmful" if error else None,), None, "gold")
        changed = (0,) if error else ()
        games.append(
            game_record(
                turn, game_type=kind.value, labels=labels, note=("A.", "B."), changed_ids=changed
            )
        )
    path = run / "games" / "val" / f"step_{step:06d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(game.to_json() + "\n" for game in games))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    convert(Conversion({"train": ROOT / "data/sample/train.csv"}, limit=20), tmp_path / "data")
    write_validation(folder, 0, ["Safe", "Safe", "Harmful"])
    write_validation(folder, 8, ["Harmful", "Safe", "Safe"])
    write_validation(folder, 16, ["Harmful", "Harmful", "Safe"])
    lines = [
        {"step": step, "data": {"training/global_step": step, "game/count": 10}}
        for step in range(1, 17)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_figures_are_those_of_the_exported_step_beside_what_takes_no_skill(
    run: Path, tmp_path: Path
) -> None:
    facts = read_run(run, config(tmp_path / "data"), 8)
    assert (facts.steps, facts.games) == (8, 80)
    card = model_card(FACTS, facts)
    assert "validation at step 8, 3 games, greedy" in card
    assert "| | this model | before training | all Harmful | all Safe | last sentence |" in card
    assert "| balanced accuracy | 0.750 | 0.000 | 0.500 | 0.500 | 0.500 |" in card
    assert "| right truth and sentence | 0.667 | 0.000 | 0.667 | 0.333 | 0.000 |" in card
    assert "the sample clinic" in card and "Apache-2.0" in card
    assert "| train | train.csv | 400 |" in card
    assert "nobody knows how often it errs" in card
    assert "How often the judge errs: it was not calibrated." in card


def test_notes_of_medec_bring_their_licence_and_citation(run: Path, tmp_path: Path) -> None:
    facts = read_run(run, config(tmp_path / "data"), None)
    from medical_team.model_card.origins import ORIGINS

    card = model_card(FACTS, replace(facts, origins=ORIGINS[1:2]))
    assert "CC BY 4.0" in card
    assert card.count("Findings of ACL 2025") == 1


def test_nothing_is_claimed_of_an_unknown_run() -> None:
    card = model_card(FACTS, read_run(None, {}, None))
    for claim in ("self-play: one model", "role_grpo", "balanced accuracy", "Calibrated"):
        assert claim not in card
    assert "What is not known" in card
    assert "This is not a medical device" in card


def test_the_front_matter_is_what_the_hub_reads() -> None:
    front = front_of(model_card(FACTS, RunFacts("unknown")))
    assert front["license"] == "apache-2.0"
    assert front["base_model"] == "some/base"
    assert front["pipeline_tag"] == "text-generation"
    local = replace(FACTS, base_model="tiny_model", base_on_hub=False, licence=None)
    front = front_of(model_card(local, RunFacts("unknown")))
    assert "base_model" not in front and "license" not in front


def test_values_stay_inside_their_cells() -> None:
    facts = RunFacts("self-play", {"game.attacker": "a | b\n| c"}, judge="reference")
    assert "| `game.attacker` | a \\| b \\| c |" in model_card(FACTS, facts)


def test_an_evaluation_is_shown_with_its_intervals_and_baselines() -> None:
    evaluation = Metrics(
        facts={"texts": "574"},
        scores={"flag accuracy": Estimate(0.7, 0.66, 0.74)},
        baselines={"all safe": {"flag accuracy": Estimate(0.44)}},
    )
    card = model_card(FACTS, RunFacts("unknown"), evaluation, "this model")
    assert "| | this model | all safe |" in card
    other = model_card(FACTS, RunFacts("unknown"), evaluation, "the file run.txt")
    assert "| | the file run.txt | all safe |" in other
    assert "this model |" not in other
    assert "not certain that these are figures of this model" in other
    assert "| flag accuracy | 0.700 (0.660 to 0.740) | 0.440 |" in card


@pytest.mark.parametrize("method", ["unknown", "supervised"])
def test_nothing_of_self_play_is_claimed_where_none_was(method: str) -> None:
    card = model_card(FACTS, RunFacts(method))
    for claim in (
        "figures below",
        "validation below",
        "short English notes",
        "A judge's mistakes",
        "Self-RedTeam",
        "hide errors",
        "hides errors",
    ):
        assert claim not in card
    assert ("the one it was trained with" in card) == (method == "supervised")


@pytest.mark.parametrize(
    ("roles", "attacks"), [("both", True), ("attacker", True), ("assessor", False)]
)
def test_misuse_as_an_attacker_is_told_only_where_it_was_trained(roles: str, attacks: bool) -> None:
    card = model_card(FACTS, RunFacts("self-play", {"game.train_roles": roles}, judge="reference"))
    assert ("trained to hide errors" in card) == attacks
    assert ("one model hides errors in notes and finds them" in card) == (roles == "both")
    assert "A judge's mistakes" in card and "Self-RedTeam" in card


@pytest.mark.parametrize(("temperature", "greedy"), [(0, True), (0.7, False), (None, False)])
def test_validation_is_called_greedy_only_where_it_was(
    temperature: float | None, greedy: bool
) -> None:
    validation = Validation(8, 3, temperature, (), {}, 0.0)
    card = model_card(FACTS, RunFacts("self-play", judge="reference", validation=validation))
    assert ("the validation below was greedy" in card) == greedy
    assert "see the figures below" in card
