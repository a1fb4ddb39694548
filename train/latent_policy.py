"""Reference, policy and adversary of a latent backbone: LoRA sets on one network, or a control branch and its copy."""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sr_core.backbones.adapters import (
    active_loras,
    add_lora,
    lora_parameters,
    lora_set,
    use_loras,
    using_loras,
)
from sr_core.backbones.lora_files import LoraSet, read_lora, write_lora
from sr_core.errors import ConfigError
from sr_core.files import replacing
from train.policy import ADVERSARY, POLICY, REFERENCE, TrainedTensors, module_hash, tensors_hash

SAMPLE = 4096
"""Values of each tensor that a fingerprint reads."""


def fingerprint(module: nn.Module) -> str:
    """Return a hash of every tensor's name, type, shape and of up to 4096 of its values, evenly spread.

    A frozen base of 12 billion weights is told from another in a second, where a full hash takes a minute.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if "lora_" in name:
            continue
        flat = value.detach().reshape(-1)
        chosen = flat[:: max(1, flat.numel() // SAMPLE)].contiguous().cpu()
        digest.update(f"{name.replace('.base_layer', '')} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(chosen.view(torch.uint8).numpy().tobytes() if chosen.numel() else b"")
    return digest.hexdigest()


@runtime_checkable
class LatentPolicy(Protocol):
    """Named sets of weights on a latent backbone; only the one in training takes gradients."""

    def using(self, name: str) -> Any:  # noqa: ANN401 - a context manager
        """Run a block with another set at work; the one before is at work again afterwards."""

    def trained(self, name: str = POLICY) -> TrainedTensors:
        """Return the parameters of a set as a module for the training loop."""

    def add_adversary(self, *, rank: int, alpha: float, start: Path | None) -> None:
        """Add the adversary: a LoRA on the reference, at zero or as a PEFT folder says."""

    def start_from(self, folder: Path) -> None:
        """Let the policy begin as a folder that `save` wrote."""

    def reference_hash(self) -> str:
        """Return the SHA-256 of what the reference predicts with, the frozen base by its fingerprint."""

    def set_hash(self, name: str) -> str:
        """Return the SHA-256 of one set's tensors."""

    def save(self, folder: Path, name: str = POLICY, tensors: Mapping[str, Tensor] | None = None) -> Path:
        """Write a set, or other tensors of its shapes, and return the folder."""


