"""How a model folder wants to be asked: ``assessor.json`` beside its weights.

A model that was trained with the game's prompts answers best to the same prompts. Its folder may
say which they are; without the file the full prompt is used.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from medical_team.atomic_files import replacing
from medical_team.evaluation.errors import EvaluationError
from medical_team.prompts import PromptStyle

FILE = "assessor.json"


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class AssessorSettings:
    """The assessor's side of the game that a model was trained on.

    Attributes:
        prompt_style: how much the prompt explains.
        think_opened: whether the prompt ends in ``<think>``.
        max_response_tokens: most tokens of a response.
    """

    prompt_style: PromptStyle = PromptStyle.FULL
    think_opened: bool = True
    max_response_tokens: Annotated[int, Field(ge=1)] = 1024


def read_assessor_settings(model: str | Path) -> AssessorSettings:
    """What the model's folder says, or the defaults where it says nothing.

    Args:
        model: a folder, or a model's name on the hub, which says nothing.

    Raises:
        EvaluationError: if the file is there and cannot be read.
    """
    path = Path(model) / FILE
    if not path.is_file():
        return AssessorSettings()
    try:
        return TypeAdapter(AssessorSettings).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise EvaluationError(
            f"{path}, {field}: {first['msg']} (found {str(first['input'])[:60]!r}). Expected"
            " prompt_style (full or compact), think_opened and max_response_tokens; correct it or"
            " delete the file."
        ) from error


def unsettled_hint(model: str | Path) -> str | None:
    """What to do about a run's own checkpoint, which does not say how it wants to be asked.

    Args:
        model: a folder, or a model's name on the hub.

    Returns:
        A sentence; ``None`` for any other model.
    """
    path = Path(model)
    if not of_a_run(path) or not (path / "config.json").is_file() or (path / FILE).is_file():
        return None
    return (
        f"{path} is a checkpoint of a run and does not say which prompts it was trained with; the"
        f" {AssessorSettings().prompt_style} prompt is used. scripts/export_model.py makes a folder"
        " that does say."
    )


def of_a_run(path: Path) -> bool:
    """Whether a folder is a run's, or lies in one of its checkpoints."""
    inside = any(part.startswith("global_step_") for part in path.absolute().parts)
    return path.is_dir() and (inside or (path / "checkpoints").is_dir())


def write_assessor_settings(settings: AssessorSettings, model: Path) -> None:
    """Writes the file into a model's folder."""
    values = asdict(settings)
    with replacing(model / FILE) as stream:
        stream.write(TypeAdapter(dict).dump_json(values, indent=2).decode() + "\n")
