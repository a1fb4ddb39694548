import math

import pytest
import torch

from sr_core.errors import ConfigError
from train.iqa_sampling import best_of, load_score, target_probabilities

QUALITY = torch.tensor([3.0, 1.0, -2.0, 0.5], dtype=torch.float64)
POSITIVE = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)


def test_sma_is_the_softmax_of_quality_over_the_temperature() -> None:
    found = target_probabilities("sma", QUALITY, POSITIVE, 0, 2.0)
    weights = [math.exp(q / 2) for q in QUALITY.tolist()]
    assert found.tolist() == pytest.approx([w / sum(weights) for w in weights])


def test_smp_is_the_same_over_human_positive_targets_alone() -> None:
    found = target_probabilities("smp", QUALITY, POSITIVE, 0, 2.0)
    weights = [0, math.exp(0.5), math.exp(-1), 0]
    assert found.tolist() == pytest.approx([w / sum(weights) for w in weights])


def test_upos_is_uniform_over_human_positive_targets() -> None:
    assert target_probabilities("upos", QUALITY, POSITIVE, 0, 2.0).tolist() == [0, 0.5, 0.5, 0]


def test_the_limits_of_the_temperature_are_uniform_and_the_best() -> None:
    hot = target_probabilities("sma", QUALITY, POSITIVE, 0, 1e9)
    cold = target_probabilities("sma", QUALITY, POSITIVE, 0, 1e-3)
    torch.testing.assert_close(hot, torch.full_like(QUALITY, 0.25))
    assert cold.tolist() == [1, 0, 0, 0]


def test_what_cannot_be_scored_is_never_shown_unless_nothing_can() -> None:
    some = torch.tensor([math.nan, 1.0, 1.0], dtype=torch.float64)
    none = torch.full((3,), math.nan, dtype=torch.float64)
    marks = torch.ones(3, dtype=torch.float64)
    assert target_probabilities("sma", some, marks, 0, 1.0).tolist() == [0, 0.5, 0.5]
    assert target_probabilities("sma", none, marks, 0, 1.0).tolist() == pytest.approx([1 / 3] * 3)


def test_the_original_alone() -> None:
    assert target_probabilities("original", QUALITY, POSITIVE, 2, 1.0).tolist() == [0, 0, 1, 0]
    with pytest.raises(ConfigError, match="ground truth"):
        target_probabilities("original", QUALITY, POSITIVE, None, 1.0)


@pytest.mark.parametrize("strategy", ["upos", "smp"])
def test_a_strategy_of_labels_needs_a_positive_target(strategy) -> None:
    with pytest.raises(ConfigError, match="human-positive"):
        target_probabilities(strategy, QUALITY, torch.zeros_like(QUALITY), 0, 1.0)


def test_amo_takes_the_best_patch_and_the_original_where_nothing_is_scored() -> None:
    assert best_of(QUALITY, 3) == 0
    assert best_of(torch.tensor([math.nan, -5.0, -4.0], dtype=torch.float64), 0) == 2
    assert best_of(torch.full((3,), math.nan, dtype=torch.float64), 2) == 2
    assert best_of(torch.full((3,), math.nan, dtype=torch.float64), None) == 0


def test_a_score_is_higher_where_the_metric_is_better() -> None:
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0.2, 0.8, 96).expand(1, 3, 96, 96)
    noise = torch.randn(1, 3, 96, 96, generator=generator)
    score = load_score("brisque", 96, "cpu")(torch.cat((ramp + 0.03 * noise, ramp + 0.5 * noise)).clamp(0, 1))
    assert score[0] > score[1]


@pytest.mark.parametrize(
    ("name", "side", "message"), [("lpips", 96, "without a reference"), ("niqe", 96, "at least 192 px")]
)
def test_a_metric_that_cannot_choose_is_refused(name: str, side: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_score(name, side, "cpu")
