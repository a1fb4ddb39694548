from pathlib import Path

import pytest
import torch
from torch import Tensor

from sr_core.backbones.compact import residual_latent
from sr_core.backbones.flow_head import FlowHead, HeadInput
from sr_core.flow import clean_error_weight, interpolate
from tests.sr_core.backbones.conftest import random_head
from train.data import Batch, CachedCrops, head_batch, seeded_generator
from train.steps import BatchPart, PerceptualTerm, sft_sigmas, sft_step


def batch_for(head: FlowHead, cache: Path) -> Batch:
    hq, lq, prior, trunk = CachedCrops(cache).windows(8, 8, seeded_generator(1))
    return head_batch(hq, lq, prior, trunk, head.gain(prior, lq))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_batch_is_pure_noise_and_the_rest_uniform(share: float) -> None:
    sigma = sft_sigmas(4000, share, seeded_generator(0))
    count = round(4000 * share)
    assert bool((sigma[:count] == 1).all())
    rest = sigma[count:]
    assert bool(((rest > 0) & (rest <= 1)).all())
    if len(rest):
        assert float(rest.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(rest.std()) == pytest.approx(12**-0.5, abs=0.02)


def test_the_loss_is_the_weighted_error_of_the_clean_residual(cache: Path) -> None:
    head = random_head()
    batch = batch_for(head, cache)
    output = sft_step(head, batch, 0.25, seeded_generator(2))
    generator = seeded_generator(2)
    clean = residual_latent(batch.hq, batch.photo, head)
    sigma = sft_sigmas(8, 0.25, generator)
    x = interpolate(clean, torch.randn(clean.shape, generator=generator), sigma)
    error = (head.clean(x, sigma, head.photo_embedding(batch.photo)) - clean).square().mean((1, 2, 3))
    torch.testing.assert_close(output.loss, (clean_error_weight(sigma) * error).mean())
    torch.testing.assert_close(output.metrics["clean_mse"], error.mean())
    torch.testing.assert_close(output.metrics["clean_mse_at_noise"], error[:2].mean())


def test_every_weight_of_the_head_is_taught(cache: Path) -> None:
    head = random_head()
    sft_step(head, batch_for(head, cache), 0.25, seeded_generator(2)).loss.backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in head.parameters())


def test_the_step_draws_from_its_generator_alone(cache: Path) -> None:
    head = random_head()
    batch = batch_for(head, cache)
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses.append(float(sft_step(head, batch, 0.25, seeded_generator(2)).loss.detach()))
    assert losses[0] == losses[1]
    assert float(sft_step(head, batch, 0.25, seeded_generator(3)).loss.detach()) != losses[0]


def part_of(batch: Batch, own: slice) -> Batch:
    return Batch(HeadInput(*(tensor[own] for tensor in batch.photo)), batch.hq[own])


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_the_parts_of_a_batch_teach_on_average_what_the_whole_does(cache: Path, count: int, share: float) -> None:
    head = random_head()
    batch = batch_for(head, cache)
    term = PerceptualTerm(lambda image, target: (image - target).abs().mean((1, 2, 3)), 2.0, share)

    def taught(part: BatchPart) -> tuple[dict[str, float], Tensor]:
        output = sft_step(head, part_of(batch, part.own), 0.25, seeded_generator(2), term, part)
        gradients = torch.autograd.grad(output.loss, list(head.parameters()))
        values = {**output.metrics, "loss": output.loss.detach()}
        return {name: float(value) for name, value in values.items()}, torch.cat([g.flatten() for g in gradients])

    whole, gradient = taught(BatchPart(8))
    parts = [taught(BatchPart(8, slice(index, None, count))) for index in range(count)]
    torch.testing.assert_close(torch.stack([g for _, g in parts]).mean(0), gradient, rtol=1e-4, atol=1e-6)
    for name, value in whole.items():
        assert sum(values.get(name, 0.0) for values, _ in parts) / count == pytest.approx(value, rel=1e-5), name
