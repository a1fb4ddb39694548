"""Several enhanced targets for each degraded crop, as a dataset whose candidates are the targets."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from tqdm import tqdm

from sr_core.backbones import BACKBONES, SFT, load_backbone
from sr_core.backbones.backbone import Backbone, Observation
from sr_core.blur_kernels import blur, gaussian_kernel
from sr_core.errors import ConfigError
from sr_core.files import replace_text
from sr_core.images import from_uint8, read_size, to_uint8
from sr_core.noise import GENERATOR, block_noise
from sr_core.precision import resolve_dtype
from sr_core.preference_data.card import CardFacts
from sr_core.preference_data.dataset import MARKER, candidate_schema
from sr_core.preference_data.folder import RECIPE, complete_dataset
from sr_core.preference_data.shards import Origin, ScoredGroup, Seconds, group_table, write_group
from sr_core.preferences import weigh_groups
from sr_core.resampling import resize_clamped
from sr_core.rewards import GroupScorer
from sr_core.rewards.registry import MetricSet, metric_spec
from sr_core.samplers import SAMPLERS, integrate
from sr_core.schedules import SCHEDULES
from sr_core.scoring import local_pixels
from sr_core.tensors import Enlarged, Image
from train.config import recipe_values
from train.crop_groups import degraded
from train.data import CROPS, INDEX, seeded_generator
from train.iqa_config import IqaRecipe

ORIGINAL, PRIOR = "original", "prior"
SHARPEN_SIGMA, SHARPEN_AMOUNT = 1.0, 0.8
CLARITY_SIGMA, CLARITY_AMOUNT = 4.0, 0.3
"""Standard deviations in px of two unsharp masks, fine and coarse, and the share of the difference that is added."""
SCORED = ("brisque", "niqe", "piqe")
"""What is stored of each target, as far as its size allows."""

Enhancer = Callable[[Enlarged, str], Enlarged]
"""(original, group) -> enhanced version of the same size, in [0, 1]."""


def unsharp(image: Image, sigma: float, amount: float) -> Image:
    """Return image + amount (image - blur), clamped; borders repeat."""
    radius = int(3 * sigma)
    kernel = gaussian_kernel(2 * radius + 1, sigma_x=sigma, sigma_y=sigma).to(image)
    padded = pad(image, (radius,) * 4, mode="replicate")
    soft = blur(padded, kernel.expand(len(image), -1, -1))[..., radius:-radius, radius:-radius]
    return (image + amount * (image - soft)).clamp(0, 1)


FILTERS: dict[str, Callable[[Image], Image]] = {
    "sharpened": lambda image: unsharp(image, SHARPEN_SIGMA, SHARPEN_AMOUNT),
    "clarity": lambda image: unsharp(image, CLARITY_SIGMA, CLARITY_AMOUNT),
}


class Observer:
    """What the frozen part of a backbone sees, kept for the newest photo: several sources of it share one pass."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[str, Observation]] = {}

    def __call__(self, name: str, backbone: Backbone, lq: Image, group: str) -> Observation:
        """Return the observation of a group's photo by the backbone of this name, with any adapter."""
        if name not in self._newest or self._newest[name][0] != group:
            self._newest[name] = (group, backbone.observe(lq))
        return self._newest[name][1]


