import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_core.backbones.flow_head import (
    CONTRAST_FLOOR,
    DATA_STD,
    LATENT_CHANNELS,
    NUM_CONTRAST_FEATURES,
    FlowHead,
    HeadInput,
    contrast_features,
    image_from_planes,
    shuffle_planes,
    unshuffle_planes,
)
from sr_core.flow import interpolate, velocity_between
from tests.sr_core.backbones.conftest import random_head


def photo_input(height: int = 8, width: int = 12, count: int = 1) -> HeadInput:
    generator = torch.Generator().manual_seed(3)

    def rand(channels: int) -> torch.Tensor:
        return torch.rand(count, channels, height, width, generator=generator)

    return HeadInput(rand(64), rand(48), rand(3), rand(1) + 0.01)


def test_unshuffled_planes_give_the_image_back() -> None:
    image = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    latent = unshuffle_planes(image)
    assert latent.shape == (2, LATENT_CHANNELS, 2, 3)
    torch.testing.assert_close(image_from_planes(shuffle_planes(latent)), image)


def test_the_planes_are_an_orthogonal_view_of_the_image() -> None:
    image = torch.randn(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    latent = unshuffle_planes(image)
    torch.testing.assert_close(latent.square().sum(), image.square().sum())
    torch.testing.assert_close(shuffle_planes(latent).square().sum(), image.square().sum())


def test_grey_has_no_colour_planes() -> None:
    grey = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(1, 3, 8, 8)
    planes = shuffle_planes(unshuffle_planes(grey))
    torch.testing.assert_close(planes[:, :1], grey[:, :1] * math.sqrt(3))
    torch.testing.assert_close(planes[:, 1:], torch.zeros(1, 2, 8, 8), atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 1), st.integers(2, 9), st.integers(2, 9))
def test_flat_input_has_the_contrast_of_the_floor(value: float, height: int, width: int) -> None:
    prior, lq = torch.full((1, 3, 4 * height, 4 * width), value), torch.full((1, 3, height, width), value)
    features = contrast_features(prior, lq)
    assert features.shape == (1, NUM_CONTRAST_FEATURES, height, width)
    torch.testing.assert_close(features, torch.full_like(features, math.log(CONTRAST_FLOOR)), atol=0.4, rtol=0)


def test_more_contrast_means_a_larger_feature_everywhere() -> None:
    generator = torch.Generator().manual_seed(0)
    texture = torch.randn(1, 3, 48, 48, generator=generator) * 0.02
    lq = torch.full((1, 3, 12, 12), 0.5)
    faint, strong = contrast_features(0.5 + texture, lq), contrast_features(0.5 + 3 * texture, lq)
    assert bool((strong > faint).all())


def test_the_gain_is_the_exponential_of_half_a_linear_form(head: FlowHead) -> None:
    generator = torch.Generator().manual_seed(0)
    prior, lq = (torch.rand(1, 3, side, side, generator=generator) for side in (32, 8))
    features = contrast_features(prior, lq)[0]
    expected = torch.exp((0.2 * features[0] + 0.2 * features[1] + 0.1 * features[2] - 4.0) / 2)
    torch.testing.assert_close(head.gain(prior, lq)[0, 0], expected)


def test_channel_units_follow_the_planes_of_the_unshuffle(head: FlowHead) -> None:
    planes = torch.stack([torch.full((8, 8), value) for value in (1.0, 0.4, 0.3)])[None]
    latent = torch.nn.functional.pixel_unshuffle(planes, 4)
    torch.testing.assert_close(head.channel_std().expand(1, 48, 2, 2), latent)


@pytest.mark.parametrize("sigma", [1.0, 0.7, 0.1])
def test_an_untrained_head_is_the_best_linear_denoiser(sigma: float) -> None:
    torch.manual_seed(0)
    head = FlowHead((8, 8, 16), (1, 1, 1))
    generator = torch.Generator().manual_seed(1)
    clean = DATA_STD * torch.randn(1, 48, 64, 64, generator=generator)
    level = torch.tensor([sigma])
    x = interpolate(clean, torch.randn(clean.shape, generator=generator), level)
    photo = head.photo_embedding(photo_input(64, 64))
    with torch.no_grad():
        predicted = head.clean(x, level, photo)
    gain = float((x * clean).mean() / x.square().mean())
    torch.testing.assert_close(predicted, gain * x, atol=0.02, rtol=0)


def test_a_head_that_saw_no_noise_left_returns_what_it_sees(head: FlowHead) -> None:
    x = torch.randn(1, 48, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        photo = head.photo_embedding(photo_input())
        torch.testing.assert_close(head.clean(x, torch.zeros(1), photo), x)


def test_one_photo_serves_many_seeds(head: FlowHead) -> None:
    generator = torch.Generator().manual_seed(0)
    x, sigma = torch.randn(3, 48, 8, 12, generator=generator), torch.tensor([1.0, 0.5, 0.2])
    with torch.no_grad():
        photo = head.photo_embedding(photo_input())
        together = head.clean(x, sigma, photo)
        for k in range(3):
            alone = head.clean(x[k : k + 1], sigma[k : k + 1], photo)
            torch.testing.assert_close(together[k : k + 1], alone, atol=1e-5, rtol=0)


def test_the_prediction_depends_on_noise_level_photo_and_noise(head: FlowHead) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 48, 8, 12, generator=generator)
    photo, sigma = photo_input(), torch.tensor([0.6])
    with torch.no_grad():
        base = head.clean(x, sigma, head.photo_embedding(photo))
        for name in HeadInput._fields:
            changed = photo._replace(**{name: getattr(photo, name) * 0.5})
            other = head.clean(x, sigma, head.photo_embedding(changed))
            assert float((other - base).abs().max()) > 1e-5, name


def test_a_window_far_from_the_border_sees_what_the_whole_photo_sees(head: FlowHead) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 48, 64, 64, generator=generator)
    photo, sigma = photo_input(64, 64), torch.tensor([0.8])
    window = (slice(None), slice(None), slice(0, 48), slice(0, 48))
    with torch.no_grad():
        whole = head.clean(x, sigma, head.photo_embedding(photo))
        part = head.clean(x[window], sigma, head.photo_embedding(HeadInput(*(p[window] for p in photo))))
    inner = (slice(None), slice(None), slice(0, 16), slice(0, 16))
    torch.testing.assert_close(whole[inner], part[inner], atol=1e-5, rtol=0)


def test_velocity_of_a_perfect_head_is_the_paths(head: FlowHead) -> None:
    clean, noise = (torch.randn(1, 48, 4, 4, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    sigma = torch.tensor([0.3])
    x = interpolate(clean, noise, sigma)
    torch.testing.assert_close((x - clean) / 0.3, velocity_between(clean, noise))
    assert head.multiple == 4


def test_equal_seeds_make_equal_heads() -> None:
    ours, theirs = random_head(1).state_dict(), random_head(1).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
