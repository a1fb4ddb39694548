import math

import numpy as np
import pytest
import scipy.fft
import torch

from sr_core.sobolev import dct2, idct2, sobolev_energy
from sr_core.spectra import (
    BAND_WIDTH,
    POWER_FLOOR,
    POWERS,
    Basis,
    Invention,
    Rings,
    axis_frequencies,
    band_energies,
    beyond,
    dct_power,
    decibels,
    energy_beyond,
    fidelity_levels,
    invention,
    log_spectral_distance,
    luma,
    natural_amplitude,
    num_below,
    nyquist,
    octave_means,
    octave_parts,
    on_grid,
    radial_bins,
    radial_mean,
    residual_power,
    ring_means,
    ring_sums,
    rings,
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


def test_white_noise_has_its_variance_at_every_frequency_and_the_windows_share_of_it_in_the_fft() -> None:
    plane, variance = 0.1 * torch.randn(1, 512, 512, generator=torch.Generator().manual_seed(0)), 0.01
    for basis, share in (("dct", 1.0), ("fft", (3 / 8) ** 2)):
        means = ring_means(POWERS[basis](plane), rings((512, 512), basis))[0, 64:256]
        assert float(means.mean()) == pytest.approx(share * variance, rel=0.01)
        assert (means / (share * variance)).log().abs().max() < 0.5


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


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def energy(plane: torch.Tensor) -> torch.Tensor:
    return (plane - plane.mean((-2, -1), keepdim=True)).square().sum((-2, -1))


def ideally_enlarged(plane: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return the plane whose DCT is that of `plane` with zeros above it: nothing lost, nothing invented."""
    h, w = plane.shape[-2:]
    spectrum = torch.zeros(len(plane), height, width, dtype=plane.dtype)
    spectrum[:, :h, :w] = dct2(plane) * math.sqrt(height * width / (h * w))
    return idct2(spectrum)


def natural_plane(height: int, width: int, slope: float, seed: int = 0) -> torch.Tensor:
    """Return noise whose power falls with the frequency to the power `slope`."""
    fy, fx = (axis_frequencies(n, "dct", n) for n in (height, width))
    frequency = torch.hypot(fy[:, None], fx[None, :])
    frequency[0, 0] = math.inf
    return idct2(noise(1, height, width, seed=seed) * frequency ** (slope / 2))


SIZES = [(32, 32), (33, 47), (64, 40), (48, 96)]
BASES: list[Basis] = ["dct", "fft"]


def means_of(plane: torch.Tensor, basis: Basis) -> tuple[torch.Tensor, Rings]:
    size = (plane.shape[-2], plane.shape[-1])
    return ring_means(POWERS[basis](plane), rings(size, basis)), rings(size, basis)


@pytest.mark.parametrize("size", SIZES)
def test_the_dct_spectrum_is_scipys_of_the_plane_without_its_mean(size: tuple[int, int]) -> None:
    plane = noise(2, *size) + 3
    centred = (plane - plane.mean((-2, -1), keepdim=True)).numpy()
    theirs = scipy.fft.dctn(centred, type=2, norm="ortho", axes=(-2, -1)) ** 2
    np.testing.assert_allclose(dct_power(plane).numpy(), theirs, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
def test_the_rings_of_the_dct_hold_the_whole_energy(size: tuple[int, int]) -> None:
    plane = noise(2, *size) + 3
    sums = ring_sums(dct_power(plane), rings(size, "dct"))
    torch.testing.assert_close(sums.sum(1), energy(plane), rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_rings_of_the_fft_hold_the_whole_windowed_energy(size: tuple[int, int]) -> None:
    plane = noise(2, *size) + 3
    window = torch.from_numpy(np.outer(np.hanning(size[0]), np.hanning(size[1])))
    windowed = (plane - plane.mean((-2, -1), keepdim=True)) * window
    sums = ring_sums(windowed_power(plane), rings(size, "fft"))
    torch.testing.assert_close(sums.sum(1), windowed.square().sum((-2, -1)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_rings_of_the_fft_are_the_bins_of_the_distance(size: tuple[int, int]) -> None:
    power = windowed_power(noise(2, *size))
    bins = radial_mean(power)
    torch.testing.assert_close(ring_means(power, rings(size, "fft"))[:, : bins.shape[1]], bins, rtol=1e-9, atol=0)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("size", SIZES)
def test_every_coefficient_lies_in_one_ring(size: tuple[int, int], basis: Basis) -> None:
    parts = rings(size, basis)
    assert int(parts.num_inside.sum()) == size[0] * size[1]
    assert parts.frequency[parts.place.max()] == pytest.approx(math.sqrt(0.5), abs=0.06)
    assert (parts.num_inside[parts.frequency <= 0.5] > 0).all()


@pytest.mark.parametrize(("basis", "level"), [("dct", 4.0), ("fft", 4 * 0.375**2)])
def test_white_noise_is_flat(basis: Basis, level: float) -> None:
    size = (128, 128)
    sums = ring_sums(POWERS[basis](2 * noise(4, *size)), rings(size, basis))
    octaves = octave_parts(rings(size, basis), 1)
    curve = octave_means(sums, rings(size, basis), octaves).mean(0)
    torch.testing.assert_close(curve[3:], torch.full_like(curve[3:], level), rtol=0.1, atol=0)


@pytest.mark.parametrize("slope", [-2.0, -1.0])
@pytest.mark.parametrize("basis", BASES)
def test_a_power_law_is_a_straight_line_of_its_slope(basis: Basis, slope: float) -> None:
    parts = rings((256, 256), basis)
    octaves = octave_parts(parts, 6)
    curve = octave_means(ring_sums(POWERS[basis](natural_plane(256, 256, slope)), parts), parts, octaves)[0]
    kept = (octaves.frequency > 0.02) & (octaves.frequency < 0.45)
    fitted = np.polyfit(np.log(octaves.frequency[kept].numpy()), np.log(curve[kept].numpy()), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.1)


@pytest.mark.parametrize("basis", BASES)
def test_a_contrast_times_a_is_a_power_times_a_squared(basis: Basis) -> None:
    plane = noise(1, 40, 56)
    torch.testing.assert_close(means_of(3 * plane, basis)[0], 9 * means_of(plane, basis)[0], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("basis", BASES)
def test_gratings_along_either_axis_lie_in_equal_rings(basis: Basis) -> None:
    along = [luma(grating(64, 9, axis)).double() for axis in (0, 1)]
    first, second = (means_of(plane, basis)[0][0] for plane in along)
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-9)
    parts = rings((64, 64), basis)
    assert float(parts.frequency[first.argmax()]) == pytest.approx(9 / 64, abs=1 / 128)


@pytest.mark.parametrize("basis", BASES)
def test_parts_of_octaves_keep_the_energy_of_their_rings(basis: Basis) -> None:
    size = (96, 128)
    parts = rings(size, basis)
    octaves = octave_parts(parts, 4)
    sums = ring_sums(POWERS[basis](noise(2, *size)), parts)
    kept = octaves.group >= 0
    weight = torch.bincount(octaves.group[kept], parts.num_inside[kept])
    means = octave_means(sums, parts, octaves)
    torch.testing.assert_close((means * weight).sum(1), sums[:, kept].sum(1), rtol=1e-12, atol=0)
    assert (octaves.frequency.diff() > 0).all()
    assert float(octaves.frequency[-1]) <= 0.5 + 0.5 / 96


def test_the_distance_in_decibels_is_symmetric_and_sees_a_common_gain_as_none() -> None:
    first, second = noise(2, 30, 30).square() + 1, noise(2, 30, 30, seed=1).square() + 1
    torch.testing.assert_close(decibels(first, second), -decibels(second, first))
    torch.testing.assert_close(decibels(5 * first, 5 * second), decibels(first, second), rtol=0, atol=1e-6)
    assert torch.equal(decibels(first, first), torch.zeros(2, 30, 30, dtype=torch.float64))


def invented(power: torch.Tensor, lq_size: tuple[int, int], amplitude: float, basis: Basis) -> Invention:
    size = (power.shape[-2], power.shape[-1])
    beyond, total = energy_beyond(power, lq_size, basis), power.sum((-2, -1), dtype=torch.float64)
    return invention(beyond, total, size, lq_size, amplitude=amplitude, basis=basis)


ENLARGEMENTS = [((16, 16), (64, 64)), ((15, 20), (45, 60)), ((24, 32), (36, 48)), ((20, 30), (50, 60))]


def input_means(plane: torch.Tensor, size: tuple[int, int], basis: Basis) -> torch.Tensor:
    lq_size = (plane.shape[-2], plane.shape[-1])
    return on_grid(ring_means(POWERS[basis](plane), rings(lq_size, basis, size)), lq_size, size)


@pytest.mark.parametrize(("lq_size", "size"), ENLARGEMENTS)
def test_an_ideal_enlargement_is_faithful_and_invents_nothing(lq_size: tuple[int, int], size: tuple[int, int]) -> None:
    lq = natural_plane(*lq_size, -2.0)
    power = dct_power(ideally_enlarged(lq, *size))
    parts, limit = rings(size, "dct"), nyquist(lq_size, size)
    own = input_means(lq, size, "dct")
    levels = fidelity_levels(ring_means(power, parts), own, parts, limit)
    assert levels.shape[1] == num_below(parts, limit) - 1 > 5
    torch.testing.assert_close(levels, torch.zeros_like(levels), rtol=0, atol=1e-9)
    found = invented(power, lq_size, natural_amplitude(own[0], parts, limit), "dct")
    assert float(found.share) < 1e-12
    assert float(found.level) < -20


def test_an_ideal_enlargement_is_nearly_so_through_a_window() -> None:
    lq_size, size = (64, 64), (256, 256)
    lq = natural_plane(*lq_size, -2.0)
    power = windowed_power(ideally_enlarged(lq, *size))
    parts, limit = rings(size, "fft"), nyquist(lq_size, size)
    levels = fidelity_levels(ring_means(power, parts), input_means(lq, size, "fft"), parts, limit)
    assert float(levels.abs().mean()) < 1
    assert float(invented(power, lq_size, 1.0, "fft").share) < 5e-3


def test_a_blur_is_unfaithful_downwards_and_a_gain_upwards() -> None:
    lq_size, size = (32, 32), (64, 64)
    lq = natural_plane(*lq_size, -2.0)
    parts, limit = rings(size, "dct"), nyquist(lq_size, size)
    sharp = dct_power(ideally_enlarged(lq, *size))
    own = input_means(lq, size, "dct")
    softer, stronger = (
        fidelity_levels(ring_means(power, parts), own, parts, limit) for power in (sharp / (1 + parts.place), 4 * sharp)
    )
    assert (softer <= 0).all()
    torch.testing.assert_close(stronger, torch.full_like(stronger, 10 * math.log10(4)), rtol=0, atol=1e-5)


def test_invention_is_the_share_of_the_energy_beyond_the_inputs_band() -> None:
    power = dct_power(noise(1, 48, 48))
    found = invented(power, (24, 24), 1.0, "dct")
    inside = power[:, :24, :24].sum() / power.sum()
    assert float(found.share) == pytest.approx(1 - float(inside))


def test_a_natural_continuation_is_invention_of_zero_decibels() -> None:
    lq_size, size = (32, 32), (128, 128)
    plane = natural_plane(*size, -2.0)
    power, parts = dct_power(plane), rings(size, "dct")
    amplitude = natural_amplitude(ring_means(power, parts)[0], parts, nyquist(lq_size, size))
    assert float(invented(power, lq_size, amplitude, "dct").level) == pytest.approx(0, abs=0.5)
    fourfold = invented(4 * power, lq_size, amplitude, "dct")
    assert float(fourfold.level) == pytest.approx(10 * math.log10(4), abs=0.5)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("size", [(32, 40), (33, 64)])
def test_nothing_lies_beyond_an_input_of_the_outputs_size(size: tuple[int, int], basis: Basis) -> None:
    found = invented(POWERS[basis](noise(2, *size)), size, 1.0, basis)
    assert torch.equal(found.share, torch.zeros(2, dtype=torch.float64))
    assert found.level.isnan().all()


@pytest.mark.parametrize("basis", BASES)
def test_what_lies_beyond_is_told_in_whole_numbers(basis: Basis) -> None:
    """A coefficient of k half cycles (DCT) or k cycles (FFT) per side lies beyond from k = m or 2 k = m on."""
    for length, lq_length in ((factor * n + (factor == 1), n) for n in range(2, 130) for factor in (1, 2, 3)):
        column = beyond((length, 1), (lq_length, 1), basis)[:, 0]
        if basis == "dct":
            expected = [k >= lq_length for k in range(length)]
        else:
            expected = [2 * min(k, length - k) >= lq_length for k in range(length)]
        assert column.tolist() == expected


@pytest.mark.parametrize("basis", BASES)
def test_a_flat_picture_has_no_energy_anywhere(basis: Basis) -> None:
    power = POWERS[basis](torch.full((1, 32, 32), 0.25, dtype=torch.float64))
    assert float(ring_sums(power, rings((32, 32), basis)).sum()) == 0
    assert float(invented(power, (16, 16), 1.0, basis).share) == 0


@pytest.mark.parametrize("size", [(32, 32), (40, 56), (33, 17)])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.5, 3.0])
def test_the_bands_add_up_to_the_sobolev_energy(size: tuple[int, int], exponent: float) -> None:
    residual = noise(3, 3, *size)
    bands = band_energies(residual_power(residual), exponent)
    torch.testing.assert_close(bands.sum(1), sobolev_energy(residual, exponent), rtol=1e-12, atol=0)
    assert (bands >= 0).all()


def test_bands_of_exponent_zero_add_up_to_the_mean_square() -> None:
    residual = noise(2, 3, 24, 40)
    bands = band_energies(residual_power(residual), 0.0)
    torch.testing.assert_close(bands.sum(1), residual.square().mean((1, 2, 3)), rtol=1e-12, atol=0)


def test_both_objectives_see_the_same_bands_at_exponent_zero_alone() -> None:
    power = residual_power(noise(2, 3, 32, 32))
    plain = (power * torch.ones_like(power)).sum((-2, -1))
    assert torch.equal(band_energies(power, 0.0), band_energies(power, 0))
    torch.testing.assert_close(band_energies(power, 0.0).sum(1), plain, rtol=1e-12, atol=0)
    higher = band_energies(power, 1.5) / band_energies(power, 0.0)
    assert (higher.diff(dim=1) > 0).all()


def test_gratings_along_either_axis_lie_in_equal_bands() -> None:
    waves = [grating(64, 12, axis).double() - 0.5 for axis in (0, 1)]
    first, second = (band_energies(residual_power(wave), 1.5)[0] for wave in waves)
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-15)
    assert int(first.argmax()) == int(12 / 64 / BAND_WIDTH)
