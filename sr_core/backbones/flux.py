"""FLUX.1-dev for restoration: C-FLUX's control branch, and ASASR's form with the photo as a second image stream."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxPipeline,
    FluxTransformer2DModel,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from sr_core.backbones.adapters import load_lora, lora_set, merge_loras, use_loras
from sr_core.backbones.backbone import LoadOptions
from sr_core.backbones.drawing import Drawing
from sr_core.backbones.flux_conditioned import ConditionedFlux, condition_flux
from sr_core.backbones.latent import LatentBackbone, LatentCondition, Text, matched
from sr_core.backbones.loading import fill_network, load_network, read_tensors
from sr_core.backbones.lora_files import PEFT_FILES, read_lora, sum_loras, write_lora
from sr_core.backbones.memory import check_memory_options, place, quantization, slice_attention
from sr_core.errors import WeightsError
from sr_core.flow import interpolate
from sr_core.tensors import Latent, PerSample, Sigma

NUM_CONTROL_BLOCKS = 4
"""Double blocks in C-FLUX's control branch, which has no single ones (DP2O-SR, arXiv 2510.18851, section 5.1)."""
CONTROLNET_FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
"""Names under which control branches are released."""
MAX_WORDS = 512
"""Tokens that the second text encoder reads."""
SFT_SET, POLICY_SET = "sft", "policy"
"""Names of the two LoRA sets of ASASR, whose sum is at work."""
LORA_TARGETS = (
    r"x_embedder"
    r"|transformer_blocks\.\d+\.(norm1\.linear|attn\.to_[qkv]|attn\.to_out\.0|ff\.net\.2)"
    r"|single_transformer_blocks\.\d+\.(norm\.linear|proj_mlp|proj_out|attn\.to_[qkv])"
)
"""Layers that ASASR's LoRA adapts, rank = alpha = 16 (arXiv 2605.23264, released configuration)."""

Tokens = Float[Tensor, "b tokens width"]


def pack(latent: Latent) -> Tokens:
    """Return 2 x 2 patches of a latent as tokens, row by row: (b, h/2 * w/2, 4c)."""
    batch, channels, height, width = latent.shape
    return FluxPipeline._pack_latents(latent, batch, channels, height, width)


def unpack(tokens: Tokens, height: int, width: int) -> Latent:
    """Return the latent (b, c, height, width) of packed tokens."""
    return FluxPipeline._unpack_latents(tokens, height, width, 1)


def positions(height: int, width: int, like: Tensor) -> Float[Tensor, "n 3"]:
    """Return where the tokens of a latent lie: (0, row, column)."""
    return FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, like.device, like.dtype)


