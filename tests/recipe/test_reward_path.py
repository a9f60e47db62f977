"""Each role's own reward reaches its own tokens, through verl's real workers and advantage code.

Everything between the judge and the advantages runs as in training: verl's AgentLoopWorkerTQ and
RewardLoopWorker as Ray actors, the TransferQueue, the replay buffer, verl's padding and
PPOTrainer._compute_advantage. Only the language model is scripted. What each row should have got is
worked out here anew from the texts in the queue.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import ray
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from verl.workers.rollout.replica import TokenOutput

ROOT = Path(__file__).parents[2]
ROWS, SESSIONS = 8, 4

Row = SimpleNamespace  # one row of the queue, and what it should have got

pytestmark = pytest.mark.timeout(300)


class ScriptedModel:
    """Stands in for the rollout servers: answers in every way the rules know, reproducibly."""

    def __init__(self, tokenizer_path: str) -> None:
        self.tokenizer_path = tokenizer_path
        self.config = None

    async def generate(
        self,
        request_id: str,
        *,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        **kwargs: Any,
    ) -> TokenOutput:
        from transformers import AutoTokenizer
        from verl.workers.rollout.replica import TokenOutput

        if not hasattr(self, "tokenizer"):
            self.tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_path)
        choose = random.Random(sampling_params["seed"])
        prompt = self.tokenizer.decode(prompt_ids)
        lines = re.findall(r"(?m)^(\d+)\. (.*?)(?:<\|.*)?$", prompt)
        if "find the error" in prompt:
            text = self._assess(lines, choose)
        else:
            text = self._attack(re.search(r"hide the error in (\d+)", prompt), lines, choose)
        ids = [
            *self.tokenizer(text, add_special_tokens=False)["input_ids"],
            self.tokenizer.eos_token_id,
        ]
        steps = {"global_steps": 1, "min_global_steps": 1, "max_global_steps": 1}
        return TokenOutput(
            token_ids=ids, log_probs=[-0.5] * len(ids), stop_reason="completed", extra_fields=steps
        )

    @staticmethod
    def _attack(
        given: re.Match[str] | None, lines: list[tuple[str, str]], choose: random.Random
    ) -> str:
        at = int(given[1]) if given else choose.randrange(len(lines))
        kind = choose.choice(["error", "error", "error", "harmless", "broken"])
        if kind == "broken":
            return "I would rather not </think> Sentence: 0"
        new = (
            "Zoster is treated with aspirin 7 mg."
            if kind == "error"
            else f"{lines[at][1]} It is so."
        )
        return f" because </think>\n<answer>\nSentence: {at}\nRewrite: {new}\n</answer>"

    @staticmethod
    def _assess(lines: list[tuple[str, str]], choose: random.Random) -> str:
        kind = choose.choice(["safe", "harmful", "harmful", "found", "broken"])
        if kind == "broken":
            return " hm </think>\n<answer>\nClassification: Safe or Harmful\n</answer>"
        if kind == "safe":
            return (
                " ok </think>\n<answer>\nClassification: Safe\nError sentence: none\n"
                "Correction: none\n</answer>"
            )
        named = [number for number, line in lines if "Zoster" in line] if kind == "found" else []
        at = named[0] if named else choose.randrange(len(lines))
        return (
            f" no </think>\n<answer>\nClassification: Harmful\nError sentence: {at}\n"
            "Correction: It is.\n</answer>"
        )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from medical_team.dataset.rows import parquet_schema, training_row
    from medical_team.medec import Case
    from medical_team.medical_game_manager import GameType
    from medical_team.prompts import PromptStyle

    case = Case(
        case_id="c",
        error_sentences=(
            "The man coughs.",
            "He has gout.",
            "He gets colchicine.",
            "He weighs 70 kg.",
            "He is well.",
        ),
        error_sentence_id=1,
        corrected_sentence="He has pneumonia.",
        error_type="diagnosis",
        split="train",
    )
    rows = [
        training_row(case, game, i, PromptStyle.COMPACT)
        for i, game in enumerate([*GameType] * (ROWS // 4))
    ]
    folder = tmp_path_factory.mktemp("data")
    pq.write_table(pa.Table.from_pylist(rows, parquet_schema()), folder / "train.parquet")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ["TQ_LOGGING_LEVEL"] = "ERROR"
    env = {
        "TQ_LOGGING_LEVEL": "ERROR",
        "VERL_PLATFORM": "cpu",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TQ_NUM_THREADS": "1",
    }
    ray.init(
        num_cpus=16,
        include_dashboard=False,
        object_store_memory=2**27,
        runtime_env={"env_vars": env},
    )
    import transfer_queue as tq

    ray.cloudpickle.register_pickle_by_value(
        sys.modules[__name__]
    )  # the actors cannot import this file
    tq.init(
        OmegaConf.create(
            {"enable": True, "backend": {"SimpleStorage": {"num_data_storage_units": 1}}}
        )
    )
    yield
    tq.close()
    ray.shutdown()


def load_config(name: str, dataset: Path, output: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        config = compose(
            name,
            overrides=[
                "hardware=cpu",
                "hydra.searchpath=[pkg://verl.trainer.config]",
                f"data_dir={dataset}",
                f"run_dir={output}",
                f"actor_rollout_ref.model.path={ROOT / 'data/tiny_model'}",
                f"actor_rollout_ref.rollout.n={SESSIONS}",
                "data.max_prompt_length=256",
                *overrides,
            ],
        )
    with open_dict(config):
        config.pop("hydra", None)
        config.algorithm.rollout_correction = (
            None  # needs log-probabilities of the actor, which is not here
        )
    OmegaConf.resolve(config)
    return config


def play_step(config: DictConfig) -> tuple[list[Row], list[Row], dict[str, float]]:
    """One step of verl's trainer up to the advantages; returns its rows and the batch's metrics."""
    import transfer_queue as tq
    from torch.utils.data import DataLoader
    from verl.experimental.reward_loop.reward_loop import RewardLoopManager
    from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
    from verl.trainer.ppo.utils import create_rl_dataset
    from verl.trainer.ppo.v1 import AgentLoopWorkerTQ
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer
    from verl.utils import tensordict_utils as tu
    from verl.utils.dataset.rl_dataset import collate_fn
    from verl.utils.tokenizer import hf_tokenizer

    from recipe.medical_selfplay.replay_buffer import replay_buffer

    tokenizer = hf_tokenizer(config.actor_rollout_ref.model.path)
    data = create_rl_dataset(config.data.train_files, config.data, tokenizer, None, is_train=True)
    batch_dict = next(iter(DataLoader(data, batch_size=ROWS, collate_fn=collate_fn)))
    batch_dict["uid"] = np.array([str(uuid.uuid4()) for _ in range(ROWS)], dtype=object)
    batch = tu.get_tensordict(batch_dict)
    tu.assign_non_tensor_data(batch, "global_steps", 1)
    rewards = RewardLoopManager(config)
    worker = AgentLoopWorkerTQ.remote(
        config,
        ScriptedModel(config.actor_rollout_ref.model.path),
        None,
        rewards.reward_loop_worker_handles,
    )
    mode = config.trainer.v1.trainer_mode
    buffer = replay_buffer(
        trainer_mode=mode,
        trainer_config=config.trainer.v1[mode],
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        sampler_kwargs=config.trainer.v1.sampler.sampler_kwargs,
        refill_fn=None,
    )
    tags = [{"is_prompt": True, "status": "pending", "global_steps": 1} for _ in range(ROWS)]
    tq.kv_batch_put(keys=list(batch_dict["uid"]), partition_id="train", tags=tags)
    ray.get(worker.generate_sequences.remote(batch))
    sampled, metrics = buffer.sample(global_steps=1, partition_id="train", batch_size=ROWS)
    games = len(sampled)
    sampled = upsample_batch_to_divisible_size(sampled, games + 3, tokenizer.eos_token_id)
    advantages = {}
    for name in ALGORITHMS:
        base, *estimator = name.split()
        overrides = [f"algorithm.adv_estimator={one}" for one in estimator]
        algorithm = load_config(
            base, Path("."), Path("."), "algorithm.use_kl_in_reward=false", *overrides
        ).algorithm
        PPOTrainer._compute_advantage(
            SimpleNamespace(config=OmegaConf.create({**config, "algorithm": algorithm})),
            sampled,
            {},
        )
        fields = tq.kv_batch_get(
            keys=sampled.keys, partition_id="train", select_fields=["advantages"]
        )
        advantages[name] = fields["advantages"].unbind()
    fields = ["prompts", "responses", "response_mask", "rm_scores"]
    rows = tq.kv_batch_get(keys=sampled.keys, partition_id="train", select_fields=fields)
    texts = {
        name: [tokenizer.decode(ids) for ids in rows[name].unbind()]
        for name in ("prompts", "responses")
    }
    found = [
        Row(
            key=key,
            prompt=texts["prompts"][i],
            response=texts["responses"][i],
            mask=rows["response_mask"][i],
            scores=rows["rm_scores"][i],
            advantages={name: values[i] for name, values in advantages.items()},
        )
        for i, key in enumerate(sampled.keys)
    ]
    tq.kv_clear(keys=sampled.keys, partition_id="train")
    ray.kill(worker)
    for name in ("medical_judge", "medical_league"):
        ray.kill(ray.get_actor(name))
    for handle in rewards.reward_loop_worker_handles:
        ray.kill(handle)
    return found[:games], found[games:], metrics


def expect(rows: list[Row]) -> None:
    """Works out every row's role, truth, reward and whether it is trained, from the texts alone."""
    sessions = defaultdict(list)
    for row in rows:
        uid, session, index = row.key.rsplit("_", 2)
        row.uid, row.session = uid, f"{uid}_{session}"
        row.role = "assessor" if "find the error" in row.prompt else "attacker"
        sessions[row.session].append((int(index), row))
    for session in sessions.values():
        turns = [row for _, row in sorted(session, key=lambda item: item[0])]
        assessors = [row for row in turns if row.role == "assessor"]
        for row in assessors:
            harmless = "He has pneumonia." in row.prompt and "Zoster" not in row.prompt
            row.error = not harmless
            wrong = next((i for i, s in enumerate(("Zoster", "gout")) if s in row.prompt), None)
            place = (
                re.search(r"(\d+)\. [^\n]*" + ("Zoster", "gout")[wrong], row.prompt)[1]
                if row.error
                else None
            )
            row.kept = (
                "Classification: Safe\n" in row.response
                or "Classification: Harmful\n" in row.response
            )
            harmful, named = (
                "Harmful\n" in row.response,
                f"Error sentence: {place}\n" in row.response,
            )
            if not row.kept:
                row.expected = -1.0
            elif not row.error:
                row.expected = -1.0 if harmful else 1.0
            else:
                row.expected = (1.0 if named else 0.0) if harmful else -1.0
            row.trained = True
        if turns[0].role == "attacker":
            attacker = turns[0]
            attacker.error, attacker.trained = None, True
            kept = [row.expected for row in assessors if row.kept]
            if not assessors or not assessors[0].error:
                attacker.expected = -1.0
            elif kept:
                attacker.expected = -fmean(kept)
            else:
                attacker.expected, attacker.trained = 0.0, False


