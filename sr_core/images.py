"""Photos in and out: files to tensors with colour management, and back with metadata and the mark."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8, UInt16
from torch import Tensor

from sr_core.alpha import Alpha, bleed_colour
from sr_core.decoding import Decoded, decode, read_upright_size, read_xmp
from sr_core.encoding import Attachments, encode_jpeg, encode_png, encode_tiff, encode_webp
from sr_core.errors import InputError
from sr_core.files import replacing
from sr_core.limits import OUTPUTS, check_file_size, check_output_size
from sr_core.metadata import Marker, Metadata, marker_packet, output_exif, parse_marker
from sr_core.samples import Array, eight_bits
from sr_core.sandbox import decode_isolated
from sr_core.tensors import Image

Pixels8 = UInt8[np.ndarray, "h w 3"]
Pixels16 = UInt16[np.ndarray, "h w 3"]
Opacity = UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]


@dataclass(frozen=True)
class Photo:
    """A photo ready to restore: upright, sRGB, and free of arbitrary colour under clear pixels."""

    pixels: Image
    """(1, 3, h, w), float32."""
    alpha: Alpha | None
    """None where the photo is opaque."""
    metadata: Metadata
    notices: tuple[str, ...]
    """What was assumed or left out, in words for the visitor."""
    name: str
    """The file's name without its ending."""

    @property
    def width(self) -> int:
        """Pixels across."""
        return self.pixels.shape[3]

    @property
    def height(self) -> int:
        """Pixels down."""
        return self.pixels.shape[2]


class FileFormat(NamedTuple):
    """How a kind of output file is made."""

    suffix: str
    encode: Callable[[Array, Attachments], bytes]
    bit_depths: tuple[int, ...]
    lossless: bool


FORMATS = {
    "png": FileFormat(".png", encode_png, (8, 16), lossless=True),
    "webp": FileFormat(".webp", encode_webp, (8,), lossless=True),
    "jpeg": FileFormat(".jpg", encode_jpeg, (8,), lossless=False),
    "tiff": FileFormat(".tif", encode_tiff, (8, 16), lossless=True),
}
"""Every kind of file that a candidate can be downloaded as."""


def read_image(path: Path) -> Photo:
    """Read the first picture of a PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or HEIC file.

    The content decides on the format, not the name. Orientation is applied, colours become sRGB
    (untagged ones are taken as sRGB), and colour is bled under clear pixels. The file is decoded
    in a child process within limits. Raises InputError if it cannot be used.
    """
    decoded = decode_isolated(path)
    pixels = _unit_range(decoded.pixels).permute(2, 0, 1)[None].contiguous()
    alpha = None if decoded.alpha is None else _unit_range(decoded.alpha)[None, None]
    if alpha is not None:
        pixels = bleed_colour(pixels, alpha)
    return Photo(pixels, alpha, decoded.metadata, decoded.notices, path.stem)


def read_output(path: Path) -> Decoded:
    """Read back a file that `write_image` made, up to the output limits, as the integers it holds.

    It is decoded in this process and colour is not bled: use `read_image` for what others hand in.
    """
    return decode(_read_bytes(path, limited=False), path.name, OUTPUTS)


def read_size(path: Path) -> tuple[int, int]:
    """Return a photo's upright (width, height) from its header; raises InputError as `read_image`."""
    return read_upright_size(_read_bytes(path, limited=True), path.name)


def read_marker(path: Path) -> Marker | None:
    """Return the mark of content made with trained models that a file carries, if any."""
    return parse_marker(read_xmp(_read_bytes(path, limited=False), path.name))


def _read_bytes(path: Path, *, limited: bool) -> bytes:
    try:
        if limited:
            check_file_size(path.stat().st_size, path.name)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path.name} must be a readable file: {error.strerror}") from error


