"""One file per backbone behind one protocol; `load_backbone` is the table's door."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path

import torch

from sr_core.assets import ASSETS
from sr_core.backbones.backbone import Backbone, BackboneSpec, LoadOptions
from sr_core.backbones.drawing import Drawing, resolve
from sr_core.backbones.table import BACKBONES as BACKBONES
from sr_core.backbones.weights import describe_missing, find_parts, locate, weights_root
from sr_core.errors import ConfigError, WeightsError

SFT = "sft"
"""Name of the backbone's own weights, without an adapter."""
ONE_STEP = "one_step"
"""Name of the weights that restore in one step; not a LoRA but a model of its own around the same prior."""
_LABELS = {
    SFT: "SFT",
    "hpo": "DP2O",
    "sobolev_dpo": "Sobolev-DPO",
    "as_dpo": "AS-DPO",
    "iqa_amo": "IQA-AMO",
    "iqa_ft": "IQA-FT",
    ONE_STEP: "One step",
}
_ADAPTER_FILES = ("adapter_config.json", "model.safetensors", "diffusion_pytorch_model.safetensors")
"""One of them shows that a folder is an adapter: a PEFT LoRA, or a whole ControlNet."""


def adapter_folder(backbone: str) -> Path:
    """Return where the adapters of a backbone lie, one PEFT folder each."""
    return ASSETS / backbone / "adapters"


def adapter_label(name: str) -> str:
    """Return an adapter's name for people; one that is not of the papers keeps its own."""
    return _LABELS.get(name, name)


def _adapter_paths(backbone: str) -> dict[str, Path]:
    """Return the folder or file of each installed adapter; those of the package win over those beside the weights."""
    found: dict[str, Path] = {}
    for root in (weights_root() / backbone / "adapters", adapter_folder(backbone)):
        for file in _ADAPTER_FILES[: 1 if backbone == "compact" else None]:
            found |= {path.parent.name: path.parent for path in root.glob(f"*/{file}")}
    one_step = ASSETS / backbone / f"{ONE_STEP}.safetensors"
    found |= {ONE_STEP: one_step} if one_step.is_file() else {}
    variants = BACKBONES[backbone].variants if backbone in BACKBONES else ()
    for part in find_parts(backbone, BACKBONES[backbone], {}) if variants else ():
        inside = {name: part.path / folder for name, folder in variants if part.path is not None}
        found = {name: folder for name, folder in inside.items() if folder.is_dir()} | found
    return found


def available_adapters(backbone: str) -> tuple[str, ...]:
    """Return the names that `load_backbone` accepts as adapter: `sft`, those of the papers, then any other."""
    found = _adapter_paths(backbone).keys()
    return (SFT, *(name for name in _LABELS if name in found), *sorted(found - _LABELS.keys()))


def adapter_path(backbone: str, name: str) -> Path | None:
    """Return where an adapter lies, None for `sft`; raises ConfigError for an unknown name."""
    _checked(name, available_adapters(backbone), "adapter")
    return None if name == SFT else _adapter_paths(backbone)[name]


def _checked(value: str, known: tuple[str, ...], what: str) -> str:
    if value not in known:
        near = get_close_matches(value, known) or known
        raise ConfigError(f"unknown {what} {value!r}; did you mean {', '.join(near)}?")
    return value


def spec_of(name: str) -> BackboneSpec:
    """Return the table's row; raises ConfigError for an unknown name."""
    return BACKBONES[_checked(name, tuple(BACKBONES), "backbone")]


def drawing_of(name: str, given: Mapping[str, object]) -> Drawing:
    """Return the settings of a named backbone with what was given in place of its own (see `resolve`)."""
    spec = spec_of(name)
    return resolve(spec.defaults, given, name=name, samplers=spec.samplers)


def missing_words(name: str, options: LoadOptions | None = None) -> str | None:
    """Say what a backbone needs that is not on this machine, and what to type; None if it can run."""
    spec = spec_of(name)
    return describe_missing(name, spec, find_parts(name, spec, dict((options or LoadOptions()).parts)))


def require_weights(name: str, options: LoadOptions | None = None) -> None:
    """Raise WeightsError, with what to get and what to type, if a backbone cannot run; loads nothing."""
    words = missing_words(name, options)
    if words is not None:
        raise WeightsError(words)


def load_backbone(
    name: str,
    *,
    dtype: torch.dtype,
    device: str = "cpu",
    adapter: str = SFT,
    parts: Mapping[str, Path | str] | None = None,
    options: LoadOptions | None = None,
) -> Callable[[torch.dtype], Backbone]:
    """Return the named backbone as a function of precision; each precision is loaded once, `dtype` at once.

    `parts` names folders or files in place of where parts usually lie, and adds to those of `options`.
    Raises ConfigError for an unknown name and WeightsError if weights are missing.
    """
    spec = spec_of(name)
    path = adapter_path(name, adapter)
    options = options or LoadOptions()
    given = dict(options.parts) | dict(parts or {})
    where = locate(name, spec, given)
    loaded: dict[torch.dtype, Backbone] = {}

    def of(precision: torch.dtype) -> Backbone:
        if precision not in loaded:
            loaded[precision] = spec.load(dtype=precision, device=device, adapter=path, parts=where, options=options)
        return loaded[precision]

    of(dtype)
    return of
