"""Overlapping tiles whose smooth weights add up to one, so that no seam can be seen."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.errors import ConfigError

TILE = 224
"""Default side of a tile in LQ pixels."""
CONTEXT = 24
"""Pixels at an inner tile border that are computed and given no weight: a convolution sees nothing beyond them."""
RAMP = 8
"""Pixels, in LQ, over which one tile fades into the next."""


CELL = 4
"""Tiles start at multiples of it, so that a network that halves its grid twice sees the same cells in every tile."""


@dataclass(frozen=True, slots=True)
class Span:
    """One tile along one axis, in LQ pixels."""

    start: int
    stop: int
    fade_in: tuple[int, int] | None
    """Where the weight rises from 0 to 1; None at the photo's own border."""
    fade_out: tuple[int, int] | None
    """Where the weight falls from 1 to 0."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A window of the photo in LQ pixels with its blending weights."""

    rows: Span
    columns: Span


def _shortest_side(length: int, count: int, overlap: int) -> int:
    """Return the length of `count` equal spans that start on cells, the last one at the end, and overlap enough."""
    travel = (length - overlap) * (count - 1) // (count * CELL)
    while CELL * (travel + math.ceil(travel / (count - 1))) > length - overlap:
        travel -= 1
    return length - CELL * travel


def plan_spans(length: int, tile: int = TILE) -> list[Span]:
    """Cover `length` pixels with equally long spans of at most `tile`.

    Raises ConfigError if `tile` leaves no room between two overlaps.
    """
    overlap = 2 * CONTEXT + RAMP
    if tile < 2 * overlap:
        raise ConfigError(f"a tile must be at least {2 * overlap} px a side, got {tile}")
    if length <= tile:
        return [Span(0, length, None, None)]
    count = math.ceil((length - overlap) / (tile - overlap))
    while (side := _shortest_side(length, count, overlap)) > tile:
        count += 1
    starts = [CELL * round(k * (length - side) / CELL / (count - 1)) for k in range(count)]
    fades = [(b + CONTEXT, a + side - CONTEXT) for a, b in pairwise(starts)]
    return [
        Span(start, start + side, fade_in, fade_out)
        for start, fade_in, fade_out in zip(starts, [None, *fades], [*fades, None], strict=True)
    ]


def plan_tiles(height: int, width: int, tile: int = TILE) -> list[Tile]:
    """Cover a photo with tiles, row by row."""
    columns = plan_spans(width, tile)
    return [Tile(row, column) for row in plan_spans(height, tile) for column in columns]


def span_weights(span: Span, scale: int) -> Float[Tensor, " n"]:
    """Return the weights of a span at `scale` times its resolution; those of all spans add up to 1 everywhere.

    The flank is a raised cosine, sampled at pixel centres.
    """
    place = (torch.arange(span.start * scale, span.stop * scale) + 0.5) / scale
    weights = torch.ones_like(place)
    for fade, sign in ((span.fade_in, 1.0), (span.fade_out, -1.0)):
        if fade is not None:
            position = ((place - fade[0]) / (fade[1] - fade[0])).clamp(0, 1)
            weights = weights * (0.5 - sign * 0.5 * torch.cos(math.pi * position))
    return weights


def crop(image: Tensor, tile: Tile) -> Tensor:
    """Return the tile's window of an LQ image (..., h, w)."""
    return image[..., tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]


def add_tile(canvas: Tensor, image: Tensor, tile: Tile, scale: int) -> None:
    """Add a restored tile to `canvas` (..., H, W) in place, weighted."""
    window = (
        slice(tile.rows.start * scale, tile.rows.stop * scale),
        slice(tile.columns.start * scale, tile.columns.stop * scale),
    )
    rows, columns = span_weights(tile.rows, scale), span_weights(tile.columns, scale)
    canvas[(..., *window)] += image.to(canvas.device) * (rows[:, None] * columns).to(canvas)


def seams(height: int, width: int, tile: int = TILE) -> Iterator[tuple[str, int]]:
    """Yield the middle of each blended zone as (axis, LQ position); for tests and for debugging overlays."""
    for axis, length in (("row", height), ("column", width)):
        for span in plan_spans(length, tile):
            if span.fade_out is not None:
                yield axis, round(sum(span.fade_out) / 2)
