"""Maps of where pictures differ: signed difference, spread between candidates, energy the input cannot hold.

Pictures enter as 8-bit levels, 0 to 255 per channel (16-bit files give fractions), and maps leave in the same unit, so
that a number on a map can be read against the pixel values beside it.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from sr_core.sobolev import dct2, idct2
from sr_core.spectra import LUMA, Size, beyond

Levels = Float[Tensor, "c h w"]
"""Pixels in 8-bit levels."""

LevelMap = Float[Tensor, "h w"]
"""One number per pixel in 8-bit levels."""


def luma_levels(levels: Float[Tensor, "3 h w"]) -> LevelMap:
    """Return Rec. 601 luma in 8-bit levels, in float64."""
    return torch.einsum("chw,c->hw", levels.double(), torch.tensor(LUMA, dtype=torch.float64))


def signed_difference(levels: Levels, other: Levels) -> Levels:
    """Return how much higher `levels` lie than `other`, per channel; swapping the two changes the sign."""
    return levels.double() - other.double()


def spread(candidates: Iterable[Levels]) -> LevelMap:
    """Return the standard deviation between pictures at every pixel: the root of the variance's mean over channels.

        s = sqrt(mean_c (sum_i x_ic^2 / N - (sum_i x_ic / N)^2))

    The N pictures are all there is (divisor N). Sums of 8-bit levels are exact, so equal pictures give exactly 0.
    Pictures are taken one by one. One alone does not vary: 0 everywhere. There must be at least one.
    """
    total = squares = None
    num_pictures = 0
    for levels in candidates:
        exact = levels.double()
        total = exact.clone() if total is None else total.add_(exact)
        squares = exact.square() if squares is None else squares.add_(exact.square_())
        num_pictures += 1
    assert total is not None, "a spread needs pictures"
    assert squares is not None
    variance = (num_pictures * squares - total.square_()).clamp_min_(0) / num_pictures**2
    return variance.mean(0).sqrt()


class NyquistSplit(NamedTuple):
    """A picture as the sum of what the input's grid can hold and of what it cannot; the two are orthogonal."""

    below: Levels
    """Every frequency that the input's pixels can carry."""
    above: Levels
    """The rest: at or above the input's Nyquist frequency on either axis."""


def split_at_nyquist(levels: Levels, lq_size: Size) -> NyquistSplit:
    """Split a picture at the Nyquist frequency of an input of (height, width) pixels, in the DCT-II domain.

    DCT-II coefficient k of n is k / 2n cycles per pixel, so the input's m pixels carry the coefficients k < m:
    enlarging the input by zero padding its own DCT puts nothing above.
    """
    spectrum = dct2(levels.double())
    outside = beyond((levels.shape[-2], levels.shape[-1]), lq_size, "dct")
    above = idct2(spectrum * outside)
    return NyquistSplit(levels.double() - above, above)


def local_strength(levels: Levels, window: int) -> LevelMap:
    """Return the root-mean-square over channels and a square window of an odd side around every pixel.

    At the border the picture is mirrored.
    """
    assert window % 2 == 1, f"a window must have a middle, got {window}"
    power = levels.square().mean(0)[None, None]
    half = window // 2
    mode = "reflect" if half < min(power.shape[-2:]) else "replicate"
    return avg_pool2d(pad(power, (half,) * 4, mode=mode), window, stride=1)[0, 0].clamp_min(0).sqrt()


def energy_above_nyquist(levels: Levels, lq_size: Size) -> LevelMap:
    """Return where a picture holds energy that no picture of the input's size can hold.

    Root-mean-square amplitude above the input's Nyquist frequency in a window of about two input pixels.
    """
    factor = max(n / m for n, m in zip(levels.shape[-2:], lq_size, strict=True))
    return local_strength(split_at_nyquist(levels, lq_size).above, 2 * round(factor) + 1)


def root_mean_square(levels: LevelMap) -> float:
    """Return one number for a map: the root of its mean square."""
    return float(levels.double().square().mean().sqrt())
