"""From a judge's prompt to token ids, such that no control token can come from a text.

A chat template is rendered with placeholders where the contents go and cut there. The template's
own pieces are tokenised as the model's tokenizer does it; the contents are tokenised by a copy that
knows no control token, so that ``<end_of_turn>`` in a note is nine ordinary pieces. What comes
first in every prompt comes first in the ids too, token by token, so that it can be computed once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from medical_team.judges.questions import NO, YES, JudgePrompt
from medical_team.medical_judge import JudgeError

# Added tokens with one of these are markup of some kind, whether or not they are called special:
# <think>, <tool_call>, <unused0>, [multimodal]. Others are runs of white space or whole words.
_MARKUP = frozenset("<>[]|{}")


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt's token ids in three parts; a part is the same wherever its text is the same.

    Attributes:
        rubric: the start of the chat and the rubric.
        case: the two notes.
        question: the question and the end of the chat, up to where the answer begins.
    """

    rubric: tuple[int, ...]
    case: tuple[int, ...]
    question: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """The whole prompt."""
        return self.rubric + self.case + self.question


@dataclass(frozen=True, slots=True)
class LabelIds:
    """The tokens with which an answer begins.

    Attributes:
        yes: of the spellings of Yes, the plain one first.
        no: of the spellings of No, the plain one first.
    """

    yes: tuple[int, ...]
    no: tuple[int, ...]


class PromptEncoder:
    """Encodes prompts for one model; safe to use from several threads.

    Args:
        tokenizer: a fast tokenizer of ``transformers`` with a chat template. It is only read.

    Raises:
        JudgeError: if it is not fast or has no chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise JudgeError(
                f"the tokenizer of {tokenizer.name_or_path} is {type(tokenizer).__name__}, which"
                " is not a fast one; a judge needs tokenizer.json beside its weights"
            )
        if not tokenizer.chat_template:
            raise JudgeError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template; take an"
                " instruction-tuned model"
            )
        self._tokenizer = tokenizer
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        self.control_ids = frozenset(
            token["id"] for token in state["added_tokens"] if _is_control(token)
        )
        self._template_reader = _reader(state)
        self._content_reader = _content_reader(state)
        self._template_pieces = lru_cache(maxsize=16)(self._cut_template)
        # The rubric is the same in every prompt, a case in a handful that come together.
        self._content = lru_cache(maxsize=256)(self._encode_content)

    def encode(self, prompt: JudgePrompt, reasoning: str | None = None) -> EncodedPrompt:
        """The token ids of a prompt, up to where the model's turn begins.

        Args:
            prompt: the prompt; every text in it is untrusted.
            reasoning: what the model said to it, if the word of the answer is asked for now.

        Raises:
            JudgeError: if the chat template takes no such conversation, or a text would give a
                control token, which no known tokenizer does.
        """
        messages = prompt.messages if reasoning is None else prompt.messages_after(reasoning)
        before, *pieces = self._template_pieces(tuple(message["role"] for message in messages))
        question = self._content(prompt.question) + pieces[0]
        for message, piece in zip(messages[1:], pieces[1:], strict=True):
            question += self._content(message["content"]) + piece
        return EncodedPrompt(
            before + self._content(prompt.rubric), self._content(prompt.case), question
        )

    def _encode_content(self, text: str) -> tuple[int, ...]:
        # A lone surrogate is no text that a tokenizer can read.
        readable = text.encode("utf-8", "replace").decode("utf-8")
        ids = tuple(self._content_reader.encode(readable, add_special_tokens=False).ids)
        if not self.control_ids.isdisjoint(ids):
            found = self._tokenizer.convert_ids_to_tokens(sorted(self.control_ids & set(ids)))
            raise JudgeError(f"a text gives the control token {found[0]!r}; it cannot be judged")
        return ids

    def _cut_template(self, roles: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """The template's ids before, between and after the contents of a conversation."""
        marks = [f"\ue000{number}\ue001" for number in range(len(roles))]
        messages = [
            {"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)
        ]
        try:
            rest = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except Exception as error:  # a template may raise anything
            raise JudgeError(
                f"the chat template of {self._tokenizer.name_or_path} refuses the roles"
                f" {', '.join(roles)}: {error}"
            ) from error
        pieces: list[tuple[int, ...]] = []
        for mark in marks:
            if rest.count(mark) != 1:
                raise JudgeError(
                    f"the chat template of {self._tokenizer.name_or_path} shows a message"
                    f" {rest.count(mark)} times or out of order, expected once and in order"
                )
            piece, _, rest = rest.partition(mark)
            pieces.append(self._template_ids(piece))
        return (*pieces, self._template_ids(rest))

    def _template_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._template_reader.encode(text, add_special_tokens=False).ids)


def label_ids(tokenizer: Any) -> LabelIds:
    """The tokens with which a model may begin the answer Yes or No.

    Beside the plain words, other spellings count (upper and lower case, with a blank before) where
    both are one token. A plain word of several tokens counts by its first one.

    Args:
        tokenizer: a fast tokenizer of ``transformers``.

    Raises:
        JudgeError: if the two words begin with the same token.
    """

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    yes, no = [ids(YES)[0]], [ids(NO)[0]]
    if yes == no:
        raise JudgeError(
            f"with the tokenizer of {tokenizer.name_or_path} {YES} and {NO} begin with the same"
            f" token {tokenizer.convert_ids_to_tokens(yes[0])!r}; take a model whose tokenizer"
            " tells the words apart"
        )
    for spelling in ("{}", " {}"):
        for form in (str.title, str.lower, str.upper):
            pair = [ids(spelling.format(form(word))) for word in (YES, NO)]
            # Only both together, so that no word has more ways to be said than the other.
            if all(len(one) == 1 for one in pair):
                yes += [one for one in pair[0] if one not in yes]
                no += [one for one in pair[1] if one not in no]
    return LabelIds(tuple(yes), tuple(no))


def _is_control(token: dict[str, Any]) -> bool:
    return token["special"] or not _MARKUP.isdisjoint(token["content"])


def _reader(state: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer

    reader = Tokenizer.from_str(json.dumps(state))
    reader.no_truncation()
    reader.no_padding()
    return reader


def _content_reader(state: dict[str, Any]) -> Any:
    added = [{**token, "special": _is_control(token)} for token in state["added_tokens"]]
    reader = _reader({**state, "added_tokens": added})
    reader.encode_special_tokens = True  # special tokens are read as the text that they are
    return reader
