"""Photographs to crops, and crops with the prior's features cached beside them."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sr_core.backbones.flow_head import HeadInput, unshuffle_planes
from sr_core.backbones.prior import SCALE, TRUNK_CHANNELS, Prior, load_prior
from sr_core.degradations import degrade
from sr_core.errors import ConfigError, InputError
from sr_core.files import replace_text, replacing
from sr_core.images import read_image, to_uint8
from sr_core.tensors import Enlarged, Image
from train.config import DataConfig

PHOTO_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif"}
CROP_PX = 256
CROPS = "crops.npy"
INDEX = "crops.json"
Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Arrays of a cache: name, kind of number, shape."""


def seeded_generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator whose stream depends on `parts` alone."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


def find_photos(folders: Sequence[Path], held_out: tuple[str, ...] = ()) -> list[Path]:
    """Return every photograph below `folders`, sorted, but those whose names begin as one of `held_out`.

    Raises InputError if a folder does not exist or holds none.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"photographs must lie in a folder, got {folder}")
        photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
        if not photos:
            raise InputError(f"{folder} holds no photograph ({', '.join(sorted(PHOTO_SUFFIXES))})")
        found += [p for p in photos if not p.stem.replace(" ", "_").startswith(held_out)] if held_out else photos
    return found


def _positions(pixels: Image, count: int, generator: torch.Generator) -> Iterator[tuple[int, int]]:
    """Yield crop corners: of three random places, the one with the most local contrast."""
    height, width = pixels.shape[-2:]
    grey = pixels.mean(1)[0]
    for _ in range(count):
        rows = torch.randint(0, height - CROP_PX + 1, (3,), generator=generator).tolist()
        columns = torch.randint(0, width - CROP_PX + 1, (3,), generator=generator).tolist()
        patches = [grey[r : r + CROP_PX, c : c + CROP_PX] for r, c in zip(rows, columns, strict=True)]
        contrast = [float(torch.diff(p, dim=1).abs().mean()) for p in patches]
        best = int(np.argmax(contrast))
        yield rows[best], columns[best]


def pack(photos: Sequence[Path], out: Path, *, crops_per_photo: int, seed: int) -> int:
    """Cut photographs into square crops of 256 px and return how many were written.

    Photographs smaller than a crop are left out and counted in the index. Writes `crops.npy` (n, 256, 256, 3) uint8
    and `crops.json`, whole or not at all.
    """
    crops, index, skipped = [], [], []
    for path in tqdm(photos, desc="packing", unit="photo"):
        pixels = read_image(path).pixels
        if min(pixels.shape[-2:]) < CROP_PX:
            skipped.append(path.name)
            continue
        generator = seeded_generator(seed, path.name)
        for row, column in _positions(pixels, crops_per_photo, generator):
            crops.append(to_uint8(pixels[..., row : row + CROP_PX, column : column + CROP_PX]))
            index.append({"photo": path.name, "row": row, "column": column})
    if not crops:
        raise InputError(f"a photograph must be at least {CROP_PX} px a side, and none was")
    out.mkdir(parents=True, exist_ok=True)
    array = np.stack(crops)
    with replacing(out / CROPS) as file:
        np.save(file, array, allow_pickle=False)
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    content = {"sha256": digest, "crop_px": CROP_PX, "seed": seed, "skipped": skipped, "crops": index}
    replace_text(out / INDEX, json.dumps(content))
    return len(crops)


class Batch(NamedTuple):
    """Windows of several crops with what the head is told about them."""

    photo: HeadInput
    hq: Float[Tensor, "b 48 h w"]
    """Opponent planes of the ground truth, pixel-unshuffled by 4."""


class CachedCrops:
    """Crops degraded once, with the prior's features stored beside them as memory-mapped arrays."""

    def __init__(self, folder: Path) -> None:
        self.hq = np.load(folder / "hq.npy", mmap_mode="r", allow_pickle=False)
        self.lq = np.load(folder / "lq.npy", mmap_mode="r", allow_pickle=False)
        self.prior = np.load(folder / "prior.npy", mmap_mode="r", allow_pickle=False)
        self.trunk = np.load(folder / "trunk.npy", mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self.lq)

    def window(self, index: int, row: int, column: int, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return float32 (hq, lq, prior, trunk) of one square window; `row`, `column`, `side` in LQ pixels."""
        low = (slice(row, row + side), slice(column, column + side))
        high = (slice(row * SCALE, (row + side) * SCALE), slice(column * SCALE, (column + side) * SCALE))
        hq = torch.from_numpy(self.hq[index][high].copy()).permute(2, 0, 1).float() / 255
        lq = torch.from_numpy(self.lq[index][low].copy()).permute(2, 0, 1).float() / 255
        prior = torch.from_numpy(self.prior[index][(slice(None), *high)].astype(np.float32))
        trunk = torch.from_numpy(self.trunk[index][(slice(None), *low)].astype(np.int32)) << 16
        return hq, lq, prior, trunk.view(torch.float32)

    def windows(
        self, batch_size: int, side: int, generator: torch.Generator, own: slice = slice(None)
    ) -> tuple[Enlarged, Image, Enlarged, Float[Tensor, "b 64 h w"]]:
        """Return random windows as (hq, lq, prior, trunk): of `batch_size` that are drawn those of the part `own`."""
        crop = self.lq.shape[1]
        if side > crop:
            raise ConfigError(f"window_px must be at most {crop}, got {side}")
        indices = torch.randint(0, len(self), (batch_size,), generator=generator).tolist()
        corners = torch.randint(0, crop - side + 1, (batch_size, 2), generator=generator).tolist()
        parts = [self.window(i, r, c, side) for i, (r, c) in zip(indices[own], corners[own], strict=True)]
        hq, lq, prior, trunk = (torch.stack(part) for part in zip(*parts, strict=True))
        return hq, lq, prior, trunk


def _cache_key(config: DataConfig, digest: str, seed: int, dtype: str) -> dict[str, object]:
    return {"crops": digest, "presets": dict(sorted(config.presets.items())), "seed": seed, "dtype": dtype}


def cached_crops(config: DataConfig, *, seed: int, dtype: torch.dtype, device: str) -> CachedCrops:
    """Return the crops with the prior's features, computing them on first use.

    Crop i gets its preset and its degradation from (seed, i). A cache that was made for other crops, presets, seed or
    precision is refused; an unfinished one is made again.
    Raises ConfigError if the crops or a matching cache are missing.
    """
    source, folder = Path(config.crops), Path(config.cache)
    if not (source / INDEX).is_file():
        raise ConfigError(f"{source} must hold packed crops; run: python -m train data PHOTOS... --out {source}")
    digest = json.loads((source / INDEX).read_text(encoding="utf-8"))["sha256"]
    key = _cache_key(config, digest, seed, str(dtype).removeprefix("torch."))
    marker = folder / "_SUCCESS.json"
    if marker.is_file():
        found = json.loads(marker.read_text(encoding="utf-8"))
        if found != key:
            raise ConfigError(f"{folder} was made for {found}, this recipe needs {key}; name another data.cache")
        return CachedCrops(folder)
    crops = np.load(source / CROPS, mmap_mode="r", allow_pickle=False)
    _fill_cache(CacheWriter(folder, crop_layout(len(crops), CROP_PX), key), crops, config, seed, dtype, device)
    replace_text(marker, json.dumps(key))
    return CachedCrops(folder)


def crop_layout(count: int, side: int) -> Layout:
    """Return the arrays of `count` square crops of `side` HQ pixels and the prior's features of each."""
    low = side // SCALE
    return {
        "hq": ("uint8", (count, side, side, 3)),
        "lq": ("uint8", (count, low, low, 3)),
        "prior": ("float16", (count, 3, side, side)),
        "trunk": ("uint16", (count, TRUNK_CHANNELS, low, low)),
    }


class CacheWriter:
    """A cache's arrays on disk, filled item by item; an interrupted fill goes on where it was last synced."""

    def __init__(self, folder: Path, layout: Layout, key: dict[str, object]) -> None:
        self._progress, self._key = folder / "progress.json", key
        self.done = self._found()
        folder.mkdir(parents=True, exist_ok=True)
        mode: Literal["r+", "w+"] = "r+" if self.done else "w+"
        self.arrays = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode=mode, dtype=np.dtype(kind), shape=shape)
            for name, (kind, shape) in layout.items()
        }

    def _found(self) -> int:
        if not self._progress.is_file():
            return 0
        found = json.loads(self._progress.read_text(encoding="utf-8"))
        return int(found["done"]) if found["key"] == self._key else 0

    def put_crop(self, i: int, hq: np.ndarray, lq: Image, prior: Prior, dtype: torch.dtype, device: str) -> None:
        """Store a crop (H, W, 3) of 8 bits, its LQ, and what the prior makes of that; for `crop_layout`."""
        with torch.inference_mode():
            output = prior(lq.to(device=device, dtype=dtype).contiguous(memory_format=torch.channels_last))
        self.arrays["hq"][i] = hq
        self.arrays["lq"][i] = to_uint8(lq)
        self.arrays["prior"][i] = output.image[0].float().clamp(-0.5, 1.5).cpu().numpy()
        self.arrays["trunk"][i] = output.trunk[0].contiguous().bfloat16().cpu().view(torch.uint16).numpy()

    def sync(self, done: int) -> None:
        """Flush the arrays, then record that the first `done` items are there."""
        for array in self.arrays.values():
            array.flush()
        replace_text(self._progress, json.dumps({"key": self._key, "done": done}))


