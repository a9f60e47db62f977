"""The league: the one Ray actor that knows past attackers, standings and alarms.

It says what each row is played as, learns of every finished step, and keeps what a resumed run
needs in ``league/`` in the run's folder. What it keeps is written by step: a run that resumes at a
checkpoint forgets the steps that it plays again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig
from pyarrow import parquet

from medical_team.alarms import AlarmBook, AlarmName, stop_message
from medical_team.alarms.figures import step_figures
from medical_team.archive import (
    ArchivedAttack,
    AttackArchive,
    PlayedAgain,
    draw_from,
    read_frozen,
)
from medical_team.atomic_files import replacing
from medical_team.dataset.rows import case_from_dict
from medical_team.game_metrics import detection, fixed_opponent, win_rate
from medical_team.game_record import FRESH, GameRecord
from medical_team.matchmaking import Curriculum, GameMix
from medical_team.medec import Case
from medical_team.medical_game_manager import GameType, Role
from recipe.medical_selfplay.baselines import RoleBaselines
from recipe.medical_selfplay.run_folder import RunFolder
from recipe.medical_selfplay.settings import LeagueSettings

NAME = "medical_league"
FOLDER = "league"
_START_S, _LOOK_S = 120.0, 0.1


@dataclass(frozen=True, slots=True)
class Pairing:
    """What a row is played as.

    Attributes:
        case: the case.
        game_type: the game.
        attack: the archived attack that the assessors read, ``None`` for a fresh game.
    """

    case: Case
    game_type: GameType
    attack: ArchivedAttack | None = None


@dataclass(frozen=True, slots=True)
class Standings:
    """What the league says of a finished step.

    Attributes:
        metrics: figures to log.
        baselines: what ``rae`` compares each trained turn's reward with, by the game's uid and
            session and the turn's index.
        warnings: one sentence an alarm.
        stop: why the run must end, or ``None``.
    """

    metrics: dict[str, float]
    baselines: dict[tuple[str, int, int], float]
    warnings: tuple[str, ...]
    stop: str | None


class League:
    """See the module.

    Args:
        settings: the settings.
        run_dir: the run's folder.
        cases: the cases that the curriculum draws from.
    """

    def __init__(self, settings: LeagueSettings, run_dir: str, cases: Sequence[Case] = ()) -> None:
        self._run = RunFolder(Path(run_dir))
        folder = self._run.path / FOLDER
        self._settings = settings
        self._states = StateLog(folder / "state.jsonl")
        self._archive = AttackArchive(
            folder / "attacks.jsonl",
            capacity=settings.archive.capacity,
            typical_share=settings.archive.typical_share,
            seed=settings.seed or 0,
        )
        self._frozen: tuple[ArchivedAttack, ...] | None = None
        if settings.archive.file is not None:
            self._frozen = read_frozen(Path(settings.archive.file))
        self._mix = GameMix(settings.match)
        self._curriculum = Curriculum(settings.match.curriculum, cases)
        self._baselines = RoleBaselines(settings.rae_decay)
        self._alarms = AlarmBook(settings.alarms)
        self._validation: tuple[int, list[GameRecord]] = (-1, [])
        self._restored = False

    def pair(self, step: int, index: int, uid: str, case: Case, game_type: GameType) -> Pairing:
        """What a row is played as in a step: the same for all its sessions.

        Args:
            step: the trainer's step.
            index: the row's place in its file.
            uid: the trainer's id of the row in this step.
            case: the row's case.
            game_type: the row's game type.
        """
        self._restore(step)
        seed = self._settings.seed
        rng = random.Random(uid if seed is None else f"{seed}|{step}|{index}")
        case = self._curriculum.draw(case, rng)
        game_type = self._mix.draw(game_type, rng)
        if game_type.adversarial and rng.random() < self._settings.archive.fraction:
            attack = self._draw(rng, step)
            if attack is not None:
                return Pairing(attack.case, attack.game_type, attack)
        return Pairing(case, game_type)

    def finish(
        self,
        step: int,
        games: Sequence[GameRecord],
        cases: Mapping[str, Case],
    ) -> Standings:
        """Learns of a step's games.

        Args:
            step: the trainer's step.
            games: its finished games, in an order that does not depend on when they ended.
            cases: the cases of the games by id.
        """
        self._restore(step)
        trained = [
            (game, index, turn)
            for game in games
            for index, turn in enumerate(game.turns)
            if turn.trained
        ]
        before = self._baselines.update(
            [(turn.role, game.game_type, turn.reward) for game, _, turn in trained]
        )
        baselines = {
            (game.uid, game.session, index): baseline
            for (game, index, _), baseline in zip(trained, before, strict=True)
        }
        self._mix.observe(win_rate(games, Role.ATTACKER))
        self._curriculum.observe(games)
        self._archive.add(step, _attacks(step, games, cases))
        self._archive.record(step, _played_again(games))
        nll = _sampled_nll(games)
        alarms = self._alarms.check(step, games, nll=nll, validation=self._balanced_accuracy())
        self._states.append(
            step,
            {
                "mix": self._mix.as_dict(),
                "curriculum": self._curriculum.as_dict(),
                "baselines": self._baselines.as_dict(),
                "alarms": self._alarms.as_dict(),
            },
        )
        metrics = {
            "archive/size": float(len(self._archive)),
            **self._alarms.metrics(),
            **{
                f"rae/{role}/{kind}": average
                for role, averages in self._baselines.as_dict().items()
                for kind, average in averages.items()
            },
            **{f"policy/nll/{role.value}": value for role, value in nll.items()},
        }
        if self._mix.active:
            metrics |= {f"mix/{kind.value}": share for kind, share in self._mix.shares().items()}
        stop = stop_message(alarms, self._settings.alarms)
        raised = (str(alarm) for alarm in alarms if alarm.new)
        return Standings(metrics, baselines, (*self._without_gradient(step, games), *raised), stop)

    def validated(self, step: int, games: Sequence[GameRecord]) -> None:
        """Learns of validation games."""
        known_step, known = self._validation
        self._validation = (step, [*(known if known_step == step else []), *games])

    def _without_gradient(self, step: int, games: Sequence[GameRecord]) -> Iterator[str]:
        """Says of each role that played why this step may teach it nothing."""
        for figure in step_figures(games, None, (AlarmName.ADVANTAGE,)):
            if figure.value == 1 and figure.role in self._settings.trained_roles:
                yield (
                    f"step {step}: the rewards of all {figure.count} groups of the {figure.role}"
                    " are equal, so that comparing within groups teaches it nothing now; see"
                    " game/forfeit and format_violation in the metrics"
                )
        for role in map(Role, self._settings.trained_roles):
            turns = [turn for game in games for turn in game.turns if turn.role is role]
            if turns and not any(turn.trained for turn in turns):
                yield f"step {step}: none of the {len(turns)} turns of the {role} may be trained"

    def _balanced_accuracy(self) -> float | None:
        """On the last validation's notes that no attacker of the step has touched."""
        fixed = [game for game in self._validation[1] if fixed_opponent(game)]
        self._validation = (-1, [])
        return detection(fixed).get("balanced_accuracy")

    def _draw(self, rng: random.Random, step: int) -> ArchivedAttack | None:
        if self._frozen is not None:
            return draw_from(self._frozen, rng, self._settings.archive.weighting)
        return self._archive.draw(rng, self._settings.archive.weighting, step)

    def _restore(self, step: int) -> None:
        if self._restored:
            return
        self._restored = True
        # In the asynchronous modes the first row may be one that was in flight at the checkpoint.
        before_step = max(step, self._run.checkpoint_step + 1)
        self._archive.restore(before_step)
        state = self._states.restore(before_step)
        if state is not None:
            self._mix.restore(state["mix"])
            self._curriculum.restore(state["curriculum"])
            self._baselines.restore(state["baselines"])
            self._alarms.restore(state["alarms"])


