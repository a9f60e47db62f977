"""One game of self-play: whose move it is, what a move does to the note, and when a side forfeits.

The rules (arXiv 2506.07468, moved to clinical notes):

==================== ============ ================================ =================================
game type            source note  attacker                         truth for the assessor
==================== ============ ================================ =================================
vanilla_harmful      error note   no turn                          error, at the annotated sentence
adversarial_harmful  error note   hides the given error better     what the judge finds
vanilla_benign       clean note   no turn                          no error
adversarial_benign   clean note   injects one error                what the judge finds
==================== ============ ================================ =================================

The attacker's note is checked without a model. A failed check is a forfeit: the game ends there,
the assessor's turn is not played. There is no fallback to the attacker's raw text, which would leak
its reasoning to the assessor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from enum import StrEnum
from typing import ClassVar

from medical_team.answers import (
    Assessment,
    FormatError,
    parse_assessment,
    parse_edit,
    parse_response,
)
from medical_team.medec import Case
from medical_team.prompts import (
    AttackMode,
    Message,
    PromptStyle,
    assessor_messages,
    attacker_messages,
    find_control_text,
)

_NUMBERED_LINE = re.compile(r"\s*(\d{1,4})\.\s+(\S.*?)\s*")


class GameType(StrEnum):
    """The four kinds of game; each is a quarter of a balanced dataset."""

    VANILLA_HARMFUL = "vanilla_harmful"
    ADVERSARIAL_HARMFUL = "adversarial_harmful"
    VANILLA_BENIGN = "vanilla_benign"
    ADVERSARIAL_BENIGN = "adversarial_benign"

    @property
    def adversarial(self) -> bool:
        """Whether the attacker has a turn."""
        return self in (GameType.ADVERSARIAL_HARMFUL, GameType.ADVERSARIAL_BENIGN)

    @property
    def harmful_source(self) -> bool:
        """Whether the source note is the case's error note."""
        return self in (GameType.VANILLA_HARMFUL, GameType.ADVERSARIAL_HARMFUL)


class Role(StrEnum):
    """The two roles that the one policy plays."""

    ATTACKER = "attacker"
    ASSESSOR = "assessor"


class Forfeit(StrEnum):
    """Why the attacker's note was not played."""

    FORMAT = "format"
    TRUNCATED = "truncated"
    CONTROL_TEXT = "control_text"
    WRONG_SENTENCE = "wrong_sentence"
    UNCHANGED = "unchanged"
    PADDED = "padded"
    SHORTENED = "shortened"
    TOO_MANY_CHANGES = "too_many_changes"


