import os
from pathlib import Path

import numpy as np
import pytest

from sr_core import sandbox
from sr_core.decoding import decode
from sr_core.errors import InputError
from sr_core.limits import MAX_FILE_BYTES
from sr_core.sandbox import decode_isolated
from tests.sr_core.photo_files import crop, encoded, exif_bytes
from tests.sr_core.test_icc import DISPLAY_P3, profile


def test_the_child_decodes_as_the_parent_would(photos: Path, tmp_path: Path) -> None:
    image = crop(photos)
    image.putalpha(128)
    data = encoded(image, "PNG", exif=exif_bytes(5), icc_profile=profile("rgb", 2.2, DISPLAY_P3), dpi=(300, 300))
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    ours, theirs = decode(data, "photo.png"), decode_isolated(path)
    assert np.array_equal(ours.pixels, theirs.pixels)
    assert ours.pixels.dtype == theirs.pixels.dtype
    assert ours.alpha is not None
    assert theirs.alpha is not None
    assert np.array_equal(ours.alpha, theirs.alpha)
    assert ours.metadata == theirs.metadata
    assert ours.notices == theirs.notices


def test_a_refusal_reaches_the_parent_in_the_same_words(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    path.write_bytes(encoded(crop(photos), "JPEG")[:800])
    with pytest.raises(InputError) as ours:
        decode(path.read_bytes(), path.name)
    with pytest.raises(InputError) as theirs:
        decode_isolated(path)
    assert str(ours.value) == str(theirs.value)


def test_a_file_above_the_limit_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.touch()
    os.truncate(path, MAX_FILE_BYTES + 2**20)
    with pytest.raises(InputError, match=r"large\.png must be at most 32 MB, got 33\.0 MB"):
        decode_isolated(path)


def test_a_decoder_that_takes_too_long_is_stopped(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "slow.png"
    path.write_bytes(encoded(crop(photos), "PNG"))
    monkeypatch.setattr(sandbox, "TIMEOUT_S", 0.01)
    with pytest.raises(InputError, match=r"slow\.png must decode within 0\.01 s"):
        decode_isolated(path)


def test_nothing_is_left_in_the_temporary_folder(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, temporary = tmp_path / "photo.png", tmp_path / "temporary"
    path.write_bytes(encoded(crop(photos), "PNG"))
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    decode_isolated(path)
    assert list(temporary.iterdir()) == []
