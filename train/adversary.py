"""Training of the adversary, a LoRA that imitates failures of baseline restorers (`python -m train adversary`)."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_core.backbones.compact import load_head
from sr_core.errors import ConfigError
from sr_core.files import replace_text
from sr_core.precision import resolve_dtype
from sr_core.preference_data.dataset import PreferenceDataset, open_dataset
from train.baselines import BUILT_IN, FailureSource
from train.checkpoints import check_start, finished
from train.compact_trainee import CompactModel, draw_adapter, head_file
from train.config import parse_recipe, recipe_values
from train.data import seeded_generator
from train.engine import Look, RunSettings, fit
from train.imitation import MEAN, PHOTOS, gain_text, imitation, imitation_text, judged_photos, unjudged_note
from train.policy import ADVERSARY, HeadPolicy, TrainedTensors
from train.preference_config import AdversaryConfig, PreferRecipe
from train.processes import Processes
from train.report import write_report
from train.steps import StepOutput, clean_step, sft_sigmas
from train.store import group_store
from train.trainees import ADAPTER, check_backbone

SUMMARY = "summary.json"


def _section(recipe: PreferRecipe) -> AdversaryConfig:
    if recipe.adversary is None:
        raise ConfigError("the recipe must have the section `adversary`, it has none")
    return recipe.adversary


def _is_judged(recipe: PreferRecipe) -> bool:
    """Return whether there are photographs to judge on, and baselines that can be had of them."""
    return recipe.held_out is not None and not set(_section(recipe).baselines).isdisjoint(BUILT_IN)


def adversary_policy(recipe: PreferRecipe, device: torch.device) -> HeadPolicy:
    """Return the head with the adversary's set active, starting as the model before preference training.

    Raises ConfigError if that model has an adapter of another rank than the adversary.
    """
    config, lora = _section(recipe), recipe.lora
    head = load_head(head_file(recipe.backbone))
    head.to(device).to(memory_format=torch.channels_last)
    start = None if recipe.backbone.adapter is None else Path(recipe.backbone.adapter)
    policy = HeadPolicy(
        head, rank=lora.rank, alpha=lora.alpha, target_modules=lora.target_modules, start=start, seed=recipe.seed
    )
    policy.add(ADVERSARY, rank=config.rank, alpha=config.alpha)
    if start is not None:
        policy.load(ADVERSARY, start)
    policy.use(ADVERSARY)
    head.to(device)
    return policy


def step_function(recipe: PreferRecipe, source: FailureSource, processes: Processes) -> Callable[[int], StepOutput]:
    """Return the step of each index: what the head was taught with, with failures in place of ground truths.

    Batch, noise and level come from the recipe's seed and the index alone.
    Source: ASASR, arXiv 2605.23264, released code: plain flow matching towards the outputs of baselines.
    """
    optim, model = _section(recipe).optim, source.model
    share = processes.share(optim.batch_size)

    def step(index: int) -> StepOutput:
        batch = source(index, share)
        generator = seeded_generator(recipe.seed, "adversary noise", index)
        sigma = sft_sigmas(optim.batch_size, optim.pure_noise_share, generator)[share]
        noise = torch.randn((optim.batch_size, *batch.hq.shape[1:]), generator=generator)[share]
        with torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32):
            output = clean_step(model.policy.head, batch, sigma.to(model.device), noise.to(model.device))
        return StepOutput(output.loss, {"clean_mse": output.metrics["clean_mse"]})

    return step


def _settling(recipe: PreferRecipe) -> dict[str, Any]:
    """Return what settles an adversary of the recipe; the rest of it concerns preference training alone."""
    values = recipe_values(recipe)
    adversary = values["adversary"]
    return {
        **{name: values[name] for name in ("seed", "backbone", "lora", "window_px", "flip", "dtype", "levels")},
        "adversary": {name: adversary[name] for name in ("rank", "alpha", "baselines")},
        "optim": adversary["optim"],
    }


@dataclass(frozen=True, kw_only=True)
class _Learner:
    """An adversary ready to be trained."""

    trained: TrainedTensors
    step: Callable[[int], StepOutput | Iterator[StepOutput]]
    save: Callable[..., Path]
    draw: Callable[[dict[str, Tensor], Path, int], None]
    """Writes a grid of what averaged weights draw into a run's folder, named by the steps that are done."""
    reference: str
    """SHA-256 of what it started from."""
    cache_s: float


def _learner(recipe: PreferRecipe, processes: Processes, dataset: PreferenceDataset, dtype: torch.dtype) -> _Learner:
    """Return the adversary of the recipe's backbone."""
    config, start = _section(recipe), time.monotonic()
    if recipe.backbone.name != "compact":
        return _latent_learner(recipe, processes, dataset, dtype)
    device = processes.device
    policy = adversary_policy(recipe, device)
    if config.optim.micro_batch:
        raise ConfigError("adversary.optim.micro_batch is for diffusers backbones; leave it out for compact")
    if processes.is_main:
        group_store(dataset, Path(recipe.cache), dtype=dtype, device=str(device))
    processes.wait()
    store = group_store(dataset, Path(recipe.cache), dtype=dtype, device=str(device))
    cache_s = time.monotonic() - start
    model = CompactModel(policy, dtype, device)
    source = FailureSource(recipe, config.baselines, config.optim.batch_size, dataset, store, model)
    return _Learner(
        trained=policy.trained(ADVERSARY),
        step=step_function(recipe, source, processes),
        save=policy.save,
        draw=lambda average, output, done: draw_adapter(dataset, recipe, policy, ADVERSARY, average, output, done),
        reference=policy.reference_hash(),
        cache_s=cache_s,
    )


