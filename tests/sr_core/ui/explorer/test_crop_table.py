from dataclasses import replace
from pathlib import Path

import pytest

from sr_core.edge_drift import edge_drift
from sr_core.errors import InputError
from sr_core.images import from_uint8
from sr_core.regions import Box
from sr_core.scoring import local_pixels
from sr_core.ui.explorer.crop_table import drift_table
from sr_core.ui.visits import Shown, job_of
from tests.explorer_run import write_run


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    run = write_run(tmp_path / "run", num_candidates=3, size=128, reference=True, before=True)
    return Shown(run=run, job=job_of(run), message="ranked")


def test_the_numbers_are_the_librarys(shown: Shown) -> None:
    table, note = drift_table(shown, Box(0, 0, 128, 128))
    folder = shown.run.folder
    lq = from_uint8(local_pixels(folder / "input.png"))
    found = edge_drift(from_uint8(local_pixels(folder / "prior.png")), lq)
    wanted = [float(part) for part in (*found[:4], 100 * found.lost)]
    assert list(table.iloc[0]) == pytest.approx(wanted, abs=6e-4)
    assert f"Over {found.num_edges} edge pixels" in note
    ranked = [record.index for record in shown.run.ranked]
    drawn = [f"{kind}-{index}" for kind in ("candidate", "before") for index in ranked]
    assert table.index.tolist() == ["prior", "reference", *drawn]
    again, _ = drift_table(shown, Box(0, 0, 128, 128))
    assert again.equals(table)


def test_pictures_of_one_name_have_a_row_each(shown: Shown) -> None:
    records = (replace(record, seed=None, source="other", reward=None, rank=None) for record in shown.run.candidates)
    shown.run = replace(shown.run, candidates=tuple(records))
    table, _ = drift_table(shown, Box(0, 0, 128, 128))
    assert len(table) == 8


def test_a_crop_without_edges_says_so(shown: Shown) -> None:
    _, note = drift_table(shown, Box(0, 0, 4, 4))
    assert "Choose a larger crop" in note


@pytest.mark.parametrize("box", [Box(-1, 0, 10, 10), Box(0, 0, 129, 10), Box(5, 5, 0, 10)])
def test_a_crop_must_lie_in_the_picture(shown: Shown, box: Box) -> None:
    with pytest.raises(InputError, match="must lie inside"):
        drift_table(shown, box)
