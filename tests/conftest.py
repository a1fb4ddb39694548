"""Fixtures shared by every test."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every machine, however slow it is; remove `derandomize` to search for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def photos() -> Path:
    """Return the folder of photographs that lies beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    assert folder.is_dir(), f"the photographs must lie in {folder}"
    return folder
