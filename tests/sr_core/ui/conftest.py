"""Runs on disk that no model had to draw."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from sr_core.images import write_image
from sr_core.job import Job
from sr_core.runs import CandidateRecord, Run
from sr_core.ui.visits import Shown

MakeShown = Callable[..., Shown]


@pytest.fixture
def make_shown(tmp_path: Path) -> MakeShown:
    """Return a maker of finished runs: one photo of 32 x 40 px, one noisy candidate per score."""

    def make(niqe: list[float], *, lpips: list[float] | None = None, name: str = "photo.png", scale: int = 2) -> Shown:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        noise = np.random.default_rng(0)
        size = (32 * scale, 40 * scale)
        PillowImage.fromarray(noise.integers(0, 256, (40, 32, 3), dtype=np.uint8)).save(folder / "input.png")
        records = []
        for index, value in enumerate(niqe):
            file = f"photo_seed{index}.png"
            pixels = noise.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            write_image(folder / file, pixels, format="png", recipe={"seed": index})
            scores = {"niqe": value}
            if lpips is not None:
                scores["consistency_lpips"] = lpips[index]
            records.append(CandidateRecord(index=index, seed=index, scores=scores, file=file))
        values = {
            "input": {"file": "input.png", "name": name, "width": 32, "height": 40, "sha256": "0" * 64},
            "size": list(size),
            "backbone": "compact",
            "adapter": "sft",
            "dtype": "float32",
            "steps": 4,
            "sampler": "heun",
            "color": "off",
            "metric_set": "offline",
            "fidelity_weight": None,
            "reference": False,
            "metrics": [{"key": "niqe", "half": "no_reference", "sha256": "a" * 64}],
            "left_out": [],
            "notices": [],
            "status": "done",
            "version": "0",
        }
        run = Run(folder=folder, values=values, candidates=tuple(records)).reranked(0.5)
        run.save()
        return Shown(run=run, job=Job(num_candidates=len(niqe)), message="ranked")

    return make
