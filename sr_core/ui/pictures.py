"""Pictures that only the page needs: previews of large candidates and the input at the output's size."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image as PillowImage

from sr_core.backbones import adapter_label
from sr_core.files import replacing
from sr_core.images import Photo, read_image, read_output, to_uint8
from sr_core.resampling import resize_clamped
from sr_core.runs import CandidateRecord, Run
from sr_core.ui.visits import Shown

PREVIEW_SIDE = 512
"""Longest side of a preview in the grid; what is at most twice as large is shown as it is."""
MAX_SMOOTH_PIXELS = 64_000_000
"""Above it the smoothly enlarged input is not made; browsers enlarge it by pixels instead."""


def file_url(path: Path) -> str:
    """Return the address of a file of the run store, relative to the page."""
    return f"gradio_api/file={quote(str(path))}"


def preview(shown: Shown, record: CandidateRecord) -> str:
    """Return the address of a candidate's picture for the grid: its own file, or a smaller one if it is large."""
    path = shown.run.path(record)
    if max(shown.run.values["size"]) <= 2 * PREVIEW_SIDE:
        return file_url(path)
    small = shown.view_folder / f"{path.stem}.png"
    if not small.is_file():
        shown.view_folder.mkdir(exist_ok=True)
        drawn = read_output(path)
        layers = drawn.pixels if drawn.alpha is None else np.dstack([drawn.pixels, drawn.alpha])
        image = PillowImage.fromarray(layers)
        image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), PillowImage.Resampling.BICUBIC, reducing_gap=3.0)
        save_picture(small, image)
    return file_url(small)


def prepare_input(shown: Shown) -> None:
    """Write the input for the comparison, once per run: upright and sRGB, as it is and enlarged by bicubic."""
    if (shown.view_folder / "input.png").is_file():
        return
    shown.view_folder.mkdir(exist_ok=True)
    photo = read_image(shown.run.folder / shown.run.values["input"]["file"])
    width, height = shown.run.values["size"]
    if width * height <= MAX_SMOOTH_PIXELS:
        _save(shown.view_folder / "input_bicubic.png", _enlarged(photo, width, height))
    _save(shown.view_folder / "input.png", photo)


def _enlarged(photo: Photo, width: int, height: int) -> Photo:
    pixels = resize_clamped(photo.pixels, height, width)
    alpha = None if photo.alpha is None else resize_clamped(photo.alpha, height, width)
    return Photo(pixels, alpha, photo.metadata, photo.notices, photo.name)


def _save(path: Path, photo: Photo) -> None:
    array = to_uint8(photo.pixels)
    if photo.alpha is not None:
        array = np.concatenate([array, to_uint8(photo.alpha.expand(-1, 3, -1, -1))[..., :1]], axis=-1)
    save_picture(path, PillowImage.fromarray(array))


def save_picture(path: Path, image: PillowImage.Image) -> None:
    """Write a PNG for the page, whole or not at all: another event may ask for it meanwhile."""
    with replacing(path) as file:
        image.save(file, "png", compress_level=1)


def comparison(shown: Shown, record: CandidateRecord) -> dict[str, Any]:
    """Return what the before/after viewer shows: the candidate's own file against the input or its twin.

    `before` is the same seed by the run's adapter to compare with, None until it is drawn or if it failed; `twin` is
    that adapter's name, None where the run has none.
    """
    prepare_input(shown)
    values = shown.run.values
    other = values.get("compare_adapter")
    smooth = shown.view_folder / "input_bicubic.png"
    width, height = values["size"]
    return {
        "after": file_url(shown.run.path(record)),
        "pixels": file_url(shown.view_folder / "input.png"),
        "smooth": file_url(smooth) if smooth.is_file() else None,
        "width": width,
        "height": height,
        "name": shown.name,
        "label": record.label,
        "place": place(shown.run, record),
        "before": None if record.before is None else file_url(shown.run.folder / record.before),
        "twin": None if other is None else adapter_label(other),
        "adapter": adapter_label(values["adapter"]),
        "seed": record.seed,
    }


def place(run: Run, record: CandidateRecord) -> str:
    """Return a candidate's place in words."""
    if record.problem is not None:
        return "Failed"
    if record.rank is None:
        return "Not ranked"
    words = f"Rank {record.rank} of {sum(other.rank is not None for other in run.candidates)}"
    extreme = extreme_of(run, record)
    return f"{extreme} \u00b7 {words}" if extreme else words


def extreme_of(run: Run, record: CandidateRecord) -> str:
    """Return Best or Worst for the candidate with the highest or the lowest reward, else nothing.

    A shared rank is said beside it. Where all rewards are equal there is neither.
    """
    best, worst = run.best, run.worst
    if best is None or worst is None or best.reward == worst.reward:
        return ""
    return {best.index: "Best", worst.index: "Worst"}.get(record.index, "")
