"""Judge models with random weights and real tokenizers, for runs without the hub.

They have the architecture, special tokens and chat template of the families that judge in earnest,
so that every line of a judge's back end runs on them. Their labels are noise.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final, Literal, get_args

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from recipe.medical_selfplay.tiny.judge_tokenizers import (
    CONTEXT,
    GEMMA_SPECIAL,
    LABELS,
    gemma_tokenizer,
    judge_prompts,
    qwen_tokenizer,
)
from recipe.medical_selfplay.tiny.training import save

Family = Literal["qwen3", "gemma3", "gemma3_vision"]
FAMILIES: Final = get_args(Family)

SLIDING_WINDOW: Final = 64
_LEAST_VOCABULARY: Final = 512
_PROBES: Final = 12
# Of the answer's logits: above all other tokens' and, as a standard deviation, between the two.
_BOOST: Final = 14.0
_SPREAD: Final = 1.5


def write_random_model(
    folder: Path,
    family: Family,
    *,
    hidden_size: int = 64,
    layers: int = 2,
    vocab_size: int = 2000,
    seed: int = 0,
) -> None:
    """Writes a model with random weights and its tokenizer.

    Args:
        folder: where it goes; each file is there whole or not at all, the weights last.
        family: ``qwen3``; ``gemma3``, text only as medgemma-27b-text-it; ``gemma3_vision``, with
            a vision tower as medgemma-4b-it. Gemma's layers alternate between a window of
            ``SLIDING_WINDOW`` tokens and full attention.
        hidden_size: width, a multiple of 64.
        layers: number of layers.
        vocab_size: upper limit of the vocabulary, all special tokens included.
        seed: of the weights; the tokenizer does not depend on it.

    Raises:
        ValueError: if an argument is out of range.
    """
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}, known: {', '.join(FAMILIES)}")
    if hidden_size < 64 or hidden_size % 64:
        raise ValueError(f"hidden_size is {hidden_size}, expected a multiple of 64")
    if layers < 1:
        raise ValueError(f"layers is {layers}, expected at least 1")
    if vocab_size < _LEAST_VOCABULARY:
        raise ValueError(f"vocab_size is {vocab_size}, expected at least {_LEAST_VOCABULARY}")
    tokenizer = qwen_tokenizer(vocab_size) if family == "qwen3" else gemma_tokenizer(vocab_size)
    split = [word for word in LABELS if len(tokenizer.tokenize(word)) != 1]
    if split:
        raise ValueError(
            f"vocab_size is {vocab_size}, too few for {', '.join(split)} to be one token each"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(family, tokenizer, hidden_size, layers)
        _make_decided(model, tokenizer)
    save(model, tokenizer, folder)


def _model(
    family: Family, tokenizer: PreTrainedTokenizerFast, hidden_size: int, layers: int
) -> PreTrainedModel:
    head_dim = 32 if hidden_size < 512 else 64
    heads = hidden_size // head_dim
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": head_dim,
        "max_position_embeddings": CONTEXT,
        # Wide enough that a word anywhere in the prompt reaches the answer.
        "initializer_range": hidden_size**-0.5,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**shape))
    text = Gemma3TextConfig(
        **shape,
        sliding_window=SLIDING_WINDOW,
        layer_types=[("sliding_attention", "full_attention")[layer % 2] for layer in range(layers)],
        query_pre_attn_scalar=head_dim,
    )
    if family == "gemma3":
        return Gemma3ForCausalLM(text)
    begin, end, image = tokenizer.convert_tokens_to_ids(list(GEMMA_SPECIAL[2:]))
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    config = Gemma3Config(
        text_config=text.to_dict(),
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=begin,
        eoi_token_index=end,
        image_token_index=image,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return Gemma3ForConditionalGeneration(config)


@torch.inference_mode()
def _make_decided(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Lets the model answer Yes or No nearly always, and both of them about equally often.

    Random output weights would give the two words no more probability than any other two tokens,
    and every game would be unscored.
    """
    rng = random.Random(0)
    hidden = torch.stack(
        [
            model.base_model(**_encoded(tokenizer, prompt.messages)).last_hidden_state[0, -1]
            for prompt in judge_prompts(_PROBES, rng)
        ]
    )
    middle = hidden.mean(dim=0)
    spread = hidden - middle
    # The direction in which prompts differ most, without what they have in common.
    direction = torch.linalg.svd(spread).Vh[0]
    direction -= middle * (direction @ middle) / (middle @ middle)
    direction *= _SPREAD / (spread @ direction).std()
    common = middle * _BOOST / (middle @ middle)
    yes, no = tokenizer.convert_tokens_to_ids(list(LABELS[:2]))
    model.lm_head.weight[yes] = common + direction / 2
    model.lm_head.weight[no] = common - direction / 2


def _encoded(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]
) -> dict[str, torch.Tensor]:
    encoded = tokenizer.apply_chat_template(
        messages,
        add_generation_prompt=True,
        enable_thinking=False,
        return_dict=True,
        return_tensors="pt",
    )
    return {"input_ids": encoded["input_ids"]}
