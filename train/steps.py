"""A step: the only place where model, noise and maths meet, and where losses are reduced."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sr_core.backbones.compact import residual_latent
from sr_core.backbones.flow_head import FlowHead, HeadInput, image_from_planes, shuffle_planes
from sr_core.flow import clean_error_weight, interpolate
from sr_core.tensors import Enlarged, Image, Latent, PerSample, Sigma
from train.data import Batch


class StepOutput(NamedTuple):
    """What one step hands to the engine."""

    loss: Tensor
    metrics: dict[str, Tensor]


def sft_sigmas(count: int, pure_noise_share: float, generator: Generator) -> Sigma:
    """Return uniform noise levels in (0, 1], the first share of them exactly 1."""
    sigma = 1 - torch.rand(count, generator=generator)
    sigma[: round(count * pure_noise_share)] = 1.0
    return sigma


class PerceptualTerm(NamedTuple):
    """A perceptual distance to add to the flow's error."""

    distance: Callable[[Image, Image], PerSample]
    weight: float
    share: float


def decode_latent(latent: Latent, photo: HeadInput, head: FlowHead) -> Enlarged:
    """Return the image of a clean latent, not clamped, so that gradients reach everywhere."""
    planes = photo.prior + latent * (photo.gain * head.channel_std())
    return image_from_planes(shuffle_planes(planes))


def perceptual_loss(predicted: Latent, batch: Batch, head: FlowHead, term: PerceptualTerm) -> Tensor:
    """Return the mean distance between predicted clean images and the ground truth on every n-th sample."""
    chosen = slice(None, None, max(1, round(1 / term.share)))
    photo = HeadInput(*(part[chosen] for part in batch.photo))
    image = decode_latent(predicted[chosen], photo, head)
    target = image_from_planes(shuffle_planes(batch.hq[chosen]))
    return term.distance(image, target).mean()


def sft_step(
    head: FlowHead, batch: Batch, pure_noise_share: float, generator: Generator, term: PerceptualTerm | None = None
) -> StepOutput:
    """Teach the head the clean residual at random noise levels (rectified flow, arXiv 2209.03003, Eq. 1)."""
    clean = residual_latent(batch.hq, batch.photo, head)
    sigma = sft_sigmas(len(clean), pure_noise_share, generator).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    x = interpolate(clean, noise, sigma).contiguous(memory_format=torch.channels_last)
    predicted = head.clean(x, sigma, head.photo_embedding(batch.photo))
    error = (predicted - clean).square().mean(dim=(1, 2, 3))
    metrics = {"clean_mse": error.detach().mean(), "clean_mse_at_noise": error.detach()[sigma == 1].mean()}
    loss = (clean_error_weight(sigma) * error).mean()
    if term is not None:
        distance = perceptual_loss(predicted, batch, head, term)
        metrics["lpips"] = distance.detach()
        loss = loss + term.weight * distance
    return StepOutput(loss, metrics)
