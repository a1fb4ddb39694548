import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sr_core.edge_drift import MIN_EDGES, Region, edge_drift
from sr_core.images import read_image
from sr_core.resampling import resize

FACE = Region(45, 20, 66, 41)
"""The astronaut's, at a quarter of the photograph's size."""


@pytest.fixture(scope="module")
def pair(photos: Path) -> tuple[Tensor, Tensor]:
    """Return a photograph and its reduction to a quarter."""
    hq = read_image(photos / "eval" / "460_astronaut.png").pixels
    return hq, resize(hq, hq.shape[2] // 4, hq.shape[3] // 4)


def moved(image: Tensor, dx: int, dy: int) -> Tensor:
    return image.roll((dy, dx), (2, 3))


@pytest.mark.parametrize("region", [None, FACE])
def test_what_reduces_to_the_input_has_not_drifted(pair: tuple[Tensor, Tensor], region: Region | None) -> None:
    found = edge_drift(pair[0], pair[1], region)
    assert found.num_edges >= MIN_EDGES
    for name in ("drift", "shift_x", "shift_y", "lost"):
        assert getattr(found, name).tolist() == [0.0], name
    assert found.strength.tolist() == pytest.approx([1.0])


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (0, 2), (1, -2), (-3, 1)])
def test_a_picture_moved_as_a_whole_shows_the_move(pair: tuple[Tensor, Tensor], dx: int, dy: int) -> None:
    hq, lq = pair
    found = edge_drift(moved(hq, dx, dy), lq, FACE)
    assert float(found.shift_x) == pytest.approx(dx / 4, abs=0.06)
    assert float(found.shift_y) == pytest.approx(dy / 4, abs=0.06)
    assert 0 < float(found.drift) <= math.hypot(dx, dy) / 4 + 0.06


def test_drift_grows_with_the_move(pair: tuple[Tensor, Tensor]) -> None:
    hq, lq = pair
    drifts = edge_drift(torch.cat([moved(hq, dx, 0) for dx in (0, 1, 2, 4)]), lq, FACE).drift
    assert (drifts.diff() > 0).all()


def test_a_straight_edge_drifts_by_its_move_alone() -> None:
    x = torch.arange(64.0)
    step = (0.2 + 0.6 * torch.sigmoid((x - 32) / 2)).expand(1, 3, 64, 64)
    there = (0.2 + 0.6 * torch.sigmoid((x - 33.2) / 2)).expand(1, 3, 64, 64)
    found = edge_drift(there, step)
    assert float(found.drift) == pytest.approx(1.2, abs=0.04)
    assert (float(found.shift_x), float(found.shift_y)) == pytest.approx((1.2, 0.0), abs=0.04)
    assert float(found.strength) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_strength_is_the_factor_of_the_contrast(pair: tuple[Tensor, Tensor], factor: float) -> None:
    hq, lq = pair
    found = edge_drift(0.5 + factor * (hq - 0.5), lq, FACE)
    assert float(found.strength) == pytest.approx(factor, rel=1e-3)
    assert float(found.drift) < 0.01


def test_edges_that_are_gone_are_lost(pair: tuple[Tensor, Tensor]) -> None:
    hq, lq = pair
    found = edge_drift(torch.cat((torch.full_like(hq, 0.5), hq)), lq, FACE)
    assert found.lost.tolist() == [1.0, 0.0]
    assert math.isnan(float(found.drift[0]))
    assert float(found.drift[1]) == pytest.approx(0, abs=1e-5)


def test_restorations_are_judged_one_by_one(pair: tuple[Tensor, Tensor]) -> None:
    hq, lq = pair
    batch = torch.cat([moved(hq, 2, 0), hq])
    together = edge_drift(batch, lq, FACE)
    for place in range(2):
        alone = edge_drift(batch[place : place + 1], lq, FACE)
        for own, other in zip(alone[:-1], together[:-1], strict=True):
            torch.testing.assert_close(own[0], other[place])


def test_a_flat_region_says_nothing() -> None:
    flat = torch.full((1, 3, 32, 32), 0.5)
    found = edge_drift(flat, flat)
    assert found.num_edges == 0
    assert math.isnan(float(found.drift))
    assert math.isnan(float(found.strength))


def test_a_region_sees_only_its_own_edges(pair: tuple[Tensor, Tensor]) -> None:
    hq, lq = pair
    elsewhere = hq.clone()
    elsewhere[..., 300:, :] = elsewhere[..., 300:, :].flip(3)
    assert edge_drift(elsewhere, lq, FACE) == edge_drift(hq, lq, FACE)
