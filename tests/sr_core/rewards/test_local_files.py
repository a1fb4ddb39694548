"""Laws of finding weights in packages."""

import sys
from pathlib import Path

import pytest

from sr_core.errors import WeightsError
from sr_core.rewards.local_files import checked_weights, find_in_package, package_source, sha256_of


def test_a_package_is_found_without_being_imported() -> None:
    path = find_in_package("stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth")
    assert path is not None
    assert path.is_file()
    assert "stlpips_pytorch" not in sys.modules


@pytest.mark.parametrize(("module", "name"), [("no_such_package", "a"), ("jaxtyping", "no/such/file"), ("this", "a")])
def test_what_is_not_there_is_none(module: str, name: str) -> None:
    assert find_in_package(module, name) is None


def test_only_the_pinned_content_passes(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"abc")
    # The digest of "abc" is in FIPS 180-2, appendix B.1.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(path) == digest
    assert checked_weights("numpy", path, digest) == {"weights": "weights.bin", "sha256": digest}
    with pytest.raises(WeightsError, match="install numpy again"):
        checked_weights("numpy", path, "0" * 64)


def test_a_source_names_package_and_version() -> None:
    assert str(package_source("jaxtyping")["source"]).startswith("jaxtyping 0.")
