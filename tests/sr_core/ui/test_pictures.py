import threading
from dataclasses import replace

import numpy as np
from PIL import Image as PillowImage

from sr_core.images import read_image, to_uint8
from sr_core.resampling import resize_clamped
from sr_core.ui.pictures import PREVIEW_SIDE, comparison, file_url, preview
from tests.sr_core.ui.conftest import MakeShown


def test_the_comparison_serves_the_candidates_own_file(make_shown: MakeShown) -> None:
    shown = make_shown([1.0])
    record = shown.run.candidates[0]
    value = comparison(shown, record)
    assert value["after"] == file_url(shown.run.path(record))
    assert (value["width"], value["height"]) == tuple(shown.run.values["size"])


def test_a_run_without_a_comparison_has_no_twin(make_shown: MakeShown) -> None:
    shown = make_shown([1.0])
    value = comparison(shown, shown.run.candidates[0])
    assert (value["twin"], value["before"], value["adapter"]) == (None, None, "SFT")


def test_the_comparison_serves_the_twins_own_file_under_its_name(make_shown: MakeShown) -> None:
    shown = make_shown([1.0, 2.0])
    values = {**shown.run.values, "adapter": "hpo", "compare_adapter": "sft"}
    drawn = replace(shown.run.candidates[0], before="photo_seed0_sft.png")
    shown.run = replace(shown.run, values=values, candidates=(drawn, shown.run.candidates[1]))
    value = comparison(shown, drawn)
    assert value["before"] == file_url(shown.run.folder / "photo_seed0_sft.png")
    assert (value["twin"], value["adapter"], value["seed"]) == ("SFT", "DP2O", 0)
    assert comparison(shown, shown.run.candidates[1])["before"] is None


def test_the_input_is_shown_as_it_is_and_by_the_projects_bicubic(make_shown: MakeShown) -> None:
    shown = make_shown([1.0])
    comparison(shown, shown.run.candidates[0])
    photo = read_image(shown.run.folder / "input.png")
    for name, pixels in (("input.png", photo.pixels), ("input_bicubic.png", resize_clamped(photo.pixels, 80, 64))):
        with PillowImage.open(shown.view_folder / name) as image:
            np.testing.assert_array_equal(np.asarray(image), to_uint8(pixels))


def test_pictures_for_the_page_stay_out_of_the_run(make_shown: MakeShown) -> None:
    shown = make_shown([1.0])
    before = sorted(shown.run.folder.iterdir())
    comparison(shown, shown.run.candidates[0])
    preview(shown, shown.run.candidates[0])
    assert sorted(shown.run.folder.iterdir()) == before


def test_only_large_candidates_get_a_smaller_preview(make_shown: MakeShown) -> None:
    small = make_shown([1.0])
    assert preview(small, small.run.candidates[0]) == file_url(small.run.path(small.run.candidates[0]))
    large = make_shown([1.0], scale=40)
    preview(large, large.run.candidates[0])
    with PillowImage.open(large.view_folder / "photo_seed0.png") as image:
        assert max(image.size) == PREVIEW_SIDE


def test_addresses_are_relative_and_quoted(make_shown: MakeShown) -> None:
    shown = make_shown([1.0])
    url = file_url(shown.run.folder / "a b?#.png")
    assert url.startswith("gradio_api/file=")
    assert url.endswith("a%20b%3F%23.png")


def test_a_picture_for_the_page_is_there_whole_or_not_at_all(make_shown: MakeShown) -> None:
    shown = make_shown([1.0], scale=40)
    seen: list[bytes] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.extend(path.read_bytes() for path in shown.view_folder.glob("[!.]*.png"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    comparison(shown, shown.run.candidates[0])
    preview(shown, shown.run.candidates[0])
    stop.set()
    watcher.join()
    assert seen
    assert all(png.endswith(b"IEND\xaeB`\x82") for png in seen)
