import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Literal

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from sr_core.decoding import decode, read_upright_size, sniff
from sr_core.errors import InputError
from sr_core.samples import upright
from tests.sr_core.photo_files import LOSSLESS, crop, encoded, exif_bytes, random_alpha


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_a_lossless_file_gives_its_exact_pixels(photos: Path, kind: str) -> None:
    image = crop(photos)
    decoded = decode(encoded(image, kind), "photo")
    assert np.array_equal(decoded.pixels, np.asarray(image))
    assert decoded.alpha is None
    assert decoded.notices == ()


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "HEIF", "GIF"])
def test_a_lossy_file_gives_nearly_its_pixels(photos: Path, kind: str) -> None:
    image = crop(photos)
    decoded = decode(encoded(image, kind), "photo")
    error = np.abs(decoded.pixels.astype(int) - np.asarray(image)).mean()
    assert decoded.pixels.shape == (48, 72, 3)
    assert error < 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_applied_as_pillow_applies_it(photos: Path, kind: str, orientation: int) -> None:
    data = encoded(crop(photos), kind, exif=exif_bytes(orientation))
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    decoded = decode(data, "photo")
    assert np.array_equal(decoded.pixels, expected)
    assert read_upright_size(data, "photo") == expected.shape[1::-1]


def test_eight_files_that_store_one_photo_in_eight_ways_give_identical_pixels(photos: Path) -> None:
    upright_pixels = np.asarray(crop(photos))
    for orientation in range(1, 9):
        # 6 and 8 undo each other, all others undo themselves
        stored = upright(upright_pixels, {6: 8, 8: 6}.get(orientation, orientation))
        data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif_bytes(orientation))
        assert np.array_equal(decode(data, "photo").pixels, upright_pixels)


def test_a_turned_heic_is_turned_once(photos: Path) -> None:
    image = crop(photos)
    decoded = decode(encoded(image, "HEIF", exif=exif_bytes(6)), "photo.heic")
    expected = np.asarray(image.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert decoded.pixels.shape == expected.shape
    assert np.abs(decoded.pixels - expected).mean() < 2


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_grey_palette_and_bilevel_images_become_rgb(photos: Path, mode: str) -> None:
    image = crop(photos).convert(mode)
    decoded = decode(encoded(image, "PNG"), "photo")
    assert np.array_equal(decoded.pixels, np.asarray(image.convert("RGB")))
    assert decoded.alpha is None


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_opacity_is_returned_apart_from_the_colours(photos: Path, mode: str) -> None:
    image = crop(photos)
    alpha = random_alpha(48, 72)
    image.putalpha(Image.fromarray(alpha))
    image = image.convert(mode)
    decoded = decode(encoded(image, "PNG"), "photo")
    assert np.array_equal(decoded.pixels, np.asarray(image.convert("RGB")))
    assert decoded.alpha is not None
    assert np.array_equal(decoded.alpha, alpha)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_becomes_opacity(photos: Path, mode: str) -> None:
    image = crop(photos).convert(mode)
    clear = image.getpixel((3, 3))
    data = encoded(image, "PNG", transparency=clear)
    decoded = decode(data, "photo")
    with Image.open(BytesIO(data)) as reopened:
        expected = np.asarray(reopened.convert("L" if mode == "1" else "RGBA").convert("RGBA"))[..., 3]
    assert decoded.alpha is not None
    if mode != "1":
        assert np.array_equal(decoded.alpha, expected)
    assert decoded.alpha[3, 3] == 0
    assert decoded.alpha.max() == 255


def test_opacity_that_is_full_everywhere_is_no_opacity(photos: Path) -> None:
    assert decode(encoded(crop(photos).convert("RGBA"), "PNG"), "photo").alpha is None


def test_cmyk_without_a_profile_is_approximate_and_says_so(photos: Path) -> None:
    image = crop(photos).convert("CMYK")
    decoded = decode(encoded(image, "TIFF"), "photo")
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(decoded.pixels - expected).max() <= 1
    assert "CMYK" in decoded.notices[0]


def deep(photos: Path, channels: int) -> np.ndarray:
    """Return 16-bit pixels whose low bytes carry information."""
    pixels = np.asarray(crop(photos)).astype(np.uint16) * 257
    ramp = np.arange(pixels.size, dtype=np.uint16).reshape(pixels.shape) % 199
    pixels = np.minimum(pixels, 65000) + ramp
    if channels == 1:
        return pixels[..., 0].copy()
    return np.concatenate([pixels, pixels[..., :1]], axis=-1) if channels == 4 else pixels


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_stay_sixteen_bits(photos: Path, kind: str, channels: int) -> None:
    pixels = deep(photos, channels)
    if kind == "PNG":
        data = bytes(imagecodecs.png_encode(pixels))
    else:
        file = BytesIO()
        tifffile.imwrite(
            file,
            pixels,
            photometric="minisblack" if channels == 1 else "rgb",
            compression="deflate",
            predictor=True,
            extrasamples=[2] if channels == 4 else None,
        )
        data = file.getvalue()
    decoded = decode(data, "photo")
    assert decoded.pixels.dtype == np.uint16
    expected = np.stack([pixels] * 3, -1) if channels == 1 else pixels[..., :3]
    assert np.array_equal(decoded.pixels, expected)
    if channels == 4:
        assert decoded.alpha is not None
        assert np.array_equal(decoded.alpha, pixels[..., 3])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_16_bit_tiff_is_read_in_both_byte_orders_and_layouts(
    photos: Path, byteorder: Literal["<", ">"], planarconfig: str
) -> None:
    pixels, file = deep(photos, 3), BytesIO()
    stored = np.moveaxis(pixels, -1, 0) if planarconfig == "separate" else pixels
    tifffile.imwrite(file, stored, photometric="rgb", planarconfig=planarconfig, byteorder=byteorder)
    assert np.array_equal(decode(file.getvalue(), "photo").pixels, pixels)


def test_a_16_bit_tiff_is_turned_upright(photos: Path) -> None:
    pixels, file = deep(photos, 3), BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    assert np.array_equal(decode(file.getvalue(), "photo").pixels, np.rot90(pixels, -1))
    assert read_upright_size(file.getvalue(), "photo") == (48, 72)


def test_a_16_bit_tiff_whose_zero_is_white_is_inverted(photos: Path) -> None:
    pixels, file = deep(photos, 1), BytesIO()
    tifffile.imwrite(file, 65535 - pixels, photometric="miniswhite")
    assert np.array_equal(decode(file.getvalue(), "photo").pixels[..., 0], pixels)


def test_colours_multiplied_by_16_bit_opacity_are_divided_again(photos: Path) -> None:
    pixels, file = deep(photos, 4), BytesIO()
    pixels[..., 3] = np.linspace(8000, 65535, 72, dtype=np.uint16)
    multiplied = pixels.copy()
    multiplied[..., :3] = pixels[..., :3].astype(np.uint64) * pixels[..., 3:] // 65535
    tifffile.imwrite(file, multiplied, photometric="rgb", extrasamples=[1])
    decoded = decode(file.getvalue(), "photo")
    assert np.abs(decoded.pixels.astype(int) - pixels[..., :3]).max() <= 65535 / 8000 + 1


@pytest.mark.parametrize("dtype", [np.float32, np.uint32, np.int16])
def test_tiffs_of_other_sample_types_are_refused_in_words(photos: Path, dtype: type) -> None:
    file = BytesIO()
    tifffile.imwrite(file, deep(photos, 3).astype(dtype), photometric="rgb")
    with pytest.raises(InputError, match=r"scan\.tif .*16 bit"):
        decode(file.getvalue(), "scan.tif")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_pictures_is_used_and_said(photos: Path, kind: str) -> None:
    first = crop(photos).quantize(64) if kind == "GIF" else crop(photos)
    data = encoded(first, kind, save_all=True, append_images=[ImageOps.mirror(crop(photos))])
    decoded = decode(data, "photo")
    assert np.array_equal(decoded.pixels, np.asarray(first.convert("RGB")))
    assert any("only the first" in notice for notice in decoded.notices)


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0", b"%PDF-1.7", b"<svg xmlns='x'/>", b"8BPS\x00", b"\x00" * 99]
)
def test_other_content_is_refused_whatever_the_name(content: bytes) -> None:
    with pytest.raises(InputError, match=r"drawing\.png must be a PNG"):
        decode(content, "drawing.png")


