"""The figures of one step that the alarms watch, each with the number of turns behind it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Final, TypeVar

from medical_team.alarms.likeness import copied_share, likeness, word_runs, written_words
from medical_team.alarms.settings import AlarmName
from medical_team.game_record import GameRecord, TurnRecord
from medical_team.medical_game_manager import Role
from medical_team.medical_judge import GOLD

_SAMPLE: Final = 128  # texts of a step that are compared: more costs time and says no more
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over the turns of a step.

    Attributes:
        alarm: what it is watched for.
        role: whose it is, ``None`` if the alarm has one figure only.
        value: the mean.
        count: number of turns (of groups for ``advantage``) behind it, at least 1.
    """

    alarm: AlarmName
    role: Role | None
    value: float
    count: int


def step_figures(
    games: Sequence[GameRecord],
    nll: Mapping[Role, float] | None,
    alarms: Iterable[AlarmName],
) -> list[Figure]:
    """The figures of a step; one without turns behind it is left out.

    Only games with a turn of the attacker tell of the attacker and of the judge: archived attacks
    are of earlier steps.

    Args:
        games: the step's finished games.
        nll: mean negative log-probability of each role's tokens as they were sampled, in nats: an
            unbiased estimate of its entropy per token. A value that is not finite is left out.
        alarms: what is watched; ``validation`` has no figure here.
    """
    found: list[Figure] = []
    for alarm in alarms:
        if alarm is AlarmName.ENTROPY:
            found += _entropy(games, nll or {})
        elif alarm is not AlarmName.VALIDATION:
            found += _FIGURES[alarm](games)
    return found


def self_play_reward(games: Iterable[GameRecord]) -> float | None:
    """The assessors' mean reward against the attacker of the step; ``None`` without such games."""
    rewards = [turn.reward for game in _attacked(games) for turn in _turns([game], Role.ASSESSOR)]
    return fmean(rewards) if rewards else None


def _one_sided(games: Sequence[GameRecord]) -> list[Figure]:
    won = [
        turn.outcome == "win"
        for game in _attacked(games)
        if game.forfeit is None
        for turn in _turns([game], Role.ATTACKER)
        if turn.trained and turn.outcome in ("win", "loss")
    ]
    return _mean(AlarmName.ONE_SIDED, None, won)


def _forfeits(games: Sequence[GameRecord]) -> list[Figure]:
    forfeited = [game.forfeit is not None for game in _attacked(games)]
    return _mean(AlarmName.FORFEITS, None, forfeited)


def _format(games: Sequence[GameRecord]) -> list[Figure]:
    broken = [turn.violation is not None for turn in _turns(games, Role.ASSESSOR)]
    return _mean(AlarmName.FORMAT, None, broken)


def _entropy(games: Sequence[GameRecord], nll: Mapping[Role, float]) -> list[Figure]:
    return [
        Figure(AlarmName.ENTROPY, role, value, count)
        for role, value in nll.items()
        if math.isfinite(value) and (count := len(_turns(games, role)))
    ]


def _alike(games: Sequence[GameRecord]) -> list[Figure]:
    played = _sample([game for game in _attacked(games) if game.note is not None])
    value = likeness((game.case_id, written_words(game.source, game.note or ())) for game in played)
    return [] if value is None else [Figure(AlarmName.ALIKE, None, value, len(played))]


def _copying(games: Sequence[GameRecord]) -> list[Figure]:
    runs = cache(word_runs)  # the turns of a group have one prompt
    found: list[Figure] = []
    for role in Role:
        turns = _sample(_turns(games, role))
        # A broken format hides the reasoning: what was written is then all there is.
        texts = ((turn.reasoning or turn.response, turn.prompt) for turn in turns)
        shares = [copied_share(text, runs(prompt)) for text, prompt in texts]
        found += _mean(AlarmName.COPYING, role, [one for one in shares if one is not None])
    return found


def _judge_positive(games: Sequence[GameRecord]) -> list[Figure]:
    said = [
        game.labels.error_present
        for game in _attacked(games)
        if game.labels and game.labels.source != GOLD and game.labels.error_present is not None
    ]
    return _mean(AlarmName.JUDGE_POSITIVE, None, said)


def _advantage(games: Sequence[GameRecord]) -> list[Figure]:
    groups: dict[tuple[Role, str, int | None], list[float]] = defaultdict(list)
    for game in games:
        several = len(_turns([game], Role.ASSESSOR)) > 1
        for turn in game.turns:
            if turn.trained:
                own = several and turn.role is Role.ASSESSOR
                groups[turn.role, game.uid, game.session if own else None].append(turn.reward)
    return [
        figure
        for role in Role
        for figure in _mean(
            AlarmName.ADVANTAGE,
            role,
            [
                min(rewards) == max(rewards)
                for key, rewards in groups.items()
                if key[0] is role and len(rewards) > 1
            ],
        )
    ]


_FIGURES: Final[Mapping[AlarmName, Callable[[Sequence[GameRecord]], list[Figure]]]] = {
    AlarmName.ONE_SIDED: _one_sided,
    AlarmName.FORFEITS: _forfeits,
    AlarmName.FORMAT: _format,
    AlarmName.ALIKE: _alike,
    AlarmName.COPYING: _copying,
    AlarmName.JUDGE_POSITIVE: _judge_positive,
    AlarmName.ADVANTAGE: _advantage,
}


def _mean(alarm: AlarmName, role: Role | None, values: Sequence[float]) -> list[Figure]:
    return [Figure(alarm, role, fmean(values), len(values))] if values else []


def _attacked(games: Iterable[GameRecord]) -> list[GameRecord]:
    return [game for game in games if any(turn.role is Role.ATTACKER for turn in game.turns)]


def _turns(games: Iterable[GameRecord], role: Role) -> list[TurnRecord]:
    return [turn for game in games for turn in game.turns if turn.role is role]


def _sample(items: Sequence[_T]) -> Sequence[_T]:
    """At most ``_SAMPLE`` of them, spread evenly."""
    if len(items) <= _SAMPLE:
        return items
    return [items[i * len(items) // _SAMPLE] for i in range(_SAMPLE)]
