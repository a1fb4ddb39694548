"""Two kinds of ablation rows against each other: each at its best setting, or where winners have moved equally far."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sr_core.errors import ConfigError
from sr_core.files import replace_text
from sr_core.precision import resolve_dtype
from sr_core.preference_data.dataset import open_dataset
from train.ablations import slug
from train.checkpoints import finished, load_checkpoint
from train.compact_trainee import CompactModel, head_file, load_policy
from train.config import in_todays_settings, parse_recipe
from train.data import seeded_generator
from train.judge import judge_adapters
from train.judge_tables import SFT, Judged, compare, judgement_text
from train.policy import HeadPolicy
from train.prefer import PairSource, training_pairs
from train.preference_config import ObjectiveConfig, PreferRecipe
from train.processes import Processes
from train.steps import pair_levels, preference_step
from train.store import group_store
from train.trainees import ADAPTER

PROBES = 8
"""Batches on which every checkpoint's winners are measured; training draws none of them."""
FIRST_PROBE = 1_000_000
"""Index of the first of them."""


class Reading(NamedTuple):
    """Where a run is read."""

    step: int
    winner_mse_delta: float


def equal_readings(ours: Sequence[Reading], theirs: Sequence[Reading]) -> tuple[Reading, Reading]:
    """Return the step of each run at which the error on winners has changed equally far.

    The run whose error changed less is read at its end, the other at the step that is nearest to that.
    """
    last = ours[-1], theirs[-1]
    if abs(last[0].winner_mse_delta) <= abs(last[1].winner_mse_delta):
        return last[0], _nearest(theirs, last[0].winner_mse_delta)
    return _nearest(ours, last[1].winner_mse_delta), last[1]


def _nearest(readings: Sequence[Reading], delta: float) -> Reading:
    return min(readings, key=lambda reading: abs(reading.winner_mse_delta - delta))


def halves(judged: Judged) -> tuple[Judged, Judged]:
    """Return the scores of every second photograph by name, from the first on, and those of the others."""

    def part(start: int) -> dict[str, Any]:
        return {
            model: {
                preset: {name: values[name] for name in sorted(values)[start::2]} for preset, values in presets.items()
            }
            for model, presets in judged.items()
        }

    return part(0), part(1)


def best_row(judged: Judged, rows: Sequence[str]) -> str:
    """Return the row with the largest mean reward against SFT; hold-outs have no say."""
    return max(rows, key=lambda row: float(compare(judged, row, SFT)["reward"]["mean"]["change"]["mean"]))


def recipe_of(folder: Path) -> PreferRecipe:
    """Return the recipe of a finished row; raises ConfigError if there is none."""
    path = folder / "recipe.json"
    if not (folder / ADAPTER / "adapter_model.safetensors").is_file() or not path.is_file():
        raise ConfigError(
            f"{folder} must hold a finished row; run: python -m train ablate RECIPE --out {folder.parent}"
        )
    stored = in_todays_settings(json.loads(path.read_text(encoding="utf-8")))
    return parse_recipe(PreferRecipe, stored, str(path))


@torch.no_grad()
def winner_readings(recipe: PreferRecipe, folder: Path) -> list[Reading]:
    """Return how far the averaged weights of every checkpoint moved the error on winners, on the same batches for all.

    The objective of the row does not matter: the error is the plain weighted mean square.
    """
    device = Processes().device
    dtype = resolve_dtype(recipe.dtype, device.type)
    objective = parse_recipe(ObjectiveConfig, {"name": "dpo", "beta": 1.0}, "probe")
    probe = replace(recipe, objective=objective)  # type: ignore[type-var]
    policy = load_policy(probe, device)
    dataset = open_dataset(Path(recipe.dataset))
    store = group_store(dataset, Path(recipe.cache), dtype=dtype, device=str(device))
    model = CompactModel(policy, dtype, device)
    source = PairSource(probe, store, training_pairs(dataset, recipe.pairs), model)

    def delta(index: int) -> Tensor:
        batch, generator = source(index, slice(None)), seeded_generator(recipe.seed, "noise", index)
        level = pair_levels(
            len(batch.weight), recipe.levels, recipe.levels_min, recipe.optim.pure_noise_share, generator
        )
        noise = torch.randn(batch.winner.shape, generator=generator).to(device)
        return preference_step(model, batch, objective, level.to(device), noise).metrics["winner_mse_delta"]

    readings = []
    for path in finished(folder / "checkpoints"):
        found = load_checkpoint(path)
        policy.trained().load_state_dict(found.tensors["ema"])
        deltas = torch.stack([delta(FIRST_PROBE + index) for index in range(PROBES)])
        readings.append(Reading(int(found.state["step"]), float(deltas.mean())))
    return readings


