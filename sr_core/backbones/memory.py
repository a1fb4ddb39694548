"""Large networks in the memory that people have: 8-bit and 4-bit weights, offloading, attention in slices."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from sr_core.backbones.backbone import LoadOptions
from sr_core.errors import ConfigError


def check_memory_options(options: LoadOptions, device: str) -> None:
    """Raise ConfigError if this machine cannot hold weights as asked; nothing is held in another precision instead."""
    kind = torch.device(device).type
    if options.quantize != "none":
        if kind != "cuda":
            raise ConfigError(
                f"{options.quantize} weights need a CUDA device, got {device}; use quantize none here, "
                "or a smaller backbone such as c-sd2"
            )
        if find_spec("bitsandbytes") is None:
            raise ConfigError(f"{options.quantize} weights need bitsandbytes; run: pip install bitsandbytes")
        if options.offload == "sequential":
            raise ConfigError(f"{options.quantize} weights cannot be moved layer by layer; use offload model or none")
    if options.offload != "none" and kind == "cpu":
        raise ConfigError(
            f"offload {options.offload} spares the memory of an accelerator; use offload none on {device}"
        )


def quantization(
    options: LoadOptions, library: Literal["diffusers", "transformers"], *, dtype: torch.dtype
) -> dict[str, Any]:
    """Return what `from_pretrained` of a library is told beside the folder; empty for full precision.

    Products are computed in `dtype`. 4-bit weights are NormalFloat (QLoRA, arXiv 2305.14314, section 3).
    """
    if options.quantize == "none":
        return {}
    if library == "diffusers":
        from diffusers import BitsAndBytesConfig as Settings
    else:
        from transformers import BitsAndBytesConfig as Settings
    if options.quantize == "8bit":
        return {"quantization_config": Settings(load_in_8bit=True)}
    settings = Settings(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": settings}


def is_quantized(network: nn.Module) -> bool:
    """Return whether a network's weights were loaded in 8 or 4 bits."""
    return getattr(network, "hf_quantizer", None) is not None


def place(in_turn: Sequence[nn.Module], options: LoadOptions, device: str, *, beside: Sequence[nn.Module] = ()) -> None:
    """Put networks on a device, or let them wait in main memory until each is called.

    `model` moves a whole network at a time: of those `in_turn` only the last one called stays on the device; those
    `beside`, called in every step with one of them, stay once they were called. `sequential` moves one layer at a time:
    least memory, slowest.
    """
    from accelerate import cpu_offload, cpu_offload_with_hook

    target = torch.device(device)
    if target.index is None and target.type != "cpu":
        target = torch.device(target.type, 0)  # hooks compare devices, and `cuda` is not `cuda:0` to them
    if options.offload == "sequential":
        for network in (*in_turn, *beside):
            cpu_offload(network.to("cpu"), target, offload_buffers=True)
        return
    hook = None
    for network in in_turn:
        if options.offload == "model":
            _, hook = cpu_offload_with_hook(network, target, prev_module_hook=hook)
        elif not is_quantized(network):
            network.to(target)
    for network in beside:
        if options.offload == "model":
            cpu_offload_with_hook(network, target)
        elif not is_quantized(network):
            network.to(target)


def slice_attention(*networks: nn.Module) -> None:
    """Let networks compute attention one head at a time, for devices without a fused kernel.

    Raises ConfigError if a network cannot: FLUX attends by a fused kernel alone, whose memory does not grow with the
    square of the tokens anyway.
    """
    sliced: list[Any] = []
    for network in networks:
        if not hasattr(network, "set_attention_slice"):
            raise ConfigError(f"attention must be whole for {type(network).__name__}: its class has no slices")
        sliced.append(network)
    for network in sliced:
        network.set_attention_slice("max")
