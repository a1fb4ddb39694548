import os
from pathlib import Path

import pytest

from sr_core.files import replacing


def test_the_new_content_takes_the_old_one_s_place(tmp_path: Path) -> None:
    path = tmp_path / "figure.bin"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "figure.bin"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"half", "not bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain", tmp_path / "replaced"
    plain.write_bytes(b"")
    with replacing(path) as file:
        file.write(b"")
    assert os.stat(path).st_mode == os.stat(plain).st_mode
