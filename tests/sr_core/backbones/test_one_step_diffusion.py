import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from sr_core.backbones.one_step import TimestepSelector, diffusion_levels
from sr_core.backbones.one_step_diffusion import (
    HeroSR,
    clean_from_epsilon,
    flat_released,
    load_hero_sr,
    load_released,
)
from sr_core.errors import ConfigError, InputError, WeightsError

TARGETS = {"unet": ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv_in"], "vae": ["conv_in", "conv_out", "conv1"]}


def tiny_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        cross_attention_dim=12, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    blocks = 2
    return AutoencoderKL(
        block_out_channels=(4, 8), norm_num_groups=2, latent_channels=4, scaling_factor=0.18215,
        down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
    )  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder like SD-Turbo's, tiny and random."""
    folder = tmp_path_factory.mktemp("turbo")
    tiny_unet().save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    torch.manual_seed(2)
    text = CLIPTextConfig(
        vocab_size=4, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    words = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", model_max_length=8)
    tokenizer.save_pretrained(folder / "tokenizer")
    DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).save_pretrained(
        folder / "scheduler"
    )
    return folder


def released(spread: float = 0.05, ranks: tuple[int, int] = (3, 2)) -> dict[str, Any]:
    """A checkpoint in the released layout, with random LoRA of the given ranks."""
    content: dict[str, Any] = {}
    for part, model, rank, adapter in (
        ("unet", tiny_unet(), ranks[0], "default"),
        ("vae", tiny_vae(), ranks[1], "vae"),
    ):
        config = LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=TARGETS[part])
        model.add_adapter(config, adapter_name=adapter)
        generator = torch.Generator().manual_seed(3)
        state = {name: value for name, value in model.state_dict().items() if "lora_" in name}
        state = {name: spread * torch.randn(value.shape, generator=generator) for name, value in state.items()}
        content |= {f"rank_{part}": rank, f"{part}_lora_target_modules": TARGETS[part], f"state_dict_{part}": state}
    torch.manual_seed(4)
    content["state_dict_time_adaptive"] = TimestepSelector(diffusion_levels()).state_dict()
    return content


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hero") / "hero.safetensors"
    tensors, metadata = flat_released(released())
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.fixture(scope="module")
def model(base: Path, checkpoint: Path) -> HeroSR:
    return load_hero_sr(base, checkpoint)


def image(size: int = 16) -> torch.Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(5))


def test_one_step_undoes_the_diffusion_of_a_known_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 4, 3, 3, generator=generator) for _ in range(2))
    share = torch.tensor([0.9991, 0.0047])
    z = share.sqrt()[:, None, None, None] * clean + (1 - share).sqrt()[:, None, None, None] * noise
    torch.testing.assert_close(clean_from_epsilon(z, noise, share), clean, atol=1e-4, rtol=0)


def test_the_restoration_is_the_formula_over_the_real_classes(model: HeroSR) -> None:
    lq = image()
    timestep = torch.tensor([499.0])
    with torch.no_grad():
        z = model.vae.encode(2 * lq - 1).latent_dist.mode() * 0.18215
        epsilon = model.unet(z, timestep, encoder_hidden_states=model.prompt).sample
        share = model.alphas_cumprod[499]
        clean = (z - (1 - share).sqrt() * epsilon) / share.sqrt()
        expected = (model.vae.decode(clean / 0.18215).sample.clamp(-1, 1) + 1) / 2
        torch.testing.assert_close(model.restore(lq, timestep), expected, atol=1e-4, rtol=0)


def test_ranks_are_read_from_the_file_and_scaled_by_eight(base: Path, tmp_path: Path) -> None:
    content = released(ranks=(5, 1))
    path = tmp_path / "hero.pth"
    torch.save(content, path)
    found = load_hero_sr(base, path)
    layer = found.unet.conv_in
    assert layer.r["default"] == 5
    down, up = (content["state_dict_unet"][f"conv_in.lora_{side}.default.weight"] for side in ("A", "B"))
    delta = torch.einsum("or,rihw->oihw", up[..., 0, 0], down) * 8 / 5
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        change = layer(z) - layer.base_layer(z)
        torch.testing.assert_close(change, torch.nn.functional.conv2d(z, delta, padding=1), atol=1e-5, rtol=1e-3)
    assert found.vae.encoder.conv_in.r["vae"] == 1


def test_both_file_kinds_hold_the_same_model(base: Path, model: HeroSR, tmp_path: Path) -> None:
    path = tmp_path / "hero.pth"
    torch.save(released(), path)
    with torch.no_grad():
        assert torch.equal(load_hero_sr(base, path).restore(image()), model.restore(image()))


def test_runs_repeat_and_seeds_differ(model: HeroSR) -> None:
    def drawn(seed: int) -> torch.Tensor:
        with torch.no_grad():
            return model.restore(image(), generator=torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    with torch.no_grad():
        assert torch.equal(model.restore(image()), model.restore(image()))


def test_the_gradient_of_the_loss_reaches_the_selector_through_the_time_embedding(model: HeroSR) -> None:
    model.selector.requires_grad_(True)
    model.restore(image()).square().mean().backward()
    gradient = model.selector.fc[2].weight.grad
    model.selector.requires_grad_(False)
    assert gradient is not None
    assert float(gradient.abs().max()) > 0


def _changed(tmp_path: Path, content: dict[str, Any]) -> Path:
    path = tmp_path / "changed.pth"
    torch.save(content, path)
    return path


def test_missing_and_renamed_keys_are_refused_by_name(base: Path, tmp_path: Path) -> None:
    content = released()
    name = next(iter(content["state_dict_unet"]))
    content["state_dict_unet"]["renamed"] = content["state_dict_unet"].pop(name)
    with pytest.raises(WeightsError, match=rf"state_dict_unet lacks {name} and holds unknown renamed"):
        load_hero_sr(base, _changed(tmp_path, content))
    content = released()
    del content["state_dict_time_adaptive"]["fc.0.bias"]
    with pytest.raises(WeightsError, match=r"state_dict_time_adaptive lacks fc\.0\.bias"):
        load_hero_sr(base, _changed(tmp_path, content))
    content = released()
    del content["rank_vae"]
    with pytest.raises(WeightsError, match="lacks rank_vae"):
        load_hero_sr(base, _changed(tmp_path, content))
    content = {**released(), "rank_unet": 7}
    with pytest.raises(WeightsError, match="state_dict_unet does not fit"):
        load_hero_sr(base, _changed(tmp_path, content))


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "evil.pth"
    torch.save({"state_dict_unet": Evil()}, path)
    with pytest.raises(WeightsError, match="tensors and plain values alone"):
        load_released(path)
    assert not (tmp_path / "ran").exists()


def test_other_folders_and_sizes_are_refused(model: HeroSR, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a diffusers folder"):
        load_hero_sr(tmp_path, checkpoint)
    with pytest.raises(InputError, match="multiples of 2"):
        model.restore(image(15))
    assert json.loads(flat_released(released())[1]["rank_unet"]) == 3
