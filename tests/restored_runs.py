"""Two small runs by the shipped model, one with a reference, one without."""

from pathlib import Path

import torch

from sr_core.degradations import degrade
from sr_core.images import write_image
from sr_core.job import Job
from sr_core.pipeline import upscale
from sr_core.tensors import Enlarged


def restore_two(hq: Enlarged, folder: Path) -> None:
    """Fill `folder` with `a`, scored with a reference by train_offline, and `b`, a JPEG without, by offline."""
    photo, reference = folder / "photo.png", folder / "truth.png"
    write_image(photo, degrade(hq, "bicubic", generator=torch.Generator().manual_seed(1)), format="png")
    write_image(reference, hq, format="png")
    for _ in upscale(photo, folder / "a", _job(metric_set="train_offline"), reference=reference):
        pass
    for _ in upscale(photo, folder / "b", _job(metric_set="offline", seed=7, format="jpeg")):
        pass


def _job(*, metric_set: str, seed: int = 0, format: str = "png") -> Job:
    return Job(metric_set=metric_set, seed=seed, format=format, num_candidates=4, num_steps=1, dtype="float32")
