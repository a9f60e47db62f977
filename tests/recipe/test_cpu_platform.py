"""Each shim for the CPU rests on something verl 0.9.1 does; a test fails when that moves."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import verl.utils.distributed
import verl.utils.model
import verl.workers.engine_workers
from transformers import Qwen3Config, Qwen3ForTokenClassification
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.plugin.platform import get_platform, platform_manager
from verl.plugin.platform.platform_manager import PlatformRegistry
from verl.trainer.ppo.v1 import agent_loop_tq
from verl.trainer.sft_trainer import run_sft
from verl.utils.device import get_device_name, get_nccl_backend
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead
from verl.workers.rollout.base import get_rollout_class
from verl.workers.rollout.replica import RolloutReplicaRegistry

from recipe.medical_selfplay.cpu.engines import (
    GLOO_ONLY,
    CpuLanguageModelEngine,
    CpuValueModelEngine,
)
from recipe.medical_selfplay.cpu.platform import CPU, CpuPlatform, _CpuDevice
from recipe.medical_selfplay.cpu.rollout import NAME, CpuRolloutAdapter, CpuRolloutReplica

cpu_install = pytest.mark.skipif(
    torch.version.cuda is not None, reason="torch is built for CUDA; verl runs on it unless told"
)


@cpu_install
def test_the_platform_is_found_without_being_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert platform_manager._detect_platform_name() == CPU
    assert PlatformRegistry.get(CPU) is CpuPlatform
    assert isinstance(get_platform(), CpuPlatform)
    assert get_device_name() == CPU


def test_the_platform_does_not_claim_a_machine_with_an_accelerator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert not CpuPlatform().is_platform_available()


def test_the_platform_can_be_named_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", CPU)
    assert platform_manager._detect_platform_name() == CPU


@pytest.mark.parametrize(
    "name", [name for name in vars(_CpuDevice) if not name.startswith("_")], ids=str
)
def test_torch_still_lacks_what_the_device_module_adds(name: str) -> None:
    assert not hasattr(torch.cpu, name), f"torch.cpu.{name} exists now: drop the shim"


def test_the_device_module_is_torchs_with_what_verl_calls_on_cuda() -> None:
    device = CpuPlatform().device_module
    assert device.is_available()
    assert device.device_count() == 1
    assert device.max_memory_allocated() > 2**20
    free, total = device.mem_get_info()
    assert 0 < free <= total
    state = device.get_rng_state()
    first = torch.rand(3)
    device.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)


def test_tensors_can_be_made_on_the_current_device() -> None:
    assert torch.zeros(1, device=CpuPlatform().current_device()).device.type == CPU


def test_torch_still_rejects_the_process_group_verl_asks_for_on_the_cpu() -> None:
    source = inspect.getsource(verl.utils.distributed)
    assert 'backend or f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"' in source
    with pytest.raises(ValueError, match=r"(?i)duplicate"):
        torch.distributed.distributed_c10d.BackendConfig(f"cpu:gloo,{CPU}:gloo")
    assert torch.distributed.distributed_c10d.BackendConfig(GLOO_ONLY).get_device_backend_map()


@cpu_install
def test_verls_workers_start_their_process_group_with_gloo_alone() -> None:
    assert get_nccl_backend() == "gloo"
    used = verl.workers.engine_workers.initialize_global_process_group_ray
    assert isinstance(used, partial)
    assert used.keywords == {"backend": GLOO_ONLY}
    assert not isinstance(used.func, partial)


@cpu_install
def test_verls_sft_trainer_starts_its_process_group_with_gloo_alone(tmp_path: Path) -> None:
    # In a process of its own: the group is the whole process's.
    code = (
        "import verl.utils.distributed as d, torch.distributed as t;"
        " print(d.initialize_global_process_group(), t.get_backend_config())"
    )
    group = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}
    group["DIST_INIT_METHOD"] = f"file://{tmp_path / 'store'}?rank=0&world_size=1"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **group},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "(0, 0, 1) cpu:gloo" in done.stdout, done.stderr
    source = inspect.getsource(run_sft)
    assert "from verl.utils.distributed import initialize_global_process_group" in source


@cpu_install
@pytest.mark.parametrize("backend", ["fsdp", "fsdp2"])
def test_verl_has_no_engines_for_the_cpu_but_ours(backend: str) -> None:
    engines = {
        "language_model": (CpuLanguageModelEngine, FSDPEngineWithLMHead),
        "value_model": (CpuValueModelEngine, FSDPEngineWithValueHead),
    }
    for model_type, (ours, verls) in engines.items():
        assert EngineRegistry.get_engine_cls(model_type, backend) is ours
        registered = EngineRegistry._engines[model_type][backend]
        assert registered["cuda"] is verls


def test_verl_still_pins_memory_for_forward_only_modules() -> None:
    source = inspect.getsource(transformer_impl.FSDPEngine._build_fsdp_module)
    assert "self.engine_config.offload_policy or self.engine_config.forward_only" in source
    assert "CPUOffloadPolicy(pin_memory=True)" in source


@pytest.mark.parametrize("fails", [False, True])
def test_a_forward_only_module_is_built_without_pinned_memory(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Config:
        forward_only: bool = True
        param_offload: bool = False

    seen: list[Config] = []

    def build(self: Any, module: torch.nn.Module) -> torch.nn.Module:
        seen.append(self.engine_config)
        if fails:
            raise RuntimeError("no room")
        return module

    monkeypatch.setattr(FSDPEngineWithLMHead, "_build_fsdp_module", build)
    engine = object.__new__(CpuLanguageModelEngine)
    engine.engine_config = Config()
    try:
        engine._build_fsdp_module(torch.nn.Linear(1, 1))
    except RuntimeError:
        assert fails
    assert seen == [Config(forward_only=False)]
    assert engine.engine_config == Config(forward_only=True)


def test_verl_still_loads_critics_with_flash_attention() -> None:
    source = inspect.getsource(verl.utils.model.load_valuehead_model)
    assert 'attn_implementation="flash_attention_2"' in source
    # Looked up when it is called, so that it can be replaced while a critic is built.
    caller = inspect.getsource(transformer_impl.FSDPEngine._build_module)
    assert "from verl.utils.model import load_valuehead_model" in caller
    assert "load_valuehead_model(" in caller


def test_a_critic_is_built_with_an_attention_the_cpu_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Qwen3Config(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_labels=1,
    )
    Qwen3ForTokenClassification(config).save_pretrained(tmp_path)

    def build(self: Any) -> torch.nn.Module:
        return verl.utils.model.load_valuehead_model(str(tmp_path), torch.float32, config, False)

    monkeypatch.setattr(FSDPEngineWithValueHead, "_build_module", build)
    verls = verl.utils.model.load_valuehead_model
    critic = object.__new__(CpuValueModelEngine)._build_module()
    assert critic.config._attn_implementation == "sdpa"
    assert critic(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 1)
    assert verl.utils.model.load_valuehead_model is verls


def test_the_rollout_is_registered_for_both_of_its_sides() -> None:
    assert RolloutReplicaRegistry.get(NAME) is CpuRolloutReplica
    assert get_rollout_class(NAME, "async") is CpuRolloutAdapter


def test_verl_finds_the_agent_loop_and_the_reward_manager() -> None:
    assert "medical_selfplay" in _agent_loop_registry
    assert get_reward_manager_cls("medical_selfplay").__name__ == "MedicalRewardManager"


def test_verl_still_gives_every_output_of_a_session_the_last_ones_reward() -> None:
    """If this ends, the trajectories need not write their own reward any more."""
    worker = agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class
    source = inspect.getsource(worker._agent_loop_postprocess)
    assert "for output in outputs[:-1]:" in source
    assert "output.reward_score = final_output.reward_score" in source
    assert "output.as_dict()" in source
