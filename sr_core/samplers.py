"""One loop for every sampler: a step is a value, the loop exists once."""

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.flow import column
from sr_core.tensors import Latent, Sigma


@runtime_checkable
class Velocity(Protocol):
    """Velocity field with its conditioning already bound."""

    def __call__(self, x: Latent, sigma: Sigma) -> Latent:
        """Return dx/dsigma at (x, sigma); sigma is above 0."""


@runtime_checkable
class Step(Protocol):
    """One move along the schedule."""

    def __call__(self, velocity: Velocity, x: Latent, sigma: Sigma, sigma_next: Sigma) -> Latent:
        """Carry x from sigma to sigma_next, which is smaller."""


OnStep = Callable[[int, Latent], None]
"""Sees the step index and the new state; may raise to stop the loop."""


def euler_step(velocity: Velocity, x: Latent, sigma: Sigma, sigma_next: Sigma) -> Latent:
    """Advance one first-order step; one model call."""
    return x + column(sigma_next - sigma) * velocity(x, sigma)


def heun_step(velocity: Velocity, x: Latent, sigma: Sigma, sigma_next: Sigma) -> Latent:
    """Advance one second-order step, or one Euler step onto sigma 0; two model calls, or one.

    The velocity of a network that predicts the clean end is undefined at sigma 0, so the last step is of first order.
    Source: EDM, arXiv 2206.00364, Alg. 1.
    """
    slope = velocity(x, sigma)
    x_euler = x + column(sigma_next - sigma) * slope
    if not bool((sigma_next > 0).all()):
        return x_euler
    return x + column(sigma_next - sigma) * (slope + velocity(x_euler, sigma_next)) / 2


@torch.no_grad()
def integrate(
    step: Step, velocity: Velocity, noise: Latent, sigmas: Float[Tensor, " n"], on_step: OnStep | None = None
) -> Latent:
    """Carry `noise` along the decreasing `sigmas`; `on_step` sees each new state."""
    x = noise
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.to(noise.device))):
        x = step(velocity, x, sigma.expand(len(x)), sigma_next.expand(len(x)))
        if on_step is not None:
            on_step(index, x)
    return x


SAMPLERS: dict[str, Step] = {"euler": euler_step, "heun": heun_step}
