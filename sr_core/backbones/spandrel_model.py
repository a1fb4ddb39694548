"""Any super-resolution network that spandrel can open, from its weight file alone, as a baseline for one photo.

Run as `python -m sr_core.backbones.spandrel_model WEIGHTS PHOTO FOLDER` it is the child that runs the network: a weight
file comes from a stranger and may describe a network of any size, so it gets limits of memory and time. No code is
taken from a file: `.safetensors` holds none, and a pickle (`.pth`, `.pt`, `.ckpt`) is read only as far as
`torch.load(weights_only=True)` reads it, which is tensors in plain containers.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sr_core.errors import InputError, SRError, WeightsError
from sr_core.limits import check_output_size
from sr_core.restorer import image_fault
from sr_core.sandbox import child_command, limit_resources
from sr_core.tensors import Enlarged, Image
from sr_core.tiling import TILE, add_tile, crop, plan_tiles

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
MAX_WEIGHTS_BYTES = 512 * 2**20
MAX_SCALE = 8
MEMORY_BYTES = 10 * 2**30
"""Address space of the child on a CPU; torch alone reserves 3 GB of it."""
TIMEOUT_S = 900
TILES = (TILE, TILE // 2)
"""Sides to try in turn: a network that needs too much memory for one tile gets smaller ones."""
_REPORT, _RESULT = "report.json", "restored.npy"


class Network(NamedTuple):
    """A network that spandrel opened, in float32, ready to restore."""

    call: Callable[[Tensor], Tensor]
    """Takes (1, 3, h, w) in [0, 1] of any size; pads and crops as the network needs it."""
    module: nn.Module
    architecture: str
    scale: int

    @property
    def description(self) -> dict[str, Any]:
        """What it is, ready for JSON."""
        num_parameters = sum(parameter.numel() for parameter in self.module.parameters())
        return {"architecture": self.architecture, "scale": self.scale, "num_parameters": num_parameters}


def restore_isolated(
    weights: Path,
    lq: Image,
    *,
    on_step: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Enlarged, dict[str, Any]]:
    """Return what the network makes of `lq` (1, 3, h, w), at its own scale, and what the network is, ready for JSON.

    It runs tile by tile in a child process within limits. Raises WeightsError if the file is no network that can be
    used, and InputError if the photo is too large for it or it was stopped.
    """
    _check_file(weights)
    with TemporaryDirectory(prefix="sr-baseline-") as name:
        folder = Path(name)
        np.save(folder / "photo.npy", lq.float().numpy(), allow_pickle=False)
        _run_child(weights, folder, on_step, stop)
        report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
        if "error" in report:
            kind = WeightsError if report["is_file_at_fault"] else InputError
            raise kind(report["error"])
        array = np.load(folder / _RESULT, allow_pickle=False)
    restored = torch.from_numpy(array)
    scale = int(report["scale"])
    if restored.dtype != torch.float32 or tuple(restored.shape) != (1, 3, lq.shape[-2] * scale, lq.shape[-1] * scale):
        raise WeightsError(f"{weights.name} must enlarge by {scale}, got shape {tuple(restored.shape)}")
    fault = image_fault(restored, lq)
    if fault is not None:
        raise WeightsError(f"{weights.name} gives no picture of this photo: {fault}")
    return restored, report


def _check_file(weights: Path) -> None:
    if weights.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"a weight file must end in {', '.join(SUFFIXES)}, got {weights.name}")
    try:
        size = weights.stat().st_size
    except OSError as error:
        raise WeightsError(f"{weights.name} must be a readable file: {error.strerror}") from error
    if size > MAX_WEIGHTS_BYTES:
        raise WeightsError(f"{weights.name} must be at most {MAX_WEIGHTS_BYTES // 2**20} MB, got {size / 2**20:.0f} MB")


def _run_child(
    weights: Path, folder: Path, on_step: Callable[[int, int], None] | None, stop: Callable[[], bool]
) -> None:
    """Run the network to its end, passing on how far it is; raises InputError if it is stopped or breaks a limit."""
    command = child_command(
        "sr_core.backbones.spandrel_model", str(weights.absolute()), str(folder / "photo.npy"), str(folder),
        num_threads=torch.get_num_threads(),
    )  # fmt: skip
    started, last = time.monotonic(), None
    with (folder / "log").open("wb") as log, subprocess.Popen(
        command.arguments, env=command.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    ) as child:  # fmt: skip
        try:
            while child.poll() is None:
                time.sleep(0.05)
                if stop():
                    raise InputError(f"{weights.name} was stopped before its picture was ready; nothing has joined")
                if time.monotonic() - started > TIMEOUT_S:
                    raise InputError(
                        f"{weights.name} must be done within {TIMEOUT_S // 60} minutes; use a smaller photo"
                    )
                done = _progress(folder)
                if on_step is not None and done is not None and done != last:
                    last = done
                    on_step(done[0], done[1])
        finally:
            if child.poll() is None:
                child.kill()
    if not (folder / _REPORT).is_file():
        raise InputError(f"{weights.name} broke the limits of memory or time that a baseline has; use a smaller photo")


def _progress(folder: Path) -> tuple[int, ...] | None:
    """Return (done, total) tiles as the child last told; None before the first."""
    path = folder / "progress"
    return tuple(map(int, path.read_text().split())) if path.is_file() else None


def load_state(weights: Path) -> Mapping[str, Any]:
    """Return the tensors of a weight file without running anything in it; raises WeightsError if that cannot be."""
    if weights.suffix.lower() == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(weights)
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(f"{weights.name} must be a complete safetensors file: {_line(error)}") from error
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle machine meets hostile bytes: it may raise anything
        raise WeightsError(
            f"{weights.name} must hold tensors alone: a pickle that names anything else is not read, since reading it "
            "could run code; save the network as safetensors"
        ) from error
    if not isinstance(state, dict):
        raise WeightsError(f"{weights.name} must hold named tensors, got {type(state).__name__}")
    return state


def open_network(weights: Path, device: str = "cpu") -> Network:
    """Return the network in a weight file.

    Raises WeightsError unless it restores RGB images at a whole scale of 1 to 8.
    """
    from spandrel import MAIN_REGISTRY, ImageModelDescriptor, UnsupportedModelError

    state = load_state(weights)
    try:
        network = MAIN_REGISTRY.load(dict(state))
    except UnsupportedModelError:
        raise WeightsError(f"{weights.name} must hold a network that spandrel knows; it recognises none") from None
    except Exception as error:  # spandrel reads sizes off tensors of unknown origin: anything may go wrong
        raise WeightsError(f"{weights.name} looks like a known network but does not load: {_line(error)}") from error
    kind = network.architecture.name
    if not isinstance(network, ImageModelDescriptor) or network.purpose not in ("SR", "Restoration"):
        raise WeightsError(f"{weights.name} must hold a network for super-resolution, got {kind} for {network.purpose}")
    if (network.input_channels, network.output_channels) != (3, 3):
        channels = f"{network.input_channels} to {network.output_channels} channels"
        raise WeightsError(f"{weights.name} must take and give RGB, got {kind} with {channels}")
    if not 1 <= network.scale <= MAX_SCALE:
        raise WeightsError(f"{weights.name} must enlarge by 1 to {MAX_SCALE}, got {network.scale}")
    network.float().eval().to(device)
    return Network(network, network.model, str(kind), int(network.scale))


def restore_tiled(
    network: Network,
    lq: Image,
    *,
    tile: int = TILE,
    device: str = "cpu",
    on_step: Callable[[int, int], None] | None = None,
) -> Enlarged:
    """Return the network's picture of `lq` on a canvas of `scale` times its size, computed tile by tile."""
    height, width = lq.shape[-2:]
    scale = network.scale
    check_output_size(width * scale, height * scale, source=(width, height))
    tiles = plan_tiles(height, width, tile)
    canvas = torch.zeros(1, 3, height * scale, width * scale)
    for number, window in enumerate(tiles, start=1):
        add_tile(canvas, network.call(crop(lq, window).to(device)).float(), window, scale)
        if on_step is not None:
            on_step(number, len(tiles))
    return canvas


