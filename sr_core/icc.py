"""Turn pixels of any ICC profile into sRGB.

Relative colorimetric with black point compensation, as browsers and photo editors do by default:
colours inside sRGB keep their exact place, those outside are clipped to its hull.
"""

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sr_core.samples import Array

_SPACES = {b"GRAY": "gray", b"RGB ": "rgb", b"CMYK": "cmyk"}
_LATTICE = 9


class SrgbPixels(NamedTuple):
    """Pixels in sRGB and what had to be assumed on the way."""

    pixels: Array
    """(h, w, 3), uint8 or uint16; uint16 wherever a conversion took place."""
    notice: str | None


@cache
def srgb_profile() -> bytes:
    """Return the sRGB profile that every written file carries; the same bytes every time."""
    from PIL import ImageCms

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes.fromhex("07d0 0001 0001 0000 0000 0000")  # the date lcms stamps: 2000-01-01
    return bytes(profile)


def to_srgb(pixels: Array, space: str, profile: bytes | None) -> SrgbPixels:
    """Convert (h, w) grey, (h, w, 3) RGB or (h, w, 4) CMYK pixels, uint8 or uint16, to sRGB.

    Without a profile, or with one that cannot be used, RGB and grey count as sRGB already.
    CMYK ink is 0 for none. A profile that equals sRGB to one 8-bit level changes nothing.
    """
    if profile is None:
        notice = "CMYK without a colour profile: colours are approximate" if space == "cmyk" else None
        return SrgbPixels(_device_rgb(pixels, space), notice)
    declared = _SPACES.get(profile[16:20])
    if space == "gray" and declared == "rgb":
        pixels, space = _device_rgb(pixels, space), "rgb"
    if declared != space:
        return SrgbPixels(
            _device_rgb(pixels, space), "the colour profile does not fit the pixels; they are read as sRGB"
        )
    import imagecodecs

    try:
        if _is_srgb(profile, space):
            return SrgbPixels(_device_rgb(pixels, space), None)
        return SrgbPixels(_transform(pixels, space, profile), None)
    except imagecodecs.CmsError:
        return SrgbPixels(_device_rgb(pixels, space), "the colour profile cannot be read; the pixels are read as sRGB")


def _transform(pixels: Array, space: str, profile: bytes) -> NDArray[np.uint16]:
    if space == "gray":
        # Grey is a curve, so each level is converted once; lcms's own shortcut for grey errs in the darks.
        levels: Array = np.arange(256, dtype=np.uint8)[None]
        if pixels.dtype == np.uint16:
            levels = np.arange(65536, dtype=np.uint16)[None]
        return _lcms(levels, space, profile, exact=True)[0][pixels]
    return _lcms(pixels, space, profile, exact=False)


def _lcms(pixels: Array, space: str, profile: bytes, *, exact: bool) -> NDArray[np.uint16]:
    from imagecodecs import CMS, cms_transform

    flags = CMS.FLAGS.BLACKPOINTCOMPENSATION | (CMS.FLAGS.NOOPTIMIZE if exact else 0)
    converted: NDArray[np.uint16] = cms_transform(
        np.ascontiguousarray(pixels),
        profile,
        srgb_profile(),
        colorspace=space,
        outcolorspace="rgb",
        outdtype=np.uint16,
        intent=CMS.INTENT.RELATIVE_COLORIMETRIC,
        flags=flags,
    )
    return converted


def _is_srgb(profile: bytes, space: str) -> bool:
    """Ask the transform itself: names and checksums of sRGB profiles differ, their numbers do not."""
    if space == "cmyk":
        return False
    steps = np.linspace(0, 255, _LATTICE).round().astype(np.uint8)
    lattice = np.array(list(product(steps, repeat=3)), np.uint8)[None] if space == "rgb" else steps[None]
    converted = _transform(lattice, space, profile).astype(np.float64) / 257
    return bool(np.abs(converted - _device_rgb(lattice, space)).max() <= 1)


def _device_rgb(pixels: Array, space: str) -> Array:
    """Return RGB by definition of the device values alone."""
    if space == "rgb":
        return pixels
    rgb = np.empty_like(pixels, shape=(*pixels.shape[:2], 3))
    if space == "gray":
        rgb[...] = pixels[..., None]
        return rgb
    white = np.iinfo(pixels.dtype).max
    for row, ink in enumerate(pixels):  # by rows: a whole photo of floats would double the memory
        light = 1 - ink.astype(np.float32) / white
        rgb[row] = np.round(light[:, :3] * light[:, 3:] * white)
    return rgb