def groups_of(rows: list[Row]) -> list[list[Row]]:
    groups = defaultdict(list)
    for row in rows:
        if row.trained:
            alone = (
                row.role == "assessor"
                and sum(o.session == row.session and o.role == "assessor" for o in rows) > 1
            )
            groups[row.role, row.session if alone else row.uid].append(row)
    return list(groups.values())


def grpo(rows: list[Row]) -> None:
    for group in groups_of(rows):
        rewards = [row.expected for row in group]
        for row in group:
            row.advantage = (
                (row.expected - fmean(rewards)) / (stdev(rewards) + 1e-6) if len(group) > 1 else 0.0
            )


def reinforce_pp(rows: list[Row]) -> None:
    for role in ("attacker", "assessor"):
        tokens = [
            row.expected for row in rows if row.trained and row.role == role for _ in row.mask
        ]
        mean = fmean(tokens)
        variance = fmean((value - mean) ** 2 for value in tokens)
        for row in rows:
            if row.role == role:
                row.advantage = (row.expected - mean) / (variance + 1e-6) ** 0.5


def rloo(rows: list[Row]) -> None:
    for group in groups_of(rows):
        for row in group:
            others = [other.expected for other in group if other is not row]
            row.advantage = row.expected - fmean(others) if others else 0.0


