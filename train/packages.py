"""Photographs out of Debian packages, by name, with the licence that each package states."""

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sr_core.errors import ConfigError, InputError
from train.data import find_photos

PACKAGES: dict[str, str] = {
    "budgie-backgrounds": "CC0-1.0",
    "forensics-samples-files": "CC-BY-SA-4.0 and MIT",
    "gnome-backgrounds": "CC-BY-SA-3.0",
    "gnome-recipes-data": "CC-BY-SA-4.0",
    "hugin-data": "GPL-2.0-or-later",
    "labelme-examples": "GPL-3.0-or-later",
    "libjs-jquery-backstretch": "MIT",
    "libjxl-testdata": "CC0-1.0 and BSD-3-Clause",
    "lomiri-wallpapers-16.04": "CC-BY-SA-3.0, CC-BY-SA-4.0 or CC-BY-4.0, author in the file name",
    "lomiri-wallpapers-20.04": "CC-BY-4.0, author in the file name",
    "mate-backgrounds": "GPL-2.0-or-later and CC-BY-SA-4.0",
    "opencv-doc": "BSD-3-Clause and Apache-2.0",
    "plasma-workspace-wallpapers": "GPL-2.0-or-later and LGPL",
    "python3-skimage": "public domain and BSD-3-Clause",
    "ukui-wallpapers": "CC-BY-SA-3.0",
    "wordpress-theme-twentytwentyfive": "CC0-1.0 and public domain",
}
"""Debian packages that hold photographs, with their licences; cite them in the card of whatever is trained."""

HELD_OUT = (
    "Dragonfly_by_Bolly",
    "FallenLeaf",
    "IMG_20200124_231153",
    "LadyBird",
    "Path",
    "astronaut",
    "bicycles_restarts",
    "big-indian",
    "bluebird",
    "building",
    "canyon-wren",
    "dome",
    "horse",
    "house",
    "leuvenA",
    "link-in-bio-background",
    "motorcycle_left",
    "picosdeeuropa_by_Aitzol_",
    "roman-colosseum",
    "scenetext04",
    "scenetext_segmented_word",
    "the-spices-of-life",
    "tmshre_riaphotographs_al",
)
"""How the names begin of photographs in these packages that figures are measured on; they are never packed.

A thumbnail does not tell that a picture is a crop of another, so they are known by their names.
"""

Fetch = Callable[[str, Path], Path]
"""Puts the .deb file of a package into a folder and returns its path."""


def apt_download(package: str, folder: Path) -> Path:
    """Fetch a package with `apt-get download`; raises InputError if apt is absent or refuses."""
    if shutil.which("apt-get") is None:
        raise InputError(f"{package} comes from Debian: apt-get must be installed, or give a folder of photographs")
    done = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True, check=False)
    found = sorted(folder.glob(f"{package}_*.deb"))
    if done.returncode != 0 or not found:
        reason = (done.stderr.strip().splitlines() or ["no file came"])[-1]
        raise InputError(f"apt-get download {package} must succeed, got: {reason}; try apt-get update first")
    return found[0]


def unpack(package_file: Path, folder: Path) -> None:
    """Unpack a .deb into `folder` without installing it; raises InputError if it is not one."""
    done = subprocess.run(
        ["dpkg-deb", "--extract", str(package_file), str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise InputError(f"{package_file.name} must be a Debian package, got: {done.stderr.strip()}")


@contextmanager
def photo_folders(sources: list[str], fetch: Fetch = apt_download) -> Iterator[list[Path]]:
    """Yield one folder per source, which is a folder or the name of a package in `PACKAGES`.

    Packages are unpacked into a temporary folder that is deleted at the end. Raises ConfigError for anything else.
    """
    with TemporaryDirectory(prefix="sr-packages-") as temporary:
        folders = []
        for source in sources:
            if Path(source).is_dir():
                folders.append(Path(source))
                continue
            if source not in PACKAGES:
                raise ConfigError(f"must be a folder or one of {', '.join(PACKAGES)}, got {source!r}")
            target = Path(temporary) / source
            target.mkdir()
            unpack(fetch(source, Path(temporary)), target)
            folders.append(target)
        yield folders


def photos_of(sources: Sequence[str], folders: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return (source, photograph) for what `photo_folders` gave of `sources`, without the held-out ones of packages.

    Raises InputError if a folder holds no photograph.
    """
    return [
        (source, path)
        for source, folder in zip(sources, folders, strict=True)
        for path in find_photos([folder], HELD_OUT if source in PACKAGES else ())
    ]
