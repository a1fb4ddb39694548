from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageCms

from sr_core.assets import ASSETS
from sr_core.errors import InputError
from sr_core.images import (
    FORMATS,
    from_uint8,
    read_image,
    read_marker,
    read_output,
    read_size,
    to_uint8,
    write_image,
)
from sr_core.metadata import DIGITAL_SOURCE_TYPE, Metadata
from tests.sr_core.photo_files import crop, encoded, exif_bytes, exif_with_thumbnail, random_alpha

LOSSLESS = [name for name, kind in FORMATS.items() if kind.lossless]
RECIPE = {"seed": 42, "backbone": "compact", "version": "0.1.0", "reward": 0.71}


def pixels_of(photos: Path) -> np.ndarray:
    return np.asarray(crop(photos)).copy()


@given(arrays(np.uint8, (3, 5, 3)))
def test_eight_bits_survive_the_way_to_a_tensor_and_back(array: np.ndarray) -> None:
    assert np.array_equal(to_uint8(from_uint8(array)), array)


def test_rounding_is_half_up_after_clamping() -> None:
    values = torch.tensor([-0.5, 0.0, 0.5 / 255 - 1e-6, 0.5 / 255 + 1e-6, 127.5 / 255, 254.5 / 255 + 1e-6, 1.0, 7.0])
    rounded = to_uint8(values[None, None, None].expand(1, 3, 1, 8))
    assert rounded[0, :, 0].tolist() == [0, 0, 0, 1, 128, 255, 255, 255]


def test_rounding_does_not_change_its_input() -> None:
    image = torch.full((1, 3, 2, 2), 0.3)
    to_uint8(image)
    assert torch.equal(image, torch.full((1, 3, 2, 2), 0.3))


def test_a_read_photo_has_the_file_s_pixels_and_size(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "vögel am see.jpg"
    path.write_bytes(encoded(crop(photos), "PNG"))
    photo = read_image(path)
    assert np.array_equal(to_uint8(photo.pixels), pixels_of(photos))
    assert (photo.width, photo.height) == (72, 48) == read_size(path)
    assert photo.name == "vögel am see"
    assert photo.alpha is None
    assert photo.notices == ()


def test_a_real_photograph_can_be_read(photos: Path) -> None:
    path = photos / "eval" / "009_canyon-wren.png"
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(to_uint8(read_image(path).pixels), expected)


def test_colour_is_bled_under_clear_pixels(photos: Path, tmp_path: Path) -> None:
    image, alpha = crop(photos), random_alpha(48, 72)
    image.putalpha(Image.fromarray(alpha))
    stored = np.asarray(image).copy()
    stored[alpha == 0] = 0
    path = tmp_path / "logo.png"
    Image.fromarray(stored).save(path)
    photo = read_image(path)
    assert photo.alpha is not None
    assert np.array_equal(np.round(photo.alpha[0, 0].numpy() * 255), alpha)
    read = to_uint8(photo.pixels)
    assert np.array_equal(read[alpha > 16], stored[..., :3][alpha > 16])
    assert read[alpha == 0].mean() > 20


@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("with_alpha", [False, True])
def test_lossless_formats_give_back_the_written_pixels(
    photos: Path, tmp_path: Path, format: str, with_alpha: bool
) -> None:
    array, path = pixels_of(photos), tmp_path / "out"
    opacity = random_alpha(48, 72)
    alpha = torch.from_numpy(opacity / np.float32(255))[None, None] if with_alpha else None
    write_image(path, from_uint8(array), format=format, alpha=alpha)
    with Image.open(path) as image:
        written = np.asarray(image.convert("RGBA" if with_alpha else "RGB"))
    assert np.array_equal(written[..., :3], array)
    if with_alpha:
        assert np.array_equal(written[..., 3], opacity)


@pytest.mark.parametrize("format", list(FORMATS))
def test_arrays_and_tensors_are_written_alike(photos: Path, tmp_path: Path, format: str) -> None:
    array = pixels_of(photos)
    write_image(tmp_path / "array", array, format=format)
    write_image(tmp_path / "tensor", from_uint8(array), format=format)
    assert (tmp_path / "array").read_bytes() == (tmp_path / "tensor").read_bytes()


def test_jpeg_is_written_at_quality_95_without_chroma_reduction(photos: Path, tmp_path: Path) -> None:
    array, path = pixels_of(photos), tmp_path / "out.jpg"
    write_image(path, array, format="jpeg")
    file = BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=95, subsampling=0)
    with Image.open(path) as ours, Image.open(file) as theirs:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_jpeg_shows_clear_pixels_as_white(photos: Path, tmp_path: Path) -> None:
    alpha = torch.zeros(1, 1, 48, 72)
    write_image(tmp_path / "out.jpg", pixels_of(photos), format="jpeg", alpha=alpha)
    with Image.open(tmp_path / "out.jpg") as image:
        assert np.asarray(image).min() >= 254