def test_the_content_decides_on_the_format_not_the_name(photos: Path) -> None:
    assert sniff(encoded(crop(photos), "WEBP"), "photo.jpg") == "WEBP"
    assert decode(encoded(crop(photos), "WEBP"), "photo.jpg").pixels.shape == (48, 72, 3)


def test_a_drawing_with_an_image_s_ending_never_reaches_another_plugin() -> None:
    with pytest.raises(InputError):
        decode(b"\x89PNG\r\n\x1a\n%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "drawing.png")


def bilevel_png(side: int) -> bytes:
    """Return a few kilobytes that unfold to side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    bomb = bilevel_png(side)
    assert len(bomb) < 100_000
    with pytest.raises(InputError, match=rf"bomb\.png must hold at most 50 megapixels, got {side} x {side}"):
        decode(bomb, "bomb.png")


def test_the_largest_photo_is_accepted_by_its_header() -> None:
    assert read_upright_size(bilevel_png(7_071), "large.png") == (7_071, 7_071)


@pytest.mark.parametrize("size", [(1, 1), (31, 400), (5000, 1), (400, 31)])
def test_images_below_the_minimum_side_are_refused(size: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", size), "PNG")
    for read in (decode, read_upright_size):
        with pytest.raises(InputError, match="at least 32 px a side"):
            read(data, "tiny.png")


@pytest.mark.parametrize("kind", [*LOSSLESS, "JPEG", "AVIF", "HEIF"])
def test_half_a_file_is_refused_and_named(photos: Path, kind: str) -> None:
    data = encoded(crop(photos), kind)
    with pytest.raises(InputError, match=r"photo\.x must be a complete \w+ file"):
        decode(data[: len(data) // 2], "photo.x")


def test_camera_raw_is_refused_rather_than_read_as_its_preview(photos: Path) -> None:
    file = BytesIO()
    tifffile.imwrite(
        file,
        np.asarray(crop(photos)),
        photometric="rgb",
        extratags=[(50706, 1, 4, b"\x01\x04\x00\x00", True)],
    )
    with pytest.raises(InputError, match="camera raw"):
        decode(file.getvalue(), "photo.dng")


def test_exif_that_cannot_be_read_is_left_out_with_a_notice(photos: Path) -> None:
    decoded = decode(encoded(crop(photos), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"), "photo")
    assert decoded.metadata.exif is None
    assert "EXIF" in decoded.notices[0]


def test_a_profile_that_cannot_be_read_is_left_out_with_a_notice(photos: Path) -> None:
    junk = bytes(16) + b"RGB " + bytes(200)
    decoded = decode(encoded(crop(photos), "PNG", icc_profile=junk), "photo")
    assert np.array_equal(decoded.pixels, np.asarray(crop(photos)))
    assert "profile cannot be read" in decoded.notices[0]
