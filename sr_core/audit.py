"""Audit mode: a photo known in full quality is degraded, restored and scored with the full hybrid reward."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.degradations import SCALE, Degraded, degradation_preset, degrade_and_tell
from sr_core.errors import ConfigError, InputError
from sr_core.images import from_uint8, read_image, read_size, to_uint8, write_image
from sr_core.job import Job
from sr_core.limits import MIN_SIDE
from sr_core.pipeline import Progress, upscale
from sr_core.restorer import Stop
from sr_core.rewards.offline import psnr
from sr_core.rewards.registry import metric_set, metric_spec
from sr_core.runs import Run
from sr_core.scoring import local_pixels
from sr_core.spectra import log_spectral_distance

MIN_HQ_SIDE = SCALE * MIN_SIDE
"""A photo that is reduced to a quarter must leave the least side that can be restored."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """How the LQ is made from the HQ. Raises ConfigError if a value cannot be used."""

    preset: str = "real-esrgan"
    seed: int = 0
    """Of everything that the preset draws: the same seed, photo and preset give the same LQ."""
    side: int | None = None
    """Sides longer than this lose their margins, the middle stays; None uses the whole photo."""

    def __post_init__(self) -> None:
        degradation_preset(self.preset)
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"the degradation seed must be a whole number from 0 to 2^63 - 1, got {self.seed}")
        if self.side is not None and (self.side < MIN_HQ_SIDE or self.side % SCALE):
            raise ConfigError(f"the side must be a multiple of {SCALE} from {MIN_HQ_SIDE} px, got {self.side}")


class AuditPlan(NamedTuple):
    """What an audit will compare, known from the files' headers."""

    hq_size: tuple[int, int]
    """(width, height) in px of the reference, which the output has too."""
    lq_size: tuple[int, int]
    words: tuple[str, ...]
    """What was chosen for the visitor, as sentences."""


@dataclass(frozen=True, kw_only=True)
class AuditPair:
    """The two photos of an audit on disk."""

    hq: Path
    """The reference: an 8-bit PNG of the output's size."""
    lq: Path
    size: tuple[int, int]
    """(width, height) in px of the HQ."""
    recipe: dict[str, Any]
    """How the LQ came about; `run.json` keeps it as `audit`."""
    notices: tuple[str, ...]


def smallest_side(metrics: str) -> int:
    """Return the least HQ side in px at which both halves of a metric set have a metric that is trusted."""
    chosen = metric_set(metrics)
    halves = (chosen.full_reference, chosen.no_reference)
    return max(min(metric_spec(name).min_side for name in half) for half in halves)


def too_small_for(size: tuple[int, int], metrics: str) -> dict[str, int]:
    """Return the metrics of a set that are left out at an output of (width, height), with the side they need."""
    chosen = metric_set(metrics)
    specs = (metric_spec(name) for name in (*chosen.full_reference, *chosen.no_reference))
    return {spec.label: spec.min_side for spec in specs if spec.min_side > min(size)}


