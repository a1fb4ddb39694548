"""Preference training of an adapter on curated groups (`python -m train prefer`)."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sr_core.backbones.compact import HEAD_FILE, head_metadata, load_head, residual_latent
from sr_core.backbones.flow_head import LATENT_CHANNELS, HeadInput, shuffle_planes, unshuffle_planes
from sr_core.errors import ConfigError
from sr_core.files import replace_text
from sr_core.precision import resolve_dtype
from sr_core.preference_data.dataset import PreferenceDataset, open_dataset
from sr_core.preferences import weigh_groups
from sr_core.resampling import resize
from sr_core.tensors import Latent, Sigma
from train.checkpoints import check_start, replace_tensors
from train.config import recipe_values
from train.data import seeded_generator
from train.engine import RunSettings, fit
from train.losses import OBJECTIVES
from train.policy import ADVERSARY, POLICY, REFERENCE, FullPolicy, HeadPolicy
from train.preference_config import BackboneConfig, PairsConfig, PreferRecipe
from train.processes import Processes
from train.report import write_report
from train.samples import sample_grid
from train.steps import PARAMETRISATIONS, PairBatch, Parametrisation, StepOutput, pair_levels, preference_step
from train.store import TRUTH, GroupStore, Window, group_store, head_conditions

ADAPTER = "adapter"
"""Folder of the trained adapter inside a run."""


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


class CompactModel:
    """The flow head as preference training sees it; errors are taken on the clean residual, in pixel order."""

    parametrisation: Parametrisation = PARAMETRISATIONS["clean"]

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


def pair_windows(
    store: GroupStore, groups: Sequence[str], side: int, flip: bool, generator: torch.Generator
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
        place = (int(a * (height - rows + 1)), int(b * (width - columns + 1)))
        windows.append(Window(*place, rows, columns, flip and c < 0.5))
    if len({(w.height, w.width) for w in windows}) > 1:
        raise ConfigError("groups differ in size; set window_px so that every one has a window")
    return windows


class PairSource:
    """Draws the batch of a step, which depends on the recipe's seed and the step's index alone."""

    def __init__(self, recipe: PreferRecipe, store: GroupStore, pairs: list[TrainingPair], model: CompactModel) -> None:
        self.recipe, self.store, self.pairs, self.model = recipe, store, pairs, model

    def __call__(self, index: int, share: slice) -> PairBatch[HeadInput]:
        """Return this process's part of the batch of step `index`."""
        recipe, model = self.recipe, self.model
        generator = seeded_generator(recipe.seed, "pairs", index)
        chosen = torch.randint(0, len(self.pairs), (recipe.optim.batch_size,), generator=generator).tolist()
        drawn = [self.pairs[i] for i in chosen]
        groups = [pair.group for pair in drawn]
        windows = pair_windows(self.store, groups, recipe.window_px, recipe.flip, generator)[share]
        pairs = drawn[share]
        parts = [self.store.conditions(pair.group, window) for pair, window in zip(pairs, windows, strict=True)]
        photo = head_conditions(parts, model.policy.head, model.device)

        def latents(indices: list[int]) -> Latent:
            images = [self.store.image(p.group, i, w) for p, i, w in zip(pairs, indices, windows, strict=True)]
            planes = unshuffle_planes(torch.cat(images).to(model.device))
            return residual_latent(planes, photo, model.policy.head)

        lq = None
        if recipe.objective.lq_loser_weight:
            enlarged = resize(photo.lq, photo.lq.shape[-2] * 4, photo.lq.shape[-1] * 4)
            lq = residual_latent(unshuffle_planes(enlarged), photo, model.policy.head)
        return PairBatch(
            condition=photo,
            winner=latents([pair.winner for pair in pairs]),
            loser=latents([pair.loser for pair in pairs]),
            weight=torch.tensor([pair.weight for pair in pairs], device=model.device),
            lq=lq,
        )


def head_file(backbone: BackboneConfig) -> Path:
    """Return where the flow head's weights lie; raises ConfigError for a backbone that cannot be trained here."""
    if backbone.name != "compact":
        raise ConfigError(f"preference training of {backbone.name} is not available; backbone.name must be compact")
    return HEAD_FILE if backbone.head is None else Path(backbone.head)


def load_policy(
    recipe: PreferRecipe, device: torch.device, policy_start: Path | None = None
) -> HeadPolicy | FullPolicy:
    """Return the head with the recipe's sets of weights; the policy begins as the PEFT folder, if one is named.

    Raises ConfigError if all weights are trained and a folder is named.
    """
    head = load_head(head_file(recipe.backbone))
    head.to(device).to(memory_format=torch.channels_last)
    if recipe.lora.train == "full":
        if policy_start is not None:
            raise ConfigError("lora.train must be lora where the policy starts from an adapter, got full")
        return FullPolicy(head)
    start = None if recipe.backbone.adapter is None else Path(recipe.backbone.adapter)
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


