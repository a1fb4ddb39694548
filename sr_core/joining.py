"""Outputs of any other tool join a run as candidates: scored with its metrics, ranked in its group."""

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sr_core.alpha import bleed_colour, enlarge_alpha
from sr_core.archives import MAX_MEMBERS
from sr_core.audit import distances_to
from sr_core.decoding import Decoded
from sr_core.errors import InputError
from sr_core.images import Photo, Pixels8, from_uint8, read_image, read_marker, to_uint8, write_image
from sr_core.pipeline import scorer_for
from sr_core.resampling import resize_clamped
from sr_core.runs import CandidateRecord, Run, reference_file
from sr_core.samples import Array, eight_bits
from sr_core.sandbox import decode_isolated
from sr_core.scoring import local_pixels
from sr_core.tensors import Image
from sr_core.unpacking import IMAGE_SUFFIXES, unpack_images
from sr_core.version import VERSION

MAX_LABEL = 60
"""Letters of a label."""

Read = Callable[[Path], Decoded]
"""Gives the upright sRGB integers of a file; raises InputError if it cannot: `decode_isolated` for a stranger's file,
`read_output` for one of the user's own, which may be larger."""
OnStep = Callable[[int, int], None]


class Member(NamedTuple):
    """A file that is to join a run."""

    path: Path
    label: str
    """What it is called on the page and in run.json."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A run with its new members."""

    run: Run
    indices: tuple[int, ...]
    """Of the candidates that joined."""
    notes: tuple[str, ...]
    """What the visitor must be told, such as what was left out and why."""


def collect_members(paths: Sequence[Path], unpacked: Path) -> list[Member]:
    """Return what is to join: files as they are, the images in folders, and those in zips, which go to `unpacked`.

    Names without their endings become labels, with the folder before them where two are equal. Raises InputError if a
    folder or an archive has no image, or an archive cannot be trusted.
    """
    members = []
    for number, path in enumerate(paths):
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise InputError(f"{path.name} must hold at least one image, got none")
            members += [Member(file, file.stem) for file in found]
        elif path.suffix.lower() == ".zip":
            place = unpacked / str(number)
            place.mkdir()
            images = unpack_images(path, place)
            stems = [Path(image.label).name for image in images]
            labels = [stem if stems.count(stem) == 1 else i.label for i, stem in zip(images, stems, strict=True)]
            members += [Member(place / image.name, label) for image, label in zip(images, labels, strict=True)]
        else:
            members.append(Member(path, path.stem))
    return members


class _Newcomer(NamedTuple):
    """A candidate that is checked and not yet on disk."""

    label: str
    entry: Mapping[str, Any]
    """What run.json says about where it came from."""
    pixels: Pixels8
    """What is scored: the 8-bit pixels of its file."""
    dtype: str
    write: Callable[[Path], None]


def input_file(run: Run) -> Path:
    """Return the photo that a run was made from; raises InputError if it is gone."""
    path = run.folder / str(run.values["input"]["file"])
    if not path.is_file():
        raise InputError(f"{path.name} must lie in the run's folder, since candidates are compared with it")
    return path


def join_images(run: Run, members: Sequence[Member], *, read: Read = decode_isolated) -> Joined:
    """Let images of the output's size join a finished run as candidates, without loss, and rank the group anew.

    Pixels that are in the run already are passed over with a note. Either all others join or none: raises InputError
    naming every file that has another size, cannot be read, or is one too many.
    """
    _check_open(run, len(members))
    size = tuple(run.values["size"])
    odd, newcomers = [], []
    for member in members:
        decoded = read(member.path)
        height, width = decoded.pixels.shape[:2]
        if (width, height) == size:
            newcomers.append(_newcomer_of(member, decoded))
        else:
            odd.append(f"{member.path.name} {width} x {height}")
    if odd:
        raise InputError(
            f"images that join must measure {size[0]} x {size[1]} px like the run's candidates, got {'; '.join(odd)}; "
            "none has joined"
        )
    return _admit(run, newcomers)


