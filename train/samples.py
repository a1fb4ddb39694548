"""Sample grids at fixed seeds: what an adapter does to the same photographs and seeds as the model before it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image as PillowImage
from torch import Tensor

from sr_core.backbones.compact import load_compact
from sr_core.files import replacing
from sr_core.images import from_uint8, to_uint8
from sr_core.noise import block_noise
from sr_core.preference_data.dataset import PreferenceDataset
from sr_core.samplers import SAMPLERS, integrate
from sr_core.schedules import SCHEDULES

if TYPE_CHECKING:
    from train.preference_config import PreferRecipe

SEEDS = (0, 1)
GROUPS = 3


def sample_path(output: Path, done: int) -> Path:
    """Return where the grid of a run lies after so many steps."""
    return output / "samples" / f"grid_{done:08d}.png"


def write_grid(rows: Sequence[Tensor], path: Path) -> Path:
    """Write pictures of one height each below each other as a PNG, whole or not at all, and return its path."""
    width = max(row.shape[-1] for row in rows)
    grid = torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[-1])) for row in rows], -2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        PillowImage.fromarray(to_uint8(grid)).save(file, format="PNG")
    return path


def sample_grid(dataset: PreferenceDataset, recipe: "PreferRecipe", head: Path, adapter: Path, path: Path) -> Path:
    """Write a grid as `path`, a PNG, and return it; one that was there is replaced.

    One row per photograph: prior, then for each seed the model before training and the adapter.
    """
    draw = recipe.draw
    start = None if recipe.backbone.adapter is None else Path(recipe.backbone.adapter)
    models = [load_compact(dtype=torch.float32, head=head, adapter=path) for path in (start, adapter)]
    step, sigmas = SAMPLERS[draw.sampler], SCHEDULES[draw.schedule](draw.num_steps)
    rows = []
    for index in range(min(GROUPS, len(dataset))):
        lq = from_uint8(dataset.group(index).lq)
        conditions = [model.encode(lq) for model in models]
        cells = [models[0].prior_image(conditions[0])]
        for seed in SEEDS:
            noise = block_noise(seed, *_at_origin(models[0].latent_shape(lq)))
            for model, condition in zip(models, conditions, strict=True):
                latent = integrate(step, lambda x, s, m=model, c=condition: m.velocity(x, s, c), noise, sigmas)
                cells.append(model.decode(latent, condition).clamp(0, 1))
        rows.append(torch.cat(cells, -1))
    return write_grid(rows, path)


def _at_origin(shape: tuple[int, int, int]) -> tuple[int, int, int, int, int]:
    """Return the arguments of block noise for a whole latent: channels, row, column, height, width."""
    channels, height, width = shape
    return channels, 0, 0, height, width
