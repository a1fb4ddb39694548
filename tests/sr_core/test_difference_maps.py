from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sr_core.difference_maps import (
    energy_above_nyquist,
    local_strength,
    luma_levels,
    root_mean_square,
    signed_difference,
    split_at_nyquist,
    spread,
)
from sr_core.images import read_image, to_uint8
from sr_core.sobolev import dct2, idct2
from sr_core.spectra import beyond, energy_beyond


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Return random 8-bit levels."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).float()


def band_limited(levels: Tensor, height: int, width: int) -> Tensor:
    """Enlarge ideally: pad the orthonormal DCT with zeros and keep the mean."""
    c, h, w = levels.shape
    spectrum = torch.zeros(c, height, width, dtype=torch.float64)
    spectrum[:, :h, :w] = dct2(levels.double()) * (height * width / (h * w)) ** 0.5
    return idct2(spectrum)


def test_swapping_the_pictures_changes_the_sign_of_their_difference() -> None:
    a, b = noise(3, 9, 7), noise(3, 9, 7, seed=1)
    assert torch.equal(signed_difference(a, b), -signed_difference(b, a))
    assert not signed_difference(a, a).any()
    np.testing.assert_array_equal(signed_difference(a, b).numpy(), a.numpy().astype(float) - b.numpy())


def test_the_difference_of_lumas_is_the_luma_of_the_difference() -> None:
    a, b = noise(3, 9, 7), noise(3, 9, 7, seed=1)
    torch.testing.assert_close(luma_levels(a) - luma_levels(b), luma_levels(signed_difference(a, b)))


@settings(max_examples=20)
@given(count=st.integers(1, 40), seed=st.integers(0, 99))
def test_candidates_that_are_equal_do_not_vary_at_all(count: int, seed: int) -> None:
    assert not spread([noise(3, 5, 4, seed=seed)] * count).any()


@settings(max_examples=20)
@given(count=st.integers(2, 16), channels=st.sampled_from([1, 3]))
def test_the_spread_is_the_standard_deviation_of_numpy(count: int, channels: int) -> None:
    pictures = [noise(channels, 6, 5, seed=i) for i in range(count)]
    stacked = torch.stack(pictures).numpy().astype(np.float64)
    np.testing.assert_allclose(spread(pictures).numpy(), np.sqrt(stacked.var(0).mean(0)), rtol=1e-12)
    if channels == 1:
        np.testing.assert_allclose(spread(pictures).numpy(), stacked.std(0)[0], rtol=1e-12)


def test_the_spread_knows_no_order_and_no_common_offset() -> None:
    pictures = [noise(3, 6, 5, seed=i) for i in range(4)]
    torch.testing.assert_close(spread(pictures), spread(reversed(pictures)))
    torch.testing.assert_close(spread(pictures), spread([p + 17 for p in pictures]))


@pytest.mark.parametrize(("size", "lq"), [((24, 32), (12, 16)), ((33, 20), (10, 7)), ((16, 16), (16, 16))])
def test_a_picture_is_the_sum_of_both_sides_of_nyquist_and_so_is_its_energy(
    size: tuple[int, int], lq: tuple[int, int]
) -> None:
    levels = noise(3, *size)
    below, above = split_at_nyquist(levels, lq)
    torch.testing.assert_close(below + above, levels.double())
    energies = [float(part.square().sum()) for part in (below, above)]
    assert sum(energies) == pytest.approx(float(levels.double().square().sum()), rel=1e-12)
    assert energies[1] == pytest.approx(float(energy_beyond(dct2(levels).square(), lq, "dct").sum()), rel=1e-5)


@pytest.mark.parametrize("size", [(24, 32), (25, 37)])
def test_an_ideal_enlargement_has_nothing_above_its_inputs_nyquist(size: tuple[int, int]) -> None:
    levels = band_limited(noise(3, 12, 16), *size)
    assert float(energy_above_nyquist(levels, (12, 16)).max()) < 1e-9 * 255
    torch.testing.assert_close(split_at_nyquist(levels, (12, 16)).below, levels)


def test_a_grating_shows_above_nyquist_only_where_it_is_finer_than_the_inputs_grid() -> None:
    place = torch.arange(32, dtype=torch.float64)
    for k, shows in ((7, False), (8, True), (20, True)):
        grating = 100 * torch.cos(torch.pi * (place + 0.5) * k / 32).expand(1, 32, 32)
        assert bool(beyond((32, 32), (8, 8), "dct")[0, k]) == shows
        assert (root_mean_square(split_at_nyquist(grating, (8, 8)).above[0]) > 50) == shows


def test_an_output_of_the_inputs_size_has_nothing_above() -> None:
    assert not energy_above_nyquist(noise(3, 12, 10), (12, 10)).any()


def test_local_strength_of_a_constant_is_its_size_everywhere() -> None:
    assert torch.equal(local_strength(torch.full((3, 8, 9), -5.0), 5), torch.full((8, 9), 5.0))
    assert torch.equal(local_strength(torch.full((3, 2, 2), 4.0), 9), torch.full((2, 2), 4.0))


def test_invented_texture_shows_where_it_was_put(photos: Path) -> None:
    photo = read_image(photos / "eval" / "472_bluebird.png").pixels[..., :128, :128]
    smooth = band_limited(torch.from_numpy(to_uint8(photo)).permute(2, 0, 1)[:, ::4, ::4], 128, 128)
    checks = torch.tensor([[20.0, -20.0], [-20.0, 20.0]]).repeat(16, 16)
    smooth[:, 64:96, 32:64] += checks
    strength = energy_above_nyquist(smooth, (32, 32))
    assert float(strength[70:90, 38:58].mean()) == pytest.approx(20, rel=0.05)
    assert float(strength[:48].mean()) < 1
