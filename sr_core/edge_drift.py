"""How far the edges of a restoration lie from those of its input, in position and in strength.

A restoration that is true to its input has its edges where the input has them. Compared on the input's grid: the
restoration is reduced to the input's size by the project's filter, so what is new above the input's Nyquist does not
count. At every edge of the input (a ridge of luma's gradient) the nearest ridge along the edge's normal is sought.
Lengths are in input pixels.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, pad

from sr_core.resampling import resize
from sr_core.spectra import luma
from sr_core.tensors import Image, PerSample

REACH = 2.0
"""How far along the normal an edge is sought on each side, in input pixels."""
STEP = 0.125
"""Between the places that are looked at; a parabola through the best one and its neighbours a pixel away places the
ridge to a few hundredths of a pixel."""
SMOOTHING = 0.8
"""Standard deviation of the Gaussian under the slopes, in input pixels."""
MIN_CONTRAST = 0.02
"""Gradient of luma per pixel below which there is no edge."""
STRONG = 0.2
"""Edges must reach this share of the region's strongest."""
MIN_EDGES = 8
"""Fewer say nothing."""
LOST = 0.5
"""An edge with less than this share of its strength is lost; it has no place to drift to."""
MARGIN_PX = 6
"""Around a region, in input pixels, so that edges at its border see what lies beyond."""


class Region(NamedTuple):
    """A rectangle on the input's grid, in input pixels; sides may lie between pixels."""

    left: float | int
    top: float | int
    right: float | int
    bottom: float | int


class EdgeDrift(NamedTuple):
    """What became of a region's edges, one number per restoration; NaN where the region has too few edges."""

    drift: PerSample
    """Mean distance of an edge from its place, along its normal, in input pixels; lost edges are left out."""
    shift_x: PerSample
    """The one move that explains most of it, to the right, in input pixels."""
    shift_y: PerSample
    """Downwards."""
    strength: PerSample
    """Mean strength of the edges beside the input's; 1 is equal, above 1 sharper."""
    lost: PerSample
    """Share of edges with less than half of their strength."""
    num_edges: int
    """Edge pixels of the input in the region."""


def edge_drift(restored: Image, lq: Float[Tensor, "1 3 H W"], region: Region | None = None) -> EdgeDrift:
    """Compare restorations with their input in a region, or everywhere.

    With n an edge's unit normal and d its distance along it, drift = mean |d| and shift = argmin_s sum (n.s - d)^2: a
    picture moved as a whole by s shows shift s whatever way its edges run. The input itself has drift 0, strength 1.
    """
    height, width = lq.shape[-2:]
    region = region or Region(0, 0, width, height)
    left, top = max(0, math.floor(region.left) - MARGIN_PX), max(0, math.floor(region.top) - MARGIN_PX)
    right, bottom = math.ceil(region.right) + MARGIN_PX, math.ceil(region.bottom) + MARGIN_PX
    reduced = luma(resize(restored, height, width))[:, top:bottom, left:right]
    own_x, own_y = _gradient(luma(lq)[:, top:bottom, left:right])
    inside = _inside(own_x.shape[-2:], Region(*(v - o for v, o in zip(region, (left, top) * 2, strict=True))))
    rows, columns = _ridges(own_x[0], own_y[0], inside)
    if len(rows) < MIN_EDGES:
        nothing = torch.full((len(restored),), math.nan)
        return EdgeDrift(nothing, nothing, nothing, nothing, nothing, len(rows))
    normals = torch.stack((own_x[0, rows, columns], own_y[0, rows, columns]), -1)
    normals = normals / normals.norm(dim=-1, keepdim=True)
    points = torch.stack((columns, rows), -1).float()
    own_place, own_strength = _profile_peaks(own_x, own_y, points, normals)
    place, strength = _profile_peaks(*_gradient(reduced), points, normals)
    ratio = strength / own_strength
    kept = (ratio >= LOST).to(ratio)
    distance = (place - own_place) * kept
    found = kept.sum(1)
    shift = _common_shift(distance, normals, kept)
    return EdgeDrift(
        drift=torch.where(found >= MIN_EDGES, distance.abs().sum(1) / found.clamp_min(1), math.nan),
        shift_x=torch.where(found >= MIN_EDGES, shift[:, 0], math.nan),
        shift_y=torch.where(found >= MIN_EDGES, shift[:, 1], math.nan),
        strength=ratio.mean(1),
        lost=1 - kept.mean(1),
        num_edges=len(rows),
    )


