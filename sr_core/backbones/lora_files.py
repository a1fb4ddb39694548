"""LoRA sets as values: read from PEFT folders and released single files, summed exactly, written back."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sr_core.errors import WeightsError
from sr_core.files import replace_text, replacing

PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
SINGLE_FILE = "pytorch_lora_weights.safetensors"
"""Name under which diffusers stores a LoRA."""
PREFIX = "base_model.model."
"""What PEFT puts before a layer's name in its files."""
HEADER = "lora_adapter_metadata"
"""Where diffusers keeps a LoRA's settings in the header of a single file."""
_KEY = re.compile(
    r"(?P<layer>.+)\.(?:(?P<down>lora_A|lora_down|lora\.down)|(?P<up>lora_B|lora_up|lora\.up))(?:\.default)?\.weight"
)

Convert = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
"""Renames the keys of another trainer's file to those of diffusers."""


class LoraSet(NamedTuple):
    """Low-rank changes by layer: weight + alpha / rank * up @ down."""

    down: dict[str, Tensor]
    """(rank, inputs, ...) by the layer's name in the model."""
    up: dict[str, Tensor]
    """(outputs, rank, ...) of the same layers."""
    alpha: dict[str, float]

    def rank(self, layer: str) -> int:
        """Return the rank at a layer."""
        return int(self.down[layer].shape[0])

    def scale(self, layer: str) -> float:
        """Return alpha / rank."""
        return self.alpha[layer] / self.rank(layer)


def sum_loras(sets: Iterable[LoraSet], weights: Sequence[float] | None = None) -> LoraSet:
    """Return one LoRA that changes every layer by the weighted sum of what the sets change it by.

    Exact, not an approximation: ranks add up, and each scale moves into `up`. The dual LoRA of ASASR (SFT + policy)
    becomes one file this way. Source: ASASR, arXiv 2605.23264, section 4.3 (weights = base + both sets).
    """
    sets = list(sets)
    factors = [1.0] * len(sets) if weights is None else list(weights)
    layers = dict.fromkeys(layer for lora in sets for layer in lora.down)
    down, up = {}, {}
    for layer in layers:
        parts = [(lora, factor) for lora, factor in zip(sets, factors, strict=True) if layer in lora.down]
        down[layer] = torch.cat([lora.down[layer] for lora, _ in parts])
        up[layer] = torch.cat([factor * lora.scale(layer) * lora.up[layer] for lora, factor in parts], dim=1)
    return LoraSet(down, up, {layer: float(len(value)) for layer, value in down.items()})


def _find(path: Path) -> Path:
    if path.suffix == ".safetensors" and path.is_file():
        return path
    for name in (PEFT_FILES[1], SINGLE_FILE):
        if (path / name).is_file():
            return path / name
    only = list(path.glob("*.safetensors"))
    if len(only) == 1:
        return only[0]
    raise WeightsError(
        f"{path} must be a LoRA: a .safetensors file, or a folder with {PEFT_FILES[1]}, {SINGLE_FILE} or exactly one "
        ".safetensors file"
    )


def _settings(file: Path, header: Mapping[str, str], component: str) -> dict[str, Any]:
    """Return what is stored beside the tensors or in their header, with PEFT's names; empty where nothing is said."""
    beside = file.with_name(PEFT_FILES[0])
    if file.name == PEFT_FILES[1] and beside.is_file():
        return dict(json.loads(beside.read_text(encoding="utf-8")))
    values = json.loads(header.get(HEADER, "{}"))
    return {key.removeprefix(f"{component}."): value for key, value in values.items()}


def _alpha(layer: str, rank: int, stored: Mapping[str, Tensor], settings: Mapping[str, Any]) -> float:
    """Return the alpha whose quotient with the rank is the scale; without a word in the file the scale is 1."""
    if f"{layer}.alpha" in stored:
        return float(stored[f"{layer}.alpha"])
    patterns = settings.get("alpha_pattern") or {}
    named = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", layer))
    alpha = float(next(named, settings.get("lora_alpha", rank)))
    return alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha


def _without_prefix(key: str, component: str) -> str:
    return key.removeprefix(PREFIX).removeprefix(f"{component}.")