class StateLog:
    """One line of JSON a step, of which the last counts.

    Args:
        file: the file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def append(self, step: int, state: dict[str, Any]) -> None:
        """Adds a step's state."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab") as stream:
            stream.write(json.dumps({"step": step, **state}).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def restore(self, before_step: int) -> dict[str, Any] | None:
        """Drops later steps and a line that a kill cut off; returns the last state that is left."""
        if not self._file.is_file():
            return None
        kept: list[dict[str, Any]] = []
        for line in self._file.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry["step"] < before_step:
                kept.append(entry)
        with replacing(self._file) as stream:
            stream.writelines(f"{json.dumps(entry)}\n" for entry in kept)
        return kept[-1] if kept else None


def league_actor(settings: LeagueSettings, config: DictConfig) -> ray.actor.ActorHandle:
    """The actor, started by the reward worker that comes first and kept alive by its handle.

    Args:
        settings: its settings.
        config: verl's whole configuration.
    """
    cases = _cases(config.data.train_files) if settings.match.curriculum > 0 else ()
    return (
        ray.remote(League)
        .options(name=NAME, get_if_exists=True, num_cpus=0)
        .remote(settings, str(config.run_dir), cases)
    )


async def running_league() -> ray.actor.ActorHandle:
    """The actor, once a reward worker has started it.

    Whoever asks for a moment only must not start it: a named actor ends with its first handle.

    Raises:
        TimeoutError: if no reward worker starts it.
    """
    async with asyncio.timeout(_START_S):
        while True:
            try:
                return ray.get_actor(NAME)
            except ValueError:
                await asyncio.sleep(_LOOK_S)


def _cases(files: str | Iterable[str]) -> tuple[Case, ...]:
    cases: dict[str, Case] = {}
    for path in [files] if isinstance(files, str) else files:
        for infos in parquet.read_table(path, columns=["extra_info"]).to_pylist():
            case = case_from_dict(infos["extra_info"]["case"])
            cases[case.case_id] = case
    return tuple(cases.values())


def _attacks(
    step: int, games: Iterable[GameRecord], cases: Mapping[str, Case]
) -> list[ArchivedAttack]:
    """The step's own attacks that were judged and that an assessor answered in format."""
    return [
        ArchivedAttack.of(
            step=step,
            case=cases[game.case_id],
            game_type=GameType(game.game_type),
            note=game.note,
            error_present=game.labels.error_present,
            source=game.labels.source,
            succeeded=any(t.role is Role.ATTACKER and t.outcome == "win" for t in game.turns),
        )
        for game in games
        if game.opponent == FRESH
        and GameType(game.game_type).adversarial
        and game.note is not None
        and game.labels is not None
        and game.labels.error_present is not None
        and any(turn.classification is not None for turn in game.turns)
    ]


def _sampled_nll(games: Iterable[GameRecord]) -> dict[Role, float]:
    """Mean over each role's tokens of their negative log-probability when they were sampled."""
    turns = [turn for game in games for turn in game.turns if turn.nll is not None]
    found = {}
    for role in Role:
        played = [(turn.nll, turn.response_tokens) for turn in turns if turn.role is role]
        if tokens := sum(count for _, count in played):
            found[role] = sum((nll or 0.0) * count for nll, count in played) / tokens
    return found


def _played_again(games: Iterable[GameRecord]) -> list[PlayedAgain]:
    return [
        PlayedAgain(
            game.attack_id,
            missed=(turn.classification == "Harmful") != game.labels.error_present,
        )
        for game in games
        if game.attack_id is not None and game.labels is not None
        for turn in game.turns
        if turn.classification is not None
    ]
