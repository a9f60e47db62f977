"""A judge model behind any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from medical_team.judges.chat_labels import Completion, label_request, read_label
from medical_team.judges.endpoints import Endpoints, Seat, open_endpoints
from medical_team.judges.model_judge import Answer, ModelJudge
from medical_team.judges.questions import JudgePrompt, PromptKey
from medical_team.judges.settings import OpenAISettings
from medical_team.medical_judge import NO_USAGE, JudgeError, JudgeUnavailableError
from medical_team.prompts import Message

logger = logging.getLogger(__name__)

_LOOK_AT_MODELS_S = 5.0
_HARMLESS: list[Message] = [{"role": "user", "content": "Answer Yes."}]


class _Model(BaseModel):
    id: str
    root: str | None = None
    revision: str | None = None


class _Models(BaseModel):
    data: list[_Model]


class OpenAIEngine:
    """Answers yes-or-no prompts by chat completions.

    The questions of one game run one after another on one server, whose prefix cache holds the
    case after the first; games run side by side.

    Args:
        endpoints: the servers; closed with the engine.
        settings: the model's name and how a choice is constrained.
    """

    def __init__(self, endpoints: Endpoints, settings: OpenAISettings) -> None:
        self._endpoints = endpoints
        self._settings = settings

    def answer(
        self, prompts: Sequence[JudgePrompt], reasoning_tokens: int
    ) -> dict[PromptKey, Answer | JudgeError]:
        """Answers a batch of prompts; see :class:`~medical_team.judges.model_judge.LabelEngine`."""
        games: dict[str, list[JudgePrompt]] = {}
        for prompt in prompts:
            games.setdefault(prompt.key.query_id, []).append(prompt)
        return self._endpoints.run(self._answer_all(list(games.values()), reasoning_tokens))

    def close(self) -> None:
        """Gives back the connections."""
        self._endpoints.close()

    async def _answer_all(
        self, games: Sequence[Sequence[JudgePrompt]], reasoning_tokens: int
    ) -> dict[PromptKey, Answer | JudgeError]:
        answered = await asyncio.gather(
            *(self._answer_game(game, reasoning_tokens) for game in games)
        )
        return {key: answer for game in answered for key, answer in game.items()}

    async def _answer_game(
        self, prompts: Sequence[JudgePrompt], reasoning_tokens: int
    ) -> dict[PromptKey, Answer | JudgeError]:
        seat = Seat()
        found: dict[PromptKey, Answer | JudgeError] = {}
        away: JudgeUnavailableError | None = None
        for prompt in prompts:
            try:
                # Each further question would only wait as long as this one did.
                found[prompt.key] = away or await self._label(prompt, reasoning_tokens, seat)
            except JudgeUnavailableError as error:
                if _internal(error) and await self._answers_others():
                    found[prompt.key] = JudgeError(f"the judge fails on this game alone: {error}")
                else:
                    found[prompt.key] = away = error
            except JudgeError as error:
                found[prompt.key] = error
        return found

    async def _answers_others(self) -> bool:
        """Whether a harmless question is answered.

        A server, or verl's router before it, says 500 to a prompt that it cannot bear, such as one
        that is too long. That must not look like an outage, for which the run would wait and stop.
        """
        try:
            await self._complete(_HARMLESS, {"max_tokens": 1}, Seat())
        except JudgeError:
            return False
        return True

    async def _label(self, prompt: JudgePrompt, reasoning_tokens: int, seat: Seat) -> Answer:
        messages, usage = prompt.messages, NO_USAGE
        if reasoning_tokens:
            thought = await self._complete(messages, {"max_tokens": reasoning_tokens}, seat)
            said = thought.message.content or thought.message.reasoning or ""
            messages, usage = prompt.messages_after(said), thought.judge_usage
        completion = await self._complete(messages, label_request(self._settings), seat)
        answer = read_label(completion, as_json=self._settings.dialect == "json_schema")
        return replace(answer, usage=usage + completion.judge_usage)

    async def _complete(
        self, messages: Sequence[Message], options: Mapping[str, Any], seat: Seat
    ) -> Completion:
        body = {"model": self._settings.model, "messages": messages, "temperature": 0, **options}
        if self._settings.dialect in ("vllm", "sglang"):
            # As the back ends in process do: a template may open a reasoning block otherwise.
            body["chat_template_kwargs"] = {"enable_thinking": False}
        found = await self._endpoints.send("POST", "/chat/completions", body, seat)
        try:
            return Completion.model_validate(found)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise JudgeError(
                "the judge server's answer is no chat completion with one choice:"
                f" {'.'.join(map(str, first['loc']))}: {first['msg']}"
            ) from None


def _internal(error: JudgeUnavailableError) -> bool:
    return getattr(error.__cause__, "status", None) == 500


def build(settings: OpenAISettings) -> ModelJudge:
    """Makes the judge; its servers need not be up yet."""
    engine = OpenAIEngine(open_endpoints(settings), settings)
    return ModelJudge(engine, settings, lambda: served_revision(settings))


def served_revision(settings: OpenAISettings) -> str:
    """What the server says it serves under the model's name, as far as the name does not say it.

    Empty where it does not list the model or has nothing to add.

    Raises:
        JudgeUnavailableError: if no server answers; what it serves is not known then.
    """
    once = replace(settings, attempts=1, timeout_s=min(_LOOK_AT_MODELS_S, settings.timeout_s))
    endpoints = open_endpoints(once)
    try:
        models = _Models.model_validate(endpoints.get("/models")).data
    except JudgeUnavailableError:
        raise
    except (JudgeError, ValidationError) as error:
        logger.warning("The judge server does not say what it serves: %s", error)
        return ""
    finally:
        endpoints.close()
    for model in models:
        if model.id == settings.model:
            root = model.root if model.root != model.id else None
            return "@".join(part for part in (root, model.revision) if part)
    # Not an error: transformers serve lists only what it finds in the hub's cache.
    logger.warning(
        "The judge server does not list judge.model=%s; it lists: %s",
        settings.model,
        ", ".join(model.id for model in models) or "nothing",
    )
    return ""
