import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_core.noise import BLOCK, block_noise

CHANNELS = 2
ORIGIN = -70
FIELD = block_noise(5, CHANNELS, ORIGIN, ORIGIN, 210, 210)

places = st.integers(ORIGIN, 100)
lengths = st.integers(1, 39)


@settings(deadline=None, max_examples=40)
@given(places, places, lengths, lengths)
def test_a_place_has_the_same_noise_in_every_window(top: int, left: int, height: int, width: int) -> None:
    window = block_noise(5, CHANNELS, top, left, height, width)
    y, x = top - ORIGIN, left - ORIGIN
    assert torch.equal(window, FIELD[..., y : y + height, x : x + width])


@pytest.mark.parametrize(
    ("top", "left", "height", "width"),
    [(-1, -1, 2, 2), (BLOCK - 1, 0, 2, 1), (-BLOCK, -BLOCK, BLOCK, BLOCK), (63, -65, 66, 130), (64, 64, 1, 1)],
)
def test_windows_across_block_borders_agree(top: int, left: int, height: int, width: int) -> None:
    window = block_noise(5, CHANNELS, top, left, height, width)
    assert window.shape == (1, CHANNELS, height, width)
    y, x = top - ORIGIN, left - ORIGIN
    assert torch.equal(window, FIELD[..., y : y + height, x : x + width])


def test_blocks_seeds_and_channels_all_differ() -> None:
    corners = [
        block_noise(seed, 2, row * BLOCK, column * BLOCK, 4, 4)[0, channel]
        for seed in (0, 1)
        for row in (-1, 0, 1)
        for column in (-1, 0, 1)
        for channel in (0, 1)
    ]
    flat = torch.stack(corners).flatten(1)
    distances = torch.cdist(flat, flat) + 9 * torch.eye(len(flat))
    assert float(distances.min()) > 1


def test_the_noise_is_standard_normal_and_white() -> None:
    noise = block_noise(3, 8, 0, 0, 256, 256).double()
    n = noise.numel()
    assert abs(float(noise.mean())) < 5 / n**0.5
    assert float(noise.var()) == pytest.approx(1, abs=5 * (2 / n) ** 0.5)
    assert float(noise.pow(4).mean()) == pytest.approx(3, abs=5 * (96 / n) ** 0.5)
    for shift in ((0, 1), (1, 0), (0, BLOCK), (BLOCK, 0)):
        assert abs(float((noise * noise.roll(shift, (2, 3))).mean())) < 5 / n**0.5


def test_the_global_random_state_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = block_noise(2**63 - 17, 1, 0, 0, 3, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(block_noise(2**63 - 17, 1, 0, 0, 3, 3), first)


def test_the_recorded_noise_never_changes() -> None:
    expected = torch.tensor([0.1747368425130844, -1.4193159341812134, -0.29329752922058105, 0.10097759962081909])
    assert torch.equal(block_noise(7, 1, -1, 63, 2, 2).flatten(), expected)
