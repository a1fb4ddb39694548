"""Failures of baseline restorers on the curated groups, which an adversary learns to imitate."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from sr_core.backbones.flow_head import LATENT_CHANNELS, HeadInput, image_from_planes, shuffle_planes, unshuffle_planes
from sr_core.backbones.prior import SCALE
from sr_core.blur_kernels import blur, gaussian_kernel
from sr_core.errors import ConfigError
from sr_core.images import from_uint8, read_size
from sr_core.preference_data.dataset import PreferenceDataset
from sr_core.scoring import local_pixels
from sr_core.tensors import Image
from train.compact_trainee import CompactModel
from train.data import Batch, seeded_generator
from train.policy import REFERENCE
from train.prefer import pair_windows
from train.preference_config import PreferRecipe
from train.steps import decode_latent
from train.store import GroupStore, Window, head_conditions

PRIOR, FEW_STEPS = "prior", "few_steps"
KERNEL_PX = 13
SMOOTH_SIGMA = 2.0
"""Standard deviation in px of the Gaussian that over-smooths; it leaves little of what the prior adds to the LQ."""
SHARPEN_SIGMA, SHARPEN_AMOUNT = 1.5, 1.5
"""Standard deviation in px of the unsharp mask, and the share of what it takes away that is added."""


def _gaussian_blur(image: Image, sigma: float) -> Image:
    kernel = gaussian_kernel(KERNEL_PX, sigma_x=sigma, sigma_y=sigma).to(image)
    return blur(image, kernel.expand(len(image), -1, -1))


def over_smoothed(image: Image) -> Image:
    """Return a Gaussian blur of an image, as a restorer gives it that is trained for small errors alone."""
    return _gaussian_blur(image, SMOOTH_SIGMA)


def over_sharpened(image: Image) -> Image:
    """Return image + amount (image - blur), clamped, as a restorer gives it that is trained to look crisp."""
    return (image + SHARPEN_AMOUNT * (image - _gaussian_blur(image, SHARPEN_SIGMA))).clamp(0, 1)


FILTERS: dict[str, Callable[[Image], Image]] = {"over_sharpened": over_sharpened, "over_smoothed": over_smoothed}
BUILT_IN = (PRIOR, FEW_STEPS, *FILTERS)
"""Baselines that need no files; every other name is a folder of outputs."""


class OutputFolder:
    """Outputs of another restorer, one PNG per group, named as the group."""

    def __init__(self, folder: Path, store: Any) -> None:  # noqa: ANN401 - groups of any kind
        """Check that each group has its output; raises ConfigError if the folder or one file does not fit."""
        if not folder.is_dir():
            raise ConfigError(f"baselines must be {', '.join(BUILT_IN)} or folders of outputs, got {str(folder)!r}")
        self.folder = folder
        for group in store.group_ids:
            height, width = (side * SCALE for side in store.size(group))
            path = self.path(group)
            if not path.is_file():
                raise ConfigError(f"{folder} must hold an output for each group; {path.name} is missing")
            if read_size(path) != (width, height):
                found = " x ".join(map(str, read_size(path)))
                raise ConfigError(f"{path} must be the output of its group, {width} x {height} px, got {found}")

    def path(self, group: str) -> Path:
        """Return the file of a group's output."""
        return self.folder / f"{group}.png"

    def image(self, group: str, window: Window) -> Image:
        """Return the window of a group's output, batch 1, float32 in [0, 1]."""
        rows, columns = (
            slice(start * SCALE, (start + length) * SCALE)
            for start, length in ((window.row, window.height), (window.column, window.width))
        )
        # These are the user's own files: a process for each, as for uploads, would take longer than the step.
        pixels = from_uint8(local_pixels(self.path(group)))[..., rows, columns]
        return pixels.flip(-1) if window.flip else pixels


class Failure(NamedTuple):
    """One failure to imitate."""

    group: str
    baseline: str
    candidate: int | None
    """What a filter is applied to; None is the prior."""


class FailureSource:
    """Draws the batch of a step, which depends on the recipe's seed and the step's index alone."""

    def __init__(
        self,
        recipe: PreferRecipe,
        baselines: Sequence[str],
        batch_size: int,
        dataset: PreferenceDataset,
        store: GroupStore,
        model: CompactModel,
    ) -> None:
        """Check the baselines; raises ConfigError if one is no baseline or its folder does not fit the groups."""
        if not baselines:
            raise ConfigError(f"baselines must name at least one of {', '.join(BUILT_IN)} or a folder of outputs")
        self.recipe, self.baselines, self.batch_size = recipe, tuple(baselines), batch_size
        self.store, self.model, self._groups = store, model, dataset.group_ids
        self._counts = [dataset.rows(index, ["seed"]).num_rows for index in range(len(dataset))]
        foreign = [name for name in self.baselines if name not in BUILT_IN]
        self._folders = {name: OutputFolder(Path(name), store) for name in foreign}

    def __call__(self, index: int, share: slice) -> Batch:
        """Return this process's part of the batch of step `index`: photos with failures in place of ground truths."""
        generator = seeded_generator(self.recipe.seed, "failures", index)
        drawn = [self._draw(generator) for _ in range(self.batch_size)]
        groups = [failure.group for failure in drawn]
        windows = pair_windows(self.store, groups, self.recipe.window_px, self.recipe.flip, generator)
        shape = (self.batch_size, LATENT_CHANNELS, windows[0].height, windows[0].width)
        noise = torch.randn(shape, generator=generator)[share].to(self.model.device)
        return self._batch(drawn[share], windows[share], noise)

    def _draw(self, generator: Generator) -> Failure:
        group, baseline, image = torch.rand(3, generator=generator).tolist()
        chosen = int(group * len(self._groups))
        count = self._counts[chosen]
        candidate = int(image * (count + 1))
        name = self.baselines[int(baseline * len(self.baselines))]
        return Failure(self._groups[chosen], name, candidate if candidate < count else None)

    def _batch(self, drawn: Sequence[Failure], windows: Sequence[Window], noise: Tensor) -> Batch:
        head, device = self.model.policy.head, self.model.device
        places = list(zip(drawn, windows, strict=True))
        photo = head_conditions([self.store.conditions(f.group, w) for f, w in places], head, device)
        planes = photo.prior.clone()  # the prior's own restoration: a latent of zeros
        for k, (failure, window) in enumerate(places):
            if failure.baseline in FILTERS:
                image = self._filtered(failure, window, photo.prior[k : k + 1])
            elif failure.baseline in self._folders:
                image = self._folders[failure.baseline].image(failure.group, window)
            else:
                continue
            planes[k] = unshuffle_planes(image.to(device))[0]
        few = [k for k, failure in enumerate(drawn) if failure.baseline == FEW_STEPS]
        if few:
            planes[few] = unshuffle_planes(self._one_step(HeadInput(*(part[few] for part in photo)), noise[few]))
        return Batch(photo, planes)

    def _filtered(self, failure: Failure, window: Window, prior: Tensor) -> Image:
        if failure.candidate is None:
            image = image_from_planes(shuffle_planes(prior)).clamp(0, 1)
        else:
            image = self.store.image(failure.group, failure.candidate, window)
        return FILTERS[failure.baseline](image)

    @torch.no_grad()
    def _one_step(self, photo: HeadInput, noise: Tensor) -> Image:
        """Return what the reference draws in one Euler step: its clean end at pure noise."""
        with self.model.using(REFERENCE):
            latent = self.model.predict(noise, torch.ones(len(noise), device=noise.device), photo)
        return decode_latent(latent, photo, self.model.policy.head).clamp(0, 1)
