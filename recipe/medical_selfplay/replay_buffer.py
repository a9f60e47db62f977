"""The sampled batch: rows get the identity that the estimators need, games are logged and counted.

verl calls ``sample`` once a step for training and once a validation batch; what it returns beside
the batch is logged.
"""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.utils import tensordict_utils as tu

from medical_team.alarms import AlarmError
from medical_team.atomic_files import replacing
from medical_team.dataset.rows import case_from_dict
from medical_team.game_metrics import game_metrics
from medical_team.game_record import UNSCORED, GameRecord, TurnRecord
from medical_team.medec import Case
from medical_team.medical_game_manager import Role
from recipe.medical_selfplay.advantages import truth_weights
from recipe.medical_selfplay.judge_actor import NAME as JUDGE
from recipe.medical_selfplay.judge_actor import JudgeReport
from recipe.medical_selfplay.league import NAME as LEAGUE
from recipe.medical_selfplay.league import Standings
from recipe.medical_selfplay.trajectory_id import TrajectoryId

_log = logging.getLogger(__name__)
_TRAIN = "train"
_NOTHING = JudgeReport(0, 0, None, None)
_FEW = 4  # fewer unscored games say nothing about the judge


def replay_buffer(trainer_mode: str, **kwargs: Any) -> ReplayBuffer:
    """The replay buffer for verl's trainer mode; the ``custom_sampler`` of the configurations."""
    kind = GameReplayBuffer if trainer_mode == "sync" else GameReplayBufferAsync
    return kind(trainer_mode=trainer_mode, **kwargs)


class _GameSampling:
    """What both buffers do with a sampled batch.

    Args:
        sampler_kwargs: ``output_dir`` (the run's folder), ``balance_truth`` (whether truths are
            passed on to the estimators), ``rollouts`` (sessions per row), ``max_unscored`` (largest
            share of judged games without a verdict) and ``poll_interval_s`` (how often verl looks
            for finished games, in seconds).
        **kwargs: verl's own arguments.
    """

    def __init__(self, sampler_kwargs: Any, **kwargs: Any) -> None:
        super().__init__(  # type: ignore[call-arg]  # verl's buffer, which both subclasses add
            sampler_kwargs=sampler_kwargs, poll_interval=sampler_kwargs.poll_interval_s, **kwargs
        )
        self._log = GameLog(Path(sampler_kwargs.output_dir) / "games")
        self._balance_truth = bool(sampler_kwargs.balance_truth)
        self._rollouts = int(sampler_kwargs.rollouts)
        self._max_unscored = float(sampler_kwargs.max_unscored)
        self._heard = _NOTHING
        self._batch_games = math.inf

    def sample(
        self, global_steps: int, partition_id: str, batch_size: int
    ) -> tuple[KVBatchMeta, dict[str, float]]:
        """Samples as verl does, then labels the rows and logs their games."""
        self._batch_games = batch_size * self._rollouts
        try:
            batch, metrics = super().sample(global_steps, partition_id, batch_size)  # type: ignore[misc]
        except JudgeLostError:
            raise
        except RuntimeError:
            # That there is nothing to sample may be the judge's doing, which then says more.
            self._hear(global_steps, partition_id)
            _check(self._heard, self._max_unscored)
            raise
        self._hear(global_steps, partition_id)
        report, self._heard = self._heard, _NOTHING
        _check(report, self._max_unscored)
        if not batch.keys:
            raise RuntimeError(
                f"none of the {batch_size} rows of step {global_steps} ({partition_id}) could be"
                " played and judged; the first error is in the log above, at 'Error in _run_prompt'"
            )
        batch, rows = _in_order(batch, partition_id)
        records = [row.record for row in rows]
        games = list({(record.uid, record.session): record for record in records}.values())
        self._log.write(partition_id, global_steps, games)
        league = ray.get_actor(LEAGUE)
        if partition_id != _TRAIN:
            ray.get(league.validated.remote(global_steps, games))
            return batch, metrics
        cases = {row.record.case_id: row.case for row in rows}
        standings: Standings = ray.get(league.finish.remote(global_steps, games, cases))
        for warning in standings.warnings:
            _log.warning(warning)
        if standings.stop is not None:
            raise AlarmError(standings.stop)
        ids = [self._identify(row.key, row.record, standings.baselines) for row in rows]
        tq.kv_batch_put(
            keys=batch.keys,
            partition_id=partition_id,
            fields=tu.get_tensordict({"uid": [str(one) for one in ids]}),
        )
        metrics = {
            **metrics,
            **game_metrics(games),
            **standings.metrics,
            "game/lost": batch_size * self._rollouts - len(games),
        }
        trained = [
            one.error_present for row, one in zip(rows, ids, strict=True) if row.turn.trained
        ]
        metrics["game/truth_weight_no_error"], metrics["game/truth_weight_error"] = truth_weights(
            trained
        )
        metrics["judge/asked"] = report.asked
        metrics["judge/unscored"] = report.unscored
        return batch, metrics

    def _terminal_eviction_reasons(self, global_steps: int, partition_id: str) -> Any:
        """Part of every poll: a judge that is gone stops the run, whose games wait for it.

        So does one that fails again and again. In the asynchronous modes verl plays such games
        anew, so that a batch would never be full.
        """
        self._hear(global_steps, partition_id)
        _stop_if_lost(self._heard.outage)
        if self._heard.asked >= self._batch_games:
            _check(self._heard, self._max_unscored)
        return super()._terminal_eviction_reasons(global_steps, partition_id)  # type: ignore[misc]

    def _hear(self, step: int, partition_id: str) -> None:
        """Takes over what the judge did since the last time, and logs what it left unscored."""
        try:
            judge = _judge()
        except ValueError:  # no reward worker has started it yet
            return
        report: JudgeReport = ray.get(judge.report.remote())
        self._heard = report.after(self._heard)
        games = map(GameRecord.from_json, report.games)
        self._log.write(UNSCORED[partition_id], step, games)

    def _identify(
        self, key: str, record: GameRecord, baselines: Mapping[tuple[str, int, int], float]
    ) -> TrajectoryId:
        index = turn_index(key)
        role = record.turns[index].role
        baseline = baselines.get((record.uid, record.session, index))  # none if it is not trained
        if role is Role.ATTACKER:
            return TrajectoryId(role, record.uid, None, baseline)
        several = sum(turn.role is Role.ASSESSOR for turn in record.turns) > 1
        group = f"{record.uid}_{record.session}" if several else record.uid
        truth = record.labels.error_present if record.labels and self._balance_truth else None
        return TrajectoryId(role, group, truth, baseline)


