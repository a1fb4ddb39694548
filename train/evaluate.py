"""Held-out figures of a head: prior, noise control, single seeds and best of N, with paired intervals."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from sr_core.adapter_comparison import mean_interval
from sr_core.backbones.compact import CompactBackbone, load_compact
from sr_core.degradations import degrade
from sr_core.images import from_uint8, read_image, to_uint8
from sr_core.precision import resolve_dtype
from sr_core.restorer import Restorer, RestoreRequest
from sr_core.rewards import GroupScorer
from sr_core.rewards.registry import load_metric, metric_spec
from sr_core.spectra import log_spectral_distance, luma, radial_bins, radial_mean
from sr_core.tensors import Image
from train.data import CachedCrops, find_photos, seeded_generator

JUDGES = ("psnr", "lpips", "ssimulacra2", "vsi", "st_lpips")
"""Full-reference metrics of the table; st_lpips and psnr neither train nor pick."""
ROWS = ("prior", "control", "head", "random_of_n", "best_of_n")
PICKER = "offline"
CONTROL_TOLERANCE_DB = 0.1
"""Further off, the control is the prior itself: noise cannot raise it to a head that beats the prior."""
SPECTRUM_FILE = "residual_spectrum.json"
BLOCK = 16
"""Side in px of the blocks whose detail decides where seeds are compared."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is restored and how."""

    photos: Path
    presets: tuple[str, ...] = ("bicubic", "real-esrgan")
    num_seeds: int = 8
    num_steps: int = 4
    sampler: str = "euler"
    schedule: str = "geometric"
    limit: int = 0


def residual_spectrum(crops: CachedCrops, count: int = 512) -> list[float]:
    """Return the mean radial power of HQ - prior over training crops, from DC to Nyquist."""
    total = torch.zeros(0)
    for index in np.linspace(0, len(crops) - 1, min(count, len(crops))).astype(int):
        hq, _, prior, _ = crops.window(int(index), 0, 0, crops.lq.shape[1])
        power = radial_mean(torch.fft.fft2(luma((hq - prior)[None]), norm="ortho").abs().square())[0]
        total = power if total.numel() == 0 else total + power
    return (total / min(count, len(crops))).tolist()


def shaped_noise(
    spectrum: Sequence[float], height: int, width: int, generator: torch.Generator
) -> Float[Tensor, "1 3 h w"]:
    """Return grey Gaussian noise of unit variance with the given radial power spectrum, on three equal channels."""
    bins, count = radial_bins(height, width)
    place = (bins.clamp(max=count - 1) / (count - 1)).numpy()
    power = np.interp(place, np.linspace(0, 1, len(spectrum)), np.asarray(spectrum))
    amplitude = torch.from_numpy(np.sqrt(power)).float()
    white = torch.randn(1, height, width, generator=generator)
    shaped = torch.fft.ifft2(torch.fft.fft2(white) * amplitude).real
    return (shaped / shaped.std()).expand(3, -1, -1).unsqueeze(0)


def psnr(image: Image, reference: Image) -> float:
    """Return the peak signal-to-noise ratio over RGB in dB."""
    return float(-10 * torch.log10((image - reference).square().mean()))


def noise_control(prior: Image, hq: Image, noise: Image, target_psnr: float) -> Image:
    """Return the prior plus as much of `noise` as brings it to `target_psnr`; the prior itself if it is below that."""
    low, high = 0.0, 1.0
    while psnr((prior + high * noise).clamp(0, 1), hq) > target_psnr:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        if psnr((prior + middle * noise).clamp(0, 1), hq) > target_psnr:
            low = middle
        else:
            high = middle
    return (prior + low * noise).clamp(0, 1)


def detailed_blocks(hq: Image) -> Float[Tensor, "1 1 h w"]:
    """Return 1 on the quarter of 16 px blocks with the most variance in the ground truth, 0 elsewhere."""
    height, width = (side - side % BLOCK for side in hq.shape[-2:])
    blocks = luma(hq)[0, :height, :width].unfold(0, BLOCK, BLOCK).unfold(1, BLOCK, BLOCK)
    variance = blocks.flatten(2).var(2)
    kept = (variance >= variance.flatten().quantile(0.75)).float()
    return interpolate(kept[None, None], scale_factor=BLOCK, mode="nearest")


