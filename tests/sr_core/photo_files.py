"""Small photographs and files of every kind, for the tests of reading and writing."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

LOSSLESS = ("PNG", "WEBP", "TIFF", "BMP", "GIF")


def crop(photos: Path, width: int = 72, height: int = 48) -> Image.Image:
    """Return a detailed piece of a real photograph."""
    with Image.open(photos / "eval" / "472_bluebird.png") as image:
        piece = image.convert("RGB").crop((200, 150, 200 + width, 150 + height))
    piece.info.clear()
    return piece


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode with the reference library of each format."""
    file = BytesIO()
    if kind == "HEIF":
        heif = pillow_heif.from_pillow(image)
        heif[0].info.update(options)
        heif.save(file, quality=-1, chroma=444)
    else:
        extra: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}
        image.save(file, kind, **{**extra.get(kind, {}), **options})
    return file.getvalue()


def exif_bytes(orientation: int = 1) -> bytes:
    """Return EXIF with a name in UTF-8, a place, a maker's block, sizes and a thumbnail's tags."""
    exif = Image.Exif()
    exif[274] = orientation
    exif[271] = "Testmaker"
    exif[282], exif[283], exif[296] = 240.0, 240.0, 2
    exif.get_ifd(0x8769).update({0xA002: 4000, 0xA003: 3000, 0x9003: "2024:05:01 10:00:00", 0x927C: b"private"})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 30.0), 3: "E", 4: (11.0, 30.0, 0.0)})
    return exif.tobytes()


def exif_with_thumbnail(thumbnail: bytes) -> bytes:
    """Return a TIFF structure whose second directory holds a JPEG thumbnail, as cameras write it."""
    first = TiffImagePlugin.ImageFileDirectory_v2()
    first[271] = "Testmaker"
    second = TiffImagePlugin.ImageFileDirectory_v2()
    second[513], second[514] = 0, len(thumbnail)
    head = b"II*\x00\x08\x00\x00\x00"
    block = bytearray(first.tobytes(8))
    link = 2 + 12 * int.from_bytes(block[:2], "little")
    block[link : link + 4] = (8 + len(block)).to_bytes(4, "little")
    return b"Exif\x00\x00" + head + bytes(block) + second.tobytes(8 + len(block)) + thumbnail


def random_alpha(height: int, width: int) -> NDArray[np.uint8]:
    """Return opacity with clear, half-clear and opaque pixels."""
    y, x = np.mgrid[:height, :width]
    return np.clip((np.hypot(y - height / 2, x - width / 2) - 10) * 16, 0, 255).astype(np.uint8)
