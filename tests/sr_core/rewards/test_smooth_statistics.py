"""Laws of the differentiable BRISQUE and NIQE, and their agreement with pyiqa."""

from pathlib import Path

import pytest
import torch
from pyiqa.archs import brisque_arch
from pyiqa.archs.func_util import normalize_img_with_gauss
from pyiqa.archs.niqe_arch import niqe as pyiqa_niqe
from pyiqa.matlab_utils import imresize

from sr_core.images import read_image
from sr_core.rewards.brisque import BrisqueModel, image_features, read_libsvm, regress
from sr_core.rewards.niqe import NiqeModel, read_model
from sr_core.rewards.offline import NIQE_FILE, find_brisque_file
from sr_core.rewards.scene_statistics import shape_grid
from sr_core.rewards.smooth_statistics import (
    EXACT_WIDTH,
    LOSS_WIDTH,
    smooth_brisque,
    smooth_contrast,
    smooth_fit,
    smooth_luma,
    smooth_niqe,
    smooth_shape,
)
from sr_core.tensors import Image

from .conftest import blurred, noisy


@pytest.fixture(scope="module")
def model() -> BrisqueModel:
    return read_libsvm(find_brisque_file()[1], "cpu")


SEVERAL = ("027_the-spices", "125_big-indian", "177_tmshre", "228_LadyBird", "250_leuvenA", "483_horse")
"""Photographs with scores well above 0, where a relative difference means something, and without saturated areas."""


@pytest.fixture(scope="module")
def several(photos: Path) -> Image:
    """Return the middles of six photographs as one batch of 288 x 288 px."""
    paths = [next((photos / "eval").glob(f"{name}*")) for name in SEVERAL]
    return torch.cat([read_image(path).pixels[:, :, 100:388, 100:388] for path in paths])


@pytest.fixture(scope="module")
def pristine() -> NiqeModel:
    return read_model(NIQE_FILE, "cpu")


def test_the_shape_is_the_inverse_of_its_ratio() -> None:
    alpha = torch.tensor([0.2001, 0.3333, 0.77777, 1.0, 2.0, 5.4321, 9.9], dtype=torch.float64)
    ratio = torch.exp(2 * torch.lgamma(2 / alpha) - torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha))
    torch.testing.assert_close(smooth_shape(ratio), alpha, rtol=1e-9, atol=0)


def test_the_slope_of_the_shape_is_that_of_the_inverse_function() -> None:
    ratio = torch.tensor([0.2, 0.5, 0.6366, 0.72], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(smooth_shape, (ratio,), eps=1e-7, rtol=1e-4)


def test_a_ratio_beyond_the_ends_keeps_the_end_and_has_no_slope() -> None:
    alphas, ratios = shape_grid(torch.device("cpu"))
    ratio = torch.stack((ratios[0] - 0.01, ratios[-1] + 0.01)).requires_grad_(True)
    shape = smooth_shape(ratio)
    assert shape.tolist() == pytest.approx([float(alphas[0]), float(alphas[-1])])
    (slope,) = torch.autograd.grad(shape.sum(), ratio)
    assert slope.tolist() == [0, 0]


def test_mirroring_the_values_swaps_the_sides(photo: Image) -> None:
    values = smooth_contrast(smooth_luma(photo[0]))[None]
    fit, mirrored = smooth_fit(values, LOSS_WIDTH), smooth_fit(-values, LOSS_WIDTH)
    torch.testing.assert_close(fit.sigma_left, mirrored.sigma_right)
    torch.testing.assert_close(fit.alpha, mirrored.alpha)


def test_the_exact_width_keeps_the_score_of_luma_that_is_not_rounded(model: BrisqueModel, several: Image) -> None:
    expected = regress(torch.stack([image_features(smooth_luma(image)) for image in several]), model)
    torch.testing.assert_close(smooth_brisque(several, model, width=EXACT_WIDTH), expected, rtol=0.01, atol=0)


def test_niqe_lies_within_one_percent_of_pyiqas_fed_the_same_arrays(pristine: NiqeModel, several: Image) -> None:
    expected = [
        pyiqa_niqe(smooth_luma(image)[None, None], pristine.mean[None], pristine.covariance[None]) for image in several
    ]
    found = smooth_niqe(several, pristine, width=EXACT_WIDTH)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0.01, atol=0)


