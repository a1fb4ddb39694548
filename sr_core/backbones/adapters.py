"""Named LoRA sets on a network: which layers they touch, loading, their sum at work, and merging into the weights."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sr_core.backbones.lora_files import PEFT_FILES as PEFT_FILES
from sr_core.backbones.lora_files import LoraSet, lora_settings
from sr_core.errors import ConfigError, WeightsError


def convolution_names(model: nn.Module) -> list[str]:
    """Return the names of all convolutions, the layers that a LoRA of a flow head adapts."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def merge_adapter(model: nn.Module, folder: Path) -> None:
    """Add the LoRA stored in a PEFT folder to the weights of `model` in place.

    Raises WeightsError if the folder is incomplete or was made for another network.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    settings, weights = (folder / name for name in PEFT_FILES)
    # Both are looked for here: peft would search a model hub for a missing one.
    if not (settings.is_file() and weights.is_file()):
        raise WeightsError(f"{folder} must be a PEFT folder with {' and '.join(PEFT_FILES)}")
    try:
        config = LoraConfig.from_pretrained(str(folder))
        if not isinstance(config, LoraConfig):
            raise WeightsError(f"{folder} must hold a LoRA, got {type(config).__name__}")
        inject_adapter_in_model(config, model)
        result: Any = set_peft_model_state_dict(model, load_file(weights))
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{folder} cannot be read as a LoRA of this network: {error}") from error
    foreign = [*result.unexpected_keys, *(key for key in result.missing_keys if "lora_" in key)]
    if foreign:
        raise WeightsError(f"{folder} was made for another network: {', '.join(foreign[:3])} ...")
    _merge_layers(model, None)


def _merge_layers(model: nn.Module, names: list[str] | None) -> None:
    """Add the active sets, or the named ones, to the weights and leave the layers as they were before any LoRA."""
    from peft.tuners.lora import LoraLayer

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge(adapter_names=names)
                setattr(parent, name, child.get_base_layer())


def _layers(model: nn.Module) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def lora_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the LoRA sets on a model, in the order they were added."""
    return tuple(dict.fromkeys(name for layer in _layers(model) for name in layer.lora_A))


def _check_names(model: nn.Module, names: Sequence[str]) -> None:
    known = lora_names(model)
    for name in names:
        if name not in known:
            raise ConfigError(f"a LoRA set must be one of {', '.join(known) or 'none (none is loaded)'}, got {name!r}")


