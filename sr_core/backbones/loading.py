"""Reading networks of diffusers and transformers from local folders, safetensors only, with errors that name keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sr_core.errors import WeightsError

Network = TypeVar("Network", bound=nn.Module)


def load_network(kind: type[Network], base: Path, subfolder: str, *, dtype: torch.dtype, **options: Any) -> Network:  # noqa: ANN401
    """Return a network of a diffusers folder, in evaluation mode and without gradients; never from a hub or a pickle.

    Raises WeightsError if the folder does not hold it.
    """
    folder = base / subfolder
    fp16 = not any(folder.glob("*[lm].safetensors")) and any(folder.glob("*.fp16*.safetensors"))
    source: Any = kind
    try:
        network = source.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, use_safetensors=True,
            **({"variant": "fp16"} if fp16 else {}), **options,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder} must hold {kind.__name__} as safetensors: {error}") from error
    return network.requires_grad_(False).eval()


def read_tensors(path: Path, names: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of the first of `names` in a folder; raises WeightsError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = [path] if path.is_file() else [path / name for name in names if (path / name).is_file()]
    if not files:
        raise WeightsError(f"{path} must be a safetensors file or a folder with {' or '.join(names)}")
    try:
        return load_file(files[0])
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{files[0]} cannot be read as safetensors: {error}") from error


def check_keys(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Raise WeightsError naming the keys by which a file differs from what a network needs, or a key's shape."""
    missing, foreign = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or foreign:
        lacks = f"lacks {_few(missing)}" if missing else ""
        has = f"has {_few(foreign)}, which the network does not know" if foreign else ""
        raise WeightsError(f"{path} {' and '.join(filter(None, (lacks, has)))}")
    for key, value in expected.items():
        if value.shape != found[key].shape:
            raise WeightsError(f"{path}: {key} must have shape {tuple(value.shape)}, got {tuple(found[key].shape)}")


def _few(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more


def fill_network(network: Network, tensors: Mapping[str, Tensor], path: Path, *, dtype: torch.dtype) -> Network:
    """Give a network, which may lie on the meta device, exactly these weights; raises WeightsError by key."""
    check_keys(network.state_dict(), tensors, path)
    network.load_state_dict({key: value.to(dtype) for key, value in tensors.items()}, assign=True)
    return network.requires_grad_(False).eval()
