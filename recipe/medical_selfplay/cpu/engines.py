"""verl's FSDP engines on the CPU.

The places of verl 0.9.1 that leave no configuration for it are patched here.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import verl.utils.distributed as verl_distributed
import verl.utils.model as verl_model
from verl.workers.config import FSDPEngineConfig
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

GLOO_ONLY = "cpu:gloo"


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")
class CpuLanguageModelEngine(FSDPEngineWithLMHead):
    """The actor and reference engine."""

    engine_config: FSDPEngineConfig

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        # A forward-only module is offloaded to pinned host memory, which needs CUDA; here it is in
        # host memory already.
        configured = self.engine_config
        self.engine_config = replace(configured, forward_only=False)
        try:
            return super()._build_fsdp_module(module)
        finally:
            self.engine_config = configured


@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device="cpu")
class CpuValueModelEngine(FSDPEngineWithValueHead):
    """The critic engine."""

    def _build_module(self) -> torch.nn.Module:
        # verl loads critics with attn_implementation="flash_attention_2" in code; the CPU has sdpa.
        with patch.object(verl_model, "load_valuehead_model", _load_value_model):
            return super()._build_module()


def _load_value_model(
    local_path: str, torch_dtype: torch.dtype, model_config: Any, trust_remote_code: bool
) -> Any:
    from transformers import AutoModelForTokenClassification

    return AutoModelForTokenClassification.from_pretrained(
        local_path,
        dtype=torch_dtype,
        config=model_config,
        attn_implementation="sdpa",
        trust_remote_code=trust_remote_code,
    )


def use_gloo_only() -> None:
    """Makes verl's process groups name one backend.

    verl builds ``"cpu:gloo,{device}:{backend}"``; on the CPU that is ``"cpu:gloo,cpu:gloo"``, which
    torch rejects.
    """
    verl_distributed.initialize_global_process_group_ray = partial(
        verl_distributed.initialize_global_process_group_ray, backend=GLOO_ONLY
    )
    verl_distributed.initialize_global_process_group = _initialize_gloo


def _initialize_gloo(timeout_second: int = 36000) -> tuple[int, int, int]:
    """The SFT trainer's process group, whose function takes no backend."""
    torch.distributed.init_process_group(
        GLOO_ONLY,
        timeout=timedelta(seconds=timeout_second),
        init_method=os.environ.get("DIST_INIT_METHOD"),
    )
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ["LOCAL_RANK"]), rank, world_size
