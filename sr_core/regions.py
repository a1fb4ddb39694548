"""Find faces and text in a picture without a network: where people look first, and where invention hurts most.

Both are finders, not judges: they miss (faces from the side, tilted or small; text on busy ground, single letters,
upright lines) and they err (a trellis is text to them). What they find is a place to look at.

Faces: scikit-image's cascade with its own file of local binary patterns (scikit-image is under the BSD 3-clause
licence; the file is OpenCV's `lbpcascade_frontalface`, BSD too). Text: ours, see `find_text`.
"""

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image as PillowImage

FACE_SIDE = 640
"""Faces are sought in a picture no longer than this."""
FACE_MIN_PX = 32
TEXT_SIDE = 1024
"""Text is sought in a picture this long; smaller ones are enlarged up to twice."""
STROKES_PX = (7, 11, 17, 27)
"""Widest letter strokes that are sought, in pixels of that picture."""
STROKE_LEVELS = 25.0
"""How far a stroke's luma must lie from its ground."""
MIN_CROSSINGS = 6
"""Borders of strokes that a row through the letters meets: at least three strokes."""
MAX_GROUND = 0.33
"""How busy the surroundings may be beside the letters."""
MAX_REGIONS = 6
"""Of each kind; the most certain first."""

Kind = Literal["face", "text"]
Pixels8 = UInt8[ndarray, "h w 3"]
Grey = Float[ndarray, "h w"]


class Box(NamedTuple):
    """A rectangle of whole pixels."""

    left: int
    top: int
    width: int
    height: int

    def scaled(self, factor: float | int, size: tuple[int, int], margin: float | int = 0) -> "Box":
        """Return it on a grid `factor` times as fine, grown by `margin` of its height, inside (width, height)."""
        grown = margin * self.height
        left, top = max(0, int((self.left - grown) * factor)), max(0, int((self.top - grown) * factor))
        right = min(size[0], round((self.left + self.width + grown) * factor))
        bottom = min(size[1], round((self.top + self.height + grown) * factor))
        return Box(left, top, max(1, right - left), max(1, bottom - top))

    def overlap(self, other: "Box") -> float:
        """Return the common area as a share of the smaller one's."""
        width = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        height = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        smaller = min(self.width * self.height, other.width * other.height)
        return max(0, width) * max(0, height) / smaller


class Region(NamedTuple):
    """A place where a face or text seems to be."""

    kind: Kind
    box: Box


@lru_cache(maxsize=1)
def _cascade() -> Any:  # noqa: ANN401
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())  # type: ignore[no-untyped-call]


def find_faces(pixels: Pixels8) -> list[Box]:
    """Return where faces look into the camera, the largest first."""
    height, width = pixels.shape[:2]
    factor = min(1.0, FACE_SIDE / max(height, width))
    small = _resized(pixels, factor)
    side = min(small.shape[:2])
    if side < FACE_MIN_PX:
        return []
    found = _cascade().detect_multi_scale(
        small, scale_factor=1.1, step_ratio=1, min_size=(FACE_MIN_PX,) * 2, max_size=(side, side), min_neighbor_number=8
    )
    boxes = [Box(int(f["c"]), int(f["r"]), int(f["width"]), int(f["height"])) for f in found]
    return _apart([box.scaled(1 / factor, (width, height)) for box in sorted(boxes, key=lambda box: -box.width)])


def find_text(pixels: Pixels8) -> list[Box]:
    """Return where a line of letters seems to stand, the clearest first.

    Strokes are what a morphological closing or opening as wide as a stroke fills or takes away. Strokes side by side
    are closed along rows; what then looks like a line (wider than high, full, crossed by at least three strokes per
    row) and stands on calmer ground than itself is taken for text.
    """
    from scipy import ndimage

    height, width = pixels.shape[:2]
    factor = min(2.0, TEXT_SIDE / max(height, width))
    grey = _grey(_resized(pixels, factor))
    found: list[tuple[float, Box]] = []
    for stroke in STROKES_PX:
        hat = np.maximum(
            ndimage.grey_closing(grey, (stroke, stroke)) - grey, grey - ndimage.grey_opening(grey, (stroke, stroke))
        )
        inked = hat > STROKE_LEVELS
        closed = ndimage.binary_closing(np.pad(inked, 2 * stroke), np.ones((1, stroke + 1)))
        lines = ndimage.binary_opening(closed, np.ones((stroke // 2,) * 2))[2 * stroke : -2 * stroke]
        labels, _ = ndimage.label(lines[:, 2 * stroke : -2 * stroke])
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
            box = Box(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
            filled = float((labels[rows, columns] == number).mean())
            clearness = _clearness(grey, hat, box, stroke, filled)
            if clearness > 0:
                found.append((clearness, box.scaled(1 / factor, (width, height), margin=0.15)))
    return _apart([box for _, box in sorted(found, key=lambda item: -item[0])])


def find_regions(pixels: Pixels8) -> list[Region]:
    """Return the faces and lines of text that are found, in pixels of the picture."""
    faces = [Region("face", box) for box in find_faces(pixels)]
    return faces + [Region("text", box) for box in find_text(pixels)]


def _clearness(grey: Grey, hat: Grey, box: Box, stroke: int, filled: float) -> float:
    """Return how far a box's strokes stand out from around it, in luma levels; 0 where it is no line of letters."""
    left, top, width, height = box
    tall = max(10, stroke) <= height <= 6.5 * stroke
    if not tall or not 1.3 * height <= width <= 20 * height or filled < 0.5:
        return 0.0
    middle = grey[top + height // 4 : top + max(height // 4 + 1, 3 * height // 4), left : left + width]
    dark, light = np.percentile(middle, (10, 90))
    crossings = np.abs(np.diff(middle > (dark + light) / 2, axis=1)).sum(1)
    margin = max(2, height // 3)
    around = hat[max(0, top - margin) : top + height + margin, max(0, left - margin) : left + width + margin]
    close = hat[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1]
    inside = hat[top : top + height, left : left + width].mean()
    outside = (around.sum() - close.sum()) / max(1, around.size - close.size)
    if np.median(crossings) < MIN_CROSSINGS or outside > MAX_GROUND * inside:
        return 0.0
    return float(inside - outside)


def _apart(boxes: list[Box]) -> list[Box]:
    """Return the first boxes that do not cover each other."""
    kept: list[Box] = []
    for box in boxes:
        if len(kept) < MAX_REGIONS and all(box.overlap(other) < 0.3 for other in kept):
            kept.append(box)
    return kept


def _resized(pixels: Pixels8, factor: float | int) -> UInt8[ndarray, "H W 3"]:
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    return np.asarray(PillowImage.fromarray(pixels).resize(size, PillowImage.Resampling.BICUBIC))


def _grey(pixels: Pixels8) -> Grey:
    return np.asarray(PillowImage.fromarray(pixels).convert("L")).astype(np.float64)