@pytest.mark.parametrize("format", ["png", "tiff"])
@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_files_hold_sixteen_bits(tmp_path: Path, format: str, channels: int) -> None:
    image = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    alpha = torch.linspace(0.2, 0.9, 2000).reshape(1, 1, 40, 50) if channels == 4 else None
    path = tmp_path / "out"
    write_image(path, image, format=format, bit_depth=16, alpha=alpha)
    photo = read_image(path)
    assert (photo.pixels - image).abs().max() <= 0.5 / 65535 + 1e-7
    if alpha is not None:
        assert photo.alpha is not None
        assert (photo.alpha - alpha).abs().max() <= 0.5 / 65535 + 1e-7
    if format == "tiff":
        expected = np.floor(image[0].permute(1, 2, 0).numpy().astype(np.float64) * 65535 + 0.5)
        assert np.abs(tifffile.imread(path)[..., :3] - expected).max() <= 1


def test_deeper_arrays_keep_their_extremes_in_either_depth(tmp_path: Path) -> None:
    shades = np.linspace(0, 255, 40 * 50 * 3).astype(np.uint8).reshape(40, 50, 3)
    write_image(tmp_path / "deep", shades, format="png", bit_depth=16)
    write_image(tmp_path / "shallow", shades.astype(np.uint16) * 257, format="png", bit_depth=8)
    assert np.array_equal(to_uint8(read_image(tmp_path / "deep").pixels), shades)
    assert np.array_equal(to_uint8(read_image(tmp_path / "shallow").pixels), shades)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_follows_the_byte_order_of_its_exif(photos: Path, tmp_path: Path, byteorder: str) -> None:
    empty = b"II*\x00\x08\x00\x00\x00\x00\x00" if byteorder == "<" else b"MM\x00*\x00\x00\x00\x08\x00\x00"
    array = pixels_of(photos).astype(np.uint16) * 250
    write_image(tmp_path / "out.tif", array, format="tiff", bit_depth=16, metadata=Metadata(exif=empty))
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.byteorder == byteorder
        assert np.array_equal(tiff.asarray(), array)


def test_a_tall_tiff_is_cut_into_strips_that_other_readers_join(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (900, 1100, 3), np.uint8)
    write_image(tmp_path / "out.tif", array, format="tiff")
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert len(tiff.pages.first.dataoffsets) > 1
        assert np.array_equal(tiff.asarray(), array)


@pytest.fixture
def camera_photo(photos: Path, tmp_path: Path) -> Path:
    """Return a JPEG as a telephone writes it: turned, with a place and a resolution."""
    path = tmp_path / "camera.jpg"
    path.write_bytes(encoded(crop(photos), "JPEG", exif=exif_bytes(6)))
    return path


@pytest.mark.parametrize("format", list(FORMATS))
def test_the_photo_s_metadata_comes_back_true_for_the_output(camera_photo: Path, tmp_path: Path, format: str) -> None:
    photo, path = read_image(camera_photo), tmp_path / "out"
    write_image(path, np.zeros((288, 192, 3), np.uint8), format=format, metadata=photo.metadata)
    with Image.open(path) as image:
        exif = image.getexif()
        assert exif[274] == 1
        assert exif[271] == "Testmaker"
        inner = exif.get_ifd(0x8769)
        assert (inner[0xA002], inner[0xA003]) == (192, 288)
        assert inner[0x9003] == "2024:05:01 10:00:00"
        assert inner[0x927C] == b"private"
        assert not exif.get_ifd(0x8825)
        assert float(exif[282]) == 240
    assert read_image(path).metadata.dpi == pytest.approx((240, 240), abs=0.1)


@pytest.mark.parametrize("format", list(FORMATS))
def test_places_are_written_only_when_asked_for(camera_photo: Path, tmp_path: Path, format: str) -> None:
    metadata, path = read_image(camera_photo).metadata, tmp_path / "out"
    array = np.zeros((48, 72, 3), np.uint8)
    write_image(path, array, format=format, metadata=metadata, keep_gps=True)
    with Image.open(path) as image:
        assert image.getexif().get_ifd(0x8825)[2] == (48.0, 12.0, 30.0)
    latitude = metadata.exif is not None and path.read_bytes().find((48).to_bytes(4, "big") + b"\0\0\0\1") >= 0
    write_image(path, array, format=format, metadata=metadata)
    assert latitude
    assert (48).to_bytes(4, "big") + b"\0\0\0\1" not in path.read_bytes()


@pytest.mark.parametrize("format", list(FORMATS))
def test_no_thumbnail_of_the_input_is_left_in_the_output(photos: Path, tmp_path: Path, format: str) -> None:
    thumbnail = encoded(crop(photos, 40, 40), "JPEG")
    source = tmp_path / "camera.jpg"
    source.write_bytes(encoded(crop(photos), "JPEG", exif=exif_with_thumbnail(thumbnail)))
    write_image(tmp_path / "out", pixels_of(photos), format=format, metadata=read_image(source).metadata)
    assert thumbnail[20:200] not in (tmp_path / "out").read_bytes()


