from pathlib import Path

import numpy as np
import pytest

from sr_core.images import FORMATS, read_image, read_marker, to_uint8
from sr_core.ui.downloads import write_candidate
from tests.sr_core.ui.conftest import MakeShown


@pytest.mark.parametrize("format", FORMATS)
def test_a_download_is_marked_and_keeps_its_recipe(format: str, make_shown: MakeShown, tmp_path: Path) -> None:
    shown = make_shown([1.0, 2.0])
    path = write_candidate(shown.run, shown.run.candidates[1], tmp_path / "kept", format=format)
    marker = read_marker(path)
    assert marker is not None
    assert marker.recipe == {"seed": 1}


@pytest.mark.parametrize("format", [name for name, kind in FORMATS.items() if kind.lossless])
def test_a_lossless_download_holds_the_candidates_pixels(format: str, make_shown: MakeShown, tmp_path: Path) -> None:
    shown = make_shown([1.0])
    record = shown.run.candidates[0]
    path = write_candidate(shown.run, record, tmp_path / "kept", format=format)
    drawn, kept = (to_uint8(read_image(p).pixels) for p in (shown.run.path(record), path))
    np.testing.assert_array_equal(kept, drawn)


def test_a_print_resolution_is_written_where_asked(make_shown: MakeShown, tmp_path: Path) -> None:
    shown = make_shown([1.0])
    path = write_candidate(shown.run, shown.run.candidates[0], tmp_path / "kept", format="png", dpi=300.0)
    dpi = read_image(path).metadata.dpi
    assert dpi == pytest.approx((300, 300), rel=1e-3)