def plan_audit(hq: Path, degradation: Degradation, *, lq: Path | None = None, metrics: str = "offline") -> AuditPlan:
    """Return the sizes of an audit with the choices in words; only headers are read.

    Raises InputError, with numbers, if the HQ is too small for the metrics or the degradation, or the LQ does not have
    the HQ's shape.
    """
    width, height = read_size(hq)
    needed = smallest_side(metrics)
    if lq is None:
        needed = max(needed, MIN_HQ_SIDE)
    if min(width, height) < needed:
        why = f"the metric set {metrics} is trusted from {smallest_side(metrics)} px"
        if lq is None:
            why += f", and a quarter of the side must leave {MIN_SIDE} px to restore"
        raise InputError(
            f"the full-quality photo must measure at least {needed} px a side, got {width} x {height} ({why}); "
            "choose a larger one"
        )
    if lq is not None:
        return _plan_given((width, height), read_size(lq))
    _, _, *used = _window(width, height, degradation.side)
    size = (used[0], used[1])
    words = [f"The low-quality photo measures {size[0] // SCALE} x {size[1] // SCALE} px, a quarter of the side."]
    if size != (width, height):
        limit = "" if degradation.side is None else f", at most {degradation.side} px and"
        words.insert(
            0,
            f"The middle {size[0]} x {size[1]} px of {width} x {height} are used: sides{limit} a multiple of {SCALE}.",
        )
    return AuditPlan(size, (size[0] // SCALE, size[1] // SCALE), tuple(words))


def _plan_given(hq: tuple[int, int], lq: tuple[int, int]) -> AuditPlan:
    """Check that a given LQ can be an HQ reduced, to within the rounding of its sides."""
    height_of_width, width_of_height = lq[0] * hq[1] / hq[0], lq[1] * hq[0] / hq[1]
    if abs(height_of_width - lq[1]) >= 1 and abs(width_of_height - lq[0]) >= 1:
        raise InputError(
            f"the low-quality photo must have the shape of the full-quality one: {hq[0]} x {hq[1]} px reduced to "
            f"{lq[0]} px across is {lq[0]} x {round(height_of_width)}, got {lq[0]} x {lq[1]}; crop both alike"
        )
    if not (lq[0] <= hq[0] and lq[1] <= hq[1]):
        raise InputError(
            f"the low-quality photo must not be larger than the full-quality one, got {lq[0]} x {lq[1]} and "
            f"{hq[0]} x {hq[1]} px; were they swapped?"
        )
    words = (
        f"The low-quality photo is yours, {lq[0]} x {lq[1]} px; nothing is degraded.",
        f"The output gets the reference's size, {hq[0]} x {hq[1]} px, {hq[0] / lq[0]:.3g} times the side.",
    )
    return AuditPlan(hq, lq, words)


def _window(width: int, height: int, side: int | None) -> tuple[int, int, int, int]:
    """Return (left, top, width, height) of the middle part that is used: multiples of 4, at most `side`."""
    used = [min(full, side or full) // SCALE * SCALE for full in (width, height)]
    return (width - used[0]) // 2, (height - used[1]) // 2, used[0], used[1]


def make_pair(
    hq: Path, folder: Path, degradation: Degradation, *, lq: Path | None = None, metrics: str = "offline"
) -> AuditPair:
    """Write the reference, and the LQ where none is given, into `folder`.

    The HQ is rounded to 8 bits first, so that the file alone makes the same LQ again: the preset with
    `torch.Generator().manual_seed(seed)`. Raises InputError as `plan_audit`.
    """
    plan = plan_audit(hq, degradation, lq=lq, metrics=metrics)
    photo = read_image(hq)
    folder.mkdir(parents=True, exist_ok=True)
    window = (0, 0, *plan.hq_size) if lq is not None else _window(photo.width, photo.height, degradation.side)
    left, top, width, height = window
    pixels = to_uint8(photo.pixels[..., top : top + height, left : left + width])
    reference = folder / f"{photo.name}_hq.png"
    write_image(reference, pixels, format="png", marked=False, fast=True)
    notices = [*plan.words, *photo.notices]
    if photo.alpha is not None:
        notices.append("The reference's transparency is left out.")
    recipe: dict[str, Any] = {
        "hq": {
            "name": hq.name,
            "width": photo.width,
            "height": photo.height,
            "sha256": hashlib.sha256(hq.read_bytes()).hexdigest(),
        },
        "window": list(window),
    }
    if lq is not None:
        given = {"name": lq.name, "sha256": hashlib.sha256(lq.read_bytes()).hexdigest()}
        return AuditPair(hq=reference, lq=lq, size=plan.hq_size, recipe={**recipe, "lq": given}, notices=tuple(notices))
    made = folder / f"{photo.name}_{degradation.preset}_{degradation.seed}.png"
    lq_made, (draws,) = degraded(from_uint8(pixels), degradation)
    write_image(made, lq_made, format="png", marked=False, fast=True)
    preset = degradation_preset(degradation.preset)
    recipe["degradation"] = {
        "preset": degradation.preset,
        "seed": degradation.seed,
        "scale": SCALE,
        "parameters": asdict(preset),
        "drawn": [{"stage": draw.stage, "step": draw.step, "values": dict(draw.values)} for draw in draws],
    }
    if preset.usm_sharpen_target:
        notices.append("This preset sharpens the photo before it degrades it; the reference is the photo as it is.")
    return AuditPair(hq=reference, lq=made, size=plan.hq_size, recipe=recipe, notices=tuple(notices))


def degraded(hq: Float[Tensor, "1 3 h w"], degradation: Degradation) -> Degraded:
    """Return the LQ of one HQ and what was drawn for it, the same for the same seed."""
    return degrade_and_tell(hq, degradation.preset, generator=torch.Generator().manual_seed(degradation.seed))


def audit_job(job: Job, plan: AuditPlan | AuditPair) -> Job:
    """Return the job whose output has the reference's size."""
    return replace(job, size=plan.hq_size if isinstance(plan, AuditPlan) else plan.size)


def audit(
    pair: AuditPair,
    folder: Path,
    job: Job,
    *,
    stop: Stop = lambda: False,
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[Progress]:
    """Restore the pair's LQ into `folder` with its HQ as reference: the ordinary job with the full hybrid reward.

    The finished run keeps under `audit` how the LQ came about, and PSNR and log-spectral distance of every image to
    the reference, which the reward does not use. Raises as `upscale`.
    """
    steps = upscale(pair.lq, folder, audit_job(job, pair), reference=pair.hq, stop=stop, on_step=on_step)
    for progress in steps:
        run, recipe = progress.run, pair.recipe
        ended = progress.stage in ("done", "stopped")
        if ended:
            recipe = {**recipe, "distances": _distances(run, pair.hq)}
        notices = [*pair.notices, *run.values["notices"]]
        run = replace(run, values={**run.values, "audit": recipe, "notices": notices})
        if ended:
            run.save()
        yield replace(progress, run=run)


def _distances(run: Run, reference: Path) -> dict[str, list[dict[str, float] | None]]:
    """Return PSNR and LSD to the reference of every candidate, and of the same seeds by the adapter compared with."""
    target = from_uint8(local_pixels(reference))
    files: dict[str, Sequence[str | None]] = {
        "candidates": [record.file for record in run.candidates],
        "before": [record.before for record in run.candidates],
    }
    return {
        name: [None if path is None else distances_to(target, run.folder / path) for path in paths]
        for name, paths in files.items()
    }


def distances_to(reference: Float[Tensor, "1 3 h w"], image: Path) -> dict[str, float]:
    """Return PSNR in dB and log-spectral distance in dB of an image file of ours to the reference."""
    pixels = from_uint8(local_pixels(image))
    return {
        "psnr": float(psnr(pixels, reference)),
        "lsd": float(log_spectral_distance(pixels, reference)),
    }
