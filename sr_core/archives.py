"""A run as one zip file and back, where every zip is taken for a hostile one."""

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sr_core.backbones.drawing import MAX_GUIDANCE
from sr_core.errors import ConfigError, InputError
from sr_core.exif import GPS_IFD, parse_exif
from sr_core.images import write_image
from sr_core.limits import check_output_size
from sr_core.rewards.group import score_term
from sr_core.rewards.registry import METRIC_SETS
from sr_core.runs import RUN_FILE, CandidateRecord, Run, new_run_id
from sr_core.sandbox import decode_isolated
from sr_core.unpacking import UnpackedImage, files_named_in, unpack_run

MAX_MEMBERS = 48
"""Candidates that one run may hold, drawn and joined together."""
MAX_WORDS = 500
"""Letters in any text of a run that someone hands in."""
WITHOUT_PLACE = ".png"
"""Ending of a photo whose copy in an archive does not say where it was taken."""
MAX_SCORE = 1e12
"""Largest size of a foreign score: differences of scores stay numbers."""
_SEED_END = 2**63
_INDEX_END = 1000
_XMP_PLACE = b"GPSL"
"""Begins the names of latitude and longitude."""


def archive_name(run: Run) -> str:
    """Return the name of a run's folder inside its archive: the photo's, as one plain name."""
    stem = Path(str(run.values["input"]["name"]).replace("\\", "/")).stem
    return "".join(letter if letter.isprintable() else "_" for letter in stem).strip(". ")[:80] or "photo"


