"""Crops that judge: the most detailed squares of photographs that no other folder holds."""

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from tqdm import tqdm

from sr_core.errors import InputError
from sr_core.files import replace_text, replacing
from sr_core.images import Pixels8, from_uint8, read_image, to_uint8
from sr_core.preference_data.shards import plain_png
from sr_core.resampling import resize, resize_clamped
from sr_core.tensors import Image
from train.data import CROP_PX, find_photos
from train.packages import PACKAGES, photo_folders, photos_of

LONGEST_PX = 1920
THUMB_PX = 32
ALIKE = 0.9
"""Thumbnails that correlate this much are taken for the same photograph."""
MOST_CROPS = 4
STRIDE = 16
INDEX = "held_out.json"
_LEAST_CONTRAST = 0.012
_LEAST_COLOURS = 2000
_MOST_FLAT = 0.4


class _Square(NamedTuple):
    row: int
    column: int
    contrast: float
    pixels: Pixels8


class _Candidate(NamedTuple):
    """A photograph that may be used; only its squares are kept, for there may be thousands of photographs."""

    source: str
    path: Path
    size: tuple[int, int]
    """Width and height once reduced, in pixels."""
    squares: list[_Square]
    """Most detailed first."""


def thumbnails(pixels: Image) -> Float[Tensor, "2 1024"]:
    """Return the photograph and its mirror image as 32 x 32 grey thumbnails of mean 0 and norm 1.

    A dot product of two such rows is their normalised correlation, in [-1, 1].
    """
    grey = resize(pixels.mean(1, keepdim=True), THUMB_PX, THUMB_PX)
    both = torch.cat([grey, grey.flip(-1)]).flatten(1)
    both = both - both.mean(1, keepdim=True)
    return both / both.norm(dim=1, keepdim=True).clamp_min(1e-6)


def likeness(pixels: Image, known: Float[Tensor, "n 1024"]) -> float:
    """Return how alike a photograph is to the most similar thumbnail: their correlation, 1 for the same one."""
    return float((thumbnails(pixels)[:1] @ known.T).max()) if len(known) else 0.0


def reduced(pixels: Image) -> UInt8[np.ndarray, "H W 3"]:
    """Return a photograph with a longest side of at most 1920 px, antialiased, as 8 bits."""
    height, width = pixels.shape[-2:]
    factor = min(1.0, LONGEST_PX / max(height, width))
    return to_uint8(resize_clamped(pixels, max(1, round(height * factor)), max(1, round(width * factor))))


