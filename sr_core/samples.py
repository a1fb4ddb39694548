"""Integer samples as image files hold them, before colour management."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
"""(h, w) or (h, w, c), over the full range of the type."""


class Samples(NamedTuple):
    """A decoded picture in the colours of its file."""

    pixels: Array
    """(h, w) grey, (h, w, 3) RGB or (h, w, 4) CMYK."""
    space: str
    """gray, rgb or cmyk."""
    alpha: Array | None
    """(h, w) straight opacity."""


def split_alpha(pixels: Array, *, cmyk: bool = False) -> Samples:
    """Tell grey, RGB or CMYK from opacity by the number of channels."""
    if pixels.ndim == 2:
        return Samples(pixels, "gray", None)
    channels, base = pixels.shape[2], 4 if cmyk else 3
    if channels <= 2:
        return Samples(pixels[..., 0], "gray", pixels[..., 1] if channels == 2 else None)
    alpha = pixels[..., base] if channels > base else None
    return Samples(pixels[..., :base], "cmyk" if cmyk else "rgb", alpha)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn (h, w, ...) pixels so that their EXIF orientation (1 to 8) becomes 1."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def eight_bits(pixels: Array) -> NDArray[np.uint8]:
    """Return samples in 8 bits: rounded to the nearest of them where they have 16."""
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.asarray(pixels, dtype=np.uint8)
