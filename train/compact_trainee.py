"""The compact backbone under preference training: sets on its flow head, cached features, samples and results."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from sr_core.backbones.compact import (
    HEAD_FILE,
    CompactBackbone,
    head_metadata,
    load_compact,
    load_head,
    residual_latent,
    shared_prior,
)
from sr_core.backbones.flow_head import LATENT_CHANNELS, HeadInput, shuffle_planes, unshuffle_planes
from sr_core.errors import ConfigError
from sr_core.preference_data.dataset import PreferenceDataset
from sr_core.resampling import resize
from sr_core.samplers import SAMPLERS
from sr_core.schedules import SCHEDULES
from sr_core.tensors import Latent, Sigma
from train.checkpoints import replace_tensors
from train.losses import OBJECTIVES
from train.policy import ADVERSARY, POLICY, REFERENCE, FullPolicy, HeadPolicy, TrainedTensors
from train.preference_config import BackboneConfig, PreferRecipe
from train.processes import Processes
from train.samples import sample_grid, sample_path, sampled_photos
from train.steps import PARAMETRISATIONS, Parametrisation
from train.store import GroupStore, group_store, head_conditions
from train.trainees import ADAPTER, Place


class CompactModel:
    """The flow head as preference training sees it; errors are taken on the clean residual, in pixel order."""

    parametrisation: Parametrisation = PARAMETRISATIONS["clean"]
    step_levels: Tensor | None = None

    def __init__(self, policy: HeadPolicy | FullPolicy, dtype: torch.dtype, device: torch.device) -> None:
        self.policy, self.dtype, self.device = policy, dtype, device

    def predict(self, x: Latent, level: Sigma, condition: HeadInput) -> Latent:
        """Return the active set's clean residual; the photo is embedded once for all of its states."""
        head = self.policy.head
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            photo = head.photo_embedding(condition)
            states = x.contiguous(memory_format=torch.channels_last)
            return head.clean(states, level, photo.repeat(len(x) // len(photo), 1, 1, 1))

    def using(self, name: str) -> AbstractContextManager[None]:
        """Run a block with another set of weights."""
        return self.policy.using(name)

    def view(self, residual: Latent) -> Tensor:
        """Return a latent residual on the image's own grid."""
        return shuffle_planes(residual)

    def mean_colour(self, difference: Tensor, condition: HeadInput) -> Tensor:
        """Return how far a difference on the image's grid moves the mean of each opponent plane, in pixel values."""
        unit = shuffle_planes((condition.gain * self.policy.head.channel_std()).expand(-1, LATENT_CHANNELS, -1, -1))
        return (difference * unit).mean((-2, -1))

    def condition(self, store: GroupStore, places: Sequence[Place]) -> HeadInput:
        """Return what the head sees of several windows of one size."""
        parts = [store.conditions(group, window) for group, window in places]
        return head_conditions(parts, self.policy.head, self.device)

    def latents(
        self, store: GroupStore, places: Sequence[Place], indices: Sequence[int], condition: HeadInput
    ) -> Latent:
        """Return the residual latents of one candidate per window."""
        images = [store.image(group, index, window) for (group, window), index in zip(places, indices, strict=True)]
        planes = unshuffle_planes(torch.cat(images).to(self.device))
        return residual_latent(planes, condition, self.policy.head)

    def lq_latents(self, condition: HeadInput) -> Latent:
        """Return the residual latents of the enlarged LQ."""
        enlarged = resize(condition.lq, condition.lq.shape[-2] * 4, condition.lq.shape[-1] * 4)
        return residual_latent(unshuffle_planes(enlarged), condition, self.policy.head)


def head_file(backbone: BackboneConfig) -> Path:
    """Return where the flow head's weights lie; raises ConfigError for a backbone that has none."""
    if backbone.name != "compact":
        raise ConfigError(f"{backbone.name} has no flow head: backbone.name must be compact for this")
    return HEAD_FILE if backbone.head is None else Path(backbone.head)


def start_adapter(backbone: BackboneConfig) -> Path | None:
    """Return the PEFT folder of the model before preference training, if it has one."""
    return None if backbone.adapter is None else Path(backbone.adapter)


def compact_grid(dataset: PreferenceDataset, recipe: PreferRecipe, trained: CompactBackbone, path: Path) -> Path:
    """Write a grid of the recipe's backbone and what training made of it, see `sample_grid`."""
    backbone, draw = recipe.backbone, recipe.draw
    before = load_compact(dtype=torch.float32, head=head_file(backbone), adapter=start_adapter(backbone))
    step, sigmas = SAMPLERS[draw.sampler], SCHEDULES[draw.schedule](draw.num_steps)
    return sample_grid(sampled_photos(dataset), (before, trained), path, step=step, sigmas=sigmas)


def draw_adapter(
    dataset: PreferenceDataset, recipe: PreferRecipe, policy: HeadPolicy, name: str, average: dict[str, Tensor],
    output: Path, done: int,
) -> None:  # fmt: skip
    """Write the averaged weights of a set as `latest`, and the grid of what they draw."""
    latest = policy.save(output / "latest", name, tensors=average)
    trained = load_compact(dtype=torch.float32, head=head_file(recipe.backbone), adapter=latest)
    compact_grid(dataset, recipe, trained, sample_path(output, done))


def load_policy(
    recipe: PreferRecipe, device: torch.device, policy_start: Path | None = None
) -> HeadPolicy | FullPolicy:
    """Return the head with the recipe's sets of weights; the policy begins as the PEFT folder, if one is named.

    Raises ConfigError if all weights are trained and a folder is named.
    """
    head = load_head(head_file(recipe.backbone))
    head.to(device).to(memory_format=torch.channels_last)
    if recipe.draw.sampler == "native":
        raise ConfigError("draw.sampler native is of diffusers backbones; compact has euler and heun")
    if recipe.lora.train == "full":
        if policy_start is not None:
            raise ConfigError("lora.train must be lora where the policy starts from an adapter, got full")
        return FullPolicy(head)
    start = start_adapter(recipe.backbone)
    policy = HeadPolicy(
        head,
        rank=recipe.lora.rank,
        alpha=recipe.lora.alpha,
        target_modules=recipe.lora.target_modules,
        start=start,
        seed=recipe.seed,
    )
    if policy_start is not None:
        policy.load(POLICY, policy_start)
    if OBJECTIVES[recipe.objective.name].adversarial:
        assert recipe.adversary is not None
        policy.add(ADVERSARY, rank=recipe.adversary.rank, alpha=recipe.adversary.alpha)
        policy.load(ADVERSARY, Path(recipe.adversary.output) / ADAPTER)
        policy.use(POLICY)
    head.to(device)
    return policy


class CompactTrainee:
    """The flow head with the recipe's sets of weights."""

    def __init__(
        self, recipe: PreferRecipe, *, device: torch.device, dtype: torch.dtype, policy_start: Path | None = None
    ) -> None:
        self.recipe, self._start = recipe, policy_start
        self.policy = load_policy(recipe, device, policy_start)
        self.model = CompactModel(self.policy, dtype, device)

    def prepare(self, dataset: PreferenceDataset, processes: Processes) -> GroupStore:
        """Return the groups beside what the frozen prior says of them; the first process computes it."""
        folder, dtype, device = Path(self.recipe.cache), self.model.dtype, str(self.model.device)
        if processes.is_main:
            group_store(dataset, folder, dtype=dtype, device=device)
        processes.wait()
        return group_store(dataset, folder, dtype=dtype, device=device)

    def trained(self) -> TrainedTensors:
        """Return what the optimiser moves."""
        return self.policy.trained()

    def fixed(self) -> dict[str, str]:
        """Return hashes of the weights that a resumed run must find unchanged."""
        hashes = {"reference": self.policy.reference_hash()}
        if isinstance(self.policy, HeadPolicy) and self.recipe.objective.name == "as_dpo":
            hashes["adversary"] = self.policy.set_hash(ADVERSARY)
        if isinstance(self.policy, HeadPolicy) and self._start is not None:
            hashes["policy_start"] = self.policy.set_hash(POLICY)
        return hashes

    def draw_samples(self, dataset: PreferenceDataset, average: dict[str, Tensor], output: Path, done: int) -> None:
        """Write a grid of samples: per photo the prior, then for each seed the reference and the averaged policy."""
        if isinstance(self.policy, HeadPolicy):
            draw_adapter(dataset, self.recipe, self.policy, POLICY, average, output, done)
            return
        head = load_head(head_file(self.recipe.backbone))
        head.load_state_dict(self._whole_head(average))
        trained = CompactBackbone(shared_prior(torch.float32, "cpu"), head, dtype=torch.float32)
        compact_grid(dataset, self.recipe, trained, sample_path(output, done))

    def _whole_head(self, average: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a head's weights and buffers where all weights move."""
        return self.policy.head.state_dict() | {name.replace("/", "."): value for name, value in average.items()}

    def write(self, average: dict[str, Tensor], output: Path) -> None:
        """Write the policy beside its reference, or the whole head."""
        if isinstance(self.policy, HeadPolicy):
            self.policy.save(output / REFERENCE, REFERENCE)
            self.policy.save(output / ADAPTER, tensors=average)
            return
        replace_tensors(output / "head.safetensors", self._whole_head(average), head_metadata(self.policy.head))

    def result(self, output: Path) -> Path:
        """Return where the trained adapter lies, or the run's folder where all weights move."""
        return output / ADAPTER if isinstance(self.policy, HeadPolicy) else output
