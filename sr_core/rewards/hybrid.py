"""Score a group of candidates with a metric set and turn the scores into rewards and ranks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from sr_core.errors import InputError, WeightsError
from sr_core.images import from_uint8, to_uint8
from sr_core.resampling import resize_clamped
from sr_core.rewards.crops import Crop, scored_crops
from sr_core.rewards.group import CONSISTENCY, GroupReward, hybrid_reward, score_term
from sr_core.rewards.registry import Metric, MetricSet, Reference, load_metric, metric_set
from sr_core.tensors import Image

Pixels8 = UInt8[np.ndarray, "h w 3"]
"""One image as it is downloaded."""


class MissingMetric(NamedTuple):
    """A metric of the set that could not be loaded."""

    name: str
    reason: str
    """Which file or package it needs and where to put it."""


@dataclass(frozen=True, kw_only=True)
class GroupScores:
    """Raw scores of one group, what they mean, and the reward made of them."""

    raw: dict[str, list[float]]
    """By score key such as `niqe` or `consistency_lpips`: one finite number per candidate."""
    reward: GroupReward | None
    """None for a single candidate, and where nothing could be scored."""
    metrics: list[dict[str, Any]]
    """Provenance of each score in `raw`, ready for JSON."""
    left_out: list[dict[str, str]]
    """`name` and `reason` of each score of the set that is not in `raw`."""
    with_reference: bool
    """Whether the reference half compares with a reference; else it is consistency with the LQ, if any."""


class _View(NamedTuple):
    """What a metric is shown: the candidates, full or reduced, and what they are compared with."""

    height: int
    width: int
    images: Callable[[Crop], Image]
    """The candidates inside a crop, as a batch."""
    target: Reference | None
    """Reference or LQ, of the view's size."""


class _Score(NamedTuple):
    values: list[float]
    provenance: dict[str, Any]


class GroupScorer:
    """The metrics of one set, loaded once and applied to group after group."""

    def __init__(self, name: str | MetricSet, *, device: str = "cpu") -> None:
        """Load every metric of the named or given set that can be loaded; `missing` lists the others.

        Raises ConfigError if there is no such set.
        """
        self.metric_set = metric_set(name) if isinstance(name, str) else name
        self.device = device
        self._metrics: dict[str, Metric] = {}
        missing = []
        chosen = self.metric_set
        for metric in dict.fromkeys((*chosen.full_reference, *chosen.consistency, *chosen.no_reference)):
            try:
                self._metrics[metric] = load_metric(metric, device)
            except WeightsError as error:
                missing.append(MissingMetric(metric, str(error)))
        self.missing = tuple(missing)

    def keys(self, *, with_reference: bool, with_lq: bool = True) -> tuple[str, ...]:
        """Return the score keys of the set: reference half or consistency first, then the other half."""
        chosen = self.metric_set
        if with_reference:
            return (*chosen.full_reference, *chosen.no_reference)
        consistency = tuple(CONSISTENCY + metric for metric in chosen.consistency) if with_lq else ()
        return (*consistency, *chosen.no_reference)

    @torch.inference_mode()
    def score(
        self,
        candidates: Sequence[Pixels8] | Image,
        *,
        lq: Float[Tensor, "1 3 lq_h lq_w"] | None,
        reference: Float[Tensor, "1 3 hq_h hq_w"] | None,
        fidelity_weight: float = 0.5,
    ) -> GroupScores:
        """Score all candidates of one photo, on the 8-bit pixels that a user downloads.

        The reference half compares with `reference` (the candidates' size), or without one compares
        the candidates, reduced to the size of `lq`, with it; with neither it is empty. Above 1024
        px a side the same crops are scored for every candidate and averaged.

        Raises InputError if there are no candidates, they differ in size or the reference has another one.
        """
        pixels = _pixels8(candidates)
        height, width = pixels[0].shape[:2]
        if reference is not None and tuple(reference.shape) != (1, 3, height, width):
            raise InputError(
                f"the reference must have shape (1, 3, {height}, {width}) like the candidates, "
                f"got {tuple(reference.shape)}"
            )
        keys = self.keys(with_reference=reference is not None, with_lq=lq is not None)
        results: dict[str, _Score | str] = {}
        for viewed, view in self._views(pixels, keys, lq, reference):
            results |= self._score_view(viewed, view)
        scores = {key: result for key in keys if isinstance(result := results[key], _Score)}
        left_out = {key: result for key in keys if isinstance(result := results[key], str)}
        raw = {key: score.values for key, score in scores.items()}
        reward = None
        if raw and len(pixels) > 1:
            terms = {key: score_term(key) for key in raw}
            reward = hybrid_reward(raw, terms, fidelity_weight=fidelity_weight)
        return GroupScores(
            raw=raw,
            reward=reward,
            metrics=[score.provenance for score in scores.values()],
            left_out=[{"name": key, "reason": reason} for key, reason in left_out.items()],
            with_reference=reference is not None,
        )

    @torch.inference_mode()
    def score_like(
        self,
        candidates: Sequence[Pixels8],
        metrics: Sequence[Mapping[str, Any]],
        *,
        lq: Float[Tensor, "1 3 lq_h lq_w"],
        reference: Float[Tensor, "1 3 hq_h hq_w"] | None,
    ) -> list[dict[str, float]] | None:
        """Score candidates one by one as a group of the same photo was: by `metrics`, its provenance, in their crops.

        A score that is not finite there is lacking. None if the group was scored by other versions of the metrics, or
        in other crops than are taken here.
        """
        stored = {metric["key"]: metric for metric in metrics}
        found: list[dict[str, float]] = [{} for _ in candidates]
        keys = self.keys(with_reference=reference is not None)
        for viewed, view in self._views(_pixels8(candidates), keys, lq, reference):
            crops = scored_crops(view.height, view.width)
            usable = {k: self._metrics[n] for k in viewed if (n := k.removeprefix(CONSISTENCY)) in self._metrics}
            side = min(crops[0].height, crops[0].width)
            usable = {k: metric for k, metric in usable.items() if k in stored and side >= metric.spec.min_side}
            kept: dict[str, list[int]] = {}
            for key, metric in usable.items():
                kept[key] = [i for i, crop in enumerate(crops) if list(crop) in stored[key].get("crops", [])]
                if not kept[key] or stored[key] != _provenance(key, metric, [crops[i] for i in kept[key]]):
                    return None
            for key, by_crop in _score_crops(usable, view, crops).items():
                for scores, value in zip(found, by_crop[kept[key]].mean(axis=0).tolist(), strict=True):
                    if isfinite(value):
                        scores[key] = value
        return found

    def _views(
        self,
        pixels: Sequence[Pixels8],
        keys: Sequence[str],
        lq: Float[Tensor, "1 3 lq_h lq_w"] | None,
        reference: Float[Tensor, "1 3 hq_h hq_w"] | None,
    ) -> Iterator[tuple[list[str], _View]]:
        """Yield the keys of the full candidates and those of the reduced ones, each with what they are shown."""
        height, width = pixels[0].shape[:2]
        full = _View(height, width, lambda crop: _batch(pixels, crop).to(self.device), reference)
        yield [key for key in keys if not key.startswith(CONSISTENCY)], full
        if reference is None and lq is not None:
            yield [key for key in keys if key.startswith(CONSISTENCY)], _reduced_view(pixels, lq, self.device)

    def _score_view(self, keys: Sequence[str], view: _View) -> dict[str, _Score | str]:
        """Return the score of each key, or the reason why there is none."""
        missing = dict(self.missing)
        crops = scored_crops(view.height, view.width)
        usable: dict[str, Metric] = {}
        results: dict[str, _Score | str] = {}
        for key in keys:
            name = key.removeprefix(CONSISTENCY)
            if name in missing:
                results[key] = missing[name]
            elif min(crops[0].height, crops[0].width) < self._metrics[name].spec.min_side:
                least = self._metrics[name].spec.min_side
                results[key] = f"needs at least {least} px a side, got {view.width} x {view.height}"
            else:
                usable[key] = self._metrics[name]
        by_crop = _score_crops(usable, view, crops)
        return results | {key: _pool(key, usable[key], values, crops) for key, values in by_crop.items()}