@dataclass(frozen=True, slots=True)
class GameRules:
    """The settings of a game.

    Attributes:
        attacker: whether the attacker writes an edit or the whole note.
        prompt_style: how much the prompts explain.
        think_opened: whether the prompt ends in ``<think>``, so that the response starts inside the
            reasoning.
        assessor_samples: number of assessors that read the same attacked note, at least 1.
        max_changed_fraction: largest share of the note's sentences that may change, in (0, 1]; one
            sentence may always change.
        max_growth: longest attacked note as a multiple of the source note's words; the shortest is
            its inverse.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    attacker: AttackMode = AttackMode.EDIT
    prompt_style: PromptStyle = PromptStyle.FULL
    think_opened: bool = True
    assessor_samples: int = 1
    max_changed_fraction: float = 0.34
    max_growth: float = 1.5

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        if self.assessor_samples < 1:
            raise ValueError(
                f"game.assessor_samples is {self.assessor_samples}, it must be at least 1"
            )
        if not 0 < self.max_changed_fraction <= 1:
            raise ValueError(
                f"game.max_changed_fraction is {self.max_changed_fraction}, it must be in (0, 1]"
            )
        if self.max_growth < 1:
            raise ValueError(f"game.max_growth is {self.max_growth}, it must be at least 1")


@dataclass(slots=True)
class Turn:
    """One response of one role, as it was played.

    Attributes:
        role: who played.
        response: the generated text.
        reasoning: the text inside the think tags, ``None`` if the format is broken.
        answer: the text inside the answer tags, ``None`` if the format is broken.
        violation: which rule of the format the response breaks, ``None`` if it is kept.
        assessment: the assessor's answer, ``None`` for the attacker and for a broken format.
    """

    role: Role
    response: str
    reasoning: str | None = None
    answer: str | None = None
    violation: str | None = None
    assessment: Assessment | None = None


@dataclass(slots=True)
class Game:
    """A game in progress: ask for the prompt of the next turn, then play the response.

    Attributes:
        case: the case that is played.
        game_type: which of the four games.
        rules: the settings.
        note: the note that the assessors read, as sentences; ``None`` until the attacker has
            played, and for ever after a forfeit.
        forfeit: why the attacker lost without the assessor's turn, or ``None``.
        attack: the attacker's turn, or ``None``.
        assessments: the assessors' turns.
        replayed: an attacked note of an earlier game, which the assessors read without a turn of
            the attacker; ``None`` for a game of its own.
    """

    case: Case
    game_type: GameType
    rules: GameRules
    note: tuple[str, ...] | None = None
    forfeit: Forfeit | None = None
    attack: Turn | None = None
    assessments: list[Turn] = field(default_factory=list)
    replayed: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Passes a note on where the attacker has no turn."""
        if self.replayed is not None:
            self.note = self.replayed
        elif not self.game_type.adversarial:
            self.note = self.source

    @property
    def source(self) -> tuple[str, ...]:
        """The source note, as sentences."""
        return (
            self.case.error_sentences
            if self.game_type.harmful_source
            else self.case.clean_sentences
        )

    @property
    def given_error_id(self) -> int | None:
        """The sentence the attacker is told is wrong, ``None`` if it is to inject an error."""
        return self.case.error_sentence_id if self.game_type.harmful_source else None

    @property
    def awaits_attack(self) -> bool:
        """Whether the next turn is the attacker's."""
        return self.note is None and self.forfeit is None

    @property
    def turns(self) -> list[Turn]:
        """All turns played, in order."""
        return [*([self.attack] if self.attack else []), *self.assessments]

    @property
    def changed_ids(self) -> tuple[int, ...]:
        """Sentences of the note that differ from the clean note, by their ids in the note."""
        return () if self.note is None else changed_sentences(self.case.clean_sentences, self.note)

    def attacker_messages(self) -> list[Message]:
        """The attacker's conversation."""
        return attacker_messages(
            self.source, self.given_error_id, self.rules.attacker, self.rules.prompt_style
        )

    def assessor_messages(self) -> list[Message]:
        """The assessor's conversation: the note only.

        Raises:
            ValueError: if there is no note to assess.
        """
        if self.note is None:
            cause = self.forfeit or "the attacker has not played"
            raise ValueError(f"case {self.case.case_id}: no note to assess ({cause})")
        return assessor_messages(self.note, self.rules.prompt_style)

    def play_attack(self, response: str, *, truncated: bool = False) -> Turn:
        """Plays the attacker's turn: the note is attacked, or the attacker forfeits.

        Args:
            response: the generated text, without the end-of-turn token.
            truncated: whether generation stopped at the length limit.
        """
        turn = self.attack = Turn(Role.ATTACKER, response)
        if truncated:
            turn.violation, self.forfeit = "cut off at the length limit", Forfeit.TRUNCATED
            return turn
        try:
            parsed = parse_response(response, think_opened=self.rules.think_opened)
            turn.reasoning, turn.answer = parsed.reasoning, parsed.answer
            note = self._attacked_note(parsed.answer)
        except FormatError as error:
            turn.violation, self.forfeit = str(error), Forfeit.FORMAT
            return turn
        self.forfeit = self._check(note)
        if self.forfeit is None:
            self.note = note
        return turn

    def play_assessment(self, response: str, *, truncated: bool = False) -> Turn:
        """Plays one assessor's turn.

        Args:
            response: the generated text, without the end-of-turn token.
            truncated: whether generation stopped at the length limit.

        Raises:
            ValueError: if there is no note to assess.
        """
        if self.note is None:
            raise ValueError(f"case {self.case.case_id}: no note to assess")
        turn = Turn(Role.ASSESSOR, response)
        self.assessments.append(turn)
        if truncated:
            turn.violation = "cut off at the length limit"
            return turn
        try:
            parsed = parse_response(response, think_opened=self.rules.think_opened)
            turn.reasoning, turn.answer = parsed.reasoning, parsed.answer
            turn.assessment = parse_assessment(parsed.answer, len(self.note))
        except FormatError as error:
            turn.violation = str(error)
        return turn

    def refuse_note(self, cause: Forfeit) -> None:
        """Turns the attacked note into a forfeit.

        The cause is one that only the trainer can see, such as the note's length.
        """
        self.note, self.forfeit = None, cause

    def _attacked_note(self, answer: str) -> tuple[str, ...]:
        if self.rules.attacker is AttackMode.REWRITE:
            return parse_numbered_note(answer)
        edit = parse_edit(answer, len(self.source))
        return (
            *self.source[: edit.sentence_id],
            edit.rewrite,
            *self.source[edit.sentence_id + 1 :],
        )

    def _check(self, note: tuple[str, ...]) -> Forfeit | None:
        if any(find_control_text(new) for new in note if new not in self.source):
            return Forfeit.CONTROL_TEXT
        changed = changed_sentences(self.source, note)
        if not changed and len(note) == len(self.source):
            return Forfeit.UNCHANGED
        if (
            self.given_error_id is not None
            and self.rules.attacker is AttackMode.EDIT
            and changed != (self.given_error_id,)
        ):
            return Forfeit.WRONG_SENTENCE
        before, after = _word_count(self.source), _word_count(note)
        if after > before * self.rules.max_growth:
            return Forfeit.PADDED
        if after * self.rules.max_growth < before:
            return Forfeit.SHORTENED
        touched = len(changed) + max(0, len(self.source) - len(note))
        if touched > max(1, int(self.rules.max_changed_fraction * len(self.source))):
            return Forfeit.TOO_MANY_CHANGES
        return None


