"""Judge back ends; each lives in its own module and imports its engine there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import cast

from medical_team.judges.settings import (
    JudgeSettings,
    ModelSettings,
    OpenAISettings,
    ReferenceSettings,
    RemoteSettings,
    TransformersSettings,
    VerlSettings,
    VllmSettings,
)
from medical_team.medical_judge import Judge

# name: the settings' class, and the function that makes the judge from them
BACK_ENDS: dict[str, tuple[type[JudgeSettings], str]] = {
    "reference": (ReferenceSettings, "medical_team.judges.reference:build"),
    "transformers": (TransformersSettings, "medical_team.judges.transformers:build"),
    "vllm": (VllmSettings, "medical_team.judges.vllm:build"),
    "openai": (OpenAISettings, "medical_team.judges.openai:build"),
    "verl": (VerlSettings, "medical_team.judges.openai:build"),
    "remote": (RemoteSettings, "medical_team.remote_judge:build"),
}


def settings_class(name: object) -> type[JudgeSettings]:
    """The settings of a back end.

    Raises:
        ValueError: naming the known ones.
    """
    if name not in BACK_ENDS:
        raise ValueError(f"judge.name is {name!r}, known judges: {', '.join(sorted(BACK_ENDS))}")
    return BACK_ENDS[str(name)][0]


def build_judge(settings: JudgeSettings) -> Judge:
    """Makes the back end that the settings name; a local model is loaded now.

    Where no threshold is set, the one that calibration found is used.

    Raises:
        JudgeError: if it cannot be made, with what to do about it.
        ValueError: if the calibration file cannot be read.
    """
    if isinstance(settings, ModelSettings) and settings.threshold is None and settings.calibration:
        from medical_team.calibration.record import read_calibration

        calibration = read_calibration(Path(settings.calibration))
        settings = replace(settings, threshold=calibration.threshold)
    module, _, name = BACK_ENDS[settings.name][1].partition(":")
    build = cast(Callable[[JudgeSettings], Judge], getattr(import_module(module), name))
    return build(settings)
