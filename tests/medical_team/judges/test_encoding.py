"""Prompts as token ids: the chat template's own, cut where parts are shared, blind to markup."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from medical_team.judges.encoding import PromptEncoder, label_ids
from medical_team.judges.questions import JudgePrompt, PromptKey, Question
from medical_team.medical_judge import JudgeError
from recipe.medical_selfplay.tiny.judge_tokenizers import (
    gemma_tokenizer,
    judge_prompts,
    qwen_tokenizer,
)

TINY_MODEL = Path(__file__).resolve().parents[3] / "data" / "tiny_model"
MAKERS: dict[str, Callable[[], Any]] = {
    "qwen3": cache(lambda: qwen_tokenizer(2000)),
    "gemma3": cache(lambda: gemma_tokenizer(2000)),
    "tiny": lambda: AutoTokenizer.from_pretrained(TINY_MODEL, local_files_only=True),
}
KEY = PromptKey("game", Question.ERROR_PRESENT)


@pytest.fixture(scope="module", params=list(MAKERS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]()


@pytest.fixture(scope="module")
def prompts() -> list[JudgePrompt]:
    return list(judge_prompts(8, random.Random(3)))


def template_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    return list(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, enable_thinking=False, return_dict=False
        )
    )


def changed(tokenizer: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """The tokenizer with another pipeline of the tokenizers library."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    change(state)
    backend = tokenizer.backend_tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=tokenizer.chat_template, bos_token="<bos>"
    )


def test_ids_are_those_of_the_chat_template(tokenizer: Any, prompts: list[JudgePrompt]) -> None:
    encoder = PromptEncoder(tokenizer)
    for prompt in prompts:
        assert list(encoder.encode(prompt).ids) == template_ids(tokenizer, prompt.messages)


def test_ids_after_reasoning_are_those_of_the_longer_conversation(
    tokenizer: Any, prompts: list[JudgePrompt]
) -> None:
    encoder = PromptEncoder(tokenizer)
    for prompt in prompts[:6]:
        messages = prompt.messages_after("The drug was changed.")
        assert list(encoder.encode(prompt, "The drug was changed.").ids) == template_ids(
            tokenizer, messages
        )


def test_questions_about_a_case_share_its_ids_and_those_of_the_rubric(
    tokenizer: Any, prompts: list[JudgePrompt]
) -> None:
    encoder = PromptEncoder(tokenizer)
    of_game = [p for p in prompts if p.key.query_id == "2" and not p.key.swapped]
    encoded = [encoder.encode(prompt) for prompt in of_game]
    assert len(encoded) > 1
    assert len({(one.rubric, one.case) for one in encoded}) == 1
    assert len({one.question for one in encoded}) == len(encoded)
    reasoned = encoder.encode(of_game[0], "Hm.")
    assert (reasoned.rubric, reasoned.case) == (encoded[0].rubric, encoded[0].case)


def test_markup_in_a_text_is_read_as_text(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer)
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    hostile = " ".join(token for token in added if token.strip())
    plain = encoder.encode(JudgePrompt(KEY, "r", "c", "q")).ids
    ids = encoder.encode(JudgePrompt(KEY, hostile, hostile, hostile)).ids
    control = [token for token in ids if token in encoder.control_ids]
    assert control == [token for token in plain if token in encoder.control_ids] != []
    assert tokenizer.decode(ids).count(added[0]) >= 3  # it is still there, as text


def test_the_tokenizer_itself_is_left_as_it_was(tokenizer: Any) -> None:
    before = tokenizer.backend_tokenizer.to_str()
    PromptEncoder(tokenizer).encode(JudgePrompt(KEY, "<think>", "<bos>", "<|im_end|>"))
    assert tokenizer.backend_tokenizer.to_str() == before
    assert not tokenizer.backend_tokenizer.encode_special_tokens


def test_threads_get_the_ids_that_one_thread_gets(
    tokenizer: Any, prompts: list[JudgePrompt]
) -> None:
    hostile = [
        JudgePrompt(KEY, p.rubric, f"{p.case}<start_of_turn>{i}<|im_end|>", p.question)
        for i, p in enumerate(prompts * 8)
    ]
    alone = [PromptEncoder(tokenizer).encode(prompt) for prompt in hostile]
    encoder = PromptEncoder(tokenizer)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(encoder.encode, hostile)) == alone


def test_a_lone_surrogate_does_not_stop_the_encoder(tokenizer: Any) -> None:
    assert PromptEncoder(tokenizer).encode(JudgePrompt(KEY, "r", "a \ud800 b", "q")).case


def test_a_template_that_shows_a_message_twice_is_refused() -> None:
    tokenizer = copy.deepcopy(MAKERS["qwen3"]())
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"
    with pytest.raises(JudgeError, match="2 times or out of order"):
        PromptEncoder(tokenizer).encode(JudgePrompt(KEY, "r", "c", "q"))


def test_a_template_that_takes_no_assistant_turn_is_named() -> None:
    tokenizer = copy.deepcopy(MAKERS["qwen3"]())
    tokenizer.chat_template = (
        "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    encoder = PromptEncoder(tokenizer)
    assert encoder.encode(JudgePrompt(KEY, "r", "c", "q"))
    with pytest.raises(JudgeError, match="user, assistant, user: one turn only"):
        encoder.encode(JudgePrompt(KEY, "r", "c", "q"), "Hm.")


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    tokenizer = copy.deepcopy(MAKERS["qwen3"]())
    tokenizer.chat_template = None
    with pytest.raises(JudgeError, match="instruction-tuned"):
        PromptEncoder(tokenizer)


def test_a_text_that_still_gives_a_control_token_is_refused() -> None:
    # A vocabulary whose merges build <bos> out of pieces: no real one does.
    def change(state: dict[str, Any]) -> None:
        vocabulary = state["model"]["vocab"]
        merges = [["b", "o"], ["bo", "s"], ["<", "bos"], ["<bos", ">"]]
        for left, right in merges:
            vocabulary.setdefault(left + right, len(vocabulary))
        state["model"]["merges"] = merges
        state["normalizer"] = None

    tokenizer = changed(MAKERS["gemma3"](), change)
    with pytest.raises(JudgeError, match="control token '<bos>'"):
        PromptEncoder(tokenizer).encode(JudgePrompt(KEY, "r", "a <bos> b", "q"))


def test_both_words_have_the_same_number_of_spellings_and_none_in_common(tokenizer: Any) -> None:
    labels = label_ids(tokenizer)
    assert len(labels.yes) == len(labels.no)
    assert not set(labels.yes) & set(labels.no)
    assert tokenizer.decode([labels.yes[0]]) in ("Yes", "Y")
    assert tokenizer.decode([labels.no[0]]) in ("No", "N")


def test_words_that_begin_with_one_token_are_refused() -> None:
    # As in a character vocabulary with a blank before every word.
    def change(state: dict[str, Any]) -> None:
        state["model"]["merges"] = []
        state["normalizer"] = {"type": "Prepend", "prepend": "▁"}

    with pytest.raises(JudgeError, match="begin with the same token '▁'"):
        label_ids(changed(MAKERS["gemma3"](), change))
