"""What preference training needs of a backbone, and which one a recipe names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from sr_core.preference_data.dataset import PreferenceDataset
from sr_core.tensors import Latent
from train.policy import TrainedTensors
from train.preference_config import PreferRecipe
from train.processes import Processes
from train.steps import PreferenceModel
from train.store import Window

ADAPTER = "adapter"
"""Folder of the trained adapter inside a run."""
BRANCH = "controlnet"
"""Folder of the trained control branch inside a run whose weights all move."""

Place = tuple[str, Window]
"""A window of a group, by the group's id."""


@runtime_checkable
class Groups(Protocol):
    """Curated groups on disk."""

    def size(self, group: str) -> tuple[int, int]:
        """Return height and width of the LQ."""

    def align(self, group: str) -> int:
        """Return the step in LQ pixels between places where a window may begin."""


AnyCondition = TypeVar("AnyCondition")


@runtime_checkable
class TrainedModel(PreferenceModel[AnyCondition], Protocol[AnyCondition]):
    """A backbone as a preference step sees it, and how its batches come from groups on disk."""

    device: torch.device
    dtype: torch.dtype
    step_levels: Tensor | None
    """Noise levels of a diffusion schedule's steps; None for a flow."""

    def condition(self, store: Any, places: Sequence[Place]) -> AnyCondition:  # noqa: ANN401 - its own kind of store
        """Return the condition of several windows of one size."""

    def latents(
        self,
        store: Any,  # noqa: ANN401
        places: Sequence[Place],
        indices: Sequence[int],
        condition: AnyCondition,
    ) -> Latent:
        """Return the latents of one candidate per window, or of the ground truth (`TRUTH`)."""

    def lq_latents(self, condition: AnyCondition) -> Latent:
        """Return the latents of the enlarged LQ."""


@runtime_checkable
class Trainee(Protocol):
    """A backbone with the recipe's sets of weights."""

    model: Any
    """A `TrainedModel`."""

    def prepare(self, dataset: PreferenceDataset, processes: Processes) -> Any:  # noqa: ANN401
        """Return the groups as this backbone reads them, cached on first use; every process calls it."""

    def trained(self) -> TrainedTensors:
        """Return what the optimiser moves."""

    def fixed(self) -> dict[str, str]:
        """Return hashes of the weights that a resumed run must find unchanged, the reference's among them."""

    def draw_samples(self, dataset: PreferenceDataset, average: dict[str, Tensor], output: Path, done: int) -> None:
        """Write a grid of samples at fixed seeds, named by the steps that are done."""

    def write(self, average: dict[str, Tensor], output: Path) -> None:
        """Write what was trained."""

    def result(self, output: Path) -> Path:
        """Return where that lies."""


def trained_folder(recipe: PreferRecipe) -> Path:
    """Return where a run of the recipe writes its adapter or control branch."""
    is_branch = recipe.backbone.name != "compact" and recipe.lora.train == "full"
    return Path(recipe.output) / (BRANCH if is_branch else ADAPTER)


def check_backbone(recipe: PreferRecipe) -> None:
    """Raise ConfigError or WeightsError at once if the recipe's backbone cannot be trained here."""
    if recipe.backbone.name == "compact":
        return
    from train.latent_weights import check_weights

    check_weights(recipe.backbone)


def load_trainee(
    recipe: PreferRecipe, processes: Processes, *, dtype: torch.dtype, policy_start: Path | None = None
) -> Trainee:
    """Return the recipe's backbone; its policy begins as the folder `policy_start`, if one is named."""
    if recipe.backbone.name == "compact":
        from train.compact_trainee import CompactTrainee

        return CompactTrainee(recipe, device=processes.device, dtype=dtype, policy_start=policy_start)
    from train.latent_trainee import LatentTrainee

    return LatentTrainee(recipe, processes, dtype=dtype, policy_start=policy_start)
