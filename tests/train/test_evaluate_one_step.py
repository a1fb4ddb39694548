import numpy as np
import pytest
import torch

from sr_core.backbones.compact_one_step import CompactOneStep, OneStepModel
from sr_core.backbones.one_step import TimestepSelector, flow_levels
from sr_core.backbones.prior import load_prior
from sr_core.noise import block_noise
from tests.sr_core.backbones.conftest import random_head
from train.evaluate_one_step import (
    METHODS,
    STRENGTHS,
    _crop,
    cost,
    level_correlation,
    level_histogram,
    restored_in_one_step,
    summary,
)


@pytest.fixture(scope="module")
def backbone() -> CompactOneStep:
    model = OneStepModel.started_from(random_head())
    torch.manual_seed(0)
    selector = TimestepSelector(flow_levels(), channels=2, num_blocks=1)
    return CompactOneStep(load_prior(), model.head, selector, dtype=torch.float32)


def test_kendall_is_one_for_rising_levels_and_near_zero_for_none() -> None:
    rising = np.tile(np.array(STRENGTHS), (12, 1))
    found = level_correlation(rising, STRENGTHS)
    assert found == {"tau": pytest.approx(1.0), "low": pytest.approx(1.0), "high": pytest.approx(1.0)}
    assert level_correlation(1 - rising, STRENGTHS)["tau"] == pytest.approx(-1.0)
    assert level_correlation(np.full((12, 5), 0.3), STRENGTHS) == {"tau": 0.0, "low": 0.0, "high": 0.0}
    random = level_correlation(np.random.default_rng(0).random((40, 5)), STRENGTHS)
    assert random["low"] < 0 < random["high"]


def test_the_histogram_counts_every_level_once() -> None:
    counts = level_histogram(np.array([[0.0, 0.05, 0.31], [0.99, 1.0, 0.3]]))
    assert (counts["0.0-0.1"], counts["0.3-0.4"], counts["0.9-1.0"], sum(counts.values())) == (2, 2, 2, 6)


def test_crops_of_photo_and_lq_show_the_same_place() -> None:
    lq = torch.arange(20.0 * 30).reshape(1, 1, 20, 30).repeat(1, 3, 1, 1)
    hq = lq.repeat_interleave(4, 2).repeat_interleave(4, 3)
    small, large = _crop(lq, 8, 1), _crop(hq, 8, 4)
    assert small.shape[-2:] == (8, 8)
    assert torch.equal(large, small.repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert torch.equal(_crop(hq, 999, 4), hq)


def test_the_level_is_that_of_the_whole_photo(backbone: CompactOneStep) -> None:
    seen = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    part = seen[..., :8, :8]
    level = backbone.choose_levels(seen)
    noise = block_noise(0, 48, 0, 0, 8, 8)
    expected = backbone.restore_at(noise, level, backbone.encode(part))
    assert torch.equal(restored_in_one_step(backbone, backbone.observe(part), seen), expected)


def test_costs_and_summaries_are_what_their_rows_say(backbone: CompactOneStep) -> None:
    price = cost(backbone, backbone, torch.rand(1, 3, 8, 8))
    assert price["ratio"] == pytest.approx(price["one_step_s"] / price["prior_s"])
    places = enumerate(METHODS)
    rows = {method: [{"reward": float(k + place), "lsd": 1.0} for k in range(3)] for place, method in places}
    found = summary({"bicubic": rows})["bicubic"]
    assert found["means"]["prior"]["reward"] == pytest.approx(1.0)
    assert found["one_step_minus"]["prior"]["reward"]["mean"] == pytest.approx(1.0)
    assert found["one_step_minus"]["four_steps"]["reward"]["mean"] == pytest.approx(-1.0)
