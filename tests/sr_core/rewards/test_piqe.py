"""Laws of PIQE, and its agreement with pyiqa."""

import pytest
import torch
from pyiqa.archs.piqe_arch import piqe as pyiqa_piqe

from sr_core.rewards.piqe import has_flat_edge_segment, is_noisy, piqe
from sr_core.tensors import Image

from .conftest import blurred, noisy


@pytest.mark.parametrize("damage", [lambda x: x, blurred, lambda x: noisy(x, 10)])
def test_scores_agree_with_pyiqa(crops: Image, damage) -> None:
    images = damage(crops).clone()
    # Stretching the range then changes nothing: pyiqa rounds luma after it alone, MATLAB and we before it too.
    images[:, :, :16, :16] = 1
    # pyiqa rounds its window to four decimals, which may move a block across a threshold.
    torch.testing.assert_close(piqe(images), pyiqa_piqe(images)[0].float(), rtol=0.01, atol=0.2)


def test_blur_and_noise_raise_the_score(crops: Image) -> None:
    assert (piqe(blurred(crops)) > piqe(crops)).all()
    assert (piqe(noisy(crops, 25)) > piqe(crops)).all()


def test_scores_lie_within_0_and_100(crops: Image) -> None:
    for images in (crops, blurred(crops), noisy(crops, 60)):
        assert ((piqe(images) > 0) & (piqe(images) <= 100)).all()


def test_an_image_without_active_blocks_scores_the_worst() -> None:
    assert piqe(torch.full((1, 3, 64, 64), 0.5)).item() == 100
    assert piqe(torch.zeros(1, 3, 64, 64)).item() == 100


def test_a_size_that_is_no_multiple_of_16_is_mirrored_up_to_one(crops: Image) -> None:
    odd = crops[:, :, :280, :275]
    mirrored = torch.cat((odd, odd[:, :, -8:].flip(2)), dim=2)
    mirrored = torch.cat((mirrored, mirrored[:, :, :, -13:].flip(3)), dim=3)
    torch.testing.assert_close(piqe(odd), piqe(mirrored))


def test_only_a_flat_run_of_six_on_an_edge_is_an_artefact() -> None:
    torch.manual_seed(0)
    blocks = torch.randn(3, 16, 16, dtype=torch.float64)
    blocks[1, 0, 4:10] = 0.3
    blocks[2, 8, 4:10] = 0.3
    assert has_flat_edge_segment(blocks).tolist() == [False, True, False]


def test_even_variation_is_noise_and_a_lone_bright_centre_is_not() -> None:
    torch.manual_seed(0)
    even = torch.randn(16, 16, dtype=torch.float64)
    lone = 0.05 * torch.randn(16, 16, dtype=torch.float64)
    lone[::2, 7:9] = 2
    assert is_noisy(torch.stack((even, lone))).tolist() == [True, False]
