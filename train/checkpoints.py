"""Checkpoints that are whole or absent: written aside, read back, renamed, marked, and only then pruned."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from sr_core.errors import ConfigError, WeightsError
from sr_core.files import replace_text, replacing

MARKER = "_SUCCESS"
STATE = "state.json"


class Checkpoint(NamedTuple):
    """What a run needs to go on as if it had never stopped."""

    tensors: dict[str, dict[str, Tensor]]
    """Tensor sets by name: model, ema, optimizer."""
    state: dict[str, Any]
    """Plain values: step, elapsed time, recipe."""


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all."""
    with replacing(path) as file:
        file.write(save({name: value.contiguous() for name, value in tensors.items()}, metadata=metadata))


def step_folder(folder: Path, step: int) -> Path:
    """Return where the checkpoint of `step` lies."""
    return folder / f"step_{step:08d}"


def finished(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step_*/{MARKER}"))


def _state_text(checkpoint: Checkpoint) -> str:
    return json.dumps(checkpoint.state, indent=1)


def _same_bits(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether two tensors agree bit for bit, so that a NaN equals itself."""
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return False
    return torch.equal(*(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for x in (ours, theirs)))


def _holds(file: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a file on disk holds these tensors to the last bit, one in memory at a time."""
    try:
        with safe_open(file, framework="pt") as found:
            return set(found.keys()) == set(tensors) and all(
                _same_bits(found.get_tensor(name), value) for name, value in tensors.items()
            )
    except (OSError, SafetensorError):
        return False


def check_written(folder: Path, checkpoint: Checkpoint) -> None:
    """Raise WeightsError if the files in `folder` are not what was to be written."""
    differing = [
        f"{name}.safetensors"
        for name, tensors in checkpoint.tensors.items()
        if not _holds(folder / f"{name}.safetensors", tensors)
    ]
    if (folder / STATE).read_bytes() != _state_text(checkpoint).encode():
        differing.append(STATE)
    if differing:
        raise WeightsError(
            f"a checkpoint must read back as it was written, {folder} has another {', '.join(differing)}; "
            "the earlier checkpoints are untouched: see to the disk, then go on with --resume"
        )


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint aside, read it back, mark it, then delete all but the newest `keep`.

    Raises WeightsError if what was read differs from what was written; the earlier checkpoints then all stay.
    """
    final, partial = step_folder(folder, step), folder / f".partial_{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, tensors in checkpoint.tensors.items():
        replace_tensors(partial / f"{name}.safetensors", tensors)
    replace_text(partial / STATE, _state_text(checkpoint))
    sync(partial)
    check_written(partial, checkpoint)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    sync(folder)
    replace_text(final / MARKER, "")
    sync(final)
    for old in finished(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a complete checkpoint; raises ConfigError if `path` is not one."""
    if not (path / MARKER).is_file():
        raise ConfigError(f"a checkpoint must be a folder with {MARKER}, got {path}")
    tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return Checkpoint(tensors, json.loads((path / STATE).read_text(encoding="utf-8")))


def check_start(output: Path, *, resume: bool) -> None:
    """Raise ConfigError if a run cannot resume, or would mix its checkpoints with those of another run."""
    folder = output / "checkpoints"
    if resume:
        latest_path(folder)
    elif finished(folder):
        raise ConfigError(f"{output} already holds a run; go on with --resume, or name another output")


def latest_path(folder: Path) -> Path:
    """Return the newest complete checkpoint; raises ConfigError if there is none, so that no run restarts silently."""
    complete = finished(folder)
    if not complete:
        raise ConfigError(f"resume needs a finished checkpoint in {folder}, found none; start without --resume")
    return complete[-1]


def latest_checkpoint(folder: Path) -> Checkpoint:
    """Read the newest complete checkpoint; raises ConfigError if there is none."""
    return load_checkpoint(latest_path(folder))
