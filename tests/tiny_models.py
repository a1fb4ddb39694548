"""Tiny random-weight versions of the large backbones: real classes and configuration keys, saved as folders."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TEXT_LENGTH = 16
TEXT_WIDTH = 16


def tiny_clip_tokenizer(folder: Path) -> None:
    """Save a CLIP tokenizer that knows single characters."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TEXT_LENGTH)
    tokenizer.save_pretrained(str(folder))


def tiny_clip(folder: Path, *, projected: bool = False, width: int = TEXT_WIDTH) -> None:
    """Save a CLIP text encoder of two layers for the tiny tokenizer."""
    config = CLIPTextConfig(
        vocab_size=190, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH, projection_dim=width, bos_token_id=188, eos_token_id=189, pad_token_id=189,
    )  # fmt: skip
    (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).save_pretrained(str(folder))


def tiny_vae(latent_channels: int = 4, **extra: object) -> AutoencoderKL:
    """Return a VAE that reduces by 8, as the real ones do."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=4,
        latent_channels=latent_channels, sample_size=64, **extra,
    )  # fmt: skip


def tiny_unet(*, cross_width: int = TEXT_WIDTH, **extra: object) -> UNet2DConditionModel:
    """Return a UNet of two blocks whose own size is 64 px."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_width, attention_head_dim=4, norm_num_groups=4, use_linear_projection=True, **extra,
    )  # fmt: skip


def save_controlnet(unet: UNet2DConditionModel, file: Path) -> None:
    """Save a ControlNet as DP2O-SR releases it, its zero convolutions moved so that the photo matters."""
    from safetensors.torch import save_file

    network = ControlNetModel.from_unet(unet)
    for name, parameter in network.named_parameters():
        if "controlnet_" in name:
            parameter.data.normal_(std=0.05)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, file)


def _tiny_sd(folder: Path, prediction_type: str, *, is_xl: bool = False) -> Path:
    """Save `base` and `controlnet` below a folder and return it."""
    torch.manual_seed(0)
    base = folder / "base"
    extra: dict[str, object] = {}
    if is_xl:
        extra = {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + TEXT_WIDTH, "cross_width": 2 * TEXT_WIDTH,
        }  # fmt: skip
        tiny_clip_tokenizer(base / "tokenizer_2")
        tiny_clip(base / "text_encoder_2", projected=True)
    unet = tiny_unet(**extra)
    unet.save_pretrained(str(base / "unet"))
    tiny_vae(scaling_factor=0.18215).save_pretrained(str(base / "vae"))
    tiny_clip_tokenizer(base / "tokenizer")
    tiny_clip(base / "text_encoder")
    DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        timestep_spacing="leading", prediction_type=prediction_type,
    ).save_pretrained(str(base / "scheduler"))  # fmt: skip
    save_controlnet(unet, folder / "controlnet" / "model.safetensors")
    return folder


def tiny_sd2(folder: Path, prediction_type: str = "epsilon") -> Path:
    """Save C-SD2's parts, `base` and `controlnet`, and return the folder; `v_prediction` is SD2's other kind."""
    return _tiny_sd(folder, prediction_type)


def tiny_sd15(folder: Path) -> Path:
    """Save SD1.5's parts and return the folder."""
    return _tiny_sd(folder, "epsilon")


def tiny_sdxl(folder: Path) -> Path:
    """Save SDXL's parts, with two text encoders, and return the folder."""
    return _tiny_sd(folder, "epsilon", is_xl=True)


def tiny_sd_turbo(folder: Path) -> Path:
    """Save a base as SD-Turbo's, for one-step training, and return the folder."""
    return _tiny_sd(folder, "epsilon")


def save_unet_lora(base: Path, folder: Path, *, spread: float, form: str) -> None:
    """Save a LoRA on a base's attention, as diffusers saves it or as a PEFT folder; `spread` 0 changes nothing."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    settings = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"])
    model = UNet2DConditionModel.from_pretrained(str(base / "unet"))
    if form == "peft":
        model = get_peft_model(model, settings)
    else:
        model.add_adapter(settings)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(spread * torch.randn(parameter.shape, generator=generator))
    if form == "peft":
        model.save_pretrained(str(folder))
        return
    StableDiffusionPipeline.save_lora_weights(str(folder), unet_lora_layers=get_peft_model_state_dict(model))