def read_lora(path: Path, *, component: str, convert: Convert | None = None) -> LoraSet:
    """Return the LoRA in a PEFT folder or a single .safetensors file as PEFT, diffusers or OminiControl write it.

    `component` is the name of the model within its pipeline: `transformer` or `unet`. `convert` is tried on a file
    whose names are another trainer's. Raises WeightsError, naming the key, for anything that is not such a LoRA.
    """
    from safetensors import SafetensorError, safe_open

    file = _find(path)
    try:
        with safe_open(file, framework="pt") as opened:
            header = opened.metadata() or {}
            stored = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        settings = _settings(file, header, component)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read as a LoRA: {error}") from error
    if settings.get("use_dora") or settings.get("peft_type", "LORA") != "LORA":
        raise WeightsError(f"{file} must hold a plain LoRA, got {settings.get('peft_type', 'LORA')} with its own rule")
    if convert is not None and not any(_KEY.fullmatch(key) for key in stored):
        stored = dict(convert(stored))
    return _assemble(file, {_without_prefix(key, component): value for key, value in stored.items()}, settings)


def _assemble(file: Path, stored: Mapping[str, Tensor], settings: Mapping[str, Any]) -> LoraSet:
    """Sort the tensors by layer and half."""
    down: dict[str, Tensor] = {}
    up: dict[str, Tensor] = {}
    for key, value in stored.items():
        match = _KEY.fullmatch(key)
        if match is not None:
            (down if match["down"] else up)[match["layer"]] = value
        elif not (key.endswith(".alpha") and value.numel() == 1):
            raise WeightsError(f"{file} must hold LoRA pairs alone (lora_A, lora_B), got the key {key}")
    if not down and not up:
        raise WeightsError(f"{file} holds no LoRA")
    for layer in sorted(down.keys() ^ up.keys()):
        raise WeightsError(f"{file} must hold both halves of every layer; {layer} lacks one")
    for layer in down:
        if up[layer].ndim < 2 or up[layer].shape[1] != down[layer].shape[0]:
            shapes = f"{tuple(down[layer].shape)} and {tuple(up[layer].shape)}"
            raise WeightsError(f"{file}: both halves of {layer} must share a rank, got shapes {shapes}")
    alpha = {layer: _alpha(layer, len(value), stored, settings) for layer, value in down.items()}
    return LoraSet(down, up, alpha)


def lora_settings(lora: LoraSet) -> dict[str, Any]:
    """Return rank, alpha and layers of a set in PEFT's words; what most layers have is the rule, others the pattern."""
    ranks, alphas = {layer: lora.rank(layer) for layer in lora.down}, lora.alpha
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{layer}": value for layer, value in ranks.items() if value != rank},
        "alpha_pattern": {f"^{layer}": value for layer, value in alphas.items() if value != alpha},
        # One expression, matched whole: in a list `proj_out` would also mean every block's own `proj_out`.
        "target_modules": "|".join(map(re.escape, lora.down)),
    }


def write_lora(path: Path, lora: LoraSet, *, component: str, base: str = "") -> Path:
    """Write a set as one diffusers file (`path` ends in .safetensors) or as a PEFT folder; returns `path`.

    The file is loaded by the `load_lora_weights` of a diffusers pipeline, the folder by PEFT; both by `read_lora`.
    `base` names the model that the set belongs to.
    """
    from safetensors.torch import save

    single = path.suffix == ".safetensors"
    prefix = f"{component}." if single else PREFIX
    tensors = {}
    for layer in lora.down:
        tensors[f"{prefix}{layer}.lora_A.weight"] = lora.down[layer].detach().cpu().contiguous()
        tensors[f"{prefix}{layer}.lora_B.weight"] = lora.up[layer].detach().cpu().contiguous()
    settings = {**lora_settings(lora), "peft_type": "LORA", "base_model_name_or_path": base or None}
    folder = path.parent if single else path
    folder.mkdir(parents=True, exist_ok=True)
    header = {"format": "pt"}
    if single:
        header[HEADER] = json.dumps({f"{prefix}{key}": value for key, value in settings.items()}, sort_keys=True)
    with replacing(path if single else folder / PEFT_FILES[1]) as file:
        file.write(save(tensors, metadata=header))
    if not single:
        replace_text(folder / PEFT_FILES[0], json.dumps(settings, indent=1, sort_keys=True) + "\n")
    return path
