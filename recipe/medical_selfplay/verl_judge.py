"""The judge that verl serves in a resource pool of its own, and what verl wants set for it.

verl passes the address of its router to the reward manager, which asks it like any other
OpenAI-compatible server. Several of verl's settings decide whether that ever happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod
from typing import Any, NoReturn

from omegaconf import DictConfig

from medical_team.judges.settings import VerlSettings

CUSTOM_FUNCTION = "pkg://recipe.medical_selfplay.verl_judge"
# rollout back ends of verl that serve /v1/chat/completions, and how each constrains an answer
_DIALECTS = {"vllm": "vllm", "sglang": "sglang"}
_RUBRIC_TOKENS = 512  # the rubric, the question and the chat's markup, rounded up


def compute_score(*_: Any, **__: Any) -> NoReturn:
    """What ``reward.custom_reward_function`` names; verl loads it and never calls it.

    Only where a function is named does verl's reward worker hand a whole game to the reward manager
    instead of its last row to the reward model.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(
        "verl called reward.custom_reward_function, which only stands in for the reward manager;"
        " set reward.reward_manager.source=register and reward.reward_manager.name=medical_selfplay"
    )


def problems(config: DictConfig, settings: VerlSettings) -> Iterator[str]:
    """Checks what ``judge=verl`` needs of verl's own settings.

    Args:
        config: verl's whole configuration.
        settings: the judge's settings.

    Yields:
        One line per problem: what is wrong, and the fix.
    """
    model = config.reward.reward_model
    if not model.enable or not model.enable_resource_pool:
        yield (
            "judge=verl needs reward.reward_model.enable=true and"
            " reward.reward_model.enable_resource_pool=true, as configs/judge/verl.yaml sets them;"
            " without a pool of its own verl asks the judge only after all games are played"
        )
    if config.reward.custom_reward_function.path != CUSTOM_FUNCTION:
        yield (
            f"judge=verl needs reward.custom_reward_function.path={CUSTOM_FUNCTION}, found"
            f" {config.reward.custom_reward_function.path}; without it verl scores rows one by one"
            " and loses the game"
        )
    if config.trainer.device != "cuda":
        yield (
            f"judge=verl serves its model on GPUs, found trainer.device={config.trainer.device};"
            " take judge=transformers or judge=openai"
        )
    if model.model_path != settings.model:
        yield (
            f"judge.model={settings.model} is not the model that verl serves, which is"
            f" reward.reward_model.model_path={model.model_path}; set only the latter"
        )
    yield from _pool(model)
    yield from _server(model.rollout, settings)
    yield from _context(config)


def _pool(model: DictConfig) -> Iterator[str]:
    gpus, rollout = model.n_gpus_per_node * model.nnodes, model.rollout
    sizes = ("tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size")
    each = prod(rollout[size] for size in sizes)
    if gpus < 1 or gpus % each:
        yield (
            f"reward.reward_model.n_gpus_per_node={model.n_gpus_per_node} times"
            f" nnodes={model.nnodes} is no multiple of the {each} GPUs that one judge takes"
            f" (reward.reward_model.rollout: {' * '.join(sizes)})"
        )


def _server(rollout: DictConfig, settings: VerlSettings) -> Iterator[str]:
    dialect = _DIALECTS.get(rollout.name)
    if dialect is None:
        yield (
            f"reward.reward_model.rollout.name={rollout.name} serves no chat completions; known:"
            f" {', '.join(_DIALECTS)}"
        )
    elif settings.dialect not in (dialect, "none"):
        yield (
            f"judge.dialect={settings.dialect} is not understood by"
            f" reward.reward_model.rollout.name={rollout.name}; set judge.dialect={dialect}"
        )
    if rollout.free_cache_engine:
        yield (
            "reward.reward_model.rollout.free_cache_engine=true puts the judge to sleep when it"
            " has started, and in a pool of its own verl never wakes it; set it to false"
        )
    if rollout.skip_tokenizer_init:
        yield (
            "reward.reward_model.rollout.skip_tokenizer_init=true leaves the judge without a"
            " tokenizer; set it to false"
        )


def _context(config: DictConfig) -> Iterator[str]:
    # verl's router says 500 where the server said 400: one prompt that is too long looks like an
    # outage, for which training waits and then stops.
    longest = config.reward.reward_model.rollout.max_model_len
    notes = ceil(config.data.max_prompt_length * (1 + config.game.max_growth))
    needed = _RUBRIC_TOKENS + notes + config.data.max_response_length
    if longest is not None and longest < needed:
        yield (
            f"reward.reward_model.rollout.max_model_len={longest} is too short for the judge's"
            f" prompts: two notes and an answer of at most data.max_prompt_length="
            f"{config.data.max_prompt_length} and data.max_response_length="
            f"{config.data.max_response_length} can take {needed} tokens; set it to {needed}"
        )
