"""BRISQUE: support vector regression on the scene statistics of two scales."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import interpolate

from sr_core.errors import WeightsError
from sr_core.rewards.scene_statistics import Plane, fit_asymmetric_gaussian, local_contrast, luma_8bit
from sr_core.tensors import Image, PerSample

NUM_FEATURES = 36
"""18 per scale: two of the coefficients, four of each of four products of neighbours."""

# The range of each feature over the images that the regression was trained with, as the packages `brisque`
# and `image-quality` (Apache-2.0) hold it in models/normalize.pickle: the method scales features by it.
_LOWEST = (
    *(0.336999, 0.019667, 0.23, -0.125959, 0.000167, 0.000616, 0.231, -0.125873, 0.000165, 0.0006),
    *(0.241, -0.128814, 0.000179, 0.000386, 0.243, -0.13308, 0.000182, 0.000421),
    *(0.436998, 0.016929, 0.247, -0.200231, 0.000104, 0.000834, 0.257, -0.200017, 0.000112, 0.000876),
    *(0.257, -0.155072, 0.000112, 0.000356, 0.258, -0.154374, 0.000117, 0.000351),
)
_HIGHEST = (
    *(9.999411, 0.807472, 1.644021, 0.202917, 0.712384, 0.468672, 1.644021, 0.169548, 0.713132, 0.467896),
    *(1.553016, 0.101368, 0.687324, 0.533087, 1.554016, 0.101, 0.689177, 0.533133),
    *(3.639918, 0.800955, 1.096995, 0.175286, 0.755547, 0.39927, 1.095995, 0.155928, 0.751488, 0.402398),
    *(1.041992, 0.093209, 0.623516, 0.532925, 1.042992, 0.093714, 0.621958, 0.534484),
)


@dataclass(frozen=True, kw_only=True)
class BrisqueModel:
    """A radial-basis support vector regression of 36 features."""

    vectors: Float64[Tensor, "k 36"]
    coefficients: Float64[Tensor, " k"]
    gamma: float
    """Kernel exp(-gamma |x - v|^2)."""
    rho: float
    """Subtracted from the weighted kernel sum."""
    lowest: Float64[Tensor, " 36"]
    """Feature value mapped to -1."""
    highest: Float64[Tensor, " 36"]
    """Feature value mapped to 1."""


def read_libsvm(path: Path, device: str) -> BrisqueModel:
    """Read a libsvm text model with an RBF kernel; raises WeightsError unless it is one of 36 features."""
    header, _, body = path.read_text(encoding="ascii").partition("\nSV\n")
    fields = dict(line.split(maxsplit=1) for line in header.splitlines())
    rows = [line.split() for line in body.splitlines() if line.strip()]
    complete = all(
        [entry.partition(":")[0] for entry in row[1:]] == [str(i + 1) for i in range(NUM_FEATURES)] for row in rows
    )
    if fields.get("kernel_type") != "rbf" or not complete or len(rows) != int(fields.get("total_sv", -1)):
        raise WeightsError(
            f"{path} must be a libsvm text model with an rbf kernel and {NUM_FEATURES} features per vector"
        )
    numbers = [[float(entry.rpartition(":")[2]) for entry in row] for row in rows]
    table = torch.tensor(numbers, dtype=torch.float64, device=device)
    return BrisqueModel(
        vectors=table[:, 1:],
        coefficients=table[:, 0],
        gamma=float(fields["gamma"]),
        rho=float(fields["rho"]),
        lowest=table.new_tensor(_LOWEST),
        highest=table.new_tensor(_HIGHEST),
    )


def scale_features(luma: Plane) -> Float64[Tensor, " 18"]:
    """Return the 18 statistics of one scale of luma in [0, 255].

    Source: BRISQUE, doi 10.1109/TIP.2012.2214050, Table I.
    """
    # torch sums in pairs, so single precision loses nothing that matters here and costs half.
    x = local_contrast(luma).mscn.float()
    own = fit_asymmetric_gaussian(x[None])
    features = [own.alpha, (own.sigma_left.square() + own.sigma_right.square()) / 2]
    for product in (x[:, :-1] * x[:, 1:], x[:-1] * x[1:], x[:-1, :-1] * x[1:, 1:], x[1:, :-1] * x[:-1, 1:]):
        fit = fit_asymmetric_gaussian(product[None])
        features += [fit.alpha, fit.mean(), fit.sigma_left.square(), fit.sigma_right.square()]
    return torch.cat(features)


def image_features(luma: Plane) -> Float64[Tensor, " 36"]:
    """Return the statistics of luma in [0, 255] and of its half.

    The half is taken by a plain cubic without antialiasing, as in the release that this regression was
    trained with.
    """
    half = interpolate(luma[None, None], scale_factor=0.5, mode="bicubic", align_corners=False)[0, 0]
    return torch.cat((scale_features(luma), scale_features(half)))


def regress(features: Float64[Tensor, "b 36"], model: BrisqueModel) -> Float64[Tensor, " b"]:
    """Return the support vector regression of raw features.

        score = sum_k a_k exp(-gamma |s(x) - v_k|^2) - rho,   s scales each feature to [-1, 1] by its range

    Source: BRISQUE, doi 10.1109/TIP.2012.2214050, section III-B; libsvm's epsilon-SVR.
    """
    scaled = 2 * (features - model.lowest) / (model.highest - model.lowest) - 1
    distance = (scaled[:, None] - model.vectors).square().sum(dim=-1)
    return torch.exp(-model.gamma * distance) @ model.coefficients - model.rho


def brisque(images: Image, model: BrisqueModel) -> PerSample:
    """Return the score of each image; lower is better, about 0 to 100. NaN for an image without structure."""
    features = torch.stack([image_features(luma_8bit(image)) for image in images])
    return regress(features, model).float()
