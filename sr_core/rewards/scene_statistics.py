"""Natural scene statistics: contrast-normalised luma and asymmetric generalised Gaussian fits.

BRISQUE, NIQE and PIQE all start here. Images are taken one at a time, so that every map stays in the
processor's cache and a score is bitwise the same alone and in a batch.
"""

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import pad

Plane = Float[Tensor, "h w"]
"""One channel of one image."""

LUMA = (0.299, 0.587, 0.114)
_RADIUS = 3
_SIGMA = 7 / 6


class LocalContrast(NamedTuple):
    """Luma with its local mean and contrast divided out, and that contrast."""

    mscn: Float64[Tensor, "h w"]
    """Mean-subtracted contrast-normalised coefficients, about unit variance on photographs."""
    deviation: Float64[Tensor, "h w"]
    """Local standard deviation in 8-bit units."""


class AsymmetricGaussian(NamedTuple):
    """An asymmetric generalised Gaussian distribution per block; NaN where a side is empty."""

    alpha: Float64[Tensor, " n"]
    """Shape: 2 is Gaussian, 1 Laplacian."""
    sigma_left: Float64[Tensor, " n"]
    """Root mean square of the negative values."""
    sigma_right: Float64[Tensor, " n"]
    """Root mean square of the positive values."""

    def beta_left(self) -> Float64[Tensor, " n"]:
        """Return the left scale, sigma_l sqrt(Gamma(1/alpha) / Gamma(3/alpha))."""
        return self.sigma_left * scale_ratio(self.alpha)

    def beta_right(self) -> Float64[Tensor, " n"]:
        """Return the right scale, sigma_r sqrt(Gamma(1/alpha) / Gamma(3/alpha))."""
        return self.sigma_right * scale_ratio(self.alpha)

    def mean(self) -> Float64[Tensor, " n"]:
        """Return the mean, (beta_r - beta_l) Gamma(2/alpha) / Gamma(1/alpha)."""
        ratio = torch.exp(torch.lgamma(2 / self.alpha) - torch.lgamma(1 / self.alpha))
        return (self.beta_right() - self.beta_left()) * ratio


def luma_8bit(image: Float[Tensor, "3 h w"]) -> Float64[Tensor, "h w"]:
    """Return BT.601 luma of pixels in [0, 1], rounded to whole numbers in [0, 255]."""
    weights = torch.tensor(LUMA, dtype=torch.float64, device=image.device)
    return torch.einsum("chw,c->hw", image.double(), 255 * weights).round()


def local_contrast(luma: Plane) -> LocalContrast:
    """Return (x - mu) / (sigma + 1) for luma x in [0, 255].

    mu and sigma are the mean and deviation under a 7 x 7 Gaussian window (standard deviation 7/6); borders
    repeat. Computed in float64, because sigma^2 is a small difference of large numbers.

    Source: BRISQUE, doi 10.1109/TIP.2012.2214050, Eq. 1-3.
    """
    luma = luma.double()
    mean = window_mean(luma)
    deviation = (window_mean(luma.square()) - mean.square()).abs().sqrt()
    return LocalContrast(mscn=(luma - mean) / (deviation + 1), deviation=deviation)


def fit_asymmetric_gaussian(values: Float[Tensor, "n h w"]) -> AsymmetricGaussian:
    """Fit each block's values by moment matching; alpha lies on a grid of 0.001 from 0.2 to 10.

    Source: Lasmar et al., doi 10.1109/ICIP.2009.5414404; BRISQUE, Eq. 7-12.
    """
    num = values[0].numel()
    negative = values.clamp(max=0)
    left_energy, energy = _block_energy(negative), _block_energy(values)
    left_sum, total = _block_sum(negative), _block_sum(values)
    num_left = (values < 0).sum(dim=(1, 2)).double()
    num_right = (values > 0).sum(dim=(1, 2)).double()
    sigma_left = (left_energy / num_left).sqrt()
    sigma_right = ((energy - left_energy) / num_right).sqrt()
    gamma = sigma_left / sigma_right
    mean_magnitude = (total - 2 * left_sum) / num
    ratio = mean_magnitude.square() / (energy / num)
    ratio = ratio * (gamma**3 + 1) * (gamma + 1) / (gamma.square() + 1).square()
    return AsymmetricGaussian(nearest_shape(ratio), sigma_left, sigma_right)


def _block_sum(values: Float[Tensor, "n h w"]) -> Float64[Tensor, " n"]:
    return values.sum(dim=(1, 2)).double()


def _block_energy(values: Float[Tensor, "n h w"]) -> Float64[Tensor, " n"]:
    return values.square().sum(dim=(1, 2)).double()


def scale_ratio(alpha: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Return scale over deviation, sqrt(Gamma(1/alpha) / Gamma(3/alpha))."""
    return torch.exp((torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)) / 2)


@cache
def shape_grid(device: torch.device) -> tuple[Float64[Tensor, " k"], Float64[Tensor, " k"]]:
    """Return alpha and the rising r(alpha) = Gamma(2/alpha)^2 / (Gamma(1/alpha) Gamma(3/alpha))."""
    alpha = torch.arange(200, 10001, dtype=torch.float64) / 1000
    log_ratio = 2 * torch.lgamma(2 / alpha) - torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)
    return alpha.to(device), log_ratio.exp().to(device)


def nearest_shape(ratio: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Return the alpha of the grid whose r(alpha) is nearest; NaN where the ratio is not finite."""
    alpha, grid = shape_grid(ratio.device)
    above = torch.searchsorted(grid, ratio.contiguous()).clamp(1, len(grid) - 1)
    below = above - 1
    nearest = torch.where(ratio - grid[below] <= grid[above] - ratio, below, above)
    return torch.where(ratio.isfinite(), alpha[nearest], torch.nan)


def window_mean(plane: Plane) -> Plane:
    """Return the mean under the Gaussian window, as sums of shifted slices: on one plane faster than a convolution."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64)
    window = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    taps = (window / window.sum()).tolist()
    height, width = plane.shape
    padded = pad(plane[None, None], (_RADIUS,) * 4, mode="replicate")[0, 0]
    rows = padded[_RADIUS : _RADIUS + height] * taps[_RADIUS]
    for k in range(_RADIUS):
        rows.add_(padded[k : k + height] + padded[2 * _RADIUS - k : 2 * _RADIUS - k + height], alpha=taps[k])
    out = rows[:, _RADIUS : _RADIUS + width] * taps[_RADIUS]
    for k in range(_RADIUS):
        out.add_(rows[:, k : k + width] + rows[:, 2 * _RADIUS - k : 2 * _RADIUS - k + width], alpha=taps[k])
    return out
