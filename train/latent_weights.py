"""From a recipe's section `backbone` to a latent backbone: which parts it names, and loading them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sr_core.backbones import spec_of
from sr_core.backbones.adapters import PEFT_FILES, load_lora, merge_loras
from sr_core.backbones.backbone import LoadOptions
from sr_core.backbones.drawing import Drawing, resolve
from sr_core.backbones.latent import LatentBackbone
from sr_core.backbones.lora_files import read_lora
from sr_core.backbones.weights import locate
from sr_core.errors import ConfigError
from train.policy import POLICY
from train.preference_config import BackboneConfig, DrawConfig


def given_parts(config: BackboneConfig) -> dict[str, str | Path]:
    """Return the paths that a recipe names, by part.

    A hub id names nothing: such a part lies in the folder of weights or in the hub's cache. The SFT adapter of a
    backbone that is made with a LoRA is its part `lora`.
    """
    spec = spec_of(config.name)
    known = {part.name: part for part in spec.parts}
    named = {"base": config.base, "controlnet": config.controlnet}
    if "lora" in known:
        named["lora"] = config.adapter
    hubs = {part.hub for part in spec.parts}
    return {name: value for name, value in named.items() if value is not None and value not in hubs}


def located_parts(config: BackboneConfig) -> Mapping[str, Path]:
    """Return where every part of the recipe's backbone lies; raises WeightsError with what is missing."""
    return locate(config.name, spec_of(config.name), given_parts(config))


def check_weights(config: BackboneConfig) -> None:
    """Raise WeightsError if a part is missing, before anything loads."""
    if config.head is not None:
        raise ConfigError(f"backbone.head is of compact; {config.name} has base, controlnet and adapter")
    located_parts(config)
    adapter = start_adapter(config)
    if adapter is not None and not adapter.exists():
        raise ConfigError(f"backbone.adapter must be a folder, got {adapter}")


def start_adapter(config: BackboneConfig) -> Path | None:
    """Return the SFT adapter of a backbone that is made without a LoRA: a control branch, or a LoRA of the network."""
    has_lora = any(part.name == "lora" for part in spec_of(config.name).parts)
    return None if config.adapter is None or has_lora else Path(config.adapter)


def network_of(backbone: Any) -> tuple[str, nn.Module]:  # noqa: ANN401
    """Return the network that a LoRA goes on, with diffusers' name of it: the control branch where there is one."""
    for name in ("controlnet", "transformer", "unet"):
        module = getattr(backbone, name, None)
        if module is not None:
            return name, module
    raise ConfigError(f"{backbone.name} has no network that training knows")


def load_latent(
    config: BackboneConfig, *, dtype: torch.dtype, device: str, adapter: Path | None = None
) -> LatentBackbone:
    """Return the recipe's backbone, with a trained adapter beside or in place of its own; imports diffusers.

    A trained LoRA goes on top of the start adapter, as it was trained; a trained branch holds that already.
    Raises WeightsError if a part is missing or does not fit, and ConfigError if a LoRA meets quantized weights.
    """
    spec, start = spec_of(config.name), start_adapter(config)
    on_start = start is not None and adapter is not None and (adapter / PEFT_FILES[0]).is_file()
    options = LoadOptions(quantize=config.quantize)
    found = spec.load(
        dtype=dtype,
        device=device,
        adapter=start if on_start else adapter or start,
        parts=located_parts(config),
        options=options,
    )
    assert isinstance(found, LatentBackbone)
    if on_start:
        assert adapter is not None
        component, network = network_of(found)
        load_lora(network, POLICY, read_lora(adapter, component=component))
        merge_loras(network, [POLICY])
    return found


def drawing_of_recipe(config: BackboneConfig, draw: DrawConfig) -> Drawing:
    """Return the settings with which the recipe draws candidates; colour is left as the network gives it."""
    spec = spec_of(config.name)
    given = {
        "num_steps": draw.num_steps, "sampler": draw.sampler, "schedule": draw.schedule, "guidance": draw.guidance,
        "prompt": config.prompt, "color": "off",
    }  # fmt: skip
    return resolve(spec.defaults, given, name=config.name, samplers=spec.samplers)
