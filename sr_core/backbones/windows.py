"""Overlapping windows of a latent and the Gaussian weights that blend what a network says of each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.errors import ConfigError
from sr_core.tensors import Latent

OVERLAP = 0.25
"""Least share of a window's side that the next one covers too."""
VARIANCE = 0.01
"""Of the Gaussian along one side, in units of the side squared (StableSR, arXiv 2305.07015, released code)."""


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of a latent."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, field: Tensor, factor: int = 1) -> Tensor:
        """Return the window of a field (..., h, w) that has `factor` times the latent's resolution."""
        rows = slice(self.top * factor, (self.top + self.height) * factor)
        columns = slice(self.left * factor, (self.left + self.width) * factor)
        return field[..., rows, columns]


def _starts(length: int, side: int, cell: int) -> list[int]:
    if length <= side:
        return [0]
    stride = max(cell, int(side * (1 - OVERLAP)) // cell * cell)
    count = math.ceil((length - side) / stride) + 1
    return [cell * round(k * (length - side) / cell / (count - 1)) for k in range(count)]


def plan_windows(height: int, width: int, side: int, cell: int) -> list[Window]:
    """Cover a latent with windows of at most `side`, row by row; all start and end at multiples of `cell`.

    `height` and `width` are multiples of `cell`. Raises ConfigError if `side` is none or smaller than two cells.
    """
    if side % cell or side < 2 * cell:
        raise ConfigError(f"a window must measure a multiple of {cell}, at least {2 * cell}, got {side}")
    rows, columns = _starts(height, side, cell), _starts(width, side, cell)
    return [Window(top, left, min(side, height), min(side, width)) for top in rows for left in columns]


def gaussian_weights(height: int, width: int) -> Float[Tensor, "h w"]:
    """Return the weights of a window, largest in its middle; positive everywhere."""

    def along(side: int) -> Tensor:
        place = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) / side
        return torch.exp(-place.square() / (2 * VARIANCE))

    return (along(height)[:, None] * along(width)).float()


def blend(predict: Callable[[Latent, Window], Latent], x: Latent, windows: list[Window]) -> Latent:
    """Return what `predict` says of each window of `x`, averaged by Gaussian weights; one window is passed through.

    The weights of all windows sum to one at every place.
    """
    if len(windows) == 1:
        return predict(x, windows[0])
    total, weight = torch.zeros_like(x, dtype=torch.float32), torch.zeros(x.shape[-2:], device=x.device)
    for window in windows:
        share = gaussian_weights(window.height, window.width).to(x.device)
        window.crop(total).add_(share * predict(window.crop(x), window))
        window.crop(weight).add_(share)
    return total / weight
