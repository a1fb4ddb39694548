"""BRISQUE and NIQE with a gradient that is their slope, for use as a loss.

The scores of `brisque` and `niqe` are steps: luma is rounded, the shape of each generalised Gaussian is the nearest of
a grid, and the sides of a fit are counted. Here luma is not rounded, the shape solves its equation exactly, and a
coefficient v counts on the right for (1 + v / sqrt(v^2 + width^2)) / 2 and on the left for the rest.

The width is a choice. `EXACT_WIDTH` keeps the score (within 1 % of pyiqa's on photographs), but its slope is made by
the few coefficients that lie within the width and holds only for changes far below a grey level. `LOSS_WIDTH` moves
the score by some percent and its slope holds for changes of some hundredths of a grey level; that one trains.
"""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn.functional import interpolate

from sr_core.resampling import resize
from sr_core.rewards.brisque import BrisqueModel, regress
from sr_core.rewards.niqe import BLOCK, NiqeModel, distance, gaussian_of, split_blocks
from sr_core.rewards.scene_statistics import LUMA, AsymmetricGaussian, nearest_shape, shape_grid, window_mean
from sr_core.tensors import Image, PerSample

EXACT_WIDTH, LOSS_WIDTH = 1e-5, 0.1
"""Sizes of a coefficient that counts to 85 % on its own side; coefficients have about unit variance."""
VARIANCE_FLOOR = 1e-6
"""Added to local variances, in squared 8-bit units: the slope of a square root at 0 is infinite."""
NO_CONTRAST = 1e-6
"""A block whose coefficients all lie below holds rounding errors, whose slope says nothing."""
NEWTON_STEPS = 2
"""From a grid of 0.001, two steps leave an error of about 1e-13; the last one carries the gradient."""

_OWN_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


def smooth_luma(image: Float[Tensor, "3 h w"]) -> Float64[Tensor, "h w"]:
    """Return BT.601 luma of pixels in [0, 1], in [0, 255], not rounded."""
    weights = torch.tensor(LUMA, dtype=torch.float64, device=image.device)
    return torch.einsum("chw,c->hw", image.double(), 255 * weights)


def smooth_contrast(luma: Float64[Tensor, "h w"]) -> Float64[Tensor, "h w"]:
    """Return (x - mu) / (sigma + 1) under the 7 x 7 Gaussian window; sigma^2 has `VARIANCE_FLOOR` added.

    Source: BRISQUE, doi 10.1109/TIP.2012.2214050, Eq. 1-3.
    """
    mean = window_mean(luma)
    variance = (window_mean(luma.square()) - mean.square()).clamp(min=0)
    return (luma - mean) / ((variance + VARIANCE_FLOOR).sqrt() + 1)