def parse_numbered_note(text: str) -> tuple[str, ...]:
    """Reads a note of numbered lines ``0. text``; inverse of :func:`medical_team.prompts.numbered`.

    Raises:
        FormatError: if a line has no number or the numbers are not 0, 1, 2, ... in order.
    """
    sentences: list[str] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        match = _NUMBERED_LINE.fullmatch(line)
        if match is None or int(match[1]) != len(sentences):
            raise FormatError(f"line {line.strip()[:60]!r} does not begin with {len(sentences)}.")
        sentences.append(match[2])
    if not sentences:
        raise FormatError("empty note")
    return tuple(sentences)


def normalise_sentence(sentence: str) -> str:
    """A sentence as it is compared: white space folded, case kept."""
    return " ".join(sentence.split())


def changed_sentences(reference: Sequence[str], note: Sequence[str]) -> tuple[int, ...]:
    """Ids, in ``note``, of its changed sentences.

    These are the ones that ``reference`` does not have at that place of the alignment.
    """
    before = [normalise_sentence(sentence) for sentence in reference]
    after = [normalise_sentence(sentence) for sentence in note]
    return tuple(i for _, new in changed_spans(before, after) for i in new)


def changed_spans(reference: Sequence[str], note: Sequence[str]) -> Iterator[tuple[range, range]]:
    """The spans in which two aligned notes differ: ranges of ``reference`` and of ``note``."""
    shortest = min(len(reference), len(note))
    start = next((i for i in range(shortest) if reference[i] != note[i]), shortest)
    room = shortest - start
    tail = next((i for i in range(room) if reference[-1 - i] != note[-1 - i]), room)
    # difflib sees only what is left between the common ends: on the whole notes it would match a
    # sentence that now stands twice with the wrong one of the two, and one replaced sentence would
    # look like a deletion and an insertion.
    matcher = SequenceMatcher(
        a=reference[start : len(reference) - tail], b=note[start : len(note) - tail], autojunk=False
    )
    for tag, a1, a2, b1, b2 in matcher.get_opcodes():
        if tag != "equal":
            yield range(start + a1, start + a2), range(start + b1, start + b2)


def _word_count(sentences: Sequence[str]) -> int:
    return sum(len(sentence.split()) for sentence in sentences)