def write_archive(run: Run, folder: Path, *, keep_gps: bool = False) -> Path:
    """Pack a run's files with its present ranking; returns the zip file. The run's folder stays as it is.

    A stored photo that says where it was taken is replaced by a lossless copy that does not, unless `keep_gps`, and
    LEFT_OUT.txt says so. Files in the folder that are no part of the run stay out. Raises InputError if the run or one
    of its files is not there any more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{archive_name(run)}_run.zip"
    try:
        _pack(run, target, folder, keep_gps=keep_gps)
    except (OSError, InputError) as error:
        target.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{Path(str(error.filename)).name} must be there to pack its run, but is gone") from error
        raise
    return target


def _pack(run: Run, target: Path, folder: Path, *, keep_gps: bool) -> None:
    name = archive_name(run)
    with (
        tempfile.TemporaryDirectory(prefix=".copies-", dir=folder) as copies,
        zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive,  # the pictures are compressed already
    ):
        shared = shared_files(run, Path(copies), keep_gps=keep_gps)
        for path in shared.paths.values():
            archive.write(path, f"{name}/{path.name}")
        left_out = [
            f"{file} says where it was taken and was left out; {path.name} has its pixels."
            for file, path in shared.paths.items()
            if path.parent != run.folder
        ]
        if left_out:
            left_out.append("Keep GPS data to include it.\n")
            archive.writestr(f"{name}/LEFT_OUT.txt", "\n".join(left_out))
        archive.writestr(f"{name}/{RUN_FILE}", json.dumps(shared.content, indent=1, allow_nan=False) + "\n")


class SharedFiles(NamedTuple):
    """What others get of a run."""

    content: dict[str, Any]
    """Of its run.json, which names the copies."""
    paths: dict[str, Path]
    """Where each file lies, by its name in the run: in its folder, or a copy that does not tell the place."""


def shared_files(run: Run, folder: Path, *, keep_gps: bool = False) -> SharedFiles:
    """Return the files of a run and no others; photos that tell the place are copied into `folder` without it."""
    content, paths = json.loads(run.text()), dict[str, Path]()
    for file, is_own in files_named_in(content, (path.name for path in run.folder.iterdir())).items():
        copy = None if is_own or keep_gps else _without_place(run.folder / file, folder)
        paths[file] = run.folder / file if copy is None else copy
        if copy is not None and file == content["input"]["file"]:
            sha256 = hashlib.sha256(copy.read_bytes()).hexdigest()
            content["input"] |= {
                "file": copy.name, "sha256": sha256, "without_place": True, "original_sha256": run.photo
            }  # fmt: skip
    return SharedFiles(content, paths)


def _without_place(path: Path, folder: Path) -> Path | None:
    """Write a stored photo's pixels without the place into `folder`; None if it does not say where it was taken.

    The place may stand in EXIF, in XMP, or in EXIF that is damaged or too long to be carried.
    """
    decoded = decode_isolated(path)
    exif = decoded.metadata.exif
    in_exif = exif is not None and GPS_IFD in parse_exif(exif).tags
    if not in_exif and _XMP_PLACE not in path.read_bytes() and not any("EXIF" in words for words in decoded.notices):
        return None
    copy = folder / f"{path.stem}{WITHOUT_PLACE}"
    write_image(
        copy,
        decoded.pixels,
        format="png",
        alpha=decoded.alpha,
        metadata=decoded.metadata,
        bit_depth=8 * decoded.pixels.itemsize,
        marked=False,
        fast=True,
    )
    return copy


def read_archive(archive: Path, folder: Path) -> Run:
    """Unpack a run that `write_archive` packed, on any machine, into the new `folder` and return it.

    It gets an id of its own and keeps its origin's as `origin_id`; rewards and ranks are made anew from its scores.
    Nothing is in `folder` before all of it is checked. Raises InputError if anything in the archive cannot be trusted.
    """
    if folder.exists():
        raise InputError(f"{folder} must not exist yet; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".import-", dir=folder.parent))
    try:
        images = unpack_run(archive, aside)
        run = _checked_run(Run.open(aside), images)
        origin = run.values.get("id")
        values = {**run.values, "id": new_run_id(), "origin_id": origin if isinstance(origin, str) else None}
        ranked = replace(run, values=values).reranked(values["fidelity_weight"])
        ranked.save()
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return replace(ranked, folder=folder)


def _checked_run(run: Run, images: Mapping[str, UnpackedImage]) -> Run:
    """Return a run of foreign origin whose values are what the page and the library rely on; else InputError."""
    values = {name: run.values[name] for name in _VALUES if name in run.values}
    for name, is_valid in _VALUES.items():
        if not is_valid(values.get(name)):
            raise InputError(f"{RUN_FILE}: {name} must be what a run writes, got {str(values.get(name))[:80]!r}")
    photo, size = values["input"], tuple(values["size"])
    check_output_size(*size)
    for file, image in images.items():
        wanted = (photo["width"], photo["height"]) if file == photo["file"] else size
        if (image.width, image.height) != wanted:
            said, got = f"{wanted[0]} x {wanted[1]}", f"{image.width} x {image.height}"
            raise InputError(f"{file} must measure {said} px as {RUN_FILE} says, got {got}")
    if not 1 <= len(run.candidates) <= MAX_MEMBERS:
        raise InputError(f"a run must hold 1 to {MAX_MEMBERS} candidates, got {len(run.candidates)}")
    if len({record.index for record in run.candidates}) != len(run.candidates):
        raise InputError(f"{RUN_FILE}: every candidate must have an index of its own")
    return replace(run, values={"dtype": None, **values}, candidates=tuple(map(_checked_record, run.candidates)))


def _checked_record(record: CandidateRecord) -> CandidateRecord:
    """Return a foreign candidate without the reward and rank that its file claims; raises InputError if it is odd."""
    if not (
        _is_index(record.index)
        and (record.seed is None or (type(record.seed) is int and 0 <= record.seed < _SEED_END))
        and _is_words(record.source or "")
        and _is_words(record.problem or "")
        and _is_words(record.dtype)
        and (record.file is None) == (record.problem is not None)
    ):
        raise InputError(f"{RUN_FILE}: candidate {str(record.index)[:20]} must be what a run writes")
    for key, value in (*record.scores.items(), *record.before_scores.items()):
        _check_score(key, value)
    return replace(record, rank=None, reward=None)


def _check_score(key: str, value: object) -> None:
    try:
        score_term(key)
    except ConfigError as error:
        raise InputError(f"{RUN_FILE}: {str(error)[:200]}") from error
    if isinstance(value, bool) or not isinstance(value, float | int) or not abs(value) <= MAX_SCORE:
        raise InputError(f"{RUN_FILE}: the score {key} must be a finite number, got {repr(value)[:40]}")


def _is_words(value: object) -> bool:
    """Return whether a value is a text that fits on the page."""
    return isinstance(value, str) and len(value) <= MAX_WORDS and all(letter.isprintable() for letter in value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _INDEX_END


def _is_input(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(_is_words(value.get(name)) for name in ("file", "name", "sha256"))
        and bool(value["name"].strip(". "))
        and not {"/", "\\"} & set(value["name"])
        and all(_is_count(value.get(name)) for name in ("width", "height"))
    )


def _is_plain(value: object, depth: int = 6) -> bool:
    """Return whether a value is made of texts and numbers that can be shown, not too deep."""
    if isinstance(value, dict | list):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return depth > 0 and all(_is_plain(part, depth - 1) for part in parts)
    if isinstance(value, int | float):
        return abs(value) <= _SEED_END
    return value is None or isinstance(value, str)


def _is_entry(value: object) -> bool:
    """Return whether a value is an object of texts and numbers, or of lists and objects of them, that is not large."""
    return isinstance(value, dict) and len(value) <= 64 and _is_plain(value) and len(json.dumps(value)) <= 20_000


def _is_joined(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _is_entry(value)
        and _is_index(value.get("index"))
        and all(isinstance(value.get(name), str) for name in ("label", "kind", "origin"))
    )


def _is_audit(value: object) -> bool:
    if not isinstance(value, dict) or not _is_entry(value):
        return False
    made = value.get("degradation")
    return made is None or (isinstance(made, dict) and isinstance(made.get("preset"), str))


def _is_metric(value: object) -> bool:
    if not isinstance(value, dict) or not _is_entry(value) or not isinstance(value.get("key"), str):
        return False
    if not isinstance(value.get("crops", []), list):
        return False
    try:
        return score_term(value["key"]).half == value.get("half")
    except ConfigError:
        return False


def _is_left_out(value: object) -> bool:
    return (
        isinstance(value, dict) and _is_entry(value) and all(isinstance(value.get(n), str) for n in ("name", "reason"))
    )


def _are(is_valid: Callable[[object], bool], most: int = 100) -> Callable[[object], bool]:
    """Return a test for lists of at most `most` items that each pass `is_valid`."""
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(is_valid, value))


def _or_nothing(is_valid: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_valid(value)


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _is_weight(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= MAX_GUIDANCE


def _is_share(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= 1


_VALUES: dict[str, Callable[[Any], bool]] = {
    "id": _or_nothing(_is_words),
    "origin_id": _or_nothing(_is_words),
    "version": _is_words,
    "created_at": _or_nothing(_is_words),
    "input": _is_input,
    "size": _is_size,
    "prior": _or_nothing(_is_words),
    "backbone": _is_words,
    "adapter": _is_words,
    "compare_adapter": _or_nothing(_is_words),
    "dtype": _or_nothing(_is_words),
    "steps": _is_count,
    "sampler": _is_words,
    "schedule": _or_nothing(_is_words),
    "tile": _or_nothing(_is_count),
    "guidance": _or_nothing(_is_weight),
    "prompt": _or_nothing(_is_words),
    "negative_prompt": _or_nothing(_is_words),
    "start": _or_nothing(_is_words),
    "strength": _or_nothing(_is_share),
    "parts": _or_nothing(_is_entry),
    "offload": _or_nothing(_is_words),
    "quantize": _or_nothing(_is_words),
    "noise": _or_nothing(lambda value: _is_words(value) or _is_entry(value)),
    "color": _is_words,
    "metric_set": lambda value: value in METRIC_SETS,
    "fidelity_weight": _is_share,
    "tie_band": _or_nothing(_is_share),
    "reference": lambda value: isinstance(value, bool),
    "metrics": _are(_is_metric),
    "left_out": _are(_is_left_out),
    "notices": _are(_is_words),
    "joined": _or_nothing(_are(_is_joined)),
    "next_index": _or_nothing(_is_index),
    "audit": _or_nothing(_is_audit),
    "status": lambda value: value in ("done", "stopped"),
}
"""What each value at the top of a foreign run.json must be; the page shows or computes with all of them.

Others are dropped.
"""
