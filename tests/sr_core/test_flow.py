import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sr_core.flow import (
    clean_error_weight,
    clean_from_velocity,
    interpolate,
    noise_from_velocity,
    velocity_between,
    velocity_from_clean,
)

SIGMAS = torch.tensor([1e-3, 0.2, 0.447, 0.8, 1.0])


def ends(count: int = len(SIGMAS)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(count, 3, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))


def test_the_path_runs_from_clean_at_0_to_noise_at_1() -> None:
    clean, noise = ends(2)
    x = interpolate(clean, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(x[0], clean[0])
    assert torch.equal(x[1], noise[1])


def test_the_velocity_is_the_derivative_of_the_path() -> None:
    clean, noise = ends()
    step = 1e-3
    later, earlier = (interpolate(clean, noise, SIGMAS.double() + d) for d in (step, -step))
    torch.testing.assert_close((later - earlier) / (2 * step), velocity_between(clean, noise))


def test_velocity_and_either_end_say_the_same() -> None:
    clean, noise = ends()
    sigma = SIGMAS.double()
    x, velocity = interpolate(clean, noise, sigma), velocity_between(clean, noise)
    torch.testing.assert_close(clean_from_velocity(x, velocity, sigma), clean)
    torch.testing.assert_close(noise_from_velocity(x, velocity, sigma), noise)
    torch.testing.assert_close(velocity_from_clean(x, clean, sigma), velocity)


def test_each_sample_moves_at_its_own_noise_level() -> None:
    clean, noise = ends()
    together = interpolate(clean, noise, SIGMAS.double())
    for i, sigma in enumerate(SIGMAS.double()):
        alone = interpolate(clean[i : i + 1], noise[i : i + 1], sigma[None])
        assert torch.equal(together[i : i + 1], alone)


@pytest.mark.parametrize("sigma", [[0.0], [0.5, 0.0], [-0.1]])
def test_no_velocity_follows_from_the_clean_end_where_no_noise_is_left(sigma: list[float]) -> None:
    x = torch.ones(len(sigma), 3, 2, 2)
    with pytest.raises(ValueError, match="sigma must be above 0"):
        velocity_from_clean(x, x, torch.tensor(sigma))


@given(st.floats(0.448, 1.0))
def test_the_weight_turns_a_clean_error_into_the_velocity_error(sigma: float) -> None:
    clean, noise = ends(1)
    level = torch.tensor([sigma], dtype=torch.float64)
    x, predicted = interpolate(clean, noise, level), clean + 0.1
    error = velocity_from_clean(x, predicted, level) - velocity_between(clean, noise)
    weighted = clean_error_weight(level) * (predicted - clean).square().mean()
    torch.testing.assert_close(weighted, error.square().mean()[None])
    torch.testing.assert_close(clean_error_weight(level), level**-2)


def test_the_weight_stops_growing_at_five() -> None:
    weight = clean_error_weight(torch.tensor([0.0, 1e-6, 0.2, 0.447, 0.4473, 1.0]))
    torch.testing.assert_close(weight, torch.tensor([5.0, 5.0, 5.0, 5.0, 0.4473**-2, 1.0]))