class FluxBackbone(LatentBackbone):
    """FLUX behind the backbone protocol; subclasses say how the photo enters."""

    prediction = "velocity"
    cell = 2
    process_size = 512
    training_guidance: float
    """Guidance that the network is told in training unless a recipe says another; drawing has its own."""

    def __init__(self, *, pipeline: Any, drawing: Drawing, dtype: torch.dtype, device: str, num_parallel: int) -> None:  # noqa: ANN401
        super().__init__(
            vae=pipeline.vae, scheduler=pipeline.scheduler, drawing=drawing, dtype=dtype, device=device,
            candidates_per_pass=num_parallel,
        )  # fmt: skip
        self.pipeline, self.transformer = pipeline, pipeline.transformer

    @abstractmethod
    def network(self, inputs: dict[str, Tensor | None], photo: Tokens) -> Tokens:
        """Return the velocity of `hidden_states` beside the photo's tokens; inputs have diffusers' names."""

    def _predicted(self, x: Latent, time: PerSample, condition: LatentCondition, guidance: float) -> Latent:
        count, (height, width) = len(x), x.shape[-2:]
        text, pooled = condition.text
        assert pooled is not None
        tokens, photo = pack(x.to(self.dtype)), pack(matched(condition.latent.to(self.dtype), count))
        embedded = torch.full((count,), guidance, device=x.device) if self.transformer.config.guidance_embeds else None
        inputs = {
            "hidden_states": tokens,
            "encoder_hidden_states": matched(text, count).to(self.dtype),
            "pooled_projections": matched(pooled, count).to(self.dtype),
            "timestep": time.to(torch.float32) / 1000,
            "guidance": embedded,
            "img_ids": positions(height, width, tokens),
            "txt_ids": torch.zeros(text.shape[1], 3, device=x.device, dtype=self.dtype),
        }
        return unpack(self.network(inputs, photo), height, width)

    def forward(self, x: Latent, time: PerSample, condition: LatentCondition) -> Latent:
        """Return the velocity, told the guidance of training; differentiable."""
        return self._predicted(x, time, condition, self.training_guidance)

    def guided(self, x: Latent, time: PerSample, condition: LatentCondition) -> Latent:
        """Return the velocity, told the drawing's guidance: one call, since FLUX.1-dev takes it as an input."""
        return self._predicted(x, time, condition, self.drawing.guidance or 0.0)

    def encode_text(self, prompt: str) -> Text:
        """Return what both encoders say."""
        embedding, pooled, _ = self.pipeline.encode_prompt(prompt, device=self.device, max_sequence_length=MAX_WORDS)
        return Text(embedding, pooled)

    def time_of(self, level: Sigma) -> PerSample:
        """Return 1000 sigma."""
        return 1000 * level

    def fresh_scheduler(self, shape: tuple[int, int]) -> Any:  # noqa: ANN401
        """Return a scheduler shifted for what the network sees at once, one window, as diffusers does for an image."""
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        config, count, window = scheduler.config, self.drawing.num_steps, self._windows(*shape)[0]
        shift = calculate_shift(
            window.height * window.width // 4, config.base_image_seq_len, config.max_image_seq_len,
            config.base_shift, config.max_shift,
        )  # fmt: skip
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / count, count), mu=shift)
        return scheduler

    def noised(self, clean: Latent, noise: Latent, time: PerSample, scheduler: Any) -> Latent:  # noqa: ANN401, ARG002
        """Return the point of the straight path at a time."""
        return interpolate(clean, noise, time.to(noise) / 1000)


