import pytest
import torch

from sr_core.errors import ConfigError, WeightsError
from train.quality import Discriminator, load_quality


@pytest.fixture
def textured() -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return (0.5 + 0.1 * torch.randn(2, 3, 96, 96, generator=generator)).clamp(0, 1)


def test_quality_is_one_minus_brisque_over_a_hundred_and_climbing_it_raises_it(textured: torch.Tensor) -> None:
    quality = load_quality("brisque", 96, "cpu")
    image = textured.clone().requires_grad_(True)
    before = quality(image)
    (gradient,) = torch.autograd.grad(before.sum(), image)
    assert gradient.isfinite().all()
    step = 1e-4 * gradient / gradient.square().mean().sqrt()
    assert (quality(textured + step) > before).all()
    assert (quality(textured - step) < before).all()


@pytest.mark.parametrize(
    ("name", "side", "message"), [("lpips", 96, "no-reference"), ("niqe", 96, "at least 192 px"), ("brisque", 32, "64")]
)
def test_a_metric_that_cannot_judge_such_images_is_refused(name: str, side: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_quality(name, side, "cpu")


def test_a_network_whose_file_is_not_there_is_refused_by_name(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsError, match="musiq_koniq"):
        load_quality("musiq", 256, "cpu")


def test_the_discriminator_answers_per_pixel_and_its_slope_is_bounded(textured: torch.Tensor) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator()
    logits = discriminator(textured)
    assert logits.shape == (2, 1, 96, 96)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.mul_(100)
    louder = discriminator(textured) - discriminator.convs["leave"].bias
    # Weights are divided by their largest singular value: scaling them moves the biases alone.
    assert louder.abs().max() < 100 * 10
    assert torch.equal(discriminator(textured), discriminator(textured))
