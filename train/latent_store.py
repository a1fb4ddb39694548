"""Curated groups as latents and text embeddings on disk, so that training needs neither VAE nor text encoder."""

import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from sr_core.backbones.latent import LatentBackbone, LatentCondition, LatentObservation, Text
from sr_core.errors import ConfigError
from sr_core.files import replace_text, replacing
from sr_core.images import from_uint8
from sr_core.preference_data.dataset import CandidateGroup, PreferenceDataset
from sr_core.resampling import resize
from sr_core.tensors import Enlarged, Image, Latent
from train.latent_policy import fingerprint
from train.processes import Processes
from train.store import TRUTH, Window

MARKER = "_SUCCESS.json"
TEXT = "text.safetensors"
FLIPPED = "_flipped"
"""Ends the names of what is mirrored: a VAE does not mirror exactly, so both are encoded."""


def place_on_grid(backbone: LatentBackbone, image: Image, seen: LatentObservation) -> Enlarged:
    """Return an image of the photo on the padded grid on which the photo itself was encoded."""
    image = resize(image.to(backbone.device, torch.float32), *seen.size).clamp(0, 1)
    height, width = (side - own for side, own in zip(seen.lq.shape[-2:], seen.size, strict=True))
    return pad(image, (0, width, 0, height), mode="replicate")


def group_path(folder: Path, group: str) -> Path:
    """Return the file of a group."""
    return folder / f"{hashlib.sha256(group.encode()).hexdigest()[:32]}.safetensors"


class LatentStore:
    """The groups of a curated dataset as latents, read window by window."""

    def __init__(self, folder: Path, group_ids: tuple[str, ...], *, cell: int) -> None:
        self.folder, self.group_ids, self._cell = folder, group_ids, cell
        self._text: Text | None = None

    def size(self, group: str) -> tuple[int, int]:
        """Return height and width of the LQ."""
        with safe_open(group_path(self.folder, group), framework="pt") as file:
            height, width = file.get_tensor("sides")[:2].tolist()
        return int(height), int(width)

    def align(self, group: str) -> int:
        """Return the step in LQ pixels between places where a window may begin.

        Raises ConfigError if the photo was padded or enlarged so that no grid of its pixels meets the latent's.
        """
        with safe_open(group_path(self.folder, group), framework="pt") as file:
            height, width, *size = file.get_tensor("sides").tolist()
            rows, columns = file.get_slice("latent").get_shape()[1:]
            padded = file.get_slice("lq").get_shape()[1:]
        ratio = Fraction(rows, height)
        step = self._cell / ratio
        if list(padded) != size or Fraction(columns, width) != ratio or step.denominator != 1:
            raise ConfigError(
                f"window_px must be 0 for {group}: its LQ of {height} x {width} px does not meet a latent of "
                f"{rows} x {columns} at whole places"
            )
        return int(step)

    def read(
        self, name: str, group: str, window: Window, index: int | None = None, folder: Path | None = None
    ) -> Tensor:
        """Return a window of a stored field, batch 1, float32; `index` chooses among several."""
        path = group_path(folder or self.folder, group)
        name += FLIPPED if window.flip else ""
        height, width = self.size(group)
        with safe_open(path, framework="pt") as file:
            if name not in file.keys():  # noqa: SIM118
                raise ConfigError(f"group {group} has no {name.removesuffix(FLIPPED)}; supervised pairs need it")
            field = file.get_slice(name)
            shape = field.get_shape()
            # A mirrored field holds the window at its mirrored place.
            left = width - window.column - window.width if window.flip else window.column
            rows = _scaled(window.row, window.height, shape[-2], height)
            columns = _scaled(left, window.width, shape[-1], width)
            values = field[:, rows, columns] if index is None else field[index, :, rows, columns]
        return values[None].float()

    def image(self, group: str, index: int, window: Window) -> Latent:
        """Return the latent of candidate `index` (or `TRUTH`) of a window."""
        return self.read("hq", group, window) if index == TRUTH else self.read("images", group, window, index)

    @property
    def text(self) -> Text:
        """Return what the text encoders said of the recipe's prompt."""
        if self._text is None:
            stored = load_file(self.folder / TEXT)
            self._text = Text(stored["embedding"], stored.get("pooled"))
        return self._text

    def condition(self, places: Sequence[tuple[str, Window]], device: torch.device) -> LatentCondition:
        """Return the condition of several windows of one size."""
        lq, latent = (
            torch.cat([self.read(name, group, window) for group, window in places]).to(device)
            for name in ("lq", "latent")
        )
        embedding, pooled = self.text
        text = Text(
            embedding.to(device).expand(len(places), -1, -1),
            None if pooled is None else pooled.to(device).expand(len(places), -1),
        )
        size = (int(lq.shape[-2]), int(lq.shape[-1]))
        return LatentCondition(lq, latent, text, None, size, size)