def _pixels8(candidates: Sequence[Pixels8] | Image) -> list[Pixels8]:
    if isinstance(candidates, torch.Tensor):
        pixels = [to_uint8(image[None]) for image in candidates]
    else:
        pixels = list(candidates)
    sizes = {image.shape for image in pixels}
    if len(sizes) != 1:
        raise InputError(f"a group must have at least one candidate and one size, got shapes {sorted(sizes)}")
    return pixels


def _batch(pixels: Sequence[Pixels8], crop: Crop) -> Float[Tensor, "m 3 y x"]:
    return torch.cat([from_uint8(np.ascontiguousarray(image[crop.rows(), crop.columns()])) for image in pixels])


def _reduced_view(pixels: Sequence[Pixels8], lq: Float[Tensor, "1 3 y x"], device: str) -> _View:
    """Reduce every candidate to the size of the LQ, one at a time because they may be large."""
    height, width = lq.shape[-2:]
    reduced = torch.cat([resize_clamped(from_uint8(image).to(device), height, width) for image in pixels])
    return _View(height, width, lambda crop: reduced[:, :, crop.rows(), crop.columns()], lq)


def _score_crops(
    metrics: Mapping[str, Metric], view: _View, crops: Sequence[Crop]
) -> dict[str, Float64[np.ndarray, "k m"]]:
    """Return the raw scores of each metric, one row per crop and one column per candidate."""
    rows: dict[str, list[Float64[np.ndarray, " m"]]] = {key: [] for key in metrics}
    for crop in crops if metrics else ():
        images = view.images(crop)
        target = None if view.target is None else view.target[:, :, crop.rows(), crop.columns()].to(images)
        for key, metric in metrics.items():
            rows[key].append(metric(images, target).double().cpu().numpy())
    return {key: np.stack(scores) for key, scores in rows.items()}


def _pool(key: str, metric: Metric, by_crop: Float64[np.ndarray, "k m"], crops: Sequence[Crop]) -> _Score | str:
    """Average over the crops in which every score is finite: a flat sky has no scene statistics."""
    finite = np.isfinite(by_crop).all(axis=1)
    if not finite.any():
        return "gave a value that is not finite (is a candidate without any structure?)"
    kept = [crop for crop, is_finite in zip(crops, finite, strict=True) if is_finite]
    return _Score(by_crop[finite].mean(axis=0).tolist(), _provenance(key, metric, kept))


def _provenance(key: str, metric: Metric, crops: Sequence[Crop]) -> dict[str, Any]:
    """Return how a score was taken, ready for JSON."""
    spec, term = metric.spec, score_term(key)
    return {
        "key": key,
        "metric": spec.name,
        "label": spec.label,
        "half": term.half,
        "consistency": key.startswith(CONSISTENCY),
        "lower_is_better": spec.lower_is_better,
        "worst": spec.worst,
        "best": spec.best,
        "tolerance": term.tolerance,
        "min_side": spec.min_side,
        "crops": [list(crop) for crop in crops],
    } | dict(metric.provenance)
