from pathlib import Path

import numpy as np
import pytest
import torch

from sr_core.difference_maps import energy_above_nyquist, spread
from sr_core.errors import InputError
from sr_core.scoring import local_pixels
from sr_core.ui.explorer.level_maps import (
    SPREAD_LEGEND,
    TOPS,
    above_map,
    figures_table,
    levels_of,
    magnitude_colours,
    read_levels,
    spread_map,
    write_levels,
)
from sr_core.ui.explorer.run_pictures import run_pictures
from sr_core.ui.visits import Shown, job_of
from tests.explorer_run import write_run


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    run = write_run(tmp_path / "run", num_candidates=3, size=128, reference=True)
    return Shown(run=run, job=job_of(run), message="ranked")


def made(shown: Shown, name: str) -> np.ndarray:
    (path,) = shown.view_folder.glob(f"{name}-*.png")
    return read_levels(path)


def test_a_file_keeps_numbers_to_a_part_of_a_level(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).uniform(0, 255, (9, 7))
    write_levels(tmp_path / "a.png", levels)
    np.testing.assert_allclose(read_levels(tmp_path / "a.png"), levels, atol=1 / 512)
    assert not read_levels_of_zero(tmp_path).any()


def read_levels_of_zero(folder: Path) -> np.ndarray:
    write_levels(folder / "zero.png", np.zeros((4, 4)))
    return read_levels(folder / "zero.png")


def test_the_spread_is_that_of_the_runs_own_files(shown: Shown) -> None:
    value = spread_map(shown)
    files = [local_pixels(shown.run.path(record)).astype(np.float32) for record in shown.run.candidates]
    wanted = spread(torch.from_numpy(pixels).permute(2, 0, 1) for pixels in files).numpy()
    np.testing.assert_allclose(made(shown, "spread"), wanted, atol=1 / 512)
    assert value["legend"] == SPREAD_LEGEND == "varies between seeds; agreement does not prove truth"
    assert value["figures"]["largest"] == pytest.approx(wanted.max())
    assert value["top"] in TOPS
    assert value["top"] >= value["figures"]["p99"]


def test_the_energy_above_nyquist_is_the_pictures_own(shown: Shown) -> None:
    above_map(shown, "candidate-1")
    picture = next(picture for picture in run_pictures(shown) if picture.id == "candidate-1")
    wanted = energy_above_nyquist(levels_of(picture), (32, 32)).numpy()
    np.testing.assert_allclose(made(shown, "above"), wanted, atol=1 / 512)


def test_maps_are_made_once_and_stay_out_of_the_run(shown: Shown) -> None:
    before = sorted(shown.run.folder.iterdir())
    spread_map(shown)
    (path,) = shown.view_folder.glob("spread-*.png")
    written = path.stat().st_mtime_ns
    assert spread_map(shown) == spread_map(shown)
    assert path.stat().st_mtime_ns == written
    assert sorted(shown.run.folder.iterdir()) == before


def test_what_cannot_be_mapped_is_said_in_words(tmp_path: Path, shown: Shown) -> None:
    alone = write_run(tmp_path / "alone", num_candidates=1, size=128)
    with pytest.raises(InputError, match="two candidates drawn from seeds"):
        spread_map(Shown(run=alone, job=job_of(alone), message=""))
    with pytest.raises(InputError, match="choose another picture"):
        above_map(shown, "input")
    with pytest.raises(InputError, match="no picture"):
        above_map(shown, "candidate-9")


def test_figures_stand_side_by_side(shown: Shown) -> None:
    maps = [spread_map(shown), above_map(shown, "prior")]
    table = figures_table(maps)
    assert list(table.loc["Mean"]) == [one["figures"]["mean"] for one in maps]
    assert table.shape == (6, 2)


def test_colours_run_from_dark_to_light() -> None:
    brightness = [sum(colour) for colour in magnitude_colours()]
    assert len(brightness) == 256
    assert brightness == sorted(brightness)
