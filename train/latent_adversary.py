"""The adversary of a latent backbone: failures of baselines as latents, and the step that learns to imitate them."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Generator
from tqdm import tqdm

from sr_core.backbones.latent import LatentBackbone, LatentCondition
from sr_core.errors import ConfigError
from sr_core.files import replacing
from sr_core.images import from_uint8
from sr_core.preference_data.dataset import PreferenceDataset
from sr_core.scoring import local_pixels
from sr_core.tensors import Image, Latent
from train.baselines import BUILT_IN, FEW_STEPS, FILTERS, PRIOR, OutputFolder
from train.data import seeded_generator
from train.latent_store import LatentStore, encode_fields, group_path
from train.latent_trainee import LatentModel
from train.policy import REFERENCE
from train.prefer import pair_windows
from train.preference_config import AdversaryConfig, PreferRecipe
from train.processes import Processes
from train.steps import StepOutput, denoising_step, pair_levels
from train.trainees import Place


class Failures(NamedTuple):
    """Latents to imitate, with the condition that they failed on."""

    condition: LatentCondition
    clean: Latent


def _field(baseline: str) -> str:
    return "failure-" + hashlib.sha256(baseline.encode()).hexdigest()[:16]


def cache_failures(
    dataset: PreferenceDataset, store: LatentStore, backbone: LatentBackbone, recipe: PreferRecipe,
    baselines: Sequence[str], processes: Processes,
) -> Path:  # fmt: skip
    """Encode what filters and folders make of each group, once, and return the folder; a killed fill goes on.

    `prior` is the enlarged LQ, cached already; `few_steps` is drawn in training. A filter sees one candidate of each
    group, chosen by the recipe's seed. Raises ConfigError if a baseline is none or its folder does not fit.
    """
    if not baselines:
        raise ConfigError(f"baselines must name at least one of {', '.join(BUILT_IN)} or a folder of outputs")
    folders = {name: OutputFolder(Path(name), store) for name in baselines if name not in BUILT_IN}
    named = [name for name in baselines if name in FILTERS or name in folders]
    folder = store.folder / ("failures-" + hashlib.sha256(f"{recipe.seed}/{named}".encode()).hexdigest()[:16])
    if processes.is_main:
        folder.mkdir(parents=True, exist_ok=True)
    processes.wait()
    kind = torch.float32 if backbone.dtype == torch.float32 else torch.float16
    own = range(len(dataset))[processes.share_of(len(dataset))] if named else range(0)
    for index in tqdm(own, desc="caching failures", unit="group", disable=not processes.is_main):
        group_id = dataset.group_ids[index]
        path = group_path(folder, group_id)
        if path.is_file():
            continue
        group = dataset.group(index)
        chosen = torch.randint(len(group.images), (), generator=seeded_generator(recipe.seed, "filtered", group_id))
        candidate = from_uint8(np.ascontiguousarray(group.images[int(chosen)]))

        def failed(name: str, candidate: Image = candidate, group_id: str = group_id) -> Image:
            if name in FILTERS:
                return FILTERS[name](candidate).clamp(0, 1)
            return from_uint8(local_pixels(folders[name].path(group_id)))

        fields = {_field(name): failed(name) for name in named}
        tensors = encode_fields(backbone, from_uint8(group.lq), fields, flip=recipe.flip, kind=kind)
        wanted = {name: value[0] for name, value in tensors.items() if name.startswith("failure-")}
        with replacing(path) as file:
            file.write(save(wanted))
    processes.wait()
    return folder


class LatentFailures:
    """Draws the batch of a step, which depends on the recipe's seed and the step's index alone."""

    def __init__(
        self, recipe: PreferRecipe, config: AdversaryConfig, store: LatentStore, folder: Path, model: LatentModel
    ) -> None:
        self.recipe, self.config, self.store, self.folder, self.model = recipe, config, store, folder, model

    def __call__(self, index: int, part: slice) -> Failures:
        """Return a part of the batch of step `index`."""
        count, baselines = self.config.optim.batch_size, self.config.baselines
        generator = seeded_generator(self.recipe.seed, "failures", index)
        draws = torch.rand(count, 2, generator=generator).tolist()
        groups = [self.store.group_ids[int(a * len(self.store.group_ids))] for a, _ in draws]
        names = [baselines[int(b * len(baselines))] for _, b in draws][part]
        windows = pair_windows(self.store, groups, self.recipe.window_px, self.recipe.flip, generator)
        places = list(zip(groups, windows, strict=True))[part]
        condition = self.model.condition(self.store, places)
        clean = torch.cat([self._clean(name, place) for name, place in zip(names, places, strict=True)])
        clean = clean.to(self.model.device)
        few = [k for k, name in enumerate(names) if name == FEW_STEPS]
        if few:
            noise = torch.randn((count, *clean.shape[1:]), generator=generator)[part].to(clean)
            clean[few] = self._one_step(condition, noise)[few]
        return Failures(condition, clean)

    def _clean(self, name: str, place: Place) -> Latent:
        group, window = place
        if name in (PRIOR, FEW_STEPS):
            return self.store.read("latent", group, window)
        return self.store.read(_field(name), group, window, folder=self.folder)

    @torch.no_grad()
    def _one_step(self, condition: LatentCondition, noise: Latent) -> Latent:
        """Return what the reference draws in one step: its clean end at the highest level."""
        kind = self.model.parametrisation
        level = torch.full((len(noise),), kind.highest_level, device=noise.device)
        if self.model.step_levels is not None:
            level = level.clamp_max(float(self.model.step_levels.max()))
        with self.model.using(REFERENCE):
            return kind.clean(noise, self.model.predict(noise, level, condition), level)


def imitation_steps(
    recipe: PreferRecipe, config: AdversaryConfig, source: LatentFailures, processes: Processes
) -> Callable[[int], Iterator[StepOutput]]:
    """Return the step of each index: supervised training with failures in place of ground truths.

    Source: ASASR, arXiv 2605.23264, released code: plain flow matching towards the outputs of baselines.
    """
    optim, model = config.optim, source.model
    parts = processes.parts(optim.batch_size, optim.micro_batch)

    def step(index: int) -> Iterator[StepOutput]:
        generator: Generator = seeded_generator(recipe.seed, "adversary noise", index)
        levels = pair_levels(
            optim.batch_size, recipe.levels, recipe.levels_min, optim.pure_noise_share, generator, model.step_levels
        ).clamp_max(model.parametrisation.highest_level)
        noise: torch.Tensor | None = None
        for part in parts:
            condition, clean = source(index, part)
            if noise is None:
                noise = torch.randn((optim.batch_size, *clean.shape[1:]), generator=generator)
            level, own = levels[part].to(model.device), noise[part].to(model.device)
            yield denoising_step(model, condition, clean, level, own).share_of(len(parts))

    return step
