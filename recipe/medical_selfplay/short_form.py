"""The short form of a training configuration, mapped onto verl's keys.

``configs/verl_config.yaml`` is an example. Whatever the short form leaves out keeps the value of
``configs/medical_<algorithm>.yaml`` and its groups.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"

# What an algorithm does not read; set all the same, it is pointed out and not refused.
_NO_EFFECT = {"grpo": ("gamma", "lam"), "reinforce_pp": ("lam",), "ppo": ()}
_HYDRA_WORDS = {"true", "false", "null", "inf", "nan"}


class ShortFormError(ValueError):
    """A short-form file that cannot be used; the message names the file and every key at fault."""


@dataclass(frozen=True, slots=True)
class Sets:
    """Marks a field with the verl key it sets."""

    key: str


class _Section(BaseModel):
    # strict: `batch_size: "16"` or `true` is a mistake, not a number.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Model(_Section):
    """The policy."""

    path: Annotated[Text | None, Sets("actor_rollout_ref.model.path")] = None


class Algorithm(_Section):
    """Which update, and its discounting."""

    name: Literal["grpo", "reinforce_pp", "ppo"] = "grpo"
    gamma: Annotated[Share | None, Sets("algorithm.gamma")] = None
    lam: Annotated[Share | None, Sets("algorithm.lam")] = None


class Game(_Section):
    """How games are played."""

    attacker: Annotated[Literal["edit", "rewrite"] | None, Sets("game.attacker")] = None
    assessor_samples: Annotated[Count | None, Sets("game.assessor_samples")] = None


class Rollout(_Section):
    """How many games a step plays, and how they are sampled."""

    batch_size: Annotated[Count | None, Sets("data.train_batch_size")] = None
    n: Annotated[Count | None, Sets("actor_rollout_ref.rollout.n")] = None
    temperature: Annotated[Rate | None, Sets("actor_rollout_ref.rollout.temperature")] = None
    max_prompt_length: Annotated[Count | None, Sets("data.max_prompt_length")] = None
    max_response_length: Annotated[Count | None, Sets("data.max_response_length")] = None


class Train(_Section):
    """The optimizer, and how long it runs."""

    batch_size: Annotated[Count | None, Sets("actor_rollout_ref.actor.ppo_mini_batch_size")] = None
    learning_rate: Annotated[Rate | None, Sets("actor_rollout_ref.actor.optim.lr")] = None
    num_epochs: Annotated[Count | None, Sets("trainer.total_epochs")] = None
    num_steps: Annotated[Count | None, Sets("trainer.total_training_steps")] = None
    validate_every: Annotated[Count | None, Sets("trainer.test_freq")] = None
    save_every: Annotated[Count | None, Sets("trainer.save_freq")] = None


class ShortForm(_Section):
    """A short-form file."""

    experiment_name: Annotated[Text | None, Sets("trainer.experiment_name")] = None
    data_dir: Annotated[Text | None, Sets("data_dir")] = None
    hardware: Annotated[Text | None, Sets("hardware")] = None
    judge: Annotated[Text | None, Sets("judge")] = None
    rewards: Annotated[Text | None, Sets("rewards")] = None
    model: Model = Model()
    algorithm: Algorithm = Algorithm()
    game: Game = Game()
    rollout: Rollout = Rollout()
    train: Train = Train()

    def overrides(self) -> dict[str, object]:
        """The verl keys and Hydra groups this sets, with their values."""
        return dict(_settings(self))

    def without_effect(self) -> list[str]:
        """Keys that are set and that the algorithm does not read."""
        given = self.algorithm.model_dump(exclude_none=True)
        return [f"algorithm.{key}" for key in _NO_EFFECT[self.algorithm.name] if key in given]


def known_keys(form: type[BaseModel] = ShortForm, prefix: str = "") -> list[str]:
    """Every key a short-form file may hold, dotted."""
    keys = []
    for name, field in form.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def read_short_form(path: Path, config_dir: Path = CONFIG_DIR) -> ShortForm:
    """Reads and checks a short-form file.

    Args:
        path: the YAML file.
        config_dir: the folder whose groups ``hardware``, ``judge`` and ``rewards`` choose from.

    Raises:
        ShortFormError: naming every key that is unknown, of the wrong type or out of range.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError:
        raise ShortFormError(
            f"{path}: no such file; give one with --config, configs/verl_config.yaml is an example"
        ) from None
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ShortFormError(f"{path}: not a readable YAML mapping: {error}") from error
    try:
        form = ShortForm.model_validate(content)
    except ValidationError as error:
        raise ShortFormError(_explain(path, error.errors())) from error

    for group in ("hardware", "judge", "rewards"):
        choices = sorted(file.stem for file in (config_dir / group).glob("*.yaml"))
        value = getattr(form, group)
        if value is not None and value not in choices:
            raise ShortFormError(f"{path}: {group}: found {value!r}, known: {', '.join(choices)}")
    rows, mini_batch = form.rollout.batch_size, form.train.batch_size
    if rows and mini_batch and rows % mini_batch:
        raise ShortFormError(
            f"{path}: rollout.batch_size is {rows} and train.batch_size is {mini_batch}; a step's "
            f"rows are cut into mini-batches, so {mini_batch} must divide {rows}"
        )
    return form


