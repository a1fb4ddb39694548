"""The optimisers of the loop: AdamW, and AdamW with an 8-bit state where memory is short."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from sr_core.errors import ConfigError
from train.config import OptimConfig


def make_optimizer(parameters: Sequence[nn.Parameter], optim: OptimConfig) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over `parameters`.

    `adamw_8bit` keeps both moments in blocks of 8-bit numbers (arXiv 2110.02861), a quarter of AdamW's state.
    Raises ConfigError if it cannot run here.
    """
    if optim.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=optim.learning_rate, betas=optim.betas, weight_decay=optim.weight_decay)
    try:
        optimizers: Any = import_module("bitsandbytes.optim")
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"optim.optimizer adamw_8bit needs bitsandbytes, which does not load here ({error}); "
            "run: pip install bitsandbytes, or set optim.optimizer=adamw"
        ) from error
    kinds = {parameter.device.type for parameter in parameters}
    if not kinds <= {"cuda", "cpu"}:
        raise ConfigError(
            f"optim.optimizer adamw_8bit runs on cuda and cpu, the weights are on {', '.join(sorted(kinds))}; "
            "set optim.optimizer=adamw"
        )
    found: torch.optim.Optimizer = optimizers.AdamW8bit(
        list(parameters), lr=optim.learning_rate, betas=optim.betas, weight_decay=optim.weight_decay
    )
    return found


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as named tensors, in the order of its parameters."""
    return {
        # The 8-bit optimiser's parameters share their code books, which a file of tensors cannot.
        f"{index}.{name}": torch.as_tensor(value).clone() if name.startswith("qmap") else torch.as_tensor(value)
        for index, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state[parameter].items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put named tensors back into an optimiser built over the same parameters, laid out like them in memory."""
    parameters = _parameters(optimizer)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        # safetensors keeps no strides, and a kernel may round differently on another layout.
        laid_out = torch.empty_like(like, dtype=value.dtype).copy_(value) if value.shape == like.shape else value
        state.setdefault(int(index), {})[name] = laid_out
    if isinstance(optimizer, torch.optim.AdamW):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return
    for place, entry in state.items():
        # The 8-bit optimiser counts its steps in a plain number and keeps its code books where its weights are.
        device = parameters[place].device
        own = {name: int(value) if name == "step" else value.to(device) for name, value in entry.items()}
        optimizer.state[parameters[place]].update(own)
