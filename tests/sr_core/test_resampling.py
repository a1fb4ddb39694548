from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_core.errors import InputError
from sr_core.resampling import output_size, resize, resize_clamped


@pytest.mark.parametrize("size", [(128, 128), (37, 61), (200, 90), (13, 300)])
def test_resizing_agrees_with_pillow(photos: Path, size: tuple[int, int]) -> None:
    with PIL.Image.open(photos / "eval" / "472_bluebird.png") as image:
        band = image.convert("L").convert("F")
    ours = resize(torch.from_numpy(np.array(band))[None, None], *size)[0, 0]
    theirs = np.array(band.resize(size[::-1], PIL.Image.Resampling.BICUBIC))
    assert np.abs(ours.numpy() - theirs).max() < 1e-2  # of 255


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 90), st.integers(1, 90))
def test_a_flat_image_stays_flat_at_any_size(height: int, width: int, new_height: int, new_width: int) -> None:
    flat = torch.full((2, 3, height, width), 0.3)
    resized = resize(flat, new_height, new_width)
    torch.testing.assert_close(resized, torch.full((2, 3, new_height, new_width), 0.3))


def test_resizing_to_the_own_size_changes_nothing() -> None:
    image = torch.rand(1, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize(image, 9, 14), image)


def test_resizing_commutes_with_mirroring() -> None:
    image = torch.rand(1, 3, 20, 31, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize(image.flip(-1), 47, 33), resize(image, 47, 33).flip(-1))


def test_reducing_suppresses_detail_that_the_smaller_grid_cannot_hold() -> None:
    checkerboard = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    reduced = resize(checkerboard.float()[None, None], 16, 16)
    assert (reduced - 0.5).abs().max() < 0.05


def test_only_the_clamped_variant_stays_in_range_at_an_edge() -> None:
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    assert resize(edge, 32, 32).max() > 1.01
    clamped = resize_clamped(edge, 32, 32)
    assert clamped.min() == 0
    assert clamped.max() == 1


def test_a_factor_rounds_each_side_and_a_size_is_taken_exactly() -> None:
    assert output_size(101, 67, scale=1.5) == (152, 100)
    assert output_size(101, 67, scale=4) == (404, 268)
    assert output_size(101, 67, size=(300, 200)) == (300, 200)


@pytest.mark.parametrize(
    ("scale", "size"),
    [
        (None, None),
        (2.0, (200, 200)),
        (8.5, None),
        (0.5, None),
        (float("nan"), None),
        (None, (99, 200)),
        (None, (900, 200)),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(scale: float | None, size: tuple[int, int] | None) -> None:
    with pytest.raises(InputError):
        output_size(100, 100, scale=scale, size=size)
