"""A causal language model that reads its answers from the next token's probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medical_team.judges.encoding import LabelIds
from medical_team.judges.model_judge import Answer
from medical_team.judges.packing import FULL, SLIDING, PackedRow, batch_of
from medical_team.judges.prefix_cache import PrefixCache, Prefixes
from medical_team.judges.questions import PromptKey
from medical_team.medical_judge import JudgeError, JudgeUsage

if TYPE_CHECKING:
    import torch

Tokens = tuple[int, ...]


class PackedModel:
    """Answers packed rows; what rows begin with is kept between batches. For one thread at a time.

    Args:
        model: a model of ``transformers`` with full and sliding attention only, in evaluation mode.
        labels: the tokens of the two answers.
    """

    def __init__(self, model: Any, labels: LabelIds) -> None:
        self._model = model
        self._labels = labels
        self._rubrics: dict[Tokens, Prefixes] = {}
        self._opened: dict[tuple[Tokens, tuple[Tokens, ...]], Prefixes] = {}

    def forget_openings(self) -> None:
        """Gives back the memory of the last batch's openings; rubrics are kept."""
        self._opened.clear()

    def answer(self, rows: Sequence[PackedRow]) -> dict[PromptKey, Answer | JudgeError]:
        """Answers the questions of one batch in one forward pass.

        Args:
            rows: rows with the same rubric.
        """
        import torch

        rubric = rows[0].rubric
        openings = tuple(dict.fromkeys(row.opening for row in rows if row.opening))
        usages = _usages(
            rows, rubric in self._rubrics, openings if (rubric, openings) in self._opened else ()
        )
        before = [(self._rubric(rubric), [0] * len(rows))]
        if openings:
            index = [openings.index(row.opening) if row.opening else 0 for row in rows]
            before.append((self._openings(rubric, openings), index))
        hidden, last = self._hidden(rows, before)
        logits = self._model.get_output_embeddings()(hidden[last]).float()
        cap = getattr(self._model.config.get_text_config(), "final_logit_softcapping", None)
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        yes, no = (
            torch.logsumexp(logits[:, list(ids)], dim=-1)
            for ids in (self._labels.yes, self._labels.no)
        )
        p_yes = torch.sigmoid(yes - no).tolist()
        mass = torch.exp(torch.logaddexp(yes, no) - torch.logsumexp(logits, dim=-1)).tolist()
        return {
            key: _answer(p_yes_, mass_, usage)
            for (key, usage), p_yes_, mass_ in zip(usages, p_yes, mass, strict=True)
        }

    def _rubric(self, rubric: Tokens) -> Prefixes:
        """Keys and values of a rubric, computed once; there are as many as rubrics: two."""
        if rubric not in self._rubrics:
            self._rubrics[rubric] = self._prefixes((), [rubric])
        return self._rubrics[rubric]

    def _openings(self, rubric: Tokens, openings: tuple[Tokens, ...]) -> Prefixes:
        """Keys and values of openings; rows with the same ones come in batches that follow."""
        if (rubric, openings) not in self._opened:
            self.forget_openings()
            self._opened[rubric, openings] = self._prefixes(rubric, openings)
        return self._opened[rubric, openings]

    def _prefixes(self, rubric: Tokens, openings: Sequence[Tokens]) -> Prefixes:
        """Keys and values of what rows begin with, behind their rubric."""
        rows = [PackedRow(rubric, (), opening, {}) for opening in openings]
        before = [(self._rubric(rubric), [0] * len(rows))] if rubric else []
        found = Prefixes(tuple(map(len, openings)))
        self._hidden(rows, before, found)
        return found

    def _hidden(
        self,
        rows: Sequence[PackedRow],
        before: Sequence[tuple[Prefixes, Sequence[int]]],
        into: Prefixes | None = None,
    ) -> tuple[torch.Tensor, tuple[list[int], list[int]]]:
        """The last layer's output for a batch, and where in it each question ends.

        Args:
            rows: the batch.
            before: the rubric and, where rows have one, the openings, with each row's own.
            into: takes keys and values, if they are needed again.
        """
        config = self._model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        batch = batch_of(
            rows,
            opening_width=before[1][0].width if len(before) > 1 else 0,
            window=window,
            dtype=self._model.dtype,
            device=self._model.device,
        )
        masks: Any = batch.masks
        if not getattr(config, "layer_types", None):
            masks = masks[FULL if window is None else SLIDING]
        output = self._model.get_decoder()(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=masks,
            past_key_values=PrefixCache(before, into),
            use_cache=False,
        )
        return output.last_hidden_state, batch.last


def _answer(p_yes: float, mass: float, usage: JudgeUsage) -> Answer | JudgeError:
    # NaN fails every comparison.
    if not (0 <= p_yes <= 1 and mass >= 0):
        return JudgeError(
            "the judge model's probabilities are not a number (NaN); its weights are broken or"
            " judge.dtype does not suit it"
        )
    return Answer(p_yes >= 0.5, p_yes, min(mass, 1.0), usage)


def _usages(
    rows: Sequence[PackedRow], rubric_known: bool, known_openings: Sequence[Tokens]
) -> list[tuple[PromptKey, JudgeUsage]]:
    """What each question takes, as if it were asked alone, and how much of it is shared."""
    usages = []
    shared = len(rows[0].rubric) if rubric_known else 0
    opened = set(known_openings)
    for row in rows:
        if row.opening in opened:
            shared = row.before
        opened.add(row.opening)
        for key, question in row.questions.items():
            before = row.before + len(row.case)
            usages.append((key, JudgeUsage(before + len(question), shared)))
            shared = before
        shared = len(row.rubric)
    return usages
