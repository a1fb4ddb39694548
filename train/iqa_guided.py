"""IQA-guided training of the flow head or of the prior (`python -m train iqa`)."""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sr_core.backbones.compact import head_metadata, load_head
from sr_core.backbones.prior import SCALE, load_prior
from sr_core.errors import ConfigError
from sr_core.files import replace_text
from sr_core.precision import resolve_dtype
from sr_core.preference_data.dataset import open_dataset
from sr_core.rewards.lpips import LpipsLayer, lpips
from sr_core.rewards.offline import load_lpips_layers
from sr_core.samplers import SAMPLERS
from sr_core.schedules import SCHEDULES
from train.checkpoints import check_start, replace_tensors
from train.compact_trainee import head_file
from train.config import recipe_values
from train.data import seeded_generator
from train.engine import Look, RunSettings, fit
from train.iqa_config import IqaRecipe
from train.iqa_looks import FIRST_LOOK, HeldOutLook
from train.iqa_sampling import TargetSource
from train.iqa_steps import HeadRestorer, PriorRestorer, Restorer, Terms, guided_step
from train.policy import REFERENCE, FullPolicy, HeadPolicy, PriorPolicy, TrainedTensors
from train.processes import Processes
from train.quality import Discriminator, load_quality
from train.steps import StepOutput
from train.store import group_store
from train.trainees import ADAPTER

DISCRIMINATOR = "discriminator."
"""Prefix of the discriminator's tensors among the trained ones."""

Policy = HeadPolicy | PriorPolicy | FullPolicy


def load_iqa_policy(recipe: IqaRecipe, device: torch.device) -> Policy:
    """Return the network that is trained with its reference; raises ConfigError and WeightsError as its parts do."""
    lora: dict[str, Any] = {
        "rank": recipe.lora.rank,
        "alpha": recipe.lora.alpha,
        "target_modules": recipe.lora.target_modules,
        "seed": recipe.seed,
    }
    layout = torch.channels_last
    if recipe.part == "prior":
        prior_policy = PriorPolicy(load_prior().to(device).to(memory_format=layout), **lora)
        prior_policy.head.to(device)
        return prior_policy
    head = load_head(head_file(recipe.backbone)).to(device).to(memory_format=layout)
    if recipe.lora.train == "full":
        return FullPolicy(head)
    start = None if recipe.backbone.adapter is None else Path(recipe.backbone.adapter)
    policy = HeadPolicy(head, start=start, **lora)
    policy.head.to(device)
    return policy


def loss_terms(recipe: IqaRecipe, device: str) -> Terms:
    """Load what the recipe's weights ask for; raises WeightsError naming a file that is missing."""
    config, perceptual = recipe.quality, None
    if config.perceptual:
        layers = load_lpips_layers(device)
        perceptual = partial(_distance, layers=layers)
    quality = load_quality(config.metric, SCALE * recipe.window_px, device) if config.quality else None
    discriminator = None
    if config.gan:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            discriminator = Discriminator().to(device)
    return Terms(perceptual, quality, discriminator)


def _distance(images: Tensor, reference: Tensor, *, layers: tuple[LpipsLayer, ...]) -> Tensor:
    return lpips(images, reference, layers)


def _trained(policy: Policy, discriminator: Discriminator | None) -> nn.Module:
    """Return everything that the optimiser moves as one module; the discriminator is trained at the same rate."""
    trained = policy.trained()
    if discriminator is None:
        return trained
    parameters = {name.replace("/", "."): value for name, value in trained.named_parameters()}
    extra = {DISCRIMINATOR + name: value for name, value in discriminator.named_parameters()}
    return TrainedTensors(parameters | extra)


def _restorer(recipe: IqaRecipe, policy: Policy, autocast: Callable[[], AbstractContextManager[None]]) -> Restorer:
    if isinstance(policy, PriorPolicy):
        return PriorRestorer(policy, autocast)
    sigmas = SCHEDULES[recipe.draw.schedule](recipe.draw.num_steps)
    return HeadRestorer(
        policy,
        recipe.quality,
        SAMPLERS[recipe.draw.sampler],
        sigmas,
        pure_noise_share=recipe.optim.pure_noise_share,
        autocast=autocast,
    )


