import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sr_core.backbones import ONE_STEP, available_adapters, load_backbone
from sr_core.backbones.backbone import OneStep
from sr_core.backbones.compact import CompactBackbone
from sr_core.backbones.compact_one_step import (
    ONE_STEP_FILE,
    SMALL_LEVEL,
    CompactOneStep,
    OneStepModel,
    load_one_step_model,
    one_step_metadata,
    one_step_tensors,
)
from sr_core.backbones.flow_head import FlowHead
from sr_core.backbones.one_step import (
    TimestepSelector,
    flow_levels,
)
from sr_core.backbones.prior import Prior
from sr_core.errors import WeightsError
from sr_core.images import read_image


def small_selector(levels: torch.Tensor | None = None) -> TimestepSelector:
    torch.manual_seed(1)
    return TimestepSelector(flow_levels() if levels is None else levels, channels=2, num_blocks=1).eval()


def photo_of(photos: Path, height: int = 21, width: int = 34) -> torch.Tensor:
    return read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200 : 200 + height, 180 : 180 + width]


@pytest.fixture
def model(head: FlowHead) -> OneStepModel:
    model = OneStepModel.started_from(head)
    for layer in (model.head.embed_shift[0], model.head.embed_shift[2]):
        torch.nn.init.normal_(layer.weight, std=0.3)
    model.selector = small_selector()
    return model.eval()


@pytest.fixture
def backbone(prior: Prior, model: OneStepModel) -> CompactOneStep:
    return CompactOneStep(prior, model.head, model.selector, dtype=torch.float32)


def test_level_zero_is_the_prior_bit_for_bit(backbone: CompactOneStep, photos: Path) -> None:
    lq = photo_of(photos)
    condition = backbone.encode(lq)
    noise = torch.randn(1, *backbone.latent_shape(lq), generator=torch.Generator().manual_seed(0))
    restored = backbone.restore_at(noise, torch.zeros(1), condition)
    assert torch.equal(restored, condition.prior)
    assert not torch.equal(backbone.restore_at(noise, torch.full((1,), 0.5), condition), condition.prior)


def test_the_velocity_is_finite_everywhere_and_leads_to_the_scaled_correction(model: OneStepModel) -> None:
    generator = torch.Generator().manual_seed(0)
    noise, photo = (torch.randn(4, c, 8, 8, generator=generator) for c in (48, 8))
    sigma = torch.tensor([0.0, 0.01, 0.3, 1.0])
    x = sigma[:, None, None, None] * noise
    with torch.no_grad():
        velocity, correction = model.head.velocity(x, sigma, photo), model.head.correction(x, sigma, photo)
    assert bool(torch.isfinite(velocity).all())
    left = x - sigma[:, None, None, None] * velocity - sigma[:, None, None, None] * correction
    square = sigma[:, None, None, None].square()
    torch.testing.assert_close(left, x * SMALL_LEVEL**2 / (square + SMALL_LEVEL**2), atol=1e-5, rtol=0)


def test_at_half_the_range_a_new_head_restores_what_the_flow_head_does(head: FlowHead) -> None:
    ours = OneStepModel.started_from(head).head
    generator = torch.Generator().manual_seed(0)
    noise, photo = (torch.randn(2, c, 8, 8, generator=generator) for c in (48, 8))
    half, one = torch.full((2,), 0.5), torch.ones(2)
    with torch.no_grad():
        residual = 0.5 * ours.correction(0.5 * noise, half, photo)
        torch.testing.assert_close(residual, head.clean(noise, one, photo), atol=2e-3, rtol=0)


def test_the_gradient_of_the_level_comes_through_the_embedding_and_through_the_mixing(model: OneStepModel) -> None:
    generator = torch.Generator().manual_seed(0)
    noise, photo = (torch.randn(1, c, 8, 8, generator=generator) for c in (48, 8))
    head = model.head

    def slope(*, embedding: bool, mixing: bool) -> float:
        sigma = torch.tensor([0.4], requires_grad=True)
        told, mixed = (sigma if wanted else sigma.detach() for wanted in (embedding, mixing))
        plain = type(head).level_embedding
        inner = copy.copy(head)
        inner.level_embedding = lambda _: plain(head, told)  # type: ignore[method-assign]
        (
            mixed[:, None, None, None] * (noise - inner.velocity(mixed[:, None, None, None] * noise, mixed, photo))
        ).square().sum().backward()
        assert sigma.grad is not None
        return float(sigma.grad)

    both, embedding, mixing = (
        slope(embedding=True, mixing=True),
        slope(embedding=True, mixing=False),
        slope(embedding=False, mixing=True),
    )
    assert abs(embedding) > 1e-4
    assert abs(mixing) > 1e-4
    assert both == pytest.approx(embedding + mixing, rel=1e-3)


def test_levels_of_seeds_are_drawn_and_repeat(backbone: CompactOneStep, photos: Path) -> None:
    assert isinstance(backbone, OneStep)
    lq = photo_of(photos)
    likely = backbone.choose_levels(lq)
    assert likely.shape == (1,)
    assert float(likely) in flow_levels().tolist()
    drawn = backbone.choose_levels(lq, range(12))
    assert torch.equal(drawn[5:7], backbone.choose_levels(lq, [5, 6]))
    assert len(drawn.unique()) > 1


def test_precision_does_not_change_the_level(prior: Prior, model: OneStepModel, photos: Path) -> None:
    lq = photo_of(photos)
    exact, short = (
        CompactOneStep(copy.deepcopy(prior), copy.deepcopy(model.head), model.selector, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(exact.choose_levels(lq, range(4)), short.choose_levels(lq, range(4)))


def test_a_stored_model_is_read_back_but_for_halving_and_another_is_refused(head: FlowHead, tmp_path: Path) -> None:
    model = OneStepModel.started_from(head)
    path = tmp_path / "one_step.safetensors"
    save_file(one_step_tensors(model.state_dict()), path, metadata=one_step_metadata(model))
    found = load_one_step_model(path)
    assert torch.equal(found.selector.time_list, flow_levels())
    for name, value in found.state_dict().items():
        if name != "selector.time_list" and value.is_floating_point():
            assert torch.equal(value, model.state_dict()[name].half().float())
    save_file(one_step_tensors(model.state_dict()), path, metadata={**one_step_metadata(model), "layout": "another/1"})
    with pytest.raises(WeightsError, match="must hold layout compact-one-step/1"):
        load_one_step_model(path)
    with pytest.raises(WeightsError, match="python -m train one-step"):
        load_one_step_model(tmp_path / "absent.safetensors")


def test_the_shipped_weights_are_an_adapter_around_the_same_prior() -> None:
    assert ONE_STEP in available_adapters("compact")
    assert ONE_STEP_FILE.stat().st_size <= 16 * 2**20
    ours = load_backbone("compact", dtype=torch.float32, adapter=ONE_STEP)(torch.float32)
    other = load_backbone("compact", dtype=torch.float32)(torch.float32)
    assert isinstance(ours, CompactOneStep)
    assert isinstance(other, CompactBackbone)
    assert not isinstance(other, OneStep)
    assert ours.prior is other.prior
    assert all(bool(torch.isfinite(p).all()) for p in (*ours.head.parameters(), *ours.selector.parameters()))
