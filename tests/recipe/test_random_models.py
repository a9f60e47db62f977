"""The random judge models: what tests and offline runs rely on."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jinja2 import TemplateError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from recipe.medical_selfplay.tiny.judge_tokenizers import judge_prompts
from recipe.medical_selfplay.tiny.random_models import (
    FAMILIES,
    SLIDING_WINDOW,
    Family,
    write_random_model,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    base = tmp_path_factory.mktemp("random")
    for family in FAMILIES:
        write_random_model(base / family, family)
    return {family: base / family for family in FAMILIES}


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def rendered(folder: Path, *contents: str, first: str = "user", **options: bool) -> str:
    roles = [first, "user" if first == "system" else "assistant", "assistant", "user"]
    if first == "user":
        roles = ["user", "assistant", "user"]
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return str(
        tokenizer_of(folder).apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **options
        )
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_both_answers_occur_and_have_nearly_all_probability(
    folders: dict[Family, Path], family: Family
) -> None:
    tokenizer = tokenizer_of(folders[family])
    model = AutoModelForCausalLM.from_pretrained(folders[family], local_files_only=True)
    words = tokenizer.convert_tokens_to_ids(["Yes", "No"])
    yes, mass = [], []
    for prompt in judge_prompts(6, random.Random(9)):
        ids = tokenizer.apply_chat_template(
            prompt.messages, add_generation_prompt=True, enable_thinking=False, return_tensors="pt"
        )["input_ids"]
        with torch.inference_mode():
            labels = model(input_ids=ids).logits[0, -1].softmax(-1)[words]
        yes.append(labels[0] > labels[1])
        mass.append(labels.sum())
    assert any(yes) and not all(yes)
    assert torch.stack(mass).median() > 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_each_word_of_the_answer_is_one_token(folders: dict[Family, Path], family: Family) -> None:
    tokenizer = tokenizer_of(folders[family])
    for word in ("Yes", "No", "yes", "no"):
        assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_text_survives_the_tokenizer(folders: dict[Family, Path], family: Family) -> None:
    tokenizer = tokenizer_of(folders[family])
    text = "Pulse is 90/min, 38.5 °C.\n\n漢字 \U0001f600 x"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_gemma_folds_the_system_message_into_the_first_turn_and_trims(
    folders: dict[Family, Path],
) -> None:
    assert rendered(folders["gemma3"], "Rules.", "  Hi. \n", first="system") == (
        "<bos><start_of_turn>user\nRules.\n\nHi.<end_of_turn>\n<start_of_turn>model\n"
    )


def test_gemma_refuses_two_turns_of_one_role(folders: dict[Family, Path]) -> None:
    twice = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(TemplateError, match="must alternate"):
        tokenizer_of(folders["gemma3"]).apply_chat_template(twice, tokenize=False)


def test_qwen_closes_an_empty_think_block_when_thinking_is_off(
    folders: dict[Family, Path],
) -> None:
    asked = "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"
    assert rendered(folders["qwen3"], "Hi.") == asked
    assert rendered(folders["qwen3"], "Hi.", enable_thinking=False) == (
        asked + "<think>\n\n</think>\n\n"
    )


def test_qwen_drops_the_reasoning_of_earlier_turns(folders: dict[Family, Path]) -> None:
    assert "hidden" not in rendered(folders["qwen3"], "Hi.", "<think>hidden</think>\nYo.", "Go on.")


@pytest.mark.parametrize(
    ("family", "special", "plain"),
    [
        ("qwen3", "<|im_end|>", "<tool_call>"),
        ("gemma3", "<end_of_turn>", "<unused0>"),
    ],
)
def test_special_and_plain_added_tokens_are_marked_as_in_the_real_tokenizers(
    folders: dict[Family, Path], family: Family, special: str, plain: str
) -> None:
    added = {t.content: t for t in tokenizer_of(folders[family]).added_tokens_decoder.values()}
    assert added[special].special
    assert not added[plain].special


def test_gemma_layers_alternate_and_the_window_is_shorter_than_a_prompt(
    folders: dict[Family, Path],
) -> None:
    config = AutoModelForCausalLM.from_pretrained(folders["gemma3_vision"]).config.text_config
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert config.sliding_window == SLIDING_WINDOW < 200


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone(
    tmp_path: Path,
) -> None:
    before = torch.random.get_rng_state()
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_model(tmp_path / name, "qwen3", seed=seed)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"family": "bert"}, "family is 'bert', known: qwen3"),
        ({"hidden_size": 80}, "hidden_size is 80, expected a multiple of 64"),
        ({"layers": 0}, "layers is 0"),
        ({"vocab_size": 300}, "vocab_size is 300"),
    ],
)
def test_an_argument_out_of_range_is_named_and_nothing_is_written(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_random_model(tmp_path / "model", **{"family": "qwen3", **changed})  # type: ignore[arg-type]
    assert not (tmp_path / "model").exists()


def test_the_script_says_that_the_labels_are_noise(tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    done = subprocess.run(
        [sys.executable, "scripts/make_random_judge.py", "--family", "gemma3", "--output", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "noise" in done.stdout
    assert (folder / "model.safetensors").is_file()
    assert not list(folder.glob(".partial*"))
