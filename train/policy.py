"""Reference and policy as named LoRA sets on one network."""

import copy
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import torch
from peft import LoraConfig as PeftLora
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save
from torch import Tensor, nn

from sr_core.backbones.adapters import PEFT_FILES, convolution_names
from sr_core.backbones.flow_head import FlowHead
from sr_core.backbones.prior import Prior
from sr_core.errors import ConfigError, WeightsError
from sr_core.files import replace_text, replacing

REFERENCE, POLICY, ADVERSARY = "reference", "policy", "adversary"
BASE_LABEL = "compact flow head, sha256 "
PRIOR_LABEL = "compact prior, sha256 "
"""How a PEFT folder of ours names the head, or the prior, that it belongs to."""
PREFIX = "base_model.model."
"""What PEFT puts before a layer's name in its files."""


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors, independent of their order, device and layout."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def module_hash(module: nn.Module) -> str:
    """Return the SHA-256 of a module's whole state."""
    return tensors_hash({name: value.reshape(-1) for name, value in module.state_dict().items()})


class TrainedTensors(nn.Module):
    """The tensors that an optimiser moves, by name, as the loop and its checkpoints see them."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            self.register_parameter(name.replace(".", "/"), parameter)


Network = TypeVar("Network", bound=nn.Module)


class LoraPolicy(Generic[Network]):
    """One network with a frozen reference set, a trained policy set and, where loaded, an adversary set.

    Sets are PEFT LoRA adapters on the convolutions. Without an adapter folder the reference is the network itself, as a
    LoRA at zero, and the policy starts as the same; with one, both start from it.
    Raises ConfigError if the folder's rank differs from `rank`.
    """

    base_label = BASE_LABEL

    def __init__(
        self,
        head: Network,
        *,
        rank: int,
        alpha: float,
        target_modules: tuple[str, ...] = (),
        start: Path | None = None,
        seed: int = 0,
    ) -> None:
        for parameter in head.parameters():
            parameter.requires_grad_(False)
        names = [n for n in convolution_names(head) if not target_modules or n.endswith(target_modules)]
        if not names:
            raise ConfigError(f"target_modules must name layers of the network, {target_modules} names none")
        self.head = head
        self.base_hash = module_hash(head)
        self._settings: dict[str, PeftLora] = {}
        self._targets = names
        torch.manual_seed(seed)
        self.add(REFERENCE, rank=rank, alpha=alpha)
        if start is not None:
            self.load(REFERENCE, start)
        self.add(POLICY, rank=rank, alpha=alpha)
        self._copy(self.tensors(REFERENCE), POLICY)
        self.use(POLICY)

    def add(self, name: str, *, rank: int, alpha: float) -> None:
        """Add a LoRA set that changes nothing yet."""
        settings = PeftLora(r=rank, lora_alpha=alpha, target_modules=list(self._targets))  # type: ignore[arg-type]
        with warnings.catch_warnings():
            # Several sets on one head are the point here.
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            inject_adapter_in_model(settings, self.head, adapter_name=name)
        for module in self.head.modules():
            if isinstance(module, BaseTunerLayer):
                # Autocast chooses the precision of each product; PEFT would copy every input to float32 and back.
                module.cast_input_dtype_enabled = False  # type: ignore[assignment]
        self._settings[name] = settings

    def load(self, name: str, folder: Path) -> None:
        """Fill the set `name` from a PEFT folder; raises WeightsError or ConfigError if it does not fit."""
        settings, weights = (folder / file for file in PEFT_FILES)
        if not (settings.is_file() and weights.is_file()):
            raise WeightsError(f"{folder} must be a PEFT folder with {' and '.join(PEFT_FILES)}")
        found = PeftLora.from_pretrained(str(folder))
        own = self._settings[name]
        base = str(found.base_model_name_or_path)
        label = self.base_label
        if base.startswith(label) and base != label + self.base_hash:
            raise WeightsError(f"{folder} was made for another head: {base}, this one is {self.base_hash}")
        if (found.r, found.lora_alpha) != (own.r, own.lora_alpha):
            raise ConfigError(
                f"{folder} has rank {found.r} and alpha {found.lora_alpha}; the recipe must have the same, "
                f"got {own.r} and {own.lora_alpha}"
            )
        stored = {key.removeprefix(PREFIX): value for key, value in load_file(weights).items()}
        wanted = self.tensors(name)
        if stored.keys() != wanted.keys():
            raise WeightsError(f"{folder} was made for other layers: {sorted(stored.keys() ^ wanted.keys())[:3]} ...")
        self._copy(stored, name)

    def _parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return the LoRA parameters of a set by their PEFT key without the set's name."""
        marker = f".{name}."
        return {
            key.replace(marker, "."): parameter
            for key, parameter in self.head.named_parameters()
            if "lora_" in key and marker in key
        }

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a set by name; they share memory with the set."""
        return {key: parameter.detach() for key, parameter in self._parameters(name).items()}

    @torch.no_grad()
    def _copy(self, tensors: Mapping[str, Tensor], name: str) -> None:
        for key, parameter in self._parameters(name).items():
            parameter.copy_(tensors[key])

    def use(self, name: str) -> None:
        """Make a set the active one; only the policy set, or the adversary while it is trained, takes gradients.

        A reference at zero adds exactly zero to every layer, so the layers are spared from computing it.
        """
        enabled = name != REFERENCE or not self._is_zero(name)
        for module in self.head.modules():
            if isinstance(module, BaseTunerLayer):
                module.enable_adapters(enabled)
                module.set_adapter(name, inference_mode=name == REFERENCE)

    def _is_zero(self, name: str) -> bool:
        """Return whether the second factor of every layer of a set is zero, so that the set changes nothing."""
        seconds = [tensor.count_nonzero() for key, tensor in self.tensors(name).items() if "lora_B" in key]
        return not torch.stack(seconds).any()

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Run a block with another set active; the one before is active again afterwards."""
        before = self.active
        self.use(name)
        try:
            yield
        finally:
            self.use(before)

    @property
    def active(self) -> str:
        """Return the name of the active set."""
        layer = next(module for module in self.head.modules() if isinstance(module, LoraLayer))
        assert isinstance(layer, BaseTunerLayer)
        return str(layer.active_adapters[0])

    def trained(self, name: str = POLICY) -> TrainedTensors:
        """Return the parameters of a set as a module for the training loop."""
        return TrainedTensors(self._parameters(name))

    def reference_hash(self) -> str:
        """Return the SHA-256 of what the reference predicts with: the head's own weights and the reference set."""
        return hashlib.sha256((self.base_hash + tensors_hash(self.tensors(REFERENCE))).encode()).hexdigest()

    def set_hash(self, name: str) -> str:
        """Return the SHA-256 of one set's tensors."""
        return tensors_hash(self.tensors(name))

    def save(self, folder: Path, name: str = POLICY, tensors: Mapping[str, Tensor] | None = None) -> Path:
        """Write a set, or other tensors of its shapes, as a PEFT folder; each file whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        own = self.tensors(name)
        values = own if tensors is None else {key.replace("/", "."): value for key, value in tensors.items()}
        if values.keys() != own.keys():
            raise WeightsError(f"a set must hold {len(own)} tensors of the policy, got {len(values)} others")
        named = {PREFIX + key: value.detach().cpu().contiguous() for key, value in values.items()}
        settings, weights = (folder / file for file in PEFT_FILES)
        with replacing(weights) as file:
            file.write(save(named, metadata={"format": "pt"}))
        stored = copy.copy(self._settings[name])
        stored.inference_mode = True
        # PEFT writes its file in place; the text goes through our own whole-or-nothing write.
        replace_text(settings, _settings_text(stored, self.base_label + self.base_hash))
        return folder


class HeadPolicy(LoraPolicy[FlowHead]):
    """Reference and policy on the flow head; its PEFT folders are what the page and `sr` offer."""


class PriorPolicy(LoraPolicy[Prior]):
    """Reference and policy on the prior."""

    base_label = PRIOR_LABEL


def _settings_text(settings: PeftLora, base: str) -> str:
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.to_dict().items()}  # type: ignore[no-untyped-call]
    values["base_model_name_or_path"] = base
    return json.dumps(values, indent=1, sort_keys=True, default=str) + "\n"


class FullPolicy:
    """A head whose weights all move, against a frozen copy of it; for ablations, it gives no adapter."""

    def __init__(self, head: FlowHead) -> None:
        self.head = head
        self._reference = copy.deepcopy(head).requires_grad_(False)
        self._policy = head
        self.base_hash = module_hash(head)

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Run a block with the frozen copy or the trained weights."""
        if name not in (REFERENCE, POLICY):
            raise ConfigError(f"a policy of all weights has no set {name}; use lora.train: lora")
        before = self.head
        self.head = self._reference if name == REFERENCE else self._policy
        try:
            yield
        finally:
            self.head = before

    def trained(self, name: str = POLICY) -> TrainedTensors:  # noqa: ARG002
        """Return all weights as a module for the training loop."""
        return TrainedTensors(dict(self._policy.named_parameters()))

    def reference_hash(self) -> str:
        """Return the SHA-256 of the frozen copy."""
        return module_hash(self._reference)
