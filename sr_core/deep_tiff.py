"""Read the TIFFs whose depth Pillow would cut, and turn away those that are no finished photo."""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from sr_core.errors import InputError
from sr_core.limits import Limits, check_input_size
from sr_core.samples import Array, Samples, split_alpha

if TYPE_CHECKING:
    from tifffile import TiffPage

_DNG_VERSION = 50706
_REDUCED = 1
_WHITE_IS_ZERO, _SEPARATED = 0, 5
_PHOTOMETRICS = {_WHITE_IS_ZERO: "grey", 1: "grey", 2: "RGB", _SEPARATED: "CMYK"}
_PLANAR = 2
_ASSOCIATED = 1


def read_deep_tiff(data: bytes, name: str, limits: Limits) -> Samples | None:
    """Decode the first page of a 16-bit TIFF; None if it has 8 bits or fewer, which Pillow reads.

    Raises InputError if the page is too large, a camera's raw data, or of another sample type.
    """
    import tifffile

    with tifffile.TiffFile(BytesIO(data)) as tiff:
        page = tiff.pages.first
        check_input_size(page.imagewidth, page.imagelength, name, limits)
        if _DNG_VERSION in page.tags or page.subfiletype & _REDUCED:
            raise InputError(f"{name} must be a developed photo, got camera raw; export it as JPEG or TIFF")
        if page.bitspersample <= 8:
            return None
        if page.bitspersample != 16 or page.sampleformat != 1:
            raise InputError(
                f"{name} must hold 8 or 16 bit integers, got {page.bitspersample} bit samples of type "
                f"{page.dtype}; export it with 16 bit"
            )
        if page.photometric not in _PHOTOMETRICS or page.imagedepth > 1 or page.samplesperpixel > 5:
            raise InputError(f"{name} must be a grey, RGB or CMYK picture; export it as RGB")
        return _samples(page)


def _samples(page: "TiffPage") -> Samples:
    pixels: Array = page.asarray().astype(np.uint16, copy=False)
    if page.planarconfig == _PLANAR and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if page.photometric == _WHITE_IS_ZERO:
        pixels = np.uint16(65535) - pixels
    samples = split_alpha(pixels, cmyk=page.photometric == _SEPARATED)
    if samples.alpha is not None and page.extrasamples[:1] == (_ASSOCIATED,):
        return samples._replace(pixels=_unmultiplied(samples.pixels, samples.alpha))
    return samples


def _unmultiplied(pixels: Array, alpha: Array) -> Array:
    """Return straight colours from colours that were multiplied by 16-bit opacity."""
    opacity = np.maximum(alpha, 1)[..., None] if pixels.ndim == 3 else np.maximum(alpha, 1)
    return np.minimum(pixels.astype(np.uint32) * 65535 // opacity, 65535).astype(np.uint16)