def seed_psnr(images: Sequence[Image], hq: Image) -> float:
    """Return the mean pairwise PSNR between seeds over the detailed blocks, in dB; lower is more diverse."""
    mask = detailed_blocks(hq)
    height, width = mask.shape[-2:]
    values = []
    for i, a in enumerate(images):
        for b in images[i + 1 :]:
            square = (a - b)[..., :height, :width].square().mean(1, keepdim=True)
            values.append(float(-10 * torch.log10((square * mask).sum() / mask.sum() + 1e-12)))
    return float(np.mean(values))


class Evaluator:
    """Scores restorations of one photo against its ground truth."""

    def __init__(self) -> None:
        self.metrics = {name: load_metric(name) for name in JUDGES}
        self.picker = GroupScorer(PICKER)

    def judge(self, images: Sequence[Image], hq: Image) -> dict[str, list[float]]:
        """Return every judge's raw values for several images, LSD included."""
        stacked = torch.cat(list(images))
        values = {name: metric(stacked, hq).tolist() for name, metric in self.metrics.items()}
        values["lsd"] = log_spectral_distance(stacked, hq.expand_as(stacked)).tolist()
        return values

    def pick(self, images: Sequence[Image], lq: Image) -> int:
        """Return the index of the best candidate by the no-reference reward."""
        scores = self.picker.score([to_uint8(image) for image in images], lq=lq, reference=None)
        assert scores.reward is not None
        return int(np.argmax(scores.reward.reward))