def _inject(model: nn.Module, name: str, settings: Mapping[str, Any]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    if name in lora_names(model):
        raise ConfigError(f"a LoRA set must have a name of its own, got {name!r} twice")
    with warnings.catch_warnings():
        # Several sets on one model are the point here.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        inject_adapter_in_model(LoraConfig(**settings), model, adapter_name=name)
    # What diffusers' own methods ask before they touch adapters.
    model._hf_peft_config_loaded = True  # type: ignore[assignment]


def add_lora(
    model: nn.Module, name: str, *, rank: int, alpha: float, targets: str | Sequence[str], seed: int = 0
) -> None:
    """Add a LoRA set that changes nothing yet: `up` is zero, `down` is drawn from `seed`.

    `targets` is a regular expression that matches whole layer names, or their endings as a list. The sets that were
    active stay so, alone. Raises ConfigError if no layer has such a name.
    """
    before = active_loras(model)
    settings = {"r": rank, "lora_alpha": alpha}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            _inject(model, name, {**settings, "target_modules": targets if isinstance(targets, str) else list(targets)})
        except ValueError as error:
            raise ConfigError(f"targets must name layers of the model: {error}") from error
    use_loras(model, before)


def load_lora(model: nn.Module, name: str, lora: LoraSet) -> None:
    """Put a LoRA set on a model under a name, beside those it has; the sets that were active stay so, alone.

    Raises WeightsError, naming the layer, if the set was made for another network.
    """
    modules = dict(model.named_modules())
    for layer, down in lora.down.items():
        module: Any = modules.get(layer)
        weight = getattr(getattr(module, "base_layer", module), "weight", None)
        if weight is None:
            raise WeightsError(f"the LoRA was made for another network: this one has no layer {layer}")
        inputs, outputs = getattr(module, "in_features", weight.shape[1]), weight.shape[0]
        outputs = getattr(module, "out_features", outputs)
        if (down.shape[1], lora.up[layer].shape[0]) != (inputs, outputs):
            raise WeightsError(
                f"the LoRA was made for another network: {layer} must map {inputs} to {outputs} values, "
                f"got {down.shape[1]} to {lora.up[layer].shape[0]}"
            )
    before = active_loras(model)
    _inject(model, name, lora_settings(lora))
    parameters = _parameters(model, name)
    with torch.no_grad():
        for layer in lora.down:
            parameters[f"{layer}.lora_A.weight"].copy_(lora.down[layer])
            parameters[f"{layer}.lora_B.weight"].copy_(lora.up[layer])
    use_loras(model, before)


def _parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """Return the parameters of a set by layer and half, without the set's name."""
    marker = f".{name}."
    found = model.named_parameters()
    return {key.replace(marker, "."): value for key, value in found if "lora_" in key and marker in key}


def lora_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """Return the parameters of a set, to train them, by `<layer>.lora_A.weight` and `<layer>.lora_B.weight`.

    Raises ConfigError for an unknown name.
    """
    _check_names(model, [name])
    return _parameters(model, name)


def lora_set(model: nn.Module, name: str, tensors: Mapping[str, Tensor] | None = None) -> LoraSet:
    """Return a set as values, sharing memory with the model; `tensors` replaces them, as averaged weights would.

    Raises ConfigError for an unknown name.
    """
    _check_names(model, [name])
    values = _parameters(model, name) if tensors is None else tensors
    alpha = {}
    for layer_name, module in model.named_modules():
        if name in getattr(module, "lora_alpha", ()):
            alpha[layer_name] = float(module.scaling[name]) * int(module.r[name])
    down = {layer: values[f"{layer}.lora_A.weight"].detach() for layer in alpha}
    return LoraSet(down, {layer: values[f"{layer}.lora_B.weight"].detach() for layer in alpha}, alpha)


def active_loras(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the sets that the model predicts with."""
    layers = _layers(model)
    if not layers or layers[0].disable_adapters:
        return ()
    return tuple(name for name in layers[0].active_adapters if name in lora_names(model))


def use_loras(model: nn.Module, names: Sequence[str], *, trained: str | None = None) -> None:
    """Predict with the sum of the named sets, or with the bare model if there are none; only `trained` takes gradients.

    Raises ConfigError for an unknown name.
    """
    _check_names(model, [*names, *([trained] if trained else [])])
    for layer in _layers(model):
        layer.set_adapter(list(names), inference_mode=True)
        layer._disable_adapters = not names
    if trained is not None:
        for parameter in _parameters(model, trained).values():
            parameter.requires_grad_(True)


@contextmanager
def using_loras(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Run a block with the sum of these sets; what was active and trained before is so again afterwards, always."""
    before = active_loras(model)
    trained = [value for name in lora_names(model) for value in _parameters(model, name).values()]
    flags = [parameter.requires_grad for parameter in trained]
    use_loras(model, names)
    try:
        yield
    finally:
        use_loras(model, before)
        for parameter, flag in zip(trained, flags, strict=True):
            parameter.requires_grad_(flag)


def merge_loras(model: nn.Module, names: Sequence[str]) -> None:
    """Add the sum of the named sets to the weights in place and remove every LoRA layer.

    Raises ConfigError for an unknown name, and for a quantised model: rounding the sum would change what it predicts.
    """
    _check_names(model, names)
    for layer in _layers(model):
        weight = layer.get_base_layer().weight
        if not weight.dtype.is_floating_point:
            raise ConfigError("a LoRA must be merged into the base in full precision; load it without 8-bit or 4-bit")
    _merge_layers(model, list(names))
    if hasattr(model, "peft_config"):
        del model.peft_config
    model._hf_peft_config_loaded = False  # type: ignore[assignment]
