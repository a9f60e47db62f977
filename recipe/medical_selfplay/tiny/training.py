"""Training of the embedded tiny model: a Qwen3 of 1 M parameters that can just play the game.

It is trained on worked games of the sample clinic until it keeps the format and detects errors
better than chance, and no further: what is left is for self-play to learn.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Final

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from medical_team.answers import THINK_OPEN
from medical_team.medec import Case
from medical_team.sample_world.supervised import Example, random_example
from recipe.medical_selfplay.tiny.evaluation import Scores, evaluate
from recipe.medical_selfplay.tiny.tokenizer import train_tokenizer

CONTEXT: Final = 4096
_VOCABULARY: Final = 1500
_TOKENIZER_TEXTS: Final = 6000
_BATCH: Final = 16
_LEARNING_RATE: Final = 3e-3
_WARM_UP_STEPS: Final = 100
_PROMPT_LOSS_WEIGHT: Final = 0.3
_EVALUATE_EVERY: Final = 150
_EVALUATION_SAMPLES: Final = 4
_IGNORED: Final = -100


@dataclass(frozen=True, slots=True)
class Target:
    """When training stops: the first evaluation at temperature 1 that reaches all of these."""

    format_kept: float = 0.985
    balanced_accuracy: float = 0.65
    inject_real: float = 0.78
    hide_real: float = 0.65

    def reached(self, scores: Scores) -> bool:
        """Whether every score is at least its target."""
        return all(getattr(scores, name) >= getattr(self, name) for name in self.__slots__)


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained model whose vocabulary is exactly the tokenizer's."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def train(
    output_dir: Path,
    val_cases: Sequence[Case],
    *,
    seed: int,
    max_steps: int,
    target: Target,
    log: Callable[[str], None],
) -> Qwen3ForCausalLM:
    """Trains tokenizer and model from nothing and saves them at every evaluation.

    Args:
        output_dir: where the model goes; each file is replaced as a whole.
        val_cases: cases on which the target is measured.
        seed: of the data, the weights and the sampling.
        max_steps: length of the learning-rate schedule; training stops there at the latest.
        target: where training stops.
        log: takes one line per evaluation.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = train_tokenizer(
        _texts(random_example(rng) for _ in range(_TOKENIZER_TEXTS)), _VOCABULARY, CONTEXT
    )
    model = new_model(tokenizer)
    optimizers = _optimizers(model)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min(1.0, (step + 1) / _WARM_UP_STEPS) * _cosine(step / max_steps),
        )
        for optimizer in optimizers
    ]
    log(f"{model.num_parameters()} parameters, {len(tokenizer)} tokens")
    started, loss_sum = time.monotonic(), 0.0
    for step in range(1, max_steps + 1):
        model.train()
        loss = _loss(model, tokenizer, [random_example(rng) for _ in range(_BATCH)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        loss_sum += loss.item()
        if step % _EVALUATE_EVERY and step != max_steps:
            continue
        scores = evaluate(
            model, tokenizer, val_cases, temperature=1.0, samples=_EVALUATION_SAMPLES, seed=seed
        )
        log(
            f"step {step}  {time.monotonic() - started:.0f} s"
            f"  loss {loss_sum / _EVALUATE_EVERY:.3f}"
            f"  format {scores.format_kept:.3f}  balanced accuracy {scores.balanced_accuracy:.3f}"
            f"  right sentence {scores.right_sentence:.3f}  inject {scores.inject_real:.3f}"
            f"  hide {scores.hide_real:.3f}"
        )
        loss_sum = 0.0
        save(model, tokenizer, output_dir)
        if target.reached(scores):
            break
    return model


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, output_dir: Path) -> None:
    """Writes the model folder file by file, each whole or not at all, the weights last."""
    output_dir.mkdir(parents=True, exist_ok=True)
    partial = output_dir / f".partial.{os.getpid()}"
    try:
        tokenizer.save_pretrained(partial)
        model.save_pretrained(partial)
        for path in sorted(partial.iterdir(), key=lambda path: path.suffix == ".safetensors"):
            # The safetensors writer makes its file readable by its owner only.
            path.chmod(0o644)
            os.replace(path, output_dir / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _texts(examples: Iterable[Example]) -> Iterator[str]:
    for example in examples:
        yield from (message["content"] for message in example.messages)
        yield example.response


def _optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices inside the layers, AdamW for the rest."""
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(
            hidden, lr=_LEARNING_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _cosine(progress: float) -> float:
    return 0.02 + 0.98 * (1 + cos(pi * min(1.0, progress))) / 2


def _loss(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]
) -> torch.Tensor:
    prompts = [
        tokenizer.apply_chat_template(e.messages, add_generation_prompt=True, tokenize=False)
        + THINK_OPEN
        for e in examples
    ]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    response_ids = tokenizer(
        [e.response + tokenizer.eos_token for e in examples], add_special_tokens=False
    )["input_ids"]
    width = max(len(p) + len(r) for p, r in zip(prompt_ids, response_ids, strict=True))
    ids = torch.full((len(examples), width), tokenizer.pad_token_id)
    labels = torch.full((len(examples), width), _IGNORED)
    weights = torch.zeros(len(examples), width)
    for row, (prompt, response) in enumerate(zip(prompt_ids, response_ids, strict=True)):
        length = len(prompt) + len(response)
        ids[row, :length] = torch.tensor(prompt + response)
        labels[row, :length] = ids[row, :length]
        weights[row, : len(prompt)] = _PROMPT_LOSS_WEIGHT
        weights[row, len(prompt) : length] = 1.0
    # Padding stands at the end and attention is causal: no mask is needed.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids).logits
    losses = cross_entropy(
        logits[:, :-1].float().flatten(0, 1),
        labels[:, 1:].flatten(),
        ignore_index=_IGNORED,
        reduction="none",
    )
    return (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
