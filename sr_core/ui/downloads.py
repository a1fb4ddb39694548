"""A file for the visitor to keep: one candidate in a chosen format."""

from pathlib import Path

from sr_core.images import FORMATS, read_image, read_marker, read_output, write_image
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
    """Write a candidate's pixels into `folder` with the photo's metadata and its mark, and return the file.

    What joined the run without the mark stays without. `dpi` None keeps the photo's print resolution. A depth that the
    format cannot hold becomes 8 bits.
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
        marked=marker is not None,
    )
    return target
