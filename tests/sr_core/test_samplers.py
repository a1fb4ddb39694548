import math

import pytest
import torch

from sr_core.flow import velocity_from_clean
from sr_core.samplers import SAMPLERS, Step, euler_step, heun_step, integrate
from sr_core.schedules import SCHEDULES
from sr_core.tensors import Latent, Sigma

START = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)


def bending_field(x: Latent, sigma: Sigma) -> Latent:
    """Return dx/dsigma of x = x1 exp(sin sigma - sin 1), which no straight step follows."""
    return x * sigma.cos().reshape(-1, 1, 1, 1)


def error_at(step: Step, num_steps: int, end: float) -> float:
    """Return the distance from the true solution at `end`."""
    sigmas = torch.linspace(1, end, num_steps + 1, dtype=torch.float64)
    truth = START * math.exp(math.sin(end) - math.sin(1))
    return float((integrate(step, bending_field, START, sigmas) - truth).abs())


@pytest.mark.parametrize(("step", "order"), [(euler_step, 1), (heun_step, 2)])
def test_each_sampler_reaches_its_order_above_sigma_0(step: Step, order: int) -> None:
    slope = math.log2(error_at(step, 32, 0.1) / error_at(step, 64, 0.1))
    assert slope == pytest.approx(order, abs=0.12)


def test_halving_the_steps_onto_sigma_0_leaves_heun_its_last_euler_step() -> None:
    calls = []

    def counted(x: Latent, sigma: Sigma) -> Latent:
        calls.append(float(sigma))
        return bending_field(x, sigma)

    integrate(heun_step, counted, START, torch.linspace(1, 0, 5, dtype=torch.float64))
    assert len(calls) == 2 * 4 - 1
    assert min(calls) > 0


def test_heun_onto_sigma_0_is_euler() -> None:
    sigma, zero = torch.tensor([0.3], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert torch.equal(heun_step(bending_field, START, sigma, zero), euler_step(bending_field, START, sigma, zero))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_a_clean_prediction_is_reached_and_finite_at_sigma_0(name: str, schedule: str, num_steps: int) -> None:
    target = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))

    def velocity(x: Latent, sigma: Sigma) -> Latent:
        return velocity_from_clean(x, target, sigma)

    reached = integrate(SAMPLERS[name], velocity, noise, SCHEDULES[schedule](num_steps))
    torch.testing.assert_close(reached, target, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_straight_path_needs_one_step(name: str) -> None:
    clean, noise = torch.full((2, 1, 3, 3), 0.25), torch.full((2, 1, 3, 3), 4.0)
    for num_steps in (1, 7):
        sigmas = SCHEDULES["linear"](num_steps)
        reached = integrate(SAMPLERS[name], lambda x, sigma: noise - clean, noise, sigmas)  # noqa: ARG005
        torch.testing.assert_close(reached, clean)


def test_the_callback_sees_every_state_and_can_stop_the_loop() -> None:
    seen: list[tuple[int, float]] = []

    def on_step(index: int, x: Latent) -> None:
        seen.append((index, float(x)))
        if index == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        integrate(euler_step, lambda x, sigma: torch.ones_like(x), START, torch.linspace(1, 0, 6), on_step)  # noqa: ARG005
    assert seen == [(0, pytest.approx(0.5)), (1, pytest.approx(0.3))]


def test_sampling_records_no_gradients() -> None:
    weight = torch.ones((), requires_grad=True)
    assert not integrate(euler_step, lambda x, sigma: x * weight, START, torch.linspace(1, 0, 3)).requires_grad  # noqa: ARG005
