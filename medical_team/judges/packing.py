"""Several questions about one case in one row of a batch, each blind to the others.

A row holds the case once and then its questions. What many rows begin with, the rubric and the
reference note of a case that is played several times, is not in the row: it is computed once and
put before it. Positions start again after the case at each question, and the mask lets a question
see what comes before the questions and itself. So a model computes for it exactly what it would
compute if it were asked alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from medical_team.judges.encoding import EncodedPrompt
from medical_team.judges.questions import PromptKey

if TYPE_CHECKING:
    import torch

FULL, SLIDING = "full_attention", "sliding_attention"
_SHARED, _PADDING = -1, -2
# A shorter common opening is not worth a pass of its own.
_LEAST_OPENING = 32


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Questions about one case.

    Attributes:
        rubric: token ids before the case, the same for all games.
        opening: token ids with which this case and others begin.
        case: token ids of the rest of the case.
        questions: token ids of each question, by its prompt's key.
    """

    rubric: tuple[int, ...]
    opening: tuple[int, ...]
    case: tuple[int, ...]
    questions: Mapping[PromptKey, tuple[int, ...]]

    @property
    def length(self) -> int:
        """Tokens of the row itself."""
        return len(self.case) + sum(map(len, self.questions.values()))

    @property
    def before(self) -> int:
        """Tokens before the row."""
        return len(self.rubric) + len(self.opening)


class Batch(NamedTuple):
    """Tensors of one batch of rows.

    Attributes:
        ids: token ids, [rows, length].
        positions: of each token in its own prompt, [rows, length].
        masks: added to attention scores, [rows, 1, length, before + length], by kind of layer.
        last: row and place of each question's last token, in the order of the rows.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    masks: dict[str, torch.Tensor]
    last: tuple[list[int], list[int]]


def pack(prompts: Mapping[PromptKey, EncodedPrompt]) -> list[PackedRow]:
    """Puts the questions about one game in one order of its notes into one row."""
    found: dict[tuple[str, EncodedPrompt], dict[PromptKey, tuple[int, ...]]] = {}
    for key, prompt in prompts.items():
        shared = EncodedPrompt(prompt.rubric, prompt.case, ())
        found.setdefault((key.query_id, shared), {})[key] = prompt.question
    rows = [
        PackedRow(shared.rubric, (), shared.case, questions)
        for (_, shared), questions in found.items()
    ]
    return [row for group in _alike(rows) for row in _opened(group)]


def _alike(rows: Sequence[PackedRow]) -> Iterator[list[PackedRow]]:
    """Groups rows whose cases begin alike."""
    group: list[PackedRow] = []
    for row in sorted(rows, key=lambda row: (row.rubric, row.case)):
        if group and (row.rubric != group[0].rubric or _common(group[0], row) < _LEAST_OPENING):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _opened(group: Sequence[PackedRow]) -> list[PackedRow]:
    """The rows of a group with what all of them begin with taken out of the case."""
    if len(group) == 1:
        return list(group)
    # They are sorted, so that the first and the last are the least alike. At least one token of
    # each case stays in its row.
    shortest = min(len(row.case) for row in group)
    cut = min(_common(group[0], group[-1]), shortest - 1)
    return [replace(row, opening=row.case[:cut], case=row.case[cut:]) for row in group]


def _common(one: PackedRow, other: PackedRow) -> int:
    pairs = zip(one.case, other.case, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def batches(rows: Sequence[PackedRow], max_tokens: int) -> Iterator[list[PackedRow]]:
    """Shares rows out to batches of similar length.

    Args:
        rows: the rows.
        max_tokens: most tokens of a batch, padding included; a longer row goes alone.

    Yields:
        Rows with the same rubric, those with the same opening together, longest first, so that
        memory runs short at once or never.
    """
    batch: list[PackedRow] = []
    longest = 0
    for row in sorted(
        rows, key=lambda row: (row.rubric, -len(row.opening), row.opening, -row.length)
    ):
        longest = max(longest, len(row.opening) + row.length)
        full = (len(batch) + 1) * longest > max_tokens
        if batch and (full or row.rubric != batch[0].rubric):
            yield batch
            batch, longest = [], len(row.opening) + row.length
        batch.append(row)
    if batch:
        yield batch


def batch_of(
    rows: Sequence[PackedRow],
    *,
    opening_width: int,
    window: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Batch:
    """Lays rows out as tensors.

    Args:
        rows: rows with the same rubric, whose keys and values the model is given.
        opening_width: tokens of the openings, padding included, which the model is given too.
        window: tokens that a sliding layer sees, itself included; ``None`` if it has none.
        dtype: of the masks.
        device: of the tensors.
    """
    import torch

    length = max(row.length for row in rows)
    ids, key_positions, key_owners = [], [], []
    last: tuple[list[int], list[int]] = ([], [])
    for number, row in enumerate(rows):
        gap = opening_width - len(row.opening)
        positions = [*range(row.before), *[0] * gap]
        owners = [*[_SHARED] * row.before, *[_PADDING] * gap]
        start = row.before + len(row.case)
        row_ids = list(row.case)
        positions += range(row.before, start)
        owners += [_SHARED] * len(row.case)
        for index, question in enumerate(row.questions.values()):
            row_ids += question
            positions += range(start, start + len(question))
            owners += [index] * len(question)
            last[0].append(number)
            last[1].append(len(row_ids) - 1)
        padding = length - len(row_ids)
        ids.append(row_ids + [0] * padding)
        key_positions.append(positions + [0] * padding)
        key_owners.append(owners + [_PADDING] * padding)
    at_key = torch.tensor(key_positions, dtype=torch.int32, device=device)[:, None, :]
    of_key = torch.tensor(key_owners, dtype=torch.int32, device=device)[:, None, :]
    at = at_key[:, 0, -length:, None]
    of = of_key[:, 0, -length:, None]
    seen = ((of_key == _SHARED) | (of_key == of)) & (at_key <= at)
    masks = {FULL: _additive(seen, dtype)}
    if window is not None:
        masks[SLIDING] = _additive(seen & (at_key > at - window), dtype)
    return Batch(torch.tensor(ids, device=device), at[:, :, 0].long(), masks, last)


def _additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    import torch

    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    # The least finite number: where a padding token sees nothing, -inf would give NaN.
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
