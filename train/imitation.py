"""Whether an adversary's outputs lie nearer to baseline failures than the model's, on photographs that never train."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.adapter_comparison import mean_interval
from sr_core.backbones.prior import SCALE
from sr_core.degradations import degrade
from sr_core.errors import ConfigError
from sr_core.images import read_image
from sr_core.precision import resolve_dtype
from sr_core.restorer import MAX_CANDIDATES, Restorer, RestoreRequest
from sr_core.rewards.lpips import LpipsLayer, lpips
from sr_core.rewards.offline import load_lpips_layers
from sr_core.tensors import Enlarged, Image
from train.baselines import BUILT_IN, FEW_STEPS, FILTERS, PRIOR
from train.data import CROP_PX, find_photos, seeded_generator
from train.drawing import request_of, restorer_of
from train.preference_config import HeldOutConfig, PreferRecipe

PHOTOS, SEEDS = 48, 2
"""How many photographs and seeds are enough to tell, in a few minutes on 2 CPU cores."""
MEAN = "all"
"""Row of the mean over baselines."""

Distances = dict[str, dict[str, float]]
"""Mean LPIPS of the model's and of the adversary's outputs, by baseline."""
Draws = Float[Tensor, "n 3 H W"]
"""Images like `Enlarged`, one per seed."""


def judged_photos(held_out: HeldOutConfig, most: int) -> list[tuple[Path, str]]:
    """Return at most `most` photographs, spread evenly over all, each with one preset in turn.

    Raises InputError if a folder is missing or empty, and ConfigError if there are fewer than two photographs.
    """
    found = find_photos([Path(folder) for folder in held_out.photos])
    count = min(len(found), most, held_out.limit or most)
    if count < 2:
        raise ConfigError(f"held_out must give at least 2 photographs for an interval, got {count}")
    chosen = [found[int(k)] for k in np.linspace(0, len(found) - 1, count)]
    return [(path, held_out.presets[k % len(held_out.presets)]) for k, path in enumerate(chosen)]


def central_crop(path: Path) -> Image:
    """Return the middle of a photograph: at most 256 px a side, in whole LQ pixels."""
    pixels = read_image(path).pixels
    height, width = (min(side, CROP_PX) // SCALE * SCALE for side in pixels.shape[-2:])
    top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
    return pixels[..., top : top + height, left : left + width].contiguous()


def _drawn(restorer: Restorer, lq: Image, request: RestoreRequest, twin: Restorer | None = None) -> list[Draws]:
    """Return what a restorer and, where there is one, its twin draw, one image per seed."""
    candidates = list(restorer.restore(lq, request, twin=twin))
    faults = [c.problem for c in candidates if c.problem is not None]
    if faults:
        raise FloatingPointError(f"a seed of the held-out photographs failed: {faults[0]}")
    sides = (False,) if twin is None else (False, True)
    return [torch.cat([c.pixels for c in candidates if c.pixels is not None and c.twin is side]) for side in sides]


def _baseline_outputs(
    restorer: Restorer, lq: Image, request: RestoreRequest, names: Sequence[str]
) -> dict[str, Enlarged]:
    """Return what each built-in baseline makes of a photo; filters see a draw of the model."""
    (plain,) = _drawn(restorer, lq, request)
    outputs = {name: FILTERS[name](plain).clamp(0, 1) for name in names if name in FILTERS}
    if PRIOR in names:
        outputs[PRIOR] = restorer.prior(lq, request)
    if FEW_STEPS in names:
        (outputs[FEW_STEPS],) = _drawn(restorer, lq, replace(request, num_steps=1, sampler="euler"))
    return outputs


def _distances(outputs: dict[str, Enlarged], sft: Draws, adversary: Draws, layers: tuple[LpipsLayer, ...]) -> Distances:
    rows = {
        name: {
            "sft": float(lpips(sft, output, layers).mean()),
            "adversary": float(lpips(adversary, output, layers).mean()),
        }
        for name, output in outputs.items()
    }
    mean = {side: float(np.mean([row[side] for row in rows.values()])) for side in ("sft", "adversary")}
    return rows | {MEAN: mean}


def _compared(values: Sequence[Distances]) -> dict[str, dict[str, Any]]:
    """Return, by baseline, the means over photographs and how much nearer the adversary is, with its interval."""
    compared: dict[str, dict[str, Any]] = {}
    for name in values[0]:
        sft, adversary = (np.array([photo[name][side] for photo in values]) for side in ("sft", "adversary"))
        gain = mean_interval(sft - adversary)
        means = {"sft": float(sft.mean()), "adversary": float(adversary.mean())}
        compared[name] = {**means, "gain": list(gain), "nearer": gain[1] > 0}
    return compared


def gain_text(row: dict[str, Any]) -> str:
    """Return how much nearer the adversary is, with its interval and whether that lies above 0."""
    mean, low, high = row["gain"]
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f}){'' if row['nearer'] else ', not distinguishable or farther'}"


def unjudged_note(baselines: Sequence[str]) -> list[str]:
    """Return a line that names the baselines that are trained on and not judged: folders hold no held-out outputs."""
    folders = [name for name in baselines if name not in BUILT_IN]
    return [f"Not judged, as folders hold no outputs of held-out photographs: {', '.join(folders)}"] if folders else []


def imitation_text(content: dict[str, Any]) -> str:
    """Return what `imitation` found as a table, and what it does not say; runs of earlier versions hold no notes."""
    rows = [
        f"{name:<15} {row['sft']:>9.4f} {row['adversary']:>9.4f} {gain_text(row)}"
        for name, row in content["lpips"].items()
    ]
    head = f"{'baseline':<15} {'SFT':>9} {'adversary':>9} nearer by (95 % interval)"
    title = f"LPIPS to baselines' outputs of {content['photos']} held-out photographs, {content['seeds']} seeds each"
    return "\n".join((title, head, *rows, *content.get("notes", ())))


def imitation(
    recipe: PreferRecipe, adapter: Path, *, device: str = "cpu", photos: int = PHOTOS, seeds: int = SEEDS
) -> dict[str, Any]:
    """Compare LPIPS to the built-in baselines' outputs of the adversary in `adapter` and of the model before training.

    Photographs are the recipe's `held_out`, their middle 256 px, one preset each in turn; both models draw the same
    `seeds` seeds and the baselines another one. `gain` is the model's distance minus the adversary's: mean and 95 %
    bootstrap interval over photographs; `nearer` says that the interval lies above 0. `notes` names what is not judged.
    Raises ConfigError if the recipe has no section `held_out` or no built-in baseline.
    """
    held_out, config = recipe.held_out, recipe.adversary
    names = [] if config is None else [name for name in config.baselines if name in BUILT_IN]
    if held_out is None or config is None or not names:
        raise ConfigError(f"the recipe must have held_out and at least one baseline of {', '.join(BUILT_IN)}")
    if not 1 <= seeds <= MAX_CANDIDATES:
        raise ConfigError(f"seeds must number 1 to {MAX_CANDIDATES}, got {seeds}")
    dtype = resolve_dtype(recipe.dtype, device)
    sft, adversary = (restorer_of(recipe.backbone, trained, dtype=dtype, device=device) for trained in (None, adapter))
    layers = load_lpips_layers("cpu")
    request = request_of(recipe.backbone, recipe.draw, seed=held_out.seed, count=seeds)
    values: dict[str, Distances] = {}
    for path, preset in judged_photos(held_out, photos):
        lq = degrade(central_crop(path), preset, generator=seeded_generator("held out", path.name, preset))
        outputs = _baseline_outputs(sft, lq, replace(request, num_candidates=1, seed=held_out.seed + seeds), names)
        with torch.no_grad():
            own, imitated = _drawn(sft, lq, request, adversary)
            values[f"{path.name}/{preset}"] = _distances(outputs, own, imitated, layers)
    return {
        "photos": len(values), "seeds": seeds, "first_seed": held_out.seed, "presets": list(held_out.presets),
        "notes": unjudged_note(config.baselines),
        "lpips": _compared(list(values.values())), "values": values,
    }  # fmt: skip
