"""Files for the visitor to keep: one candidate in a chosen format, or a whole run as a zip."""

import zipfile
from pathlib import Path

from sr_core.exif import GPS_IFD, parse_exif
from sr_core.images import FORMATS, read_image, read_marker, read_output, write_image
from sr_core.runs import CandidateRecord, Run

STORED_PHOTOS = ("input", "reference")
"""Stems of the visitor's own files in a run's folder."""


def write_candidate(
    run: Run,
    record: CandidateRecord,
    folder: Path,
    *,
    format: str,
    bit_depth: int = 8,
    dpi: float | None = None,
    keep_gps: bool = False,
) -> Path:
    """Write a candidate's pixels into `folder` with the photo's metadata and the mark, and return the file.

    `dpi` None keeps the photo's print resolution. A depth that the format cannot hold becomes 8 bits.
    """
    source = run.path(record)
    drawn = read_output(source)
    marker = read_marker(source)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{source.stem}{FORMATS[format].suffix}"
    write_image(
        target,
        drawn.pixels,
        format=format,
        alpha=drawn.alpha,
        metadata=read_image(run.folder / run.values["input"]["file"]).metadata,
        keep_gps=keep_gps,
        dpi=dpi,
        bit_depth=bit_depth if bit_depth in FORMATS[format].bit_depths else 8,
        recipe=None if marker is None else marker.recipe,
    )
    return target


def _tells_where(path: Path) -> bool:
    """Return whether a stored photo says where it was taken."""
    exif = read_image(path).metadata.exif
    return exif is not None and GPS_IFD in parse_exif(exif).tags


def write_archive(run: Run, folder: Path, *, keep_gps: bool = False) -> Path:
    """Save the run with its present ranking and pack its folder; returns the zip file.

    A stored photo that says where it was taken is left out unless `keep_gps`, and LEFT_OUT.txt says so.
    """
    run.save()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{Path(run.values['input']['name']).stem}_run.zip"
    # The pictures are compressed already.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        name = Path(run.values["input"]["name"]).stem
        for path in sorted(run.folder.iterdir()):
            if path.stem in STORED_PHOTOS and not keep_gps and _tells_where(path):
                reason = f"{path.name} says where it was taken and was left out; keep GPS data to include it.\n"
                archive.writestr(f"{name}/LEFT_OUT.txt", reason)
                continue
            archive.write(path, f"{name}/{path.name}")
    return target
