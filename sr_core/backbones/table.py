"""The table of backbones: loader, own settings, and the parts that each is made of."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from sr_core.backbones.backbone import Backbone, BackboneLoader, BackboneSpec, LoadOptions, Part
from sr_core.backbones.drawing import ALL_SAMPLERS, COMPACT, FLOW_SAMPLERS, Drawing
from sr_core.errors import ConfigError

NEGATIVE_PROMPT = "dotted, noise, blur, lowres, smooth"
"""Of DP2O-SR's released script."""
_CONTROLNET_FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
_LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_SD_FILES = ("*.json", "*.txt", "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
             "text_encoder*/model.safetensors")  # fmt: skip


def _load_compact(
    *, dtype: torch.dtype, device: str, adapter: Path | None, parts: Mapping[str, Path], options: LoadOptions  # noqa: ARG001
) -> Backbone:  # fmt: skip
    if options != LoadOptions():
        raise ConfigError("compact fits any machine: leave offload and quantize at none")
    if adapter is not None and adapter.suffix:
        from sr_core.backbones.compact_one_step import load_compact_one_step

        return load_compact_one_step(dtype=dtype, device=device, path=adapter)
    from sr_core.backbones.compact import load_compact

    return load_compact(dtype=dtype, device=device, adapter=adapter)


def _stable_diffusion() -> Callable[..., Backbone]:
    from sr_core.backbones.stable_diffusion import load_stable_diffusion

    return load_stable_diffusion


def _flux() -> Callable[..., Backbone]:
    from sr_core.backbones.flux import load_flux

    return load_flux


def _large(name: str, importer: Callable[[], Callable[..., Backbone]]) -> BackboneLoader:
    """Return the loader of a backbone whose libraries are imported only when it is loaded."""

    def load(
        *, dtype: torch.dtype, device: str, adapter: Path | None, parts: Mapping[str, Path], options: LoadOptions
    ) -> Backbone:
        return importer()(
            name, BACKBONES[name].defaults, dtype=dtype, device=device, adapter=adapter, parts=parts, options=options
        )

    return load


def _sd_base(what: str, hub: str, num_bytes: int, licence: str) -> Part:
    return Part(
        name="base", what=what, hub=hub, num_bytes=num_bytes, licence=licence, files=_SD_FILES,
        needs=("unet/config.json",),
    )  # fmt: skip


def _controlnet(what: str, num_bytes: int, licence: str, *, optional: bool = False, note: str = "") -> Part:
    return Part(
        name="controlnet", what=what, hub=None, num_bytes=num_bytes, licence=licence, needs=_CONTROLNET_FILES,
        optional=optional, note=note,
    )  # fmt: skip


def _lora(what: str, num_bytes: int, licence: str, *, optional: bool = False, note: str = "") -> Part:
    return Part(
        name="lora", what=what, hub=None, num_bytes=num_bytes, licence=licence, needs=_LORA_FILES,
        optional=optional, note=note,
    )  # fmt: skip


def _sd_drawing(*, tile: int = 128, start: str = "noise", strength: float = 1.0, guidance: float = 3.5) -> Drawing:
    return Drawing(
        num_steps=50, sampler="native", schedule="linear", color="adain", tile=tile, guidance=guidance, prompt="",
        negative_prompt=NEGATIVE_PROMPT, start=start, strength=strength,
    )  # fmt: skip


TAGGER = Part(
    name="tagger", what="BLIP image captioning base, describes the photo where the prompt is `auto`",
    hub="Salesforce/blip-image-captioning-base", num_bytes=990_000_000, licence="BSD-3-Clause",
    files=("*.json", "*.txt", "model.safetensors"), needs=("config.json",), optional=True,
)  # fmt: skip
_FLUX_BASE = Part(
    name="base", what="FLUX.1-dev", hub="black-forest-labs/FLUX.1-dev", num_bytes=33_900_000_000,
    licence="FLUX.1 [dev] Non-Commercial License", gated=True,
    files=("*.json", "*.txt", "*.model",
           "transformer/*.safetensors", "vae/*.safetensors", "text_encoder*/*.safetensors"),
    needs=("transformer/config.json",),
)  # fmt: skip
_ASASR_LORA = Part(
    name="lora", what="ASASR's LoRA for super-resolution, with its AS-DPO policy", hub="wafer-bob/ASASR",
    num_bytes=1_044_000_000, licence="CC-BY-NC-4.0", files=("sr_lora/*", "dpo_lora/*"),
    needs=("sr_lora/pytorch_lora_weights_v2.safetensors", *_LORA_FILES),
    note="a LoRA of your own takes its place as pytorch_lora_weights.safetensors or as a PEFT folder",
)  # fmt: skip
_DP2O_NOTE = "its authors are at github.com/cswry/DP2O-SR"
_OWN_NOTE = "train it here, or take one for super-resolution"

