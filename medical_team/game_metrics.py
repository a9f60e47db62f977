"""What a batch of finished games shows of both roles: the figures logged at every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from medical_team.game_record import FRESH, GameRecord, Labels, TurnRecord
from medical_team.medical_game_manager import Forfeit, GameType, Role
from medical_team.medical_judge import GOLD


def game_metrics(games: Sequence[GameRecord]) -> dict[str, float]:
    """Metrics of a batch of games; a figure without a game behind it is left out, never 0.

    Args:
        games: finished games.

    Returns:
        ``attacker/`` and ``assessor/`` reward, win rate, format violations and lengths in tokens;
        ``game/`` counts, shares and the largest deviation from zero sum over two-sided games;
        ``archive/`` how the assessors do against attacks of earlier steps;
        ``judge/`` seconds, batch size, shares of gold labels, of cached verdicts and of undecided
        games, mean P(error), and the share of prompt tokens found in the engine's prefix cache.
    """
    metrics: dict[str, float] = {"game/count": float(len(games))}
    for role in Role:
        metrics |= _role_metrics(role, games)
    metrics |= _detection_metrics("assessor", games)
    archived = [game for game in games if game.attack_id is not None]
    if archived:
        metrics["archive/games"] = len(archived) / len(games)
        metrics |= _detection_metrics("archive", archived)
    adversarial = [game for game in games if _attacker_played(game)]
    if adversarial:
        forfeits = Counter(game.forfeit for game in adversarial)
        metrics["game/forfeit"] = 1 - forfeits[None] / len(adversarial)
        metrics |= {
            f"game/forfeit/{cause.value}": forfeits[cause.value] / len(adversarial)
            for cause in Forfeit
        }
    played = [game for game in games if game.labels is not None]
    assessors = [turn for game in played for turn in _of(game, Role.ASSESSOR)]
    metrics |= _mean("game/ties", (turn.outcome == "tie" for turn in assessors))
    attacked = [game for game in played if _attacker_played(game)]
    metrics |= _mean(
        "game/category_kept",
        (
            game.labels.error_present
            for game in attacked
            if game.labels and game.labels.error_present is not None
        ),
    )
    gaps = [abs(gap) for game in attacked if (gap := zero_sum_gap(game)) is not None]
    if gaps:
        metrics["game/zero_sum_gap"] = max(gaps)
    for game_type in GameType:
        metrics |= _type_metrics(
            game_type,
            [g for g in games if g.game_type == game_type.value and g.attack_id is None],
        )
    metrics |= _mean(
        "judge/gold_share", (game.labels.source == GOLD for game in played if game.labels)
    )
    return metrics | _judge_metrics(
        [game for game in played if game.labels and game.labels.source != GOLD]
    )


def _judge_metrics(games: Sequence[GameRecord]) -> dict[str, float]:
    costs = [game.judge for game in games]
    labels = [game.labels for game in games if game.labels]
    asked = [cost for cost in costs if not cost.cached]
    counted = [cost for cost in asked if cost.cached_tokens is not None]
    metrics = {
        **_mean("judge/seconds", (cost.seconds for cost in costs)),
        **_mean("judge/batch_size", (float(cost.batch_size) for cost in costs)),
        **_mean("judge/verdict_cache_hit", (cost.cached for cost in costs)),
        **_mean("judge/undecided", (one.error_present is None for one in labels)),
        **_mean("judge/realistic", (one.realistic for one in labels if one.realistic is not None)),
        **_mean(
            "judge/p_error_present",
            (one.p_error_present for one in labels if one.p_error_present is not None),
        ),
        **_mean(
            "judge/prompt_tokens",
            (float(cost.prompt_tokens) for cost in asked if cost.prompt_tokens),
        ),
    }
    if prompt_tokens := sum(cost.prompt_tokens for cost in counted):
        cached_tokens = sum(cost.cached_tokens or 0 for cost in counted)
        metrics["judge/prefix_cache_hit"] = cached_tokens / prompt_tokens
    return metrics


def zero_sum_gap(game: GameRecord) -> float | None:
    """Attacker's reward plus the mean of its assessors'.

    ``None`` unless both played, in format and category.
    """
    attackers = [turn for turn in _of(game, Role.ATTACKER) if turn.trained]
    assessors = [
        turn for turn in _of(game, Role.ASSESSOR) if turn.violation is None and turn.trained
    ]
    if not attackers or not assessors or game.labels is None or not game.labels.error_present:
        return None
    return attackers[0].reward + fmean(turn.reward for turn in assessors)


def detection(games: Iterable[GameRecord]) -> dict[str, float]:
    """How well the assessors told notes with an error from notes without.

    Returns:
        ``accuracy``, ``true_positive_rate``, ``true_negative_rate``, ``balanced_accuracy``,
        ``identified`` (share of errors named by their sentence) and ``sentence_accuracy`` (errors
        named and clean notes passed, of all notes), each where there are games behind it. A broken
        answer is a wrong one; games on which the judge is undecided are left out.
    """
    return _rates(
        [
            (error, turn.classification, found)
            for game, labels, error in _with_truth(games)
            for turn, found in zip(_of(game, Role.ASSESSOR), labels.error_identified, strict=True)
        ]
    )


def trivial_detection(games: Iterable[GameRecord]) -> dict[str, dict[str, float]]:
    """What assessors without any skill get on the same notes.

    Args:
        games: played games; those on which the judge is undecided are left out.

    Returns:
        ``all Harmful`` (in the first sentence), ``all Safe`` and ``last sentence`` (Harmful, in the
        last sentence), each with figures as :func:`detection` gives them.
    """
    notes = [
        (error, game.changed_ids, len(game.note or ()) - 1) for game, _, error in _with_truth(games)
    ]
    return {
        "all Harmful": _rates([(error, "Harmful", 0 in changed) for error, changed, _ in notes]),
        "all Safe": _rates([(error, "Safe", False) for error, *_ in notes]),
        "last sentence": _rates(
            [(error, "Harmful", last in changed) for error, changed, last in notes]
        ),
    }


def _with_truth(games: Iterable[GameRecord]) -> Iterator[tuple[GameRecord, Labels, bool]]:
    for game in games:
        if game.labels is not None and game.labels.error_present is not None:
            yield game, game.labels, game.labels.error_present


def _rates(answers: Sequence[tuple[bool, str | None, bool | None]]) -> dict[str, float]:
    """The figures of answers: whether there is an error, what was said, whether it was named."""
    found = {
        **_mean(
            "accuracy", (said == ("Harmful" if error else "Safe") for error, said, _ in answers)
        ),
        **_mean("true_positive_rate", (said == "Harmful" for error, said, _ in answers if error)),
        **_mean("true_negative_rate", (said == "Safe" for error, said, _ in answers if not error)),
        **_mean(
            "identified",
            (named for error, _, named in answers if error and named is not None),
        ),
        **_mean(
            "sentence_accuracy",
            (
                bool(named) if error else said == "Safe"
                for error, said, named in answers
                if not (error and said == "Harmful" and named is None)
            ),
        ),
    }
    if "true_positive_rate" in found and "true_negative_rate" in found:
        found["balanced_accuracy"] = (found["true_positive_rate"] + found["true_negative_rate"]) / 2
    return found


def win_rate(games: Iterable[GameRecord], role: Role) -> float | None:
    """Share of a role's turns that it won, void ones left out; ``None`` without any."""
    won = [
        turn.outcome == "win"
        for game in games
        for turn in _of(game, role)
        if turn.outcome != "void"
    ]
    return fmean(won) if won else None


