import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sr_core.errors import ConfigError
from train.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from train.config import OptimConfig
from train.optimizers import make_optimizer, optimizer_tensors, restore_optimizer


def optim(kind: str, **changes: Any) -> OptimConfig:
    return OptimConfig(learning_rate=0.01, batch_size=1, max_steps=1, decay_steps=0, optimizer=kind, **changes)  # type: ignore[arg-type]


def network() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, 64))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(4, 64, generator=torch.Generator().manual_seed(step))
        (model(x) - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_a_restored_optimiser_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    unbroken, broken, resumed = network(), network(), network()
    optimizers = [make_optimizer(list(model.parameters()), optim(kind)) for model in (unbroken, broken, resumed)]
    train(unbroken, optimizers[0], range(6))
    train(broken, optimizers[1], range(3))
    sets = {"model": dict(broken.state_dict()), "optimizer": optimizer_tensors(optimizers[1])}
    found = load_checkpoint(save_checkpoint(tmp_path, 3, Checkpoint(sets, {}), keep=1))
    resumed.load_state_dict(found.tensors["model"])
    restore_optimizer(optimizers[2], found.tensors["optimizer"])
    train(resumed, optimizers[2], range(3, 6))
    for ours, theirs in zip(resumed.parameters(), unbroken.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("betas", [None, (0.9, 0.999)])
def test_the_path_is_adamws_at_the_recipes_betas_bit_for_bit(betas: tuple[float, float] | None) -> None:
    ours, theirs = network(), network()
    changes = {} if betas is None else {"betas": betas}
    train(ours, make_optimizer(list(ours.parameters()), optim("adamw", **changes)), range(5))
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=betas or (0.9, 0.99), weight_decay=0.01)
    train(theirs, plain, range(5))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_both_optimisers_take_the_recipes_betas(kind: str) -> None:
    optimizer = make_optimizer(list(network().parameters()), optim(kind, betas=(0.8, 0.95)))
    assert {tuple(group["betas"]) for group in optimizer.param_groups} == {(0.8, 0.95)}


def test_eight_bits_take_less_and_learn_the_same_at_first() -> None:
    models = [network(), network()]
    optimizers = [
        make_optimizer(list(model.parameters()), optim(kind))
        for model, kind in zip(models, ("adamw", "adamw_8bit"), strict=True)
    ]
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, range(2))
    sizes = [sum(value.nbytes for value in optimizer_tensors(one).values()) for one in optimizers]
    assert sizes[1] < 0.45 * sizes[0]
    for exact, coarse in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(exact, coarse, atol=5e-3, rtol=0)


def test_without_bitsandbytes_the_recipe_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match="adamw_8bit needs bitsandbytes"):
        make_optimizer(list(network().parameters()), optim("adamw_8bit"))
