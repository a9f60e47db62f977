"""Checks that this machine can train: versions, plugin, device, Ray, disk space, configurations."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig, OmegaConf, open_dict
from packaging.requirements import Requirement

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "medical_selfplay"  # the entry point, and the agent loop it registers
ESTIMATORS = ("role_grpo", "role_reinforce_pp")
MIN_FREE_GB = 2.0  # checkpoints of the tiny model, Ray's logs and its object store

Status = Literal["ok", "FAIL", "skip"]


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check.

    Attributes:
        status: ``ok``, ``FAIL``, or ``skip`` for what could not be looked at or was not asked for.
        what: what was looked at.
        detail: what was found.
        fix: what to do about it, for a failure.
    """

    status: Status
    what: str
    detail: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f"  fix: {self.fix}" if self.fix else ""
        return f"{self.status:<4}  {self.what:<40}  {self.detail}{fix}"


def check_all(root: Path = PROJECT_ROOT, ray: bool = True) -> Iterator[Check]:
    """Makes every check, each as soon as the ones before it are done.

    Args:
        root: the project's folder, with its requirement files and ``configs``.
        ray: whether to start a small local Ray, which takes some seconds.
    """
    requirements = matching_requirements(root)
    yield from check_versions(requirements)
    yield from check_plugin()
    yield check_device()
    yield check_ray() if ray else Check("skip", "Ray starts", "not asked for")
    yield check_disk(root)
    yield from check_configs(root / "configs", root / "data" / "tiny_model")


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or ``None``."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def matching_requirements(
    root: Path, installed: Callable[[str], str | None] = installed_version
) -> Path:
    """The requirements file of the stack that is installed: vLLM is in the GPU stack only."""
    return root / ("requirements.txt" if installed("vllm") else "requirements-cpu.txt")


def check_versions(
    requirements: Path, installed: Callable[[str], str | None] = installed_version
) -> Iterator[Check]:
    """Compares what is installed with the pins of a requirements file, one check a pin."""
    fix = f"{sys.executable} -m pip install -r {requirements.name}, or ./setup_env.sh"
    for line in requirements.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        pin = Requirement(text)
        found = installed(pin.name)
        if found is None:
            yield Check("FAIL", pin.name, f"not installed, {requirements.name} has {text}", fix)
        elif not pin.specifier.contains(found, prereleases=True):
            yield Check("FAIL", pin.name, f"{found}, {requirements.name} has {text}", fix)
        else:
            yield Check("ok", pin.name, found)


def check_plugin() -> Iterator[Check]:
    """Checks that verl's plugin loads in this environment and has registered everything."""
    points = metadata.entry_points(group="verl.plugins")
    point = next((point for point in points if point.name == PLUGIN), None)
    if point is None:
        fix = f"{sys.executable} -m pip install --no-deps --no-build-isolation -e ."
        yield Check("FAIL", "plugin", "this project is not installed in this environment", fix)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # verl warns of each optional engine that is absent
            point.load()  # verl swallows this error, so it is provoked here
        from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
        from verl.plugin.platform.platform_manager import PlatformRegistry
        from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
    except Exception as error:  # whatever a plugin's import may raise is this check's finding
        yield _failure(
            "plugin", error, "mend the import above; the versions must be the pinned ones"
        )
        return
    yield Check("ok", "plugin", f"{PLUGIN} = {point.value}")

    wanted = {
        "agent loop": ([PLUGIN], _agent_loop_registry),
        "advantage estimators": (list(ESTIMATORS), ADV_ESTIMATOR_REGISTRY),
        "platform": (["cpu"], PlatformRegistry.registered_names()),
    }
    for what, (names, registered) in wanted.items():
        missing = [name for name in names if name not in registered]
        if missing:
            known = ", ".join(sorted(map(str, registered)))
            detail = f"{', '.join(missing)} not registered (registered: {known})"
            yield Check("FAIL", what, detail, "unset VERL_USE_EXTERNAL_PLUGINS; install verl's pin")
        else:
            yield Check("ok", what, ", ".join(names))