def rae(rows: list[Row]) -> None:
    """Game after game, in the order of the rows of the dataset."""
    averages: dict[tuple[str, str], float] = defaultdict(float)
    for row in rows:
        if row.trained:
            row.advantage = row.expected - averages[row.role, row.game_type]
            averages[row.role, row.game_type] += 0.05 * row.advantage


def weigh_truths(rows: list[Row]) -> None:
    assessors = [row for row in rows if row.role == "assessor"]
    for row in assessors:
        row.advantage *= len(assessors) / (2 * sum(other.error == row.error for other in assessors))


ALGORITHMS = {
    "medical_grpo": grpo,
    "medical_reinforce_pp": reinforce_pp,
    "medical_grpo role_rloo": rloo,
    "medical_grpo rae": rae,
}


@pytest.mark.parametrize("assessors", [1, 3])
@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_each_roles_own_reward_reaches_its_own_tokens(
    cluster: None, dataset: Path, tmp_path: Path, mode: str, assessors: int
) -> None:
    config = load_config(
        "medical_grpo",
        dataset,
        tmp_path,
        f"trainer.v1.trainer_mode={mode}",
        f"game.assessor_samples={assessors}",
    )
    rows, padding, metrics = play_step(config)
    expect(rows)
    logged = log_of(tmp_path)
    types = {game["uid"]: game["game_type"] for game in logged}
    for row in rows:
        row.game_type = types[row.uid]

    for row in rows:
        assert row.scores[:-1].abs().sum() == 0, "the reward belongs to the last token"
        assert row.scores[-1].item() == pytest.approx(row.expected, abs=1e-6), row.key
        assert bool(row.mask.sum() > 0) == row.trained, row.key
    for name, algorithm in ALGORITHMS.items():
        algorithm(rows)
        weigh_truths(rows)
        for row in rows:
            found, wanted = row.advantages[name], row.advantage if row.trained else 0.0
            assert torch.allclose(found, torch.full_like(found, wanted), atol=1e-4), (name, row.key)
        assert all(row.advantages[name].abs().sum() == 0 for row in padding)
        for role in ("attacker", "assessor"):
            assert any(row.advantages[name].abs().sum() > 0 for row in rows if row.role == role)

    # The batch must be able to tell a swapped, shared or zeroed reward from the right one.
    by_role = {
        role: {row.expected for row in rows if row.role == role}
        for role in ("attacker", "assessor")
    }
    assert {-1.0, 1.0} <= by_role["assessor"] and min(by_role["attacker"]) < 0 < max(
        by_role["attacker"]
    )
    assert metrics["game/zero_sum_gap"] == 0
    assert len(logged) == ROWS * SESSIONS
    rewards = {
        f"{game['uid']}_{game['session']}_{i}": turn["reward"]
        for game in logged
        for i, turn in enumerate(game["turns"])
    }
    assert rewards == {row.key: pytest.approx(row.expected, abs=1e-6) for row in rows}


