"""What can be known to be wrong before Ray starts: each problem is one sentence with its fix.

verl finds most of these too, but minutes later and inside a worker's traceback; some it does not
find at all and trains the wrong thing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig
from pyarrow import ArrowInvalid, parquet
from verl.utils.device import get_device_name

from medical_team.archive import read_frozen
from medical_team.calibration.record import Calibration, read_calibration
from medical_team.dataset.rows import TRAIN, parquet_schema
from medical_team.judges.settings import JudgeSettings, LocalModelSettings, VerlSettings
from recipe.medical_selfplay import verl_judge
from recipe.medical_selfplay.agent_loop import AGENT_NAME
from recipe.medical_selfplay.plugin import REPLAY_BUFFER, REWARD_MANAGER
from recipe.medical_selfplay.run_folder import RunFolder
from recipe.medical_selfplay.settings import LeagueSettings, Settings, SettingsError

_ROLE_BLIND = {
    "grpo": "role_grpo",
    "reinforce_plus_plus": "role_reinforce_pp",
    "reinforce_plus_plus_baseline": "role_grpo",
    "rloo": "role_rloo",
}


def problems(config: DictConfig) -> Iterator[str]:
    """Checks a run's resolved configuration, its input files and its output folder.

    Args:
        config: verl's whole configuration.

    Yields:
        One line per problem: what is wrong, and the fix.
    """
    try:
        settings = Settings.from_config(config)
    except SettingsError as error:
        yield str(error)
    else:
        yield from _judge(config, settings.judge)
        yield from _league(config, settings.league)
    yield from _hooks(config)
    yield from _device(config)
    batch_sizes = list(_batch_sizes(config))
    yield from batch_sizes or _micro_batches(config)
    yield from _model("actor_rollout_ref.model.path", config.actor_rollout_ref.model.path)
    for key in ("train_files", "val_files"):
        yield from _data(config, key)
    yield from RunFolder(Path(config.run_dir)).problems(config)
    yield from _disk(config)


def _hooks(config: DictConfig) -> Iterator[str]:
    estimator = str(config.algorithm.adv_estimator)
    if estimator in _ROLE_BLIND:
        yield (
            f"algorithm.adv_estimator={estimator} mixes attacker and assessor in one baseline; use"
            f" algorithm.adv_estimator={_ROLE_BLIND[estimator]}"
        )
    if not config.trainer.use_v1:
        yield (
            "trainer.use_v1=false is verl's deprecated trainer, which cannot play two roles; set it"
            " to true"
        )
    if config.trainer.v1.sampler.custom_sampler.path != REPLAY_BUFFER:
        yield (
            f"trainer.v1.sampler.custom_sampler.path must be {REPLAY_BUFFER}, without it no row"
            " knows its role"
        )
    if config.reward.reward_manager.name != REWARD_MANAGER:
        yield (
            f"reward.reward_manager.name must be {REWARD_MANAGER}, found"
            f" {config.reward.reward_manager.name}"
        )
    if config.algorithm.filter_groups.enable:
        yield (
            "algorithm.filter_groups.enable=true is not supported with a custom sampler in verl"
            " 0.9.1; set it to false"
        )


def _judge(config: DictConfig, settings: JudgeSettings) -> Iterator[str]:
    calibrate = "scripts/calibrate_judge.py measures how often it errs"
    if settings.calibration is not None:
        try:
            calibration = read_calibration(Path(settings.calibration))
        except (OSError, ValueError) as error:
            yield f"judge.calibration: {error}"
        else:
            yield from _judge_thresholds(settings, calibration)
    elif not settings.allow_uncalibrated:
        yield (
            f"judge={settings.name} has no calibration file, so nobody knows how often it errs;"
            f" {calibrate}, name its file with judge.calibration=FILE, or train without with"
            " judge.allow_uncalibrated=true"
        )
    if isinstance(settings, LocalModelSettings):
        yield from _model("judge.model", settings.model)
        yield from _judge_device(config, settings)
    if isinstance(settings, VerlSettings):
        yield from verl_judge.problems(config, settings)
    elif config.reward.reward_model.enable:
        yield (
            "reward.reward_model.enable=true is for judge=verl; with another judge verl scores rows"
            " one by one and loses the game"
        )


def _league(config: DictConfig, settings: LeagueSettings) -> Iterator[str]:
    if settings.archive.file is not None:
        try:
            read_frozen(Path(settings.archive.file))
        except (OSError, ValueError) as error:
            yield f"archive.file: {error}"
    if not settings.pairs:
        return
    # A row does not know whether it is trained or validated; its split says it.
    for key, wanted in (("train_files", True), ("val_files", False)):
        for path in _paths(config, key):
            if not path.is_file():
                continue
            wrong = {split for split in _splits(path) if (split == TRAIN) is not wanted}
            if wrong:
                yield (
                    f"data.{key}: {path} holds rows of the split {', '.join(sorted(wrong))}; with"
                    " archive.fraction, game.game_mix, game.target_win_rate or game.curriculum set,"
                    f" training rows must be of the split {TRAIN} and validation rows of another;"
                    " convert the data again"
                )


def _paths(config: DictConfig, key: str) -> list[Path]:
    files = config.data[key]
    return [Path(file) for file in ([files] if isinstance(files, str) else files)]


def _splits(path: Path) -> set[str]:
    try:
        splits = parquet.read_table(path, columns=["extra_info.split"]).flatten()
    except ArrowInvalid:
        return set()  # that it is no Parquet file, or lacks the column, is said elsewhere
    return {split for column in splits.columns for split in column.to_pylist()}


def _judge_thresholds(settings: JudgeSettings, calibration: Calibration) -> Iterator[str]:
    """The rates in the file hold for the threshold they were counted at."""
    threshold = getattr(settings, "threshold", None)
    if threshold is not None and threshold != calibration.labelled_at:
        yield (
            f"judge.threshold={threshold}, but the error rates of {settings.calibration} were"
            f" counted at {calibration.labelled_at}; leave judge.threshold null, or calibrate again"
            f" with --set threshold={threshold}"
        )


def _judge_device(config: DictConfig, settings: LocalModelSettings) -> Iterator[str]:
    if not settings.device.startswith("cuda"):
        return
    import torch

    if not torch.cuda.is_available():
        if not os.environ.get("RAY_ADDRESS"):
            yield f"judge.device={settings.device}, but no CUDA device is visible; set cpu"
        return
    if settings.gpu_memory_gb is None or config.trainer.device != "cuda":
        return
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    share = config.actor_rollout_ref.rollout.gpu_memory_utilization
    if share * total + settings.gpu_memory_gb > total:
        yield (
            f"the rollout takes {share:.0%} of the GPU's {total:.0f} GiB and the judge"
            f" {settings.gpu_memory_gb:g} GiB, which is more than there is; lower"
            " actor_rollout_ref.rollout.gpu_memory_utilization or judge.gpu_memory_gb"
        )


def _device(config: DictConfig) -> Iterator[str]:
    device = config.trainer.device
    if device == "cuda":
        import torch

        if not torch.cuda.is_available() and not os.environ.get("RAY_ADDRESS"):
            yield (
                "no CUDA device is visible and trainer.device=cuda; add hardware=cpu to run on the"
                " CPU"
            )
        if (
            config.actor_rollout_ref.rollout.name == "vllm"
            and importlib.util.find_spec("vllm") is None
        ):
            yield "vllm is not installed; run ./setup_env.sh --gpu, or add hardware=cpu"
    elif get_device_name() != device:
        yield (
            f"trainer.device={device}, but verl runs on {get_device_name()}; set"
            f" VERL_PLATFORM={device}"
        )


def _batch_sizes(config: DictConfig) -> Iterator[str]:
    rows, mini = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    for name, value in (
        ("data.train_batch_size", rows),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", mini),
    ):
        if not isinstance(value, int) or value < 1:
            yield f"{name}={value} must be a positive whole number"
            return
    if rows % mini:
        yield (
            f"data.train_batch_size={rows} is not a multiple of"
            f" actor_rollout_ref.actor.ppo_mini_batch_size={mini}; set the latter to"
            f" {_largest_divisor(rows, mini)}"
        )
    gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    if rows * config.actor_rollout_ref.rollout.n % gpus:
        yield (
            f"data.train_batch_size={rows} times"
            f" actor_rollout_ref.rollout.n={config.actor_rollout_ref.rollout.n} is not a multiple"
            f" of the {gpus} GPUs"
        )


def _micro_batches(config: DictConfig) -> Iterator[str]:
    gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    trajectories = actor.ppo_mini_batch_size * rollout.n // gpus
    fixed = {
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": None
        if actor.use_dynamic_bsz
        else actor.ppo_micro_batch_size_per_gpu,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": None
        if rollout.log_prob_use_dynamic_bsz
        else rollout.log_prob_micro_batch_size_per_gpu,
    }
    for name, micro in fixed.items():
        if micro and trajectories % micro:
            yield (
                f"{name}={micro} does not divide the {trajectories} trajectories of a mini-batch on"
                f" a GPU (ppo_mini_batch_size times rollout.n over {gpus} GPUs); set it to"
                f" {_largest_divisor(trajectories, micro)}, or use dynamic batch sizes"
            )


def _largest_divisor(number: int, limit: int) -> int:
    return max(divisor for divisor in range(1, min(number, limit) + 1) if number % divisor == 0)


def _model(key: str, path: str) -> Iterator[str]:
    if Path(path).is_dir():
        if not (Path(path) / "config.json").is_file():
            yield f"{key}={path}: the folder holds no config.json, so it is no Hugging Face model"
        return
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    fix = "name an existing folder, or fetch the model first: ./setup_env.sh --download-model ID"
    try:
        cached = try_to_load_from_cache(path, "config.json")
    except HFValidationError:
        yield f"{key}={path}: there is no such folder; {fix}"
        return
    if not isinstance(cached, str):
        yield (f"{key}={path}: neither a folder nor in the local hub cache; {fix}")


def _data(config: DictConfig, key: str) -> Iterator[str]:
    files, batch = _paths(config, key), config.data.train_batch_size
    for file in files:
        problem, rows = _training_file(file)
        if problem:
            yield f"data.{key}: {problem}"
        elif key == "train_files" and len(files) == 1 and isinstance(batch, int) and rows < batch:
            yield (
                f"data.train_files: {file} holds {rows} rows, fewer than data.train_batch_size="
                f"{config.data.train_batch_size}; set data.train_batch_size to at most {rows}"
            )


def _training_file(path: Path) -> tuple[str | None, int]:
    convert = "make it with scripts/convert_dataset_to_verl.py"
    if not path.is_file():
        return f"{path} does not exist; {convert}, or name its folder with data_dir=FOLDER", 0
    try:
        file = parquet.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        return f"{path} is no Parquet file ({error}); {convert}", 0
    expected, found = parquet_schema(), file.schema_arrow
    wrong = [
        field.name
        for field in expected
        if field.name not in found.names or found.field(field.name) != field
    ]
    if wrong:
        return (
            f"{path} has another schema (columns missing or of another type: {', '.join(wrong)});"
            f" {convert}",
            0,
        )
    if file.metadata.num_rows == 0:
        return f"{path} holds no rows; {convert}", 0
    agent = file.read_row_group(0, columns=["agent_name"])["agent_name"][0].as_py()
    if agent != AGENT_NAME:
        return f"{path}: agent_name is {agent!r}, expected {AGENT_NAME!r}; {convert}", 0
    return None, file.metadata.num_rows


def _disk(config: DictConfig) -> Iterator[str]:
    folder = Path(config.run_dir).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    model = Path(config.actor_rollout_ref.model.path)
    weights = (
        sum(file.stat().st_size for file in model.glob("*.safetensors")) if model.is_dir() else 0
    )
    # Weights in float32, two Adam moments and an exported copy are up to eight times a bfloat16
    # file; one checkpoint is written before the oldest is removed.
    copies = (config.trainer.max_actor_ckpt_to_keep or 1) + 1 if config.trainer.save_freq > 0 else 0
    needed = 8 * weights * copies + 200 * 2**20
    if free < needed:
        yield (
            f"{existing}: {free / 2**30:.1f} GiB free, about {needed / 2**30:.1f} GiB needed for"
            " checkpoints and logs; free some space, choose another run_dir, or lower"
            " trainer.max_actor_ckpt_to_keep"
        )