def verl_command(form: ShortForm, extra: Iterable[str], config_dir: Path = CONFIG_DIR) -> list[str]:
    """The command that starts verl.

    Args:
        form: the short form.
        extra: Hydra overrides; where one sets a key that the short form sets too, it wins.
        config_dir: the project's Hydra configurations.
    """
    extra = list(extra)
    overridden = {override.split("=", 1)[0].lstrip("+~") for override in extra}
    return [
        *(sys.executable, "-m", "verl.trainer.main_ppo"),
        *("--config-dir", str(config_dir), "--config-name", f"medical_{form.algorithm.name}"),
        *(f"{k}={_literal(v)}" for k, v in form.overrides().items() if k not in overridden),
        *extra,
    ]


def start(command: list[str]) -> None:
    """Becomes verl: signals reach it directly, and its exit code is the caller's.

    Raises:
        ShortFormError: verl is not installed here.
    """
    if find_spec("verl") is None:
        raise ShortFormError(
            f"{sys.executable} has no verl; run ./setup_env.sh, then start with .venv/bin/python"
        )
    sys.stdout.flush()
    os.execv(command[0], command)


def _settings(section: BaseModel) -> Iterator[tuple[str, object]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _settings(value)
        elif value is not None:
            for mark in field.metadata:
                if isinstance(mark, Sets):
                    yield mark.key, value


def _literal(value: object) -> str:
    """A value in Hydra's override grammar; text that could be read as something else is quoted."""
    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*", str(value))
    if not isinstance(value, str) or (plain and value.lower() not in _HYDRA_WORDS):
        return str(value)
    # In Hydra's quotes only a quote, and backslashes right before one, need escaping.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"


def _explain(path: Path, errors: list[ErrorDetails]) -> str:
    known = known_keys()
    lines = []
    for error in errors:
        key = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key{_nearest(key, known)}")
        elif error["type"] in ("model_type", "model_attributes_type"):
            where = key or "the file"
            lines.append(f"{where}: found {error['input']!r}, expected a mapping of keys to values")
        elif error["type"] == "literal_error" and key == "algorithm.name":
            names = ", ".join(get_args(Algorithm.model_fields["name"].annotation))
            lines.append(f"{key}: found {error['input']!r}, known: {names}")
        else:
            message = error["msg"].removeprefix("Input ")
            lines.append(f"{key}: found {error['input']!r}, it {message}")
    text = "\n".join(f"{path}: {line}" for line in lines)
    if any(error["type"] == "extra_forbidden" for error in errors):
        text += f"\nknown keys: {', '.join(known)}"
    return text


def _nearest(key: str, known: list[str]) -> str:
    last = key.rpartition(".")[2]
    same_name = [other for other in known if other.rpartition(".")[2] == last]
    close = same_name or difflib.get_close_matches(key, known, n=1)
    return f", did you mean {' or '.join(close)}?" if close else ""