@pytest.mark.parametrize("format", list(FORMATS))
@pytest.mark.parametrize("dpi", [72, 300, 240.5])
def test_the_print_resolution_can_be_set(photos: Path, tmp_path: Path, format: str, dpi: float) -> None:
    path = tmp_path / "out"
    write_image(path, pixels_of(photos), format=format, dpi=dpi, metadata=Metadata(dpi=(1.0, 2.0)))
    assert read_image(path).metadata.dpi == pytest.approx((dpi, dpi), abs=0.02)


@pytest.mark.parametrize("format", list(FORMATS))
@pytest.mark.parametrize("bit_depth", [8, 16])
def test_every_file_is_marked_and_carries_its_recipe(photos: Path, tmp_path: Path, format: str, bit_depth: int) -> None:
    if bit_depth not in FORMATS[format].bit_depths:
        return
    path = tmp_path / "out"
    write_image(path, pixels_of(photos), format=format, bit_depth=bit_depth, recipe=RECIPE)
    marker = read_marker(path)
    assert marker is not None
    assert marker.digital_source_type == DIGITAL_SOURCE_TYPE
    assert marker.recipe == RECIPE
    assert DIGITAL_SOURCE_TYPE.encode() in path.read_bytes()


def test_the_mark_survives_conversion_through_every_format(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_image(path, pixels_of(photos), format="png", recipe=RECIPE)
    first = read_marker(path)
    for format in (*FORMATS, *reversed(FORMATS)):
        photo, marker = read_image(path), read_marker(path)
        assert marker is not None
        write_image(path, photo.pixels, format=format, metadata=photo.metadata, recipe=marker.recipe)
        assert read_marker(path) == first


def test_a_photo_straight_from_a_camera_has_no_mark(camera_photo: Path) -> None:
    assert read_marker(camera_photo) is None


@pytest.mark.parametrize("format", list(FORMATS))
def test_every_file_embeds_srgb(photos: Path, tmp_path: Path, format: str) -> None:
    write_image(tmp_path / "out", pixels_of(photos), format=format)
    with Image.open(tmp_path / "out") as image:
        profile = ImageCms.ImageCmsProfile(BytesIO(image.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)


def test_an_output_is_read_back_exactly_even_where_an_upload_of_its_size_is_refused(tmp_path: Path) -> None:
    array = np.zeros((7_100, 7_100, 3), np.uint8)
    array[::50] = 200
    path = tmp_path / "large.png"
    write_image(path, array, format="png", fast=True)
    with pytest.raises(InputError, match="50 megapixels"):
        read_image(path)
    assert np.array_equal(read_output(path).pixels, array)


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_an_output_with_opacity_is_rewritten_without_a_change(photos: Path, tmp_path: Path, bit_depth: int) -> None:
    alpha = torch.from_numpy(random_alpha(48, 72) / np.float32(255))[None, None]
    write_image(tmp_path / "a", pixels_of(photos), format="png", alpha=alpha, bit_depth=bit_depth, recipe=RECIPE)
    first = read_output(tmp_path / "a")
    write_image(
        tmp_path / "b",
        first.pixels,
        format="png",
        alpha=first.alpha,
        metadata=first.metadata,
        bit_depth=bit_depth,
        recipe=RECIPE,
    )
    second = read_output(tmp_path / "b")
    assert np.array_equal(first.pixels, second.pixels)
    assert first.alpha is not None
    assert second.alpha is not None
    assert np.array_equal(first.alpha, second.alpha)


def test_a_quick_png_holds_the_same_pixels(photos: Path, tmp_path: Path) -> None:
    array = pixels_of(photos)
    write_image(tmp_path / "quick.png", array, format="png", fast=True)
    assert np.array_equal(to_uint8(read_image(tmp_path / "quick.png").pixels), array)


def test_what_cannot_be_written_is_refused_before_any_file_exists(photos: Path, tmp_path: Path) -> None:
    array = pixels_of(photos)
    with pytest.raises(InputError, match="png, webp, jpeg, tiff"):
        write_image(tmp_path / "out", array, format="gif")
    with pytest.raises(InputError, match="choose png or tiff"):
        write_image(tmp_path / "out", array, format="jpeg", bit_depth=16)
    with pytest.raises(InputError, match="16383 px a side"):
        write_image(tmp_path / "out", np.zeros((1, 16_384, 3), np.uint8), format="webp")
    assert list(tmp_path.iterdir()) == []


def test_missing_files_and_folders_are_refused_in_words(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.png", tmp_path):
        with pytest.raises(InputError, match="must be a readable file"):
            read_image(path)
        with pytest.raises(InputError, match="must be a readable file"):
            read_size(path)


def test_every_example_on_the_page_can_be_read() -> None:
    examples = [path for path in (ASSETS / "examples").iterdir() if path.suffix != ".md"]
    assert len(examples) == 3
    for path in examples:
        assert path.stat().st_size < 60_000
        assert read_image(path).notices == ()
