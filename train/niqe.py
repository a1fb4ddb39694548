"""Fit the statistics that NIQE compares images with, from folders of good photographs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float64
from safetensors.torch import save_file
from torch import Tensor

from sr_core.errors import InputError
from sr_core.images import read_image
from sr_core.rewards.niqe import BLOCK, block_features, gaussian_of, split_blocks
from sr_core.rewards.scene_statistics import Plane, local_contrast, luma_8bit
from train.data import PHOTO_SUFFIXES

SHARPNESS = 0.75
"""Blocks sharper than this share of the photograph's sharpest block are kept (NIQE, section II-B)."""


def fit(folders: Sequence[Path], out: Path) -> int:
    """Write mean (36) and covariance (36 x 36) of the photographs' sharp blocks; return their number.

    Photographs with a side below 96 px are passed over. Raises InputError if there are too few blocks.
    """
    features = torch.cat([torch.zeros(0, 36, dtype=torch.float64), *map(sharp_features, _lumas(folders))])
    features = features[features.isfinite().all(dim=1)]
    if len(features) <= 36:
        raise InputError(
            f"NIQE needs more than 36 sharp blocks of {BLOCK} px, got {len(features)} in "
            f"{', '.join(map(str, folders))}; add photographs"
        )
    model = gaussian_of(features)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({"mean": model.mean, "covariance": model.covariance}, out)
    return len(features)


def sharp_features(luma: Plane) -> Float64[Tensor, "n 36"]:
    """Return the features of a photograph's sharp blocks.

    Source: NIQE, doi 10.1109/LSP.2012.2227726, Eq. 4.
    """
    rows, columns = luma.shape[0] // BLOCK, luma.shape[1] // BLOCK
    deviation = local_contrast(luma[: rows * BLOCK, : columns * BLOCK]).deviation
    sharpness = split_blocks(deviation, rows, columns).mean(dim=(1, 2))
    return block_features(luma)[sharpness > SHARPNESS * sharpness.max()]


def _lumas(folders: Sequence[Path]) -> Iterator[Plane]:
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES):
        pixels = read_image(path).pixels[0]
        if min(pixels.shape[1:]) >= BLOCK:
            yield luma_8bit(pixels)
