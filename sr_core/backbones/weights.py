"""Where the weights of the large backbones lie, and what to type where they are missing."""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_core.backbones.backbone import BackboneSpec, Part
from sr_core.errors import WeightsError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EACCES)
"""What a system says where a file cannot be written: disk full, quota used up, no permission."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """A part of a backbone and where it lies."""

    part: Part
    path: Path | None
    """None where it is missing."""
    origin: str
    """`given`, `folder`, `hub cache` or `missing`."""


def weights_root() -> Path:
    """Return the folder of weights: `SR_WEIGHTS`, or `weights` in the working folder."""
    return Path(os.environ.get("SR_WEIGHTS") or "weights")


def _holds(path: Path, part: Part) -> bool:
    """Return whether a folder holds the part, by one of the files that it needs."""
    return path.is_dir() and (not part.needs or any((path / name).is_file() for name in part.needs))


def find_part(backbone: str, part: Part, explicit: str | Path | None = None) -> Located:
    """Return where a part lies: the explicit file or folder, then the folder of weights, then the hub's cache.

    Nothing is downloaded. Raises WeightsError if an explicit path does not hold the part.
    """
    if explicit is not None:
        path = Path(explicit)
        if not (path.is_file() or _holds(path, part)):
            needs = f" with {' or '.join(part.needs)}" if part.needs else ""
            raise WeightsError(f"{part.name} of {backbone} must be a file or a folder{needs}, got {path}")
        return Located(part=part, path=path, origin="given")
    folder = weights_root() / backbone / part.name
    if _holds(folder, part):
        return Located(part=part, path=folder, origin="folder")
    snapshot = _cached_snapshot(part)
    if snapshot is not None and _holds(snapshot, part):
        return Located(part=part, path=snapshot, origin="hub cache")
    return Located(part=part, path=None, origin="missing")


def _cached_snapshot(part: Part) -> Path | None:
    """Return the hub's own folder of a repository whose files of the part were all downloaded before."""
    if part.hub is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(part.hub, allow_patterns=list(part.files), local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None


def find_parts(name: str, spec: BackboneSpec, given: Mapping[str, str | Path]) -> list[Located]:
    """Return where every part of a backbone lies; raises WeightsError for a given path that holds none."""
    return [find_part(name, part, given.get(part.name)) for part in spec.parts]


def missing_parts(spec: BackboneSpec, located: Sequence[Located]) -> list[Part]:
    """Return the parts without which the backbone cannot run."""
    absent = {found.part.name: found.part for found in located if found.path is None}
    missing = [part for part in absent.values() if not part.optional]
    if spec.one_of and all(name in absent for name in spec.one_of):
        missing += [absent[name] for name in spec.one_of]
    return missing


def describe_missing(name: str, spec: BackboneSpec, located: Sequence[Located]) -> str | None:
    """Say what to get, from where, how large it is, under which licence, and what to type; None if nothing misses."""
    parts = missing_parts(spec, located)
    if not parts:
        return None
    lines = [f"{name} needs weights that are not on this machine:"]
    for part in parts:
        gate = ", gated: agree to it on the hub and run `hf auth login` first" if part.gated else ""
        source = f"hub id {part.hub}" if part.hub else "no hub id is known"
        note = f"; {part.note}" if part.note else ""
        choice = " (one of these is enough)" if part.name in spec.one_of and len(spec.one_of) > 1 else ""
        lines.append(
            f"- {part.name}{choice}: {part.what}, {source}, {_size(part)}, licence {part.licence}{gate}"
            f"{note}; put it at {weights_root() / name / part.name}"
        )
    if any(part.hub for part in parts):
        lines.append(f"To fetch what the hub has, type: sr weights {name} --download")
    return "\n".join(lines)


def locate(name: str, spec: BackboneSpec, given: Mapping[str, str | Path]) -> dict[str, Path]:
    """Return the path of every part that is there.

    Raises WeightsError that lists each missing part with its source, size, licence and what to type.
    """
    unknown = set(given) - {part.name for part in spec.parts}
    if unknown:
        known = ", ".join(part.name for part in spec.parts) or "none"
        raise WeightsError(f"{name} has no part {', '.join(sorted(unknown))}; its parts are: {known}")
    located = find_parts(name, spec, given)
    words = describe_missing(name, spec, located)
    if words is not None:
        raise WeightsError(words)
    return {found.part.name: found.path for found in located if found.path is not None}


def describe_parts(name: str, spec: BackboneSpec) -> str:
    """Return a table of a backbone's parts: what, where found, size, licence; and what to type for those missing."""
    located = find_parts(name, spec, {})
    lines = [f"{name}: {spec.label}"]
    for found in located:
        part = found.part
        where = "missing" if found.path is None else f"{found.origin}: {found.path}"
        extras = [part.licence, *(["gated"] if part.gated else []), *(["optional"] if part.optional else [])]
        lines.append(f"  {part.name:11s} {_size(part):>8s}  {', '.join(extras)}  {part.what}  [{where}]")
    if not located:
        lines.append("  complete: its weights come with the installation")
    words = describe_missing(name, spec, located)
    return "\n".join(lines if words is None else [*lines, words])


def download_parts(name: str, spec: BackboneSpec) -> Iterator[str]:
    """Fetch what the hub has of the parts that are missing, into its cache, which backbones share, saying what is done.

    Raises WeightsError where the hub cannot be reached or does not give a part, or the cache cannot take it.
    """
    for found in find_parts(name, spec, {}):
        part = found.part
        if found.path is not None or (part.optional and part.name not in spec.one_of):
            continue
        if part.hub is None:
            yield f"{part.name}: {part.what} is not on the hub; put it at {weights_root() / name / part.name}"
            continue
        yield f"{part.name}: fetching {part.hub} ({_size(part)}) into the hub's cache"
        _download(part, weights_root() / name / part.name)


def _download(part: Part, folder: Path) -> None:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    assert part.hub is not None
    by_hand = f"copy the folder from a machine that has it to {folder}"
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f"{part.hub} cannot be fetched: HF_HUB_OFFLINE is set; unset it, or {by_hand}")
    try:
        snapshot_download(part.hub, allow_patterns=list(part.files))
    except GatedRepoError as error:
        raise WeightsError(
            f"{part.hub} is gated: agree to its licence ({part.licence}) at https://huggingface.co/{part.hub}, "
            "then run `hf auth login` and try again"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(f"the hub has no {part.hub}, or this account may not see it") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if error.errno in _NO_ROOM:
            raise WeightsError(
                f"{part.hub} needs {_size(part)} in the hub's cache, {constants.HF_HUB_CACHE}, which cannot take it: "
                f"{os.strerror(error.errno)}; make room or let it be written, or set HF_HOME to another folder"
            ) from error
        raise WeightsError(f"the hub cannot be reached to fetch {part.hub}; connect, or {by_hand}") from error


def _size(part: Part) -> str:
    gigabytes = part.num_bytes / 1e9
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.0f} MB"
