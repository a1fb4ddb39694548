"""Preference training of an adapter on curated groups (`python -m train prefer`)."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sr_core.errors import ConfigError
from sr_core.files import replace_text
from sr_core.precision import resolve_dtype
from sr_core.preference_data.dataset import PreferenceDataset, open_dataset
from sr_core.preferences import weigh_groups
from train.checkpoints import check_start
from train.config import recipe_values
from train.data import seeded_generator
from train.engine import Look, RunSettings, fit
from train.preference_config import PairsConfig, PreferRecipe
from train.processes import Processes
from train.report import write_report
from train.steps import PairBatch, StepOutput, pair_levels, preference_step
from train.store import TRUTH, Window
from train.trainees import Groups, check_backbone, load_trainee
from train.unread import reads_lq_loser, unread_settings, unread_text


class TrainingPair(NamedTuple):
    """One comparison that may be drawn."""

    group: str
    winner: int
    """Candidate, or `TRUTH`."""
    loser: int
    weight: float


def _places(dataset: PreferenceDataset, index: int) -> dict[int, int]:
    """Return where each candidate id of a group lies among its images."""
    names = dataset.rows(index, ["candidate_id"])["candidate_id"].to_pylist()
    return {int(name): place for place, name in enumerate(names)}


def training_pairs(dataset: PreferenceDataset, config: PairsConfig) -> list[TrainingPair]:
    """Return every pair that the recipe allows, with its weight.

    Weights are hierarchical as the recipe asks: intra, inter, both or neither; their mean over all pairs is 1.
    Raises ConfigError if none is left.
    """
    pairs: list[TrainingPair] = []
    if config.source == "table":
        table = dataset.pairs()
        places = {group: _places(dataset, index) for index, group in enumerate(dataset.group_ids)}
        # Ties train nothing. One photograph alone has no weight among others and keeps its own; a vote counts once.
        table = table[table["reward_gap"] != 0]
        weights = table["w_total"].fillna(table["w_intra"]).fillna(1.0)
        columns = (table["group_id"], table["winner_id"], table["loser_id"], weights)
        for group, winner, loser, weight in zip(*columns, strict=True):
            place = places[str(group)]
            pairs.append(TrainingPair(str(group), place[int(winner)], place[int(loser)], float(weight)))
    elif config.source == "supervised":
        for index, group in enumerate(dataset.group_ids):
            count = config.num_candidates or len(next(iter(dataset.raw(index).values())))
            pairs += [TrainingPair(group, TRUTH, loser, 1.0) for loser in range(count)]
    else:
        rewards = [dataset.rewards(i, config.num_candidates, config.fidelity_weight) for i in range(len(dataset))]
        groups = weigh_groups(rewards, config.top, ddof=config.ddof)
        for group, chosen in zip(dataset.group_ids, groups, strict=True):
            weight = np.ones(len(chosen.gap))
            if config.intra:
                weight = weight * chosen.intra
            if config.inter and chosen.inter is not None:
                weight = weight * chosen.inter
            rows = zip(chosen.winners, chosen.losers, weight, strict=True)
            pairs += [TrainingPair(group, int(w), int(k), float(t)) for w, k, t in rows]
    if not pairs:
        raise ConfigError(f"{dataset.folder} gives no pair: every group's candidates have equal rewards")
    return pairs


def pair_windows(
    store: Groups, groups: Sequence[str], side: int, flip: bool, generator: torch.Generator
) -> list[Window]:
    """Return one window per sample, shared by winner, loser and condition; `groups` names each one's group.

    Raises ConfigError if whole crops are asked for and differ in size, or a crop is smaller than the window.
    """
    draws = torch.rand(len(groups), 3, generator=generator).tolist()
    windows = []
    for group, (a, b, c) in zip(groups, draws, strict=True):
        height, width = store.size(group)
        rows, columns = (side or height, side or width)
        if rows > height or columns > width:
            raise ConfigError(f"window_px must be at most {min(height, width)}, the LQ of {group}, got {side}")
        step = store.align(group) if (rows, columns) != (height, width) else 1
        if rows % step or columns % step:
            raise ConfigError(f"window_px must be a multiple of {step}, where latents meet pixels, got {side}")
        place = (int(a * ((height - rows) // step + 1)) * step, int(b * ((width - columns) // step + 1)) * step)
        windows.append(Window(*place, rows, columns, flip and c < 0.5))
    if len({(w.height, w.width) for w in windows}) > 1:
        raise ConfigError("groups differ in size; set window_px so that every one has a window")
    return windows


class PairSource:
    """Draws the batch of a step, which depends on the recipe's seed and the step's index alone."""

    def __init__(
        self,
        recipe: PreferRecipe,
        store: Groups,
        pairs: list[TrainingPair],
        model: Any,  # noqa: ANN401 - a TrainedModel of any condition
    ) -> None:
        self.recipe, self.store, self.pairs, self.model = recipe, store, pairs, model

    def __call__(self, index: int, share: slice) -> PairBatch[Any]:
        """Return a part of the batch of step `index`."""
        recipe, model = self.recipe, self.model
        generator = seeded_generator(recipe.seed, "pairs", index)
        chosen = torch.randint(0, len(self.pairs), (recipe.optim.batch_size,), generator=generator).tolist()
        drawn = [self.pairs[i] for i in chosen]
        groups = [pair.group for pair in drawn]
        windows = pair_windows(self.store, groups, recipe.window_px, recipe.flip, generator)[share]
        pairs = drawn[share]
        places = [(pair.group, window) for pair, window in zip(pairs, windows, strict=True)]
        condition = model.condition(self.store, places)
        return PairBatch(
            condition=condition,
            winner=model.latents(self.store, places, [pair.winner for pair in pairs], condition),
            loser=model.latents(self.store, places, [pair.loser for pair in pairs], condition),
            weight=torch.tensor([pair.weight for pair in pairs], device=model.device),
            lq=model.lq_latents(condition) if reads_lq_loser(recipe.objective) else None,
        )


def step_function(
    recipe: PreferRecipe, source: PairSource, processes: Processes
) -> Callable[[int], StepOutput | Iterator[StepOutput]]:
    """Return the step of each index: batch, noise and level come from the recipe's seed and the index alone."""
    optim, model = recipe.optim, source.model
    parts = processes.parts(optim.batch_size, optim.micro_batch)
    trust_radius = 0.0 if recipe.adversary is None else recipe.adversary.trust_radius

    def step(index: int) -> Iterator[StepOutput]:
        generator = seeded_generator(recipe.seed, "noise", index)
        levels = pair_levels(
            optim.batch_size, recipe.levels, recipe.levels_min, optim.pure_noise_share, generator, model.step_levels
        )
        levels = levels.clamp_max(model.parametrisation.highest_level)
        noise: Tensor | None = None
        for part in parts:
            batch = source(index, part)
            if noise is None:
                noise = torch.randn((optim.batch_size, *batch.winner.shape[1:]), generator=generator)
            level, own_noise = levels[part].to(model.device), noise[part].to(model.device)
            output = preference_step(
                model, batch, recipe.objective, level, own_noise, trust_radius=trust_radius, mean_of_all=processes.mean
            )
            yield output.share_of(len(parts))

    return step


