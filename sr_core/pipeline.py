"""The one job of page, API and command line: a photo in, a ranked run on disk out."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sr_core.alpha import Alpha, enlarge_alpha
from sr_core.backbones import BACKBONES, ONE_STEP, adapter_label, load_backbone, require_weights
from sr_core.backbones.backbone import LoadOptions
from sr_core.errors import InputError
from sr_core.estimate import estimate
from sr_core.images import FORMATS, Photo, Pixels8, read_image, read_output, to_uint8, write_image
from sr_core.job import Job
from sr_core.noise import GENERATOR
from sr_core.precision import resolve_dtype
from sr_core.restorer import MAX_CANDIDATES, Candidate, Restorer, Stop, image_fault
from sr_core.rewards import GroupScorer
from sr_core.runs import CandidateRecord, Run, new_run_id, with_before_scores, with_scores
from sr_core.tensors import Enlarged, Image
from sr_core.version import VERSION

PRIOR_FILE = "prior.png"
"""What the backbone's deterministic part makes of the photo, at the output's size."""


_USUAL = LoadOptions()


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a job stands; the last one has `stage` "done" or "stopped"."""

    run: Run
    stage: str
    """"drawing", "scoring", "done" or "stopped"."""
    message: str


@lru_cache(maxsize=2)
def restorer_for(backbone: str, adapter: str, dtype: str, weights: LoadOptions = _USUAL) -> Restorer:
    """Return the restorer of a backbone, loaded once."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = resolve_dtype(dtype, device)
    of = load_backbone(backbone, dtype=precision, device=device, adapter=adapter, options=weights)
    return Restorer(of, precision)


_in_memory: list[tuple[object, ...]] = []
"""The large backbone that was loaded last: name, weights, precision and the set of its adapters."""


def _make_room_for(job: Job) -> None:
    """Forget what was loaded before, if a large backbone is to be loaded that is another one in any way."""
    wanted = (job.backbone, job.weights, job.dtype, frozenset({job.adapter, job.compare_adapter} - {None}))
    if BACKBONES[job.backbone].parts and _in_memory != [wanted]:
        restorer_for.cache_clear()
        _in_memory[:] = [wanted]


@lru_cache(maxsize=2)
def scorer_for(name: str) -> GroupScorer:
    """Return the scorer of a metric set, loaded once."""
    return GroupScorer(name)


def _new_run(photo_path: Path, photo: Photo, folder: Path, job: Job, size: tuple[int, int]) -> Run:
    """Make the run's folder with the untouched input in it."""
    if (folder / "run.json").exists():
        raise InputError(f"{folder} already holds a run; choose another output folder")
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / f"input{photo_path.suffix.lower()}"
    shutil.copyfile(photo_path, stored)
    values: dict[str, Any] = {
        "id": new_run_id(),
        "version": VERSION,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": {
            "file": stored.name,
            "name": photo_path.name,
            "width": photo.width,
            "height": photo.height,
            "sha256": hashlib.sha256(stored.read_bytes()).hexdigest(),
        },
        "size": list(size),
        "prior": None,
        "backbone": job.backbone,
        "adapter": job.adapter,
        "compare_adapter": job.compare_adapter,
        "dtype": None,
        **_settings(job),
        "noise": GENERATOR,
        "metric_set": job.metric_set,
        "fidelity_weight": job.fidelity_weight,
        "reference": False,
        "metrics": [],
        "left_out": [],
        "notices": list(photo.notices),
        "status": "drawing",
    }
    return Run(folder=folder, values=values, candidates=())


def _settings(job: Job) -> dict[str, object]:
    """Return how candidates are drawn, as far as the backbone has a say in it, by the names of `run.json`."""
    values: dict[str, object] = {k: v for k, v in asdict(job.drawing).items() if v is not None}
    if job.weights != _USUAL:
        # The folders of weights are a machine's own; what they are called says enough.
        values["parts"] = {name: Path(path).name for name, path in job.weights.parts}
        values |= {"offload": job.weights.offload, "quantize": job.weights.quantize}
    steps = values.pop("num_steps")
    return {"steps": job.passes if job.adapter == ONE_STEP else steps, **values}


def _reference_image(reference: Path, size: tuple[int, int]) -> Image:
    """Return the reference's pixels; it must have the output's size."""
    photo = read_image(reference)
    if (photo.width, photo.height) != size:
        raise InputError(
            f"the reference must measure {size[0]} x {size[1]} px like the output, got {photo.width} x {photo.height}"
            f" ({reference.name}); set the output size to the reference's"
        )
    return photo.pixels