def _line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:160] or type(error).__name__


def _restore_within_memory(network: Network, lq: Image, device: str, on_step: Callable[[int, int], None]) -> Enlarged:
    """Run the network with the largest tile that fits."""
    for tile in TILES:
        try:
            return restore_tiled(network, lq, tile=tile, device=device, on_step=on_step)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, SRError) or not any(word in str(error).lower() for word in ("alloc", "memory")):
                raise
    raise InputError(f"the network needs too much memory for a tile of {TILES[-1]} px; it cannot be used here")


def main() -> None:
    """Run the network of argv[1] on the pixels argv[2]; answer in the folder argv[3]; a refusal is an answer."""
    weights, photo, folder = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":  # CUDA reserves more addresses than any limit worth having
        limit_resources(cpu_s=TIMEOUT_S * torch.get_num_threads(), memory_bytes=MEMORY_BYTES)
    started = time.monotonic()

    def on_step(done: int, total: int) -> None:
        seconds = (time.monotonic() - started) / done * total
        if seconds > 2 * TIMEOUT_S:
            raise InputError(
                f"{weights.name} would take about {seconds / 60:.0f} minutes for this photo, "
                f"and a baseline may take {TIMEOUT_S // 60}; use a smaller photo or a faster network"
            )
        (folder / "progress.new").write_text(f"{done} {total}")
        os.replace(folder / "progress.new", folder / "progress")

    try:
        network = open_network(weights, device)
        lq = torch.from_numpy(np.load(photo, allow_pickle=False))
        restored = _restore_within_memory(network, lq, device, on_step)
        np.save(folder / _RESULT, restored.numpy(), allow_pickle=False)
        report = network.description
    except SRError as error:
        report = {"error": str(error), "is_file_at_fault": isinstance(error, WeightsError)}
    except Exception as error:  # the network itself is a stranger's, and may fail in any way
        report = {"error": f"{weights.name} does not run on this photo: {_line(error)}", "is_file_at_fault": True}
    (folder / _REPORT).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
