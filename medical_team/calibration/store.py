"""The file in which every answer of a judge is kept, so that a killed calibration goes on.

Of a language model each question's answer is kept, of any other judge its verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medical_team.calibration.record import CalibrationError
from medical_team.judges.model_judge import Answer
from medical_team.judges.questions import PromptKey
from medical_team.medical_judge import JudgeQuery, Unscored, Verdict


@dataclass(frozen=True, slots=True)
class Asked:
    """What a file of answers is about; answers of another judge or other data do not mix.

    Attributes:
        judge: the judge's name.
        fingerprint: the judge's.
        data_sha256: of the MEDEC file.
        seed: of the items.
        questions: which of its questions a model was asked.
    """

    judge: str
    fingerprint: str
    data_sha256: str
    seed: int
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """A model's answer to one question, or why there is none.

    Attributes:
        key: the question.
        answer: what was answered.
        failure: why not.
    """

    key: PromptKey
    answer: Answer | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge said about one item.

    Attributes:
        query: what it was shown.
        latency_s: duration of the batch that the item was in, in seconds.
        share_s: the item's share of the time that the judge was busy, in seconds.
        answers: a language model's answers.
        judgement: any other judge's verdict.
    """

    query: JudgeQuery
    latency_s: float
    share_s: float
    answers: tuple[PromptAnswer, ...] = ()
    judgement: Verdict | Unscored | None = None


def load(path: Path, asked: Asked) -> dict[str, Reply]:
    """The replies in a file, by query id; it is made where it is missing.

    A last line that was not ended, since the run was killed, is cut off.

    Args:
        path: JSON lines; the first says what they are about.
        asked: what they must be about.

    Raises:
        CalibrationError: if they are about something else or cannot be read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole, _, partial = (path.read_bytes() if path.exists() else b"").rpartition(b"\n")
    if not whole:
        path.write_bytes(_json(Asked).dump_json(asked) + b"\n")
        return {}
    if partial:
        with path.open("r+b") as stream:
            stream.truncate(len(whole) + 1)
    first, *lines = whole.split(b"\n")
    before: Asked = _parsed(Asked, first, path, 1)
    if before != asked:
        differing = [
            f"{name} {old!r} (now {new!r})"
            for (name, old), new in zip(asdict(before).items(), asdict(asked).values(), strict=True)
            if old != new
        ]
        raise CalibrationError(
            f"{path} holds the answers of another calibration: {', '.join(differing)}. Choose"
            " another output folder, or delete the file."
        )
    replies: list[Reply] = [
        _parsed(Reply, line, path, number) for number, line in enumerate(lines, start=2)
    ]
    return {reply.query.query_id: reply for reply in replies}


def append(path: Path, replies: Sequence[Reply]) -> None:
    """Adds replies to a file that :func:`load` has seen."""
    with path.open("a", encoding="utf-8", newline="\n") as stream:
        stream.writelines(_json(Reply).dump_json(reply).decode() + "\n" for reply in replies)


def _parsed(kind: Any, line: bytes, path: Path, number: int) -> Any:
    try:
        return _json(kind).validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the line"
        raise CalibrationError(
            f"{path}, line {number}, {field}: {first['msg']}, expected a {kind.__name__} as"
            " scripts/calibrate_judge.py writes it. Delete the file and ask again."
        ) from error


@cache
def _json(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