class GameReplayBuffer(_GameSampling, ReplayBuffer):
    """For ``trainer_mode=sync``."""


class GameReplayBufferAsync(_GameSampling, ReplayBufferAsync):
    """For the asynchronous trainer modes."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A trajectory of the batch with its game."""

    key: str
    record: GameRecord
    case: Case
    index: int

    @property
    def turn(self) -> TurnRecord:
        return self.record.turns[turn_index(self.key)]

    @property
    def place(self) -> tuple[Any, ...]:
        """Where the row stands in its batch, whenever its game ended."""
        record = self.record
        return self.index, record.case_id, record.game_type, record.session, turn_index(self.key)


def _in_order(batch: KVBatchMeta, partition_id: str) -> tuple[KVBatchMeta, list[_Row]]:
    """The batch sorted by row, session and turn: games end in another order in every run."""
    fields = tq.kv_batch_get(
        keys=batch.keys, partition_id=partition_id, select_fields=["extra_fields"]
    )
    rows = [
        _Row(
            key,
            GameRecord.from_json(extra["reward_extra_info"]["game"]),
            case_from_dict(extra["case"]),
            extra["row_index"],
        )
        for key, extra in zip(batch.keys, fields.pop("extra_fields").tolist(), strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda number: rows[number].place)
    batch.keys = [batch.keys[number] for number in order]
    batch.tags = [batch.tags[number] for number in order]
    return batch, [rows[number] for number in order]


class JudgeLostError(RuntimeError):
    """The judge is gone for good, or leaves too many games unscored to go on."""


def _judge() -> ray.actor.ActorHandle:
    return ray.get_actor(JUDGE)


def _check(report: JudgeReport, max_unscored: float) -> None:
    """Stops a run that cannot go on with its judge.

    Raises:
        JudgeLostError: with the reason.
    """
    _stop_if_lost(report.outage)
    if report.unscored >= _FEW and report.unscored > max_unscored * report.asked:
        raise JudgeLostError(
            f"the judge gave no verdict for {report.unscored} of {report.asked} games, more than"
            f" judge.max_unscored={max_unscored:g} allows; the last error: {report.last_error}"
        )


def _stop_if_lost(outage: str | None) -> None:
    if outage is not None:
        raise JudgeLostError(
            f"{outage.rstrip('.')}. Once the judge is back the same command resumes at the last"
            " checkpoint."
        )


class GameLog:
    """One file a step, one game a line, in a folder of ``games/`` for each kind of game.

    A step that is trained again after a resume replaces its file; files of later steps, which the
    killed run had sampled but never saved, are removed, so that the folder holds every game that
    was trained, once.

    Args:
        folder: ``games/``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[Path, list[GameRecord]] = defaultdict(list)

    def write(self, partition: str, step: int, games: Iterable[GameRecord]) -> None:
        """Adds games to a step's file, which is replaced as a whole; no games, no file."""
        games = list(games)
        path = self._folder / partition / f"step_{step:06d}.jsonl"
        if not any(written.parent == path.parent for written in self._written):
            self._remove_from(path.parent, step)
        if path not in self._written:
            self._written = defaultdict(
                list, {p: g for p, g in self._written.items() if p.parent != path.parent}
            )
        self._written[path].extend(games)
        if not games:
            return
        with replacing(path) as stream:
            stream.writelines(f"{game.to_json()}\n" for game in self._written[path])

    @staticmethod
    def _remove_from(folder: Path, step: int) -> None:
        for path in folder.glob("step_*.jsonl"):
            number = re.fullmatch(r"step_(\d+)", path.stem)
            if number and int(number[1]) >= step:
                path.unlink()


def turn_index(key: str) -> int:
    """Which of the game's turns a TransferQueue key ``{uid}_{session}_{index}`` names."""
    return int(key.rsplit("_", 1)[1])
