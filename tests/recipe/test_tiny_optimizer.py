"""The tiny model's optimizer: Muon and AdamW in one, as verl builds, schedules and restores it."""

from __future__ import annotations

import copy

import pytest
import torch
from verl.workers.config.optimizer import FSDPOptimizerConfig, build_optimizer

from recipe.medical_selfplay.tiny.optimizer import MuonAdamW

ROWS = 40
SETTINGS = {"lr": 0.01, "betas": (0.9, 0.98), "weight_decay": 0.01}


def network(seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Embedding(ROWS, 8), torch.nn.Linear(8, 12), torch.nn.LayerNorm(12)
    )


def build(model: torch.nn.Module) -> MuonAdamW:
    config = FSDPOptimizerConfig(
        optimizer="MuonAdamW",
        optimizer_impl="recipe.medical_selfplay.tiny.optimizer",
        override_optimizer_config={"vocab_size": ROWS},
        **SETTINGS,
    )
    optimizer = build_optimizer(model.parameters(), config)
    assert isinstance(optimizer, MuonAdamW)
    return optimizer


def train(model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], steps: range) -> None:
    for step in steps:
        ids = torch.arange(5) + step
        model(ids).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()


def values(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_matrices_inside_are_muons_and_all_else_is_adamws() -> None:
    together, apart = network(), network()
    train(together, [build(together)], range(4))
    matrix = apart[1].weight
    rest = [p for p in apart.parameters() if p is not matrix]
    alone = {"lr": 0.01, "weight_decay": 0.01}
    reference: list[torch.optim.Optimizer] = [
        torch.optim.Muon([matrix], adjust_lr_fn="match_rms_adamw", **alone),
        torch.optim.AdamW(rest, betas=(0.9, 0.98), **alone),
    ]
    train(apart, reference, range(4))
    for one, other in zip(values(together), values(apart), strict=True):
        assert torch.equal(one, other)


def test_a_schedule_reaches_both() -> None:
    model = network()
    optimizer = build(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = values(model)
    train(model, [optimizer], range(2))
    schedule.step()
    assert all(torch.equal(one, other) for one, other in zip(before, values(model), strict=True))


def test_a_restored_optimizer_goes_on_as_if_it_had_not_stopped() -> None:
    whole = network()
    train(whole, [build(whole)], range(6))
    first = network()
    optimizer = build(first)
    train(first, [optimizer], range(3))
    second = network(1)
    second.load_state_dict(first.state_dict())
    resumed = build(second)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(second, [resumed], range(3, 6))
    for one, other in zip(values(whole), values(second), strict=True):
        assert torch.equal(one, other)


def test_a_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="takes no closure"):
        build(network()).step(lambda: 0.0)
