"""Score image files of any origin: one answer for the command line, the page and the API."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sr_core.errors import InputError
from sr_core.images import Pixels8, from_uint8, read_image, read_output, to_uint8
from sr_core.pipeline import scorer_for
from sr_core.samples import eight_bits

ReadPixels = Callable[[Path], Pixels8]
"""Gives the 8-bit sRGB pixels (h, w, 3) of a file; raises InputError if it cannot."""


def upload_pixels(path: Path) -> Pixels8:
    """Read what a visitor handed in: within the upload limits, decoded apart."""
    return to_uint8(read_image(path).pixels)


def local_pixels(path: Path) -> Pixels8:
    """Read a file of the user's own, up to the output limits; 16 bits are rounded to 8."""
    return eight_bits(read_output(path).pixels)


def _same_size(images: Sequence[Pixels8]) -> tuple[int, int]:
    """Return the (width, height) that all images have; raises InputError if they differ."""
    sizes = {(image.shape[1], image.shape[0]) for image in images}
    if len(sizes) != 1:
        raise InputError(f"images that are compared must have one size, got {sorted(sizes)}; score them one by one")
    return sizes.pop()


def score_files(
    images: Sequence[Path],
    *,
    reference: Path | None = None,
    lq: Path | None = None,
    metric_set: str = "offline",
    fidelity_weight: float = 0.5,
    read: ReadPixels = upload_pixels,
) -> dict[str, Any]:
    """Return {metric_set, reference, metrics, left_out, notices, images: [{file, scores, reward, rank}]}.

    The images are candidates of one photo and must have one size, the reference's if there is one. `lq` is the photo
    that they were made from; without it and without a reference only the no-reference half counts. One image has
    reward and rank null. Raises InputError if a file cannot be used.
    """
    pixels = [read(path) for path in images]
    width, height = _same_size(pixels)
    target = None if reference is None else from_uint8(read(reference))
    if target is not None and tuple(target.shape[-2:]) != (height, width):
        raise InputError(
            f"the reference must measure {width} x {height} px like the images, "
            f"got {target.shape[-1]} x {target.shape[-2]}"
        )
    scores = scorer_for(metric_set).score(
        pixels,
        lq=None if lq is None else from_uint8(read(lq)),
        reference=target,
        fidelity_weight=fidelity_weight,
    )
    reward = scores.reward
    rows = []
    for i, path in enumerate(images):
        row: dict[str, Any] = {"file": str(path), "scores": {key: values[i] for key, values in scores.raw.items()}}
        row["reward"] = None if reward is None else float(reward.reward[i])
        row["rank"] = None if reward is None or reward.ranks is None else reward.ranks[i]
        rows.append(row)
    return {
        "metric_set": metric_set,
        "reference": scores.with_reference,
        "metrics": scores.metrics,
        "left_out": scores.left_out,
        "notices": [] if reward is None else list(reward.notices),
        "images": rows,
    }
