"""C-SD2, SD1.5 and SDXL: diffusers' UNet with a ControlNet that sees the enlarged photo, or with a LoRA."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sr_core.backbones.adapters import load_lora, merge_loras
from sr_core.backbones.backbone import CONTROL_SCALE, LoadOptions
from sr_core.backbones.drawing import Drawing
from sr_core.backbones.latent import LatentBackbone, LatentCondition, Text, matched
from sr_core.backbones.loading import fill_network, load_network, read_tensors
from sr_core.backbones.lora_files import read_lora
from sr_core.backbones.memory import check_memory_options, is_quantized, place, quantization, slice_attention
from sr_core.errors import ConfigError, WeightsError
from sr_core.tensors import Latent, PerSample

CONTROLNET_FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
MERGED = "merged"
PREDICTIONS_OF = {"epsilon": "epsilon", "v_prediction": "v"}
"""Our name of what a scheduler's configuration calls its prediction."""


class StableDiffusion(LatentBackbone):
    """A UNet with one or two CLIP text encoders behind the backbone protocol."""

    def __init__(
        self, name: str, *, unet: nn.Module, controlnet: nn.Module | None, tokenizers: list[Any],
        text_encoders: list[nn.Module], vae: Any, scheduler: Any, drawing: Drawing, dtype: torch.dtype, device: str,  # noqa: ANN401
        num_parallel: int = 1, tagger: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            vae=vae, scheduler=scheduler, drawing=drawing, dtype=dtype, device=device, candidates_per_pass=num_parallel,
            tagger=tagger,
        )  # fmt: skip
        self.name, self.unet, self.controlnet = name, unet, controlnet
        self.tokenizers, self.text_encoders = tokenizers, text_encoders
        config: Any = unet.config
        self.prediction = PREDICTIONS_OF[scheduler.config.prediction_type]
        self.cell = 2 ** (len(config.block_out_channels) - 1)
        self.process_size = int(config.sample_size) * self.factor

    def forward(self, x: Latent, time: PerSample, condition: LatentCondition) -> Latent:
        """Return epsilon or v for states of one window."""
        count, dtype = len(x), self.dtype
        x, time, text = x.to(dtype), time.to(self.device), matched(condition.text.embedding, count).to(dtype)
        common: dict[str, Any] = {"encoder_hidden_states": text, "return_dict": False}
        if condition.text.pooled is not None:
            height, width = condition.lq.shape[-2:]
            sizes = torch.tensor([[height, width, 0, 0, height, width]], device=self.device, dtype=dtype)
            pooled = matched(condition.text.pooled, count).to(dtype)
            common["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": matched(sizes, count)}
        control: dict[str, Any] = {}
        if self.controlnet is not None:
            seen = matched(condition.lq, count).to(dtype)
            down, middle = self.controlnet(x, time, controlnet_cond=seen, conditioning_scale=CONTROL_SCALE, **common)
            control = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.unet(x, time, **common, **control)[0]

    def encode_text(self, prompt: str) -> Text:
        """Return the last hidden state of the one encoder, or SDXL's: the last but one of both, and what is pooled."""
        both = len(self.text_encoders) == 2
        parts, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            tokens = tokenizer(
                prompt,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            output = encoder(tokens.input_ids.to(self.device), output_hidden_states=both)
            parts.append(output.hidden_states[-2] if both else output.last_hidden_state)
            pooled = output.text_embeds if both and hasattr(output, "text_embeds") else pooled
        return Text(torch.cat(parts, -1).to(self.dtype), pooled)


def load_controlnet(path: Path, unet: Any, *, dtype: torch.dtype) -> nn.Module:  # noqa: ANN401
    """Return the ControlNet of a released `model.safetensors`, or of a diffusers folder with its own configuration.

    Raises WeightsError by the name of a key that is missing, not known, or of another shape.
    """
    from diffusers import ControlNetModel

    with torch.device("meta"):
        if path.is_dir() and (path / "config.json").is_file():
            network = ControlNetModel.from_config(ControlNetModel.load_config(str(path), local_files_only=True))
        else:
            network = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    return fill_network(network, read_tensors(path, CONTROLNET_FILES), path, dtype=dtype)


def merge_lora(network: Any, path: Path, component: str) -> None:  # noqa: ANN401
    """Add a LoRA to a network's weights: a PEFT folder, or a file or folder as diffusers saves it.

    Raises WeightsError if it was made for another network, and ConfigError if the weights are quantized.
    """
    if is_quantized(network):
        raise ConfigError(f"a LoRA cannot be merged into 8-bit or 4-bit weights ({path}); use quantize none")
    load_lora(network, MERGED, read_lora(path, component=component))
    merge_loras(network, [MERGED])


def load_stable_diffusion(
    name: str, drawing: Drawing, *, dtype: torch.dtype, device: str, adapter: Path | None, parts: Mapping[str, Path],
    options: LoadOptions,
) -> StableDiffusion:  # fmt: skip
    """Return the backbone from its base folder, its ControlNet or LoRA, and an adapter in place of or beside them.

    The VAE stays in float32, as in the releases. Raises WeightsError if a file is missing or does not fit, and
    ConfigError if this machine cannot do what `options` ask for.
    """
    check_memory_options(options, device)
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    base = parts["base"]
    frozen = quantization(options, "diffusers", dtype=dtype)
    unet = load_network(UNet2DConditionModel, base, "unet", dtype=dtype, **frozen)
    is_controlnet = adapter is not None and not (adapter / "adapter_config.json").is_file()
    control = adapter if is_controlnet else parts.get("controlnet")
    controlnet = None if control is None else load_controlnet(control, unet, dtype=dtype)
    if "lora" in parts:
        merge_lora(unet, parts["lora"], "unet")
    if adapter is not None and not is_controlnet:
        # Preference training moves the control branch where there is one.
        merge_lora(*((unet, adapter, "unet") if controlnet is None else (controlnet, adapter, "controlnet")))
    vae = load_network(AutoencoderKL, base, "vae", dtype=torch.float32)
    encoders: list[nn.Module] = [load_network(CLIPTextModel, base, "text_encoder", dtype=dtype)]
    tokenizer_folders = ["tokenizer"]
    if (base / "text_encoder_2").is_dir():
        encoders.append(load_network(CLIPTextModelWithProjection, base, "text_encoder_2", dtype=dtype))
        tokenizer_folders.append("tokenizer_2")
    try:
        tokenizers = [CLIPTokenizer.from_pretrained(str(base / f), local_files_only=True) for f in tokenizer_folders]
        config = DDPMScheduler.load_config(str(base / "scheduler"), local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{base} must hold its tokenizers and its scheduler: {error}") from error
    if options.attention == "sliced":
        slice_attention(unet, *([] if controlnet is None else [controlnet]))
    place([*encoders, unet, vae], options, device, beside=[] if controlnet is None else [controlnet])
    num_parallel = 4 if torch.device(device).type == "cuda" and options.offload == "none" else 1
    return StableDiffusion(
        name, unet=unet, controlnet=controlnet, tokenizers=tokenizers, text_encoders=encoders, vae=vae,
        scheduler=DDPMScheduler.from_config(config), drawing=drawing, dtype=dtype, device=device,
        num_parallel=num_parallel, tagger=parts.get("tagger"),
    )  # fmt: skip
