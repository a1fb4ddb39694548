"""Rectified-flow algebra: one straight path between clean data and noise, and its conversions.

    x = (1 - sigma) clean + sigma noise,    velocity = dx/dsigma = noise - clean

sigma lies in [0, 1] and 1 is pure noise. Source: Rectified Flow, arXiv 2209.03003, Eq. 1, with diffusers' sign.
"""

from torch import Tensor

from sr_core.tensors import Latent, PerSample, Sigma

MAX_CLEAN_WEIGHT = 5.0
"""Ceiling of `clean_error_weight`; 1 / sigma^2 grows without bound where little noise is left."""


def column(values: PerSample) -> Tensor:
    """Return `values` of shape (b,) as (b, 1, 1, 1), to scale one latent per sample."""
    return values.reshape(-1, 1, 1, 1)


def interpolate(clean: Latent, noise: Latent, sigma: Sigma) -> Latent:
    """Return the point of the path at `sigma`."""
    return (1 - column(sigma)) * clean + column(sigma) * noise


def velocity_between(clean: Latent, noise: Latent) -> Latent:
    """Return the path's constant velocity."""
    return noise - clean


def clean_from_velocity(x: Latent, velocity: Latent, sigma: Sigma) -> Latent:
    """Return the clean end of the path through `x` with this velocity."""
    return x - column(sigma) * velocity


def noise_from_velocity(x: Latent, velocity: Latent, sigma: Sigma) -> Latent:
    """Return the noise end of the path through `x` with this velocity."""
    return x + (1 - column(sigma)) * velocity


def velocity_from_clean(x: Latent, clean: Latent, sigma: Sigma) -> Latent:
    """Return the velocity of the path from `clean` through `x`; sigma must be above 0.

    Raises ValueError at sigma 0, where x equals clean and the quotient says nothing.
    """
    if not bool((sigma > 0).all()):
        raise ValueError(f"sigma must be above 0 to divide by it, got a smallest value of {sigma.min().item()}")
    return (x - clean) / column(sigma)


def clean_error_weight(sigma: Sigma) -> PerSample:
    """Return min(1 / sigma^2, 5), which turns a clean-residual error into a bounded velocity error.

    Above sigma = 0.447 it is exact: |v - v'|^2 = |clean - clean'|^2 / sigma^2.
    """
    return sigma.square().clamp_min(1 / MAX_CLEAN_WEIGHT).reciprocal()
