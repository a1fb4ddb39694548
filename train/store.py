"""Curated groups as tensors: candidates beside what the frozen prior says about their LQ, one file each."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from sr_core.backbones.flow_head import FlowHead, HeadInput, unshuffle_planes
from sr_core.backbones.prior import SCALE, load_prior
from sr_core.errors import ConfigError
from sr_core.files import replace_text, replacing
from sr_core.images import from_uint8
from sr_core.preference_data.dataset import CandidateGroup, PreferenceDataset
from sr_core.tensors import Enlarged, Image

MARKER = "_SUCCESS.json"
TRUTH = -1
"""Index of the ground truth among a group's images."""


class Window(NamedTuple):
    """A square of a group, in LQ pixels, mirrored or not; shared by winner and loser."""

    row: int
    column: int
    height: int
    width: int
    flip: bool


def _flipped(x: Tensor, flip: bool) -> Tensor:
    return x.flip(-1) if flip else x


class GroupStore:
    """The groups of a curated dataset as files that are read in parts."""

    def __init__(self, folder: Path, group_ids: tuple[str, ...]) -> None:
        self.folder, self.group_ids = folder, group_ids

    def _path(self, group: str) -> Path:
        return self.folder / f"{hashlib.sha256(group.encode()).hexdigest()[:32]}.safetensors"

    def size(self, group: str) -> tuple[int, int]:
        """Return height and width of the LQ."""
        with safe_open(self._path(group), framework="pt") as file:
            height, width, _ = file.get_slice("lq").get_shape()
        return height, width

    def align(self, group: str) -> int:  # noqa: ARG002
        """Return the step between places where a window may begin: any pixel of the LQ."""
        return 1

    def conditions(self, group: str, window: Window) -> tuple[Image, Enlarged, Tensor]:
        """Return (lq, prior, trunk) of a window, batch 1, float32."""
        low = (slice(window.row, window.row + window.height), slice(window.column, window.column + window.width))
        high = tuple(slice(part.start * SCALE, part.stop * SCALE) for part in low)
        with safe_open(self._path(group), framework="pt") as file:
            lq = file.get_slice("lq")[low[0], low[1]].permute(2, 0, 1).float() / 255
            prior = file.get_slice("prior")[:, high[0], high[1]].float()
            trunk = file.get_slice("trunk")[:, low[0], low[1]].float()
        return (
            _flipped(lq, window.flip)[None],
            _flipped(prior, window.flip)[None],
            _flipped(trunk, window.flip)[None],
        )

    def image(self, group: str, index: int, window: Window) -> Enlarged:
        """Return candidate `index` (or `TRUTH`) of a window, batch 1, float32 in [0, 1]."""
        rows = slice(window.row * SCALE, (window.row + window.height) * SCALE)
        columns = slice(window.column * SCALE, (window.column + window.width) * SCALE)
        with safe_open(self._path(group), framework="pt") as file:
            if index == TRUTH:
                if "hq" not in file.keys():  # noqa: SIM118
                    raise ConfigError(f"group {group} has no ground truth; supervised pairs need one")
                pixels = file.get_slice("hq")[rows, columns]
            else:
                pixels = file.get_slice("images")[index, rows, columns]
        return _flipped(pixels.permute(2, 0, 1).float() / 255, window.flip)[None]


def _key(dataset: PreferenceDataset, dtype: torch.dtype) -> dict[str, str]:
    return {"dataset": dataset.digest, "dtype": str(dtype).removeprefix("torch.")}


def _content(group: CandidateGroup, lq: Image, prior: Enlarged, trunk: Tensor) -> bytes:
    tensors = {
        "lq": torch.from_numpy(np.ascontiguousarray(group.lq)),
        "images": torch.from_numpy(np.ascontiguousarray(group.images)),
        "prior": prior[0].float().clamp(-0.5, 1.5).half().cpu().contiguous(),
        "trunk": trunk[0].bfloat16().cpu().contiguous(),
    }
    if group.hq is not None:
        tensors["hq"] = torch.from_numpy(np.ascontiguousarray(group.hq))
    wanted = tuple(SCALE * side for side in lq.shape[-2:])
    for name in ("images", "hq"):
        if name in tensors and tuple(tensors[name].shape[-3:-1]) != wanted:
            raise ConfigError(
                f"group {group.group_id}: candidates must be {SCALE} times the LQ, {wanted}, "
                f"got {tuple(tensors[name].shape[-3:-1])}; leave that run out"
            )
    assert tensors["trunk"].shape[-2:] == lq.shape[-2:]
    return save(tensors)


def group_store(dataset: PreferenceDataset, folder: Path, *, dtype: torch.dtype, device: str) -> GroupStore:
    """Return the groups with the prior's features, computed on first use; a killed fill goes on where it was.

    The features never change while a head is trained, so they are stored once (bfloat16 trunk, float16 prior).
    Raises ConfigError if the folder was filled for another dataset or precision.
    """
    key, marker = _key(dataset, dtype), folder / MARKER
    store = GroupStore(folder, tuple(dataset.group_ids))
    if marker.is_file():
        found = json.loads(marker.read_text(encoding="utf-8"))
        if {name: found.get(name) for name in key} != key:
            raise ConfigError(f"{folder} was made for {found}, this run needs {key}; name another cache")
        if found.get("finished"):
            return store
    else:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(marker, json.dumps(key))
    prior = load_prior().to(device=device, dtype=dtype)
    for index, group_id in enumerate(tqdm(dataset.group_ids, desc="caching features", unit="group")):
        path = store._path(group_id)
        if path.is_file():
            continue
        group = dataset.group(index)
        lq = from_uint8(group.lq)
        with torch.inference_mode():
            output = prior(lq.to(device=device, dtype=dtype).contiguous(memory_format=torch.channels_last))
        with replacing(path) as file:
            file.write(_content(group, lq, output.image, output.trunk))
    replace_text(marker, json.dumps({**key, "finished": True}))
    return store


def head_conditions(parts: list[tuple[Image, Enlarged, Tensor]], head: FlowHead, device: torch.device) -> HeadInput:
    """Return the head's input for several windows of one size."""
    lq, prior, trunk = (torch.cat(part).to(device) for part in zip(*parts, strict=True))
    with torch.no_grad():
        return HeadInput(trunk, unshuffle_planes(prior), lq, head.gain(prior, lq))
