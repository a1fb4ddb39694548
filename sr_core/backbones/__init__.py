"""One file per backbone behind one protocol; `load_backbone` is the table's door."""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import torch

from sr_core.assets import ASSETS
from sr_core.backbones.backbone import Backbone
from sr_core.errors import ConfigError

SFT = "sft"
"""Name of the backbone's own weights, without an adapter."""
ONE_STEP = "one_step"
"""Name of the weights that restore in one step; not a LoRA but a model of its own around the same prior."""
_LABELS = {SFT: "SFT", "hpo": "DP2O", "sobolev_dpo": "Sobolev-DPO", "as_dpo": "AS-DPO", ONE_STEP: "One step"}


class BackboneLoader(Protocol):
    """Builds one backbone; imports what it needs only then."""

    def __call__(self, *, dtype: torch.dtype, device: str, adapter: Path | None) -> Backbone:
        """Return the backbone; raises WeightsError if a file is missing."""


def _load_compact(*, dtype: torch.dtype, device: str, adapter: Path | None) -> Backbone:
    if adapter is not None and adapter.suffix:
        from sr_core.backbones.compact_one_step import load_compact_one_step

        return load_compact_one_step(dtype=dtype, device=device, path=adapter)
    from sr_core.backbones.compact import load_compact

    return load_compact(dtype=dtype, device=device, adapter=adapter)


BACKBONES: dict[str, BackboneLoader] = {"compact": _load_compact}


def adapter_folder(backbone: str) -> Path:
    """Return where the adapters of a backbone lie, one PEFT folder each."""
    return ASSETS / backbone / "adapters"


def adapter_label(name: str) -> str:
    """Return an adapter's name for people; one that is not of the papers keeps its own."""
    return _LABELS.get(name, name)


def available_adapters(backbone: str) -> tuple[str, ...]:
    """Return the names that `load_backbone` accepts as adapter: `sft`, those of the papers, then any other."""
    found = {path.parent.name for path in adapter_folder(backbone).glob("*/adapter_config.json")}
    found |= {ONE_STEP} & {path.stem for path in (ASSETS / backbone).glob("*.safetensors")}
    return (SFT, *(name for name in _LABELS if name in found), *sorted(found - _LABELS.keys()))


def _checked(value: str, known: tuple[str, ...], what: str) -> str:
    if value not in known:
        near = get_close_matches(value, known) or known
        raise ConfigError(f"unknown {what} {value!r}; did you mean {', '.join(near)}?")
    return value


def load_backbone(
    name: str, *, dtype: torch.dtype, device: str = "cpu", adapter: str = SFT
) -> Callable[[torch.dtype], Backbone]:
    """Return the named backbone as a function of precision; each precision is loaded once, `dtype` at once.

    Raises ConfigError for an unknown name and WeightsError if weights are missing.
    """
    _checked(name, tuple(BACKBONES), "backbone")
    _checked(adapter, available_adapters(name), "adapter")
    path = {SFT: None, ONE_STEP: ASSETS / name / f"{ONE_STEP}.safetensors"}.get(adapter, adapter_folder(name) / adapter)
    loaded: dict[torch.dtype, Backbone] = {}

    def of(precision: torch.dtype) -> Backbone:
        if precision not in loaded:
            loaded[precision] = BACKBONES[name](dtype=precision, device=device, adapter=path)
        return loaded[precision]

    of(dtype)
    return of
