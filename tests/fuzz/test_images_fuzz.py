from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sr_core.decoding import Decoded, decode, read_upright_size, read_xmp
from sr_core.errors import InputError
from tests.sr_core.photo_files import crop, encoded, exif_bytes

T = TypeVar("T")
KINDS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF")
MAGIC = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    b"RIFF\xff\xff\x00\x00WEBPVP8 ",
    b"II*\x00\x08\x00\x00\x00",
    b"MM\x00*\x00\x00\x00\x08",
    b"BM",
    b"GIF89a",
    b"\x00\x00\x00\x1cftypavif",
    b"\x00\x00\x00\x1cftypheic",
    b"",
)
FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@cache
def sample(photos: Path, kind: str) -> bytes:
    options = {} if kind in ("BMP", "GIF") else {"exif": exif_bytes(6)}
    return encoded(crop(photos, 48, 40), kind, **options)


def outcome(read: Callable[[bytes, str], T], data: bytes) -> T | str:
    """Return what was read, or the words of the refusal; any other error propagates."""
    try:
        return read(data, "fuzz")
    except InputError as error:
        return str(error)


def assert_read_or_refused(data: bytes) -> None:
    size, packet, decoded = (outcome(read, data) for read in (read_upright_size, read_xmp, decode))
    assert not isinstance(size, str) or "fuzz" in size
    assert not isinstance(packet, str) or "fuzz" in packet
    if isinstance(decoded, str):
        assert "fuzz" in decoded
    else:
        assert isinstance(decoded, Decoded)
        assert decoded.pixels.shape[2:] == (3,)
        assert min(decoded.pixels.shape[:2]) >= 32


@settings(FUZZ, max_examples=100)
@given(magic=st.sampled_from(MAGIC), content=st.binary(max_size=400))
def test_random_bytes_are_refused(magic: bytes, content: bytes) -> None:
    assert_read_or_refused(magic + content)


@pytest.mark.parametrize("kind", KINDS)
@settings(FUZZ, max_examples=25)
@given(share=st.floats(0, 1))
def test_a_truncated_file_is_refused_or_complete_in_its_pixels(photos: Path, kind: str, share: float) -> None:
    data = sample(photos, kind)
    whole, cut = decode(data, "fuzz"), outcome(decode, data[: int(share * len(data))])
    assert "fuzz" in cut if isinstance(cut, str) else np.array_equal(cut.pixels, whole.pixels)


@pytest.mark.parametrize("kind", KINDS)
@settings(FUZZ, max_examples=25)
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_file_is_read_or_refused(photos: Path, kind: str, changes: list[tuple[float, int]]) -> None:
    damaged = bytearray(sample(photos, kind))
    for place, value in changes:
        # Squared, so that headers are hit more often than pixels.
        damaged[int(place**2 * (len(damaged) - 1))] = value
    assert_read_or_refused(bytes(damaged))
