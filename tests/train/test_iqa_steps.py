import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from sr_core.backbones.flow_head import FlowHead, HeadInput, unshuffle_planes
from sr_core.images import read_image
from sr_core.resampling import resize_clamped
from sr_core.samplers import SAMPLERS, integrate
from sr_core.schedules import SCHEDULES
from sr_core.spectra import log_spectral_distance
from train.iqa_config import QualityConfig
from train.iqa_steps import Terms, adversarial_losses, drawn_with_gradient, guided_loss
from train.quality import Discriminator, load_quality

SIDE = 96
GAIN = 0.15


def images(seed: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def brightness(x: Tensor) -> Tensor:
    return x.mean((1, 2, 3))


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    image, target = images(0), images(1)
    config = QualityConfig(l1=2.0, perceptual=3.0, quality=0.5)
    terms = Terms(lambda a, b: (a - b).square().mean((1, 2, 3)), brightness, None)
    output = guided_loss(image, target, config, terms)
    expected = 2 * (image - target).abs().mean() + 3 * (image - target).square().mean() - 0.5 * image.mean()
    torch.testing.assert_close(output.loss, expected)
    assert set(output.metrics) == {"l1", "lpips", "quality"}


def test_raising_lambda_pulls_towards_quality_alone() -> None:
    image = images(0).requires_grad_(True)
    terms = Terms(None, brightness, None)
    (slope,) = torch.autograd.grad(guided_loss(image, image.detach(), QualityConfig(quality=2.0), terms).loss, image)
    torch.testing.assert_close(slope, torch.full_like(slope, -2 / image.numel()))


def test_a_patch_without_a_score_leaves_the_others_their_slope() -> None:
    noise = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    image = torch.cat([torch.full_like(noise, 0.5), noise]).requires_grad_(True)
    quality = load_quality("brisque", SIDE, "cpu")
    assert quality(image).isnan().tolist() == [True, False]
    output = guided_loss(image, image.detach(), QualityConfig(quality=1.0), Terms(None, quality, None))
    (slope,) = torch.autograd.grad(output.loss, image)
    assert slope.isfinite().all()
    assert not slope[0].any()
    assert slope[1].any()


def test_the_two_players_of_the_gan_do_not_move_each_other() -> None:
    torch.manual_seed(0)
    discriminator, image = Discriminator(8), images(0).requires_grad_(True)
    fooled, own = adversarial_losses(discriminator, image, images(1))
    parameters = list(discriminator.parameters())
    assert all(g is None for g in torch.autograd.grad(fooled, parameters, allow_unused=True, retain_graph=True))
    assert torch.autograd.grad(own, [image], allow_unused=True) == (None,)
    assert torch.autograd.grad(fooled, [image])[0].abs().sum() > 0


def test_drawing_with_a_gradient_is_drawing() -> None:
    head = FlowHead((8, 8, 8), (1, 1, 1))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    photo = HeadInput(torch.randn(1, 64, 8, 8), unshuffle_planes(torch.rand(1, 3, 32, 32)), torch.rand(1, 3, 8, 8),
                      torch.full((1, 1, 8, 8), 0.05))  # fmt: skip
    embedded, noise = head.photo_embedding(photo), torch.randn(1, 48, 8, 8)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - head.clean(x, sigma, embedded)) / sigma.reshape(-1, 1, 1, 1)

    sigmas = SCHEDULES["geometric"](4)
    drawn = drawn_with_gradient(SAMPLERS["euler"], velocity, noise, sigmas)
    torch.testing.assert_close(drawn.detach(), integrate(SAMPLERS["euler"], velocity, noise, sigmas))
    (slope,) = torch.autograd.grad(drawn.square().sum(), head.embed_x.weight)
    assert slope.abs().sum() > 0


class Restorer(nn.Module):
    """A toy of three convolutions that adds to a blurred picture; all weights move, or a LoRA of rank 1."""

    SHAPES = ((16, 3, 3, 3), (16, 16, 3, 3), (3, 16, 3, 3))

    def __init__(self, *, lora: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int, fan: int) -> Tensor:
            return torch.randn(shape, generator=generator) / fan**0.5

        fans = [math.prod(shape[1:]) for shape in self.SHAPES]
        weights = [drawn(*shape, fan=fan) for shape, fan in zip(self.SHAPES, fans, strict=True)]
        weights[-1].zero_()
        down = [drawn(1, fan, fan=fan) for fan in fans]
        self.weights = nn.ParameterList(nn.Parameter(w, requires_grad=not lora) for w in weights)
        self.down = nn.ParameterList(nn.Parameter(d, requires_grad=lora) for d in down)
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(s[0], 1), requires_grad=lora) for s in self.SHAPES)

    def forward(self, x: Tensor) -> Tensor:
        h = x - 0.5
        for k, (weight, down, up) in enumerate(zip(self.weights, self.down, self.up, strict=True)):
            h = nn.functional.conv2d(
                h if k == 0 else nn.functional.silu(h), weight + (up @ down).reshape(weight.shape), padding=1
            )
        return x + h


class Attacked(NamedTuple):
    """What one attack came to once it had gained enough."""

    quality: float
    psnr: float
    lsd: float


def attack(
    restorer: Restorer, blurred: Tensor, original: Tensor, *, gain: float, rate: float
) -> tuple[Attacked, Attacked]:
    """Climb the score alone until it has risen by `gain`; returns what the picture was and what it is."""
    quality, config = load_quality("brisque", SIDE, "cpu"), QualityConfig(quality=1.0)
    optimizer = torch.optim.Adam([p for p in restorer.parameters() if p.requires_grad], lr=rate)

    def figures(image: Tensor) -> Attacked:
        image = image.detach().clamp(0, 1)
        error = (image - original).square().mean()
        lsd = log_spectral_distance(image, original).mean()
        return Attacked(float(quality(image).mean()), float(-10 * torch.log10(error)), float(lsd))

    first = figures(restorer(blurred))
    for _ in range(40):
        image = restorer(blurred)
        last = figures(image)
        if last.quality >= first.quality + gain:
            break
        optimizer.zero_grad()
        guided_loss(image, original, config, Terms(None, quality, None)).loss.backward()
        optimizer.step()
    return first, last


def test_the_attack_is_real_and_a_lora_does_less_damage_at_equal_score(photos) -> None:
    original = read_image(photos / "eval" / "125_big-indian.png").pixels[..., 150 : 150 + SIDE, 150 : 150 + SIDE]
    blurred = resize_clamped(resize_clamped(original, SIDE // 2, SIDE // 2), SIDE, SIDE)
    before, full = attack(Restorer(lora=False), blurred, original, gain=GAIN, rate=1e-3)
    same, lora = attack(Restorer(lora=True), blurred, original, gain=GAIN, rate=1e-2)
    assert before == same
    assert min(full.quality, lora.quality) >= before.quality + GAIN
    # The score rose by 15 points of BRISQUE, and what does not train fell: fidelity, and the spectrum's likeness.
    assert full.psnr < before.psnr - 3
    assert full.lsd > before.lsd
    # The LoRA pays about half of that in fidelity, and less in the spectrum.
    assert before.psnr - lora.psnr < 0.75 * (before.psnr - full.psnr)
    assert lora.lsd - before.lsd < 0.75 * (full.lsd - before.lsd)


@pytest.mark.parametrize("wrong", [{}, {"quality": -1.0}])
def test_a_loss_of_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="one above it"):
        QualityConfig(**wrong)