class ControlledFlux(FluxBackbone):
    """C-FLUX: a branch copied from the first four double blocks reads the photo; the base is frozen."""

    name = "c-flux"
    training_guidance = 2.5

    def __init__(self, *, controlnet: FluxControlNetModel, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        self.controlnet = controlnet

    def network(self, inputs: dict[str, Tensor | None], photo: Tokens) -> Tokens:
        """Let the branch add to the base's double blocks."""
        double, single = self.controlnet(controlnet_cond=photo, return_dict=False, **inputs)
        return self.transformer(
            controlnet_block_samples=double, controlnet_single_block_samples=single, return_dict=False, **inputs
        )[0]


class StreamedFlux(FluxBackbone):
    """ASASR's form: the photo's tokens are a second image stream, and LoRA sets teach FLUX what to do with them."""

    name = "flux-lora"
    training_guidance = 0.0
    transformer: ConditionedFlux

    def network(self, inputs: dict[str, Tensor | None], photo: Tokens) -> Tokens:
        """Carry the photo's tokens along, at the image's own places."""
        return self.transformer(photo=photo, photo_ids=inputs["img_ids"], **inputs)

    def export(self, path: Path, names: tuple[str, ...] = (SFT_SET, POLICY_SET)) -> Path:
        """Write the exact sum of LoRA sets as one diffusers file, or as a PEFT folder; returns `path`."""
        total = sum_loras([lora_set(self.transformer, name) for name in names])
        return write_lora(path, total, component="transformer", base="black-forest-labs/FLUX.1-dev")


def empty_controlnet(config: Mapping[str, Any]) -> FluxControlNetModel:
    """Return C-FLUX's control branch for a transformer's configuration, on the meta device: no memory for weights."""
    with torch.device("meta"):
        return FluxControlNetModel.from_transformer(
            FluxTransformer2DModel.from_config(config), num_layers=NUM_CONTROL_BLOCKS, num_single_layers=0,
            attention_head_dim=config["attention_head_dim"], num_attention_heads=config["num_attention_heads"],
            load_weights_from_transformer=False,
        )  # fmt: skip


def load_controlnet(path: Path, config: Mapping[str, Any], *, dtype: torch.dtype) -> FluxControlNetModel:
    """Return the control branch of a released `model.safetensors` of C-FLUX or DP2O-FLUX, or of a folder with one.

    Raises WeightsError by the name of a key that is missing, not known, or of another shape.
    """
    return fill_network(empty_controlnet(config), read_tensors(path, CONTROLNET_FILES), path, dtype=dtype)


def _load_pipeline(base: Path, *, dtype: torch.dtype, options: LoadOptions) -> Any:  # noqa: ANN401
    """Return the parts of FLUX.1-dev; the VAE stays in float32, as in the releases."""
    frozen, text = (quantization(options, library, dtype=dtype) for library in ("diffusers", "transformers"))
    try:
        tokenizers = {
            "tokenizer": CLIPTokenizer.from_pretrained(str(base / "tokenizer"), local_files_only=True),
            "tokenizer_2": T5TokenizerFast.from_pretrained(str(base / "tokenizer_2"), local_files_only=True),
        }
        scheduler = FlowMatchEulerDiscreteScheduler.load_config(str(base / "scheduler"), local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{base} must hold the tokenizers and the scheduler of FLUX.1-dev: {error}") from error
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(scheduler),
        transformer=load_network(FluxTransformer2DModel, base, "transformer", dtype=dtype, **frozen),
        vae=load_network(AutoencoderKL, base, "vae", dtype=torch.float32),
        text_encoder=load_network(CLIPTextModel, base, "text_encoder", dtype=dtype),
        text_encoder_2=load_network(T5EncoderModel, base, "text_encoder_2", dtype=dtype, **text),
        **tokenizers,
    )


def load_flux(
    name: str, drawing: Drawing, *, dtype: torch.dtype, device: str, adapter: Path | None, parts: Mapping[str, Path],
    options: LoadOptions,
) -> FluxBackbone:  # fmt: skip
    """Return `c-flux` or `flux-lora` from FLUX.1-dev's folder and a control branch or LoRA sets.

    The adapter of `c-flux` is another branch in place of the part's, or a LoRA that is merged into it; that of
    `flux-lora` is the policy's LoRA, at work beside the part's own (the dual LoRA of ASASR).
    Raises WeightsError if a file is missing or does not fit, and ConfigError if this machine cannot do what `options`
    ask for.
    """
    check_memory_options(options, device)
    pipeline = _load_pipeline(parts["base"], dtype=dtype, options=options)
    num_parallel = 4 if torch.device(device).type == "cuda" and options.offload == "none" else 1
    settings: Any = {"drawing": drawing, "dtype": dtype, "device": device, "num_parallel": num_parallel}
    backbone: FluxBackbone
    if name == "c-flux":
        controlnet = _load_branch(parts["controlnet"], adapter, pipeline.transformer.config, dtype=dtype)
        backbone, beside = ControlledFlux(pipeline=pipeline, controlnet=controlnet, **settings), [controlnet]
    else:
        condition_flux(pipeline.transformer)
        sets = {SFT_SET: _inside(parts["lora"])} | ({} if adapter is None else {POLICY_SET: adapter})
        for label, path in sets.items():
            load_lora(pipeline.transformer, label, read_lora(path, component="transformer", convert=_renamed))
        use_loras(pipeline.transformer, tuple(sets))
        backbone, beside = StreamedFlux(pipeline=pipeline, **settings), []
    in_turn = [pipeline.text_encoder, pipeline.text_encoder_2, pipeline.transformer, pipeline.vae]
    if options.attention == "sliced":
        slice_attention(pipeline.transformer, *beside)
    place(in_turn, options, device, beside=beside)
    backbone.tagger = parts.get("tagger")
    return backbone


def _inside(path: Path) -> Path:
    """Return where the SFT LoRA lies in ASASR's repository, which holds the policy too."""
    return path / "sr_lora" if (path / "sr_lora").is_dir() else path


def _load_branch(
    part: Path, adapter: Path | None, config: Mapping[str, Any], *, dtype: torch.dtype
) -> FluxControlNetModel:
    is_lora = adapter is not None and (adapter / PEFT_FILES[0]).is_file()
    controlnet = load_controlnet(part if adapter is None or is_lora else adapter, config, dtype=dtype)
    if adapter is not None and is_lora:
        load_lora(controlnet, POLICY_SET, read_lora(adapter, component="controlnet"))
        merge_loras(controlnet, [POLICY_SET])
    return controlnet


def _renamed(tensors: dict[str, Tensor]) -> Mapping[str, Tensor]:
    """Return another trainer's LoRA with diffusers' names, by diffusers' own rules."""
    return FluxPipeline.lora_state_dict(tensors)
