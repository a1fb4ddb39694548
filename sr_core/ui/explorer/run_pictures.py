"""The pictures of a run that can be looked at: their ids, their lossless files and words for them."""

from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image as PillowImage

from sr_core.backbones import adapter_label
from sr_core.errors import InputError
from sr_core.images import read_image, to_uint8
from sr_core.runs import CandidateRecord, Run, reference_file
from sr_core.scoring import local_pixels
from sr_core.ui.explorer.pins import INPUT, PRIOR, REFERENCE, before_id, candidate_id
from sr_core.ui.pictures import file_url, prepare_input, save_picture
from sr_core.ui.visits import Shown

DRAWN_BY_BROWSERS = {".png", ".webp", ".jpg", ".jpeg"}


class RunPicture(NamedTuple):
    """One picture of a run."""

    id: str
    kind: str
    """input, prior, reference, candidate or before."""
    words: str
    """Short, for a list."""
    label: str
    """What it shows, for captions and screen readers."""
    path: Path
    """A file that browsers show; the run's own where they can."""
    record: CandidateRecord | None = None


def run_pictures(shown: Shown) -> list[RunPicture]:
    """Return input, prior and reference as far as they exist, the candidates best first, and their twins."""
    run, name = shown.run, shown.name
    prepare_input(shown)
    width, height = run.values["size"]
    pictures = [
        RunPicture(
            INPUT, "input", "Input", f"Input photo {name}, enlarged to {width} x {height} px",
            shown.view_folder / "input.png",
        )
    ]  # fmt: skip
    prior = run.values.get("prior")
    if prior and (run.folder / prior).is_file():
        label = f"Prior: what {run.values['backbone']} makes of the photo before any seed"
        pictures.append(RunPicture(PRIOR, "prior", "Prior (no seed)", label, run.folder / prior))
    reference = reference_picture(shown)
    if reference is not None:
        pictures.append(RunPicture(REFERENCE, "reference", "Reference", "Reference: the true photo", reference))
    drawn = [record for record in run.ranked if record.file is not None]
    for record in drawn:
        path = _shown_file(shown, run.path(record))
        words, label = _words(record), _label(run, record)
        pictures.append(RunPicture(candidate_id(record), "candidate", words, label, path, record))
    other = run.values.get("compare_adapter")
    for record in drawn:
        if record.before is not None and other is not None:
            by, without = adapter_label(other), adapter_label(run.values["adapter"])
            label = f"Candidate {record.index + 1}, {record.name}, drawn by {by}, without {without}"
            words = f"{record.name[:1].upper()}{record.name[1:]} by {by}"
            path = _shown_file(shown, run.folder / record.before)
            pictures.append(RunPicture(before_id(record), "before", words, label, path, record))
    return pictures


def find_picture(shown: Shown, picture_id: str) -> RunPicture:
    """Return one picture of a run; raises InputError if it is not there."""
    for picture in run_pictures(shown):
        if picture.id == picture_id:
            return picture
    raise InputError(f"the run has no picture {picture_id!r}")


def picture_value(shown: Shown, picture: RunPicture) -> dict[str, Any]:
    """Return what the browser needs to know of a picture."""
    record = picture.record
    smooth = shown.view_folder / "input_bicubic.png"
    ranked = record is not None and picture.kind == "candidate"
    return {
        "id": picture.id,
        "kind": picture.kind,
        "words": picture.words,
        "label": picture.label,
        "url": file_url(picture.path),
        "smooth": file_url(smooth) if picture.id == INPUT and smooth.is_file() else None,
        "rank": record.rank if record is not None and ranked else None,
    }


def _words(record: CandidateRecord) -> str:
    """Return a candidate in few words: its rank, its name and its reward."""
    place = "" if record.rank is None else f"Rank {record.rank} \u00b7 "
    reward = "" if record.reward is None else f" \u00b7 {record.reward:.3f}"
    words = f"{place}{record.name}{reward}"
    return words[:1].upper() + words[1:]


def _label(run: Run, record: CandidateRecord) -> str:
    if record.rank is None:
        return record.label
    count = sum(other.rank is not None for other in run.candidates)
    return record.label.replace(f"rank {record.rank}", f"rank {record.rank} of {count}")


def reference_picture(shown: Shown) -> Path | None:
    """Return the reference as a picture that browsers show, upright and in sRGB; made once."""
    stored = reference_file(shown.run)
    if stored is None:
        return None
    made = shown.view_folder / "reference.png"
    if not made.is_file():
        shown.view_folder.mkdir(exist_ok=True)
        save_picture(made, PillowImage.fromarray(to_uint8(read_image(stored).pixels)))
    return made


def _shown_file(shown: Shown, path: Path) -> Path:
    """Return a file of the run, or a lossless copy where browsers do not show its format."""
    if path.suffix.lower() in DRAWN_BY_BROWSERS:
        return path
    copy = shown.view_folder / f"{path.stem}.whole.png"
    if not copy.is_file():
        save_picture(copy, PillowImage.fromarray(local_pixels(path)))
    return copy