def _window_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of every crop-sized window on the grid of corners."""
    total = np.pad(values.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    top, bottom = total[:-CROP_PX:STRIDE], total[CROP_PX::STRIDE]
    rows = bottom - top
    sums: np.ndarray = rows[:, CROP_PX::STRIDE] - rows[:, :-CROP_PX:STRIDE]
    return sums / CROP_PX**2


def detailed_squares(pixels: Pixels8, count: int) -> list[tuple[int, int, float]]:
    """Return (row, column, contrast) of up to `count` squares of 256 px that do not overlap, most detailed first.

    Contrast is the mean absolute difference of neighbours in grey, in [0, 1]. Squares with little of it are left out,
    and those with many neighbours that are exactly equal in colour, which photographs do not have.
    """
    if min(pixels.shape[:2]) < CROP_PX:
        return []
    grey = pixels.astype(np.float32).mean(2) / 255
    across, down = np.diff(grey, axis=1, append=grey[:, -1:]), np.diff(grey, axis=0, append=grey[-1:])
    contrast = _window_means((np.abs(across) + np.abs(down)) / 2)
    same: Bool[np.ndarray, "h w"] = np.zeros(grey.shape, dtype=bool)
    same[:, :-1] = (pixels[:, 1:] == pixels[:, :-1]).all(2)
    free = (contrast >= _LEAST_CONTRAST) & (_window_means(same) <= _MOST_FLAT)
    squares: list[tuple[int, int, float]] = []
    reach = -(-CROP_PX // STRIDE)
    while len(squares) < count and free.any():
        row, column = map(int, np.unravel_index(int(np.where(free, contrast, -1).argmax()), free.shape))
        squares.append((row * STRIDE, column * STRIDE, float(contrast[row, column])))
        free[max(0, row - reach + 1) : row + reach, max(0, column - reach + 1) : column + reach] = False
    return squares


def _colours(pixels: Pixels8) -> int:
    packed = pixels.astype(np.uint32) @ np.array([1, 256, 65536], dtype=np.uint32)
    return len(np.unique(packed))


def licence_of(source: str, folder: Path) -> str | None:
    """Return the licence that a source states for its files, or None where it states none.

    It is looked for in Debian's copyright files (what they say of `Files: *`, or of all files where they say nothing
    of these), then in a package.json, then in the first line of a LICENSE file.
    """
    if source in PACKAGES:
        return PACKAGES[source]
    for path in sorted(folder.rglob("copyright")):
        text = path.read_text(encoding="utf-8")
        general = re.search(r"^Files:[ \t]*\*[ \t]*\n(?:.+\n)*?License:[ \t]*(\S.*)", text, re.MULTILINE)
        names = [general[1]] if general else re.findall(r"^License:[ \t]*(\S.*)", text, re.MULTILINE)
        if names:
            return ", ".join(sorted({name.strip() for name in names}))
    for path in sorted(folder.rglob("package.json")):
        licence = json.loads(path.read_text(encoding="utf-8")).get("license")
        if isinstance(licence, str):
            return licence
    for path in sorted(folder.rglob("LICENSE*")):
        lines = path.read_text(encoding="utf-8").split("\n")
        return next((line.strip("# ") for line in lines if line.strip("# ")), None)
    return None


def _known(folders: Sequence[Path]) -> Float[Tensor, "n 1024"]:
    """Return the thumbnails of every photograph in `folders`."""
    paths = find_photos(folders) if folders else []
    bar = tqdm(paths, desc="photographs to avoid", unit="photo")
    return torch.cat([torch.zeros(0, THUMB_PX**2), *(thumbnails(read_image(path).pixels) for path in bar)])


def _candidates(sources: Sequence[str], folders: Sequence[Path], avoid: Sequence[Path]) -> Iterator[_Candidate]:
    """Yield the photographs that are new and detailed, in the order of sources and names."""
    known = _known(avoid)
    for source, path in tqdm(photos_of(sources, folders), desc="photographs to choose from", unit="photo"):
        try:
            photo = read_image(path).pixels
        except InputError:
            continue  # packages also hold files that are broken on purpose
        pixels = reduced(photo)
        squares = [
            _Square(row, column, contrast, pixels[row : row + CROP_PX, column : column + CROP_PX].copy())
            for row, column, contrast in detailed_squares(pixels, MOST_CROPS)
        ]
        if not squares or _colours(pixels) < _LEAST_COLOURS:
            continue
        small = from_uint8(pixels)
        if likeness(small, known) >= ALIKE:
            continue
        known = torch.cat([known, thumbnails(small)])
        yield _Candidate(source, path, (pixels.shape[1], pixels.shape[0]), squares)


def _in_turns(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Return the candidates so that sources take turns, each giving its most detailed photograph first."""
    queues: dict[str, list[_Candidate]] = {}
    for candidate in sorted(candidates, key=lambda c: -c.squares[0].contrast):
        queues.setdefault(candidate.source, []).append(candidate)
    order = {source: i for i, source in enumerate(dict.fromkeys(c.source for c in candidates))}
    turns = [(turn, order[source], c) for source, queue in queues.items() for turn, c in enumerate(queue)]
    return [c for _, _, c in sorted(turns, key=lambda entry: entry[:2])]


def _chosen(candidates: Sequence[_Candidate], count: int) -> list[tuple[_Candidate, int]]:
    """Return `count` squares as (photograph, which): a second of one only after the first of all, and so on."""
    squares = [(c, k) for k in range(MOST_CROPS) for c in _in_turns(candidates) if k < len(c.squares)]
    if len(squares) < count:
        raise InputError(
            f"the sources must give {count} detailed squares of {CROP_PX} px, got {len(squares)} from "
            f"{len(candidates)} new photographs; name more sources or ask for fewer"
        )
    return squares[:count]


def _write(folder: Path, chosen: Sequence[tuple[_Candidate, int]], licences: dict[str, str | None]) -> None:
    rows: list[dict[str, object]] = []
    for candidate, which in chosen:
        square = candidate.squares[which]
        name = f"{Path(candidate.source).name}-{candidate.path.stem}-{which}.png".replace(" ", "_")
        if (folder / name).exists():
            name = f"{Path(name).stem}-{len(rows)}.png"
        with replacing(folder / name) as file:
            file.write(plain_png(square.pixels))
        rows.append(
            {
                "crop": name, "source": Path(candidate.source).name, "photo": candidate.path.name,
                "licence": licences[candidate.source], "row": square.row, "column": square.column,
                "reduced_to": list(candidate.size), "contrast": round(square.contrast, 5),
                "sha256": hashlib.sha256(square.pixels.tobytes()).hexdigest(),
            }
        )  # fmt: skip
    photos = len({(row["source"], row["photo"]) for row in rows})
    replace_text(folder / INDEX, json.dumps({"crop_px": CROP_PX, "photos": photos, "crops": rows}, indent=1) + "\n")


