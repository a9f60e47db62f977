"""Words that a model in this process says about a case before it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medical_team.judges.packing import PackedRow
from medical_team.judges.questions import PromptKey
from medical_team.medical_judge import JudgeUsage


@dataclass(frozen=True, slots=True)
class Spoken:
    """What the model said to one prompt.

    Attributes:
        text: its words, without special tokens.
        usage: what they took.
    """

    text: str
    usage: JudgeUsage


def speak(
    model: Any, tokenizer: Any, rows: Sequence[PackedRow], most: int
) -> dict[PromptKey, Spoken]:
    """Lets a model answer a batch of prompts in words, the likeliest one each time.

    Args:
        model: a causal language model of ``transformers``.
        tokenizer: its tokenizer.
        rows: prompts, one question a row.
        most: most tokens of an answer.
    """
    import torch
    from transformers import GenerationConfig

    prompts = {
        key: row.rubric + row.opening + row.case + question
        for row in rows
        for key, question in row.questions.items()
    }
    length = max(map(len, prompts.values()))
    pads = [length - len(ids) for ids in prompts.values()]
    ends = model.generation_config.eos_token_id or tokenizer.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends)
    # On the left, so that every answer begins where its prompt ends.
    padded = [[ends[0]] * pad + list(ids) for pad, ids in zip(pads, prompts.values(), strict=True)]
    seen = [[0] * pad + [1] * (length - pad) for pad in pads]
    generated = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(seen, device=model.device),
        # All of it, so that no sampling comes in from the model's own folder.
        generation_config=GenerationConfig(
            max_new_tokens=most,
            do_sample=False,
            num_beams=1,
            eos_token_id=ends,
            pad_token_id=ends[0],
            cache_implementation="dynamic",
        ),
    )
    spoken = {}
    for (key, prompt), ids in zip(prompts.items(), generated[:, length:].tolist(), strict=True):
        count = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
        text = tokenizer.decode(ids[:count], skip_special_tokens=True)
        spoken[key] = Spoken(text, JudgeUsage(len(prompt), 0, count))
    return spoken