def check_device() -> Check:
    """Says what torch computes on; the GPU stack without a usable GPU is a failure."""
    try:
        import torch
    except ImportError as error:
        return _failure("device", error, "./setup_env.sh")
    if torch.cuda.is_available():
        count, memory = torch.cuda.device_count(), torch.cuda.mem_get_info(0)[1] / 2**30
        return Check("ok", "device", f"{count} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    if torch.version.cuda is None:
        return Check("ok", "device", "cpu: train with hardware=cpu")
    if installed_version("vllm") is None:
        return Check(
            "ok", "device", "cpu (torch's CUDA build sees no GPU): train with hardware=cpu"
        )
    fix = "check nvidia-smi, the driver and CUDA_VISIBLE_DEVICES, or set up --cpu in another --venv"
    return Check("FAIL", "device", f"torch for CUDA {torch.version.cuda} sees no GPU", fix)


def check_ray() -> Check:
    """Starts a Ray of one CPU on this machine, runs a task on it and stops it."""
    try:
        import ray
    except ImportError as error:
        return _failure("Ray starts", error, "./setup_env.sh")
    if ray.is_initialized():
        return Check("ok", "Ray starts", "is running in this process")
    try:
        # "local": RAY_ADDRESS may point at a cluster, on which nothing is to be started.
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=80 * 2**20,
        )
        ray.get(ray.remote(lambda: None).remote(), timeout=120)
        return Check("ok", "Ray starts", "a task ran on it")
    except Exception as error:  # Ray fails in many ways: ports, memory, a stale session
        return _failure("Ray starts", error, "`ray stop`; check memory and the space in /tmp")
    finally:
        ray.shutdown()


def check_disk(root: Path, min_free_gb: float = MIN_FREE_GB) -> Check:
    """Checks the free space where runs leave their outputs."""
    free = shutil.disk_usage(root).free / 1e9
    if free < min_free_gb:
        fix = "free some space, or train with run_dir=FOLDER on another disk"
        return Check("FAIL", "disk", f"{free:.1f} GB free, {min_free_gb:g} GB needed", fix)
    return Check("ok", "disk", f"{free:.0f} GB free in {root}")


def check_configs(config_dir: Path, model: Path) -> Iterator[Check]:
    """Composes every training configuration with every hardware and lets verl validate it.

    Args:
        config_dir: the project's ``configs``.
        model: a local model that stands in for the configured ones, as in `compose_and_validate`.
    """
    names = sorted(path.stem for path in config_dir.glob("medical_*.yaml"))
    hardware = sorted(path.stem for path in (config_dir / "hardware").glob("*.yaml"))
    if not names or not hardware:
        fix = "restore configs/ from git"
        yield Check("FAIL", "configurations", f"none in {config_dir}", fix)
        return
    if find_spec("verl") is None or find_spec("hydra") is None:
        yield Check("skip", "configurations", "verl or hydra is not installed")
        return
    for name in names:
        if not _is_primary(config_dir / f"{name}.yaml"):
            continue
        for machine in hardware:
            what = f"{name} hardware={machine}"
            try:
                compose_and_validate(config_dir, name, [f"hardware={machine}"], model)
            except Exception as error:  # Hydra, OmegaConf and verl's asserts share no base class
                yield _failure(
                    what, error, f"correct configs/{name}.yaml or hardware/{machine}.yaml"
                )
            else:
                yield Check("ok", what, "composes, verl accepts it")


def compose(config_dir: Path, name: str, overrides: list[str]) -> DictConfig:
    """Composes a configuration as ``verl.trainer.main_ppo`` does, not yet resolved.

    Args:
        config_dir: what ``--config-dir`` names.
        name: what ``--config-name`` names.
        overrides: Hydra overrides.

    Raises:
        hydra.errors.HydraException: a part is missing or an override names no key.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig

    verl_configs = "hydra.searchpath=[pkg://verl.trainer.config]"
    with hydra.initialize_config_dir(str(config_dir.resolve()), version_base=None):
        config = hydra.compose(name, [*overrides, verl_configs], return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # for what refers to ${hydra:...}
    with open_dict(config):
        del config["hydra"]
    return config


def compose_and_validate(config_dir: Path, name: str, overrides: list[str], model: Path) -> None:
    """Composes a configuration and runs verl's own checks on it.

    verl reads the critic's model while it checks, so a local model stands in for the configured
    one: what is checked is the configuration, not the network.

    Args:
        config_dir: what ``--config-dir`` names.
        name: what ``--config-name`` names.
        overrides: Hydra overrides.
        model: folder of a local model.

    Raises:
        Exception: whatever Hydra, OmegaConf or verl raise; they share no base class.
    """
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    config = compose(config_dir, name, overrides)
    config.actor_rollout_ref.model.path = str(model)
    OmegaConf.resolve(config)
    # verl prints its findings, and warns of what the recipe chose on purpose.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        validate_config(config, need_reference_policy(config), need_critic(config))


def _is_primary(path: Path) -> bool:
    """Whether verl's PPO trainer can be started with this file; others are parts or SFT runs."""
    return "- ppo_trainer" in path.read_text(encoding="utf-8")


def _failure(what: str, error: Exception, fix: str) -> Check:
    reason = traceback.format_exception_only(error)[-1].strip()
    return Check("FAIL", what, " ".join(reason.split()), fix)