def _in_pyiqas_convention(image: Image) -> torch.Tensor:
    """Return BRISQUE's features as pyiqa takes them (wrapped products, zeros around, antialiased half), smooth fits."""
    luma = brisque_arch.to_y_channel(image, 255.0)
    features = []
    for _ in range(2):
        x = normalize_img_with_gauss(luma, 7, 7 / 6, padding="same")[0, 0]
        variance = x.square().mean()
        features += [smooth_shape((x.abs().mean().square() / variance)[None]), variance[None]]
        for shift in ((0, 1), (1, 0), (1, 1), (-1, 1)):
            fit = smooth_fit((x * x.roll(shift, dims=(0, 1)))[None], EXACT_WIDTH)
            scale = torch.exp(
                torch.lgamma(2 / fit.alpha) - (torch.lgamma(1 / fit.alpha) + torch.lgamma(3 / fit.alpha)) / 2
            )
            mean = (fit.sigma_right - fit.sigma_left) * scale
            features += [fit.alpha, mean, fit.sigma_left.square(), fit.sigma_right.square()]
        luma = imresize(luma, scale=0.5, antialiasing=True)
    return torch.cat(features)


def test_brisque_in_pyiqas_convention_lies_within_one_percent_of_pyiqas(model: BrisqueModel, several: Image) -> None:
    numbers = {"sv_coef": model.coefficients, "sv": model.vectors, "rho": model.rho}
    expected = brisque_arch.brisque(several.double(), **numbers)
    features = torch.stack([_in_pyiqas_convention(image[None].double()) for image in several])
    kernel = brisque_arch.rbf_kernel(brisque_arch.scale_features(features), model.vectors.T, model.gamma)
    torch.testing.assert_close(kernel @ model.coefficients - model.rho, expected, rtol=0.01, atol=0)


def test_blur_and_noise_raise_both_losses(model: BrisqueModel, pristine: NiqeModel, crops: Image) -> None:
    for damaged in (blurred(crops), noisy(crops, 25)):
        assert (smooth_brisque(damaged, model) > smooth_brisque(crops, model) + 20).all()
        assert (smooth_niqe(damaged, pristine) > smooth_niqe(crops, pristine)).all()


def test_a_flat_image_has_no_score_and_its_neighbour_keeps_its_own(model: BrisqueModel, photo: Image) -> None:
    both = torch.cat((torch.full_like(photo, 0.5), photo))
    scores = smooth_brisque(both, model)
    assert scores.isnan().tolist() == [True, False]
    torch.testing.assert_close(scores[1:], smooth_brisque(photo, model))


@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 1.0])
def test_flat_blocks_have_no_slope_and_leave_the_others_theirs(level: float, pristine: NiqeModel) -> None:
    image = torch.rand(1, 3, 192, 384, generator=torch.Generator().manual_seed(0))
    image[..., 96:] = level
    image.requires_grad_(True)
    (slope,) = torch.autograd.grad(smooth_niqe(image, pristine).sum(), image)
    assert slope.isfinite().all()
    assert slope[..., :96].any()
    assert not slope[..., 300:].any()


def test_scores_taken_in_inference_mode_before_leave_the_gradient_alone(model: BrisqueModel, photo: Image) -> None:
    shape_grid.cache_clear()
    with torch.inference_mode():
        smooth_brisque(photo, model)
    image = photo.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(smooth_brisque(image, model).sum(), image)
    assert gradient.isfinite().all()
    assert gradient.any()
