"""Numbers of a crop: how far every picture's edges lie from the input's."""

import numpy as np
import pandas as pd
import torch

from sr_core.edge_drift import MIN_EDGES, Region, edge_drift
from sr_core.errors import InputError
from sr_core.files import replacing
from sr_core.images import from_uint8
from sr_core.regions import Box
from sr_core.resampling import resize
from sr_core.scoring import local_pixels
from sr_core.tensors import Image
from sr_core.ui.explorer.run_pictures import RunPicture, run_pictures
from sr_core.ui.visits import Shown


def drift_table(shown: Shown, box: Box) -> tuple[pd.DataFrame, str]:
    """Return one row per picture of the run, by its id, with its edge drift in a box of the output, and a note.

    Raises InputError unless the box lies in the picture.
    """
    width, height = shown.run.values["size"]
    inside = 0 <= box.left < box.left + box.width <= width and 0 <= box.top < box.top + box.height <= height
    if not inside:
        raise InputError(f"a crop must lie inside the {width} x {height} px of the picture, got {tuple(box)}")
    pictures = run_pictures(shown)
    lq = from_uint8(local_pixels(pictures[0].path))
    fx, fy = lq.shape[3] / width, lq.shape[2] / height
    region = Region(box.left * fx, box.top * fy, (box.left + box.width) * fx, (box.top + box.height) * fy)
    rows, num_edges = {}, 0
    for picture in pictures[1:]:
        found = edge_drift(_reduced(shown, picture, lq), lq, region)
        num_edges = found.num_edges
        rows[picture.id] = [float(part) for part in (*found[:4], 100 * found.lost)]
    columns = ["Drift, px", "Moved right, px", "Moved down, px", "Strength", "Lost, %"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table.index.name = "Picture"
    return table.round(3), _note(num_edges)


def _note(num_edges: int) -> str:
    if num_edges < MIN_EDGES:
        return f"The input has {num_edges} edge pixels here; fewer than {MIN_EDGES} say nothing. Choose a larger crop."
    return (
        f"Over {num_edges} edge pixels of the input. Each picture is reduced to the input's size first, so new detail "
        "does not count: drift is how far an edge lies from the input's, in input pixels; strength 1 is as strong as "
        "in the input; lost edges have less than half of it. An edge in place says nothing about what lies between."
    )


def _reduced(shown: Shown, picture: RunPicture, lq: Image) -> Image:
    """Return a picture at the input's size, kept beside the page's other files once it is made."""
    stamp = picture.path.stat().st_mtime_ns
    kept = shown.view_folder / f"{picture.id}-{stamp}.reduced.npy"
    if not kept.is_file():
        pixels = resize(from_uint8(local_pixels(picture.path)), lq.shape[2], lq.shape[3])
        with replacing(kept) as file:
            np.save(file, pixels.numpy(), allow_pickle=False)
    return torch.from_numpy(np.load(kept, allow_pickle=False))
