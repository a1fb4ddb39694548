"""Degraded regions of photographs, each with one window that the prior has already seen, for training in one step."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sr_core.backbones.prior import SCALE, load_prior
from sr_core.degradation_presets import GRADED, DegradationPreset, graded_preset
from sr_core.degradations import degradation_preset, degrade
from sr_core.errors import ConfigError, InputError
from sr_core.files import replace_text
from sr_core.images import read_image, to_uint8
from sr_core.tensors import Enlarged, Image
from train.data import CachedCrops, CacheWriter, crop_layout, find_photos, seeded_generator

REGION_PX = 480
"""Side of a region in HQ pixels: what the choice of a level sees of a photograph."""
WINDOW_PX = 128
"""Side, in HQ pixels, of the window of each region that is restored."""
_LOW, _SMALL = REGION_PX // SCALE, WINDOW_PX // SCALE


class Regions(NamedTuple):
    """Several regions; the window's tensors are those of `CachedCrops`."""

    region: Float[Tensor, "b 3 r s"]
    """LQ of the whole region."""
    hq: Enlarged
    lq: Image
    prior: Enlarged
    trunk: Float[Tensor, "b 64 h w"]


class CachedRegions:
    """Regions on disk as memory-mapped arrays."""

    def __init__(self, folder: Path) -> None:
        self.windows = CachedCrops(folder)
        self.region = np.load(folder / "region.npy", mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self.region)

    def get(self, indices: Sequence[int]) -> Regions:
        """Return these regions, float32."""
        parts = [self.windows.window(i, 0, 0, _SMALL) for i in indices]
        hq, lq, prior, trunk = (torch.stack(part) for part in zip(*parts, strict=True))
        region = torch.from_numpy(self.region[list(indices)].copy()).permute(0, 3, 1, 2).float() / 255
        return Regions(region, hq, lq, prior, trunk)


def drawn_preset(presets: dict[str, float], generator: torch.Generator) -> DegradationPreset:
    """Return one of the presets, each as often as its share says; `graded` at a uniform strength."""
    names = list(presets)
    name = names[int(torch.multinomial(torch.tensor([presets[n] for n in names]), 1, generator=generator))]
    if name == GRADED:
        return graded_preset(float(torch.rand((), generator=generator)))
    return degradation_preset(name)


def _most_detailed(hq: Image, generator: torch.Generator) -> tuple[int, int]:
    """Return row and column, in LQ pixels, of the window with the most local contrast among three random ones."""
    grey = hq.mean(1)[0]
    corners = torch.randint(0, _LOW - _SMALL + 1, (3, 2), generator=generator).tolist()

    def contrast(corner: list[int]) -> float:
        row, column = (SCALE * place for place in corner)
        return float(torch.diff(grey[row : row + WINDOW_PX, column : column + WINDOW_PX], dim=1).abs().mean())

    row, column = max(corners, key=contrast)
    return row, column


def cached_regions(
    photos: Sequence[str],
    folder: Path,
    *,
    count: int,
    presets: dict[str, float],
    seed: int,
    dtype: torch.dtype,
    device: str,
    strengths: Sequence[float] = (),
) -> CachedRegions:
    """Return `count` regions of photographs with the prior's features of their windows, computing them on first use.

    Region i is of photograph i modulo their number, in a shuffled order; place and degradation come from (seed, i).
    With `strengths` there are `count` regions at each of them in place of `presets`, the same places every time.
    Raises ConfigError if the cache was made for something else, InputError if no photograph is large enough.
    """
    paths = find_photos([Path(photo) for photo in photos])
    order = torch.randperm(len(paths), generator=seeded_generator(seed, "photos")).tolist()
    paths = [paths[i] for i in order]
    digest = hashlib.sha256("/".join(path.name for path in paths).encode()).hexdigest()
    kind = str(dtype).removeprefix("torch.")
    key = {"photos": digest, "count": count, "presets": dict(sorted(presets.items())), "seed": seed, "dtype": kind}
    if strengths:
        key, count = {**key, "presets": list(strengths)}, count * len(strengths)
    marker = folder / "_SUCCESS.json"
    if marker.is_file():
        found = json.loads(marker.read_text(encoding="utf-8"))
        if found != key:
            raise ConfigError(f"{folder} was made for {found}, this recipe needs {key}; name another data.cache")
        return CachedRegions(folder)
    layout = {**crop_layout(count, WINDOW_PX), "region": ("uint8", (count, _LOW, _LOW, 3))}
    writer = CacheWriter(folder, layout, key)
    prior = load_prior().to(device=device, dtype=dtype)
    for i in tqdm(range(writer.done, count), initial=writer.done, total=count, desc="caching regions", unit="region"):
        place = i // max(1, len(strengths))
        generator = seeded_generator(seed, "region", place)
        hq = _cut(paths[place % len(paths)], generator)
        if strengths:
            row, column = _most_detailed(hq, generator)
            preset, generator = graded_preset(strengths[i % len(strengths)]), seeded_generator(seed, "strength", i)
            lq = degrade(hq, preset, generator=generator)
        else:
            lq = degrade(hq, drawn_preset(presets, generator), generator=generator)
            row, column = _most_detailed(hq, generator)
        high = (slice(SCALE * row, SCALE * row + WINDOW_PX), slice(SCALE * column, SCALE * column + WINDOW_PX))
        window = lq[..., row : row + _SMALL, column : column + _SMALL]
        writer.arrays["region"][i] = to_uint8(lq)
        writer.put_crop(i, to_uint8(hq[(..., *high)]), window, prior, dtype, device)
        if (i + 1) % 20 == 0 or i + 1 == count:
            writer.sync(i + 1)
    replace_text(marker, json.dumps(key))
    return CachedRegions(folder)


def _cut(path: Path, generator: torch.Generator) -> Image:
    """Return a random square region of a photograph."""
    pixels = read_image(path).pixels
    height, width = pixels.shape[-2:]
    if min(height, width) < REGION_PX:
        raise InputError(f"a photograph must be at least {REGION_PX} px a side, got {width} x {height} ({path.name})")
    row = int(torch.randint(0, height - REGION_PX + 1, (), generator=generator))
    column = int(torch.randint(0, width - REGION_PX + 1, (), generator=generator))
    return pixels[..., row : row + REGION_PX, column : column + REGION_PX]
