import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import torch

from sr_core.blur_kernels import (
    blur,
    gaussian_kernel,
    identity_kernel,
    padded_kernel,
    plateau_kernel,
    reflect_pad,
    sinc_kernel,
)

SHAPES = [gaussian_kernel, plateau_kernel]


@pytest.mark.parametrize("size", [3, 7, 13, 21])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_a_blur_kernel_sums_to_one_and_is_not_negative(size, shape, beta):
    kernel = shape(size, sigma_x=0.2, sigma_y=3.0, angle=0.7, beta=beta)
    assert kernel.shape == (size, size)
    assert kernel.min() >= 0
    torch.testing.assert_close(kernel.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("cutoff", [math.pi / 5, math.pi / 3, math.pi])
@pytest.mark.parametrize("size", [3, 7, 21])
def test_a_sinc_kernel_sums_to_one(size, cutoff):
    torch.testing.assert_close(sinc_kernel(size, cutoff=cutoff).sum(), torch.tensor(1.0))


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_sigmas_make_a_kernel_that_a_turn_or_an_angle_does_not_change(shape):
    kernel = shape(15, sigma_x=1.7, sigma_y=1.7, beta=0.8)
    torch.testing.assert_close(kernel.rot90(), kernel)
    torch.testing.assert_close(kernel.T, kernel)
    torch.testing.assert_close(shape(15, sigma_x=1.7, sigma_y=1.7, angle=0.9, beta=0.8), kernel)


def test_the_sinc_kernel_is_the_same_in_every_direction():
    kernel = sinc_kernel(13, cutoff=2.0)
    torch.testing.assert_close(kernel.rot90(), kernel)
    torch.testing.assert_close(kernel[6, 6 + 5], kernel[6 + 3, 6 + 4])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_quarter_turn_of_the_angle_swaps_the_sigmas(shape):
    turned = shape(11, sigma_x=0.8, sigma_y=2.5, angle=math.pi / 2, beta=1.5)
    torch.testing.assert_close(turned, shape(11, sigma_x=2.5, sigma_y=0.8, beta=1.5))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_positive_angle_tilts_the_long_axis_from_x_towards_y(shape):
    kernel = shape(11, sigma_x=3.0, sigma_y=0.7, angle=math.pi / 4)
    assert kernel[8, 8] > 3 * kernel[2, 8]


def test_generalised_gaussian_with_beta_one_is_the_product_of_two_gaussians():
    steps = torch.arange(-6, 7, dtype=torch.float32)
    product = torch.exp(-steps.square() / (2 * 2.0**2))[:, None] * torch.exp(-steps.square() / (2 * 1.2**2))
    torch.testing.assert_close(gaussian_kernel(13, sigma_x=1.2, sigma_y=2.0), product / product.sum())


def test_a_large_beta_makes_the_plateau_flat_up_to_one_sigma():
    kernel = plateau_kernel(15, sigma_x=4.5, sigma_y=4.5, beta=40.0)
    torch.testing.assert_close(kernel[7, 4:11], kernel[7, 7].expand(7))
    assert kernel[7, 13] < 1e-6 * kernel[7, 7]


def test_the_sinc_kernel_follows_the_bessel_function_down_to_its_limit_at_zero():
    cutoff = 1.3
    kernel = sinc_kernel(9, cutoff=cutoff)
    expected = cutoff * scipy.special.j1(cutoff * 2) / (2 * math.pi * 2)
    limit = cutoff * scipy.special.j1(cutoff * 1e-6) / (2 * math.pi * 1e-6)
    torch.testing.assert_close((kernel[4, 6] / kernel[4, 4]).item(), expected / limit, rtol=1e-4, atol=0)


def test_the_sinc_kernel_passes_slow_waves_and_stops_fast_ones():
    kernel = sinc_kernel(21, cutoff=math.pi / 2)
    response = torch.fft.fft2(kernel, s=(64, 64)).abs()
    assert (response[0, :8] - 1).abs().max() < 0.15
    assert response[0, 24:33].max() < 0.15


def test_padding_keeps_the_middle_and_adds_zeros():
    kernel = gaussian_kernel(7, sigma_x=1.0, sigma_y=1.0)
    padded = padded_kernel(kernel)
    assert padded.shape == (21, 21)
    torch.testing.assert_close(padded[7:14, 7:14], kernel)
    torch.testing.assert_close(padded.sum(), kernel.sum())


def test_the_identity_kernel_changes_nothing():
    image = torch.rand(2, 3, 9, 14, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(blur(image, identity_kernel(21).expand(2, -1, -1)), image)


def test_blur_gives_each_image_its_own_kernel_as_scipy_does():
    image = torch.rand(2, 3, 24, 31, generator=torch.Generator().manual_seed(2))
    kernels = torch.stack(
        [
            gaussian_kernel(7, sigma_x=1.0, sigma_y=2.0, angle=0.4),
            plateau_kernel(7, sigma_x=2.0, sigma_y=2.0, beta=1.5),
        ]
    )
    blurred = blur(image, kernels)
    for index in range(2):
        for channel in range(3):
            expected = scipy.ndimage.convolve(image[index, channel].numpy(), kernels[index].numpy(), mode="mirror")
            torch.testing.assert_close(blurred[index, channel], torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (3, 40)])
def test_mirroring_repeats_where_the_image_is_smaller_than_its_border(height, width):
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))
    padded = reflect_pad(image, 10, 4)
    expected = np.pad(image[0].numpy(), ((0, 0), (10, 10), (4, 4)), mode="reflect")
    torch.testing.assert_close(padded[0], torch.from_numpy(expected))
