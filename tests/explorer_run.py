"""A whole run folder without the model, for tests of what is behind the ranking."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PillowImage

from sr_core.images import from_uint8, to_uint8, write_image
from sr_core.noise import GENERATOR
from sr_core.resampling import resize_clamped
from sr_core.runs import CandidateRecord, Run, new_run_id, with_before_scores, with_scores
from sr_core.tensors import Image
from sr_core.version import VERSION

PHOTO = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval" / "472_bluebird.png"
NO_REFERENCE = {"brisque": (28.0, 6.0), "niqe": (5.2, 0.8), "piqe": (40.0, 9.0)}
HALVES = {
    True: {"lpips": (0.27, 0.03), "ssimulacra2": (-20.0, 6.0), "vsi": (0.95, 0.01), **NO_REFERENCE},
    False: {
        "consistency_lpips": (0.02, 0.004),
        "consistency_ssimulacra2": (80.0, 3.0),
        "consistency_vsi": (0.99, 0.002),
        **NO_REFERENCE,
    },
}
"""Mean and spread of the made-up scores."""


def photo_pixels(size: int, number: int = 0) -> Image:
    """Return a real photograph, (1, 3, size, size); another number is another view of it, up to 100."""
    with PillowImage.open(PHOTO) as image:
        whole = from_uint8(np.asarray(image.convert("RGB").crop((96 + number, 64, 352 + number, 320))))
    return whole if size == 256 else resize_clamped(whole, size, size)


def varied(pixels: Image, strength: float, generator: torch.Generator) -> Image:
    """Return the picture with smooth and fine noise, as another seed would draw it."""
    height, width = pixels.shape[-2:]
    fine = torch.randn(1, 3, height, width, generator=generator)
    coarse = resize_clamped(torch.rand(1, 3, height // 4, width // 4, generator=generator), height, width) - 0.5
    return (pixels + strength * (0.5 * fine + coarse)).clamp(0, 1)


def write_run(
    folder: Path,
    *,
    num_candidates: int = 6,
    size: int = 256,
    reference: bool = False,
    seed: int = 0,
    before: bool = False,
    photo: int | None = None,
) -> Run:
    """Write a ranked run of a real photograph with real files and made-up scores; returns it as it lies on disk.

    Every seed has a photo of its own unless `photo` numbers one.
    """
    generator = torch.Generator().manual_seed(seed)
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    hq = photo_pixels(size, seed if photo is None else photo)
    lq = resize_clamped(hq, size // 4, size // 4)
    enlarged = resize_clamped(lq, size, size)
    write_image(folder / "input.png", lq, format="png")
    write_image(folder / "prior.png", enlarged, format="png", recipe={"part": "prior"})
    if reference:
        write_image(folder / "reference.png", hq, format="png")
    records = []
    for index in range(num_candidates):
        name = f"bluebird_seed{index}.png"
        drawn = varied(0.5 * (hq + enlarged), 0.02 + 0.005 * index, generator)
        write_image(folder / name, drawn, format="png", recipe={"seed": index})
        twin = f"bluebird_seed{index}_sft.png" if before else None
        if twin is not None:
            write_image(folder / twin, to_uint8(varied(enlarged, 0.03, generator)), format="png")
        records.append(CandidateRecord(index=index, seed=index, file=name, before=twin))
    values = {
        "id": new_run_id(),
        "version": VERSION,
        "created_at": "2026-01-01T00:00:00+00:00",
        "input": {
            "file": "input.png",
            "name": "bluebird.png",
            "width": size // 4,
            "height": size // 4,
            "sha256": hashlib.sha256((folder / "input.png").read_bytes()).hexdigest(),
        },
        "size": [size, size],
        "prior": "prior.png",
        "backbone": "compact",
        "adapter": "hpo" if before else "sft",
        "compare_adapter": "sft" if before else None,
        "dtype": "float32",
        "steps": 4,
        "sampler": "euler",
        "schedule": "geometric",
        "noise": GENERATOR,
        "color": "off",
        "metric_set": "offline",
        "fidelity_weight": 0.5,
        "reference": reference,
        "metrics": [],
        "left_out": [],
        "notices": [],
        "status": "done",
    }
    run = Run(folder=folder, values=values, candidates=tuple(records))
    indices = list(range(num_candidates))
    run = with_scores(run, _scores(random, reference, num_candidates), indices, 0.5)
    if before:
        run = with_before_scores(run, _scores(random, reference, num_candidates), indices)
    run.save()
    return replace(Run.open(folder), values=run.values)


def _scores(random: np.random.Generator, reference: bool, count: int) -> dict[str, list[float]]:
    return {key: random.normal(mean, spread, count).tolist() for key, (mean, spread) in HALVES[reference].items()}