def _as_sum(tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
    return None if tensors is None else {name.replace("/", "."): value for name, value in tensors.items()}


def _add_trainable(module: nn.Module, name: str, *, rank: int, alpha: float, targets: Any, seed: int) -> None:  # noqa: ANN401
    """Add a LoRA at zero whose weights are float32 on a network of any precision."""
    add_lora(module, name, rank=rank, alpha=alpha, targets=targets, seed=seed)
    for parameter in lora_parameters(module, name).values():
        parameter.data = parameter.data.float()
    kinds = {parameter.dtype for parameter in module.parameters() if not parameter.requires_grad}
    layer: Any
    for layer in module.modules():
        # Under autocast each product has its precision; PEFT's own cast would double the activations before it.
        if hasattr(layer, "cast_input_dtype_enabled"):
            layer.cast_input_dtype_enabled = torch.bfloat16 not in kinds


def _load_into(module: nn.Module, name: str, folder: Path, component: str) -> None:
    """Fill a set from a PEFT folder; raises ConfigError if rank, alpha or layers differ."""
    own, found = lora_set(module, name), read_lora(folder, component=component)
    if found.down.keys() != own.down.keys():
        raise ConfigError(f"{folder} was made for other layers: {sorted(found.down.keys() ^ own.down.keys())[:3]} ...")
    for layer in own.down:
        if (found.rank(layer), found.alpha[layer]) != (own.rank(layer), own.alpha[layer]):
            raise ConfigError(
                f"{folder} has rank {found.rank(layer)} and alpha {found.alpha[layer]:g} at {layer}; the recipe must "
                f"have the same, got {own.rank(layer)} and {own.alpha[layer]:g}"
            )
        own.down[layer].copy_(found.down[layer])
        own.up[layer].copy_(found.up[layer])


def _lora_hash(lora: LoraSet) -> str:
    return tensors_hash(
        {f"{half}.{k}": v for half, part in (("down", lora.down), ("up", lora.up)) for k, v in part.items()}
    )


class LoraPolicy:
    """Policy and adversary as LoRA sets on one frozen network, each added to the sets that the network came with.

    The reference is the network as it was loaded: base alone, or base + SFT adapter (ASASR's `base_sft`), which stays
    at work in every pass; so no pass needs a second network. The policy starts at zero, equal to the reference.
    """

    def __init__(
        self, module: nn.Module, *, component: str, base: str, rank: int, alpha: float, targets: Any, seed: int  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Freeze the network and add the policy's set; raises ConfigError if `targets` name no layer."""
        module.requires_grad_(False)
        self.module, self.component, self.base = module, component, base
        self.under = active_loras(module)
        self._targets, self._seed = targets, seed
        self._base_hash = fingerprint(module)
        _add_trainable(module, POLICY, rank=rank, alpha=alpha, targets=targets, seed=seed)
        self._trained = POLICY
        use_loras(module, (*self.under, POLICY), trained=POLICY)

    def add_adversary(self, *, rank: int, alpha: float, start: Path | None) -> None:
        """Add the adversary's set; raises ConfigError if the folder was made for another recipe."""
        _add_trainable(self.module, ADVERSARY, rank=rank, alpha=alpha, targets=self._targets, seed=self._seed + 1)
        if start is not None:
            _load_into(self.module, ADVERSARY, start, self.component)
        use_loras(self.module, (*self.under, self._trained), trained=self._trained)

    def start_from(self, folder: Path) -> None:
        """Let the policy begin as a PEFT folder; raises ConfigError if it does not fit."""
        _load_into(self.module, POLICY, folder, self.component)

    def using(self, name: str) -> Any:  # noqa: ANN401
        """Run a block with the reference, the policy or the adversary at work."""
        return using_loras(self.module, self.under if name == REFERENCE else (*self.under, name))

    def trained(self, name: str = POLICY) -> TrainedTensors:
        """Put a set at work, alone with gradients, and return its parameters."""
        self._trained = name
        use_loras(self.module, (*self.under, name), trained=name)
        return TrainedTensors(lora_parameters(self.module, name))

    def reference_hash(self) -> str:
        """Return the SHA-256 of the base's fingerprint and the sets that the network came with."""
        parts = [self._base_hash, *(_lora_hash(lora_set(self.module, name)) for name in self.under)]
        return hashlib.sha256("/".join(parts).encode()).hexdigest()

    def set_hash(self, name: str) -> str:
        """Return the SHA-256 of one set's tensors."""
        return _lora_hash(lora_set(self.module, name))

    def save(self, folder: Path, name: str = POLICY, tensors: Mapping[str, Tensor] | None = None) -> Path:
        """Write a set, without the SFT adapter under it, as a PEFT folder."""
        values = lora_set(self.module, name, _as_sum(tensors))
        return write_lora(folder, values, component=self.component, base=self.base)


BRANCH_FILE = "model.safetensors"
"""Name under which control branches are released."""


def _thin_copy(branch: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a frozen copy whose matrices and kernels take `dtype`, to which autocast rounds the trained ones too.

    Norms and biases keep their precision, so that policy and copy agree to the last bit while their weights are equal.
    """
    found = copy.deepcopy(branch).requires_grad_(False)
    for parameter in found.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(dtype)
    return found


class BranchPolicy:
    """A control branch whose weights all move (DP2O-SR), against a frozen copy of the branch alone.

    `host` is the backbone that calls it, as its attribute `controlnet`; the base network is held once. The copy takes
    two bytes a weight where training computes in bfloat16: 0.7 GB for C-SD2, 3 GB for C-FLUX. The adversary is a
    LoRA on the copy, so that it starts as the reference.
    """

    def __init__(self, host: Any, *, dtype: torch.dtype, targets: Any, base: str, seed: int) -> None:  # noqa: ANN401
        """Make the branch trainable in float32 and copy it."""
        branch: nn.Module = host.controlnet
        self.host, self.base, self._targets, self._seed = host, base, targets, seed
        self._policy = branch.float().requires_grad_(True)
        self._reference = _thin_copy(branch, dtype)
        self._base_hash = module_hash(branch)
        self._trained = POLICY

    def add_adversary(self, *, rank: int, alpha: float, start: Path | None) -> None:
        """Add the adversary's set to the copy; raises ConfigError if the folder was made for another recipe."""
        _add_trainable(self._reference, ADVERSARY, rank=rank, alpha=alpha, targets=self._targets, seed=self._seed + 1)
        if start is not None:
            _load_into(self._reference, ADVERSARY, start, "controlnet")
        use_loras(self._reference, ())

    def start_from(self, folder: Path) -> None:
        """Refuse: a branch of all weights goes on from its checkpoint alone."""
        raise ConfigError(f"lora.train must be lora where the policy starts from an adapter ({folder}), got full")

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Run a block with the trained branch, its copy, or the adversary on the copy."""
        before = self.host.controlnet
        self.host.controlnet = self._policy if name == POLICY else self._reference
        try:
            with using_loras(self._reference, (ADVERSARY,) if name == ADVERSARY else ()):
                yield
        finally:
            self.host.controlnet = before

    def trained(self, name: str = POLICY) -> TrainedTensors:
        """Put a set at work, alone with gradients, and return its parameters."""
        self._policy.requires_grad_(name == POLICY)
        if name == POLICY:
            self.host.controlnet = self._policy
            return TrainedTensors(dict(self._policy.named_parameters()))
        self.host.controlnet = self._reference
        use_loras(self._reference, (name,), trained=name)
        return TrainedTensors(lora_parameters(self._reference, name))

    def reference_hash(self) -> str:
        """Return the SHA-256 of the frozen branch."""
        return self._base_hash

    def set_hash(self, name: str) -> str:
        """Return the SHA-256 of one set's tensors."""
        return module_hash(self._policy) if name == POLICY else _lora_hash(lora_set(self._reference, name))

    def save(self, folder: Path, name: str = POLICY, tensors: Mapping[str, Tensor] | None = None) -> Path:
        """Write the branch as the releases do, one `model.safetensors`; the adversary as a PEFT folder."""
        if name == ADVERSARY:
            values = lora_set(self._reference, ADVERSARY, _as_sum(tensors))
            return write_lora(folder, values, component="controlnet", base=self.base)
        state = dict(self._policy.state_dict())
        state.update(_as_sum(tensors) or {})
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / BRANCH_FILE) as file:
            file.write(save({key: value.detach().cpu().contiguous() for key, value in state.items()}))
        return folder
