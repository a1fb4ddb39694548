"""Find weights inside installed packages, as data, and make sure they are the ones that are meant."""

import hashlib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from sr_core.errors import WeightsError
from sr_core.rewards.registry import Json


def find_in_package(module: str, name: str) -> Path | None:
    """Find a package's file without importing the package; None if either is not there."""
    spec = find_spec(module)
    folders = (spec.submodule_search_locations if spec else None) or ()
    return next((path for folder in folders if (path := Path(folder) / name).is_file()), None)


def package_source(package: str) -> dict[str, Json]:
    """Return the provenance entry of an installed package."""
    return {"source": f"{package} {metadata.version(package)}"}


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checked_weights(package: str, path: Path, sha256: str) -> dict[str, Json]:
    """Return the provenance of a package's file; raises WeightsError unless it has the pinned SHA-256."""
    found = sha256_of(path)
    if found != sha256:
        raise WeightsError(f"{path} must have SHA-256 {sha256}, got {found}; install {package} again")
    return {"weights": path.name, "sha256": sha256}