def smooth_shape(ratio: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Return the alpha in [0.2, 10] with Gamma(2/alpha)^2 / (Gamma(1/alpha) Gamma(3/alpha)) = ratio.

    Newton's method from the nearest point of the grid; the gradient is that of the inverse function, 1 / r'(alpha).
    Beyond the ends of the grid alpha stays at the end and the gradient is 0.
    """
    alphas, ratios = shape_grid(ratio.device)
    # As numbers: the shared grid may have been made in inference mode, whose tensors no gradient may keep.
    inside = ratio.clamp(float(ratios[0]), float(ratios[-1]))
    alpha = nearest_shape(inside.detach())
    for _ in range(NEWTON_STEPS):
        a, b, c = (k / alpha for k in (1, 2, 3))
        value = torch.exp(2 * torch.lgamma(b) - torch.lgamma(a) - torch.lgamma(c))
        slope = value * (a * torch.digamma(a) + c * torch.digamma(c) - 2 * b * torch.digamma(b)) / alpha
        updated = alpha - (value - inside) / slope
        alpha = updated.detach().clamp(float(alphas[0]), float(alphas[-1]))
    # The value of the last step, with what it was made of held fixed but for the ratio.
    return alpha + (updated - updated.detach())


def _root(x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Return the square root with slope 0 at 0, where the true one is infinite."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), x)


def _has_contrast(mscn: Float64[Tensor, "n h w"]) -> Bool[Tensor, " n"]:
    """Return which blocks hold more than rounding errors."""
    return mscn.detach().abs().amax((1, 2)) > NO_CONTRAST


def smooth_fit(values: Float64[Tensor, "n h w"], width: float) -> AsymmetricGaussian:
    """Fit each block's values by moment matching, as `fit_asymmetric_gaussian` does, with soft counts.

    Source: Lasmar et al., doi 10.1109/ICIP.2009.5414404; BRISQUE, Eq. 7-12.
    """
    square = values.square()
    left = values < 0
    balance = (values * (square + width**2).rsqrt()).sum((1, 2))
    num = values[0].numel()
    num_left, num_right = (num - balance) / 2, (num + balance) / 2
    energy_left, energy_right = ((square * side).sum((1, 2)) for side in (left, ~left))
    sigma_left, sigma_right = _root(energy_left / num_left), _root(energy_right / num_right)
    gamma = sigma_left / sigma_right
    ratio = values.abs().mean((1, 2)).square() / square.mean((1, 2))
    ratio = ratio * (gamma**3 + 1) * (gamma + 1) / (gamma.square() + 1).square()
    return AsymmetricGaussian(smooth_shape(ratio), sigma_left, sigma_right)


def smooth_scale_features(mscn: Float64[Tensor, "h w"], width: float) -> Float64[Tensor, " 18"]:
    """Return BRISQUE's 18 statistics of one scale from its normalised coefficients.

    Source: BRISQUE, doi 10.1109/TIP.2012.2214050, Table I.
    """
    x = mscn
    own = smooth_fit(x[None], width)
    features = [own.alpha, (own.sigma_left.square() + own.sigma_right.square()) / 2]
    for product in (x[:, :-1] * x[:, 1:], x[:-1] * x[1:], x[:-1, :-1] * x[1:, 1:], x[1:, :-1] * x[:-1, 1:]):
        fit = smooth_fit(product[None], width)
        features += [fit.alpha, fit.mean(), fit.sigma_left.square(), fit.sigma_right.square()]
    return torch.cat(features)


def smooth_brisque(images: Image, model: BrisqueModel, *, width: float = LOSS_WIDTH) -> PerSample:
    """Return BRISQUE of each image, float64; lower is better. NaN without a slope for an image without structure."""
    features = []
    for image in images:
        luma = smooth_luma(image)
        half = interpolate(luma[None, None], scale_factor=0.5, mode="bicubic", align_corners=False)[0, 0]
        planes = [smooth_contrast(plane) for plane in (luma, half)]
        row = torch.cat([smooth_scale_features(plane, width) for plane in planes])
        sound = bool(row.isfinite().all()) and all(bool(_has_contrast(plane[None])) for plane in planes)
        # Nothing that is chosen later stops a NaN: 0 x NaN is NaN on the way back.
        features.append(row if sound else row.detach())
    return regress(torch.stack(features), model)


def _block_statistics(x: Float64[Tensor, "n h w"], width: float) -> Float64[Tensor, "n 18"]:
    own = smooth_fit(x, width)
    features = [own.alpha, (own.beta_left() + own.beta_right()) / 2]
    for shift in _OWN_SHIFTS:
        fit = smooth_fit(x * x.roll(shift, dims=(1, 2)), width)
        features += [fit.alpha, fit.mean(), fit.beta_left(), fit.beta_right()]
    return torch.stack(features, dim=1)


def smooth_block_features(luma: Float64[Tensor, "h w"], width: float) -> Float64[Tensor, "n 36"]:
    """Return NIQE's features of each 96 x 96 block of luma in [0, 255]; right and lower rests are cut off.

    Those of a block without structure are not finite and have no slope.

    Source: NIQE, doi 10.1109/LSP.2012.2227726, section II-C.
    """
    rows, columns = luma.shape[0] // BLOCK, luma.shape[1] // BLOCK
    whole = luma[: rows * BLOCK, : columns * BLOCK]
    half = resize(whole[None, None], rows * BLOCK // 2, columns * BLOCK // 2)[0, 0]
    scales = []
    for plane in (whole, half):
        x = split_blocks(smooth_contrast(plane), rows, columns)
        features = _block_statistics(x, width)
        flat = ~(features.isfinite().all(dim=1) & _has_contrast(x))
        if bool(flat.any()):
            # Once more with the flat blocks held fixed, or their NaN would reach what the others share with them.
            features = _block_statistics(torch.where(flat[:, None, None], x.detach(), x), width)
        scales.append(features)
    return torch.cat(scales, dim=1)


def smooth_niqe(images: Image, pristine: NiqeModel, *, width: float = LOSS_WIDTH) -> PerSample:
    """Return NIQE of each image, float64; lower is better. NaN without two blocks of structure."""
    gaussians = [gaussian_of(smooth_block_features(smooth_luma(image), width)) for image in images]
    return torch.stack([distance(gaussian, pristine) for gaussian in gaussians])
