"""A run's resolved configuration: its key facts, and in what two of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

CONFIG: Final = "config.yaml"

# What differs between any two runs and says nothing of either.
_OWN: Final = (
    "run_dir",
    "trainer.experiment_name",
    "trainer.default_local_dir",
    "trainer.v1.sampler.sampler_kwargs.output_dir",
)

_ROLLOUT: Final = "actor_rollout_ref.rollout"

_FACTS: Final = (
    ("Algorithm", ("algorithm.adv_estimator",)),
    ("Model", ("actor_rollout_ref.model.path",)),
    ("Learning rate", ("actor_rollout_ref.actor.optim.lr",)),
    ("Rows a step x games a row", ("data.train_batch_size", "actor_rollout_ref.rollout.n")),
    ("Assessors of an attack", ("game.assessor_samples",)),
    ("Attacker writes", ("game.attacker",)),
    ("Trained roles", ("game.train_roles",)),
    ("Temperature, top-p", (f"{_ROLLOUT}.temperature", f"{_ROLLOUT}.top_p")),
    (
        "Validation temperature, top-p",
        (f"{_ROLLOUT}.val_kwargs.temperature", f"{_ROLLOUT}.val_kwargs.top_p"),
    ),
    ("Most tokens of a response", ("data.max_response_length",)),
    ("Rewards", ("rewards.table",)),
    ("Judge", ("judge.name", "judge.model")),
    ("Archive share", ("archive.fraction",)),
    ("Training data", ("data.train_files",)),
    ("Validation data", ("data.val_files",)),
    ("Seed", ("game.seed",)),
    ("Device", ("trainer.device",)),
    ("Mode", ("trainer.v1.trainer_mode",)),
)


class ConfigError(ValueError):
    """A file that is no configuration; the message says why, without the file's name."""


def read_config(folder: Path) -> dict[str, Any]:
    """A run's resolved configuration as it stands, secrets and all.

    Args:
        folder: the run's folder.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it cannot be read.
        ConfigError: if it is none.
    """
    try:
        found = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"not read ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict):
        raise ConfigError(f"holds {type(found).__name__}, expected a run's settings")
    return found


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One part of a configuration; empty where it is missing or of another kind."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def planned_steps(config: Mapping[str, Any]) -> int | None:
    """How many steps a run is to train, where its configuration says so."""
    planned = section(config, "trainer").get("total_training_steps")
    return planned if type(planned) is int and planned > 0 else None


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one level of dotted keys; lists stay values."""
    if isinstance(value, Mapping):
        return {
            key: leaf
            for name, item in value.items()
            for key, leaf in flatten(item, f"{prefix}{name}.").items()
        }
    return {prefix.rstrip("."): value}


def key_facts(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What one asks of a run first: names and values, those left out that it does not set."""
    flat = flatten(config)
    for label, keys in _FACTS:
        values = [_shown(flat[key]) for key in keys if flat.get(key) is not None]
        if values:
            yield label, " x ".join(values) if label.count(" x ") else ", ".join(values)


def differing_keys(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """Keys whose values differ, with both values; a key that one lacks shows as ``-``.

    A run's own name and folder are left out.
    """
    before, after = flatten(first), flatten(second)
    return [
        (key, _value(before, key), _value(after, key))
        for key in sorted(before.keys() | after.keys())
        if not key.startswith(_OWN) and before.get(key, _OWN) != after.get(key, _OWN)
    ]


def _value(flat: Mapping[str, Any], key: str) -> str:
    return _shown(flat[key]) if key in flat else "-"


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_shown, value))
    return "null" if value is None else str(value)
