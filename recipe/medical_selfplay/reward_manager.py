"""A finished game becomes rewards: gold labels or judge, then reward table, then game record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Final

from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from medical_team.answers import Classification
from medical_team.game_metrics import detection
from medical_team.game_record import ARCHIVE, GameRecord, JudgeCost, record_game
from medical_team.medical_game_manager import Role
from medical_team.medical_judge import JudgeError, Verdict, gold_verdict, query_of, settle
from medical_team.rewards import TurnReward
from recipe.medical_selfplay.agent_loop import PlayedGame
from recipe.medical_selfplay.judge_actor import judge_actor
from recipe.medical_selfplay.league import league_actor
from recipe.medical_selfplay.settings import Settings

_NO_COST: Final = JudgeCost()


@register("medical_selfplay")
class MedicalRewardManager(RewardManagerBase):
    """Scores one game per call."""

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Any,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        """Finds the judge; starts the league.

        Args:
            config: verl's whole configuration.
            tokenizer: verl's tokenizer.
            compute_score: verl's reward function, not used.
            reward_router_address: ``HOST:PORT`` of verl's own judge server, for ``judge=verl``.
            reward_model_tokenizer: not used.
        """
        super().__init__(config, tokenizer, compute_score)
        self._settings = Settings.from_config(config)
        self._judge = judge_actor(self._settings.judge, reward_router_address)
        self._league = league_actor(self._settings.league, config)

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Rewards a game.

        Args:
            data: the session's trajectories; the last one's extra fields hold the played game.

        Returns:
            The last turn's reward and, under ``reward_extra_info``, the game record with every
            turn's reward and the figures verl averages in validation.

        Raises:
            JudgeError: if the game could not be judged. verl then stores no row of it; what was
                played is kept for the log.
        """
        played: PlayedGame = data.non_tensor_batch["tool_extra_fields"][-1]["played_game"]
        try:
            verdict, cost = await self._verdict(played)
        except JudgeError as error:
            reason = str(getattr(error, "cause", error))  # Ray's wrapper adds a traceback
            nothing = [TurnReward(0.0, False, "void")] * len(played.game.turns)
            record = _recorded(played, nothing, unscored=reason)
            await self._judge.keep_unscored.remote(record.to_json(), reason)
            raise
        rewards = [
            reward
            if turn.role.value in self._settings.loop.trained_roles
            else replace(reward, trained=False)
            for turn, reward in zip(
                played.game.turns,
                self._settings.rewards.score(played.game, verdict),
                strict=True,
            )
        ]
        record = _recorded(played, rewards, verdict=verdict, judge=cost)
        return {"reward_score": record.turns[-1].reward, "reward_extra_info": _extra_info(record)}

    async def _verdict(self, played: PlayedGame) -> tuple[Verdict | None, JudgeCost]:
        if played.game.forfeit is not None:
            return None, _NO_COST
        query_id = f"{played.uid}_{played.session}"
        known = _known_verdict(played, query_id)
        if known is not None and None not in known.error_identified:
            return known, _NO_COST
        patience_s = self._settings.judge.patience_s
        try:
            async with asyncio.timeout(patience_s):
                verdict, cost = await self._judge.judge.remote(query_of(played.game, query_id))
        except TimeoutError as error:
            raise JudgeError(f"no verdict for {query_id} within {patience_s:.0f} s") from error
        if known is not None:  # of an archived note, what it holds stays as it was judged
            verdict = replace(verdict, error_present=known.error_present)
        return settle(played.game, verdict), cost


def _recorded(
    played: PlayedGame,
    rewards: Sequence[TurnReward],
    *,
    verdict: Verdict | None = None,
    judge: JudgeCost = _NO_COST,
    unscored: str | None = None,
) -> GameRecord:
    return record_game(
        played.game,
        step=played.step,
        uid=played.uid,
        session=played.session,
        costs=played.costs,
        verdict=verdict,
        judge=judge,
        rewards=rewards,
        opponent=played.opponent,
        attack_id=played.attack.attack_id if played.attack else None,
        unscored=unscored,
    )


def _known_verdict(played: PlayedGame, query_id: str) -> Verdict | None:
    """What is known without asking the judge; who identified the error may be left open."""
    if played.attack is None:
        return gold_verdict(played.game, query_id)
    undecided = (None,) * len(played.game.assessments)
    label = Verdict(query_id, played.attack.error_present, undecided, None, ARCHIVE)
    return settle(played.game, label)


def _extra_info(record: GameRecord) -> dict[str, Any]:
    """The record, and figures with the same keys for every game: ``None`` where one has none."""
    attackers = [turn for turn in record.turns if turn.role is Role.ATTACKER]
    assessors = [turn for turn in record.turns if turn.role is Role.ASSESSOR]
    accuracy = identified = false_positive = None
    if record.labels is not None and record.labels.error_present is not None:
        right = Classification.HARMFUL if record.labels.error_present else Classification.SAFE
        accuracy = fmean(turn.classification == right.value for turn in assessors)
        if not record.labels.error_present:
            false_positive = 1 - accuracy
        decided = [one for one in record.labels.error_identified if one is not None]
        if record.labels.error_present and decided:
            identified = fmean(decided)
    return {
        "acc": accuracy,
        "assessor_accuracy": accuracy,
        "assessor_identified": identified,
        "assessor_sentence_accuracy": detection([record]).get("sentence_accuracy"),
        "assessor_false_positive": false_positive,
        "assessor_reward": fmean(turn.reward for turn in assessors) if assessors else None,
        "assessor_format_violation": fmean(turn.violation is not None for turn in assessors)
        if assessors
        else None,
        "attacker_reward": attackers[0].reward if attackers else None,
        "attacker_forfeit": float(record.forfeit is not None) if attackers else None,
        "game": record.to_json(),
    }
