"""Laws of conversions between what networks predict."""

import pytest
import torch
from torch import Tensor

from sr_core.diffusion import (
    PREDICTIONS,
    convert,
    diffuse,
    ends_from_clean,
    ends_from_epsilon,
    flow_level,
    preserving_alpha,
    preserving_level,
)
from sr_core.flow import clean_from_velocity, interpolate, noise_from_velocity

KINDS = list(PREDICTIONS)
SIGMA = torch.tensor([0.02, 0.3, 0.7, 0.98])
SCHEDULES = {"diffusion": preserving_alpha(SIGMA), "flow": 1 - SIGMA}


def ends(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean, noise = (torch.randn(4, 3, 5, 4, generator=generator) for _ in range(2))
    return clean, noise


def truth(kind: str, alpha: Tensor) -> Tensor:
    return PREDICTIONS[kind].target(*ends(), alpha, SIGMA)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_every_kind_gives_every_other(source: str, target: str, schedule: str) -> None:
    alpha = SCHEDULES[schedule]
    x = diffuse(*ends(), alpha, SIGMA)
    found = convert(truth(source, alpha), x, alpha, SIGMA, source=source, target=target)
    # At sigma or alpha 0.02 a rounding error of the state is divided by it.
    torch.testing.assert_close(found, truth(target, alpha), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_a_wrong_prediction_survives_the_way_there_and_back(source: str, target: str) -> None:
    alpha = SCHEDULES["diffusion"]
    x, wrong = diffuse(*ends(), alpha, SIGMA).double(), ends(seed=1)[0].double()
    there = convert(wrong, x, alpha.double(), SIGMA.double(), source=source, target=target)
    back = convert(there, x, alpha.double(), SIGMA.double(), source=target, target=source)
    torch.testing.assert_close(back, wrong, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_any_prediction_lie_on_a_path_through_the_state(kind: str) -> None:
    alpha = SCHEDULES["diffusion"]
    x, wrong = diffuse(*ends(), alpha, SIGMA), ends(seed=1)[0]
    clean, noise = PREDICTIONS[kind].ends(x, wrong, alpha, SIGMA)
    torch.testing.assert_close(diffuse(clean, noise, alpha, SIGMA), x, rtol=1e-5, atol=1e-5)


def test_on_a_flow_the_velocity_is_the_flows_own() -> None:
    clean, noise = ends()
    alpha = 1 - SIGMA
    x, velocity = interpolate(clean, noise, SIGMA), ends(seed=1)[0]
    torch.testing.assert_close(diffuse(clean, noise, alpha, SIGMA), x)
    found = PREDICTIONS["velocity"].ends(x, velocity, alpha, SIGMA)
    torch.testing.assert_close(found.clean, clean_from_velocity(x, velocity, SIGMA))
    torch.testing.assert_close(found.noise, noise_from_velocity(x, velocity, SIGMA))


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_v_and_velocity_hold_at_both_ends_of_the_path(sigma: float) -> None:
    level = torch.full((4,), sigma)
    alpha = preserving_alpha(level)
    clean, noise = ends()
    x = diffuse(clean, noise, alpha, level)
    for kind in ("v", "velocity"):
        found = PREDICTIONS[kind].ends(x, PREDICTIONS[kind].target(clean, noise, alpha, level), alpha, level)
        torch.testing.assert_close(found.clean, clean)
        torch.testing.assert_close(found.noise, noise)


def test_what_a_state_does_not_hold_cannot_be_told_from_its_other_end() -> None:
    clean, noise = ends()
    zero, one = torch.zeros(4), torch.ones(4)
    with pytest.raises(ValueError, match="sigma must be above 0"):
        ends_from_clean(clean, clean, one, zero)
    with pytest.raises(ValueError, match="alpha must be above 0"):
        ends_from_epsilon(noise, noise, zero, one)


def test_a_flows_state_is_a_multiple_of_the_variance_preserving_one() -> None:
    clean, noise = ends()
    level = preserving_level(SIGMA)
    torch.testing.assert_close(flow_level(level), SIGMA, atol=1e-6, rtol=1e-5)
    length = ((1 - SIGMA).square() + SIGMA.square()).sqrt().reshape(-1, 1, 1, 1)
    preserved = diffuse(clean, noise, preserving_alpha(level), level)
    torch.testing.assert_close(interpolate(clean, noise, SIGMA) / length, preserved, atol=1e-5, rtol=1e-5)