def _gradient(grey: Float[Tensor, "b h w"]) -> tuple[Tensor, Tensor]:
    """Return luma's slope to the right and downwards per pixel, smoothed by a Gaussian."""
    places = torch.arange(-3.0, 4.0)
    smooth = torch.exp(-0.5 * (places / SMOOTHING).square())
    slope = places * smooth
    kernel = torch.stack((smooth[:, None] * slope, slope[:, None] * smooth))[:, None]
    # Of a ramp that rises by 1 per pixel the slope is 1.
    kernel = kernel / (smooth.sum() * (slope * places).sum())
    both = conv2d(pad(grey[:, None], (3, 3, 3, 3), mode="replicate"), kernel)
    return both[:, 0], both[:, 1]


def _inside(size: tuple[int, ...], region: Region) -> Tensor:
    """Return which pixels' centres lie in a region and not on the picture's border, where slopes are one-sided."""
    y, x = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    rows = (y >= region.top) & (y < region.bottom) & (y > 1) & (y < size[0] - 1)
    columns = (x >= region.left) & (x < region.right) & (x > 1) & (x < size[1] - 1)
    return rows[:, None] & columns


def _ridges(slope_x: Float[Tensor, "h w"], slope_y: Float[Tensor, "h w"], inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns where the gradient is the strongest along its own direction."""
    size = torch.hypot(slope_x, slope_y)
    around = pad(size[None, None], (1, 1, 1, 1))[0, 0]
    height, width = size.shape
    peaks = torch.zeros_like(inside)
    # Each of four directions of 45 degrees compares with the two neighbours that it points at.
    sector = (torch.atan2(slope_y, slope_x) / (torch.pi / 4)).round().long() % 4
    for number, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = around[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        behind = around[1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        peaks |= (sector == number) & (size >= ahead) & (size > behind)
    strongest = size[inside].max() if inside.any() else size.new_zeros(())
    rows, columns = torch.where(peaks & inside & (size >= MIN_CONTRAST) & (size >= STRONG * strongest))
    return rows, columns


def _profile_peaks(slope_x: Tensor, slope_y: Tensor, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """Return place and height of the slope's highest peak along each normal, (b, edges).

    The slope is taken along the normal and with its sign: a step the other way is another edge. Of equal peaks the
    one nearer to the middle counts.
    """
    height, width = slope_x.shape[-2:]
    steps = torch.arange(-REACH - 1, REACH + 1 + STEP / 2, STEP)
    places = points[:, None] + steps[:, None] * normals[:, None]
    grid = (places + 0.5) * 2 / torch.tensor([width, height]) - 1
    planes = torch.stack((slope_x, slope_y), 1)
    sampled = grid_sample(
        planes, grid[None].expand(len(planes), -1, -1, -1), "bicubic", padding_mode="border", align_corners=False
    )
    profile = (sampled * normals.T[None, :, :, None]).sum(1)
    nearness = 1 - 1e-3 * (steps / REACH).square()
    pixel = round(1 / STEP)
    middle = profile[..., pixel:-pixel]
    best = pixel + (middle.clamp_min(0) * nearness[pixel:-pixel]).argmax(-1)
    before, at, after = (profile.gather(-1, (best + i)[..., None])[..., 0] for i in (-pixel, 0, pixel))
    bend = before - 2 * at + after
    offset = torch.where(bend < 0, 0.5 * (before - after) / bend, 0.0).clamp(-1, 1)
    return steps[best] + offset, (at - 0.25 * (before - after) * offset).clamp_min(0)


def _common_shift(distance: Tensor, normals: Tensor, kept: Tensor) -> Float[Tensor, "b 2"]:
    """Return the shift s that minimises the sum of (n.s - d)^2 over kept edges; of several the shortest."""
    matrix = torch.einsum("be,ei,ej->bij", kept, normals, normals).double()
    vector = torch.einsum("be,ei->bi", distance, normals).double()
    return (torch.linalg.pinv(matrix, rtol=1e-3, hermitian=True) @ vector[..., None])[..., 0].float()
