from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_core.backbones.windows import OVERLAP, Window, blend, gaussian_weights, plan_windows
from sr_core.errors import ConfigError

cells = st.sampled_from([1, 2, 4])


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 12), cells)
def test_windows_cover_a_latent_and_overlap(rows: int, columns: int, side: int, cell: int) -> None:
    height, width = rows * cell, columns * cell
    windows = plan_windows(height, width, side * cell, cell)
    covered = torch.zeros(height, width)
    for window in windows:
        assert all(value % cell == 0 for value in (window.top, window.left, window.height, window.width))
        assert (window.height, window.width) == (min(side * cell, height), min(side * cell, width))
        part = window.crop(covered)
        assert part.shape == (window.height, window.width)
        part += 1
    assert covered.min() >= 1
    tops = sorted({window.top for window in windows})
    for first, second in pairwise(tops):
        assert second - first <= max(cell, side * cell * (1 - OVERLAP) + cell)


@settings(max_examples=30)
@given(st.integers(2, 24), st.integers(2, 24), st.integers(2, 10))
def test_the_weights_of_all_windows_sum_to_one(height: int, width: int, side: int) -> None:
    windows = plan_windows(height, width, side, 1)
    ones = blend(lambda part, _: torch.ones_like(part), torch.zeros(1, 1, height, width), windows)
    torch.testing.assert_close(ones, torch.ones_like(ones))


def test_a_pointwise_network_says_the_same_in_windows_and_at_once() -> None:
    x = torch.randn(2, 4, 20, 28, generator=torch.Generator().manual_seed(0))
    windows = plan_windows(20, 28, 8, 2)
    assert len(windows) > 4
    torch.testing.assert_close(blend(lambda part, _: 3 * part - 1, x, windows), 3 * x - 1)


def test_one_window_is_passed_through_untouched() -> None:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(blend(lambda part, _: part, x, plan_windows(8, 8, 8, 2)), x)


def test_a_seam_is_a_smooth_change_of_weights() -> None:
    """Two windows of the default tile that disagree by 1: no step to the next place is as large as a third of it."""
    windows = [Window(0, 0, 16, 64), Window(0, 48, 16, 64)]
    field = blend(
        lambda part, window: torch.full_like(part, float(window.left > 0)), torch.zeros(1, 1, 16, 112), windows
    )
    assert float(field.diff(dim=-1).abs().max()) < 1 / 3
    assert (float(field[..., 0].max()), float(field[..., -1].min())) == (0.0, 1.0)


def test_gaussian_weights_are_largest_in_the_middle_symmetric_and_positive() -> None:
    weights = gaussian_weights(9, 7)
    assert weights.argmax() == 4 * 7 + 3
    assert float(weights.min()) > 0
    torch.testing.assert_close(weights, weights.flip(0, 1))


@pytest.mark.parametrize("side", [7, 2])
def test_a_window_must_measure_whole_cells(side: int) -> None:
    with pytest.raises(ConfigError, match="multiple of 2"):
        plan_windows(8, 8, side, 2)