def write_image(
    path: Path,
    pixels: Image | Pixels8 | Pixels16,
    *,
    format: str,
    alpha: Alpha | Opacity | None = None,
    metadata: Metadata | None = None,
    keep_gps: bool = False,
    dpi: float | int | None = None,
    bit_depth: int = 8,
    recipe: Mapping[str, object] | None = None,
    marked: bool = True,
    fast: bool = False,
) -> None:
    """Write one image with its metadata, the sRGB profile and the mark; atomically.

    `format` is a name in FORMATS. Tensors are (1, 3, h, w) in [0, 1]; arrays are written as they
    are where their depth is `bit_depth`. `dpi` sets the print resolution, otherwise the photo's own
    is kept. `recipe` is stored as JSON inside the mark; what no trained model made is not `marked`.
    `fast` shortens PNG compression. JPEG has no transparency: what is clear becomes white.

    Raises InputError if the format, the depth or the size cannot be written.
    """
    kind = FORMATS.get(format)
    if kind is None:
        raise InputError(f"the format must be one of {', '.join(FORMATS)}, got {format!r}")
    if bit_depth not in kind.bit_depths:
        raise InputError(
            f"{format} must be written with {' or '.join(map(str, kind.bit_depths))} bits, got {bit_depth}; "
            "choose png or tiff for 16"
        )
    array = _quantised(pixels, bit_depth)
    height, width = array.shape[:2]
    check_output_size(width, height)
    if alpha is not None:
        opacity = alpha if isinstance(alpha, Tensor) else alpha[..., None]
        array = np.concatenate([array, _quantised(opacity, bit_depth)], axis=-1)
    metadata = Metadata() if metadata is None else metadata
    resolution = metadata.dpi if dpi is None else (float(dpi), float(dpi))
    attached = Attachments(
        exif=output_exif(metadata.exif, width, height, resolution, keep_gps=keep_gps),
        xmp=marker_packet(recipe) if marked else b"",
        dpi=resolution,
    )
    encoded = encode_png(array, attached, fast=True) if fast and format == "png" else kind.encode(array, attached)
    with replacing(path) as file:
        file.write(encoded)


def to_uint8(pixels: Image) -> Pixels8:
    """Return the 8-bit pixels of one finite image: floor(255 x + 1/2) after clamping to [0, 1].

    The only rounding to 8 bits in the project, so scores, files and previews agree.
    """
    return _rounded(pixels, 255, torch.uint8).numpy()


def from_uint8(array: Pixels8) -> Image:
    """Return (1, 3, h, w) float32 pixels in [0, 1]; `to_uint8` undoes it exactly."""
    return _unit_range(array).permute(2, 0, 1)[None].contiguous()


def _rounded(pixels: Float[Tensor, "1 c h w"], levels: int, dtype: torch.dtype) -> Shaped[Tensor, "h w c"]:
    scaled = pixels[0].detach().float().clamp(0, 1).mul_(levels).add_(0.5)
    # Converted before it is permuted: that copies bytes instead of floats.
    return scaled.to(device="cpu", dtype=dtype).permute(1, 2, 0).contiguous()


def _quantised(
    pixels: Float[Tensor, "1 c h w"] | UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"], bit_depth: int
) -> Array:
    """Return (h, w, c) integers of `bit_depth`, whatever the pixels come as."""
    if isinstance(pixels, Tensor):
        if bit_depth == 8:
            return _rounded(pixels, 255, torch.uint8).numpy()
        return _rounded(pixels, 65535, torch.int32).numpy().astype(np.uint16)
    if pixels.dtype == np.uint8:
        return pixels if bit_depth == 8 else pixels.astype(np.uint16) * np.uint16(257)
    return pixels if bit_depth == 16 else eight_bits(pixels)


def _unit_range(array: Array) -> Tensor:
    levels = np.iinfo(array.dtype).max
    # torch knows few operations on uint16, hence the detour through numpy
    return torch.from_numpy(array.astype(np.float32)).div_(levels)