def step_function(recipe: PreferRecipe, source: PairSource, processes: Processes) -> Callable[[int], StepOutput]:
    """Return the step of each index: batch, noise and level come from the recipe's seed and the index alone."""
    optim, model = recipe.optim, source.model
    share = processes.share(optim.batch_size)
    trust_radius = 0.0 if recipe.adversary is None else recipe.adversary.trust_radius

    def step(index: int) -> StepOutput:
        batch = source(index, share)
        generator = seeded_generator(recipe.seed, "noise", index)
        levels = pair_levels(optim.batch_size, recipe.levels, recipe.levels_min, optim.pure_noise_share, generator)
        levels = levels.clamp_max(model.parametrisation.highest_level)
        noise = torch.randn((optim.batch_size, *batch.winner.shape[1:]), generator=generator)
        level, own_noise = levels[share].to(model.device), noise[share].to(model.device)
        return preference_step(
            model, batch, recipe.objective, level, own_noise, trust_radius=trust_radius, mean_of_all=processes.mean
        )

    return step


def _weights_summary(pairs: list[TrainingPair]) -> dict[str, object]:
    weights = np.array([pair.weight for pair in pairs])
    counts, edges = np.histogram(weights, bins=40)
    return {"pairs": len(pairs), "mean": float(weights.mean()), "counts": counts.tolist(), "edges": edges.tolist()}


def train_prefer(recipe: PreferRecipe, *, resume: bool = False, policy_start: Path | None = None) -> Path:
    """Run the recipe and return the PEFT folder of the trained adapter (the run's folder if all weights move).

    The reference is the recipe's backbone whatever happens; the policy starts there too, or from the PEFT folder
    `policy_start` of the same rank, as in online rounds. Writes checkpoints, `log.jsonl`, `recipe.json`,
    `weights.json`, `summary.json`, `adapter/`, `reference/` and a report into the recipe's output.
    Raises ConfigError if the dataset is not finished, gives no pair, or a resumed run would change.
    """
    output = Path(recipe.output)
    head_file(recipe.backbone)  # says at once that a backbone cannot be trained here
    check_start(output, resume=resume)
    processes = Processes(recipe.trackers, output)
    device = processes.device
    dtype = resolve_dtype(recipe.dtype, device.type)
    dataset = open_dataset(Path(recipe.dataset))
    pairs = training_pairs(dataset, recipe.pairs)
    policy = load_policy(recipe, device, policy_start)
    start = time.monotonic()
    if processes.is_main:
        group_store(dataset, Path(recipe.cache), dtype=dtype, device=str(device))
    processes.wait()
    store = group_store(dataset, Path(recipe.cache), dtype=dtype, device=str(device))
    cache_s = time.monotonic() - start
    if processes.is_main:
        output.mkdir(parents=True, exist_ok=True)
        replace_text(output / "recipe.json", json.dumps(recipe_values(recipe), indent=1))
        replace_text(output / "weights.json", json.dumps(_weights_summary(pairs)))
    model = CompactModel(policy, dtype, device)
    fixed = {
        "reference": policy.reference_hash(),
        "dataset": dataset.digest,
        "pairs": hashlib.sha256(json.dumps(pairs).encode()).hexdigest(),
    }
    if isinstance(policy, HeadPolicy) and recipe.adversary is not None and recipe.objective.name == "as_dpo":
        fixed["adversary"] = policy.set_hash(ADVERSARY)
    if isinstance(policy, HeadPolicy) and policy_start is not None:
        fixed["policy_start"] = policy.set_hash(POLICY)
    settings = RunSettings.of(
        recipe,
        output,
        resume=resume,
        values=recipe_values(recipe),
        fixed=fixed,
        processes=processes,
    )

    def draw_samples(done: int, average: dict[str, Tensor]) -> dict[str, float]:
        if isinstance(policy, HeadPolicy):
            policy.save(output / "latest", tensors=average)
            grid = output / "samples" / f"grid_{done:08d}.png"
            sample_grid(dataset, recipe, head_file(recipe.backbone), output / "latest", grid)
        return {}

    step = step_function(recipe, PairSource(recipe, store, pairs, model), processes)
    average = fit(policy.trained(), step, recipe.optim, settings, draw_samples, recipe.sample_every)
    finished = output
    if processes.is_main:
        finished = _write_result(policy, average, output)
        summary = {
            "cache_s": cache_s,
            "pairs": len(pairs),
            "device": str(device),
            "dtype": str(dtype),
            "processes": processes.count,
        }
        replace_text(output / "summary.json", json.dumps(summary, indent=1))
        write_report(output)
    processes.wait()
    return output / ADAPTER if isinstance(policy, HeadPolicy) else finished


def _write_result(policy: HeadPolicy | FullPolicy, average: dict[str, Tensor], output: Path) -> Path:
    """Write what was trained: the policy beside its reference, or the whole head."""
    if isinstance(policy, HeadPolicy):
        policy.save(output / REFERENCE, REFERENCE)
        return policy.save(output / ADAPTER, tensors=average)
    state = dict(policy.head.state_dict())
    state.update({name.replace("/", "."): value for name, value in average.items()})
    replace_tensors(output / "head.safetensors", state, head_metadata(policy.head))
    return output
