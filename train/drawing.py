"""Restorers of a recipe's backbone, before training or with what was trained, and what to ask of them."""

import hashlib
from pathlib import Path

import torch

from sr_core.backbones.adapters import PEFT_FILES
from sr_core.backbones.backbone import Backbone
from sr_core.restorer import Restorer, RestoreRequest
from train.compact_trainee import head_file
from train.latent_weights import load_latent, located_parts
from train.preference_config import BackboneConfig, DrawConfig

END_BYTES = 1 << 20
"""How much of both ends of a file `part_digest` reads."""


def restorer_of(config: BackboneConfig, trained: Path | None, *, dtype: torch.dtype, device: str) -> Restorer:
    """Return a restorer of the recipe's backbone, or of what training made of it: an adapter or a control branch.

    Raises WeightsError if something is missing or does not fit.
    """
    loaded: dict[torch.dtype, Backbone] = {}

    def of(precision: torch.dtype) -> Backbone:
        if precision not in loaded:
            loaded[precision] = _load(config, trained, precision, device)
        return loaded[precision]

    of(dtype)
    return Restorer(of, dtype)


def _load(config: BackboneConfig, trained: Path | None, dtype: torch.dtype, device: str) -> Backbone:
    if config.name != "compact":
        return load_latent(config, dtype=dtype, device=device, adapter=trained)
    from sr_core.backbones.compact import load_compact

    start = None if config.adapter is None else Path(config.adapter)
    return load_compact(dtype=dtype, device=device, head=head_file(config), adapter=trained or start)


def request_of(config: BackboneConfig, draw: DrawConfig, *, seed: int, count: int) -> RestoreRequest:
    """Return what to ask of the restorer; colour is left as the network gives it.

    Raises ConfigError if the recipe draws what the backbone cannot draw.
    """
    is_compact = config.name == "compact"
    return RestoreRequest(
        num_candidates=count,
        seed=seed,
        num_steps=draw.num_steps,
        sampler=draw.sampler,
        schedule=draw.schedule,
        color="off",
        guidance=None if is_compact else draw.guidance,
        prompt=None if is_compact else config.prompt,
    )


def part_digest(path: Path) -> str:
    """Return a hash of a file, or of a folder's files, by name, size and the first and last MiB of each.

    A base of 34 GB is told from another without reading it through: the header of a safetensors file comes first.
    """
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".safetensors", ".json"))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path) if file != path else file.name} {size}".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(END_BYTES))
            opened.seek(max(0, size - END_BYTES))
            digest.update(opened.read())
    return digest.hexdigest()


def backbone_digests(config: BackboneConfig) -> dict[str, str | None]:
    """Return the digests of a latent backbone's parts, as `head`, and of its adapter.

    Raises WeightsError if a part is missing.
    """
    parts = located_parts(config)
    whole = hashlib.sha256("/".join(part_digest(parts[name]) for name in sorted(parts)).encode()).hexdigest()
    return {"head": whole, "adapter": None if config.adapter is None else part_digest(Path(config.adapter))}


def has_control_branch(config: BackboneConfig) -> bool:
    """Return whether a control branch is among the parts of the recipe's backbone."""
    return config.name != "compact" and "controlnet" in located_parts(config)


def adapter_file(folder: Path) -> Path | None:
    """Return the file of a trained adapter or control branch; None if there is none yet."""
    from train.latent_policy import BRANCH_FILE

    return next((folder / name for name in (PEFT_FILES[1], BRANCH_FILE) if (folder / name).is_file()), None)
