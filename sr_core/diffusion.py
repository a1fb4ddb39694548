"""Diffusion algebra: what networks predict on the path from clean data to noise, and how each gives the others.

    x = alpha clean + sigma noise

Diffusion backbones keep alpha^2 + sigma^2 = 1, flow backbones alpha = 1 - sigma (see `flow.py`); every conversion here
holds for both. Both coefficients lie in [0, 1], one per sample.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.flow import column
from sr_core.tensors import Latent, PerSample


class Ends(NamedTuple):
    """Both ends of the path through a state."""

    clean: Tensor
    noise: Tensor


def diffuse(clean: Latent, noise: Latent, alpha: PerSample, sigma: PerSample) -> Latent:
    """Return the state x of the path."""
    return column(alpha) * clean + column(sigma) * noise


def preserving_alpha(sigma: PerSample) -> PerSample:
    """Return the alpha that keeps the variance: sqrt(1 - sigma^2)."""
    return (1 - sigma.square()).clamp_min(0).sqrt()


def preserving_level(sigma: PerSample) -> PerSample:
    """Return the noise level of the variance-preserving path whose state is a multiple of the flow's at `sigma`.

    x / sqrt((1 - sigma)^2 + sigma^2) = sqrt(1 - level^2) clean + level noise
    """
    return sigma / ((1 - sigma).square() + sigma.square()).sqrt()


def flow_level(level: PerSample) -> PerSample:
    """Return the flow's sigma at a variance-preserving noise level; inverts `preserving_level`."""
    return level / (preserving_alpha(level) + level)


def timestep_of_level(level: PerSample, alphas_cumprod: Float[Tensor, " t"]) -> PerSample:
    """Return the fractional step of a diffusion schedule at a noise level, interpolated in log signal-to-noise.

    `alphas_cumprod` holds alpha^2 of each whole step. Levels outside the schedule give its first or last step.
    """
    power = alphas_cumprod.to(level.device, torch.float64).clamp(1e-12, 1 - 1e-12)
    table, wanted = ((1 - power) / power).log(), level.double().square().clamp(1e-12, 1 - 1e-12)
    place = (wanted / (1 - wanted)).log()
    index = torch.searchsorted(table, place).clamp(1, len(table) - 1)
    share = (place - table[index - 1]) / (table[index] - table[index - 1])
    return (index - 1 + share.clamp(0, 1)).to(level.dtype)


def _nonzero(coefficient: PerSample, name: str) -> Tensor:
    if not bool((coefficient > 0).all()):
        raise ValueError(f"{name} must be above 0 to divide by it, got a smallest value of {coefficient.min().item()}")
    return column(coefficient)


def ends_from_clean(x: Latent, clean: Latent, alpha: PerSample, sigma: PerSample) -> Ends:
    """Return both ends from the clean one; raises ValueError at sigma 0, where the state holds no noise."""
    return Ends(clean, (x - column(alpha) * clean) / _nonzero(sigma, "sigma"))


def ends_from_epsilon(x: Latent, epsilon: Latent, alpha: PerSample, sigma: PerSample) -> Ends:
    """Return both ends from the noise; raises ValueError at alpha 0, where the state holds nothing clean.

    Source: DDPM, arXiv 2006.11239, Eq. 15.
    """
    return Ends((x - column(sigma) * epsilon) / _nonzero(alpha, "alpha"), epsilon)


def ends_from_v(x: Latent, v: Latent, alpha: PerSample, sigma: PerSample) -> Ends:
    """Return both ends from v = alpha noise - sigma clean.

    Source: Progressive Distillation, arXiv 2202.00512, appendix D.
    """
    a, s = column(alpha), column(sigma)
    power = a.square() + s.square()
    return Ends((a * x - s * v) / power, (s * x + a * v) / power)


def ends_from_velocity(x: Latent, velocity: Latent, alpha: PerSample, sigma: PerSample) -> Ends:
    """Return both ends from velocity = noise - clean."""
    a, s = column(alpha), column(sigma)
    return Ends((x - s * velocity) / (a + s), (x + a * velocity) / (a + s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One thing that a network may predict."""

    ends: Callable[[Latent, Latent, PerSample, PerSample], Ends]
    """Both ends from (x, prediction, alpha, sigma)."""
    target: Callable[[Latent, Latent, PerSample, PerSample], Latent]
    """The true value from (clean, noise, alpha, sigma)."""


def _clean(clean: Latent, noise: Latent, alpha: PerSample, sigma: PerSample) -> Latent:  # noqa: ARG001
    return clean


def _epsilon(clean: Latent, noise: Latent, alpha: PerSample, sigma: PerSample) -> Latent:  # noqa: ARG001
    return noise


def _v(clean: Latent, noise: Latent, alpha: PerSample, sigma: PerSample) -> Latent:
    return column(alpha) * noise - column(sigma) * clean


def _velocity(clean: Latent, noise: Latent, alpha: PerSample, sigma: PerSample) -> Latent:  # noqa: ARG001
    return noise - clean


PREDICTIONS: dict[str, Prediction] = {
    "clean": Prediction(ends=ends_from_clean, target=_clean),
    "epsilon": Prediction(ends=ends_from_epsilon, target=_epsilon),
    "v": Prediction(ends=ends_from_v, target=_v),
    "velocity": Prediction(ends=ends_from_velocity, target=_velocity),
}
"""Every kind of prediction, by the name that diffusers and this project use."""


def convert(prediction: Latent, x: Latent, alpha: PerSample, sigma: PerSample, *, source: str, target: str) -> Latent:
    """Return a prediction of the kind `source` as one of the kind `target`.

    Raises ValueError where `source` does not determine it: clean at sigma 0, epsilon at alpha 0.
    """
    ends = PREDICTIONS[source].ends(x, prediction, alpha, sigma)
    return PREDICTIONS[target].target(ends.clean, ends.noise, alpha, sigma)
