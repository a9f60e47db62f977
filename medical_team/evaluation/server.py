"""A model behind a server that speaks OpenAI's interface.

With a tokenizer at hand prompts go to ``/completions`` as token ids, exactly those of training;
vLLM and SGLang take them. Without one they go to ``/chat/completions``, where the server's own chat
template makes the prompt: it must open ``<think>`` as an exported model's does, or the model must
open it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from medical_team.answers import THINK_CLOSE, THINK_OPEN
from medical_team.evaluation.errors import EvaluationError, GenerationError
from medical_team.evaluation.generation import Decoding, Reply
from medical_team.evaluation.transformers_model import encode
from medical_team.judges.endpoints import Endpoints
from medical_team.judges.http_answers import RefusedError, SettingNames
from medical_team.judges.settings import check_urls
from medical_team.medical_judge import JudgeError
from medical_team.prompts import Message

API_KEY_ENV = "OPENAI_API_KEY"
NAMES = SettingNames(urls="--server", model="--model-name", timeout_s="--timeout")

# What a server says to a prompt that it cannot take, while it takes others.
_OF_THE_PROMPT = frozenset({400, 413, 422})


class _Message(BaseModel):
    content: str | None = None
    reasoning: str | None = Field(
        default=None, validation_alias=AliasChoices("reasoning_content", "reasoning")
    )


class _Choice(BaseModel):
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(BaseModel):
    completion_tokens: int | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: _Usage | None = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


class ServerGenerator:
    """Answers prompts by requests; a :class:`~medical_team.evaluation.generation.Generator`.

    Args:
        endpoints: the servers; closed with the generator.
        model: its name at the server.
        decoding: how responses are decoded.
        concurrency: most requests in flight.
        tokenizer: makes the prompts here, as token ids; ``None`` leaves them to the server.
        think_opened: whether the prompts that are made here end in ``<think>``.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        model: str,
        decoding: Decoding,
        *,
        concurrency: int,
        tokenizer: Any | None = None,
        think_opened: bool = True,
    ) -> None:
        self._endpoints = endpoints
        self._model = model
        self._decoding = decoding
        self._concurrency = concurrency
        self._tokenizer = tokenizer
        self._think_opened = think_opened
        self.identity = {
            "backend": "server",
            "model": model,
            "prompts": "chat messages" if tokenizer is None else "token ids",
        }

    def generate(self, prompts: Mapping[str, Sequence[Message]]) -> Iterator[tuple[str, Reply]]:
        """Answers prompts; see :class:`~medical_team.evaluation.generation.Generator`."""
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="evaluation") as pool:
            asked = {pool.submit(self._answer, said): key for key, said in prompts.items()}
            failure: Exception | None = None
            try:
                for done in as_completed(asked):
                    if done.cancelled():
                        continue
                    try:
                        reply = done.result()
                    except (GenerationError, EvaluationError) as error:
                        # What is in flight at this moment may still be answered, and is kept.
                        failure = failure or error
                        _cancel(asked)
                        continue
                    yield asked[done], reply
            finally:
                _cancel(asked)
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Gives back the connections."""
        self._endpoints.close()

    def _answer(self, messages: Sequence[Message]) -> Reply:
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": self._decoding.max_tokens,
            "temperature": self._decoding.temperature,
        }
        if self._decoding.temperature:
            body["seed"] = self._decoding.seed
        opened = False
        if self._tokenizer is None:
            path, body["messages"] = "/chat/completions", messages
        else:
            path = "/completions"
            ids, opened = encode(self._tokenizer, messages, think_opened=self._think_opened)
            # The tags of the answer may be special tokens of the model.
            body |= {"prompt": ids, "skip_special_tokens": False}
        try:
            found = _Completion.model_validate(self._endpoints.post(path, body))
        except RefusedError as error:
            if error.status in _OF_THE_PROMPT:
                return Reply("", refusal=f"the server refused the prompt: {error}")
            raise EvaluationError(str(error)) from error
        except JudgeError as error:
            raise GenerationError(str(error)) from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return Reply(
                "",
                refusal=f"the server's answer to {path} is no completion with one choice:"
                f" {'.'.join(map(str, first['loc']))}: {first['msg']}",
            )
        return _reply(found, opened, self._tokenizer)


def open_server(
    url: str,
    model: str,
    decoding: Decoding,
    *,
    concurrency: int = 8,
    timeout_s: float = 600.0,
    attempts: int = 4,
    retry_wait_s: float = 0.5,
    tokenizer: Any | None = None,
    think_opened: bool = True,
) -> ServerGenerator:
    """Prepares requests to a server; the key comes from the environment, if there is one.

    Args:
        url: base address with the version, as ``http://HOST:PORT/v1``; several with commas between
            share the work.
        model: its name at the server.
        decoding: how responses are decoded.
        concurrency: most requests in flight.
        timeout_s: limit of one try, in seconds.
        attempts: how often a request is tried.
        retry_wait_s: wait before the first retry, in seconds; doubled each time, with jitter.
        tokenizer: makes the prompts here, as token ids.
        think_opened: whether the prompts that are made here end in ``<think>``.

    Raises:
        EvaluationError: if the address is none.
    """
    urls = tuple(filter(None, (one.strip() for one in url.split(","))))
    try:
        check_urls(urls)
    except ValueError as error:
        raise EvaluationError(str(error).replace("judge.urls", NAMES.urls)) from error
    endpoints = Endpoints(
        urls,
        api_key=os.environ.get(API_KEY_ENV),
        api_key_env=API_KEY_ENV,
        timeout_s=timeout_s,
        attempts=attempts,
        retry_wait_s=retry_wait_s,
        max_connections=concurrency,
        names=NAMES,
    )
    return ServerGenerator(
        endpoints,
        model,
        decoding,
        concurrency=concurrency,
        tokenizer=tokenizer,
        think_opened=think_opened,
    )


def served_model(url: str, timeout_s: float = 10.0) -> str:
    """The one model that a server lists.

    Raises:
        EvaluationError: if it does not list exactly one.
        GenerationError: if it does not answer.
    """
    generator = open_server(url, "", Decoding(), timeout_s=timeout_s)
    try:
        found = _Models.model_validate(generator._endpoints.get("/models"))
    except (RefusedError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise EvaluationError(
            f"--server {url} does not list its models ({reason}). Check that the address ends in"
            " its version, as /v1, or give --model-name"
        ) from error
    except JudgeError as error:
        raise GenerationError(str(error)) from error
    finally:
        generator.close()
    names = [model.id for model in found.data]
    if len(names) != 1:
        raise EvaluationError(
            f"--server {url} lists {len(names)} models, expected one"
            f" ({', '.join(names[:8]) or 'nothing'}); give --model-name"
        )
    return names[0]


def _reply(completion: _Completion, opened: bool, tokenizer: Any | None) -> Reply:
    choice, message = completion.choices[0], completion.choices[0].message
    text = choice.text or ""
    if tokenizer is not None:
        # The end token, which is shown since special tokens are not left out.
        end = tokenizer.eos_token or ""
        text = text.removesuffix(end) if end else text
    elif message is not None:
        text = message.content or ""
        if message.reasoning and THINK_CLOSE not in text:
            # A server that takes the reasoning out of the answer took out its tags too.
            text = f"{THINK_OPEN}{message.reasoning}{THINK_CLOSE}{text}"
        # The server's template may have opened it; it does not tell.
        opened = THINK_OPEN not in text
    tokens = completion.usage.completion_tokens if completion.usage else None
    return Reply(text, opened, choice.finish_reason == "length", tokens)


def _cancel(asked: Mapping[Any, str]) -> None:
    for one in asked:
        one.cancel()
