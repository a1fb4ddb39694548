"""Latent backbones of random weights, built on the device at full size, or at tiny size for any machine."""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from sr_core.backbones import configurations as full
from sr_core.backbones import spec_of
from sr_core.backbones.adapters import add_lora, use_loras
from sr_core.backbones.latent import LatentBackbone, LatentCondition, Text

SFT_RANK = 16
"""Rank of the SFT set of flux-lora."""
_TINY_VAE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 64}
_TINY_UNET = {
    "sample_size": 8, "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 16, "attention_head_dim": 4,
}  # fmt: skip
_TINY_FLUX = {
    "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 24, "pooled_projection_dim": 16, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip


def num_parallel(device: torch.device) -> int:
    """Return how many candidates go in a pass, as the loaders have it."""
    return 4 if device.type == "cuda" else 1


def materialised(network: nn.Module, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Give a network of the meta device random weights where it is to run, frozen; nothing lies in main memory."""
    network = network.to(dtype).to_empty(device=device)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1 / math.sqrt(parameter[0].numel()))
        else:
            nn.init.constant_(parameter, 1.0 if parameter.ndim == 1 else 0.0)
    for buffer in network.buffers():
        nn.init.zeros_(buffer)
    return network.requires_grad_(False).eval()


def _vae(config: dict[str, Any], *, tiny: bool, device: torch.device) -> nn.Module:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        network = AutoencoderKL(**(config | _TINY_VAE if tiny else config))
    return materialised(network, dtype=torch.float32, device=device)


def random_backbone(name: str, *, tiny: bool, dtype: torch.dtype, device: torch.device) -> LatentBackbone:
    """Return `c-sd2`, `c-flux` or `flux-lora` without tokenizers and text encoders."""
    build = _random_sd2 if name == "c-sd2" else _random_flux
    return build(name, tiny=tiny, dtype=dtype, device=device)


def _random_sd2(name: str, *, tiny: bool, dtype: torch.dtype, device: torch.device) -> LatentBackbone:
    from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel

    from sr_core.backbones.stable_diffusion import StableDiffusion

    with torch.device("meta"):
        unet = UNet2DConditionModel(**(full.SD2_UNET | _TINY_UNET if tiny else full.SD2_UNET))
        branch = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    unet, branch = (materialised(network, dtype=dtype, device=device) for network in (unet, branch))
    return StableDiffusion(
        name, unet=unet, controlnet=branch, tokenizers=[], text_encoders=[],
        vae=_vae(full.SD_VAE, tiny=tiny, device=device), scheduler=DDPMScheduler(**full.SD_SCHEDULE),
        drawing=spec_of(name).defaults, dtype=dtype, device=str(device), num_parallel=num_parallel(device),
    )  # fmt: skip


def _random_flux(name: str, *, tiny: bool, dtype: torch.dtype, device: torch.device) -> LatentBackbone:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    from sr_core.backbones.flux import LORA_TARGETS, SFT_SET, ControlledFlux, StreamedFlux, empty_controlnet
    from sr_core.backbones.flux_conditioned import condition_flux

    config = full.FLUX_TRANSFORMER | _TINY_FLUX if tiny else full.FLUX_TRANSFORMER
    with torch.device("meta"):
        transformer: Any = FluxTransformer2DModel(**config)
    transformer = materialised(transformer, dtype=dtype, device=device)
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
        max_image_seq_len=4096,
    )  # fmt: skip
    vae = _vae(full.FLUX_VAE, tiny=tiny, device=device)
    pipeline = SimpleNamespace(vae=vae, scheduler=scheduler, transformer=transformer)
    settings: dict[str, Any] = {
        "pipeline": pipeline, "drawing": spec_of(name).defaults, "dtype": dtype, "device": str(device),
        "num_parallel": num_parallel(device),
    }  # fmt: skip
    if name == "c-flux":
        branch = materialised(empty_controlnet(dict(transformer.config)), dtype=dtype, device=device)
        return ControlledFlux(controlnet=branch, **settings)
    condition_flux(transformer)
    add_lora(transformer, SFT_SET, rank=SFT_RANK, alpha=float(SFT_RANK), targets=LORA_TARGETS)
    use_loras(transformer, (SFT_SET,))
    return StreamedFlux(**settings)


def random_condition(backbone: Any, side: int, *, count: int, generator: torch.Generator) -> LatentCondition:  # noqa: ANN401
    """Return what photos enlarged to `side` px give; text embeddings have the length that the release uses."""
    device, latent = backbone.device, side // backbone.factor
    channels = int(backbone.vae.config.latent_channels)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    if backbone.prediction == "velocity":
        config = backbone.transformer.config
        text = Text(normal(count, 512, config.joint_attention_dim), normal(count, config.pooled_projection_dim))
        negative = None
    else:
        text, negative = (Text(normal(count, 77, backbone.unet.config.cross_attention_dim)) for _ in range(2))
    lq = torch.rand((count, 3, side, side), generator=generator).to(device)
    size = (side, side)
    return LatentCondition(lq, normal(count, channels, latent, latent), text, negative, size, size)
