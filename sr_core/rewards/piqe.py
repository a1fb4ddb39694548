"""PIQE: the share of active blocks that are visibly distorted, without any training."""

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from sr_core.rewards.scene_statistics import Plane, local_contrast, luma_8bit
from sr_core.tensors import Image, PerSample

BLOCK = 16
"""Side of a block in pixels."""

_ACTIVE = 0.1
"""Variance of normalised coefficients above which a block counts."""
_SEGMENT = 6
"""Length in pixels of the edge segments looked at."""
_FLAT_SEGMENT = 0.1
"""Standard deviation below which a segment of a block's edge counts as an artefact."""


def piqe(images: Image) -> PerSample:
    """Return the score of each image; lower is better, 0 to 100.

    Source: PIQE, doi 10.1109/NCC.2015.7084843.
    """
    return torch.stack([_score(luma_8bit(image)) for image in images]).float()


def _score(luma: Plane) -> Float64[Tensor, ""]:
    """Pool the distortion of active blocks: (sum D_k + 1) / (num_active + 1), in percent."""
    stretched = (255 * (luma / luma.max())).round().nan_to_num()
    blocks = _blocks(local_contrast(_pad_to_blocks(stretched)).mscn)
    variance = _deviation(blocks.flatten(1)).square()
    active = variance > _ACTIVE
    artefact = has_flat_edge_segment(blocks)
    noise = is_noisy(blocks)
    distortion = active * (artefact * (1 - variance) + noise * variance)
    return 100 * (distortion.sum() + 1) / (active.sum() + 1)


def _deviation(values: Float64[Tensor, "*n k"]) -> Float64[Tensor, "*n"]:
    """Return the unbiased standard deviation; by sums, because torch.std is slow on many short rows."""
    num = values.shape[-1]
    variance = (values.square().mean(dim=-1) - values.mean(dim=-1).square()) * num / (num - 1)
    return variance.clamp(min=0).sqrt()


def _pad_to_blocks(luma: Plane) -> Float64[Tensor, "H W"]:
    """Mirror the right and lower borders (edge pixel repeated) up to a whole number of blocks."""
    height, width = luma.shape
    down, right = -height % BLOCK, -width % BLOCK
    tall = torch.cat((luma, luma[height - down :].flip(0)))
    return torch.cat((tall, tall[:, width - right :].flip(1)), dim=1)


def _blocks(plane: Plane) -> Float64[Tensor, "n 16 16"]:
    rows, columns = plane.shape[0] // BLOCK, plane.shape[1] // BLOCK
    return plane.reshape(rows, BLOCK, columns, BLOCK).transpose(1, 2).reshape(-1, BLOCK, BLOCK)


def has_flat_edge_segment(blocks: Float64[Tensor, "n 16 16"]) -> Bool[Tensor, " n"]:
    """Say which blocks have a run of 6 px on an edge without variation, as block coding leaves.

    Source: PIQE, section III-B (noticeable distortion criterion).
    """
    edges = torch.stack((blocks[:, 0], blocks[:, -1], blocks[:, :, 0], blocks[:, :, -1]), dim=1)
    return (_deviation(edges.unfold(-1, _SEGMENT, 1)) < _FLAT_SEGMENT).any(dim=2).any(dim=1)


def is_noisy(blocks: Float64[Tensor, "n 16 16"]) -> Bool[Tensor, " n"]:
    """Say which blocks vary as evenly as noise: sigma > 2 |sigma - q| / max(sigma, q).

    q is the deviation of the two middle columns over that of the surround.

    Source: PIQE, section III-B (noise criterion).
    """
    sigma = _deviation(blocks.flatten(1))
    centre = blocks[:, :, 7:9]
    # The authors' program drops one middle column and the next but one; kept, so that scores can be compared.
    surround = torch.cat((blocks[:, :, :7], blocks[:, :, 8:9], blocks[:, :, 10:]), dim=2)
    ratio = (_deviation(centre.flatten(1)) / _deviation(surround.flatten(1))).nan_to_num()
    return sigma > 2 * ((sigma - ratio).abs() / torch.maximum(sigma, ratio)).nan_to_num()
