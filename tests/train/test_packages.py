import subprocess
from pathlib import Path

import pytest

from sr_core.errors import ConfigError, InputError
from train.data import find_photos
from train.packages import HELD_OUT, PACKAGES, photo_folders, unpack


def build_package(folder: Path, photo: Path) -> Path:
    root = folder / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "usr/share/backgrounds").mkdir(parents=True)
    (root / "usr/share/backgrounds/one.jpg").write_bytes(photo.read_bytes())
    control = (
        "Package: budgie-backgrounds\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    (root / "DEBIAN/control").write_text(control)
    file = folder / "budgie-backgrounds_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(file)], check=True, capture_output=True)
    return file


def test_a_package_yields_its_photographs_and_leaves_nothing_behind(tmp_path: Path, photos: Path) -> None:
    photo = sorted((photos / "train").iterdir())[0]
    file = build_package(tmp_path, photo)
    with photo_folders(["budgie-backgrounds", str(photos / "eval")], fetch=lambda _name, _folder: file) as folders:
        found = list(folders[0].rglob("*.jpg"))
        assert [p.read_bytes() for p in found] == [photo.read_bytes()]
        assert folders[1] == photos / "eval"
        unpacked = folders[0]
    assert not unpacked.exists()


def test_a_file_that_is_no_package_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.deb"
    file.write_bytes(b"not a package")
    with pytest.raises(InputError, match="must be a Debian package"):
        unpack(file, tmp_path / "out")


def test_an_unknown_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="budgie-backgrounds"), photo_folders(["no-such-folder"]):
        pass


def test_every_package_names_its_licence() -> None:
    assert all(PACKAGES.values())


def test_every_held_out_photograph_would_be_recognised_in_its_package(photos: Path) -> None:
    names = [p.stem.split("_", 1)[1] for p in (photos / "eval").iterdir()]
    assert names
    assert all(name.startswith(HELD_OUT) for name in names)


def test_held_out_photographs_are_not_packed(tmp_path: Path, photos: Path) -> None:
    photo = sorted((photos / "train").iterdir())[0].read_bytes()
    for name in ("dome.jpg", "roman-colosseum-large.jpg", "other.jpg"):
        (tmp_path / name).write_bytes(photo)
    assert [p.name for p in find_photos([tmp_path], HELD_OUT)] == ["other.jpg"]
