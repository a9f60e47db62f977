"""verl's missing ``cpu`` platform: the real trainer on machines without an accelerator.

verl asks its platform for a device module, a communication backend and a Ray resource. Here those
are ``torch.cpu`` with the memory and random-state functions it lacks, gloo, and *logical* GPUs
(``ray_init.num_gpus`` in ``configs/hardware/cpu.yaml``), so that verl's placement groups work
unchanged.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

CPU = "cpu"


class _CpuDevice(ModuleType):
    """``torch.cpu`` plus what verl calls on ``torch.cuda``."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def get_device_name(self, device: object = None) -> str:
        return CPU

    def empty_cache(self) -> None:
        """The CPU allocator keeps no cache."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def get_rng_state(self) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)

    def max_memory_allocated(self, device: object = None) -> int:
        """Peak resident memory of this process, in bytes."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    max_memory_reserved = memory_allocated = memory_reserved = max_memory_allocated

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        """Free and total memory of the machine, in bytes."""
        import psutil

        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def reset_peak_memory_stats(self, device: object = None) -> None:
        """The operating system keeps the peak; it cannot be reset."""


@PlatformRegistry.register(platform=CPU)
class CpuPlatform(PlatformBase):
    """The CPU as verl's accelerator."""

    def __init__(self) -> None:
        self._device = _CpuDevice("torch.cpu")

    @property
    def device_name(self) -> str:
        """The device type."""
        return CPU

    @property
    def vendor_name(self) -> str:
        """The vendor, which selects no engine here."""
        return CPU

    @property
    def device_module(self) -> ModuleType:
        """``torch.cpu`` with the functions it lacks."""
        return self._device

    def is_available(self) -> bool:
        """Always."""
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Where torch is built for the CPU alone.

        Elsewhere it takes ``VERL_PLATFORM=cpu`` to choose it.
        """
        return (
            torch.version.cuda is None and torch.version.hip is None and not hasattr(torch, "npu")
        )

    def current_device(self) -> str:  # type: ignore[override]
        """The device string: an index would mean a CUDA device to torch."""
        return CPU

    def device_count(self) -> int:
        """One."""
        return 1

    def set_device(self, device_index: int) -> None:
        """There is one device."""

    def synchronize(self, device_index: int | None = None) -> None:
        """CPU work is synchronous."""

    def manual_seed(self, seed: int) -> None:
        """Seeds torch."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seeds torch."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """The CPU allocator has none of these settings."""

    def empty_cache(self) -> None:
        """The CPU allocator keeps no cache."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """CPUs have no CUDA capability."""
        return None, None

    def communication_backend_name(self) -> str:
        """Gloo."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """Ray numbers the logical GPUs in this variable."""
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """No profiler."""
        yield

    def profiler_start(self) -> None:
        """No profiler."""

    def profiler_stop(self) -> None:
        """No profiler."""

    def ray_resource_name(self) -> str:
        """Logical GPUs."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """Nothing to keep Ray from setting."""
        return []

    def is_ipc_supported(self) -> bool:
        """There is no device memory to share: weights travel through shared memory."""
        return False

    def cudart(self) -> Any:
        """No CUDA runtime."""
        return None