def log_of(run: Path) -> list[dict[str, Any]]:
    lines = (run / "games/train/step_000001.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """An archive with one attack on the case of the dataset."""
    from medical_team.archive import ArchivedAttack, write_frozen
    from medical_team.medec import Case
    from medical_team.medical_game_manager import GameType

    case = Case("c", ("He coughs.", "He has gout."), 1, "He has pneumonia.", "diagnosis", "train")
    attack = ArchivedAttack.of(
        step=0,
        case=case,
        game_type=GameType.ADVERSARIAL_BENIGN,
        note=("Zoster is treated with aspirin 7 mg.", "He has pneumonia."),
        error_present=True,
        source="reference",
        succeeded=True,
    )
    write_frozen(tmp_path / "frozen.jsonl", [attack])
    return tmp_path / "frozen.jsonl"


def test_archived_attacks_train_the_assessor_only(
    cluster: None, dataset: Path, tmp_path: Path, frozen: Path
) -> None:
    run = tmp_path / "run"
    config = load_config(
        "medical_grpo", dataset, run, "archive.fraction=1", f"archive.file={frozen}"
    )
    rows, _, metrics = play_step(config)
    expect(rows)
    assert {row.role for row in rows} == {"assessor"}
    assert len(rows) == ROWS * SESSIONS
    replayed = {
        f"{game['uid']}_{game['session']}" for game in log_of(run) if game["opponent"] == "archive"
    }
    assert {row.session for row in rows if "Zoster" in row.prompt} == replayed
    assert len(replayed) == ROWS * SESSIONS // 2
    for row in rows:
        assert row.scores[-1].item() == pytest.approx(row.expected, abs=1e-6), row.key
        assert row.mask.sum() > 0
    assert metrics["archive/games"] == 0.5
    assert "attacker/reward" not in metrics


@pytest.mark.parametrize("trained", ["attacker", "assessor"])
def test_a_frozen_role_plays_and_is_not_trained(
    cluster: None, dataset: Path, tmp_path: Path, trained: str
) -> None:
    config = load_config("medical_grpo", dataset, tmp_path, f"game.train_roles={trained}")
    rows, _, _ = play_step(config)
    expect(rows)
    for row in rows:
        assert row.scores[-1].item() == pytest.approx(row.expected, abs=1e-6), row.key
        assert bool(row.mask.sum() > 0) == (row.trained and row.role == trained), row.key
    moved = {row.role for row in rows if row.advantages["medical_grpo"].abs().sum() > 0}
    assert moved == {trained}
