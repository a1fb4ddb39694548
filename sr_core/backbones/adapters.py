"""LoRA adapters as PEFT folders: which layers they touch, loading, and merging into the weights."""

from pathlib import Path
from typing import Any

from torch import nn

from sr_core.errors import WeightsError

PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")


def convolution_names(model: nn.Module) -> list[str]:
    """Return the names of all convolutions, the layers that a LoRA of a flow head adapts."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def merge_adapter(model: nn.Module, folder: Path) -> None:
    """Add the LoRA stored in a PEFT folder to the weights of `model` in place.

    Raises WeightsError if the folder is incomplete or was made for another network.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer
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
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
