"""Decode untrusted photo files of the accepted formats to upright sRGB arrays."""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as PillowImage
from PIL.ImageFile import ImageFile

from sr_core.deep_tiff import read_deep_tiff
from sr_core.errors import InputError
from sr_core.icc import to_srgb
from sr_core.limits import UPLOADS, Limits, check_file_size, check_input_size
from sr_core.metadata import Metadata, read_metadata
from sr_core.samples import Array, Samples, split_alpha, upright

DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    MemoryError,
    struct.error,
    zlib.error,
    PillowImage.DecompressionBombError,
)
"""What third-party decoders raise on hostile bytes; a plain Exception would hide our own bugs."""

_PLUGINS: dict[str, type[ImageFile]] = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
_TURNED = frozenset({"TIFF", "HEIF"})
"""Formats whose plugins report the upright size and turn the pixels when they decode."""

_PNG_DEPTH_AT = 24
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_ACCEPTED = "PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or HEIC"
_OTHERS = {
    b"%!PS": "an EPS drawing",
    b"\xc5\xd0\xd3\xc6": "an EPS drawing",
    b"%PDF": "a PDF document",
    b"8BPS": "a Photoshop document",
    b"<svg": "an SVG drawing",
    b"<?xm": "an SVG drawing or another XML text",
    b"\xff\x0a": "a JPEG XL image",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL image",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000 image",
    b"PK\x03\x04": "a zip archive",
}


@dataclass(frozen=True)
class Decoded:
    """A photo as its file holds it, upright and in sRGB."""

    pixels: Array
    """(h, w, 3) RGB."""
    alpha: Array | None
    """(h, w) straight opacity; None where the photo is opaque."""
    metadata: Metadata
    notices: tuple[str, ...]


def sniff(data: bytes, name: str) -> str:
    """Return the accepted format that the first bytes declare, whatever the file is called.

    Raises InputError naming what came instead.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return "TIFF"
    if data.startswith(b"BM"):
        return "BMP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[4:8] == b"ftyp":
        brands = {data[at : at + 4] for at in (8, *range(16, min(len(data), 64), 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
    found = next((what for magic, what in _OTHERS.items() if data.lstrip().startswith(magic)), "not an image")
    raise InputError(f"{name} must be a {_ACCEPTED} photo, but its content is {found}; export it as PNG or JPEG")


def decode(data: bytes, name: str, limits: Limits = UPLOADS) -> Decoded:
    """Decode the first picture of a file; sizes are checked before any pixel is decoded.

    Raises InputError naming the file if it is no accepted photo, too large, too small or damaged.
    """
    check_file_size(len(data), name, limits)
    kind = sniff(data, name)
    try:
        samples = read_deep_tiff(data, name, limits) if kind == "TIFF" else None
        with _open(data, kind) as image:
            check_input_size(*image.size, name, limits)
            found = read_metadata(image, data, kind)
            several = getattr(image, "n_frames", 1) > 1
            # Pillow and libheif turn what they decode, but not what others do
            turned = samples is None and kind in _TURNED
            samples = samples or _samples(image, data, kind, name)
    except InputError:
        raise
    except DECODER_ERRORS as error:
        reason = str(error).split("\n", 1)[0][:120] or type(error).__name__
        raise InputError(
            f"{name} must be a complete {kind} file, but it cannot be decoded ({reason}); export or download it again"
        ) from error
    notices = found.notices
    if several:
        notices = (*notices, "the file holds several pictures; only the first is used")
    return _finish(samples, 1 if turned else found.orientation, found.metadata, notices)


def _finish(samples: Samples, orientation: int, metadata: Metadata, notices: tuple[str, ...]) -> Decoded:
    pixels, notice = to_srgb(samples.pixels, samples.space, metadata.icc)
    alpha = samples.alpha
    if alpha is not None and bool((alpha == np.iinfo(alpha.dtype).max).all()):
        alpha = None
    return Decoded(
        upright(pixels, orientation),
        None if alpha is None else upright(alpha, orientation),
        metadata,
        notices if notice is None else (*notices, notice),
    )


def read_upright_size(data: bytes, name: str) -> tuple[int, int]:
    """Return (width, height) as the photo will be shown, from its header alone; checks as `decode`."""
    check_file_size(len(data), name)
    kind = sniff(data, name)
    try:
        with _open(data, kind) as image:
            check_input_size(*image.size, name)
            width, height = image.size
            orientation = read_metadata(image, data, kind).orientation
    except InputError:
        raise
    except DECODER_ERRORS as error:
        raise InputError(
            f"{name} must be a complete {kind} file, but its header cannot be read; export it again"
        ) from error
    return (height, width) if orientation >= 5 and kind not in _TURNED else (width, height)


def _open(data: bytes, kind: str) -> ImageFile:
    """Read the header with the one plugin that the content calls for."""
    if kind == "HEIF":
        from pillow_heif import HeifImageFile

        heif: ImageFile = HeifImageFile(BytesIO(data))  # type: ignore[no-untyped-call]
        return heif
    return _PLUGINS[kind](BytesIO(data))


def _samples(image: ImageFile, data: bytes, kind: str, name: str) -> Samples:
    # Pillow keeps 8 of 16 bits in colour images; the two formats that carry 16 have their own way in.
    if kind == "PNG" and data[_PNG_DEPTH_AT] == 16:
        import imagecodecs

        return split_alpha(imagecodecs.png_decode(data))
    mode = image.mode
    if mode.startswith("I;16"):
        return Samples(np.asarray(image).astype(np.uint16), "gray", None)
    if mode in ("I", "F", "LAB"):
        raise InputError(f"{name} must hold grey, RGB or CMYK of 8 or 16 bit, got {mode}; export it as RGB")
    clear = "transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if mode == "CMYK":
        target = "CMYK"
    elif mode in ("1", "L", "LA", "La"):
        target = "LA" if clear else "L"
    else:
        target = "RGBA" if clear else "RGB"
    straight: PillowImage.Image = image.convert("L") if mode == "1" and clear else image
    converted = straight if straight.mode == target else straight.convert(target)
    return split_alpha(np.asarray(converted), cmyk=mode == "CMYK")


def read_xmp(data: bytes, name: str) -> bytes | None:
    """Return the XMP packet of an accepted file, if it has one; raises InputError as `decode`."""
    kind = sniff(data, name)
    try:
        with _open(data, kind) as image:
            packet = image.info.get("xmp")
    except DECODER_ERRORS as error:
        raise InputError(f"{name} must be a complete {kind} file, but its header cannot be read") from error
    return packet if isinstance(packet, bytes) else None
