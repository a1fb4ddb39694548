import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from sr_core.color import COLOR_TRANSFERS, adain, low_band, transfer_color, wavelet
from sr_core.errors import ConfigError


def random_image(seed: int, height: int = 45, width: int = 70, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", list(COLOR_TRANSFERS))
def test_an_image_that_is_its_own_reference_does_not_change(method: str) -> None:
    image = random_image(0)
    torch.testing.assert_close(transfer_color(image, image, method), image, atol=1e-6, rtol=0)


def test_adain_gives_the_reference_s_mean_and_deviation() -> None:
    candidate, reference = random_image(0), 0.2 + 0.3 * random_image(1)
    result = adain(candidate, reference)
    torch.testing.assert_close(result.mean((2, 3)), reference.mean((2, 3)))
    torch.testing.assert_close(result.std((2, 3)), reference.std((2, 3)), atol=1e-4, rtol=0)


def test_adain_undoes_any_change_of_contrast_and_brightness() -> None:
    image = random_image(0)
    torch.testing.assert_close(adain(0.3 * image + 0.2, image), image, atol=1e-3, rtol=0)


def test_adain_of_a_flat_candidate_is_flat_and_finite() -> None:
    result = adain(torch.full((1, 3, 8, 8), 0.5), random_image(1, 8, 8))
    assert torch.isfinite(result).all()
    assert result.std((2, 3)).max() < 1e-6


def test_the_low_band_is_five_dilated_binomial_convolutions() -> None:
    image = random_image(2)
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (row[:, None] * row).expand(3, 1, 3, 3)
    expected = image
    for dilation in (1, 2, 4, 8, 16):
        expected = conv2d(pad(expected, (dilation,) * 4, mode="replicate"), kernel, dilation=dilation, groups=3)
    torch.testing.assert_close(low_band(image), expected)


def test_the_low_band_of_a_flat_image_is_the_image() -> None:
    flat = torch.full((1, 3, 40, 33), 0.7)
    torch.testing.assert_close(low_band(flat), flat)


def test_wavelet_keeps_the_high_band_and_takes_the_reference_s_low_band() -> None:
    candidate, reference = random_image(0), random_image(1)
    result = wavelet(candidate, reference)
    torch.testing.assert_close(result - low_band(reference), candidate - low_band(candidate))


def test_wavelet_removes_a_colour_cast_exactly() -> None:
    image = random_image(0)
    cast = torch.tensor([0.2, -0.1, 0.05])[:, None, None]
    torch.testing.assert_close(wavelet(image + cast, image), image)


@pytest.mark.parametrize("method", list(COLOR_TRANSFERS))
def test_candidates_of_a_batch_share_one_reference_and_do_not_see_each_other(method: str) -> None:
    candidates, reference = random_image(0, batch=3), random_image(1)
    together = transfer_color(candidates, reference, method)
    alone = torch.cat([transfer_color(candidate[None], reference, method) for candidate in candidates])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("method", list(COLOR_TRANSFERS))
def test_the_result_stays_in_range_and_the_inputs_stay_untouched(method: str) -> None:
    candidate, reference = random_image(0), random_image(1).round()
    before = candidate.clone(), reference.clone()
    result = transfer_color(candidate, reference, method)
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(candidate, before[0])
    assert torch.equal(reference, before[1])


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="wavelet"):
        transfer_color(random_image(0), random_image(1), "wavelets")