def adapter_at(recipe: PreferRecipe, folder: Path, step: int) -> Path:
    """Write the averaged weights of a checkpoint as a PEFT folder beside the run's own and return it."""
    policy = load_policy(recipe, torch.device("cpu"))
    if not isinstance(policy, HeadPolicy):
        raise ConfigError(f"{folder} trained all weights; only adapters are read at earlier steps")
    (path,) = (path for path in finished(folder / "checkpoints") if int(path.name.removeprefix("step_")) == step)
    return policy.save(folder / f"{ADAPTER}_{step:08d}", tensors=load_checkpoint(path).tensors["ema"])


def _check_comparable(ours: PreferRecipe, theirs: PreferRecipe) -> None:
    for name in ("seed", "dataset", "backbone", "pairs", "held_out", "draw", "window_px"):
        if getattr(ours, name) != getattr(theirs, name):
            raise ConfigError(f"rows must share {name} to be compared, got two kinds")


def contrast(out: Path, ours: Sequence[str], theirs: Sequence[str], *, equal_winner_error: bool = False) -> str:
    """Compare two kinds of rows in the folder of `ablate` and return tables in Markdown.

    Several names on a side are settings of one kind: every second held-out photograph picks the best by the mean
    reward, and the others judge. One name on each side is judged on all. With `equal_winner_error` the row whose
    winners moved further is read at the checkpoint where they had moved as far as the other's at its end.
    Writes `contrast_OURS_THEIRS.json` into `out`. Raises ConfigError if rows are missing or not comparable.
    """
    recipes = {name: recipe_of(out / slug(name)) for name in (*ours, *theirs)}
    first = recipes[ours[0]]
    for recipe in recipes.values():
        _check_comparable(first, recipe)
    judging = {name: out / slug(name) / ADAPTER for name in recipes}
    picked, judged = (ours[0], theirs[0]), _judged(out, first, judging)
    notes = []
    if max(len(ours), len(theirs)) > 1:
        picking, judged = halves(judged)
        picked = best_row(picking, ours), best_row(picking, theirs)
        notes.append(f"picked on every second photograph: {picked[0]}; {picked[1]}")
    if equal_winner_error:
        readings = equal_readings(*(winner_readings(recipes[name], out / slug(name)) for name in picked))
        adapters = {
            name: adapter_at(recipes[name], out / slug(name), reading.step)
            for name, reading in zip(picked, readings, strict=True)
        }
        again = _judged(out, first, adapters)
        judged = halves(again)[1] if max(len(ours), len(theirs)) > 1 else again
        for name, reading in zip(picked, readings, strict=True):
            notes.append(f"{name} at step {reading.step}: winner_mse_delta {reading.winner_mse_delta:+.6f}")
    content = compare(judged, *picked)
    content["notes"] = notes
    kind = "_equal" if equal_winner_error else ""
    name = f"contrast_{slug(picked[0])}_{slug(picked[1])}{kind}.json"
    replace_text(out / name, json.dumps(content, indent=1) + "\n")
    return "\n".join([*notes, judgement_text(content)])


def _judged(out: Path, recipe: PreferRecipe, adapters: Mapping[str, Path]) -> Judged:
    assert recipe.held_out is not None, "rows of ablate have held-out photographs"
    start = None if recipe.backbone.adapter is None else Path(recipe.backbone.adapter)
    return judge_adapters({SFT: start, **adapters}, recipe.held_out, recipe.draw, out, head=head_file(recipe.backbone))
