"""Encode sRGB arrays as PNG, WebP, JPEG and TIFF with their metadata and the mark inside."""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image as PillowImage

from sr_core.exif import (
    LONG,
    SHORT,
    UNDEFINED,
    ByteOrder,
    Directory,
    Entry,
    Exif,
    integers,
    pack_directory,
    pack_exif,
    tiff_header,
)
from sr_core.icc import srgb_profile
from sr_core.samples import Array

JPEG_QUALITY = 95
_STRIP_BYTES = 2**20
_BYTE = 1
_INCH = 0.0254


@dataclass(frozen=True, kw_only=True)
class Attachments:
    """Everything that is written beside the pixels."""

    exif: Exif
    xmp: bytes
    """Empty for none."""
    dpi: tuple[float, float] | None


def encode_png(pixels: Array, attached: Attachments, *, fast: bool = False) -> bytes:
    """Encode (h, w, 3 or 4) uint8 or uint16 pixels; `fast` trades some 10 % of size for time."""
    from imagecodecs import PNG, png_encode

    if fast:
        encoded = png_encode(pixels, level=1, strategy=PNG.STRATEGY.RLE, filter=PNG.FILTER.SUB)
    else:
        encoded = png_encode(pixels, level=6)
    chunks = _png_chunk(b"iCCP", b"ICC profile\x00\x00" + zlib.compress(srgb_profile()))
    if attached.dpi is not None:
        per_metre = [round(value / _INCH) for value in attached.dpi]
        chunks += _png_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    chunks += _png_chunk(b"eXIf", pack_exif(attached.exif))
    if attached.xmp:
        chunks += _png_chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + attached.xmp)
    header_end = 8 + 25
    return bytes(encoded[:header_end]) + chunks + bytes(encoded[header_end:])


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encode_webp(pixels: Array, attached: Attachments) -> bytes:
    """Encode (h, w, 3 or 4) uint8 pixels without loss; colour under clear pixels is kept."""
    file = BytesIO()
    PillowImage.fromarray(pixels).save(
        file,
        "WEBP",
        lossless=True,
        exact=True,
        quality=50,  # effort, not loss: 80 takes twice the time for 0.1 % of size
        method=4,
        exif=pack_exif(attached.exif),
        icc_profile=srgb_profile(),
        xmp=attached.xmp,
    )
    return file.getvalue()


def encode_jpeg(pixels: Array, attached: Attachments) -> bytes:
    """Encode (h, w, 3 or 4) uint8 pixels at quality 95, 4:4:4; what is clear becomes white."""
    if pixels.shape[-1] == 4:
        pixels = _over_white(pixels)
    file = BytesIO()
    PillowImage.fromarray(pixels).save(
        file,
        "JPEG",
        quality=JPEG_QUALITY,
        subsampling=0,
        optimize=True,
        exif=b"Exif\x00\x00" + pack_exif(attached.exif),
        icc_profile=srgb_profile(),
        xmp=attached.xmp,
        dpi=attached.dpi or (0, 0),
    )
    return file.getvalue()


def _over_white(pixels: Array) -> Array:
    opacity = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def encode_tiff(pixels: Array, attached: Attachments) -> bytes:
    """Encode (h, w, 3 or 4) uint8 or uint16 pixels with deflate and horizontal differences.

    The EXIF tree becomes the file's own directory, as the Exif standard has it.
    """
    height, width, channels = pixels.shape
    order = attached.exif.order
    rows = max(1, _STRIP_BYTES // (width * channels * pixels.itemsize))
    strips = [_tiff_strip(pixels[top : top + rows], order) for top in range(0, height, rows)]
    offsets = np.cumsum([8, *map(len, strips)]).tolist()
    tags: Directory = {
        **attached.exif.tags,
        256: integers(LONG, order, width),
        257: integers(LONG, order, height),
        258: integers(SHORT, order, *[8 * pixels.itemsize] * channels),
        259: integers(SHORT, order, 8),  # deflate
        262: integers(SHORT, order, 2),  # RGB
        273: integers(LONG, order, *offsets[:-1]),
        277: integers(SHORT, order, channels),
        278: integers(LONG, order, rows),
        279: integers(LONG, order, *map(len, strips)),
        284: integers(SHORT, order, 1),  # channels side by side
        317: integers(SHORT, order, 2),  # each value less its left neighbour
        34675: Entry(UNDEFINED, srgb_profile()),
    }
    if attached.xmp:
        tags[700] = Entry(_BYTE, attached.xmp)
    if channels == 4:
        tags[338] = integers(SHORT, order, 2)  # straight alpha
    gap = b"\x00" * (offsets[-1] % 2)
    at = offsets[-1] + len(gap)
    return b"".join([tiff_header(order, at), *strips, gap, pack_directory(tags, order, at)])


def _tiff_strip(pixels: Array, order: ByteOrder) -> bytes:
    differences = pixels.copy()
    differences[:, 1:] -= pixels[:, :-1]  # modulo the type's range, as the predictor is defined
    return zlib.compress(differences.astype(differences.dtype.newbyteorder(order)).tobytes(), 6)
