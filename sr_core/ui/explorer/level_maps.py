"""Maps of a run as PNG files that hold numbers: the browser colours them and reads them under the pointer.

A file's pixel holds a number of 8-bit levels in steps of 1/256: 256 times it, its high byte in red and its low one in
green. Files lie in the page's own folder, made when they are first asked for.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image as PillowImage
from plotly.colors import sample_colorscale

from sr_core.difference_maps import energy_above_nyquist, spread
from sr_core.errors import InputError
from sr_core.files import replace_text
from sr_core.scoring import local_pixels
from sr_core.ui.explorer.chart import MAGNITUDES
from sr_core.ui.explorer.run_pictures import RunPicture, find_picture, run_pictures
from sr_core.ui.pictures import file_url, save_picture
from sr_core.ui.visits import Shown

SPREAD, ABOVE = "spread", "above"
SPREAD_LEGEND = "varies between seeds; agreement does not prove truth"
ABOVE_LEGEND = "energy above the input's Nyquist frequency: detail that the input cannot hold"
STEPS = 256
"""Steps per level in a file."""
TOPS = (1, 2, 5, 10, 20, 50, 100, 255)
"""Ends of the colour scale, in levels."""


@lru_cache(maxsize=1)
def magnitude_colours() -> list[list[int]]:
    """Return 256 colours (r, g, b) from small to large values, for people of every colour vision."""
    colours = sample_colorscale(MAGNITUDES, [i / 255 for i in range(256)])
    return [[round(float(part)) for part in colour[4:-1].split(",")] for colour in colours]


def spread_map(shown: Shown) -> dict[str, Any]:
    """Return the map of what varies between the candidates that seeds drew; raises InputError for fewer than two."""
    drawn = [p for p in run_pictures(shown) if p.kind == "candidate" and p.record and p.record.seed is not None]
    if len(drawn) < 2:
        raise InputError(f"there must be two candidates drawn from seeds to see what varies, got {len(drawn)}")
    drawn.sort(key=lambda picture: picture.path.name)
    path = shown.view_folder / f"spread-{_digest(drawn)}.png"
    if not path.is_file():
        write_levels(path, spread(levels_of(picture) for picture in drawn).numpy())
    words = f"Standard deviation between {len(drawn)} seeds, in 8-bit levels"
    return _value(SPREAD, path, legend=SPREAD_LEGEND, words=words, picture=None)


def above_map(shown: Shown, picture_id: str) -> dict[str, Any]:
    """Return the map of where a picture of the run has energy above the input's Nyquist frequency.

    Its words do not name the picture: what a picture is called changes with the order.
    """
    picture = find_picture(shown, picture_id)
    if picture.kind == "input":
        raise InputError("the input has nothing above its own Nyquist frequency; choose another picture")
    path = shown.view_folder / f"above-{_digest([picture])}.png"
    if not path.is_file():
        lq = shown.run.values["input"]
        write_levels(path, energy_above_nyquist(levels_of(picture), (lq["height"], lq["width"])).numpy())
    words = "Local root mean square above the input's Nyquist, in 8-bit levels"
    return _value(ABOVE, path, legend=ABOVE_LEGEND, words=words, picture=picture_id)


def levels_of(picture: RunPicture) -> Float[torch.Tensor, "3 h w"]:
    """Return a picture in 8-bit levels."""
    return torch.from_numpy(local_pixels(picture.path).astype(np.float32)).permute(2, 0, 1)


def write_levels(path: Path, levels: Float[ndarray, "h w"]) -> None:
    """Write numbers of levels, 0 to 255, beside the figures that describe them all."""
    steps = np.minimum(np.round(levels * STEPS), 255 * STEPS).astype(np.uint16)
    pixels = np.stack([steps >> 8, steps & 255, np.zeros_like(steps)], axis=-1).astype(np.uint8)
    path.parent.mkdir(exist_ok=True)
    figures = {
        "mean": float(levels.mean()),
        "rms": float(np.sqrt(np.square(levels).mean())),
        "median": float(np.median(levels)),
        "p90": float(np.percentile(levels, 90)),
        "p99": float(np.percentile(levels, 99)),
        "largest": float(levels.max()),
    }
    replace_text(path.with_suffix(".json"), json.dumps(figures))
    save_picture(path, PillowImage.fromarray(pixels))


def read_levels(path: Path) -> Float[ndarray, "h w"]:
    """Return the numbers of a file that `write_levels` made, to 1/512 of a level."""
    with PillowImage.open(path) as image:
        high, low, _ = np.moveaxis(np.asarray(image).astype(np.float64), -1, 0)
    return (256 * high + low) / STEPS


def figures_table(maps: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the figures of maps side by side."""
    names = {
        "mean": "Mean", "rms": "Root mean square", "median": "Median", "p90": "90 % lie below", "p99": "99 % lie below",
        "largest": "Largest",
    }  # fmt: skip
    columns = {SPREAD: "Varies between seeds, levels", ABOVE: "Above the input's Nyquist, levels"}
    data = {columns[m["map"]]: [m["figures"][key] for key in names] for m in maps}
    return pd.DataFrame(data, index=pd.Index(names.values(), name="Over all pixels"))


def _digest(pictures: list[RunPicture]) -> str:
    """Return a name that changes with the files."""
    stamps = [(picture.path.name, picture.path.stat().st_mtime_ns) for picture in pictures]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]


def _value(name: str, path: Path, *, legend: str, words: str, picture: str | None) -> dict[str, Any]:
    figures = json.loads(path.with_suffix(".json").read_text())
    top = next(top for top in TOPS if top >= min(figures["p99"], TOPS[-1]))
    return {
        "map": name,
        "picture": picture,
        "url": file_url(path),
        "legend": legend,
        "words": words,
        "top": top,
        "figures": figures,
    }
