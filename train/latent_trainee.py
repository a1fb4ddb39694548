"""A latent backbone under preference training: its sets of weights, cached latents, samples and results."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sr_core.backbones.drawing import AUTO_PROMPT
from sr_core.backbones.latent import LatentBackbone, LatentCondition
from sr_core.errors import ConfigError
from sr_core.preference_data.dataset import PreferenceDataset
from sr_core.tensors import Latent, Sigma
from train.latent_policy import BranchPolicy, LatentPolicy, LoraPolicy, fingerprint
from train.latent_samples import latent_grid
from train.latent_store import LatentStore, latent_store
from train.latent_weights import check_weights, drawing_of_recipe, load_latent, network_of
from train.losses import OBJECTIVES
from train.policy import ADVERSARY, POLICY, TrainedTensors
from train.preference_config import PreferRecipe
from train.processes import Processes
from train.samples import sample_path
from train.steps import PARAMETRISATIONS, Parametrisation
from train.trainees import ADAPTER, Place, trained_folder

UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
"""Layers of a UNet, or of its control branch, that a LoRA adapts unless the recipe names others."""


def lora_targets(backbone: LatentBackbone, named: tuple[str, ...]) -> str | tuple[str, ...]:
    """Return the layers that a LoRA adapts, as `add_lora` takes them."""
    if named:
        return named
    if backbone.prediction == "velocity":
        from sr_core.backbones.flux import LORA_TARGETS

        return LORA_TARGETS
    return UNET_TARGETS


def networks_of(backbone: Any) -> list[nn.Module]:  # noqa: ANN401
    """Return every network that a prediction runs through."""
    found = [getattr(backbone, name, None) for name in ("controlnet", "transformer", "unet")]
    return [module for module in found if module is not None]


def make_policy(backbone: LatentBackbone, recipe: PreferRecipe, dtype: torch.dtype) -> LatentPolicy:
    """Return the recipe's sets on a backbone; everything else of it is frozen.

    Raises ConfigError if all weights are to be trained and there is no control branch.
    """
    name, module = network_of(backbone)
    for network in networks_of(backbone):
        network.requires_grad_(False)
        if recipe.gradient_checkpointing:
            network.enable_gradient_checkpointing()  # type: ignore[operator]
    lora, targets = recipe.lora, lora_targets(backbone, recipe.lora.target_modules)
    base = f"{backbone.name} {name}"
    if lora.train == "lora":
        return LoraPolicy(
            module, component=name, base=base, rank=lora.rank, alpha=lora.alpha, targets=targets, seed=recipe.seed
        )
    if name != "controlnet":
        raise ConfigError(f"lora.train full moves a control branch alone, which {backbone.name} has not here; use lora")
    return BranchPolicy(backbone, dtype=dtype, targets=targets, base=base, seed=recipe.seed)


def tell_guidance(backbone: LatentBackbone, guidance: float | None) -> None:
    """Let the network be told another guidance in training than the backbone's own; None leaves that."""
    if guidance is None:
        return
    from sr_core.backbones.flux import FluxBackbone

    assert isinstance(backbone, FluxBackbone), "recipes of other backbones name no training_guidance"
    backbone.training_guidance = guidance


