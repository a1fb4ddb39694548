from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_core.errors import ConfigError
from sr_core.tiling import (
    CONTEXT,
    RAMP,
    TILE,
    add_tile,
    crop,
    plan_spans,
    plan_tiles,
    seams,
    span_weights,
)

lengths = st.integers(1, 1500)
tiles = st.integers(2 * (2 * CONTEXT + RAMP), 220)
scales = st.sampled_from([1, 2, 4])


def weight_sum(length: int, tile: int, scale: int) -> torch.Tensor:
    total = torch.zeros(length * scale)
    for span in plan_spans(length, tile):
        total[span.start * scale : span.stop * scale] += span_weights(span, scale)
    return total


@settings(deadline=None, max_examples=200)
@given(lengths, tiles, scales)
def test_the_weights_of_all_tiles_add_up_to_one(length: int, tile: int, scale: int) -> None:
    torch.testing.assert_close(weight_sum(length, tile, scale), torch.ones(length * scale), atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=200)
@given(lengths, tiles)
def test_spans_are_equally_long_fit_the_tile_and_cover_the_whole_length(length: int, tile: int) -> None:
    spans = plan_spans(length, tile)
    assert {span.stop - span.start for span in spans} == {spans[0].stop - spans[0].start}
    assert spans[0].stop - spans[0].start <= tile
    assert (spans[0].start, spans[-1].stop) == (0, length)
    assert all(b.start < a.stop for a, b in pairwise(spans))


@settings(deadline=None, max_examples=200)
@given(lengths, tiles)
def test_what_lies_next_to_an_inner_border_has_no_weight(length: int, tile: int) -> None:
    for span in plan_spans(length, tile):
        weights = span_weights(span, 1)
        if span.start > 0:
            assert float(weights[:CONTEXT].abs().max()) == 0
        if span.stop < length:
            assert float(weights[-CONTEXT:].abs().max()) == 0
        assert float(weights.min()) >= 0


@settings(deadline=None, max_examples=100)
@given(lengths, tiles)
def test_a_fade_is_at_least_as_long_as_the_ramp(length: int, tile: int) -> None:
    for span in plan_spans(length, tile):
        for fade in (span.fade_in, span.fade_out):
            assert fade is None or fade[1] - fade[0] >= RAMP


def test_a_photo_that_fits_is_one_tile_without_blending() -> None:
    (tile,) = plan_tiles(TILE, 50)
    assert (tile.rows.stop, tile.columns.stop) == (TILE, 50)
    assert torch.equal(span_weights(tile.rows, 4), torch.ones(4 * TILE))
    assert list(seams(TILE, 50)) == []


def test_a_tile_must_be_larger_than_two_overlaps() -> None:
    least = 2 * (2 * CONTEXT + RAMP)
    assert len(plan_spans(300, least)) > 1
    with pytest.raises(ConfigError, match=f"at least {least} px a side, got {least - 1}"):
        plan_spans(300, least - 1)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 230), st.integers(1, 230), st.sampled_from([1, 2]))
def test_cutting_into_tiles_and_adding_them_again_changes_nothing(height: int, width: int, scale: int) -> None:
    generator = torch.Generator().manual_seed(height * 997 + width)
    photo = torch.rand(1, 3, height, width, generator=generator)
    canvas = torch.zeros(1, 3, height * scale, width * scale)
    for tile in plan_tiles(height, width, 112):
        enlarged = crop(photo, tile).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        add_tile(canvas, enlarged, tile, scale)
    whole = photo.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    torch.testing.assert_close(canvas, whole, atol=1e-5, rtol=0)


def test_a_seam_lies_in_the_middle_of_each_fade() -> None:
    places = list(seams(150, 200, 112))
    assert {axis for axis, _ in places} == {"row", "column"}
    for axis, place in places:
        spans = plan_spans(150 if axis == "row" else 200, 112)
        shares = [span_weights(s, 1)[place - s.start] for s in spans if s.start <= place < s.stop]
        assert sorted(float(s) for s in shares if s > 0) == pytest.approx([0.5, 0.5], abs=0.2)


@settings(deadline=None, max_examples=200)
@given(lengths, tiles)
def test_tiles_start_where_a_network_that_halves_twice_sees_the_same_cells(length: int, tile: int) -> None:
    assert {span.start % 4 for span in plan_spans(length, tile)} == {0}


@settings(deadline=None, max_examples=200)
@given(lengths, tiles)
def test_no_more_tiles_are_used_than_whole_cells_cost(length: int, tile: int) -> None:
    overlap = 2 * CONTEXT + RAMP
    least = max(1, -(-(length - overlap) // (tile - overlap)))
    most = max(1, -(-(length - overlap) // (tile - overlap - 6)))
    assert least <= len(plan_spans(length, tile)) <= most
