"""Score image files of any origin: one answer for the command line, the page and the API."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sr_core.errors import InputError
from sr_core.images import read_image, to_uint8
from sr_core.pipeline import scorer_for


def score_files(
    images: Sequence[Path],
    *,
    reference: Path | None = None,
    lq: Path | None = None,
    metric_set: str = "offline",
    fidelity_weight: float = 0.5,
) -> dict[str, Any]:
    """Return {metric_set, reference, metrics, left_out, images: [{file, scores, reward, rank}]}.

    The images are candidates of one photo and must have one size, the reference's if there is one. `lq` is the photo
    that they were made from; without it and without a reference only the no-reference half counts. One image has
    reward and rank null. Raises InputError if a file cannot be used.
    """
    photos = [read_image(path) for path in images]
    sizes = {(photo.width, photo.height) for photo in photos}
    if len(sizes) != 1:
        raise InputError(f"images that are compared must have one size, got {sorted(sizes)}; score them one by one")
    target = None if reference is None else read_image(reference)
    if target is not None and (target.width, target.height) not in sizes:
        raise InputError(
            f"the reference must measure {sizes.pop()} like the images, got {(target.width, target.height)}"
        )
    scores = scorer_for(metric_set).score(
        [to_uint8(photo.pixels) for photo in photos],
        lq=None if lq is None else read_image(lq).pixels,
        reference=None if target is None else target.pixels,
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
        "images": rows,
    }
