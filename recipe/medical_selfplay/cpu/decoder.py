"""Continuous batching with a plain transformers model.

Requests join and leave the running batch between two decoding steps, so a long answer never keeps a
short one waiting: an assessor's turn starts while other attackers still write. Rows are left-padded
to a common length.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

# Columns added at once; more would waste memory, fewer would copy the cache more often.
_ROOM = 64


@dataclass(slots=True, eq=False)
class Request:
    """One prompt being continued.

    Attributes:
        prompt_ids: the prompt's token ids.
        max_tokens: most tokens to generate, at least 1.
        temperature: 0 for greedy decoding.
        top_p: nucleus size in (0, 1].
        top_k: number of candidates, -1 for all.
        seed: makes this request's samples independent of what else is in the batch; ``None`` for
            random.
        ignore_eos: generate until ``max_tokens``.
        token_ids: what has been generated so far, the end token included.
        log_probs: log-probability of each of these under the distribution it was drawn from.
        aborted: the request was taken out of the batch before it was complete.
    """

    prompt_ids: list[int]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None
    ignore_eos: bool = False
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    aborted: bool = False
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        """Seeds this request's own random numbers."""
        self.random = random.Random(self.seed)


class ContinuousBatch:
    """The running batch: ``add`` requests, ``step`` all of them by one token.

    Args:
        model: a causal language model in evaluation mode.
        eos_token_ids: tokens that end a response.
        pad_token_id: any valid token id; padded positions are masked.
    """

    def __init__(
        self, model: PreTrainedModel, eos_token_ids: Sequence[int], pad_token_id: int
    ) -> None:
        self._model = model
        self._eos = frozenset(eos_token_ids)
        self._pad = pad_token_id
        self._rows: list[Request] = []
        self._mask = torch.zeros(
            0, 0, dtype=torch.long
        )  # [rows, length]: 1 where a token is cached
        self._cache: list[_RoomyLayer] = []

    def __len__(self) -> int:
        """Number of requests being decoded."""
        return len(self._rows)

    @torch.inference_mode()
    def add(self, requests: Sequence[Request]) -> list[Request]:
        """Reads the prompts of new requests and draws their first token.

        Returns:
            Those that are already complete.
        """
        if not requests:
            return []
        length = max(len(request.prompt_ids) for request in requests)
        ids = torch.full((len(requests), length), self._pad)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, length - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[row, length - len(request.prompt_ids) :] = 1
        logits, cache = self._forward(ids, mask, [])
        self._draw(requests, logits)
        self._join(requests, mask, cache)
        return self._leave()

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Generates one token for every row.

        Returns:
            The requests that are complete now; they have left the batch.
        """
        if not self._rows:
            return []
        ids = torch.tensor([[request.token_ids[-1]] for request in self._rows])
        self._mask = pad(self._mask, (0, 1), value=1)
        logits, self._cache = self._forward(ids, self._mask, self._cache)
        self._draw(self._rows, logits)
        return self._leave()

    def abort(self) -> list[Request]:
        """Takes every request out of the batch as it is."""
        aborted, self._rows = self._rows, []
        self._mask, self._cache = torch.zeros(0, 0, dtype=torch.long), []
        for request in aborted:
            request.aborted = True
        return aborted

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, past: list[_RoomyLayer]
    ) -> tuple[torch.Tensor, list[_RoomyLayer]]:
        cache = DynamicCache()
        cache.layers.extend(past)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        layers = past or [_RoomyLayer(layer.keys, layer.values) for layer in cache.layers]
        return output.logits[:, -1].float(), layers

    def _draw(self, requests: Sequence[Request], logits: torch.Tensor) -> None:
        greedy = torch.tensor([request.temperature == 0 for request in requests])
        scale = torch.tensor([request.temperature or 1.0 for request in requests])
        scores = logits / scale[:, None]
        for row, request in enumerate(requests):
            if request.top_k > 0 or request.top_p < 1:
                scores[row] = _truncate(scores[row], request.top_k, request.top_p)
        log_probs = scores.log_softmax(-1)
        # Inverse-transform sampling with one number per request: its draws do not depend on its
        # neighbours.
        uniform = torch.tensor(
            [[request.random.random()] for request in requests], dtype=torch.float64
        )
        cumulative = log_probs.double().exp().cumsum(-1)
        drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:]).squeeze(-1)
        tokens = torch.where(greedy, scores.argmax(-1), drawn.clamp(max=logits.shape[-1] - 1))
        chosen = log_probs.gather(-1, tokens[:, None]).squeeze(-1)
        for request, token, log_prob in zip(
            requests, tokens.tolist(), chosen.tolist(), strict=True
        ):
            request.token_ids.append(token)
            request.log_probs.append(log_prob)

    def _join(
        self,
        requests: Sequence[Request],
        mask: torch.Tensor,
        cache: list[_RoomyLayer],
    ) -> None:
        if self._rows:
            width = max(mask.shape[1], self._mask.shape[1])
            mask = torch.cat([_left_pad(self._mask, width, 1), _left_pad(mask, width, 1)])
            cache = [
                _RoomyLayer(
                    torch.cat([_left_pad(old.keys, width, 2), _left_pad(new.keys, width, 2)]),
                    torch.cat([_left_pad(old.values, width, 2), _left_pad(new.values, width, 2)]),
                )
                for old, new in zip(self._cache, cache, strict=True)
            ]
        self._rows, self._mask, self._cache = [*self._rows, *requests], mask, cache

    def _leave(self) -> list[Request]:
        done = [self._is_complete(request) for request in self._rows]
        if not any(done):
            return []
        complete = [request for request, leaves in zip(self._rows, done, strict=True) if leaves]
        self._rows = [
            request for request, leaves in zip(self._rows, done, strict=True) if not leaves
        ]
        keep = torch.tensor(
            [row for row, leaves in enumerate(done) if not leaves], dtype=torch.long
        )
        mask = self._mask[keep]
        start = (
            int(mask.argmax(dim=1).min()) if len(keep) else mask.shape[1]
        )  # only padding stands before it
        self._mask = mask[:, start:]
        self._cache = [
            _RoomyLayer(layer.keys[keep, :, start:], layer.values[keep, :, start:])
            for layer in self._cache
        ]
        return complete

    def _is_complete(self, request: Request) -> bool:
        ended = request.token_ids[-1] in self._eos and not request.ignore_eos
        return ended or len(request.token_ids) >= request.max_tokens


class _RoomyLayer(DynamicLayer):
    """A layer's cache that appends in place: transformers copies all of it for every token.

    Args:
        keys: what is cached, [rows, heads, length, head_dim].
        values: the same for the values.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys, self.values = keys, values  # the part of the room that is in use
        self._room = (keys, values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends columns and returns all of them."""
        length = self.keys.shape[2]
        end = length + key_states.shape[2]
        if end > self._room[0].shape[2]:
            more = (0, 0, 0, end - length + _ROOM)
            self._room = (pad(self.keys, more), pad(self.values, more))
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, length:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values


def _left_pad(tensor: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    missing = width - tensor.shape[dim]
    return pad(tensor, (0, 0) * (tensor.dim() - 1 - dim) + (missing, 0)) if missing else tensor


def _truncate(scores: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    ordered, order = scores.sort(descending=True)
    dropped = torch.zeros_like(ordered, dtype=torch.bool)
    if top_k > 0:
        dropped[top_k:] = True
    # A token stays while the mass before it is below top_p, so the most likely one always does.
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    dropped |= before >= top_p
    return scores.masked_fill(torch.zeros_like(dropped).scatter(0, order, dropped), float("-inf"))
