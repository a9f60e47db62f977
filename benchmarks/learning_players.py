"""Plays a model's turns outside of training: attacks for the test sets, answers to fixed notes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medical_team.answers import THINK_OPEN, Classification
from medical_team.archive import ArchivedAttack
from medical_team.medec import Case
from medical_team.medical_game_manager import Game, GameRules, GameType
from medical_team.prompts import Message, PromptStyle
from recipe.medical_selfplay.cpu.decoder import ContinuousBatch, Request
from recipe.medical_selfplay.tiny.evaluation import is_real_error

RULES = GameRules(prompt_style=PromptStyle.COMPACT, think_opened=True)
_MAX_TOKENS = 96
_BATCH = 64


@dataclass(frozen=True, slots=True)
class FixedNote:
    """A note whose truth is known.

    Attributes:
        case: its case.
        note: what the assessor reads.
        error_id: the sentence with the error, ``None`` in a clean note.
    """

    case: Case
    note: tuple[str, ...]
    error_id: int | None


class Answer(NamedTuple):
    """An assessor's answer to a note.

    Attributes:
        harmful: what it said; ``None`` for a broken format.
        located: whether truth and sentence were right.
    """

    harmful: bool | None
    located: bool


class Player:
    """A model that plays turns at temperature 1.

    Args:
        folder: a Hugging Face model's.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    def attacks(self, cases: Sequence[Case], samples: int, seed: int) -> list[ArchivedAttack]:
        """Injects an error into each case's clean note; keeps those that the table finds real."""
        games = [
            Game(case, GameType.ADVERSARIAL_BENIGN, RULES) for case in cases for _ in range(samples)
        ]
        texts = self._respond([game.attacker_messages() for game in games], seed)
        found: dict[str, ArchivedAttack] = {}
        for game, (text, truncated) in zip(games, texts, strict=True):
            game.play_attack(text, truncated=truncated)
            if game.note is None or not is_real_error(game):
                continue
            attack = ArchivedAttack.of(
                step=0,
                case=game.case,
                game_type=game.game_type,
                note=game.note,
                error_present=True,
                source="table",
                succeeded=False,
            )
            found.setdefault(attack.attack_id, attack)
        return list(found.values())

    def answers(self, notes: Sequence[FixedNote], samples: int, seed: int) -> list[list[Answer]]:
        """Assesses each note ``samples`` times."""
        games = [
            Game(note.case, GameType.ADVERSARIAL_BENIGN, RULES, replayed=note.note)
            for note in notes
            for _ in range(samples)
        ]
        texts = self._respond([game.assessor_messages() for game in games], seed)
        answers: list[Answer] = []
        for number, (game, (text, truncated)) in enumerate(zip(games, texts, strict=True)):
            assessment = game.play_assessment(text, truncated=truncated).assessment
            if assessment is None:
                answers.append(Answer(None, False))
                continue
            harmful = assessment.classification is Classification.HARMFUL
            named = assessment.sentence_id if harmful else None
            answers.append(Answer(harmful, named == notes[number // samples].error_id))
        return [answers[start : start + samples] for start in range(0, len(answers), samples)]

    def _respond(self, prompts: Sequence[list[Message]], seed: int) -> list[tuple[str, bool]]:
        batch = ContinuousBatch(
            self._model, [self._tokenizer.eos_token_id], self._tokenizer.pad_token_id
        )
        requests = [
            Request(self._ids(prompt), _MAX_TOKENS, 1.0, seed=_seed(seed, number))
            for number, prompt in enumerate(prompts)
        ]
        waiting = requests[::-1]
        while waiting or len(batch):
            room = _BATCH - len(batch)
            batch.add([waiting.pop() for _ in range(min(room, len(waiting)))])
            batch.step()
        return [self._text(request) for request in requests]

    def _ids(self, prompt: list[Message]) -> list[int]:
        text = self._tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=False
        )
        ids: list[int] = self._tokenizer(text + THINK_OPEN, add_special_tokens=False)["input_ids"]
        return ids

    def _text(self, request: Request) -> tuple[str, bool]:
        ended = request.token_ids[-1] == self._tokenizer.eos_token_id
        ids = request.token_ids[:-1] if ended else request.token_ids
        return self._tokenizer.decode(ids, skip_special_tokens=False), not ended


def _seed(seed: int, number: int) -> int:
    digest = hashlib.blake2b(f"{seed}|{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest)
