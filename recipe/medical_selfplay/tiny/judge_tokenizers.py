"""Tokenizers with the special tokens and chat templates of the families that judge in earnest.

Their merges are learnt from the sample clinic and the judge's own prompts. What text can do to a
prompt is as with the real ones: which strings are tokens, what is special, what a template trims.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Final

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from medical_team.answers import Assessment, Classification
from medical_team.judges.questions import JudgePrompt, prompts_of
from medical_team.medical_judge import JudgeQuery
from medical_team.sample_world.knowledge import CONDITIONS
from medical_team.sample_world.notes import write_note
from medical_team.sample_world.supervised import random_example

CONTEXT: Final = 8192
_EXAMPLES: Final = 1000
_JUDGED: Final = 100
# The words of the answer, each to be one token with and without a blank before it.
LABELS: Final = ("Yes", "No", "yes", "no")

_QWEN_SPECIAL: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Qwen3 marks these as not special, so that they survive decoding; text can still hold them.
_QWEN_PLAIN: Final = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
_QWEN_PIECES: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_TEMPLATE: Final = """\
{%- set ns = namespace(last_query=messages|length - 1, searching=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == 'user' %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or message.role == 'system' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = message.content %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last_query %}
            {{- '<think>\\n' + reasoning + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

_GEMMA_FIRST: Final = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
GEMMA_SPECIAL: Final = (
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
)
# In Gemma's vocabulary but not special: reserved tokens, runs of line breaks, HTML.
_GEMMA_PLAIN: Final = (
    "[multimodal]",
    *(f"<unused{number}>" for number in range(8)),
    *("\n" * count for count in range(2, 6)),
    "<table>",
    "</table>",
    "<b>",
    "</b>",
)
_GEMMA_TEMPLATE: Final = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception('Invalid content type') }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}"""


def qwen_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer as Qwen3's.

    Args:
        vocab_size: upper limit of the vocabulary, all special tokens included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(_QWEN_SPECIAL) - len(_QWEN_PLAIN),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.add_special_tokens([_added(token, special=True) for token in _QWEN_SPECIAL])
    tokenizer.add_tokens([_added(token, special=False) for token in _QWEN_PLAIN])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(_QWEN_SPECIAL[1:]),
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=_QWEN_TEMPLATE,
    )


def gemma_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer as Gemma 3's.

    Args:
        vocab_size: upper limit of the vocabulary, all special tokens included.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    # Only while it learns: Gemma itself splits at blanks alone, and so never learnt a merge across
    # words or line breaks.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"▁?\p{L}+|\p{N}|▁?[^\p{L}\p{N}\s▁]|\n|▁"), behavior="isolated"
    )
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = [*_GEMMA_FIRST, *_GEMMA_PLAIN, *byte_pieces, *GEMMA_SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=vocabulary, show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer = _with_added_tokens(tokenizer, special={*_GEMMA_FIRST, *GEMMA_SPECIAL})
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        additional_special_tokens=list(GEMMA_SPECIAL),
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=_GEMMA_TEMPLATE,
    )


def _with_added_tokens(trained: Tokenizer, special: set[str]) -> Tokenizer:
    """As Gemma reads: byte pieces are plain vocabulary, all other such tokens stand in text."""
    state = json.loads(trained.to_str())
    kept = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    for token in kept:
        token["special"] = token["content"] in special
    state["added_tokens"] = kept
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A",
        pair="<bos> $A <bos> $B",
        special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))],
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _added(token: str, *, special: bool) -> AddedToken:
    return AddedToken(token, special=special, normalized=False)


def judge_prompts(count: int, rng: random.Random) -> Iterator[JudgePrompt]:
    """Questions about made-up games of the sample clinic, all kinds of them."""
    for number in range(count):
        clean, note = (write_note(rng.choice(CONDITIONS), rng).sentences for _ in range(2))
        answer = Assessment(Classification.HARMFUL, 1, clean[1])
        # Now and then without a reference note.
        query = JudgeQuery(str(number), clean if number % 8 else (), note, (answer,))
        yield from prompts_of(
            query, both_orders=True, ask_realistic=True, reasoning=number % 4 == 1
        )


def _texts() -> Iterator[str]:
    """What the merges are learnt from."""
    rng = random.Random(0)
    for _ in range(_EXAMPLES):
        example = random_example(rng)
        yield from (message["content"] for message in example.messages)
        yield example.response
    yield from (prompt.text for prompt in judge_prompts(_JUDGED, rng))
    yield from [f"{word} {word}\n{word}" for word in LABELS] * _EXAMPLES
