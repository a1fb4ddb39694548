"""LoRA adapters as PEFT folders: which layers they touch, loading, and merging into the weights."""

from pathlib import Path

from torch import nn

from sr_core.errors import WeightsError


def convolution_names(model: nn.Module) -> list[str]:
    """Return the names of all convolutions, the layers that a LoRA of a flow head adapts."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def merge_adapter(model: nn.Module, folder: Path) -> None:
    """Add the LoRA stored in a PEFT folder to the weights of `model` in place.

    Raises WeightsError if the folder is incomplete or was made for another network.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import load_file

    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise WeightsError(f"{folder} must be a PEFT folder with adapter_model.safetensors")
    config = LoraConfig.from_pretrained(str(folder))
    inject_adapter_in_model(config, model)
    result = set_peft_model_state_dict(model, load_file(weights))
    if result.unexpected_keys:
        raise WeightsError(f"{folder} was made for another network: {', '.join(result.unexpected_keys[:3])} ...")
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