def _scaled(start: int, length: int, field: int, side: int) -> slice:
    """Return LQ pixels `start` to `start + length` of `side` on the grid of a field."""
    if length == side:
        return slice(0, field)
    return slice(start * field // side, (start + length) * field // side)


def _views(flip: bool) -> tuple[str, ...]:
    return ("", FLIPPED) if flip else ("",)


def _mirrored(image: Tensor, view: str) -> Tensor:
    return image.flip(-1) if view == FLIPPED else image


def encode_fields(
    backbone: LatentBackbone, lq: Image, fields: dict[str, Tensor], *, flip: bool, kind: torch.dtype
) -> dict[str, Tensor]:
    """Return the latents of images of a photo by name, and of their mirror images where `flip` is set."""
    tensors: dict[str, Tensor] = {}
    for view in _views(flip):
        seen = backbone.observe(_mirrored(lq, view))
        tensors[f"lq{view}"], tensors[f"latent{view}"] = seen.lq[0].to(kind), seen.latent[0].to(kind)
        for name, images in fields.items():
            grid = [place_on_grid(backbone, _mirrored(one[None], view), seen) for one in images]
            latents = torch.cat([backbone.encode_image(one) for one in grid]).to(kind)
            tensors[f"{name}{view}"] = latents
        tensors["sides"] = torch.tensor([*lq.shape[-2:], *seen.size])
    return {name: value.cpu().contiguous() for name, value in tensors.items()}


def _content(backbone: LatentBackbone, group: CandidateGroup, *, flip: bool, kind: torch.dtype) -> bytes:
    fields: dict[str, Tensor] = {"images": torch.cat([from_uint8(np.ascontiguousarray(one)) for one in group.images])}
    if group.hq is not None:
        fields["hq"] = from_uint8(group.hq)
    tensors = encode_fields(backbone, from_uint8(group.lq), fields, flip=flip, kind=kind)
    for view in _views(flip):
        if group.hq is not None:
            tensors[f"hq{view}"] = tensors[f"hq{view}"][0]
    return save(tensors)


def latent_store(
    dataset: PreferenceDataset, folder: Path, backbone: LatentBackbone, *, prompt: str, flip: bool, processes: Processes
) -> LatentStore:
    """Return the groups as latents, computed on first use by all processes; a killed fill goes on where it was.

    Stored in float32 where the backbone computes in it, else in float16. Raises ConfigError if the folder was filled
    for another dataset, backbone, VAE, prompt or precision.
    """
    dtype = str(backbone.dtype).removeprefix("torch.")
    key: dict[str, Any] = {
        "dataset": dataset.digest, "dtype": dtype, "backbone": backbone.name, "vae": fingerprint(backbone.vae),
        "prompt": prompt, "flip": flip,
    }  # fmt: skip
    marker, store = folder / MARKER, LatentStore(folder, tuple(dataset.group_ids), cell=backbone.cell)
    found = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None
    processes.wait()
    if found is not None and found.get("flip") and not flip:
        key["flip"] = flip = True  # what holds mirror images too serves a run without
    if found is not None and {name: found.get(name) for name in key} != key:
        raise ConfigError(f"{folder} was made for {found}, this run needs {key}; name another cache")
    if found is not None and found.get("finished"):
        return store
    if processes.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(marker, json.dumps(key))
        _write_text(folder / TEXT, backbone.text(prompt))
    processes.wait()
    kind = torch.float32 if backbone.dtype == torch.float32 else torch.float16
    own = range(len(dataset))[processes.share_of(len(dataset))]
    for index in tqdm(own, desc="caching latents", unit="group", disable=not processes.is_main):
        path = group_path(folder, dataset.group_ids[index])
        if not path.is_file():
            with replacing(path) as file:
                file.write(_content(backbone, dataset.group(index), flip=flip, kind=kind))
    processes.wait()
    if processes.is_main:
        replace_text(marker, json.dumps({**key, "finished": True}))
    processes.wait()
    return store


def _write_text(path: Path, text: Text) -> None:
    tensors = {"embedding": text.embedding} | ({} if text.pooled is None else {"pooled": text.pooled})
    with replacing(path) as file:
        file.write(save({name: value.float().cpu().contiguous() for name, value in tensors.items()}))
