"""Checkpoints that are whole or absent: written aside, synced, renamed, marked, and only then pruned."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save
from torch import Tensor

from sr_core.errors import ConfigError
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


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint, mark it, read it back, then delete all but the newest `keep`."""
    final, partial = step_folder(folder, step), folder / f".partial_{step:08d}"
    for leftover in (partial, final):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, tensors in checkpoint.tensors.items():
        replace_tensors(partial / f"{name}.safetensors", tensors)
    replace_text(partial / STATE, json.dumps(checkpoint.state, indent=1))
    sync(partial)
    os.replace(partial, final)
    sync(folder)
    replace_text(final / MARKER, "")
    sync(final)
    load_checkpoint(final)
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
