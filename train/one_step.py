"""One-step training of `compact` with an adaptive level (`python -m train one-step`)."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import log_softmax, softmax
from tqdm import tqdm

from sr_core.backbones.compact import HEAD_FILE, load_head, residual_latent
from sr_core.backbones.compact_one_step import OneStepModel, one_step_metadata, one_step_tensors, velocity_of
from sr_core.backbones.flow_head import HeadInput
from sr_core.backbones.one_step import Choice, choose_level, gumbel_noise, selector_view
from sr_core.files import replace_text
from sr_core.flow import clean_from_velocity, column
from sr_core.precision import resolve_dtype
from sr_core.tensors import Image, Latent, PerSample, Sigma
from train.checkpoints import check_start, replace_tensors
from train.config import recipe_values
from train.data import Batch, head_batch, seeded_generator
from train.engine import RunSettings, fit
from train.one_step_config import OneStepRecipe, SelectorConfig
from train.owms import Owms, load_owms
from train.regions import CachedRegions, Regions, cached_regions
from train.steps import StepOutput, decode_latent

Losses = Callable[[Sigma], PerSample]
"""Loss of every sample at the given levels, one per sample."""
FIT_BATCH = 32
PAIRED_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def size_penalty(mean_square: PerSample, size: float) -> PerSample:
    """Return (log of the correction's root-mean-square over `size`)^2; 0 where it has that size."""
    return (0.5 * torch.log(mean_square.clamp_min(1e-12)) - torch.log(torch.tensor(size))).square()


def guide_distribution(
    losses: Float[Tensor, "b k"], places: Float[Tensor, " k"], levels: Float[Tensor, " n"], temperature: float
) -> Float[Tensor, "b n"]:
    """Return softmax(-loss / temperature) over all levels, the loss a parabola through the `places` it was looked at.

    Fitted by least squares; the squared error of a correction that is scaled by the level is one exactly.
    """
    powers = torch.arange(3, device=places.device)
    coefficients = losses @ torch.linalg.pinv(places[:, None] ** powers).T
    return softmax(-(coefficients @ (levels[:, None] ** powers).T) / temperature, dim=1)


def mean_choice_entropy(probability: Float[Tensor, "b n"]) -> Tensor:
    """Return the entropy, in nats, of the batch's mean choice; largest when all levels are equally used."""
    mean = probability.mean(0)
    return -(mean * torch.log(mean.clamp_min(1e-12))).sum()


class Selected(NamedTuple):
    """Levels of a batch: the selector's for the first samples, uniform for the others."""

    sigma: Sigma
    choice: Choice
    logits: Float[Tensor, "c n"]


def select_levels(model: OneStepModel, region: Image, config: SelectorConfig, generator: Generator) -> Selected:
    """Let the selector choose, with seeded Gumbel noise, for its share of the batch."""
    count = max(1, round(config.share * len(region)))
    levels = model.selector.time_list
    logits = model.selector(selector_view(region[:count]).contiguous(memory_format=torch.channels_last))
    choice = choose_level(logits, levels, gumbel_noise((count, len(levels)), generator).to(logits.device))
    uniform = torch.randint(len(levels), (len(region) - count,), generator=generator).to(levels.device)
    return Selected(torch.cat([choice.level, levels[uniform]]), choice, logits)


class OneStepLosses:
    """The losses of one batch at any levels."""

    def __init__(self, model: OneStepModel, owms: Owms, batch: Batch, noise: Latent) -> None:
        self.model, self.owms, self.batch, self.noise = model, owms, batch, noise
        self.clean = residual_latent(batch.hq, batch.photo, model.head)
        self.target = decode_latent(self.clean, batch.photo, model.head)

    def terms(self, sigma: Sigma, encoded: int) -> tuple[dict[str, PerSample], PerSample]:
        """Return each loss by name, and the mean square of the correction at level 1."""
        head, photo = self.model.head, self.batch.photo
        x = column(sigma) * self.noise
        correction = head.correction(x, sigma, head.photo_embedding(photo))
        residual = clean_from_velocity(x, velocity_of(x, correction, sigma), sigma)
        l2 = (residual - self.clean).square().mean(dim=(1, 2, 3))
        terms = self.owms(decode_latent(residual, photo, head), self.target, l2, encoded)
        return terms, correction.square().mean(dim=(1, 2, 3))

    @torch.no_grad()
    def at(self, places: Float[Tensor, " k"]) -> Float[Tensor, "b k"]:
        """Return the loss of every sample at each of the levels, without the terms of encoders."""
        count = len(self.noise)
        return torch.stack([self.owms.total(self.terms(place.expand(count), 0)[0]) for place in places], 1)


def _first(batch: Batch, count: int) -> Batch:
    return Batch(HeadInput(*(part[:count] for part in batch.photo)), batch.hq[:count])


def one_step_loss(
    model: OneStepModel, owms: Owms, regions: Regions, recipe: OneStepRecipe, generator: Generator
) -> StepOutput:
    """Return the loss of one batch: OWMS at the chosen levels, the velocity's size, and the selector's guidance."""
    batch = _batch_of(model, regions)
    noise = torch.randn(batch.hq.shape, generator=generator).to(batch.hq)
    selected = select_levels(model, regions.region, recipe.selector, generator)
    chosen = len(selected.logits)
    terms, unit = OneStepLosses(model, owms, batch, noise).terms(selected.sigma, chosen)
    size = size_penalty(unit, recipe.velocity_size)
    loss = (owms.total(terms) + recipe.velocity_weight * size).mean()
    metrics = {name: value.detach().mean() for name, value in terms.items()}
    metrics |= {"size": size.detach().mean(), "level": selected.choice.level.detach().mean()}
    metrics["level_spread"] = model.selector.time_list[selected.logits.argmax(1)].std(correction=0)
    if recipe.selector.guide:
        levels = model.selector.time_list
        places = torch.linspace(0, 1, recipe.selector.guide_levels, device=levels.device)
        table = OneStepLosses(model, owms, _first(batch, chosen), noise[:chosen]).at(places)
        wanted = guide_distribution(table, places, levels, recipe.selector.guide_temperature)
        guidance = -(wanted * log_softmax(selected.logits, 1)).sum(1).mean()
        loss = loss + recipe.selector.guide * guidance
        metrics |= {"guide": guidance.detach(), "best_level": places[table.argmin(1)].mean()}
    if recipe.selector.entropy:
        entropy = mean_choice_entropy(softmax(selected.logits, 1))
        loss = loss - recipe.selector.entropy * entropy
        metrics["entropy"] = entropy.detach()
    return StepOutput(loss, metrics)


def _batch_of(model: OneStepModel, regions: Regions) -> Batch:
    with torch.no_grad():
        gain = model.head.gain(regions.prior, regions.lq)
    return head_batch(regions.hq, regions.lq, regions.prior, regions.trunk, gain)


@torch.no_grad()
def fix_statistics(model: OneStepModel, regions: CachedRegions, device: str) -> None:
    """Set the statistics of the selector's batch normalisation, in place, to those of all regions.

    They stay so: the batches of training are too small for their own.
    """
    for norm in model.selector.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # a plain mean over what it sees
            norm.reset_running_stats()
    for part in tqdm(_parts(regions), desc="selector statistics", unit="batch"):
        model.selector.train().features(selector_view(regions.get(part).region.to(device)))
    model.selector.eval()


def _parts(regions: CachedRegions) -> list[range]:
    return [range(start, min(start + 16, len(regions))) for start in range(0, len(regions), 16)]


@torch.no_grad()
def measure_regions(
    model: OneStepModel, owms: Owms, regions: CachedRegions, recipe: OneStepRecipe, device: str
) -> tuple[Tensor, Tensor]:
    """Return the selector's features of every region and the loss of its window at each guide level."""
    places = torch.linspace(0, 1, recipe.selector.guide_levels, device=device)
    features, tables = [], []
    for part in tqdm(_parts(regions), desc="losses by level", unit="batch"):
        features.append(model.selector.features(selector_view(regions.get(part).region.to(device))))
        batch = _batch_of(model, Regions(*(tensor.to(device) for tensor in regions.get(part))))
        generator = seeded_generator(recipe.seed, "table", part.start)
        noise = torch.randn(batch.hq.shape, generator=generator).to(batch.hq)
        tables.append(OneStepLosses(model, owms, batch, noise).at(places))
    return torch.cat(features), torch.cat(tables)


def teach_selector(
    model: OneStepModel, owms: Owms, sources: Sequence[CachedRegions], recipe: OneStepRecipe, device: str, steps: int
) -> list[float]:
    """Teach the selector's last layers, in place, which levels the head as it is does best at; return the losses."""
    config, levels = recipe.selector, model.selector.time_list
    measured = [measure_regions(model, owms, regions, recipe, device) for regions in sources]
    features, table = (torch.cat(part) for part in zip(*measured, strict=True))
    places = torch.linspace(0, 1, config.guide_levels, device=device)
    wanted = guide_distribution(table, places, levels, config.guide_temperature)
    optimizer = torch.optim.AdamW(model.selector.fc.parameters(), lr=config.fit_rate, weight_decay=0.05)
    generator, losses = seeded_generator(recipe.seed, "fit"), []
    for _ in range(steps):
        picked = torch.randint(len(features), (FIT_BATCH,), generator=generator).to(device)
        logits = model.selector.fc(features[picked])
        loss = -(wanted[picked] * log_softmax(logits, 1)).sum(1).mean()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses


def _paired(recipe: OneStepRecipe, dtype: torch.dtype, device: str) -> list[CachedRegions]:
    """Return the same places at graded strengths, from which the selector learns what strength alone changes."""
    data = recipe.data
    if not data.paired:
        return []
    return [
        cached_regions(
            data.photos, Path(data.cache) / "paired", count=data.paired, presets={}, seed=recipe.seed, dtype=dtype,
            device=device, strengths=PAIRED_STRENGTHS,
        )
    ]  # fmt: skip


def draw_regions(regions: CachedRegions, recipe: OneStepRecipe, index: int) -> Regions:
    """Return the batch of step `index`, which depends on the recipe's seed and the index alone."""
    generator = seeded_generator(recipe.seed, "batch", index)
    picked = torch.randint(len(regions), (recipe.optim.batch_size,), generator=generator).tolist()
    return regions.get(picked)


def train_one_step(recipe: OneStepRecipe, *, resume: bool = False) -> Path:
    """Run the recipe and return the path of the final weights.

    Writes checkpoints, `log.jsonl`, `recipe.json`, `summary.json` and `one_step.safetensors` into its output.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = resolve_dtype(recipe.dtype, device)
    output = Path(recipe.output)
    check_start(output, resume=resume)
    owms = load_owms(recipe.losses, device)
    start, cpu_start = time.monotonic(), time.process_time()
    data = recipe.data
    regions = cached_regions(
        data.photos, Path(data.cache), count=data.count, presets=data.presets, seed=recipe.seed,
        dtype=dtype, device=device,
    )  # fmt: skip
    cache_s, cache_cpu_s = time.monotonic() - start, time.process_time() - cpu_start
    torch.manual_seed(recipe.seed)
    source = HEAD_FILE if recipe.head is None else Path(recipe.head)
    model = OneStepModel.started_from(load_head(source)).to(device).to(memory_format=torch.channels_last).train()
    output.mkdir(parents=True, exist_ok=True)
    replace_text(output / "recipe.json", json.dumps(recipe_values(recipe), indent=1))

    if not resume:
        fix_statistics(model, regions, device)
        if recipe.selector.first_steps:
            teach_selector(model, owms, [regions], recipe, device, recipe.selector.first_steps)
    model.selector.eval()

    def step(index: int) -> StepOutput:
        batch = Regions(*(part.to(device) for part in draw_regions(regions, recipe, index)))
        generator = seeded_generator(recipe.seed, "noise", index)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return one_step_loss(model, owms, batch, recipe, generator)

    fixed = {"starting head": hashlib.sha256(source.read_bytes()).hexdigest()}
    settings = RunSettings.of(recipe, output, resume=resume, values=recipe_values(recipe), fixed=fixed)
    average = fit(model, step, recipe.optim, settings)
    if recipe.selector.last_steps:
        model.load_state_dict(average)
        sources = [regions, *_paired(recipe, dtype, device)]
        teach_selector(model, owms, sources, recipe, device, recipe.selector.last_steps)
        average = model.state_dict()
    final = output / "one_step.safetensors"
    replace_tensors(final, one_step_tensors(average), one_step_metadata(model))
    summary = {"cache_s": cache_s, "cache_cpu_s": cache_cpu_s, "regions": len(regions), "device": device}
    replace_text(output / "summary.json", json.dumps({**summary, "dtype": str(dtype)}, indent=1))
    return final
