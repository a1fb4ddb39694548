"""FLUX.1-dev at tiny size: the real classes and config keys, random weights, tokenizers included, saved as released."""

import math
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxPipeline,
    FluxTransformer2DModel,
)
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from sr_core.backbones.adapters import add_lora, lora_set
from sr_core.backbones.flux import LORA_TARGETS
from sr_core.backbones.lora_files import SINGLE_FILE, LoraSet, write_lora

WIDTH = 32
TEXT_WIDTH, POOLED_WIDTH = 24, 16

TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": WIDTH // 16,
    "joint_attention_dim": TEXT_WIDTH,
    "pooled_projection_dim": POOLED_WIDTH,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 16,
    "sample_size": 64,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "mid_block_add_attention": True,
    "force_upcast": True,
}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz,."


def clip_tokenizer() -> CLIPTokenizer:
    """Return a CLIP tokenizer that knows every letter, alone and at a word's end, and no merge."""
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({piece: k for k, piece in enumerate(pieces)}, [], model_max_length=77)


def t5_tokenizer() -> T5TokenizerFast:
    """Return a T5 tokenizer of single letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return T5TokenizerFast(pieces, extra_ids=0, model_max_length=512)


def randomise(model: nn.Module, seed: int) -> None:
    """Give every weight a value of its own: a network that starts at zero would agree with anything."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.data.copy_(noise / math.sqrt(parameter[0].numel()))
        elif name.endswith("bias"):
            parameter.data.copy_(0.1 * noise)
        else:
            parameter.data.copy_(1 + 0.1 * noise)


def _text_encoders() -> tuple[CLIPTextModel, T5EncoderModel]:
    pieces = clip_tokenizer().get_vocab()
    clip = CLIPTextConfig(
        vocab_size=len(pieces), hidden_size=POOLED_WIDTH, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=pieces["<|startoftext|>"],
        eos_token_id=pieces["<|endoftext|>"], pad_token_id=pieces["<|endoftext|>"],
    )  # fmt: skip
    t5 = T5Config(
        vocab_size=len(t5_tokenizer()), d_model=TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    return CLIPTextModel(clip).eval(), T5EncoderModel(t5).eval()


def save_flux_base(folder: Path, seed: int = 0) -> Path:
    """Write a whole tiny FLUX.1-dev as a diffusers folder."""
    transformer, vae = FluxTransformer2DModel(**TRANSFORMER), AutoencoderKL(**VAE)
    clip, t5 = _text_encoders()
    for k, model in enumerate((transformer, vae, clip, t5)):
        randomise(model, seed + k)
    with torch.no_grad():  # a posterior without spread, nearly as the real one: samples equal the mean
        vae.encoder.conv_out.weight[16:] = 0
        vae.encoder.conv_out.bias[16:] = -30
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER), vae=vae, transformer=transformer,
        text_encoder=clip, tokenizer=clip_tokenizer(), text_encoder_2=t5, tokenizer_2=t5_tokenizer(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def tiny_controlnet(transformer: FluxTransformer2DModel, seed: int = 10) -> FluxControlNetModel:
    """Return a control branch of four double blocks as C-FLUX has it, its outputs not at zero as after training."""
    heads, width = transformer.config.num_attention_heads, transformer.config.attention_head_dim
    controlnet = FluxControlNetModel.from_transformer(
        transformer, num_layers=4, num_single_layers=0, num_attention_heads=heads, attention_head_dim=width
    )
    randomise(controlnet, seed)
    return controlnet


def save_flux_controlnet(file: Path, base: Path, seed: int = 10) -> Path:
    """Write a control branch as one `model.safetensors`, as C-FLUX and DP2O-FLUX are released."""
    transformer = FluxTransformer2DModel.from_pretrained(base, subfolder="transformer")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tiny_controlnet(transformer, seed).state_dict(), file)
    return file


def flux_inputs(seed: int = 0, *, batch: int = 2, height: int = 4, width: int = 6) -> dict[str, torch.Tensor]:
    """Return what the tiny transformer is called with: `height` x `width` image tokens and seven of text."""
    generator = torch.Generator().manual_seed(seed)
    count = height * width
    rows, columns = torch.arange(count) // width, torch.arange(count) % width
    return {
        "hidden_states": torch.randn(batch, count, 64, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, TEXT_WIDTH, generator=generator),
        "pooled_projections": torch.randn(batch, POOLED_WIDTH, generator=generator),
        "timestep": torch.linspace(0.3, 0.9, batch),
        "guidance": torch.full((batch,), 2.5),
        "img_ids": torch.stack([torch.zeros(count), rows, columns], dim=1),
        "txt_ids": torch.zeros(7, 3),
    }


def random_lora(
    transformer: nn.Module, seed: int, *, rank: int = 4, alpha: float = 4.0, spread: float = 0.3
) -> LoraSet:
    """Return a LoRA over ASASR's layers that is not at zero; the transformer is left as it was but for a set `_`."""
    add_lora(transformer, "_", rank=rank, alpha=alpha, targets=LORA_TARGETS, seed=seed)
    lora = lora_set(transformer, "_")
    generator = torch.Generator().manual_seed(seed)
    up = {layer: spread * torch.randn(value.shape, generator=generator) for layer, value in lora.up.items()}
    down = {layer: value.clone() for layer, value in lora.down.items()}
    return LoraSet(down, up, lora.alpha)


def save_flux_lora(path: Path, base: Path, seed: int) -> Path:
    """Write a LoRA over ASASR's layers as one file or as a PEFT folder."""
    transformer = FluxTransformer2DModel.from_pretrained(base, subfolder="transformer")
    return write_lora(path, random_lora(transformer, seed), component="transformer")


def tiny_flux(folder: Path) -> Path:
    """Write the parts of `c-flux` and `flux-lora` below a folder: base, controlnet, lora and a `policy` LoRA."""
    base = save_flux_base(folder / "base")
    save_flux_controlnet(folder / "controlnet" / "model.safetensors", base)
    save_flux_lora(folder / "lora" / SINGLE_FILE, base, seed=20)
    save_flux_lora(folder / "policy", base, seed=30)
    return folder
