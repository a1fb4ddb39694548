"""Hero-SR over a local SD-Turbo folder: one step of a latent diffusion model from an adaptive timestep.

Source: Hero-SR, arXiv 2412.07152, released inference code. Nothing is downloaded, and no pickle is read but tensors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sr_core.backbones.one_step import (
    TimestepSelector,
    choose_level,
    diffusion_levels,
    gumbel_noise,
)
from sr_core.errors import ConfigError, InputError, WeightsError
from sr_core.tensors import Image, Latent, PerSample

LORA_ALPHA = 8
"""The release leaves peft's own default, whatever the rank: the update is scaled by 8 / rank."""
VAE_ADAPTER = "vae"
PROMPT = " "
"""The release conditions on a single space."""
PARTS = (
    "rank_unet", "unet_lora_target_modules", "state_dict_unet",
    "rank_vae", "vae_lora_target_modules", "state_dict_vae", "state_dict_time_adaptive",
)  # fmt: skip
"""Entries of a released checkpoint."""

Module = Any
"""A model of diffusers or transformers, which are imported only when one is loaded."""


def clean_from_epsilon(z: Latent, epsilon: Latent, alpha_bar: PerSample) -> Latent:
    """Return (z - sqrt(1 - abar) eps) / sqrt(abar), the clean end, in double precision as the release does."""
    share = alpha_bar.double().reshape(-1, 1, 1, 1)
    clean = (z.double() - (1 - share).sqrt() * epsilon.double()) / share.sqrt()
    return clean.to(z.dtype)


@dataclass(frozen=True)
class HeroSR:
    """An enlarged LQ in, its restoration out, in one step."""

    unet: Module
    vae: Module
    selector: TimestepSelector
    alphas_cumprod: Float[Tensor, " t"]
    prompt: Float[Tensor, "1 k d"]
    """Features of the single space."""

    @property
    def factor(self) -> int:
        """Return how many pixels a latent covers along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def choose_timestep(self, image: Image, generator: torch.Generator | None = None) -> PerSample:
        """Return a timestep per photo, differentiable straight through; without a generator the most likely one."""
        logits = self.selector(2 * image - 1)
        levels = self.selector.time_list
        shape = (len(logits), len(levels))
        return choose_level(
            logits, levels, None if generator is None else gumbel_noise(shape, generator).to(logits)
        ).level

    def restore(
        self, image: Image, timestep: PerSample | None = None, generator: torch.Generator | None = None
    ) -> Image:
        """Return the restoration of an LQ that is enlarged to the output's size, in [0, 1]; differentiable.

        Starts from the LQ's latent, not from noise. The timestep reaches the UNet's embedding as a number, with its
        gradient, and picks alpha-bar by its whole part, without one. `generator` draws the level's Gumbel noise and the
        posterior's sample; without it both are their most likely value, which the release does not offer.
        Raises InputError unless the sides are multiples of the latent's factor.
        """
        if any(side % self.factor for side in image.shape[-2:]):
            raise InputError(f"sides must be multiples of {self.factor} px, got {tuple(image.shape[-2:])}")
        if timestep is None:
            timestep = self.choose_timestep(image, generator)
        posterior = self.vae.encode(2 * image - 1).latent_dist
        scale = self.vae.config.scaling_factor
        latent = posterior.mode() if generator is None else _sampled(posterior, generator)
        z = latent * scale
        prompt = self.prompt.expand(len(z), -1, -1)
        epsilon = self.unet(z, timestep, encoder_hidden_states=prompt).sample
        alpha_bar = self.alphas_cumprod[timestep.detach().long()]
        decoded = self.vae.decode(clean_from_epsilon(z, epsilon, alpha_bar) / scale).sample
        return (decoded.clamp(-1, 1) + 1) / 2


def _sampled(posterior: Module, generator: torch.Generator) -> Latent:
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    return posterior.mean + posterior.std * noise


def load_released(path: Path) -> dict[str, Any]:
    """Read a released checkpoint: `.safetensors` (see `flat_released`) or `.pth`, as tensors and plain values alone.

    Raises WeightsError if it holds anything else, or lacks an entry of the released layout.
    """
    if not path.is_file():
        raise WeightsError(f"the Hero-SR weights must be a file, got {path}")
    content = _from_safetensors(path) if path.suffix == ".safetensors" else _from_pickle(path)
    missing = [name for name in PARTS if name not in content]
    if missing:
        raise WeightsError(f"{path.name} must hold {', '.join(PARTS)}; it lacks {', '.join(missing)}")
    return content


def flat_released(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a released checkpoint as one safetensors file holds them."""
    states = [name for name in PARTS if name.startswith("state_dict")]
    tensors = {f"{state}/{key}": value.contiguous() for state in states for key, value in content[state].items()}
    return tensors, {name: json.dumps(content[name]) for name in PARTS if name not in states}


