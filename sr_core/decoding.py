"""Decode untrusted photo files of the accepted formats to upright sRGB arrays."""

import struct
import zlib
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
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

from sr_core.errors import InputError
from sr_core.icc import Array, to_srgb
from sr_core.limits import check_file_size, check_input_size
from sr_core.metadata import Found, Metadata, read_metadata

if TYPE_CHECKING:
    from tifffile import TiffPage

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


class _Raw(NamedTuple):
    """Pixels before orientation and colour management."""

    pixels: Array
    space: str
    alpha: Array | None


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
    raise InputError(
        f"{name} must be a {_ACCEPTED} photo, but its content is {found}; export it as PNG or JPEG"
    )


def decode(data: bytes, name: str) -> Decoded:
    """Decode the first picture of a file; sizes are checked before any pixel is decoded.

    Raises InputError naming the file if it is no accepted photo, too large, too small or damaged.
    """
    check_file_size(len(data), name)
    kind = sniff(data, name)
    try:
        with _open(data, kind) as image:
            check_input_size(*image.size, name)
            found = read_metadata(image, data, kind)
            several = getattr(image, "n_frames", 1) > 1
            raw = _raw_pixels(image, data, kind, name)
    except InputError:
        raise
    except DECODER_ERRORS as error:
        reason = str(error).split("\n", 1)[0][:120] or type(error).__name__
        raise InputError(
            f"{name} must be a complete {kind} file, but it cannot be decoded ({reason}); "
            "export or download it again"
        ) from error
    decoded = _finish(raw, found)
    if several:
        notice = "the file holds several pictures; only the first is used"
        decoded = replace(decoded, notices=(*decoded.notices, notice))
    return decoded


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
    return (height, width) if orientation >= 5 else (width, height)


def _open(data: bytes, kind: str) -> ImageFile:
    """Read the header with the one plugin that the content calls for."""
    if kind == "HEIF":
        from pillow_heif import HeifImageFile

        heif: ImageFile = HeifImageFile(BytesIO(data))  # type: ignore[no-untyped-call]
        return heif
    return _PLUGINS[kind](BytesIO(data))


def _raw_pixels(image: PillowImage.Image, data: bytes, kind: str, name: str) -> _Raw:
    # Pillow keeps 8 of 16 bits in colour images; the two formats that carry 16 have their own way in.
    if kind == "PNG" and data[24] == 16:
        import imagecodecs

        return _split_alpha(imagecodecs.png_decode(data), "colour")
    if kind == "TIFF":
        import tifffile

        with tifffile.TiffFile(BytesIO(data)) as tiff:
            page = tiff.pages.first
            check_input_size(page.imagewidth, page.imagelength, name)
            if 50706 in page.tags or page.subfiletype & 1:
                raise InputError(
                    f"{name} must be a developed photo, got camera raw; export it as JPEG or 16-bit TIFF"
                )
            if page.bitspersample > 8:
                return _deep_tiff(page, name)
    return _pillow_pixels(image, name)


def _deep_tiff(page: "TiffPage", name: str) -> _Raw:
    if page.dtype is None or page.dtype.kind != "u" or page.bitspersample > 16:
        raise InputError(
            f"{name} must hold 8 or 16 bit integers per channel, got {page.bitspersample} bit "
            f"{page.dtype}; export it with 16 bits"
        )
    if page.imagedepth > 1 or page.samplesperpixel > 5:
        raise InputError(f"{name} must have at most 4 channels and opacity, got {page.samplesperpixel}")
    pixels = page.asarray().astype(np.uint16, copy=False)
    if page.planarconfig == 2 and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if page.bitspersample < 16:
        scale = 65535 / (2**page.bitspersample - 1)
        pixels = np.round(pixels * np.float32(scale)).astype(np.uint16)
    if page.photometric == 0:
        pixels = 65535 - pixels
    if page.photometric not in (0, 1, 2, 5):
        raise InputError(f"{name} must be a grey, RGB or CMYK TIFF at 16 bits; export it as RGB")
    raw = _split_alpha(pixels, "cmyk" if page.photometric == 5 else "colour")
    if raw.alpha is not None and page.extrasamples[:1] == (1,):
        return raw._replace(pixels=_unmultiplied(raw.pixels, raw.alpha))
    return raw


def _unmultiplied(pixels: Array, alpha: Array) -> Array:
    """Return straight colours from colours that were multiplied by 16-bit opacity."""
    opacity = np.maximum(alpha, 1)[..., None] if pixels.ndim == 3 else np.maximum(alpha, 1)
    return np.minimum(pixels.astype(np.uint32) * 65535 // opacity, 65535).astype(np.uint16)


def _split_alpha(pixels: Array, space: str) -> _Raw:
    """Tell grey, RGB or CMYK from opacity by the number of channels."""
    if pixels.ndim == 2:
        return _Raw(pixels, "gray", None)
    channels, base = pixels.shape[2], 4 if space == "cmyk" else 3
    if channels <= 2:
        return _Raw(pixels[..., 0], "gray", pixels[..., 1] if channels == 2 else None)
    return _Raw(
        pixels[..., :base],
        "cmyk" if base == 4 else "rgb",
        pixels[..., base] if channels > base else None,
    )


def _pillow_pixels(image: PillowImage.Image, name: str) -> _Raw:
    mode = image.mode
    if mode.startswith("I;16"):
        return _Raw(np.asarray(image).astype(np.uint16), "gray", None)
    if mode in ("I", "F", "LAB"):
        raise InputError(f"{name} must hold 8 or 16 bit grey, RGB or CMYK, got mode {mode}; export it as RGB")
    clear = "transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if mode == "CMYK":
        target = "CMYK"
    elif mode in ("1", "L", "LA", "La"):
        target = "LA" if clear else "L"
    else:
        target = "RGBA" if clear else "RGB"
    if mode == "1" and clear:
        image = image.convert("L")
    converted = image if mode == target else image.convert(target)
    return _split_alpha(np.asarray(converted), "cmyk" if target == "CMYK" else "colour")


def _finish(raw: _Raw, found: Found) -> Decoded:
    pixels, notice = to_srgb(raw.pixels, raw.space, found.metadata.icc)
    alpha = raw.alpha
    if alpha is not None and bool((alpha == np.iinfo(alpha.dtype).max).all()):
        alpha = None
    return Decoded(
        upright(pixels, found.orientation),
        None if alpha is None else upright(alpha, found.orientation),
        found.metadata,
        found.notices if notice is None else (*found.notices, notice),
    )


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn (h, w, ...) pixels so that their EXIF orientation (1 to 8) becomes 1."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def read_xmp(data: bytes, name: str) -> bytes | None:
    """Return the XMP packet of an accepted file, if it has one; raises InputError as `decode`."""
    kind = sniff(data, name)
    try:
        with _open(data, kind) as image:
            packet = image.info.get("xmp")
    except DECODER_ERRORS as error:
        raise InputError(f"{name} must be a complete {kind} file, but its header cannot be read") from error
    return packet if isinstance(packet, bytes) else None