def _recipe(candidate: Candidate, job: Job) -> dict[str, object]:
    """Return what draws a candidate again."""
    return {
        "seed": candidate.seed,
        "backbone": job.backbone,
        "adapter": job.adapter,
        **_settings(job),
        **({} if candidate.level is None else {"level": candidate.level}),
        "dtype": candidate.dtype,
        "version": VERSION,
    }


def _write_image(
    path: Path, pixels: Enlarged, photo: Photo, alpha: Alpha | None, job: Job, recipe: Mapping[str, object]
) -> None:
    """Put pixels on disk with the photo's metadata and the recipe that draws them again."""
    write_image(
        path,
        pixels,
        format=job.format,
        alpha=alpha,
        metadata=photo.metadata,
        keep_gps=job.keep_gps,
        dpi=job.dpi,
        bit_depth=job.bit_depth,
        recipe=recipe,
        fast=True,
    )


def _write_candidate(
    run: Run, candidate: Candidate, photo: Photo, alpha: Alpha | None, job: Job
) -> tuple[CandidateRecord, Pixels8 | None]:
    """Put a candidate on disk and return its record with the 8-bit pixels that the file shows."""
    record = CandidateRecord(
        index=candidate.index,
        seed=candidate.seed,
        dtype=candidate.dtype,
        problem=candidate.problem,
        level=candidate.level,
    )
    if candidate.pixels is None:
        return record, None
    name = f"{photo.name}_seed{candidate.seed}{FORMATS[job.format].suffix}"
    path = run.folder / name
    _write_image(path, candidate.pixels, photo, alpha, job, _recipe(candidate, job))
    shown = to_uint8(candidate.pixels) if FORMATS[job.format].lossless else read_output(path).pixels
    return replace(record, file=name), shown


def _with_twin(run: Run, twin: Candidate, photo: Photo, alpha: Alpha | None, job: Job) -> tuple[Run, Pixels8 | None]:
    """Put the same seed by the adapter to compare with beside its candidate; a failed one is a notice."""
    assert job.compare_adapter is not None
    if twin.pixels is None:
        notice = f"seed {twin.seed}: {adapter_label(job.compare_adapter)} gave nothing to compare with: {twin.problem}"
        return replace(run, values={**run.values, "notices": [*run.values["notices"], notice]}), None
    name = f"{photo.name}_seed{twin.seed}_{job.compare_adapter}.png"
    as_drawn = replace(job, adapter=job.compare_adapter, compare_adapter=None, format="png")
    _write_image(run.folder / name, twin.pixels, photo, alpha, as_drawn, _recipe(twin, as_drawn))
    records = (replace(r, before=name) if r.index == twin.index else r for r in run.candidates)
    return replace(run, candidates=tuple(records)), to_uint8(twin.pixels)


def _write_prior(folder: Path, photo: Photo, alpha: Alpha | None, job: Job, image: Enlarged) -> None:
    """Put what all candidates vary around beside them, to be looked at; it is not scored."""
    if image_fault(image, photo.pixels) is None:
        recipe = {"backbone": job.backbone, "part": "prior", "version": VERSION}
        _write_image(folder / PRIOR_FILE, image, photo, alpha, replace(job, format="png"), recipe)