def join_baseline(
    run: Run, weights: Path, *, label: str | None = None, on_step: OnStep | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Joined:  # fmt: skip
    """Let what a super-resolution network makes of the run's photo join it; any weight file that spandrel can open.

    Raises WeightsError if the file is no such network, and InputError if it cannot be used on this photo.
    """
    from sr_core.backbones.spandrel_model import restore_isolated

    _check_open(run, 1)
    photo = read_image(input_file(run))
    width, height = run.values["size"]
    restored, model = restore_isolated(weights, photo.pixels, on_step=on_step, stop=stop)
    pixels = resize_clamped(restored, height, width)
    alpha = None if photo.alpha is None else enlarge_alpha(photo.alpha, height, width)
    entry = {**_entry_of(weights, "model"), **model}
    recipe = {"weights": weights.name, "sha256": entry["sha256"], **model, "version": VERSION}

    def write(path: Path) -> None:
        write_image(path, pixels, format="png", alpha=alpha, metadata=photo.metadata, recipe=recipe, fast=True)

    newcomer = _Newcomer(label or weights.stem, entry, to_uint8(pixels), "float32", write)
    return _admit(run, [newcomer])


def part(run: Run, index: int) -> Run:
    """Take a candidate that joined out of its run again, with its file; the others are ranked among themselves.

    Raises InputError for a candidate that the run itself drew.
    """
    found = [record for record in run.candidates if record.index == index]
    if not found or found[0].source is None:
        raise InputError("only a candidate that joined can be taken out again")
    rest = tuple(record for record in run.candidates if record.index != index)
    entries = [entry for entry in run.values.get("joined") or () if entry["index"] != index]
    values = {**run.values, "joined": entries, "next_index": _next_index(run)}
    left = _ranked(replace(run, values=values, candidates=rest))
    left.save()
    run.path(found[0]).unlink(missing_ok=True)
    return left


def _check_open(run: Run, count: int) -> None:
    if run.values["status"] not in ("done", "stopped"):
        raise InputError("a run must be finished before others join it; wait for it or stop it")
    room = MAX_MEMBERS - len(run.candidates)
    if not 1 <= count <= room:
        raise InputError(f"a run must hold at most {MAX_MEMBERS} candidates, so 1 to {room} may join, got {count}")


def _entry_of(path: Path, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "origin": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "joined_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _newcomer_of(member: Member, decoded: Decoded) -> _Newcomer:
    """Read a foreign image as the photo is read: upright, sRGB, and free of arbitrary colour under clear pixels."""
    bits = 8 * decoded.pixels.itemsize
    pixels = decoded.pixels if decoded.alpha is None else _bled(decoded.pixels, decoded.alpha)
    entry = {
        **_entry_of(member.path, "image"), "bits": bits, "alpha": decoded.alpha is not None,
        "notices": list(decoded.notices),
    }  # fmt: skip
    marker = read_marker(member.path)

    def write(path: Path) -> None:
        write_image(
            path, pixels, format="png", alpha=decoded.alpha, bit_depth=bits, fast=True,
            marked=marker is not None, recipe=None if marker is None else marker.recipe,
        )  # fmt: skip

    return _Newcomer(member.label, entry, eight_bits(pixels), str(pixels.dtype), write)


def _bled(pixels: Array, alpha: Array) -> Array:
    levels = np.iinfo(pixels.dtype).max
    colours = torch.from_numpy(pixels.astype(np.float32)).div_(levels).permute(2, 0, 1)[None]
    opacity = torch.from_numpy(alpha.astype(np.float32)).div_(np.iinfo(alpha.dtype).max)[None, None]
    bled = bleed_colour(colours, opacity)[0].permute(1, 2, 0).numpy()
    rounded = np.floor(bled.astype(np.float64) * levels + 0.5)
    return rounded.astype(np.uint8) if pixels.dtype == np.uint8 else rounded.astype(np.uint16)


def _admit(run: Run, newcomers: Sequence[_Newcomer]) -> Joined:
    """Write, score and rank newcomers; the run on disk changes at the end, whole, or not at all."""
    fresh, notes = _without_copies(run, newcomers)
    if not fresh:
        return Joined(run=run, indices=(), notes=notes)
    first = _next_index(run)
    records, entries = [], []
    taken = {record.name for record in run.candidates}
    with _undone_on_error() as written:
        for index, newcomer in enumerate(fresh, start=first):
            label = _free_label(newcomer.label, taken)
            path = run.folder / _file_name(index, label)
            written.append(path)
            newcomer.write(path)
            records.append(CandidateRecord(index=index, seed=None, source=label, file=path.name, dtype=newcomer.dtype))
            entries.append({"index": index, "label": label, **newcomer.entry, **_audited(run, path)})
            notes += tuple(f"{label}: {notice}" for notice in newcomer.entry.get("notices", ()))
        values = {
            **run.values,
            "joined": [*(run.values.get("joined") or ()), *entries],
            "next_index": first + len(fresh),
        }
        grown = replace(run, values=values, candidates=(*run.candidates, *records))
        indices = tuple(record.index for record in records)
        ranked = _ranked(_scored(grown, [newcomer.pixels for newcomer in fresh], indices))
        ranked.save()
    return Joined(run=ranked, indices=indices, notes=(*notes, *_new_gaps(run, ranked)))


def _audited(run: Run, path: Path) -> dict[str, Any]:
    """Return PSNR and LSD of a newcomer to the reference, which an audit keeps of what it drew; else nothing."""
    audit, reference = run.values.get("audit"), reference_file(run)
    if reference is None or not isinstance(audit, Mapping) or "distances" not in audit:
        return {}
    return {"distances": distances_to(from_uint8(local_pixels(reference)), path)}


def _delete_all(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


@contextmanager
def _undone_on_error() -> Iterator[list[Path]]:
    """Yield a list of files that are deleted again if the block raises."""
    written: list[Path] = []
    with ExitStack() as undo:
        undo.callback(_delete_all, written)
        yield written
        undo.pop_all()


def _without_copies(run: Run, newcomers: Sequence[_Newcomer]) -> tuple[list[_Newcomer], tuple[str, ...]]:
    """Return the newcomers whose pixels are not in the run already, and a note for each other."""
    names = {_digest(local_pixels(run.path(r))): r.name for r in run.candidates if r.file is not None}
    fresh, notes = [], []
    for newcomer in newcomers:
        digest = _digest(newcomer.pixels)
        if digest in names:
            notes.append(f"{newcomer.label} has the same pixels as {names[digest]} and was not joined again")
        else:
            names[digest] = newcomer.label
            fresh.append(newcomer)
    return fresh, tuple(notes)


def _digest(pixels: Pixels8) -> bytes:
    return hashlib.sha256(pixels.tobytes()).digest()


def _next_index(run: Run) -> int:
    """Return the index of the next member: one that no candidate has, nor had before it was taken out."""
    return max(1 + max((record.index for record in run.candidates), default=-1), int(run.values.get("next_index") or 0))


def _free_label(label: str, taken: set[str]) -> str:
    """Return a label that fits on a card and that no other candidate has, and take it."""
    plain = "".join(letter if letter.isprintable() else " " for letter in label).strip()[:MAX_LABEL] or "image"
    free, number = plain, 2
    while free in taken:
        free, number = f"{plain} ({number})", number + 1
    taken.add(free)
    return free


def _file_name(index: int, label: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9.-]+", "_", label).strip("._")[:40] or "image"
    return f"joined{index}_{slug}.png"


def _conditions(run: Run) -> tuple[Photo, Image | None]:
    """Return what a run's candidates are compared with: the photo, and the reference if there is one."""
    reference = reference_file(run)
    return read_image(input_file(run)), None if reference is None else read_image(reference).pixels


def _scored(run: Run, pixels: Sequence[Pixels8], indices: Sequence[int]) -> Run:
    """Put scores on the new candidates, in the crops in which the group was scored, and leave the others theirs.

    Only if those that are there were not scored by the metrics that are here now, all of them are scored again.
    """
    photo, reference = _conditions(run)
    known = {key for record in run.candidates for key in record.scores}
    if not known or known - {metric["key"] for metric in run.values["metrics"]}:
        return _rescored(run, photo, reference)
    scorer = scorer_for(run.values["metric_set"])
    scores = scorer.score_like(pixels, run.values["metrics"], lq=photo.pixels, reference=reference)
    if scores is None:
        return _rescored(run, photo, reference)
    found = dict(zip(indices, scores, strict=True))
    records = (replace(record, scores=found.get(record.index, record.scores)) for record in run.candidates)
    return replace(run, candidates=tuple(records))


def _rescored(run: Run, photo: Photo, reference: Image | None) -> Run:
    """Score every candidate again with the metrics that are here now: those that the run drew together, others alike.

    So are the images of the adapter to compare with.
    """
    scorer = scorer_for(run.values["metric_set"])
    files = {record.index: run.path(record) for record in run.candidates if record.file is not None}
    drawn = {record.index for record in run.candidates if record.source is None} & files.keys() or set(files)
    others = {index: path for index, path in files.items() if index not in drawn}
    twins = {record.index: run.folder / record.before for record in run.candidates if record.before is not None}
    with tempfile.TemporaryDirectory(prefix="sr-rescore-") as kept:

        def images(paths: Iterable[Path]) -> list[Pixels8]:
            return [_mapped(local_pixels(path), Path(kept) / f"{path.name}.npy") for path in paths]

        def alike(paths: Mapping[int, Path], metrics: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
            if not paths:
                return {}
            found = scorer.score_like(images(paths.values()), metrics, lq=photo.pixels, reference=reference)
            return dict(zip(paths, found or (), strict=True))

        group = images(path for index, path in files.items() if index in drawn)
        scores = scorer.score(group, lq=photo.pixels, reference=reference)
        found, before = alike(others, scores.metrics), alike(twins, scores.metrics)
    for place, index in enumerate(index for index in files if index in drawn):
        found[index] = {key: column[place] for key, column in scores.raw.items()}
    records = (replace(r, scores=found.get(r.index, {}), before_scores=before.get(r.index, {})) for r in run.candidates)
    values = {**run.values, "metrics": scores.metrics, "left_out": scores.left_out}
    return replace(run, values=values, candidates=tuple(records))


def _mapped(pixels: Pixels8, path: Path) -> Pixels8:
    """Return the same pixels read from a file as they are needed, so that candidates do not add up in memory."""
    np.save(path, pixels, allow_pickle=False)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _ranked(run: Run) -> Run:
    """Return a run ranked by the scores that all its candidates have; the others are listed as left out."""
    scored = [record for record in run.candidates if record.scores]
    gaps = []
    for key in (metric["key"] for metric in run.values["metrics"]):
        lacking = [record.name for record in scored if key not in record.scores]
        if lacking:
            reason = f"gives no value for {', '.join(lacking)}; the group is ranked without it while that is a member"
            gaps.append({"name": key, "reason": reason, "members": len(lacking)})
    kept = [entry for entry in run.values["left_out"] if "members" not in entry]
    values = {**run.values, "left_out": [*kept, *gaps]}
    return replace(run, values=values).reranked(float(run.values["fidelity_weight"]))


def _new_gaps(before: Run, after: Run) -> tuple[str, ...]:
    """Return in words what is left out of the reward now and was not before, and what failed to be scored at all."""
    known = [entry["name"] for entry in before.values["left_out"]]
    words = [f"{e['name']}: {e['reason']}" for e in after.values["left_out"] if e["name"] not in known]
    words += [f"{r.name} cannot be scored and is not ranked" for r in after.candidates if r.file and not r.scores]
    return tuple(words)
