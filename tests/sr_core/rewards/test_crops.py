"""Laws of the scored crops."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_core.rewards.crops import CROP, MOST_CROPS, WHOLE_UP_TO, Crop, scored_crops

sides = st.integers(32, 16383)


@pytest.mark.parametrize("size", [(1024, 1024), (32, 1024), (200, 300)])
def test_up_to_1024_px_the_whole_image_is_scored(size: tuple[int, int]) -> None:
    assert scored_crops(*size) == (Crop(0, 0, *size),)


@given(sides, sides)
def test_crops_lie_inside_the_image_and_are_few_and_distinct(height: int, width: int) -> None:
    crops = scored_crops(height, width)
    assert 1 <= len(set(crops)) == len(crops) <= MOST_CROPS
    for crop in crops:
        assert 0 <= crop.top <= height - crop.height
        assert 0 <= crop.left <= width - crop.width
        assert max(crop.height, crop.width) <= WHOLE_UP_TO


@given(sides, sides)
def test_above_1024_px_crops_reach_all_four_corners(height: int, width: int) -> None:
    crops = scored_crops(height, width)
    if max(height, width) <= WHOLE_UP_TO:
        return
    assert {(min(CROP, height), min(CROP, width))} == {(c.height, c.width) for c in crops}
    assert (min(c.top for c in crops), min(c.left for c in crops)) == (0, 0)
    assert max(c.top + c.height for c in crops) == height
    assert max(c.left + c.width for c in crops) == width


@given(sides, sides)
def test_turning_the_image_turns_the_number_of_crops(height: int, width: int) -> None:
    assert abs(len(scored_crops(height, width)) - len(scored_crops(width, height))) <= MOST_CROPS // 2


def test_a_4096_px_square_gets_sixteen_crops() -> None:
    assert len(scored_crops(4096, 4096)) == 16
