"""A finished game as one line of ``games/*.jsonl``: turns, labels, rewards.

The record is the only carrier of a game's rewards: the trainer reads each turn's reward from it,
the log is made of it, and the metrics are computed from it, so they cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from pydantic import TypeAdapter

from medical_team.medical_game_manager import Game, GameType, Role
from medical_team.medical_judge import LabelProbabilities, Verdict
from medical_team.rewards import TurnReward

FRESH = "fresh"
ARCHIVE = "archive"
# Where the games without a verdict of training and of validation are logged.
UNSCORED: Final = {"train": "unscored_train", "val": "unscored_val"}

# Fields, with a default, that logs of earlier versions lack.
_ADDED: Final = {"unscored"}
# Pydantic would otherwise take a record that is there already as it is.
_CHECKED: Final = {"revalidate_instances": "always"}
_GAME_TYPES: Final = frozenset(kind.value for kind in GameType)
_SHOWN: Final = 60  # characters of a wrong value in a message


@dataclass(frozen=True, slots=True)
class TurnCost:
    """What a turn took.

    Attributes:
        prompt: the prompt as the model saw it, decoded.
        prompt_tokens: its length in tokens.
        response_tokens: length of the response in tokens.
        seconds: wall time of its generation.
        nll: mean negative log-probability of the response's tokens as they were sampled, in nats,
            an estimate of the policy's entropy per token; ``None`` if the engine does not say.
    """

    prompt: str
    prompt_tokens: int
    response_tokens: int
    seconds: float
    nll: float | None = None


@dataclass(frozen=True, slots=True)
class JudgeCost:
    """What judging took.

    Attributes:
        seconds: from the question to the verdict, the queue included; 0.0 for gold labels.
        batch_size: number of games judged in the same batch; 0 for gold labels.
        prompt_tokens: length of the judge's prompts, in tokens.
        cached_tokens: how many of them were not computed again; ``None`` if the engine does not
            say.
        output_tokens: tokens the judge generated.
        cached: whether the verdict was there already.
    """

    __pydantic_config__: ClassVar = _CHECKED

    seconds: float = 0.0
    batch_size: int = 0
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    output_tokens: int = 0
    cached: bool = False


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn, what it was worth and what it cost.

    See :class:`~medical_team.medical_game_manager.Turn`, ``TurnReward`` and :class:`TurnCost`.
    """

    __pydantic_config__: ClassVar = _CHECKED

    role: Role
    prompt: str
    response: str
    reasoning: str | None
    answer: str | None
    violation: str | None
    classification: str | None
    sentence_id: int | None
    correction: str | None
    reward: float
    trained: bool
    outcome: str
    prompt_tokens: int
    response_tokens: int
    seconds: float
    nll: float | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a played game; see :class:`~medical_team.medical_judge.Verdict`.

    The ``p_`` fields are the probabilities from which a model's labels were decided.
    """

    __pydantic_config__: ClassVar = _CHECKED

    error_present: bool | None
    error_identified: tuple[bool | None, ...]
    realistic: bool | None
    source: str
    p_error_present: float | None = None
    p_error_identified: tuple[float | None, ...] = ()
    p_realistic: float | None = None


@dataclass(frozen=True, slots=True)
class GameRecord:
    """One played game.

    Attributes:
        step: the trainer's step for which the game was started.
        uid: the trainer's id of the row in this step.
        session: which of the row's rollouts.
        case_id: the case.
        game_type: which of the four games.
        error_type: the case's error type.
        source: the source note, as sentences.
        note: the note the assessors read, ``None`` after a forfeit.
        changed_ids: its sentences that differ from the clean note.
        forfeit: why the attacker forfeited, or ``None``.
        labels: the labels, ``None`` after a forfeit and without a verdict.
        judge: what judging took.
        turns: the turns, in order; the index is that of the trainer's trajectory.
        opponent: whose note the assessors read: ``fresh`` for the attacker of the step or a gold
            note, ``archive`` for an attack of an earlier step, else the name of a fixed set.
        attack_id: the archived attack that was read, ``None`` for a fresh note.
        unscored: why the judge gave no verdict, ``None`` for a game that ended. Such a game has
            no labels; its turns are void, worth 0 and not trained.
    """

    __pydantic_config__: ClassVar = _CHECKED

    step: int
    uid: str
    session: int
    case_id: str
    game_type: str
    error_type: str
    source: tuple[str, ...]
    note: tuple[str, ...] | None
    changed_ids: tuple[int, ...]
    forfeit: str | None
    labels: Labels | None
    judge: JudgeCost
    turns: tuple[TurnRecord, ...]
    opponent: str = FRESH
    attack_id: str | None = None
    unscored: str | None = None

    def to_json(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> GameRecord:
        """Reads one line.

        Raises:
            ValueError: if the line is not a record, naming the field that is missing, unknown, of
                another type, or does not fit the rest.
        """
        data = _fields(cls, json.loads(line), "the game record")
        labels = data["labels"]
        parts = {
            "labels": None if labels is None else Labels(**_fields(Labels, labels, "labels")),
            "judge": JudgeCost(**_fields(JudgeCost, data["judge"], "judge")),
            "turns": tuple(_turn(turn, index) for index, turn in enumerate(_list(data, "turns"))),
        }
        record = _typed(cls(**{**data, **parts}))
        _check(record)
        return record


def record_game(
    game: Game,
    *,
    step: int,
    uid: str,
    session: int,
    costs: Sequence[TurnCost],
    verdict: Verdict | None,
    judge: JudgeCost,
    rewards: Sequence[TurnReward],
    opponent: str = FRESH,
    attack_id: str | None = None,
    unscored: str | None = None,
) -> GameRecord:
    """Puts a finished game together.

    Args:
        game: the game.
        step: the trainer's step.
        uid: the trainer's row id.
        session: which of the row's rollouts.
        costs: one for each turn.
        verdict: the labels, ``None`` after a forfeit or where there is none.
        judge: what judging took.
        rewards: one for each turn.
        opponent: whose note the assessors read.
        attack_id: the archived attack that was read.
        unscored: why there is no verdict though there was no forfeit.

    Raises:
        ValueError: if turns, costs and rewards differ in number.
    """
    turns = tuple(
        TurnRecord(
            role=turn.role,
            prompt=cost.prompt,
            response=turn.response,
            reasoning=turn.reasoning,
            answer=turn.answer,
            violation=turn.violation,
            classification=turn.assessment.classification.value if turn.assessment else None,
            sentence_id=turn.assessment.sentence_id if turn.assessment else None,
            correction=turn.assessment.correction if turn.assessment else None,
            reward=reward.value,
            trained=reward.trained,
            outcome=reward.outcome,
            prompt_tokens=cost.prompt_tokens,
            response_tokens=cost.response_tokens,
            seconds=cost.seconds,
            nll=cost.nll,
        )
        for turn, cost, reward in zip(game.turns, costs, rewards, strict=True)
    )
    labels = None
    if verdict is not None:
        told = verdict.probabilities or LabelProbabilities()
        labels = Labels(
            verdict.error_present,
            verdict.error_identified,
            verdict.realistic,
            verdict.source,
            told.error_present,
            told.error_identified,
            told.realistic,
        )
    return GameRecord(
        step=step,
        uid=uid,
        session=session,
        case_id=game.case.case_id,
        game_type=game.game_type.value,
        error_type=game.case.error_type,
        opponent=opponent,
        attack_id=attack_id,
        unscored=unscored,
        source=game.source,
        note=game.note,
        changed_ids=game.changed_ids,
        forfeit=game.forfeit.value if game.forfeit else None,
        labels=labels,
        judge=judge,
        turns=turns,
    )


def _turn(data: Any, index: int) -> TurnRecord:
    values = _fields(TurnRecord, data, f"turns[{index}]")
    if values["role"] not in tuple(Role):
        raise ValueError(
            f"turns[{index}].role is {_short(values['role'])}, expected {' or '.join(Role)}"
        )
    return TurnRecord(**{**values, "role": Role(values["role"])})


def _list(data: dict[str, Any], name: str) -> tuple[Any, ...]:
    found = data[name]
    if not isinstance(found, tuple):
        raise ValueError(f"{name} is {_short(found)}, expected a list")
    return found


@cache
def _adapter() -> TypeAdapter[GameRecord]:
    from pydantic import TypeAdapter

    return TypeAdapter(GameRecord)


def _typed(record: GameRecord) -> GameRecord:
    """The record, every field of which has its type."""
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(record, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
        )
        expected = first["msg"].removeprefix("Input should be ").replace("tuple", "list")
        raise ValueError(
            f"{where.removeprefix('.')} is {_short(first['input'])}, expected {expected}"
        ) from None


def _check(record: GameRecord) -> None:
    """Whether the fields fit each other."""
    if record.game_type not in _GAME_TYPES:
        raise ValueError(
            f"game_type is {_short(record.game_type)}, expected one of {', '.join(GameType)}"
        )
    if record.note is not None:
        for index in record.changed_ids:
            if not 0 <= index < len(record.note):
                raise ValueError(
                    f"changed_ids holds {index}, expected sentences of the note, from 0 to"
                    f" {len(record.note) - 1}"
                )
    if record.unscored is not None and (record.labels is not None or record.forfeit is not None):
        raise ValueError("unscored says why there is no verdict, but there are labels or a forfeit")
    if record.labels is not None:
        assessors = sum(turn.role is Role.ASSESSOR for turn in record.turns)
        if len(record.labels.error_identified) != assessors:
            raise ValueError(
                f"labels.error_identified has {len(record.labels.error_identified)} entries,"
                f" expected one for each of the {assessors} assessors"
            )


def _short(value: Any) -> str:
    shown = ascii(value)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


def _fields(kind: type[Any], data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {type(data).__name__}, expected an object")
    known = {item.name for item in fields(kind)}
    if missing := sorted(known - data.keys() - _ADDED):
        raise ValueError(f"{where} lacks {', '.join(missing)}; it was written by another version")
    if unknown := sorted(data.keys() - known):
        raise ValueError(
            f"{where} has unknown {', '.join(unknown)}; it was written by another version"
        )
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
    }