def _weights_summary(pairs: list[TrainingPair]) -> dict[str, object]:
    weights = np.array([pair.weight for pair in pairs])
    counts, edges = np.histogram(weights, bins=40)
    return {"pairs": len(pairs), "mean": float(weights.mean()), "counts": counts.tolist(), "edges": edges.tolist()}


def _announce(recipe: PreferRecipe) -> None:
    """Say on the error stream, where progress is shown, what beta is elsewhere and which settings do nothing."""
    objective = recipe.objective
    elsewhere = f"in the paper's units {objective.beta_paper}, in the release's {objective.beta_release}"
    for line in (f"beta {objective.beta:g}: {elsewhere}", unread_text(recipe)):
        if line:
            tqdm.write(line, file=sys.stderr)


def train_prefer(recipe: PreferRecipe, *, resume: bool = False, policy_start: Path | None = None) -> Path:
    """Run the recipe and return the folder of what was trained: PEFT adapter, control branch, or the run's own (head).

    The reference is the recipe's backbone whatever happens; the policy starts there too, or from the PEFT folder
    `policy_start` of the same rank, as in online rounds. Writes checkpoints, `log.jsonl`, `recipe.json`,
    `weights.json`, `summary.json`, `adapter/`, `reference/` and a report into the recipe's output.
    Raises ConfigError if the dataset is not finished, gives no pair, or a resumed run would change.
    """
    output = Path(recipe.output)
    check_backbone(recipe)
    check_start(output, resume=resume)
    processes = Processes(recipe.trackers, output)
    dtype = resolve_dtype(recipe.dtype, processes.device.type)
    dataset = open_dataset(Path(recipe.dataset))
    pairs = training_pairs(dataset, recipe.pairs)
    if recipe.objective.name == "kto" and recipe.optim.micro_batch:
        raise ConfigError("kto compares each sample with its whole batch; leave micro_batch at 0")
    trainee = load_trainee(recipe, processes, dtype=dtype, policy_start=policy_start)
    start = time.monotonic()
    store = trainee.prepare(dataset, processes)
    cache_s = time.monotonic() - start
    if processes.is_main:
        _announce(recipe)
        output.mkdir(parents=True, exist_ok=True)
        replace_text(output / "recipe.json", json.dumps(recipe_values(recipe), indent=1))
        replace_text(output / "weights.json", json.dumps(_weights_summary(pairs)))
    settings = RunSettings.of(
        recipe,
        output,
        resume=resume,
        values=recipe_values(recipe),
        fixed={
            **trainee.fixed(),
            "dataset": dataset.digest,
            "pairs": hashlib.sha256(json.dumps(pairs).encode()).hexdigest(),
        },
        processes=processes,
    )

    def draw_samples(done: int, average: dict[str, Tensor]) -> dict[str, float]:
        trainee.draw_samples(dataset, average, output, done)
        return {}

    step = step_function(recipe, PairSource(recipe, store, pairs, trainee.model), processes)
    average = fit(trainee.trained(), step, recipe.optim, settings, [Look(draw_samples, recipe.sample_every)])
    if processes.is_main:
        trainee.write(average, output)
        summary = {
            "cache_s": cache_s,
            "pairs": len(pairs),
            "device": str(processes.device),
            "dtype": str(dtype),
            "processes": processes.count,
            "objective": {
                "beta_paper": recipe.objective.beta_paper,
                "beta_release": recipe.objective.beta_release,
                "without_effect": unread_settings(recipe),
            },
        }
        replace_text(output / "summary.json", json.dumps(summary, indent=1))
        write_report(output)
    processes.wait()
    return trainee.result(output)
