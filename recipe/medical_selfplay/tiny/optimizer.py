"""The tiny model's optimizer for verl's trainers (``optim.optimizer_impl``).

Muon orthogonalises the update of each weight matrix (Jordan et al. 2024; learning rate matched to
AdamW's as in Liu et al., arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the weight matrices inside the layers, AdamW for embeddings and vectors.

    Args:
        params: all parameters.
        lr: learning rate of both.
        betas: AdamW's.
        weight_decay: of both.
        vocab_size: a matrix with so many rows is an embedding.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        vocab_size: int,
    ) -> None:
        every = list(params)
        hidden = [p for p in every if p.ndim == 2 and p.shape[0] != vocab_size]
        chosen = {id(p) for p in hidden}
        rest = [p for p in every if id(p) not in chosen]
        self._inner: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                hidden, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, lr=lr, betas=tuple(betas), weight_decay=weight_decay),
        ]
        # The groups are the inner optimizers' own, so that a schedule sets their learning rates.
        super().__init__([group for inner in self._inner for group in inner.param_groups], {})
        for inner, group in zip(self._inner, self.param_groups, strict=True):
            inner.param_groups = [group]
            inner.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores both, which go on sharing groups and state with this one."""
        super().load_state_dict(state_dict)
        for inner, group in zip(self._inner, self.param_groups, strict=True):
            inner.param_groups = [group]
            inner.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step of both.

        Raises:
            ValueError: if a closure is given; neither verl nor this optimizer has a use for one.
        """
        if closure is not None:
            raise ValueError("MuonAdamW takes no closure; compute the gradients before step()")
        for inner in self._inner:
            inner.step()
