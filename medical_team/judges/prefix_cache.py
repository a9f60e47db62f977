"""Keys and values of tokens with which several rows begin, computed once and read many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Some computed prefixes, padded to one width.

    Attributes:
        lengths: tokens of each prefix.
        layers: by layer, keys and values, each [prefixes, heads, width, size of a head].
    """

    lengths: tuple[int, ...]
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Tokens of the longest prefix."""
        return max(self.lengths)


class PrefixCache:
    """A cache as a model wants one, that puts prefixes before the tokens being computed.

    Args:
        before: prefixes, one group behind the other, and for each row which of the group's it has.
        into: takes the keys and values of the rows themselves, which else are not kept.
    """

    def __init__(
        self, before: Sequence[tuple[Prefixes, Sequence[int]]], into: Prefixes | None = None
    ) -> None:
        self._before = before
        self._into = into

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a layer attends to, given the keys and values of the rows' own tokens."""
        import torch

        if self._into is not None:
            self._into.layers[layer] = (keys, values)
        if not self._before:
            return keys, values
        found = [prefixes.layers[layer] for prefixes, _ in self._before]
        chosen = [list(choice) for _, choice in self._before]
        all_keys, all_values = (
            torch.cat(
                [*(one[which][rows] for one, rows in zip(found, chosen, strict=True)), own], 2
            )
            for which, own in enumerate((keys, values))
        )
        return all_keys, all_values

    def get_seq_length(self, *_: Any) -> int:
        """Tokens before the rows' own, padding included."""
        return sum(prefixes.width for prefixes, _ in self._before)