BACKBONES: dict[str, BackboneSpec] = {
    "compact": BackboneSpec(
        label="compact: offline, any machine", load=_load_compact, defaults=COMPACT, samplers=FLOW_SAMPLERS
    ),
    "c-sd2": BackboneSpec(
        label="C-SD2 (DP2O-SR)",
        load=_large("c-sd2", _stable_diffusion), defaults=_sd_drawing(), samplers=ALL_SAMPLERS,
        parts=(
            _sd_base(
                "Stable Diffusion 2 base", "stabilityai/stable-diffusion-2-base", 5_200_000_000,
                "CreativeML Open RAIL++-M"
            ),
            _controlnet("C-SD2 or DP2O-SD2, model.safetensors", 1_457_000_000, "of its authors", note=_DP2O_NOTE),
            TAGGER,
        ),
    ),
    "sd15": BackboneSpec(
        label="SD1.5: ControlNet or LoRA",
        load=_large("sd15", _stable_diffusion), defaults=_sd_drawing(start="lq", strength=0.5), samplers=ALL_SAMPLERS,
        parts=(
            _sd_base(
                "Stable Diffusion 1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5", 4_300_000_000,
                "CreativeML Open RAIL-M"
            ),
            _controlnet(
                "a ControlNet of Stable Diffusion 1.5", 1_445_000_000, "of its authors", optional=True,
                note=_OWN_NOTE),
            _lora("a LoRA of Stable Diffusion 1.5", 27_000_000, "of its authors", optional=True, note=_OWN_NOTE),
            TAGGER,
        ),
        one_of=("controlnet", "lora"),
    ),
    "sdxl": BackboneSpec(
        label="SDXL: ControlNet or LoRA",
        load=_large("sdxl", _stable_diffusion),
        defaults=_sd_drawing(tile=256, start="lq", strength=0.5), samplers=ALL_SAMPLERS,
        parts=(
            _sd_base(
                "Stable Diffusion XL base", "stabilityai/stable-diffusion-xl-base-1.0", 13_900_000_000,
                "CreativeML Open RAIL++-M",
            ),
            _controlnet("a ControlNet of SDXL", 5_004_000_000, "of its authors", optional=True, note=_OWN_NOTE),
            _lora("a LoRA of SDXL", 93_000_000, "of its authors", optional=True, note=_OWN_NOTE),
            TAGGER,
        ),
        one_of=("controlnet", "lora"),
    ),
    "c-flux": BackboneSpec(
        label="C-FLUX (DP2O-SR)",
        load=_large("c-flux", _flux),
        defaults=Drawing(
            num_steps=25, sampler="native", schedule="linear", color="adain", tile=256, guidance=2.5, prompt="",
            start="noise", strength=1.0,
        ),
        samplers=ALL_SAMPLERS,
        parts=(
            _FLUX_BASE,
            _controlnet("C-FLUX or DP2O-FLUX, model.safetensors", 5_700_000_000, "of its authors", note=_DP2O_NOTE),
            TAGGER,
        ),
    ),
    "flux-lora": BackboneSpec(
        label="FLUX LoRA (ASASR)",
        load=_large("flux-lora", _flux),
        defaults=Drawing(
            num_steps=28, sampler="native", schedule="linear", color="adain", tile=256, guidance=3.5, prompt="",
            start="noise", strength=1.0,
        ),
        samplers=ALL_SAMPLERS,
        parts=(
            _FLUX_BASE,
            _ASASR_LORA,
            TAGGER,
        ),
        variants=(("as_dpo", "dpo_lora"),),
    ),
}  # fmt: skip
"""Every backbone that can be chosen, by the name that recipes, the page and the command line use."""