def train_iqa(recipe: IqaRecipe, *, resume: bool = False) -> Path:
    """Run the recipe and return what it made: the adapter's folder, or the run's where all weights were trained.

    Writes checkpoints, `log.jsonl`, `recipe.json`, `summary.json`, and `adapter` or `head.safetensors` into the output.
    The log says how often each kind of target was shown.
    """
    processes = Processes()
    device, output = processes.device, Path(recipe.output)
    dtype = resolve_dtype(recipe.dtype, device.type)
    check_start(output, resume=resume)
    dataset = open_dataset(Path(recipe.dataset))
    start = time.monotonic()
    store = group_store(dataset, Path(recipe.cache), dtype=dtype, device=device.type)
    cache_s = time.monotonic() - start
    policy = load_iqa_policy(recipe, device)
    terms = loss_terms(recipe, device.type)
    source = TargetSource(recipe, dataset, store, None if isinstance(policy, PriorPolicy) else policy.head)
    restorer = _restorer(recipe, policy, lambda: torch.autocast(device.type, dtype, enabled=dtype != torch.float32))
    if processes.is_main:
        output.mkdir(parents=True, exist_ok=True)
        replace_text(output / "recipe.json", json.dumps(recipe_values(recipe), indent=1))

    def step(index: int) -> StepOutput:
        share = processes.share(recipe.optim.batch_size)
        batch = source(index, share)
        generator = seeded_generator(recipe.seed, "noise", index, processes.index)
        made = guided_step(restorer, batch, recipe.quality, terms, generator)
        shown = {f"shown/{name}": 0.0 for own in source.targets for name in own.names}
        shown |= {f"shown/{name}": batch.chosen.count(name) / len(batch.chosen) for name in batch.chosen}
        return StepOutput(made.loss, made.metrics | {name: torch.tensor(value) for name, value in shown.items()})

    fixed = {"reference": policy.reference_hash(), "dataset": dataset.digest, "targets": _digest(source)}
    settings = RunSettings.of(
        recipe, output, resume=resume, values=recipe_values(recipe), fixed=fixed, processes=processes
    )
    trained = _trained(policy, terms.discriminator)
    looks = []
    if recipe.evaluate_every and recipe.held_out is not None:
        look = HeldOutLook(recipe, policy, trained, dtype)
        if not resume and processes.is_main:
            first = {"step": 0, **look(0, {name: value.detach() for name, value in trained.state_dict().items()})}
            replace_text(output / FIRST_LOOK, json.dumps(first))
        looks.append(Look(look, recipe.evaluate_every))
    average = fit(trained, step, recipe.optim, settings, looks)
    if processes.is_main:
        weights = {
            name: value for name, value in average.items() if not name.startswith(DISCRIMINATOR.replace(".", "/"))
        }
        _write(policy, weights, output)
        summary = {
            "cache_s": cache_s,
            "groups": len(source.targets),
            "device": str(device),
            "dtype": str(dtype),
            "processes": processes.count,
        }
        replace_text(output / "summary.json", json.dumps(summary, indent=1))
    processes.wait()
    return output if isinstance(policy, FullPolicy) else output / ADAPTER


def _digest(source: TargetSource) -> str:
    """Return the SHA-256 of what may be shown and how often: a resumed run must find it unchanged."""
    chances = [None if p is None else p.tolist() for p in source.probabilities]
    return hashlib.sha256(json.dumps([source.targets, chances]).encode()).hexdigest()


def _write(policy: Policy, weights: dict[str, Tensor], output: Path) -> None:
    if not isinstance(policy, FullPolicy):
        policy.save(output / REFERENCE, REFERENCE)
        policy.save(output / ADAPTER, tensors=weights)
        return
    state = dict(policy.head.state_dict())
    state.update({name.replace("/", "."): value for name, value in weights.items()})
    replace_tensors(output / "head.safetensors", state, head_metadata(policy.head))


def iqa_adapter(recipe: IqaRecipe) -> Path:
    """Return the folder of a recipe's trained adapter; raises ConfigError if there is none."""
    adapter = Path(recipe.output) / ADAPTER
    if recipe.part != "head" or recipe.lora.train != "lora":
        raise ConfigError("only a LoRA of the flow head is judged and published; part must be head and lora.train lora")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise ConfigError(f"{adapter} must be a trained adapter; run: python -m train iqa RECIPE")
    return adapter