def evaluate_photo(
    hq: Image, preset: str, name: str, restorer: Restorer, backbone: CompactBackbone, spectrum: Sequence[float],
    evaluator: Evaluator, settings: EvaluationSettings,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Return {row: {metric: value}} of one photo; single-seed values are means over seeds."""
    lq = degrade(hq, preset, generator=seeded_generator("evaluate", name, preset))
    request = RestoreRequest(
        num_candidates=settings.num_seeds,
        num_steps=settings.num_steps,
        sampler=settings.sampler,
        schedule=settings.schedule,
    )
    prior = from_uint8(to_uint8(restorer.prior(lq, request)))
    drawn = [c.pixels for c in restorer.restore(lq, request) if c.pixels is not None]
    if len(drawn) != settings.num_seeds:
        raise FloatingPointError(f"{name}: {settings.num_seeds - len(drawn)} seeds failed")
    images = [from_uint8(to_uint8(image)) for image in drawn]
    gain = backbone.head.gain(restorer.prior(lq, request), lq)
    contrast = interpolate(gain, scale_factor=4, mode="bilinear")
    controls = []
    for seed, image in enumerate(images):
        generator = seeded_generator("control", name, preset, seed)
        noise = shaped_noise(spectrum, hq.shape[-2], hq.shape[-1], generator) * contrast
        control = noise_control(prior, hq, noise, psnr(image, hq))
        controls.append(from_uint8(to_uint8(control)))
    judged = {"prior": evaluator.judge([prior], hq)}
    judged["control"] = evaluator.judge(controls, hq)
    judged["head"] = evaluator.judge(images, hq)
    rows = {row: {k: float(np.mean(v)) for k, v in values.items()} for row, values in judged.items()}
    rows["head"]["seed_psnr"] = seed_psnr(images, hq)
    errors = [abs(a - b) for a, b in zip(judged["control"]["psnr"], judged["head"]["psnr"], strict=True)]
    rows["control"]["psnr_error"] = max(errors)
    best = evaluator.pick(images, lq)
    rows["best_of_n"] = {k: v[best] for k, v in judged["head"].items()}
    chance = int(torch.randint(0, len(images), (1,), generator=seeded_generator("random pick", name, preset)))
    rows["random_of_n"] = {k: v[chance] for k, v in judged["head"].items()}
    return rows


def _better(metric: str) -> float:
    """Return +1 where larger values are better, -1 otherwise."""
    return -1.0 if metric == "lsd" or metric_spec(metric).lower_is_better else 1.0


def gates(units: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Return each requirement on the head with its figures and whether it holds, over `units` (one per photo)."""

    def column(row: str, metric: str) -> np.ndarray:
        return np.array([unit[row][metric] for unit in units])

    def gain(metric: str, row: str, other: str) -> tuple[float, float, float]:
        return mean_interval(_better(metric) * (column(row, metric) - column(other, metric)))

    lsd_ratio = float(column("head", "lsd").mean() / column("prior", "lsd").mean())
    psnr_change = float((column("head", "psnr") - column("prior", "psnr")).mean())
    diversity = float(column("head", "seed_psnr").mean())
    found: dict[str, dict[str, Any]] = {
        "lsd_10_percent_below_prior": {"ratio": lsd_ratio, "holds": lsd_ratio <= 0.9},
        "psnr_at_most_1_db_below_prior": {"change_db": psnr_change, "holds": psnr_change >= -1.0},
        "seeds_differ": {"seed_psnr_db": diversity, "holds": diversity < 45},
    }
    for metric in ("lpips", "ssimulacra2", "vsi"):
        values = gain(metric, "head", "control")
        found[f"{metric}_better_than_control"] = {"gain": values, "holds": values[1] > 0}
    values = gain("st_lpips", "head", "prior")
    found["st_lpips_not_worse_than_prior"] = {"gain": values, "holds": values[2] >= 0}
    missed = column("control", "psnr_error")
    found["control_at_the_heads_psnr"] = {
        "photographs_where_the_head_beats_the_prior": float((missed > CONTROL_TOLERANCE_DB).sum()),
        "largest_error_db_elsewhere": float(missed[missed <= CONTROL_TOLERANCE_DB].max(initial=0.0)),
    }
    found["best_of_n_against_mean_seed_st_lpips"] = {"gain": gain("st_lpips", "best_of_n", "head")}
    return found


def table(units: Sequence[dict[str, dict[str, float]]]) -> str:
    """Return a Markdown table of means over `units`."""
    metrics = ("psnr", "lsd", *(name for name in JUDGES if name != "psnr"))
    lines = ["| row | " + " | ".join(metrics) + " |", "|---|" + "---|" * len(metrics)]
    for row in ROWS:
        means = [np.mean([unit[row][metric] for unit in units]) for metric in metrics]
        lines.append(f"| {row} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")
    return "\n".join(lines)


def evaluate(head: Path, spectrum: Sequence[float], settings: EvaluationSettings, out: Path) -> dict[str, Any]:
    """Restore every held-out photo and write `out` as JSON: values per photo, tables and gates per preset and pooled.

    Pooled units are photos (means over presets), so that intervals count photos, not photo-preset pairs.
    """
    dtype = resolve_dtype("auto", "cpu")
    loaded = {precision: load_compact(dtype=precision, head=head) for precision in {dtype, torch.float32}}
    restorer = Restorer(lambda precision: loaded[precision], dtype)
    reference = load_compact(dtype=torch.float32, head=head)
    evaluator = Evaluator()
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {preset: {} for preset in settings.presets}
    photos = find_photos([settings.photos])[: settings.limit or None]
    for path in tqdm(photos, desc="evaluating", unit="photo"):
        hq = read_image(path).pixels
        height, width = (side - side % 4 for side in hq.shape[-2:])
        for preset in settings.presets:
            results[preset][path.stem] = evaluate_photo(
                hq[..., :height, :width], preset, path.stem, restorer, reference, spectrum, evaluator, settings
            )
    pooled = [
        {
            row: {
                metric: float(np.mean([results[preset][name][row][metric] for preset in settings.presets]))
                for metric in results[settings.presets[0]][name][row]
            }
            for row in ROWS
        }
        for name in results[settings.presets[0]]
    ]
    groups = {"pooled": pooled, **{preset: list(values.values()) for preset, values in results.items()}}
    content = {
        "settings": {
            "photos": len(photos),
            "presets": list(settings.presets),
            "seeds": settings.num_seeds,
            "steps": settings.num_steps,
            "sampler": settings.sampler,
            "schedule": settings.schedule,
            "dtype": str(dtype),
            "picked_by": PICKER,
        },
        "tables": {name: table(units) for name, units in groups.items()},
        "gates": {name: gates(units) for name, units in groups.items()},
        "values": results,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


def evaluate_run(run: Path, settings: EvaluationSettings, out: Path) -> dict[str, Any]:
    """Evaluate the weights in a training run; the control's spectrum is that of the run's training residuals.

    The spectrum is stored beside the weights, so that a second evaluation needs no training crops.
    """
    stored = run / SPECTRUM_FILE
    if not stored.is_file():
        recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
        spectrum = residual_spectrum(CachedCrops(Path(recipe["data"]["cache"])))
        stored.write_text(json.dumps(spectrum) + "\n", encoding="utf-8")
    return evaluate(run / "head.safetensors", json.loads(stored.read_text(encoding="utf-8")), settings, out)