def _on_disk(pixels: Pixels8, folder: Path, index: int) -> Pixels8:
    """Return the same pixels read from a file as they are needed, so that candidates do not add up in memory."""
    path = folder / f"{index}.npy"
    np.save(path, pixels, allow_pickle=False)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _scored_alike(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the scores that two groups were given on the same crops; of large pictures a metric may skip some."""
    crops = {entry["key"]: entry["crops"] for entry in theirs}
    return {entry["key"] for entry in ours if crops.get(entry["key"]) == entry["crops"]}


def _scored(
    run: Run, shown: dict[int, Pixels8], twins: dict[int, Pixels8], photo: Photo, reference: Image | None, job: Job
) -> Run:
    """Score the finished candidates as one group and rank them; twins get raw scores alone."""
    indices = sorted(shown)
    scorer = scorer_for(job.metric_set)
    scores = scorer.score(
        [shown[i] for i in indices], lq=photo.pixels, reference=reference, fidelity_weight=job.fidelity_weight
    )
    notices = [*run.values["notices"], *(scores.reward.notices if scores.reward else ())]
    if twins:
        images = [twins[i] for i in sorted(twins)]
        before = scorer.score(images, lq=photo.pixels, reference=reference)
        alike = _scored_alike(scores.metrics, before.metrics)
        run = with_before_scores(run, {key: before.raw[key] for key in alike}, sorted(twins))
        notices += [f"{key}: both adapters cannot be compared by it" for key in scores.raw if key not in alike]
    values = {
        **run.values,
        "metrics": scores.metrics,
        "left_out": scores.left_out,
        "reference": scores.with_reference,
        "notices": notices,
    }
    return with_scores(replace(run, values=values), scores.raw, indices, job.fidelity_weight)


def upscale(
    photo_path: Path,
    folder: Path,
    job: Job,
    *,
    reference: Path | None = None,
    stop: Stop = lambda: False,
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[Progress]:
    """Restore one photo into `folder`, yielding the growing run after every candidate and once it is ranked.

    The run on disk is valid at every moment. A run that was stopped keeps, scores and ranks what is finished.
    Raises InputError or ConfigError before any work if the photo, the reference or a setting cannot be used, and
    WeightsError if the backbone's weights are missing.
    """
    photo = read_image(photo_path)
    request = job.request((photo.width, photo.height))
    require_weights(job.backbone, job.weights)
    plan = estimate(photo.width, photo.height, job)
    if plan.problem is not None:
        raise InputError(f"{photo_path.name}: {plan.problem}")
    size = request.size or (photo.width, photo.height)
    target = None if reference is None else _reference_image(reference, size)
    _make_room_for(job)
    extra = () if job.weights == _USUAL else (job.weights,)
    restorer = restorer_for(job.backbone, job.adapter, job.dtype, *extra)
    twin = None if job.compare_adapter is None else restorer_for(job.backbone, job.compare_adapter, job.dtype, *extra)
    run = _new_run(photo_path, photo, folder, job, size)
    if reference is not None:
        shutil.copyfile(reference, folder / f"reference{reference.suffix.lower()}")
    dtype = str(restorer.dtype).removeprefix("torch.")
    run = replace(run, values={**run.values, "dtype": dtype, "reference": target is not None})
    run.save()
    alpha = None if photo.alpha is None else enlarge_alpha(photo.alpha, size[1], size[0])
    shown: dict[int, Pixels8] = {}
    twins: dict[int, Pixels8] = {}
    with tempfile.TemporaryDirectory(prefix="sr-shown-") as kept:
        drawing = restorer.restore(
            photo.pixels,
            request,
            twin=twin,
            stop=stop,
            on_step=on_step,
            on_prior=partial(_write_prior, folder, photo, alpha, job),
        )
        for candidate in drawing:
            if not run.candidates and (folder / PRIOR_FILE).is_file():
                run = replace(run, values={**run.values, "prior": PRIOR_FILE})
            if candidate.twin:
                run, pixels = _with_twin(run, candidate, photo, alpha, job)
                if pixels is not None:
                    twins[candidate.index] = _on_disk(pixels, Path(kept), MAX_CANDIDATES + candidate.index)
            else:
                record, pixels = _write_candidate(run, candidate, photo, alpha, job)
                if pixels is not None:
                    shown[candidate.index] = _on_disk(pixels, Path(kept), candidate.index)
                run = replace(run, candidates=(*run.candidates, record))
            new = [notice for notice in candidate.notices if notice not in run.values["notices"]]
            run = replace(run, values={**run.values, "notices": [*run.values["notices"], *new]}) if new else run
            del candidate, pixels
            run.save()
            yield Progress(run=run, stage="drawing", message=f"{len(run.candidates)} of {job.num_candidates} drawn")
        stopped = len(run.candidates) < job.num_candidates
        if shown:
            yield Progress(run=run, stage="scoring", message=f"scoring {len(shown)} candidates")
            run = _scored(run, shown, twins, photo, target, job)
            shown.clear()
            twins.clear()
    run = replace(run, values={**run.values, "status": "stopped" if stopped else "done"})
    run.save()
    ranked = "ranked" if any(record.rank is not None for record in run.candidates) else "not ranked, done"
    ending = f"stopped with {len(run.candidates)} of {job.num_candidates}" if stopped else ranked
    yield Progress(run=run, stage="stopped" if stopped else "done", message=ending)
