"""``metrics.json`` as a model card takes it, checked before any work is done with it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medical_team.evaluation.errors import EvaluationError
from medical_team.evaluation.measures import Estimate


class EvaluatedSystem(BaseModel):
    """What was evaluated.

    Attributes:
        kind: a model in the evaluating process, one behind a server, or a file.
        name: the model's or the file's.
        weights_sha256: of a model's folder, as
            :func:`~medical_team.evaluation.weights_digest.weights_digest` gives it.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["model", "server", "predictions"]
    name: str
    weights_sha256: str | None = None

    @property
    def title(self) -> str:
        """What stands above its figures."""
        what = {"model": "the model", "server": "on a server,", "predictions": "the file"}
        return f"{what[self.kind]} {self.name}"


class Metrics(BaseModel):
    """The part of the file that a card shows.

    Attributes:
        evaluated: ``None`` in files of earlier versions.
        facts: about the run.
        scores: by measure.
        baselines: by trivial system, by measure.
    """

    model_config = ConfigDict(frozen=True)

    evaluated: EvaluatedSystem | None = None
    facts: dict[str, str]
    scores: dict[str, Estimate]
    baselines: dict[str, dict[str, Estimate]]


def read_metrics(path: Path) -> Metrics:
    """Reads the file.

    Raises:
        EvaluationError: if it cannot be read or is none, naming the field.
    """
    expected = "expected the metrics.json of scripts/evaluate_medec.py"
    try:
        return Metrics.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}; {expected}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        found = str(first["input"])[:60]
        raise EvaluationError(
            f"{path}, {field}: {first['msg']} (found {found!r}); {expected}"
        ) from None
