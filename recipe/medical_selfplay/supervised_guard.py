"""The Hydra callback around a supervised start: checks before it trains, its folder's files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from medical_team.atomic_files import replacing, why_not_written
from recipe.medical_selfplay.run_folder import RunFolder


class SupervisedGuard(Callback):
    """Configured under ``hydra.callbacks`` in ``configs/medical_sft.yaml``."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Stops the run before anything is written if something is wrong.

        Raises:
            SystemExit: with every problem found. Hydra turns a callback's ordinary exceptions into
                warnings, so only this one stops a run.
        """
        run = config.copy()
        with open_dict(run):
            run.pop("hydra", None)
        OmegaConf.resolve(run)
        folder = RunFolder(Path(run.run_dir).absolute())
        found = list(problems(run, folder))
        # torchrun starts a process for each GPU; one of them writes.
        if not found and os.environ.get("RANK", "0") == "0":
            try:
                with replacing(folder.config) as stream:
                    stream.write(OmegaConf.to_yaml(run))
            except OSError as error:
                found = [why_not_written(error, folder.path)]
        if found:
            lines = "\n".join(f"  - {problem}" for problem in found)
            print(f"\nThe run was not started, nothing was written:\n{lines}\n", file=sys.stderr)
            raise SystemExit(1)
        # verl's file logger starts its file anew, so a resumed run gets a file of its own.
        step = folder.checkpoint_step
        name = f"metrics.from_step_{step}.jsonl" if step else "metrics.jsonl"
        os.environ["VERL_FILE_LOGGER_PATH"] = str(folder.path / name)
        os.environ["TENSORBOARD_DIR"] = str(folder.path / "tensorboard")


def problems(run: DictConfig, folder: RunFolder) -> Iterator[str]:
    """What keeps a supervised start from training, a line each.

    Args:
        run: the resolved configuration.
        folder: the run's folder.
    """
    if os.environ.get("WORLD_SIZE") is None:
        yield (
            "the SFT trainer is started by torchrun: python -m torch.distributed.run --standalone"
            " --nproc_per_node=1 -m verl.trainer.sft_trainer ..."
        )
    for key in ("train_files", "val_files"):
        files = run.data[key]
        for file in [files] if isinstance(files, str) else files or []:
            if not Path(file).is_file():
                yield (
                    f"data.{key}: {file} does not exist; make it with scripts/create_sft_data.py,"
                    " or name its folder with data_dir=FOLDER"
                )
    if os.environ.get("RANK", "0") == "0":
        yield from folder.problems(run)