def _from_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            content: dict[str, Any] = {k: json.loads(v) for k, v in (file.metadata() or {}).items() if k in PARTS}
            for name in file.keys():  # noqa: SIM118
                state, _, key = name.partition("/")
                content.setdefault(state, {})[key] = file.get_tensor(name)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{path.name} cannot be read as safetensors: {error}") from error
    return content


def _from_pickle(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle machine meets hostile bytes: it may raise anything
        raise WeightsError(
            f"{path.name} must hold tensors and plain values alone; a pickle that names anything else is not read"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path.name} must hold named entries, got {type(content).__name__}")
    return content


def _add_lora(model: Module, released: Mapping[str, Any], part: str, adapter: str) -> None:
    """Add the LoRA of one part in place; raises WeightsError, with names, unless exactly its keys are there."""
    from peft import LoraConfig

    rank, targets = released[f"rank_{part}"], released[f"{part}_lora_target_modules"]
    if not isinstance(rank, int) or rank < 1:
        raise WeightsError(f"rank_{part} must be a positive whole number, got {rank!r}")
    config = LoraConfig(r=rank, lora_alpha=LORA_ALPHA, init_lora_weights="gaussian", target_modules=targets)
    try:
        model.add_adapter(config, adapter_name=adapter)
    except ValueError as error:
        raise WeightsError(f"{part}_lora_target_modules do not fit this {part}: {error}") from error
    state = released[f"state_dict_{part}"]
    own = cast(nn.Module, model).state_dict()
    wanted = {name for name in own if "lora_" in name}
    _check_keys(f"state_dict_{part}", wanted, set(state), known=set(own))
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"state_dict_{part} does not fit: {' '.join(str(error).split())[:300]}") from error


def _check_keys(name: str, wanted: set[str], found: set[str], known: set[str]) -> None:
    missing, foreign = sorted(wanted - found), sorted(found - known)
    if missing or foreign:
        parts = [f"lacks {', '.join(missing[:3])}"] if missing else []
        parts += [f"holds unknown {', '.join(foreign[:3])}"] if foreign else []
        raise WeightsError(f"{name} {' and '.join(parts)} ({len(missing)} missing, {len(foreign)} unknown in all)")


def load_hero_sr(base: Path, released: Path, *, device: str = "cpu") -> HeroSR:
    """Return Hero-SR from a diffusers folder of SD-Turbo (or another SD-2.1) and a released checkpoint, float32.

    Ranks and layers of both LoRAs are read from the checkpoint. Raises ConfigError if the folder is none, WeightsError
    with names if keys are missing or unknown.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextModel

    if not (base / "unet").is_dir():
        raise ConfigError(f"the base model must be a diffusers folder with unet, vae, scheduler, ..., got {base}")
    content = load_released(released)
    offline: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    try:
        unet = cast(Any, UNet2DConditionModel).from_pretrained(base, subfolder="unet", **offline)
        vae = cast(Any, AutoencoderKL).from_pretrained(base, subfolder="vae", **offline)
        text = CLIPTextModel.from_pretrained(base, subfolder="text_encoder", **offline)
        tokenizer = AutoTokenizer.from_pretrained(base, subfolder="tokenizer", local_files_only=True)
        schedule = cast(Any, DDPMScheduler).from_pretrained(base, subfolder="scheduler", local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{base} is not complete: {str(error).strip().splitlines()[0][:200]}") from error
    _add_lora(unet, content, "unet", "default")
    _add_lora(vae, content, "vae", VAE_ADAPTER)
    selector = TimestepSelector(diffusion_levels())
    state = content["state_dict_time_adaptive"]
    _check_keys("state_dict_time_adaptive", set(selector.state_dict()), set(state), known=set(selector.state_dict()))
    selector.load_state_dict(state)
    tokens = tokenizer(
        PROMPT, max_length=tokenizer.model_max_length, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        prompt = text(tokens).last_hidden_state
    for model in (unet, vae, selector):
        model.requires_grad_(False).eval().to(device)
    return HeroSR(unet, vae, selector, schedule.alphas_cumprod.to(device), prompt.to(device))
