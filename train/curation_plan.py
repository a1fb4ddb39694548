"""What a recipe of curation comes to on this machine, checked before anything is drawn."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sr_core.backbones import SFT
from sr_core.backbones.adapters import PEFT_FILES
from sr_core.backbones.compact import HEAD_FILE
from sr_core.errors import ConfigError, WeightsError
from sr_core.precision import resolve_dtype
from sr_core.preference_data.export import untrainable
from sr_core.preference_data.run_groups import find_runs, run_digest
from sr_core.restorer import RestoreRequest
from sr_core.rewards.group import CONSISTENCY
from sr_core.rewards.local_files import sha256_of
from sr_core.rewards.registry import metric_set
from sr_core.runs import Run
from train.data import INDEX, seeded_generator
from train.drawing import backbone_digests, request_of
from train.latent_weights import check_weights
from train.preference_config import BackboneConfig, CurateRecipe


class Task(NamedTuple):
    """One group to be made, of a crop or of a run."""

    number: int
    """Its place in the dataset, and what its seeds and its file come from."""
    crop: int | None
    run: Run | None


@dataclass(frozen=True)
class Plan:
    """A checked recipe with everything that it names."""

    recipe: CurateRecipe
    device: str
    dtype: torch.dtype
    tasks: tuple[Task, ...]
    crops: dict[str, Any]
    """Index of the packed crops; empty where only runs are added."""
    sources: dict[str, Any]
    """Digests of all that is read: with the recipe they settle the dataset."""
    licenses: dict[str, str] = field(default_factory=dict)
    """Licence of a photograph by its file name, where the recipe states one."""

    @property
    def adapter(self) -> str:
        """Return the adapter's name with its digest; the folder it lies in says nothing."""
        folder = self.recipe.backbone.adapter
        return SFT if folder is None else f"{Path(folder).name}@{self.sources['adapter'][:12]}"

    @property
    def score_keys(self) -> tuple[str, ...]:
        """Return the columns of scores; those of consistency only where runs may lack a reference."""
        chosen = metric_set(self.recipe.metric_set)
        consistency = tuple(CONSISTENCY + name for name in chosen.consistency) if self.recipe.runs else ()
        return (*chosen.full_reference, *chosen.no_reference, *consistency)


def candidate_seed(recipe_seed: int, group: int, num_candidates: int) -> int:
    """Return the seed of a group's first candidate; no two candidates of a dataset share one."""
    base = int(torch.randint(2**32, (), generator=seeded_generator(recipe_seed, "candidates")))
    return base + group * num_candidates


def draw_request(recipe: CurateRecipe, seed: int, count: int) -> RestoreRequest:
    """Return what to ask of the restorer; raises ConfigError if the recipe draws what cannot be drawn."""
    return request_of(recipe.backbone, recipe.draw, seed=seed, count=count)


def compact_files(config: BackboneConfig) -> tuple[Path, Path | None]:
    """Return the head's file and the adapter's folder; raises WeightsError if a file is missing."""
    head = HEAD_FILE if config.head is None else Path(config.head)
    adapter = None if config.adapter is None else Path(config.adapter)
    for path in (head, *(() if adapter is None else (adapter / name for name in PEFT_FILES))):
        if not path.is_file():
            raise WeightsError(f"the backbone's weights must be at {path}; train them first")
    return head, adapter


def _backbone_sources(recipe: CurateRecipe) -> dict[str, Any]:
    """Return digests of the model's files."""
    config = recipe.backbone
    if config.name != "compact":
        check_weights(config)
        return dict(backbone_digests(config))
    if recipe.draw.guidance != 1:
        raise ConfigError(f"compact has no guidance: draw.guidance must be 1, got {recipe.draw.guidance}")
    head, adapter = compact_files(config)
    return {"head": sha256_of(head), "adapter": None if adapter is None else sha256_of(adapter / PEFT_FILES[1])}


def _crop_index(folder: Path) -> dict[str, Any]:
    if not (folder / INDEX).is_file():
        raise ConfigError(f"{folder} must hold packed crops; run: python -m train data PHOTOS... --out {folder}")
    content: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return content


def read_licenses(path: Path) -> dict[str, str]:
    """Return {file name: licence} of a recipe's file {licence: [file names]}.

    Raises ConfigError if it is not such a file or gives a photograph two licences.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"licenses must name a JSON file {{licence: [file names]}}: {path}: {error}") from None
    found: dict[str, str] = {}
    if not isinstance(content, dict):
        raise ConfigError(f"licenses must name a JSON file {{licence: [file names]}}, {path} holds no such mapping")
    for licence, names in content.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{path}: {licence!r} must hold a list of file names")
        for name in names:
            if found.setdefault(name, licence) != licence:
                raise ConfigError(f"{path}: {name} must have one licence, got {found[name]!r} and {licence!r}")
    return found


def _crop_order(recipe: CurateRecipe, count: int) -> list[int]:
    """Return which crops are used, drawn without replacement."""
    wanted = recipe.num_groups or count
    if not 0 < wanted <= count:
        raise ConfigError(f"num_groups must lie in 0 (all) to {count}, the crops in {recipe.crops}, got {wanted}")
    return torch.randperm(count, generator=seeded_generator(recipe.seed, "crops"))[:wanted].tolist()


def _trainable_runs(recipe: CurateRecipe) -> list[Run]:
    """Return the recipe's runs; raises ConfigError for one that cannot give its pairs or that training cannot read."""
    runs = find_runs(recipe.runs, least=2 * recipe.top)
    for run in runs:
        reason = untrainable(run)
        if reason is not None:
            raise ConfigError(f"{reason}; leave the run {run.folder} out of runs")
    if len({run_digest(run) for run in runs}) < len(runs):
        raise ConfigError("runs must differ from each other; one of them is named twice")
    return runs


def make_plan(recipe: CurateRecipe, device: str) -> Plan:
    """Check everything that a recipe names; loads no model.

    Raises ConfigError for an unknown backbone or metric set, missing crops, or runs that are too small or not enlarged
    by what training reads, and WeightsError for missing weights.
    """
    metric_set(recipe.metric_set)
    dtype = resolve_dtype(recipe.dtype, device)
    sources: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "device": torch.device(device).type}
    crops: dict[str, Any] = {}
    order: list[int] = []
    if recipe.crops is not None:
        draw_request(recipe, 0, 1)
        crops = _crop_index(Path(recipe.crops))
        order = _crop_order(recipe, len(crops["crops"]))
        sources |= {**_backbone_sources(recipe), "crops": crops["sha256"]}
    licenses: dict[str, str] = {}
    if recipe.licenses is not None:
        licenses = read_licenses(Path(recipe.licenses))
        sources["licenses"] = sha256_of(Path(recipe.licenses))
    runs = _trainable_runs(recipe)
    sources["runs"] = [run_digest(run) for run in runs]
    tasks = [Task(i, crop, None) for i, crop in enumerate(order)]
    tasks += [Task(len(order) + i, None, run) for i, run in enumerate(runs)]
    return Plan(recipe, device, dtype, tuple(tasks), crops, sources, licenses)
