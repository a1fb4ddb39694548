import math

import numpy as np
import pytest
import torch

from sr_core.spectra import (
    POWER_FLOOR,
    log_spectral_distance,
    luma,
    radial_bins,
    radial_mean,
    windowed_power,
)


def random_image(height: int = 24, width: int = 32, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def grating(side: int, cycles: int, axis: int) -> torch.Tensor:
    wave = torch.sin(2 * math.pi * cycles * torch.arange(side) / side)
    plane = wave[:, None].expand(side, side) if axis == 0 else wave[None, :].expand(side, side)
    return (0.5 + 0.4 * plane)[None, None].expand(1, 3, side, side)


def test_luma_of_grey_is_grey_and_of_white_is_one() -> None:
    torch.testing.assert_close(luma(torch.full((1, 3, 2, 2), 0.3)), torch.full((1, 2, 2), 0.3))


def test_the_power_spectrum_keeps_the_windowed_energy() -> None:
    grey = luma(random_image()).double()
    window = torch.from_numpy(np.outer(np.hanning(24), np.hanning(32)))
    windowed = (grey - grey.mean((-2, -1), keepdim=True)) * window
    torch.testing.assert_close(windowed_power(grey).sum((-2, -1)), windowed.square().sum((-2, -1)), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (31, 31), (32, 48), (15, 64)])
def test_bins_hold_every_frequency_up_to_nyquist_of_the_shorter_side(height: int, width: int) -> None:
    bins, count = radial_bins(height, width)
    assert count == min(height, width) // 2 + 1
    assert set(range(count)) <= set(bins.flatten().int().tolist())
    assert float(bins[0, 0]) == 0


@pytest.mark.parametrize("axis", [0, 1])
def test_a_gratings_power_lies_in_its_own_bin(axis: int) -> None:
    spectrum = radial_mean(windowed_power(luma(grating(64, 9, axis))))
    assert int(spectrum.argmax()) == 9


def test_horizontal_and_vertical_detail_weigh_the_same() -> None:
    spectra = [radial_mean(windowed_power(luma(grating(48, 7, axis)))) for axis in (0, 1)]
    torch.testing.assert_close(*spectra)


def test_the_distance_to_oneself_is_zero_and_symmetric_otherwise() -> None:
    image, other = random_image(), random_image().flip(0)
    assert torch.equal(log_spectral_distance(image, image), torch.zeros(2))
    torch.testing.assert_close(log_spectral_distance(image, other), log_spectral_distance(other, image))


def test_doubling_the_contrast_is_six_decibels_at_every_frequency() -> None:
    image = 0.25 + 0.5 * random_image()
    middle = image.mean((-3, -2, -1), keepdim=True)
    halved = middle + (image - middle) / 2
    expected = torch.full((2,), 20 * math.log10(2))
    torch.testing.assert_close(log_spectral_distance(image, halved), expected, atol=0.05, rtol=0)


def test_brightness_alone_is_no_distance() -> None:
    image = 0.5 * random_image()
    torch.testing.assert_close(log_spectral_distance(image, image + 0.3), torch.zeros(2), atol=1e-2, rtol=0)


def test_the_distance_equals_a_direct_sum_over_rings() -> None:
    image, reference = random_image(20, 26, 1), random_image(20, 26, 2)[1:]
    powers = []
    for picture in (image, reference):
        grey = np.tensordot([0.299, 0.587, 0.114], picture[0].double().numpy(), 1)
        window = np.outer(np.hanning(20), np.hanning(26))
        powers.append(np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2 / (20 * 26))
    radius = np.hypot(np.fft.fftfreq(20)[:, None], np.fft.fftfreq(26)[None]) * 20
    rings = [np.round(radius) == k for k in range(1, 11)]
    steps = [
        10 * np.log10((powers[0][ring].mean() + POWER_FLOOR) / (powers[1][ring].mean() + POWER_FLOOR)) for ring in rings
    ]
    expected = math.sqrt(np.mean(np.square(steps)))
    assert float(log_spectral_distance(image, reference)) == pytest.approx(expected, rel=1e-4)
