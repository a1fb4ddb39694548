"""Files for the visitor to keep: one candidate in a chosen format, or a whole run as a zip."""

import zipfile
from pathlib import Path

from sr_core.images import FORMATS, read_image, read_marker, write_image
from sr_core.runs import CandidateRecord, Run


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
    drawn = read_image(source)
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


def write_archive(run: Run, folder: Path) -> Path:
    """Save the run with its present ranking and pack its folder; returns the zip file."""
    run.save()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{Path(run.values['input']['name']).stem}_run.zip"
    # The pictures are compressed already.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(run.folder.iterdir()):
            archive.write(path, f"{Path(run.values['input']['name']).stem}/{path.name}")
    return target
