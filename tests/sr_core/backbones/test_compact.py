import copy
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sr_core.backbones import available_adapters, load_backbone
from sr_core.backbones.backbone import Backbone
from sr_core.backbones.compact import (
    HEAD_FILE,
    CompactBackbone,
    head_metadata,
    load_head,
    residual_latent,
)
from sr_core.backbones.flow_head import FlowHead, HeadInput, unshuffle_planes
from sr_core.backbones.prior import Prior
from sr_core.errors import ConfigError, WeightsError
from sr_core.flow import interpolate
from sr_core.images import read_image


def photo_of(photos: Path, height: int = 21, width: int = 34) -> torch.Tensor:
    return read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200 : 200 + height, 180 : 180 + width]


@pytest.fixture
def backbone(prior: Prior, head: FlowHead) -> CompactBackbone:
    return CompactBackbone(prior, head, dtype=torch.float32)


def test_the_clean_latent_of_the_truth_decodes_to_the_truth(backbone: CompactBackbone, photos: Path) -> None:
    lq = photo_of(photos)
    condition = backbone.encode(lq)
    hq = torch.nn.functional.interpolate(lq, scale_factor=4, mode="bilinear").clamp(0.02, 0.98)
    photo = HeadInput(condition.photo, unshuffle_planes(condition.prior), lq, condition.gain)
    latent = residual_latent(unshuffle_planes(hq), photo, backbone.head)
    assert tuple(latent.shape[1:]) == backbone.latent_shape(lq)
    torch.testing.assert_close(backbone.decode(latent, condition), hq, atol=1e-5, rtol=0)


def test_the_zero_latent_is_the_prior(backbone: CompactBackbone, photos: Path) -> None:
    lq = photo_of(photos)
    condition = backbone.encode(lq)
    zero = torch.zeros(1, *backbone.latent_shape(lq))
    assert torch.equal(backbone.decode(zero, condition).clamp(0, 1), backbone.prior_image(condition))
    with torch.inference_mode():
        assert torch.equal(backbone.prior_image(condition), backbone.prior(lq).image.clamp(0, 1))


@pytest.mark.parametrize("size", [(5, 7), (8, 8), (21, 34)])
def test_any_photo_size_has_a_velocity(backbone: CompactBackbone, photos: Path, size: tuple[int, int]) -> None:
    lq = photo_of(photos, *size)
    condition = backbone.encode(lq)
    x = torch.randn(2, 48, *size, generator=torch.Generator().manual_seed(0))
    velocity = backbone.velocity(x, torch.tensor([1.0, 0.5]), condition)
    assert velocity.shape == x.shape
    assert bool(torch.isfinite(velocity).all())
    with pytest.raises(ValueError, match="sigma must be above 0"):
        backbone.velocity(x, torch.tensor([1.0, 0.0]), condition)


def test_the_velocity_points_from_the_predicted_residual(backbone: CompactBackbone, photos: Path) -> None:
    lq = photo_of(photos, 8, 12)
    condition = backbone.encode(lq)
    x = torch.randn(1, 48, 8, 12, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.25])
    with torch.inference_mode():
        clean = backbone.head.clean(x, sigma, condition.photo)
        noise = (x - 0.75 * clean) / 0.25
        torch.testing.assert_close(interpolate(clean, noise, sigma), x, atol=1e-5, rtol=0)
        torch.testing.assert_close(backbone.velocity(x, sigma, condition), noise - clean, atol=1e-4, rtol=0)


def test_bfloat16_keeps_the_units_and_stays_close(prior: Prior, head: FlowHead, photos: Path) -> None:
    units = {name: value.clone() for name, value in head.named_buffers()}
    exact = CompactBackbone(copy.deepcopy(prior), copy.deepcopy(head), dtype=torch.float32)
    short = CompactBackbone(copy.deepcopy(prior), copy.deepcopy(head), dtype=torch.bfloat16)
    for name, value in short.head.named_buffers():
        assert value.dtype == torch.float32
        assert torch.equal(value, units[name])
    assert {p.dtype for p in short.head.parameters()} == {torch.bfloat16}
    lq = photo_of(photos)
    ours, theirs = (b.prior_image(b.encode(lq)) for b in (short, exact))
    assert 0 < float((ours - theirs).abs().max()) < 0.06
    assert float((ours - theirs).abs().mean()) < 0.005


def test_spectra_are_taken_of_an_orthogonal_view(backbone: CompactBackbone) -> None:
    residual = torch.randn(2, 48, 3, 5, generator=torch.Generator().manual_seed(0))
    view = backbone.spectral_view(residual)
    assert view.shape == (2, 3, 12, 20)
    torch.testing.assert_close(view.square().sum((1, 2, 3)), residual.square().sum((1, 2, 3)))


def test_a_stored_head_is_read_back_bit_for_bit(head: FlowHead, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_file(head.state_dict(), path, metadata=head_metadata(head))
    found = load_head(path)
    assert (found.widths, found.num_blocks) == (head.widths, head.num_blocks)
    assert all(torch.equal(value, head.state_dict()[name]) for name, value in found.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "another/1"}, "must hold layout"),
        ({"widths": "8,8"}, "cannot be read as a flow head"),
        ({"widths": "8,8,32"}, "cannot be read as a flow head"),
        ({"num_blocks": None}, "cannot be read as a flow head"),
    ],
)
def test_a_head_that_misstates_itself_is_refused(
    head: FlowHead, tmp_path: Path, change: dict[str, str | None], message: str
) -> None:
    path = tmp_path / "head.safetensors"
    metadata = {k: v for k, v in {**head_metadata(head), **change}.items() if v is not None}
    save_file(head.state_dict(), path, metadata=metadata)
    with pytest.raises(WeightsError, match=message):
        load_head(path)


def test_a_missing_or_damaged_head_is_refused_by_path(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with pytest.raises(WeightsError, match=re.escape(str(path))):
        load_head(path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(WeightsError, match=re.escape(str(path))):
        load_head(path)


def test_the_shipped_head_is_small_and_finite() -> None:
    assert HEAD_FILE.stat().st_size <= 16 * 2**20
    head = load_head()
    assert all(bool(torch.isfinite(value).all()) for value in load_file(HEAD_FILE).values())
    assert 1e6 <= sum(p.numel() for p in head.parameters()) <= 3e6


def test_each_precision_is_loaded_once() -> None:
    of = load_backbone("compact", dtype=torch.float32)
    backbone: Backbone = of(torch.float32)
    assert of(torch.float32) is backbone
    assert (backbone.name, backbone.scale, backbone.dtype) == ("compact", 4, torch.float32)
    assert available_adapters("compact")[0] == "sft"


@pytest.mark.parametrize(
    ("name", "adapter", "near"), [("compcat", "sft", "compact"), ("compact", "sftt", "sft"), ("compact", "../x", "sft")]
)
def test_unknown_names_get_near_ones(name: str, adapter: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean .*{near}"):
        load_backbone(name, dtype=torch.float32, adapter=adapter)
