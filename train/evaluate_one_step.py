"""Held-out figures of one-step restoration: against the prior and four steps, its cost, and what moves its level."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import kendalltau
from torch import Tensor
from tqdm import tqdm

from sr_core.adapter_comparison import mean_interval
from sr_core.backbones.compact import CompactBackbone, CompactObservation, load_compact
from sr_core.backbones.compact_one_step import CompactOneStep, load_compact_one_step
from sr_core.degradation_presets import graded_preset
from sr_core.degradations import SCALE, degrade
from sr_core.files import replace_text
from sr_core.images import from_uint8, read_image, to_uint8
from sr_core.noise import block_noise
from sr_core.precision import resolve_dtype
from sr_core.restorer import RestoreRequest
from sr_core.rewards import GroupScorer
from sr_core.samplers import SAMPLERS, integrate
from sr_core.schedules import SCHEDULES
from sr_core.spectra import log_spectral_distance
from sr_core.tensors import Enlarged, Image
from train.data import find_photos, seeded_generator

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
METHODS = ("prior", "one_step", "four_steps")
NUM_RESAMPLES = 2000
REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class OneStepEvaluation:
    """What is restored, and how much of it."""

    photos: Path
    presets: tuple[str, ...] = ("bicubic", "real-esrgan")
    crop_px: int = 0
    """Side of the middle of each photograph that is restored and scored, 0 for all of it; the level always sees all."""
    limit: int = 0


def level_correlation(levels: Float[np.ndarray, "p s"], strengths: Sequence[float]) -> dict[str, float]:
    """Return Kendall's tau-b of level and strength over all photos and strengths, with a 95 % bootstrap over photos.

    Photos are resampled whole: five levels of one photo say less than five photos. Constant levels give tau 0.
    """

    def tau(rows: np.ndarray) -> float:
        found = kendalltau(np.tile(strengths, len(rows)), rows.ravel(), variant="b").statistic
        return 0.0 if np.isnan(found) else float(found)

    rng = np.random.default_rng(0)
    drawn = [tau(levels[rng.integers(len(levels), size=len(levels))]) for _ in range(NUM_RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"tau": tau(levels), "low": float(low), "high": float(high)}


def level_histogram(levels: Float[np.ndarray, "p s"]) -> dict[str, int]:
    """Return how often levels fall into each tenth of [0, 1]; the last one includes 1."""
    counts, _ = np.histogram((levels * 100).round(), bins=10, range=(0, 100))
    return {f"{k / 10:.1f}-{(k + 1) / 10:.1f}": int(count) for k, count in enumerate(counts)}


def _photo(path: Path) -> Image:
    pixels = read_image(path).pixels
    height, width = (side - side % SCALE for side in pixels.shape[-2:])
    return pixels[..., :height, :width]


def measure_levels(backbone: CompactOneStep, paths: Sequence[Path]) -> dict[str, Any]:
    """Return the most likely level of every photo at every strength of `graded_preset`, and what they say together."""
    rows = []
    for path in tqdm(paths, desc="levels", unit="photo"):
        hq, row = _photo(path), []
        for strength in STRENGTHS:
            generator = seeded_generator("strength", path.name, f"{strength:g}")
            row.append(float(backbone.choose_levels(degrade(hq, graded_preset(strength), generator=generator))))
        rows.append(row)
    levels = np.array(rows)
    return {
        "strengths": list(STRENGTHS),
        "levels": [[round(v, 4) for v in row] for row in rows],
        "kendall": level_correlation(levels, STRENGTHS),
        "histogram": level_histogram(levels),
        "distinct": len(np.unique(levels.round(4))),
    }


def _four_steps(backbone: CompactBackbone, observation: CompactObservation) -> Enlarged:
    """Return seed 0 as `sr upscale` draws it by default."""
    drawing, lq = RestoreRequest().drawing(backbone), observation.lq
    condition = backbone.condition(observation)
    noise = block_noise(0, *backbone.latent_shape(lq)[:1], 0, 0, *lq.shape[-2:])
    sigmas = SCHEDULES[drawing.schedule](drawing.num_steps)
    latent = integrate(SAMPLERS[drawing.sampler], lambda x, s: backbone.velocity(x, s, condition), noise, sigmas)
    return backbone.decode(latent, condition)


def restored_in_one_step(
    backbone: CompactOneStep, observation: CompactObservation, seen: Float[Tensor, "1 3 H W"]
) -> Float[Tensor, "1 3 _ _"]:
    """Return seed 0 in one step, from the level that `seen`, the whole photo, asks for."""
    lq = observation.lq
    noise = block_noise(0, *backbone.latent_shape(lq)[:1], 0, 0, *lq.shape[-2:])
    return backbone.restore_at(noise, backbone.choose_levels(seen), backbone.condition(observation))


def _crop(image: Image, side: int, unit: int) -> Float[Tensor, "b 3 _ _"]:
    """Return the middle of an image, at most `side` times `unit` px, from a corner on the grid of `unit`."""
    rows, columns = ((length // unit - min(side, length // unit)) // 2 * unit for length in image.shape[-2:])
    return image[..., rows : rows + side * unit, columns : columns + side * unit]


def compare(
    one_step: CompactOneStep, sampled: CompactBackbone, paths: Sequence[Path], settings: OneStepEvaluation
) -> dict[str, Any]:
    """Return rewards (normalised over the three methods), raw scores and LSD of each method, one row per photo."""
    scorer = GroupScorer("offline")
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    for preset in settings.presets:
        table: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
        for path in tqdm(paths, desc=preset, unit="photo"):
            hq = _photo(path)
            seen = degrade(hq, preset, generator=seeded_generator("validation", path.name, preset))
            side = settings.crop_px // SCALE or max(seen.shape)
            lq, target = _crop(seen, side, 1), _crop(hq, side, SCALE)
            observation = sampled.observe(lq)
            images = {
                "prior": observation.prior,
                "one_step": restored_in_one_step(one_step, observation, seen),
                "four_steps": _four_steps(sampled, observation),
            }
            pixels = [to_uint8(images[method].clamp(0, 1).cpu()) for method in METHODS]
            scores = scorer.score(pixels, lq=lq, reference=target)
            assert scores.reward is not None
            for k, method in enumerate(METHODS):
                row = {key: float(values[k]) for key, values in scores.raw.items()}
                row["reward"] = float(scores.reward.reward[k])
                row["lsd"] = float(log_spectral_distance(from_uint8(pixels[k]), target))
                table[method].append(row)
        figures[preset] = table
    return figures


def summary(figures: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, Any]:
    """Return means of every figure by method, and one step's paired differences with 95 % intervals."""
    found: dict[str, Any] = {}
    for preset, table in figures.items():
        keys = list(table["prior"][0])
        columns = {
            method: {key: np.array([row[key] for row in rows]) for key in keys} for method, rows in table.items()
        }
        means = {
            method: {key: float(values.mean()) for key, values in part.items()} for method, part in columns.items()
        }
        differences = {
            other: {
                key: mean_interval(columns["one_step"][key] - columns[other][key])._asdict()
                for key in ("reward", "lsd")
                if len(columns[other][key]) > 1
            }
            for other in METHODS
            if other != "one_step"
        }
        found[preset] = {"means": means, "one_step_minus": differences}
    return found


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def cost(one_step: CompactOneStep, sampled: CompactBackbone, lq: Image) -> dict[str, float]:
    """Return seconds of the prior alone and of one whole restoration in one step, by turns, medians, and their ratio.

    `cpu_ratio` is of processor time, which other work on the machine disturbs less.
    """
    turns: dict[str, list[tuple[float, float]]] = {"prior": [], "one_step": []}
    for _ in range(REPEATS):
        turns["prior"].append(_timed(lambda: sampled.observe(lq)))
        turns["one_step"].append(_timed(lambda: restored_in_one_step(one_step, one_step.observe(lq), lq)))
    wall = {name: median(pair[0] for pair in pairs) for name, pairs in turns.items()}
    cpu = {name: median(pair[1] for pair in pairs) for name, pairs in turns.items()}
    return {
        "lq_px": float(lq.shape[-1]),
        "prior_s": wall["prior"],
        "one_step_s": wall["one_step"],
        "ratio": wall["one_step"] / wall["prior"],
        "prior_cpu_s": cpu["prior"],
        "one_step_cpu_s": cpu["one_step"],
        "cpu_ratio": cpu["one_step"] / cpu["prior"],
    }


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, by which figures name the weights that they are of."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def evaluate_one_step(weights: Path, settings: OneStepEvaluation, out: Path) -> dict[str, Any]:
    """Measure a one-step model, write everything to `out` as JSON, and return it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = resolve_dtype("auto", device)
    one_step = load_compact_one_step(dtype=dtype, device=device, path=weights)
    sampled = load_compact(dtype=dtype, device=device)
    paths = find_photos([settings.photos])[: settings.limit or None]
    content: dict[str, Any] = {"photos": len(paths), "crop_px": settings.crop_px, "dtype": str(dtype), "device": device}
    content["level"] = measure_levels(one_step, paths) | {"weights_sha256": file_sha256(weights)}
    replace_text(out, json.dumps(content, indent=1) + "\n")
    lq = degrade(_photo(paths[0]), "bicubic", generator=seeded_generator("cost"))
    content["cost"] = cost(one_step, sampled, lq)
    replace_text(out, json.dumps(content, indent=1) + "\n")
    figures = compare(one_step, sampled, paths, settings)
    content |= {"quality": summary(figures), "rows": figures}
    replace_text(out, json.dumps(content, indent=1) + "\n")
    return content


def describe(content: dict[str, Any]) -> str:
    """Return the figures as text."""
    level, price = content["level"], content["cost"]
    tau = level["kendall"]
    lines = [
        f"level and degradation strength: Kendall tau {tau['tau']:+.3f} ({tau['low']:+.3f} to {tau['high']:+.3f}), "
        f"{content['photos']} photos x {len(level['strengths'])} strengths, {level['distinct']} different levels",
        "levels by tenth: " + ", ".join(f"{name} {count}" for name, count in level["histogram"].items()),
        f"time over the prior alone, {price['lq_px']:.0f} px: {price['ratio']:.3f} "
        f"(processor time {price['cpu_ratio']:.3f}); target 1.15",
    ]
    for preset, found in content["quality"].items():
        lines.append(f"\n{preset}")
        keys = list(found["means"]["prior"])
        lines += ["| row | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
        for method, means in found["means"].items():
            lines.append(f"| {method} | " + " | ".join(f"{means[key]:.4f}" for key in keys) + " |")
        for other, differences in found["one_step_minus"].items():
            for key, value in differences.items():
                words = f"{value['mean']:+.4f} ({value['low']:+.4f} to {value['high']:+.4f})"
                lines.append(f"one step minus {other}, {key}: {words}")
    return "\n".join(lines)
