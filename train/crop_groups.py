"""Packed crops as groups: degraded, restored from M seeds each and scored."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from sr_core.backbones import drawing_of
from sr_core.backbones.backbone import CONTROL_SCALE
from sr_core.degradations import degrade
from sr_core.errors import InputError
from sr_core.images import from_uint8, to_uint8
from sr_core.noise import GENERATOR
from sr_core.preference_data.run_groups import run_group
from sr_core.preference_data.shards import UNKNOWN_LICENSE, Origin, ScoredGroup, further_settings
from sr_core.restorer import MAX_CANDIDATES, Candidate
from sr_core.rewards import GroupScorer, GroupScores
from sr_core.tensors import Enlarged, Image
from train.curation_plan import Plan, Task, candidate_seed, draw_request
from train.data import CROPS, seeded_generator
from train.drawing import has_control_branch, restorer_of

LargePixels = UInt8[np.ndarray, "H W 3"]
"""8-bit pixels on the grid of `Enlarged`."""


def degraded(hq: Enlarged, presets: dict[str, float], generator: torch.Generator) -> tuple[str, Image]:
    """Return a preset drawn by its share, and what it makes of `hq`: a quarter of the side, on the 8-bit grid."""
    names = sorted(presets)
    shares = torch.tensor([presets[name] for name in names])
    preset = names[int(torch.multinomial(shares, 1, generator=generator))]
    return preset, degrade(hq, preset, generator=generator)


class Workshop:
    """The models of one process, and the time spent inside them."""

    def __init__(self, plan: Plan) -> None:
        """Load what the plan's tasks need; raises WeightsError if weights are damaged."""
        self.plan = plan
        self.scorer = GroupScorer(plan.recipe.metric_set, device=plan.device)
        if plan.recipe.crops is not None:
            self._restorer = restorer_of(plan.recipe.backbone, None, dtype=plan.dtype, device=plan.device)
            self._crops = np.load(Path(plan.recipe.crops) / CROPS, mmap_mode="r", allow_pickle=False)
        self._inside = {"model": 0.0, "metrics": 0.0}

    def make(self, task: Task) -> ScoredGroup | None:
        """Return a task's group; None if too few candidates came out for the recipe's pairs."""
        if task.crop is not None:
            return self._crop_group(task.number, task.crop)
        assert task.run is not None
        recipe = self.plan.recipe
        return run_group(task.run, self._score, metric_set=recipe.metric_set, fidelity_weight=recipe.fidelity_weight)

    def seconds_inside(self) -> dict[str, float]:
        """Return the wall time inside the model and inside the metrics since the last call."""
        spent, self._inside = self._inside, dict.fromkeys(self._inside, 0.0)
        return spent

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._inside[what] += time.monotonic() - start

    def _score(self, images: Sequence[LargePixels], lq: Image, reference: Enlarged | None) -> GroupScores:
        weight = self.plan.recipe.fidelity_weight
        with self._timed("metrics"):
            return self.scorer.score(images, lq=lq, reference=reference, fidelity_weight=weight)

    def _draw(self, lq: Image, seed: int) -> list[Candidate]:
        """Return the sound ones of M candidates, seeds `seed` to `seed` + M - 1."""
        total, drawn = self.plan.recipe.draw.num_candidates, []
        with self._timed("model"):
            for first in range(0, total, MAX_CANDIDATES):
                request = draw_request(self.plan.recipe, seed + first, min(MAX_CANDIDATES, total - first))
                drawn += [c for c in self._restorer.restore(lq, request) if c.pixels is not None]
        return drawn

    def _crop_group(self, number: int, crop: int) -> ScoredGroup | None:
        recipe = self.plan.recipe
        hq = from_uint8(self._crops[crop].copy())
        preset, lq = degraded(hq, recipe.presets, seeded_generator(recipe.seed, "curate", crop))
        first_seed = candidate_seed(recipe.seed, number, recipe.draw.num_candidates)
        drawn = self._draw(lq, first_seed)
        if len(drawn) < 2 * recipe.top:
            return None
        images = [to_uint8(c.pixels) for c in drawn if c.pixels is not None]
        scores = self._score(images, lq, hq)
        if scores.reward is None:
            raise InputError(f"no metric of {recipe.metric_set} could score {crop=}; choose another metric_set")
        return ScoredGroup(
            group_id=f"crop-{crop:06d}",
            origin=self._origin(crop, preset),
            lq=to_uint8(lq),
            hq=to_uint8(hq),
            images=images,
            candidate_ids=[c.seed - first_seed for c in drawn],
            seeds=[c.seed for c in drawn],
            sources=[None] * len(drawn),
            dtypes=[c.dtype for c in drawn],
            raw=scores.raw,
            reward=scores.reward,
            metrics=scores.metrics,
        )

    def _origin(self, crop: int, preset: str) -> Origin:
        recipe, entry = self.plan.recipe, self.plan.crops["crops"][crop]
        drawing = drawing_of(recipe.backbone.name, draw_request(recipe, 0, 1).given)
        quantize = None if recipe.backbone.quantize == "none" else recipe.backbone.quantize
        return Origin(
            generator=GENERATOR,
            model_id=recipe.backbone.name,
            model_revision=self.plan.sources["head"],
            adapter=self.plan.adapter,
            sampler=recipe.draw.sampler,
            schedule=recipe.draw.schedule,
            steps=recipe.draw.num_steps,
            guidance=recipe.draw.guidance,
            color_fix="off",
            control_scale=CONTROL_SCALE if has_control_branch(recipe.backbone) else None,
            tile_cfg=further_settings({**vars(drawing), "quantize": quantize}),
            preset=preset,
            photo=f"{entry['photo']}@{entry['row']},{entry['column']}",
            license=self.plan.licenses.get(entry["photo"], UNKNOWN_LICENSE),
        )
