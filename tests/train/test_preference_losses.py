"""Laws of the loss formulas."""

import math

import pytest
import torch

from train.preference_losses import hinge_loss, ipo_loss, kto_loss, mapo_score, sigmoid_loss

MARGINS = torch.linspace(-30, 30, 61, dtype=torch.float64)


def test_the_sigmoid_loss_stays_finite_at_extreme_margins() -> None:
    loss = sigmoid_loss(torch.tensor([-1e4, 1e4]), 0.0)
    torch.testing.assert_close(loss, torch.tensor([1e4, 0.0]))


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_label_smoothing_is_least_where_the_odds_match_it(smoothing: float) -> None:
    best = math.log((1 - smoothing) / smoothing)
    around = torch.tensor([best - 0.01, best, best + 0.01], dtype=torch.float64)
    assert sigmoid_loss(around, smoothing).argmin() == 1


def test_the_hinge_is_flat_beyond_margin_one() -> None:
    torch.testing.assert_close(hinge_loss(MARGINS), torch.relu(1 - MARGINS))


@pytest.mark.parametrize("beta", [0.5, 10.0])
def test_ipo_at_margin_zero(beta: float) -> None:
    torch.testing.assert_close(ipo_loss(torch.zeros(1), beta), torch.tensor([1 / (4 * beta**2)]))


def test_kto_is_bounded_and_falls_with_the_winners_reward() -> None:
    loss = kto_loss(MARGINS, torch.zeros_like(MARGINS), torch.zeros((), dtype=MARGINS.dtype))
    assert ((loss >= 0) & (loss <= 1)).all()
    assert (loss.diff() < 0).all()


def test_mapos_score_falls_from_its_limit_at_no_error() -> None:
    errors = torch.tensor([0.0, 1e-30, 1e-6, 0.1, 1.0, 5.0])
    scores = mapo_score(errors)
    torch.testing.assert_close(scores[:2], torch.tensor([1000.0, 1000.0]))
    assert (scores.diff() <= 0).all()
    torch.testing.assert_close(scores[4], torch.tensor(1000 * 0.5 / math.expm1(0.5)))
