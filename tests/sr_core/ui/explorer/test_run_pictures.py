from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from sr_core.errors import InputError
from sr_core.images import write_image
from sr_core.scoring import local_pixels
from sr_core.ui.explorer.run_pictures import find_picture, picture_value, run_pictures
from sr_core.ui.pictures import file_url
from sr_core.ui.visits import Shown, job_of
from tests.explorer_run import write_run


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    run = write_run(tmp_path / "run", num_candidates=3, size=128, reference=True, before=True)
    return Shown(run=run, job=job_of(run), message="ranked")


def test_pictures_are_what_the_run_holds_best_candidate_first(shown: Shown) -> None:
    order = [record.index for record in shown.run.ranked]
    ids = [picture.id for picture in run_pictures(shown)]
    candidates, twins = ([f"{kind}-{index}" for index in order] for kind in ("candidate", "before"))
    assert ids == ["input", "prior", "reference", *candidates, *twins]


def test_candidates_are_served_as_the_runs_own_files(shown: Shown) -> None:
    for picture in run_pictures(shown):
        if picture.kind == "candidate":
            assert picture.record is not None
            assert picture_value(shown, picture)["url"] == file_url(shown.run.path(picture.record))


def test_a_label_says_rank_of_how_many_and_reward(shown: Shown) -> None:
    best = shown.run.best
    assert best is not None
    label = find_picture(shown, f"candidate-{best.index}").label
    assert label == f"Candidate {best.index + 1}, seed {best.seed}, rank 1 of 3, reward {best.reward:.3f}"


def test_an_old_run_without_prior_and_reference_has_the_rest(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=2, size=128)
    values = {key: value for key, value in run.values.items() if key not in ("prior", "id", "compare_adapter")}
    old = Shown(run=replace(run, values=values), job=job_of(run), message="")
    assert [picture.kind for picture in run_pictures(old)] == ["input", "candidate", "candidate"]


def test_a_format_that_browsers_do_not_show_is_copied_without_loss(shown: Shown) -> None:
    first = shown.run.candidates[0]
    pixels = np.random.default_rng(0).integers(0, 65536, (128, 128, 3), dtype=np.uint16)
    write_image(shown.run.folder / "deep.tif", pixels, format="tiff", bit_depth=16)
    shown.run = replace(shown.run, candidates=(replace(first, file="deep.tif"), *shown.run.candidates[1:]))
    picture = find_picture(shown, "candidate-0")
    assert picture.path.suffix == ".png"
    with PillowImage.open(picture.path) as copy:
        np.testing.assert_array_equal(np.asarray(copy), local_pixels(shown.run.folder / "deep.tif"))


def test_a_picture_that_is_not_there_is_refused(shown: Shown) -> None:
    with pytest.raises(InputError, match="no picture"):
        find_picture(shown, "candidate-7")