class LatentModel:
    """A latent backbone as a preference step sees it; errors are taken on the latent grid."""

    def __init__(self, backbone: LatentBackbone, policy: LatentPolicy, dtype: torch.dtype) -> None:
        self.backbone, self.policy, self.dtype, self.device = backbone, policy, dtype, backbone.device
        self.parametrisation: Parametrisation = PARAMETRISATIONS[backbone.prediction]
        self.step_levels: Tensor | None = None
        if backbone.prediction != "velocity":
            self.step_levels = (1 - backbone.scheduler.alphas_cumprod.double()).sqrt().float().cpu()

    def predict(self, x: Latent, level: Sigma, condition: LatentCondition) -> Latent:
        """Return the active set's epsilon, v or velocity, float32, without guidance."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.backbone.predict(x, level, condition).float()

    def using(self, name: str) -> Any:  # noqa: ANN401
        """Run a block with another set of weights."""
        return self.policy.using(name)

    def view(self, residual: Latent) -> Latent:
        """Return the residual itself: the latent's grid is the image's own, reduced."""
        return residual

    def mean_colour(self, difference: Tensor, condition: LatentCondition) -> Tensor:  # noqa: ARG002
        """Return how far a difference of clean ends moves the mean of each latent channel."""
        return difference.mean((-2, -1))

    def condition(self, store: LatentStore, places: Sequence[Place]) -> LatentCondition:
        """Return the condition of several windows of one size."""
        return store.condition(places, self.device)

    def latents(
        self, store: LatentStore, places: Sequence[Place], indices: Sequence[int], condition: LatentCondition  # noqa: ARG002
    ) -> Latent:  # fmt: skip
        """Return the latents of one candidate per window."""
        images = [store.image(group, index, window) for (group, window), index in zip(places, indices, strict=True)]
        return torch.cat(images).to(self.device)

    def lq_latents(self, condition: LatentCondition) -> Latent:
        """Return the latents of the enlarged LQ."""
        return condition.latent


def release_encoders(backbone: Any, *, keep_vae: bool) -> None:  # noqa: ANN401
    """Drop what cached latents and texts stand for; a VAE that samples need stays."""
    if hasattr(backbone, "text_encoders"):
        backbone.text_encoders = []
    pipeline = getattr(backbone, "pipeline", None)
    if pipeline is not None:
        pipeline.text_encoder = pipeline.text_encoder_2 = None
    if not keep_vae:
        backbone.vae = None
        if pipeline is not None:
            pipeline.vae = None
    if backbone.device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def averaged(trained: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """Run a block with averaged weights in place of the current ones."""
    own = {name: value.clone() for name, value in trained.state_dict().items()}
    trained.load_state_dict(average)
    try:
        yield
    finally:
        trained.load_state_dict(own)


class LatentTrainee:
    """A latent backbone with the recipe's sets of weights."""

    def __init__(
        self,
        recipe: PreferRecipe,
        processes: Processes,
        *,
        dtype: torch.dtype,
        policy_start: Path | None = None,
        role: str = POLICY,
    ) -> None:
        """Load the backbone and its sets; `role` says whether the policy is to be trained or the adversary.

        Raises WeightsError or ConfigError if something is missing or does not fit.
        """
        if recipe.backbone.prompt == AUTO_PROMPT:
            raise ConfigError(
                f"backbone.prompt {AUTO_PROMPT} describes each photo while drawing; training encodes one prompt for "
                "all: give its words or leave it empty"
            )
        check_weights(recipe.backbone)
        self.recipe, self._start, self._role = recipe, policy_start, role
        self.backbone = load_latent(recipe.backbone, dtype=dtype, device=str(processes.device))
        self.backbone.drawing = drawing_of_recipe(recipe.backbone, recipe.draw)
        tell_guidance(self.backbone, recipe.backbone.training_guidance)
        vae_hash = fingerprint(self.backbone.vae)
        self.policy = make_policy(self.backbone, recipe, dtype)
        if policy_start is not None:
            self.policy.start_from(policy_start)
        config = recipe.adversary
        if config is not None and (role == ADVERSARY or OBJECTIVES[recipe.objective.name].adversarial):
            start = None if role == ADVERSARY else Path(config.output) / ADAPTER
            self.policy.add_adversary(rank=config.rank, alpha=config.alpha, start=start)
        self._fixed = {"vae": vae_hash, **self._set_hashes()}
        self.model = LatentModel(self.backbone, self.policy, dtype)
        if processes.shards and recipe.sample_every:
            raise ConfigError("sample_every must be 0 under FSDP: one process alone cannot draw with a shared base")

    def prepare(self, dataset: PreferenceDataset, processes: Processes) -> LatentStore:
        """Return the groups as latents; all processes compute what is missing, and none keeps an encoder."""
        store = self.fill(dataset, processes)
        self.release(processes)
        return store

    def fill(self, dataset: PreferenceDataset, processes: Processes) -> LatentStore:
        """Return the groups as latents, computed where they are missing."""
        recipe, prompt = self.recipe, self.recipe.backbone.prompt
        return latent_store(
            dataset, Path(recipe.cache), self.backbone, prompt=prompt, flip=recipe.flip, processes=processes
        )

    def release(self, processes: Processes) -> None:
        """Drop the encoders; where samples are drawn, the VAE and what the prompts say stay."""
        sampling = self.recipe.sample_every > 0 and processes.is_main
        if sampling:
            for text in (self.recipe.backbone.prompt, self.backbone.drawing.negative_prompt):
                self.backbone.text(text or "")
        release_encoders(self.backbone, keep_vae=sampling)
        for network in networks_of(self.backbone):
            if not all(parameter.requires_grad for parameter in network.parameters()):
                processes.shard(network)

    def trained(self) -> TrainedTensors:
        """Return what the optimiser moves."""
        return self.policy.trained()

    def fixed(self) -> dict[str, str]:
        """Return hashes of the weights that a resumed run must find unchanged, taken before any was sharded."""
        return dict(self._fixed)

    def _set_hashes(self) -> dict[str, str]:
        hashes = {"reference": self.policy.reference_hash()}
        if OBJECTIVES[self.recipe.objective.name].adversarial:
            hashes["adversary"] = self.policy.set_hash(ADVERSARY)
        if self._start is not None:
            hashes["policy_start"] = self.policy.set_hash(POLICY)
        return hashes

    def draw_samples(self, dataset: PreferenceDataset, average: dict[str, Tensor], output: Path, done: int) -> None:
        """Write a grid: per photo the enlarged LQ, then for each seed the reference and the averaged weights."""
        with averaged(self.policy.trained(self._role), average):
            latent_grid(dataset, self.backbone, self.policy, sample_path(output, done), self._role)

    def write(self, average: dict[str, Tensor], output: Path) -> None:
        """Write the policy: a LoRA as a PEFT folder, a control branch as the releases do."""
        self.policy.save(self.result(output), tensors=average)

    def result(self, output: Path) -> Path:
        """Return where the trained adapter or control branch lies."""
        return output / trained_folder(self.recipe).name