def make_held_out(sources: Sequence[str], out: Path, *, avoid: Sequence[Path], count: int) -> Path:
    """Cut `count` detailed squares of 256 px from photographs that no folder of `avoid` holds, and return `out`.

    Sources are folders or Debian packages, those without what `train.packages` holds out by name. A photograph is left
    out if its thumbnail correlates by 0.9 or more with one in `avoid` or one already taken, as it is or mirrored, or
    if it has little detail or few colours. It is reduced to at most 1920 px a side. No photograph gives a second
    square before all gave one, and none gives more than four. The same sources give the same files: PNG without any
    metadata, and `held_out.json` with the source, place and pixel hash of each.

    Raises InputError if `out` exists, or if there are fewer than `count` squares, saying how many.
    """
    with _whole(out) as part, photo_folders(list(sources)) as folders:
        chosen = _chosen(list(_candidates(sources, folders, avoid)), count)
        licences = {source: licence_of(source, folder) for source, folder in zip(sources, folders, strict=True)}
        _write(part, chosen, licences)
    return out


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes `out` at the end, or is deleted after an error; raises InputError if `out` exists."""
    if out.exists():
        raise InputError(f"the crops need a folder of their own, but {out} exists; name a new one or remove it")
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


class _Listed(NamedTuple):
    """What a list says of a crop."""

    name: str
    source: str
    photo: str
    row: int
    column: int
    digest: str


def _listed(path: Path, text: str) -> list[_Listed]:
    try:
        content = json.loads(text)
        crops = [
            _Listed(c["crop"], c["source"], c["photo"], int(c["row"]), int(c["column"]), c["sha256"])
            for c in content["crops"]
        ]
        usable = content["crop_px"] == CROP_PX and all(Path(c.name).name == c.name for c in crops)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must be a list as `held-out` writes it, got {error!r}") from error
    if not usable:
        raise InputError(f"{path} must list crops of {CROP_PX} px by plain file names")
    return crops


def _cut_again(crop: _Listed, folders: Sequence[Path]) -> Pixels8:
    """Return a listed crop's pixels; raises InputError, naming the crop, if no photograph gives those of the list."""
    roots = [
        root
        for folder in folders
        for root in (folder, folder / crop.source)
        if root.resolve().name == crop.source and root.is_dir()
    ]
    photos = [path for root in roots for path in sorted(root.rglob("*")) if path.name == crop.photo and path.is_file()]
    if not photos:
        raise InputError(f"{crop.name} needs {crop.photo} in a folder {crop.source}; the sources hold none")
    for path in photos:  # several of a source may have the same name
        pixels = reduced(read_image(path).pixels)
        square = pixels[crop.row : crop.row + CROP_PX, crop.column : crop.column + CROP_PX].copy()
        if hashlib.sha256(square.tobytes()).hexdigest() == crop.digest:
            return square
    raise InputError(f"{crop.name} must have the pixels of the list, but {photos[-1]} gives others")


def cut_held_out_again(listed: Path, sources: Sequence[str], out: Path) -> Path:
    """Cut the crops of a list, such as `held_out.json`, from the same photographs and return `out`.

    Sources are folders named as those of the list, or that hold such folders, or Debian packages of `train.packages`.
    The pixels of each crop are held against the list's SHA-256; the files are byte for byte those that were listed.

    Raises InputError if `out` exists, or, naming the crop, if a photograph is absent or another one.
    """
    if not listed.is_file():
        raise InputError(f"the list of crops must be a file, got {listed}")
    text = listed.read_text(encoding="utf-8")
    crops = _listed(listed, text)
    with _whole(out) as part, photo_folders(list(sources)) as folders:
        for crop in tqdm(crops, desc="crops", unit="crop"):
            with replacing(part / crop.name) as file:
                file.write(plain_png(_cut_again(crop, folders)))
        replace_text(part / INDEX, text)
    return out