class BackboneEnhancer:
    """A backbone as an enhancer: the original, reduced, is restored to four times its size and reduced again."""

    def __init__(self, source: str, recipe: IqaRecipe, dtype: torch.dtype, observer: Observer) -> None:
        """Load the backbone; raises ConfigError if it or its adapter is not known."""
        self._name, _, adapter = ("compact" if source == PRIOR else source).partition("/")
        self._backbone: Backbone = load_backbone(self._name, dtype=dtype, adapter=adapter or SFT)(dtype)
        self._deterministic, self._recipe, self._observer = source == PRIOR, recipe, observer

    def __call__(self, original: Enlarged, group: str) -> Enlarged:
        """Return the restoration; its seed comes from the group."""
        assert self._recipe.enhance is not None
        backbone, factor = self._backbone, self._recipe.enhance.reduction
        height, width = original.shape[-2:]
        lq = resize_clamped(original, height // factor, width // factor)
        condition = backbone.condition(self._observer(self._name, backbone, lq, group))
        if self._deterministic:
            image = backbone.prior_image(condition)
        else:
            seed = int(torch.randint(2**31, (1,), generator=seeded_generator(self._recipe.seed, "enhance", group)))
            channels, rows, columns = backbone.latent_shape(lq)
            noise = block_noise(seed, channels, 0, 0, rows, columns).to(backbone.device)
            draw = self._recipe.draw
            sigmas = SCHEDULES[draw.schedule](draw.num_steps)
            latent = integrate(SAMPLERS[draw.sampler], lambda x, s: backbone.velocity(x, s, condition), noise, sigmas)
            image = backbone.decode(latent, condition)
        return resize_clamped(image.cpu().float().clamp(0, 1), height, width)


class FolderEnhancer:
    """Pictures of another tool, one PNG per group, named as the group."""

    def __init__(self, folder: Path) -> None:
        """Check the folder; raises ConfigError if there is none."""
        if not folder.is_dir():
            known = ", ".join((*FILTERS, PRIOR, *BACKBONES))
            raise ConfigError(f"sources must be {known}, a backbone/adapter, or a folder of pictures, got {folder}")
        self._folder = folder

    def __call__(self, original: Enlarged, group: str) -> Enlarged:
        """Return the group's picture; raises ConfigError if it is missing or of another size."""
        path, (height, width) = self._folder / f"{group}.png", original.shape[-2:]
        if not path.is_file() or read_size(path) != (width, height):
            raise ConfigError(f"{path} must be an enhanced version of {width} x {height} px")
        return from_uint8(local_pixels(path))


def enhancer_of(source: str, recipe: IqaRecipe, dtype: torch.dtype, observer: Observer) -> Enhancer:
    """Return what makes the targets of a source; raises ConfigError if nothing does."""
    if source in FILTERS:
        return lambda original, _: FILTERS[source](original)
    if source == PRIOR or source.partition("/")[0] in BACKBONES:
        return BackboneEnhancer(source, recipe, dtype, observer)
    return FolderEnhancer(Path(source))


def group_name(crop: int) -> str:
    """Return the id of a crop's group, by which folders name its pictures."""
    return f"crop-{crop:06d}"


class _Workshop:
    """What makes one crop's group: the crops, the enhancers and the metrics."""

    def __init__(self, recipe: IqaRecipe, keys: tuple[str, ...]) -> None:
        config = recipe.enhance
        assert config is not None
        source = Path(config.crops)
        self.recipe, self.config = recipe, config
        self.entries = json.loads((source / INDEX).read_text(encoding="utf-8"))["crops"]
        self.crops = np.load(source / CROPS, mmap_mode="r", allow_pickle=False)
        dtype = resolve_dtype(recipe.dtype, "cpu")
        observer = Observer()
        self.enhancers = {name: enhancer_of(name, recipe, dtype, observer) for name in config.sources}
        self.scorer = GroupScorer(MetricSet(full_reference=(), no_reference=keys, consistency=()))

    def chosen(self) -> list[int]:
        """Return the crops of the dataset; raises ConfigError if there are too few."""
        total, wanted = len(self.crops), self.config.num_groups
        if wanted > total:
            raise ConfigError(f"num_groups must be at most {total}, the packed crops, got {wanted}")
        order = torch.randperm(total, generator=seeded_generator(self.recipe.seed, "enhanced crops"))
        return sorted(order[:wanted].tolist())

    def group(self, crop: int) -> ScoredGroup | None:
        """Return a crop's group; None where it is flat: that has no scene statistics, and nothing to choose by."""
        margin = (self.crops.shape[1] - self.config.crop_px) // 2
        inside = slice(margin, margin + self.config.crop_px)
        name = group_name(crop)
        hq = from_uint8(np.ascontiguousarray(self.crops[crop][inside, inside]))
        preset, lq = degraded(hq, self.config.presets, seeded_generator(self.recipe.seed, "degrade", crop))
        images = [to_uint8(hq), *(to_uint8(enhance(hq, name)) for enhance in self.enhancers.values())]
        scores = self.scorer.score(images, lq=lq, reference=None)
        if scores.reward is None:
            return None
        return ScoredGroup(
            group_id=name,
            origin=_origin(self.recipe, self.entries[crop], preset),
            lq=to_uint8(lq),
            hq=images[0],
            images=images,
            candidate_ids=list(range(len(images))),
            seeds=[None] * len(images),
            sources=[ORIGINAL, *self.config.sources],
            dtypes=["uint8"] * len(images),
            raw=scores.raw,
            reward=scores.reward,
            metrics=scores.metrics,
        )


def _origin(recipe: IqaRecipe, entry: dict[str, Any], preset: str) -> Origin:
    draw = recipe.draw
    return Origin(
        generator=GENERATOR,
        model_id="targets",
        model_revision=None,
        adapter=SFT,
        sampler=draw.sampler,
        schedule=draw.schedule,
        steps=draw.num_steps,
        guidance=None,
        color_fix="off",
        tile_cfg="{}",
        preset=preset,
        photo=f"{entry['photo']}@{entry['row']},{entry['column']}",
    )


def make_targets(recipe: IqaRecipe, *, only_made: bool = False) -> Path:
    """Make the recipe's dataset of targets and return its folder; what a killed run finished is not made again.

    With `only_made` no further group is made: the dataset is closed with those that a stopped run left.

    Candidate 0 is the original, the others are the enhanced versions in the recipe's order. Raises ConfigError if the
    recipe has no section `enhance`, its crops are missing, or the folder holds targets of other settings.
    """
    config, folder = recipe.enhance, Path(recipe.dataset)
    if config is None:
        raise ConfigError("making targets needs the section `enhance`; the recipe has none")
    settings = json.loads(
        json.dumps({"seed": recipe.seed, "draw": recipe_values(recipe.draw), **recipe_values(config)})
    )
    if (folder / RECIPE).is_file() and json.loads((folder / RECIPE).read_text(encoding="utf-8")) != settings:
        raise ConfigError(f"{folder} was made with other settings (see {RECIPE}); name another dataset")
    if (folder / MARKER).is_file():
        return folder
    if not (Path(config.crops) / INDEX).is_file():
        raise ConfigError(
            f"{config.crops} must hold packed crops; run: python -m train data PHOTOS... --out {config.crops}"
        )
    keys = tuple(name for name in SCORED if metric_spec(name).min_side <= config.crop_px)
    groups, schema = folder / "groups", candidate_schema(keys)
    groups.mkdir(parents=True, exist_ok=True)
    replace_text(folder / RECIPE, json.dumps(settings, indent=1))
    workshop, parts = _Workshop(recipe, keys), []
    for crop in tqdm(workshop.chosen(), desc="enhancing", unit="group"):
        part = groups / f"{group_name(crop)}.parquet"
        if only_made and not part.is_file():
            continue
        if not part.is_file():
            group = workshop.group(crop)
            table = schema.empty_table() if group is None else group_table(group, schema, datetime.now(UTC))
            write_group(part, table, Seconds(0.0, 0.0, 0.0))
        parts.append(part)
    facts = CardFacts(
        drawn=f"and enhanced by {', '.join(config.sources)}",
        made="Made by `python -m train iqa-targets RECIPE`; candidates are targets, the first is the original.",
        metric_set=", ".join(keys),
        fidelity_weight=0.0,
        top=1,
        weights="Pairs are by reward alone and train nothing here.",
        biases=("Enhanced versions are made by filters and by the model itself; no person has called them better.",),
        recipe=settings,
    )
    complete_dataset(folder, parts, schema, facts, groups_per_shard=64, weigh=weigh_groups)
    for part in parts:
        part.unlink()
    groups.rmdir()
    return folder