def _latent_learner(
    recipe: PreferRecipe, processes: Processes, dataset: PreferenceDataset, dtype: torch.dtype
) -> _Learner:
    from train.latent_adversary import LatentFailures, cache_failures, imitation_steps
    from train.latent_trainee import LatentTrainee

    config, start = _section(recipe), time.monotonic()
    trainee = LatentTrainee(recipe, processes, dtype=dtype, role=ADVERSARY)
    store = trainee.fill(dataset, processes)
    folder = cache_failures(dataset, store, trainee.backbone, recipe, config.baselines, processes)
    # Before weights are sharded, which spares only what takes gradients.
    trained = trainee.policy.trained(ADVERSARY)
    trainee.release(processes)
    cache_s = time.monotonic() - start
    source = LatentFailures(recipe, config, store, folder, trainee.model)
    return _Learner(
        trained=trained,
        step=imitation_steps(recipe, config, source, processes),
        save=trainee.policy.save,
        draw=lambda average, output, done: trainee.draw_samples(dataset, average, output, done),
        reference=trainee.fixed()["reference"],
        cache_s=cache_s,
    )


def train_adversary(recipe: PreferRecipe, *, resume: bool = False) -> Path:
    """Train the recipe's adversary and return its PEFT folder.

    Writes checkpoints, `log.jsonl`, `recipe.json`, `adapter/`, `summary.json`, samples and a report into
    `adversary.output`; the summary holds `imitation` where the recipe has `held_out` and a built-in baseline.
    Raises ConfigError if the dataset is not finished, a baseline does not fit it, or a resumed run would change.
    """
    config = _section(recipe)
    output = Path(config.output)
    check_backbone(recipe)
    check_start(output, resume=resume)
    if _is_judged(recipe):
        assert recipe.held_out is not None
        judged_photos(recipe.held_out, PHOTOS)  # missing photographs are better told before than after
    processes = Processes(recipe.trackers, output)
    device = processes.device
    dtype = resolve_dtype(recipe.dtype, device.type)
    dataset = open_dataset(Path(recipe.dataset))
    learner = _learner(recipe, processes, dataset, dtype)
    summary: dict[str, Any] = {"cache_s": learner.cache_s, "device": str(device), "dtype": str(dtype)}
    if processes.is_main:
        output.mkdir(parents=True, exist_ok=True)
        replace_text(output / "recipe.json", json.dumps(recipe_values(recipe), indent=1))
    settings = RunSettings.of(
        recipe,
        output,
        resume=resume,
        values=_settling(recipe),
        fixed={"reference": learner.reference, "dataset": dataset.digest},
        processes=processes,
    )
    trained = learner.trained

    def draw_samples(done: int, average: dict[str, Tensor]) -> dict[str, float]:
        learner.draw(average, output, done)
        return {}

    average = fit(trained, learner.step, config.optim, settings, [Look(draw_samples, recipe.sample_every)])
    if processes.is_main:
        learner.save(output / ADAPTER, ADVERSARY, tensors=average)
        summary |= {"parameters": sum(p.numel() for p in trained.parameters()), "groups": len(dataset)}
        if _is_judged(recipe):
            summary["imitation"] = imitation(recipe, output / ADAPTER, device=str(device))
        replace_text(output / SUMMARY, json.dumps(summary, indent=1))
        write_report(output)
    processes.wait()
    return output / ADAPTER


def judged_text(recipe: PreferRecipe) -> str:
    """Return what the trained adversary's summary says about held-out photographs, or why it says nothing."""
    config = _section(recipe)
    summary = json.loads((Path(config.output) / SUMMARY).read_text(encoding="utf-8"))
    if "imitation" in summary:
        return imitation_text(summary["imitation"])
    return "Not judged: that takes the section held_out and a built-in baseline."


def rank_sweep(recipe: PreferRecipe, ranks: Sequence[int] = (4, 8, 16)) -> dict[int, dict[str, Any]]:
    """Train one adversary per rank, alpha equal to it, and return how near each comes to the baselines.

    The run of rank r lies beside the recipe's as `OUTPUT_rank<r>`; one that is finished is read, one that was killed
    goes on. Raises ConfigError if the recipe has no section `held_out` or no built-in baseline.
    """
    config = _section(recipe)
    if not _is_judged(recipe):
        raise ConfigError(f"a sweep of ranks must have held_out and a baseline of {', '.join(BUILT_IN)}")
    found = {}
    for rank in ranks:
        values = recipe_values(recipe)
        values["adversary"] |= {"rank": rank, "alpha": float(rank), "output": f"{config.output}_rank{rank}"}
        own = parse_recipe(PreferRecipe, values, f"rank {rank}")
        output = Path(_section(own).output)
        if not (output / SUMMARY).is_file():
            train_adversary(own, resume=bool(finished(output / "checkpoints")))
        summary = json.loads((output / SUMMARY).read_text(encoding="utf-8"))
        found[rank] = {"parameters": summary["parameters"], **summary["imitation"]["lpips"][MEAN]}
    return found


def sweep_text(recipe: PreferRecipe, found: dict[int, dict[str, Any]]) -> str:
    """Return what `rank_sweep` found as a table, and what it does not say."""
    rows = [
        f"{rank:>4} {row['parameters']:>10} {row['sft']:>9.4f} {row['adversary']:>9.4f} {gain_text(row)}"
        for rank, row in found.items()
    ]
    head = f"{'rank':>4} {'parameters':>10} {'SFT':>9} {'adversary':>9} nearer by (95 % interval)"
    title = "LPIPS to the built-in baselines' outputs of held-out photographs, mean over baselines"
    return "\n".join((title, head, *rows, *unjudged_note(_section(recipe).baselines)))
