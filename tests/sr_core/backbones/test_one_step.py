from pathlib import Path

import torch
from torch.nn.functional import gumbel_softmax, interpolate

from sr_core.backbones.one_step import (
    TimestepSelector,
    choose_level,
    diffusion_levels,
    flow_levels,
    gumbel_noise,
    selector_view,
)
from sr_core.images import read_image


def small_selector(levels: torch.Tensor | None = None) -> TimestepSelector:
    torch.manual_seed(1)
    return TimestepSelector(flow_levels() if levels is None else levels, channels=2, num_blocks=1).eval()


def photo_of(photos: Path, height: int = 21, width: int = 34) -> torch.Tensor:
    return read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200 : 200 + height, 180 : 180 + width]


def test_the_candidates_are_those_of_the_release() -> None:
    assert diffusion_levels().tolist() == [1.0, *(float(t) for t in range(9, 1000, 10))]
    levels = flow_levels()
    assert (len(levels), float(levels[0]), float(levels[-1])) == (101, 0.0, 1.0)
    torch.testing.assert_close(levels[37], torch.tensor(0.37))


def test_the_selector_has_the_layers_of_the_release() -> None:
    shapes = {name: tuple(value.shape) for name, value in TimestepSelector(diffusion_levels()).state_dict().items()}
    assert shapes["time_list"] == (101,)
    assert shapes["conv1.0.weight"] == (64, 3, 3, 3)
    assert {name.split(".")[1] for name in shapes if name.startswith("blocks.")} == {"0", "1", "2"}
    assert shapes["blocks.2.conv2.weight"] == (64, 64, 3, 3)
    assert "blocks.0.conv1.bias" not in shapes
    assert (shapes["fc.0.weight"], shapes["fc.2.weight"], shapes["fc.3.weight"]) == ((1000, 3136), (101, 1000), (101,))


def test_logits_are_normalised_and_do_not_depend_on_the_size_of_the_photo() -> None:
    selector = small_selector()
    small = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        logits = selector(small)
        torch.testing.assert_close(selector(small.repeat_interleave(4, 2).repeat_interleave(4, 3)), logits)
    torch.testing.assert_close(logits.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.var(1, correction=0), torch.ones(2), atol=0.05, rtol=0)


def test_the_view_is_the_bicubic_enlargement_sampled_by_nearest(photos: Path) -> None:
    for size in ((21, 34), (40, 32), (150, 90)):
        lq = photo_of(photos, *size)
        enlarged = interpolate(lq, scale_factor=4, mode="bicubic").clamp(0, 1)
        expected = 2 * interpolate(enlarged, size=(128, 128)) - 1
        torch.testing.assert_close(selector_view(lq), expected, atol=1e-5, rtol=0)


def test_the_choice_is_pytorchs_hard_gumbel_softmax_with_its_gradient() -> None:
    levels = diffusion_levels()
    ours = torch.randn(3, 101, generator=torch.Generator().manual_seed(0)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    torch.manual_seed(7)
    expected = (gumbel_softmax(theirs, tau=1, hard=True) * levels).sum(1)
    torch.manual_seed(7)
    noise = -torch.empty_like(ours).exponential_().log()
    chosen = choose_level(ours, levels, noise).level
    torch.testing.assert_close(chosen, expected)
    weight = torch.tensor([1.0, -2.0, 0.5])
    (chosen * weight).sum().backward()
    (expected * weight).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert float(ours.grad.abs().max()) > 0


def test_without_noise_the_most_likely_level_is_returned_exactly() -> None:
    levels = flow_levels()
    logits = torch.randn(50, 101, generator=torch.Generator().manual_seed(0)).requires_grad_()
    choice = choose_level(logits, levels)
    assert torch.equal(choice.level.detach(), levels[logits.argmax(1)])
    torch.testing.assert_close(choice.probability, logits.softmax(1))


def test_gumbel_noise_draws_from_the_softmax() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0]).expand(20_000, 3)
    drawn = (logits + gumbel_noise((20_000, 3), torch.Generator().manual_seed(0))).argmax(1)
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares, logits[0].softmax(0), atol=0.015, rtol=0)
