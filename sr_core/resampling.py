"""Resize images with one antialiased bicubic filter and find the size a request means."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from sr_core.errors import InputError

MAX_SCALE = 8.0
"""Largest enlargement of a side; beyond it the prior's x4 carries no more detail."""


def resize(image: Float[Tensor, "b c h w"], height: int, width: int) -> Float[Tensor, "b c H W"]:
    """Resize with Keys' cubic (a = -1/2), widened by the reduction factor when a side shrinks.

    The same filter as Pillow's BICUBIC. It overshoots at edges, so the result is not clamped.
    """
    if (height, width) == tuple(image.shape[-2:]):
        return image
    return interpolate(image, size=(height, width), mode="bicubic", align_corners=False, antialias=True)


def resize_clamped(image: Float[Tensor, "b c h w"], height: int, width: int) -> Float[Tensor, "b c H W"]:
    """Resize pixels or masks whose range is [0, 1] and keep them in it."""
    return torch.clamp(resize(image, height, width), 0, 1)


def output_size(
    width: int, height: int, *, scale: float | int | None = None, size: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Return (width, height) in pixels for either a factor or an exact (width, height).

    Raises InputError unless exactly one of them is given and each side grows by 1 to 8.
    """
    if (scale is None) == (size is None):
        raise InputError(f"give either a factor or an exact size, got factor {scale} and size {size}")
    if size is None:
        assert scale is not None
        if not 1 <= scale <= MAX_SCALE:
            raise InputError(f"the factor must lie between 1 and {MAX_SCALE:g}, got {scale:g}")
        return round(width * scale), round(height * scale)
    least, most = (width, height), (int(width * MAX_SCALE), int(height * MAX_SCALE))
    if not (least[0] <= size[0] <= most[0] and least[1] <= size[1] <= most[1]):
        raise InputError(
            f"the output of a {width} x {height} photo must lie between {least[0]} x {least[1]} and "
            f"{most[0]} x {most[1]} px, got {size[0]} x {size[1]}"
        )
    return size
