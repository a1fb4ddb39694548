"""NIQE: distance between an image's scene statistics and those of good photographs."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sr_core.errors import WeightsError
from sr_core.resampling import resize
from sr_core.rewards.scene_statistics import Plane, fit_asymmetric_gaussian, local_contrast, luma_8bit
from sr_core.tensors import Image, PerSample

BLOCK = 96
"""Side of a block in pixels at full size; half of it at half size."""

_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True, kw_only=True)
class NiqeModel:
    """The Gaussian that the features of good photographs follow."""

    mean: Float64[Tensor, " 36"]
    covariance: Float64[Tensor, "36 36"]


def read_model(path: Path, device: str) -> NiqeModel:
    """Read the fitted statistics; raises WeightsError if the file is missing or of another layout."""
    try:
        arrays = load_file(path, device=device)
        return NiqeModel(mean=arrays["mean"], covariance=arrays["covariance"])
    except (OSError, SafetensorError, KeyError) as error:
        raise WeightsError(
            f"{path} must hold the arrays mean (36) and covariance (36 x 36), got {error}; "
            "restore it from the repository or fit it again with `python -m train niqe`"
        ) from error


def block_features(luma: Plane) -> Float64[Tensor, "n 36"]:
    """Return the features of each 96 x 96 block of luma in [0, 255]; right and lower rests are cut off.

    Source: NIQE, doi 10.1109/LSP.2012.2227726, section II-C.
    """
    rows, columns = luma.shape[0] // BLOCK, luma.shape[1] // BLOCK
    whole = luma[: rows * BLOCK, : columns * BLOCK].double()
    half = resize(whole[None, None], rows * BLOCK // 2, columns * BLOCK // 2)[0, 0]
    scales = [_features(split_blocks(local_contrast(x).mscn, rows, columns)) for x in (whole, half)]
    return torch.cat(scales, dim=1)


def split_blocks(plane: Plane, rows: int, columns: int) -> Float[Tensor, "n y x"]:
    """Cut a plane into rows x columns equal blocks, row by row."""
    height, width = plane.shape[0] // rows, plane.shape[1] // columns
    return plane.reshape(rows, height, columns, width).transpose(1, 2).reshape(-1, height, width)


def gaussian_of(features: Float64[Tensor, "n 36"]) -> NiqeModel:
    """Return mean and unbiased covariance of the blocks with finite features; NaN for fewer than two."""
    finite = features[features.isfinite().all(dim=1)]
    if len(finite) < 2:
        blank = features.new_full((features.shape[1], features.shape[1]), torch.nan)
        return NiqeModel(mean=blank[0], covariance=blank)
    return NiqeModel(mean=finite.mean(dim=0), covariance=torch.cov(finite.T))


def distance(image: NiqeModel, pristine: NiqeModel) -> Float64[Tensor, ""]:
    """Return the distance of two Gaussians.

        D = sqrt((m1 - m2)^T ((C1 + C2) / 2)^-1 (m1 - m2)),   pseudo-inverse

    Source: NIQE, doi 10.1109/LSP.2012.2227726, Eq. 10.
    """
    difference = image.mean - pristine.mean
    if not difference.isfinite().all():
        return difference.new_tensor(torch.nan)
    inverse = torch.linalg.pinv((image.covariance + pristine.covariance) / 2)
    return (difference @ inverse @ difference).sqrt()


def niqe(images: Image, pristine: NiqeModel) -> PerSample:
    """Return the score of each image; lower is better, about 3 to 10. NaN without two blocks of structure."""
    scores = [distance(gaussian_of(block_features(luma_8bit(image))), pristine) for image in images]
    return torch.stack(scores).float()


def _features(blocks: Float[Tensor, "n y x"]) -> Float64[Tensor, "n 18"]:
    # torch sums in pairs, so single precision loses nothing that matters here and costs half.
    x = blocks.float()
    own = fit_asymmetric_gaussian(x)
    features = [own.alpha, (own.beta_left() + own.beta_right()) / 2]
    for shift in _SHIFTS:
        fit = fit_asymmetric_gaussian(x * x.roll(shift, dims=(1, 2)))
        features += [fit.alpha, fit.mean(), fit.beta_left(), fit.beta_right()]
    return torch.stack(features, dim=1)
