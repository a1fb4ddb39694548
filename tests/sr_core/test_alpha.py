import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_core.alpha import bleed_colour, enlarge_alpha
from sr_core.resampling import resize


def test_a_flat_colour_on_clear_black_enlarges_without_a_dark_rim() -> None:
    alpha = torch.zeros(1, 1, 40, 40)
    alpha[..., 10:30, 10:30] = 1
    orange = torch.tensor([0.9, 0.5, 0.1])[:, None, None]
    pixels = orange * alpha  # black where nothing is to be seen
    rimmed = resize(pixels, 160, 160)
    bled = resize(bleed_colour(pixels, alpha), 160, 160)
    visible = enlarge_alpha(alpha, 160, 160) > 0.02
    assert ((rimmed - orange).abs() * visible).max() > 0.3
    assert ((bled - orange).abs() * visible).max() < 1 / 255


def test_what_can_be_seen_keeps_its_colour() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, 33, 47, generator=generator)
    alpha = torch.rand(1, 1, 33, 47, generator=generator)
    bled = bleed_colour(pixels, alpha)
    seen = (alpha >= 1 / 16).expand_as(pixels)
    assert torch.equal(bled[seen], pixels[seen])


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_filled_colour_lies_within_the_colours_that_can_be_seen(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(1, 3, height, width, generator=generator)
    alpha = (torch.rand(1, 1, height, width, generator=generator) > 0.7).float()
    bled = bleed_colour(pixels, alpha)
    seen = pixels[(alpha == 1).expand_as(pixels)].reshape(3, -1)
    if seen.numel() == 0:
        torch.testing.assert_close(bled.mean((2, 3)), pixels.mean((2, 3)), atol=0.5, rtol=0)
        return
    assert (bled.amin((0, 2, 3)) >= seen.amin(1) - 1e-5).all()
    assert (bled.amax((0, 2, 3)) <= seen.amax(1) + 1e-5).all()


def test_enlarged_opacity_stays_in_range_and_keeps_its_share() -> None:
    alpha = torch.zeros(1, 1, 32, 32)
    alpha[..., 8:24, 5:20] = 1
    enlarged = enlarge_alpha(alpha, 128, 96)
    assert enlarged.min() == 0
    assert enlarged.max() == 1
    torch.testing.assert_close(enlarged.mean(), alpha.mean(), atol=0.01, rtol=0)
