"""Give a restoration the colours of its input: by statistics (AdaIN) or by frequency band (wavelet)."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from sr_core.errors import ConfigError
from sr_core.tensors import Image

VARIANCE_FLOOR = 1e-5
"""Added to each channel's variance, so that a flat image has a usable deviation."""
WAVELET_LEVELS = 5

Reference: TypeAlias = Float[Tensor, "r 3 h w"]
"""The input enlarged to the candidate's size; one for all candidates or one for each."""


def adain(candidate: Image, reference: Reference) -> Image:
    """Give each channel of the candidate the reference's mean and deviation over the image.

        (x - mean(x)) / std(x) * std(r) + mean(r),   std = sqrt(unbiased variance + 1e-5)

    The result is not clamped. Source: Huang and Belongie, arXiv 1703.06868, Eq. 8.
    """
    std = (_variance(reference) / _variance(candidate)).sqrt()
    return (candidate - _mean(candidate)) * std + _mean(reference)


def _mean(image: Tensor) -> Tensor:
    return image.mean(dim=(2, 3), keepdim=True)


def _variance(image: Tensor) -> Tensor:
    return image.var(dim=(2, 3), keepdim=True) + VARIANCE_FLOOR


def wavelet(candidate: Image, reference: Reference) -> Image:
    """Keep the candidate's high band and take the low band from the reference.

        x - low(x) + low(r),   low = five a-trous blurs

    The result is not clamped. Source: StableSR, arXiv 2305.07015, section 3.3 (the released code's
    wavelet variant).
    """
    return candidate - low_band(candidate) + low_band(reference)


def low_band(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Blur with the 3 x 3 binomial kernel at dilations 1, 2, 4, 8 and 16, edges replicated."""
    for level in range(WAVELET_LEVELS):
        for dim in (2, 3):
            image = _binomial(image, 2**level, dim)
    return image


def _binomial(image: Tensor, dilation: int, dim: int) -> Tensor:
    """Return (x[i - d] + 2 x[i] + x[i + d]) / 4 along one dimension."""
    size = image.shape[dim]
    margin = (dilation, dilation, 0, 0) if dim == 3 else (0, 0, dilation, dilation)
    padded = pad(image, margin, mode="replicate")
    before, after = padded.narrow(dim, 0, size), padded.narrow(dim, 2 * dilation, size)
    return torch.add(before, after).add_(image, alpha=2).mul_(0.25)


def unchanged(candidate: Image, _reference: Reference) -> Image:
    """Return the candidate as it is."""
    return candidate


COLOR_TRANSFERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "off": unchanged,
    "adain": adain,
    "wavelet": wavelet,
}
"""Ways to transfer colour, by the name that recipes and the page use."""


def transfer_color(candidate: Image, reference: Reference, method: str) -> Image:
    """Transfer colour by the named method, kept in [0, 1]; once per image, after stitching tiles.

    Raises ConfigError naming the nearest known method.
    """
    if method not in COLOR_TRANSFERS:
        near = get_close_matches(method, COLOR_TRANSFERS) or list(COLOR_TRANSFERS)
        raise ConfigError(f"unknown colour transfer {method!r}; did you mean {', '.join(near)}?")
    transferred = COLOR_TRANSFERS[method](candidate, reference)
    return transferred if transferred is candidate else transferred.clamp_(0, 1)
