"""Runs of the page and of `sr upscale` as groups of candidates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sr_core.backbones import BACKBONES
from sr_core.errors import ConfigError, InputError
from sr_core.images import Pixels8, from_uint8, read_image, to_uint8
from sr_core.noise import GENERATOR
from sr_core.preference_data.shards import Origin, ScoredGroup, further_settings
from sr_core.rewards import GroupScores
from sr_core.rewards.group import GroupReward
from sr_core.rewards.local_files import sha256_of
from sr_core.runs import RUN_FILE, CandidateRecord, Run, reference_file
from sr_core.scoring import local_pixels
from sr_core.tensors import Enlarged, Image
from sr_core.tiling import TILE

Score = Callable[[Sequence[Pixels8], Image, Enlarged | None], GroupScores]
"""Scores candidates against their LQ and, where there is one, a reference."""


def find_runs(sources: Sequence[str], *, least: int) -> list[Run]:
    """Return the runs in `sources`, each a run folder or a folder of them, in order.

    Raises ConfigError if a source holds no run, or a run has fewer than `least` candidates.
    """
    runs = []
    for source in map(Path, sources):
        folders = [source] if (source / RUN_FILE).is_file() else sorted(p.parent for p in source.glob(f"*/{RUN_FILE}"))
        if not folders:
            raise ConfigError(f"runs must be folders with {RUN_FILE} or folders of such, got {source}")
        for folder in folders:
            run = Run.open(folder)
            count = len(drawn(run))
            if count < least:
                raise ConfigError(f"the run {folder} must hold at least {least} candidates (twice top), got {count}")
            runs.append(run)
    return runs


def drawn(run: Run) -> list[CandidateRecord]:
    """Return the candidates of a run that have an image."""
    return [record for record in run.candidates if record.file is not None]


def run_digest(run: Run) -> str:
    """Return the SHA-256 of a run's description, which names it among groups."""
    return sha256_of(run.folder / RUN_FILE)


def _reference(run: Run) -> Pixels8 | None:
    file = reference_file(run)
    return None if file is None else to_uint8(read_image(file).pixels)


def _stored_scores(run: Run) -> dict[str, list[float]]:
    """Return the run's own raw scores that all candidates have; none where a candidate was not scored."""
    records = drawn(run)
    if not records or not all(record.scores for record in records):
        return {}
    keys = [key for key in records[0].scores if all(key in record.scores for record in records)]
    return {key: [record.scores[key] for record in records] for key in keys}


def _origin(run: Run) -> Origin:
    values = run.values
    made = (values.get("audit") or {}).get("degradation") or {}
    spec = BACKBONES.get(values["backbone"])
    return Origin(
        generator=values.get("noise", GENERATOR),
        model_id=values["backbone"],
        model_revision=None,
        adapter=values["adapter"],
        sampler=values["sampler"],
        schedule=values["schedule"],
        steps=values["steps"],
        guidance=values.get("guidance"),
        control_scale=None if spec is None else spec.control_scale,
        color_fix=values["color"],
        tile_cfg=further_settings({"tile": TILE, **values}),
        preset=made.get("preset"),
        photo=values["input"]["name"],
        code_version=values["version"],
    )


def first_candidates(run: Run, count: int, *, fidelity_weight: float | int) -> Run:
    """Return the run with the first `count` candidates that were scored, their rewards taken anew among themselves.

    Raises InputError if it has fewer, or they share no score.
    """
    scored, name = tuple(record for record in run.candidates if record.scores), run.values["input"]["name"]
    if len(scored) < count:
        raise InputError(f"{name} must have {count} scored candidates, got {len(scored)}")
    if not set.intersection(*(set(record.scores) for record in scored[:count])):
        raise InputError(f"{name} must have candidates that share a score to be compared")
    return replace(run, candidates=scored[:count]).reranked(fidelity_weight)


def stored_group(run: Run, *, fidelity_weight: float | int) -> ScoredGroup:
    """Return a run as a group by the scores that it has.

    Raises InputError if its candidates share no score, or a file of the run is missing or damaged.
    """
    raw = _stored_scores(run)
    reward = run.group_reward(fidelity_weight) if raw else None
    if reward is None:
        raise InputError(f"{run.values['input']['name']} must have candidates with scores to make pairs of")
    return _group(run, _images(run), raw, reward, run.values.get("metrics", []))


def run_group(run: Run, score: Score, *, metric_set: str, fidelity_weight: float | int) -> ScoredGroup:
    """Return a run as a group: its stored scores where they are of `metric_set`, fresh ones otherwise.

    Raises InputError if a file of the run is missing or damaged.
    """
    if run.values.get("metric_set") == metric_set and _stored_scores(run):
        return stored_group(run, fidelity_weight=fidelity_weight)
    images, hq = _images(run), _reference(run)
    scores = score(images, from_uint8(_lq(run)), None if hq is None else from_uint8(hq))
    if scores.reward is None:
        raise InputError(f"no metric of {metric_set} could score the run {run.folder}; choose another metric set")
    return _group(run, images, scores.raw, scores.reward, scores.metrics)


def _images(run: Run) -> list[Pixels8]:
    return [np.ascontiguousarray(local_pixels(run.path(record))) for record in drawn(run)]


def _lq(run: Run) -> Pixels8:
    return to_uint8(read_image(run.folder / run.values["input"]["file"]).pixels)


def _group(
    run: Run,
    images: Sequence[Pixels8],
    raw: Mapping[str, Sequence[float]],
    reward: GroupReward,
    metrics: Sequence[Mapping[str, Any]],
) -> ScoredGroup:
    records = drawn(run)
    return ScoredGroup(
        group_id=f"run-{run_digest(run)[:16]}",
        origin=_origin(run),
        lq=_lq(run),
        hq=_reference(run),
        images=images,
        candidate_ids=[record.index for record in records],
        seeds=[record.seed for record in records],
        sources=[record.source for record in records],
        dtypes=[record.dtype for record in records],
        raw=raw,
        reward=reward,
        metrics=metrics,
    )
