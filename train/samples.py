"""Sample grids at fixed seeds: what training makes of the same photographs and seeds, beside the model before it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image as PillowImage
from torch import Tensor

from sr_core.backbones.compact import CompactBackbone, CompactCondition
from sr_core.backbones.flow_head import LATENT_CHANNELS
from sr_core.files import replacing
from sr_core.images import from_uint8, to_uint8
from sr_core.noise import block_noise
from sr_core.preference_data.dataset import PreferenceDataset
from sr_core.samplers import Step, integrate
from sr_core.tensors import Enlarged, Image

SEEDS = (0, 1)
GROUPS = 3


def sample_path(output: Path, done: int) -> Path:
    """Return where the grid of a run lies after so many steps."""
    return output / "samples" / f"grid_{done:08d}.png"


def sampled_photos(dataset: PreferenceDataset) -> list[Image]:
    """Return the LQ photographs of a dataset that grids show."""
    return [from_uint8(dataset.group(index).lq) for index in range(min(GROUPS, len(dataset)))]


def write_grid(rows: Sequence[Tensor], path: Path) -> Path:
    """Write pictures of one height each below each other as a PNG, whole or not at all, and return its path."""
    width = max(row.shape[-1] for row in rows)
    grid = torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[-1])) for row in rows], -2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        PillowImage.fromarray(to_uint8(grid)).save(file, format="PNG")
    return path


def draw_seed(
    model: CompactBackbone, condition: CompactCondition, seed: int, *, step: Step, sigmas: Tensor
) -> Enlarged:
    """Return what one seed gives of a photo, clamped to [0, 1]."""
    height, width = condition.latent_size
    noise = block_noise(seed, LATENT_CHANNELS, 0, 0, height, width).to(model.device)
    latent = integrate(step, lambda x, sigma: model.velocity(x, sigma, condition), noise, sigmas)
    return model.decode(latent, condition).clamp(0, 1)


def sample_grid(
    photos: Iterable[Image], models: Sequence[CompactBackbone], path: Path, *, step: Step, sigmas: Tensor
) -> Path:
    """Write a grid as `path`, a PNG, and return it; one that was there is replaced.

    One row per photograph: prior, then for each seed what every model draws; the models share their prior.
    """
    rows = []
    for lq in photos:
        conditions = [model.encode(lq) for model in models]
        cells = [models[0].prior_image(conditions[0])]
        for seed in SEEDS:
            drawn = zip(models, conditions, strict=True)
            cells += [draw_seed(model, condition, seed, step=step, sigmas=sigmas) for model, condition in drawn]
        rows.append(torch.cat(cells, -1).cpu())
    return write_grid(rows, path)
