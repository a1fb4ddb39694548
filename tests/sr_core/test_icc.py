from io import BytesIO
from itertools import product

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from sr_core.icc import srgb_profile, to_srgb

D65 = (0.3127, 0.3290, 1.0)
DISPLAY_P3 = (0.680, 0.320, 1.0, 0.265, 0.690, 1.0, 0.150, 0.060, 1.0)
SRGB_PRIMARIES = (0.64, 0.33, 1.0, 0.30, 0.60, 1.0, 0.15, 0.06, 1.0)


def profile(kind: str, gamma: float, primaries: tuple[float, ...] | None = None) -> bytes:
    return imagecodecs.cms_profile(kind, whitepoint=D65, primaries=primaries, gamma=gamma)


def colours(channels: int, dtype: type = np.uint8) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top + 1, (40, 50, channels), dtype=dtype)


def test_display_p3_becomes_srgb_as_littlecms_converts_it() -> None:
    pixels, p3 = colours(3), profile("rgb", 2.2, DISPLAY_P3)
    transform = ImageCms.buildTransform(
        BytesIO(p3),
        BytesIO(srgb_profile()),
        "RGB",
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    expected = np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform)).astype(float)
    converted = to_srgb(pixels, "rgb", p3)
    assert converted.pixels.dtype == np.uint16
    assert converted.notice is None
    assert np.abs(converted.pixels / 257 - expected).max() <= 1


def test_the_red_of_display_p3_does_not_dull() -> None:
    half_red = np.full((1, 1, 3), (200, 60, 60), np.uint8)
    converted = to_srgb(half_red, "rgb", profile("rgb", 2.2, DISPLAY_P3)).pixels[0, 0] / 257
    assert converted[0] > 205
    assert converted[1] < 50


def test_conversion_keeps_greys_grey() -> None:
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=-1)
    converted = to_srgb(greys, "rgb", profile("rgb", 1.8, DISPLAY_P3)).pixels.astype(int)
    assert (converted.max(axis=-1) - converted.min(axis=-1)).max() <= 257


def test_srgb_profiles_change_nothing() -> None:
    pixels = colours(3)
    assert to_srgb(pixels, "rgb", srgb_profile()).pixels is pixels


def test_a_near_relative_of_srgb_is_not_taken_for_it() -> None:
    pixels = colours(3)
    assert to_srgb(pixels, "rgb", profile("rgb", 1.8, SRGB_PRIMARIES)).pixels.dtype == np.uint16


def test_grey_profiles_are_applied() -> None:
    grey = np.arange(256, dtype=np.uint8)[None]
    converted = to_srgb(grey, "gray", profile("gray", 1.0)).pixels / 65535
    linear = grey / 255
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(converted - expected[..., None]).max() < 1 / 255


def test_grey_pixels_with_an_rgb_profile_are_converted_as_rgb() -> None:
    grey, p3 = colours(1)[..., 0], profile("rgb", 1.8, DISPLAY_P3)
    assert np.array_equal(to_srgb(grey, "gray", p3).pixels, to_srgb(np.stack([grey] * 3, -1), "rgb", p3).pixels)


def test_sixteen_bits_are_converted_at_sixteen_bits() -> None:
    ramp = np.repeat(np.arange(0, 65536, 13, dtype=np.uint16)[None, :, None], 3, axis=-1)
    converted = to_srgb(ramp, "rgb", profile("rgb", 1.8, SRGB_PRIMARIES)).pixels[0, :, 0]
    assert len(np.unique(converted)) > 0.95 * ramp.shape[1]


def ink_profile() -> bytes:
    """Return the smallest CMYK profile: a lut8 table whose inks darken Lab lightness alone."""
    corners = [1 - max(k, (c + m + y) / 3) for c, m, y, k in product((0, 1), repeat=4)]
    table = b"".join(bytes([round(255 * lightness), 128, 128]) for lightness in corners)
    ramp = bytes(range(256))
    identity = b"".join(bytes([0, row == column, 0, 0]) for row in range(3) for column in range(3))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table + ramp * 3
    text = b"text\0\0\0\0inks\0"
    white = b"XYZ \0\0\0\0" + bytes.fromhex("0000f6d6 00010000 0000d32d")
    contents = {b"A2B0": lut, b"A2B1": lut, b"cprt": text, b"desc": text, b"wtpt": white}
    at, body, directory = 128 + 4 + 12 * len(contents), b"", len(contents).to_bytes(4, "big")
    for tag, content in contents.items():
        padded = content + bytes(-len(content) % 4)
        directory += tag + (at + len(body)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        body += padded
    header = bytearray(128)
    header[0:4] = (at + len(body)).to_bytes(4, "big")
    header[8:12], header[12:24], header[36:40] = b"\x02\x40\0\0", b"prtrCMYKLab ", b"acsp"
    header[68:80] = bytes.fromhex("0000f6d6 00010000 0000d32d")
    return bytes(header) + directory + body


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cmyk_profiles_are_applied(dtype: type) -> None:
    full = np.iinfo(dtype).max
    inks: np.ndarray = np.array([[[0, 0, 0, 0], [0, 0, 0, full], [full, full, full, 0], [full, 0, 0, 0]]], dtype)
    converted = to_srgb(inks, "cmyk", ink_profile())
    assert converted.notice is None
    white, black, dark, cyan = converted.pixels[0] / 65535
    assert white.min() > 0.99
    assert black.max() < 0.01
    assert dark.max() < 0.01
    # Lab lightness 2/3 is the sRGB grey 0.63; without the profile full cyan would have no red at all.
    assert np.abs(cyan - 0.63).max() < 0.03


def test_cmyk_without_a_profile_follows_the_device_formula() -> None:
    inks = colours(4)
    converted = to_srgb(inks, "cmyk", None)
    light = 1 - inks / 255
    assert np.abs(converted.pixels - light[..., :3] * light[..., 3:] * 255).max() <= 0.5 + 1e-4
    assert converted.notice is not None


@pytest.mark.parametrize("broken", [b"", b"short", bytes(128), bytes(16) + b"RGB " + bytes(300)])
def test_a_profile_that_cannot_be_used_leaves_the_pixels_and_says_so(broken: bytes) -> None:
    pixels = colours(3)
    converted = to_srgb(pixels, "rgb", broken)
    assert converted.pixels is pixels
    assert converted.notice is not None


def test_the_embedded_profile_is_the_same_every_time_and_means_srgb() -> None:
    srgb_profile.cache_clear()
    first = srgb_profile()
    srgb_profile.cache_clear()
    assert srgb_profile() == first
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(first)))