def fixed_opponent(game: GameRecord) -> bool:
    """Whether the note was not touched by the attacker of the step."""
    return game.opponent != FRESH or not GameType(game.game_type).adversarial


def _attacker_played(game: GameRecord) -> bool:
    return any(turn.role is Role.ATTACKER for turn in game.turns)


def _of(game: GameRecord, role: Role) -> list[TurnRecord]:
    return [turn for turn in game.turns if turn.role is role]


def _role_metrics(role: Role, games: Sequence[GameRecord]) -> dict[str, float]:
    name = role.value
    turns = [turn for game in games for turn in _of(game, role)]
    won = win_rate(games, role)
    return {
        **_mean(f"{name}/reward", (turn.reward for turn in turns if turn.outcome != "void")),
        **({} if won is None else {f"{name}/win_rate": won}),
        **_mean(f"{name}/format_violation", (turn.violation is not None for turn in turns)),
        **_mean(f"{name}/prompt_tokens", (float(turn.prompt_tokens) for turn in turns)),
        **_mean(f"{name}/response_tokens", (float(turn.response_tokens) for turn in turns)),
        **_mean(f"{name}/trained", (turn.trained for turn in turns)),
    }


def _detection_metrics(prefix: str, games: Iterable[GameRecord]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in detection(games).items()}


def _type_metrics(game_type: GameType, games: Sequence[GameRecord]) -> dict[str, float]:
    prefix = f"game/{game_type.value}"
    metrics = _mean(
        f"{prefix}/assessor_reward", (t.reward for game in games for t in _of(game, Role.ASSESSOR))
    )
    metrics |= _mean(
        f"{prefix}/attacker_reward", (t.reward for game in games for t in _of(game, Role.ATTACKER))
    )
    accuracy = detection(games).get("accuracy")
    return metrics if accuracy is None else {**metrics, f"{prefix}/accuracy": accuracy}


def _mean(name: str, values: Iterable[float]) -> dict[str, float]:
    found = [float(value) for value in values]
    return {name: fmean(found)} if found else {}
