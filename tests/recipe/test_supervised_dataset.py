"""What verl's SFT trainer is given: exactly a rollout's tokens, exactly the response trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM
from verl.trainer.sft_trainer import create_sft_dataset
from verl.utils.dataset.dataset_utils import SFTTensorCollator
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
from verl.workers.utils.losses import sft_loss

from medical_team.dataset.rows import SPLITS
from medical_team.dataset.supervised import SupervisedSet, write_rows, write_supervised
from medical_team.prompts import PromptStyle
from recipe.medical_selfplay.agent_loop import MedicalSelfPlayLoop
from recipe.medical_selfplay.supervised_dataset import SupervisedGames, end_of_turn, split_turn

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "data" / "tiny_model"
# As Qwen's thinking models have it: the reasoning of an assistant's turn is not shown again.
THINKING_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL, local_files_only=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    files = {split: ROOT / "data" / "sample" / f"{split}.csv" for split in SPLITS}
    write_supervised(SupervisedSet(files, PromptStyle.COMPACT), folder)
    return folder


def config_of(**changes: Any) -> DictConfig:
    with_defaults = {
        "pad_mode": "no_padding",
        "messages_key": "messages",
        "max_length": 512,
        "think_opened": True,
        "prompt_loss_weight": 0.0,
        "apply_chat_template_kwargs": {},
        "custom_cls": {
            "path": "pkg://recipe.medical_selfplay.supervised_dataset",
            "name": "SupervisedGames",
        },
    }
    return OmegaConf.create({**with_defaults, **changes})


def messages_of(file: Path) -> list[list[dict[str, str]]]:
    import pyarrow.parquet as pq

    return pq.read_table(file)["messages"].to_pylist()


def first_games(
    data: Path, tokenizer: PreTrainedTokenizerBase, **changes: Any
) -> Iterator[tuple[list[dict[str, str]], dict[str, torch.Tensor]]]:
    file = data / "val.parquet"
    dataset = create_sft_dataset(str(file), config_of(**changes), tokenizer, None, max_samples=24)
    assert isinstance(dataset, SupervisedGames)
    assert len(dataset) == 24
    for i, messages in enumerate(messages_of(file)[:24]):
        yield messages, dataset[i]


@pytest.mark.parametrize("think_opened", [True, False])
def test_exactly_the_response_and_its_end_are_trained(
    data: Path, tokenizer: PreTrainedTokenizerBase, think_opened: bool
) -> None:
    for messages, row in first_games(data, tokenizer, think_opened=think_opened):
        trained = row["input_ids"][row["loss_mask"] == 1]
        untrained = row["input_ids"][row["loss_mask"] == 0]
        assert len(trained) + len(untrained) == len(row["input_ids"])
        response = messages[-1]["content"]
        opening = "<think>" if think_opened else ""
        assert tokenizer.decode(trained) == response.removeprefix(opening) + "<|end|>"
        note = messages[0]["content"]
        assert tokenizer.decode(untrained) == f"<|user|>{note}<|end|><|assistant|>{opening}"
        # Everything trained stands behind everything that is not.
        assert row["loss_mask"].diff().ge(0).all()
        assert torch.equal(row["position_ids"], torch.arange(len(row["input_ids"])))


@pytest.mark.parametrize("think_opened", [True, False])
def test_the_prompts_tokens_are_those_of_a_rollout(
    data: Path, tokenizer: PreTrainedTokenizerBase, think_opened: bool
) -> None:
    loop = MedicalSelfPlayLoop.__new__(MedicalSelfPlayLoop)
    loop.tokenizer, loop.apply_chat_template_kwargs = tokenizer, {}
    settings: Any = SimpleNamespace(rules=SimpleNamespace(think_opened=think_opened))
    for messages, row in first_games(data, tokenizer, think_opened=think_opened):
        _, expected = loop._prompt(messages[:-1], settings)
        assert row["input_ids"][row["loss_mask"] == 0].tolist() == expected


def test_a_template_that_drops_reasoning_drops_nothing_here(data: Path) -> None:
    thinking = AutoTokenizer.from_pretrained(MODEL, local_files_only=True)
    thinking.chat_template = THINKING_TEMPLATE
    for messages, row in first_games(data, thinking):
        trained = thinking.decode(row["input_ids"][row["loss_mask"] == 1])
        assert trained == messages[-1]["content"].removeprefix("<think>") + "<|end|>"


def test_verls_own_dataset_trains_the_opening_of_the_reasoning(
    data: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    # When this fails, verl's own class may have become good enough: drop ours.
    own = MultiTurnSFTDataset(str(data / "val.parquet"), tokenizer, config_of())[0]
    assert tokenizer.decode(own["input_ids"][own["loss_mask"] == 1]).startswith("<think>")


def test_the_end_of_a_turn_is_the_templates_not_the_end_of_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL, local_files_only=True)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    tokenizer.eos_token = "<|pad|>"
    assert end_of_turn(tokenizer, {}) == end
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert end_of_turn(tokenizer, {}) == tokenizer.eos_token_id


def test_verls_loss_is_the_weighted_mean_over_the_rows_own_tokens(
    data: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [row for _, row in first_games(data, tokenizer, prompt_loss_weight=0.25)][:3]
    batch = SFTTensorCollator("no_padding")(rows)
    model = Qwen3ForCausalLM.from_pretrained(MODEL, local_files_only=True, dtype=torch.float32)
    log_probs, total, weights = [], 0.0, 0.0
    for row in rows:
        with torch.inference_mode():
            logits = model(input_ids=row["input_ids"][None]).logits[0, :-1]
        own = logits.log_softmax(-1).gather(1, row["input_ids"][1:, None])[:, 0]
        # What verl puts at a row's last place is no prediction of the row.
        log_probs.append(torch.cat([own, torch.tensor([-99.0])]))
        total -= float((own * row["loss_mask"][1:]).sum())
        weights += float(row["loss_mask"].sum())
    data_ = {**batch, "dp_size": 1, "batch_num_tokens": weights, "pad_mode": "no_padding"}
    nested = torch.nested.as_nested_tensor(log_probs, layout=torch.jagged)
    loss, _ = sft_loss(None, {"log_probs": nested}, data_)
    assert float(loss) == pytest.approx(total / weights, rel=1e-5)


def test_a_row_that_does_not_fit_is_named_before_training(
    data: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(
        ValueError, match=r"val\.parquet, row \d+: \d+ tokens do not fit data\.max_"
    ):
        list(first_games(data, tokenizer, max_length=90))


def test_other_data_is_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    plain = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Safe"}]
    row = {
        "messages": plain,
        "data_source": "x",
        "extra_info": {"index": 0, "split": "train", "task": "assess", "case_id": ""},
    }
    write_rows(iter([row]), file)
    with pytest.raises(ValueError, match=r"train\.parquet, row 0: .*scripts/create_sft_data\.py"):
        SupervisedGames(str(file), tokenizer, config_of())
    with pytest.raises(ValueError, match="the last message is 'user'"):
        split_turn(plain[:1] * 2, True)


@pytest.mark.parametrize(
    "change", [{"pad_mode": "right"}, {"prompt_loss_weight": 1.5}, {"prompt_loss_weight": -0.1}]
)
def test_settings_are_checked(tokenizer: PreTrainedTokenizerBase, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"data.{next(iter(change))} is"):
        SupervisedGames("none.parquet", tokenizer, config_of(**change))
