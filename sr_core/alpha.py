"""Keep transparency free of halos: fill colour under clear pixels and enlarge alpha on its own."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from sr_core.resampling import resize_clamped
from sr_core.tensors import Image

Alpha = Float[Tensor, "1 1 h w"]
"""Opacity in [0, 1], straight (not multiplied into the colours)."""

_TRUSTED = 1 / 16
"""Opacity from which a pixel's own colour is kept; below it 8 bits say too little about it."""


def bleed_colour(pixels: Image, alpha: Alpha) -> Image:
    """Replace the colour of nearly clear pixels by that of the nearest opaque ones.

    The colour under clear pixels is arbitrary, often black, and any filter wider than a pixel
    would carry it over the edge. Push-pull: opacity-weighted means on ever coarser grids, each
    filling what the finer one lacks. Opaque pixels keep their value; a wholly clear image too.

    Source: Gortler et al., The Lumigraph, SIGGRAPH 1996, section 3.4.
    """
    trust = (alpha / _TRUSTED).clamp(max=1)
    return trust * pixels + (1 - trust) * _fill(pixels, trust)


def _fill(pixels: Image, weight: Alpha) -> Image:
    """Return the weighted colour where there is weight, and that of the surroundings elsewhere."""
    if weight.shape[-2:] == (1, 1) or bool((weight >= 1).all()):
        return pixels
    pooled_weight = avg_pool2d(weight, 2, ceil_mode=True)
    pooled = avg_pool2d(weight * pixels, 2, ceil_mode=True) / pooled_weight.clamp(min=1e-8)
    pooled = torch.where(pooled_weight > 0, pooled, avg_pool2d(pixels, 2, ceil_mode=True))
    coarse = _fill(pooled, (pooled_weight * 4).clamp(max=1))
    return weight * pixels + (1 - weight) * interpolate(coarse, size=pixels.shape[-2:], mode="bilinear")


def enlarge_alpha(alpha: Alpha, height: int, width: int) -> Float[Tensor, "1 1 H W"]:
    """Resize opacity by the project's bicubic, kept in [0, 1]; it never meets the restorer."""
    return resize_clamped(alpha, height, width)
