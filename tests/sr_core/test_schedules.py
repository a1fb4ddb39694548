import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sr_core.errors import ConfigError
from sr_core.flow import velocity_from_clean
from sr_core.samplers import Step, euler_step, heun_step, integrate
from sr_core.schedules import SCHEDULES, linear_sigmas, power_sigmas
from sr_core.tensors import Latent, Sigma


@pytest.mark.parametrize("name", SCHEDULES)
@given(num_steps=st.integers(1, 100))
def test_a_schedule_falls_strictly_from_1_to_0(name: str, num_steps: int) -> None:
    sigmas = SCHEDULES[name](num_steps)
    assert sigmas.shape == (num_steps + 1,)
    assert sigmas.dtype == torch.float32
    assert float(sigmas[0]) == 1.0
    assert float(sigmas[-1]) == 0.0
    assert bool((torch.diff(sigmas) < 0).all())


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [0, -3])
def test_no_schedule_has_fewer_than_one_step(name: str, num_steps: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 1, got {num_steps}"):
        SCHEDULES[name](num_steps)


def test_linear_levels_are_equally_spaced() -> None:
    torch.testing.assert_close(torch.diff(linear_sigmas(8)), torch.full((8,), -0.125))


@given(num_steps=st.integers(2, 100), last=st.floats(0.1, 0.9))
def test_the_last_positive_power_level_is_its_share_of_a_step(num_steps: int, last: float) -> None:
    assert float(power_sigmas(num_steps, last=last)[-2]) == pytest.approx(last / num_steps, rel=1e-3)


def test_power_levels_are_their_formula() -> None:
    expected = [(1 + i / 3 * (0.1 ** (1 / 1.5) - 1)) ** 1.5 for i in range(4)]
    torch.testing.assert_close(power_sigmas(4), torch.tensor([*expected, 0.0]))


def test_power_one_with_a_whole_last_step_is_linear() -> None:
    torch.testing.assert_close(power_sigmas(6, power=1.0, last=1.0), linear_sigmas(6))


def kept_spread(step: Step, sigmas: torch.Tensor, std: float) -> float:
    """Return the standard deviation that sampling keeps of a Gaussian whose exact denoiser is known.

    The flow is linear in x, so noise 1 becomes the factor by which any noise is scaled.
    """

    def velocity(x: Latent, sigma: Sigma) -> Latent:
        gain = (1 - sigma) * std**2 / (((1 - sigma) * std).square() + sigma.square())
        return velocity_from_clean(x, x * gain.reshape(-1, 1, 1, 1), sigma)

    return float(integrate(step, velocity, torch.ones(1, 1, 1, 1, dtype=torch.float64), sigmas.double())) / std


@pytest.mark.parametrize("std", [0.2, 0.3, 0.5, 0.8, 1.0, 1.25, 1.5])
def test_four_heun_steps_on_power_levels_keep_a_gaussians_spread_within_11_percent(std: float) -> None:
    assert kept_spread(heun_step, power_sigmas(4), std) == pytest.approx(1, abs=0.11)


@pytest.mark.parametrize("std", [0.5, 0.8, 1.0])
def test_four_equal_euler_steps_lose_about_30_percent_of_a_gaussians_spread(std: float) -> None:
    assert kept_spread(euler_step, linear_sigmas(4), std) == pytest.approx(0.7, abs=0.1)


def test_many_steps_keep_a_gaussians_spread() -> None:
    assert kept_spread(heun_step, power_sigmas(100), 0.6) == pytest.approx(1, abs=0.01)
