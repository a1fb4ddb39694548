"""Scores and spectra that a run's ranking does not use, taken from its files to check the ranking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, UInt8

from sr_core.errors import InputError
from sr_core.images import Pixels8, from_uint8, read_image
from sr_core.resampling import resize_clamped
from sr_core.rewards import GroupScorer
from sr_core.rewards.group import CONSISTENCY, Scores, ScoreTerm, normalise, score_term
from sr_core.rewards.registry import MetricSet, Reference
from sr_core.runs import Run, reference_file
from sr_core.scoring import local_pixels
from sr_core.spectra import POWER_FLOOR, log_spectral_distance, radial_power

HOLD_OUTS = MetricSet(
    full_reference=("psnr", "st_lpips"), no_reference=("piqe",), consistency=("psnr", "st_lpips")
)  # fmt: skip
"""Metrics that no shipped training uses and that need no download; with LSD."""

LSD = "lsd"
"""Log-spectral distance in dB; `consistency_lsd` compares the reduced candidate with the input."""
LSD_TERM = ScoreTerm(half="reference", lower_is_better=True, tolerance=0.0)


@dataclass(frozen=True, kw_only=True)
class HoldOuts:
    """What the ranking of one run has not seen, one value per scored candidate."""

    raw: Mapping[str, Scores]
    """By score key; none of them is part of the run's reward."""
    left_out: Mapping[str, str]
    """Reason for each hold-out that could not be taken."""
    with_reference: bool
    """Whether references are compared with; else the candidates, reduced, with the input."""
    decibels: Float[np.ndarray, "m k"]
    """Radial power spectrum of the luma of each candidate, DC left out."""

    @property
    def normalised(self) -> dict[str, Scores]:
        """Return each hold-out inside the group, in [0, 1], higher is better; all 0.5 within its tolerance."""
        terms = {key: hold_out_term(key) for key in self.raw}
        return {
            key: normalise(values, lower_is_better=terms[key].lower_is_better, tolerance=terms[key].tolerance)
            for key, values in self.raw.items()
        }


def hold_out_term(key: str) -> ScoreTerm:
    """Return how to read a hold-out's raw value."""
    return LSD_TERM if key.removeprefix(CONSISTENCY) == LSD else score_term(key)


@lru_cache(maxsize=1)
def _scorer() -> GroupScorer:
    return GroupScorer(HOLD_OUTS)


@torch.inference_mode()
def take_hold_outs(run: Run) -> HoldOuts:
    """Score a run's scored candidates by metrics that its reward does not use.

    Raises InputError if no candidate is scored or a file cannot be read.
    """
    scored = [record for record in run.candidates if record.scores]
    if not scored:
        raise InputError("hold-outs need scored candidates, this run has none")
    pixels = [local_pixels(run.path(record)) for record in scored]
    lq = read_image(run.folder / run.values["input"]["file"]).pixels
    file = reference_file(run)
    reference = None if file is None else read_image(file).pixels
    scores = _scorer().score(pixels, lq=lq, reference=reference)
    used = {key for record in scored for key in record.scores}
    raw = {key: np.array(values) for key, values in scores.raw.items() if key not in used}
    left_out = {entry["name"]: entry["reason"] for entry in scores.left_out if entry["name"] not in used}
    target, key = (lq, CONSISTENCY + LSD) if reference is None else (reference, LSD)
    return HoldOuts(
        raw={key: _spectral_distances(pixels, target), **raw},
        left_out=left_out,
        with_reference=reference is not None,
        decibels=np.stack([_decibels(image) for image in pixels]),
    )


def _spectral_distances(pixels: Sequence[UInt8[np.ndarray, "_ _ 3"]], target: Reference) -> Scores:
    """Return each candidate's log-spectral distance from an image, reduced to its size."""
    height, width = target.shape[-2:]
    # Resizing to its own size leaves an image as it is.
    shown = (resize_clamped(from_uint8(image), height, width) for image in pixels)
    return np.array([float(log_spectral_distance(image, target)) for image in shown])


def _decibels(image: Pixels8) -> Float[np.ndarray, " k"]:
    levels: Float[np.ndarray, " k"] = (
        10 * torch.log10(radial_power(from_uint8(image))[0] + POWER_FLOOR).double().numpy()
    )
    return levels