def _fill_cache(
    writer: CacheWriter, crops: np.ndarray, config: DataConfig, seed: int, dtype: torch.dtype, device: str
) -> None:
    prior = load_prior().to(device=device, dtype=dtype)
    names = list(config.presets)
    shares = torch.tensor([config.presets[name] for name in names])
    count = len(crops)
    bar = tqdm(range(writer.done, count), initial=writer.done, total=count, desc="caching features", unit="crop")
    for i in bar:
        generator = seeded_generator(seed, "degrade", i)
        preset = names[int(torch.multinomial(shares, 1, generator=generator))]
        hq = torch.from_numpy(crops[i].copy()).permute(2, 0, 1)[None].float() / 255
        lq = degrade(hq, preset, generator=generator)
        writer.put_crop(i, crops[i], lq, prior, dtype, device)
        if (i + 1) % 200 == 0 or i + 1 == count:
            writer.sync(i + 1)


def head_batch(
    hq: Enlarged, lq: Image, prior: Enlarged, trunk: Float[Tensor, "b 64 h w"], gain: Float[Tensor, "b 1 h w"]
) -> Batch:
    """Return the planes that the flow is defined on."""
    return Batch(HeadInput(trunk, unshuffle_planes(prior), lq, gain), unshuffle_planes(hq))
