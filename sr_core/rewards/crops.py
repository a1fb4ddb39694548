"""Which parts of an image are scored: all of it, or the same few crops for every candidate."""

import math
from typing import NamedTuple

import numpy as np

WHOLE_UP_TO = 1024
"""Longest side in pixels that is scored whole."""
CROP = 512
"""Side of a crop in pixels, less where the image is narrower."""
MOST_CROPS = 16


class Crop(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int

    def rows(self) -> slice:
        """Return its rows."""
        return slice(self.top, self.top + self.height)

    def columns(self) -> slice:
        """Return its columns."""
        return slice(self.left, self.left + self.width)


def scored_crops(height: int, width: int) -> tuple[Crop, ...]:
    """Return the whole image up to 1024 px a side, else at most 16 crops of 512 px on an even grid.

    They depend on the size alone, so candidates of one group are compared on the same pixels.
    """
    if max(height, width) <= WHOLE_UP_TO:
        return (Crop(0, 0, height, width),)
    side_limit = math.isqrt(MOST_CROPS)
    num_rows = min(math.ceil(height / CROP), side_limit)
    num_columns = min(math.ceil(width / CROP), MOST_CROPS // num_rows)
    num_rows = min(math.ceil(height / CROP), MOST_CROPS // num_columns)
    crop_height, crop_width = min(CROP, height), min(CROP, width)
    tops = np.linspace(0, height - crop_height, num_rows).round().astype(int).tolist()
    lefts = np.linspace(0, width - crop_width, num_columns).round().astype(int).tolist()
    return tuple(Crop(top, left, crop_height, crop_width) for top in tops for left in lefts)
