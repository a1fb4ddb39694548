"""Laws of the natural scene statistics."""

import pytest
import torch
from pyiqa.archs.func_util import estimate_aggd_param, normalize_img_with_gauss

from sr_core.rewards.scene_statistics import fit_asymmetric_gaussian, local_contrast, luma_8bit
from sr_core.tensors import Image


def test_a_grey_image_keeps_its_value_as_luma() -> None:
    grey = torch.arange(256, dtype=torch.float32).expand(3, 1, 256) / 255
    torch.testing.assert_close(luma_8bit(grey), torch.arange(256, dtype=torch.float64)[None])


def test_a_flat_plane_has_no_contrast() -> None:
    flat = local_contrast(torch.full((20, 30), 77.0))
    assert flat.mscn.abs().max() < 1e-9
    assert flat.deviation.max() < 1e-5


def test_turning_the_plane_turns_its_contrast(photo: Image) -> None:
    luma = luma_8bit(photo[0])
    torch.testing.assert_close(local_contrast(luma.T).mscn, local_contrast(luma).mscn.T)


def test_contrast_agrees_with_pyiqa(photo: Image) -> None:
    luma = luma_8bit(photo[0])
    expected = normalize_img_with_gauss(luma[None, None], padding="replicate")[0, 0]
    # pyiqa rounds its window to four decimals.
    torch.testing.assert_close(local_contrast(luma).mscn, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("alpha", "draw"), [(2.0, torch.distributions.Normal), (1.0, torch.distributions.Laplace)])
def test_a_fit_recovers_the_shape_it_was_drawn_from(alpha: float, draw) -> None:
    torch.manual_seed(0)
    values = draw(0.0, 1.0).sample((1, 500, 500))
    fit = fit_asymmetric_gaussian(values)
    assert fit.alpha.item() == pytest.approx(alpha, rel=0.03)
    assert fit.mean().item() == pytest.approx(0, abs=0.02)
    torch.testing.assert_close(fit.beta_left(), fit.beta_right(), rtol=0.02, atol=0)


def test_a_fit_recovers_the_two_widths() -> None:
    torch.manual_seed(0)
    values = torch.randn(1, 500, 500)
    # A side is as probable as it is wide, or the density would jump at 0.
    right = torch.rand(values.shape) < 0.75
    fit = fit_asymmetric_gaussian(torch.where(right, 3 * values.abs(), -values.abs()))
    assert fit.sigma_left.item() == pytest.approx(1, rel=0.02)
    assert fit.sigma_right.item() == pytest.approx(3, rel=0.02)
    assert fit.alpha.item() == pytest.approx(2, rel=0.05)


def test_mirroring_the_values_swaps_the_sides(photo: Image) -> None:
    values = local_contrast(luma_8bit(photo[0])).mscn[None]
    fit, mirrored = fit_asymmetric_gaussian(values), fit_asymmetric_gaussian(-values)
    torch.testing.assert_close(fit.sigma_left, mirrored.sigma_right)
    torch.testing.assert_close(fit.mean(), -mirrored.mean())
    assert fit.alpha == mirrored.alpha


def test_scaling_the_values_scales_the_widths_alone(photo: Image) -> None:
    values = local_contrast(luma_8bit(photo[0])).mscn[None]
    fit, scaled = fit_asymmetric_gaussian(values), fit_asymmetric_gaussian(4 * values)
    torch.testing.assert_close(scaled.sigma_left, 4 * fit.sigma_left)
    assert fit.alpha == scaled.alpha


def test_fits_agree_with_pyiqa_fed_the_same_blocks(photo: Image) -> None:
    blocks = local_contrast(luma_8bit(photo[0])).mscn.reshape(9, 32, 288)
    blocks = blocks * blocks.roll(1, dims=2)
    alpha, beta_left, beta_right = estimate_aggd_param(blocks[:, None])
    fit = fit_asymmetric_gaussian(blocks)
    torch.testing.assert_close(fit.alpha, alpha[:, 0] if alpha.ndim > 1 else alpha, atol=1.001e-3, rtol=0)
    torch.testing.assert_close(fit.beta_left(), beta_left.reshape(-1), rtol=1e-3, atol=0)
    torch.testing.assert_close(fit.beta_right(), beta_right.reshape(-1), rtol=1e-3, atol=0)


def test_a_block_without_a_side_has_no_fit() -> None:
    fit = fit_asymmetric_gaussian(torch.stack((torch.zeros(8, 8), torch.ones(8, 8))))
    assert fit.alpha.isnan().all()
