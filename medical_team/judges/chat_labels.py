"""A label as a chat completion: what is asked of the server, and how its answer is read.

The label's probability comes from the log-probabilities of the answer's first token. There the
answer is not constrained unless the settings ask for it: vLLM and SGLang report log-probabilities
after the constraint, so that the ratio of the two words is the model's own but their sum is 1 and
no longer tells a judge that wanted to say something else. Where the server gives no
log-probabilities it holds the answer to the two words.
"""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import AliasChoices, BaseModel, Field

from medical_team.judges.model_judge import Answer
from medical_team.judges.questions import NO, YES
from medical_team.judges.settings import OpenAISettings
from medical_team.medical_judge import NO_USAGE, JudgeError, JudgeUsage

_TOP_LOGPROBS = 20  # the most that OpenAI, vLLM and SGLang give
# The first token is the label, as for an engine in process. Where the server constrains the answer
# and only its text tells, the word may come in pieces; the constraint ends it.
_FIRST_TOKEN, _TOKENS_OF_WORD, _TOKENS_OF_JSON = 1, 4, 24
_JSON_KEY = "answer"
_SCHEMA = {
    "type": "object",
    "properties": {_JSON_KEY: {"type": "string", "enum": [YES, NO]}},
    "required": [_JSON_KEY],
    "additionalProperties": False,
}
_CONSTRAINTS: dict[str, dict[str, Any]] = {
    "vllm": {"structured_outputs": {"choice": [YES, NO]}},
    "sglang": {"regex": f"({YES}|{NO})"},
    "json_schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "label", "strict": True, "schema": _SCHEMA},
        }
    },
    "none": {},
}


class _Alternative(BaseModel):
    token: str
    logprob: float = Field(le=1e-3)  # a NaN is not, minus infinity is


class _Token(_Alternative):
    top_logprobs: list[_Alternative] = []


class _LogProbs(BaseModel):
    content: list[_Token] | None = None


class _Message(BaseModel):
    content: str | None = None
    reasoning: str | None = Field(
        default=None, validation_alias=AliasChoices("reasoning_content", "reasoning")
    )


class _Choice(BaseModel):
    message: _Message
    logprobs: _LogProbs | None = None


class _Details(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class Completion(BaseModel):
    """What is read of an answer: one choice, never the first of several."""

    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: _Usage | None = None

    @property
    def message(self) -> _Message:
        """The one answer."""
        return self.choices[0].message

    @property
    def tokens(self) -> list[_Token]:
        """The answer's tokens with their probabilities; empty if the server gives none."""
        told = self.choices[0].logprobs
        return (told.content if told else None) or []

    @property
    def judge_usage(self) -> JudgeUsage:
        """What the answer took."""
        if self.usage is None:
            return NO_USAGE
        details = self.usage.prompt_tokens_details
        return JudgeUsage(
            self.usage.prompt_tokens,
            None if details is None else details.cached_tokens,
            self.usage.completion_tokens,
        )


def label_request(settings: OpenAISettings) -> dict[str, Any]:
    """The fields of a request that hold the answer to one of the two words."""
    as_json = settings.dialect == "json_schema"
    constrained = as_json or settings.constrained or not settings.logprobs
    request: dict[str, Any] = dict(_CONSTRAINTS[settings.dialect]) if constrained else {}
    in_pieces = settings.dialect != "none" and not settings.logprobs
    request["max_tokens"] = _TOKENS_OF_WORD if in_pieces else _FIRST_TOKEN
    if as_json:
        request["max_tokens"] = _TOKENS_OF_JSON
    if settings.logprobs:
        request |= {"logprobs": True, "top_logprobs": _TOP_LOGPROBS}
    return request


def read_label(completion: Completion, *, as_json: bool) -> Answer:
    """The label that a completion holds.

    With log-probabilities the answer's token decides, whatever was drawn; without them the text
    must be one of the two words and nothing else.

    Args:
        completion: the server's answer.
        as_json: whether the word stands in a JSON object.

    Raises:
        JudgeError: if there is no such label.
    """
    tokens, text = completion.tokens, completion.message.content or ""
    word = _json_word(text) if as_json else _word(text.strip().removesuffix("."))
    if as_json:
        tokens = [token for token in tokens if word and _word(token.token) == word]
    if tokens:
        return _from_probabilities(tokens[0])
    if word is None:
        raise JudgeError(f"the judge answered neither {YES} nor {NO} but {text[:60]!r}")
    return Answer(word == YES)


def _from_probabilities(token: _Token) -> Answer:
    alternatives = {one.token: one.logprob for one in (token, *token.top_logprobs)}
    mass = {YES: 0.0, NO: 0.0}
    for text, logprob in alternatives.items():
        if (word := _word(text)) is not None:
            mass[word] += math.exp(min(logprob, 0.0))
    total = mass[YES] + mass[NO]
    if not total:
        raise JudgeError(
            f"neither {YES} nor {NO} is among the {len(alternatives)} likeliest answers of the"
            f" judge; the likeliest is {token.token[:60]!r}"
        )
    return Answer(mass[YES] >= mass[NO], mass[YES] / total, min(total, 1.0))


def _word(text: str) -> str | None:
    # A token may carry the blank before the word, as a blank or as the tokenizer's mark for it,
    # and in JSON the quotes around it.
    bare = text.strip(' \t\n\r"\u2581\u0120').casefold()
    return {YES.casefold(): YES, NO.casefold(): NO}.get(bare)


def _json_word(text: str) -> str | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    word = found.get(_JSON_KEY) if isinstance(found, dict) and len(found) == 1 else None
    return word if word in (YES, NO) else None
