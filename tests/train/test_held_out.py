"""Laws of the photographs that judge: new, detailed, cut the same way every time, whole or not there."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from sr_core.errors import InputError
from sr_core.images import from_uint8, read_image
from sr_core.tensors import Image
from train.data import CROP_PX
from train.held_out import (
    ALIKE,
    cut_held_out_again,
    detailed_squares,
    licence_of,
    likeness,
    make_held_out,
    reduced,
    thumbnails,
)

HEIGHT, WIDTH = 270, 1100


def _texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return coarse blobs under fine grain, (h, w, 3) uint8: detailed everywhere, and unlike for every seed."""
    random = np.random.default_rng(seed)
    coarse = PillowImage.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    blobs = np.asarray(coarse.resize((width, height), PillowImage.Resampling.BICUBIC), dtype=np.float64)
    return np.clip(blobs + random.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    PillowImage.fromarray(pixels).save(path)


def _drawing() -> np.ndarray:
    """Return stripes: much contrast, two colours."""
    pixels = np.zeros((300, 300, 3), dtype=np.uint8)
    pixels[:, ::8] = 255
    return pixels


def _blurred() -> np.ndarray:
    """Return slow ramps: many colours, hardly any contrast."""
    ramp = np.linspace(0, 255, 300)
    planes = [np.add.outer(ramp, ramp) / 2, np.add.outer(ramp, ramp[::-1]) / 2, np.tile(ramp, (300, 1))]
    return np.stack(planes, -1).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of sources `first` and `second` and of `avoid`, with what `first` and `second` gave in `out`.

    New are a.png, b.png and c d.png; known is another photograph, at another size, under another name and mirrored.
    """
    folder = tmp_path_factory.mktemp("held_out")
    _save(folder / "first" / "a.png", _texture(1))
    _save(folder / "first" / "copy of a.png", _texture(1)[2:])
    _save(folder / "first" / "drawing.png", _drawing())
    _save(folder / "first" / "blurred.png", _blurred())
    _save(folder / "second" / "b.png", _texture(2))
    _save(folder / "second" / "c d.png", _texture(3))
    _save(folder / "second" / "known.png", _texture(4))
    smaller = PillowImage.fromarray(_texture(4)[:, ::-1]).resize((WIDTH // 2, HEIGHT // 2))
    _save(folder / "avoid" / "other name.png", np.asarray(smaller))
    make_held_out(_sources(folder), folder / "out", avoid=[folder / "avoid"], count=5)
    return folder


def _sources(folder: Path) -> list[str]:
    return [str(folder / "first"), str(folder / "second")]


def _crops(folder: Path) -> list[dict[str, Any]]:
    crops: list[dict[str, Any]] = json.loads((folder / "held_out.json").read_text())["crops"]
    return crops


def test_only_new_detailed_photographs_are_used_and_each_once(folder: Path) -> None:
    assert {crop["photo"] for crop in _crops(folder / "out")} == {"a.png", "b.png", "c d.png"}


def test_every_photograph_gives_one_square_before_any_gives_two_and_sources_take_turns(folder: Path) -> None:
    crops = _crops(folder / "out")
    assert len({crop["photo"] for crop in crops[:3]}) == 3
    assert [crop["source"] for crop in crops] == ["first", "second", "second", "first", "second"]


def test_the_index_says_where_the_pixels_of_each_file_come_from(folder: Path) -> None:
    for crop in _crops(folder / "out"):
        pixels = np.asarray(PillowImage.open(folder / "out" / crop["crop"]))
        photo = np.asarray(PillowImage.open(folder / crop["source"] / crop["photo"]))
        row, column = crop["row"], crop["column"]
        assert (pixels == photo[row : row + CROP_PX, column : column + CROP_PX]).all()
        assert crop["sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
        assert crop["reduced_to"] == [WIDTH, HEIGHT]
    names = {crop["crop"] for crop in _crops(folder / "out")}
    assert {path.name for path in (folder / "out").glob("*.png")} == names
    assert "second-c_d-0.png" in names


def test_the_same_sources_give_the_same_files(tmp_path: Path) -> None:
    _save(tmp_path / "photos" / "a.png", _texture(1))
    source = str(tmp_path / "photos")
    one, two = (make_held_out([source], tmp_path / name, avoid=[], count=2) for name in ("one", "two"))
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in two.iterdir()
    }


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_crops_of_a_list_are_cut_again_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    listed = folder / "out" / "held_out.json"
    by_source = cut_held_out_again(listed, _sources(folder), tmp_path / "one")
    by_parent = cut_held_out_again(listed, [str(folder)], tmp_path / "two")
    assert _files(by_source) == _files(by_parent) == _files(folder / "out")


def test_of_photographs_with_one_name_the_listed_one_is_cut(tmp_path: Path) -> None:
    _save(tmp_path / "photos" / "same.png", _texture(1))
    out = make_held_out([str(tmp_path / "photos")], tmp_path / "out", avoid=[], count=1)
    (tmp_path / "photos" / "a").mkdir()
    _save(tmp_path / "photos" / "a" / "same.png", _texture(2))
    again = cut_held_out_again(out / "held_out.json", [str(tmp_path / "photos")], tmp_path / "again")
    assert _files(again) == _files(out)


def test_a_changed_or_absent_photograph_is_refused_by_the_name_of_its_crop(folder: Path, tmp_path: Path) -> None:
    listed, sources = folder / "out" / "held_out.json", tmp_path / "sources"
    for name in ("first", "second"):
        shutil.copytree(folder / name, sources / name)
    crop = next(crop for crop in _crops(folder / "out") if crop["photo"] == "b.png")
    changed = _texture(2)
    changed[crop["row"], crop["column"], 0] ^= 1
    _save(sources / "second" / "b.png", changed)
    with pytest.raises(InputError, match=rf"{crop['crop']} must have the pixels of the list"):
        cut_held_out_again(listed, [str(sources)], tmp_path / "out")
    (sources / "second" / "b.png").unlink()
    with pytest.raises(InputError, match=rf"{crop['crop']} needs b.png in a folder second"):
        cut_held_out_again(listed, [str(sources)], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["sources"]


@pytest.mark.parametrize("text", ["{", "[]", '{"crops": [{}]}', '{"crop_px": 128, "crops": []}'])
def test_what_is_no_list_of_crops_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(InputError, match=r"list\.json must"):
        cut_held_out_again(tmp_path / "list.json", [str(tmp_path)], tmp_path / "out")


def test_a_list_names_no_file_outside_its_folder(folder: Path, tmp_path: Path) -> None:
    text = (folder / "out" / "held_out.json").read_text()
    (tmp_path / "list.json").write_text(text.replace("second-b-0.png", "../second-b-0.png"))
    with pytest.raises(InputError, match="plain file names"):
        cut_held_out_again(tmp_path / "list.json", [str(folder)], tmp_path / "out")


def test_photographs_with_equal_names_in_one_source_get_files_of_their_own(tmp_path: Path) -> None:
    for name, seed in (("x", 1), ("y", 2)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        _save(tmp_path / "photos" / name / "same.png", _texture(seed))
    out = make_held_out([str(tmp_path / "photos")], tmp_path / "out", avoid=[], count=2)
    assert len({crop["crop"] for crop in _crops(out)}) == len(list(out.glob("*.png"))) == 2


def test_too_few_squares_are_refused_with_their_number_and_leave_nothing(tmp_path: Path) -> None:
    _save(tmp_path / "photos" / "a.png", _texture(1))
    with pytest.raises(InputError, match=r"give 60 detailed squares of 256 px, got [1-4] from 1 new photographs"):
        make_held_out([str(tmp_path / "photos")], tmp_path / "out", avoid=[], count=60)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_folder_that_exists_is_never_mixed_into(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        make_held_out([str(tmp_path)], tmp_path, avoid=[], count=1)


def test_squares_lie_inside_do_not_overlap_and_come_most_detailed_first() -> None:
    pixels = np.full((700, 900, 3), 128, dtype=np.uint8)
    pixels[:320, :320] = _texture(5, 320, 320)
    pixels[350:, 500:] = np.random.default_rng(6).integers(0, 256, (350, 400, 3), dtype=np.uint8)
    squares = detailed_squares(pixels, 4)
    corners = [(row, column) for row, column, _ in squares]
    assert corners[0][0] >= 350
    assert corners[0][1] >= 500
    assert all(0 <= r <= 700 - CROP_PX and 0 <= c <= 900 - CROP_PX for r, c in corners)
    contrasts = [contrast for _, _, contrast in squares]
    assert contrasts == sorted(contrasts, reverse=True)
    for i, (r, c) in enumerate(corners):
        assert all(max(abs(r - s), abs(c - d)) >= CROP_PX for s, d in corners[:i])


def test_a_picture_smaller_than_a_square_gives_none() -> None:
    assert detailed_squares(_texture(1, 255, 400), 4) == []


def test_reducing_keeps_the_shape_and_never_enlarges() -> None:
    assert reduced(from_uint8(_texture(1, 1200, 2400))).shape == (960, 1920, 3)
    small = _texture(1, 100, 200)
    assert (reduced(from_uint8(small)) == small).all()


@pytest.fixture(scope="module")
def two_photos(photos: Path) -> tuple[Image, Image]:
    """Return two unlike photographs."""
    bird, building = (read_image(photos / "eval" / name).pixels for name in ("472_bluebird.png", "241_building.png"))
    return bird, building


def test_thumbnails_ignore_brightness_and_contrast_but_tell_photographs_apart(two_photos: tuple[Image, Image]) -> None:
    bird, building = two_photos
    known = thumbnails(bird)
    assert likeness(bird * 0.5 + 0.2, known) == pytest.approx(1, abs=1e-4)
    assert likeness(bird.flip(-1), known) == pytest.approx(1, abs=1e-4)
    assert likeness(building, known) < ALIKE
    assert likeness(building, known[:0]) == 0


def test_a_licence_is_what_the_source_states(tmp_path: Path) -> None:
    assert licence_of(str(tmp_path), tmp_path) is None
    (tmp_path / "LICENSE.md").write_text("\n# MIT License\n\nCopyright")
    assert licence_of(str(tmp_path), tmp_path) == "MIT License"
    (tmp_path / "package.json").write_text('{"license": "ISC"}')
    assert licence_of(str(tmp_path), tmp_path) == "ISC"
    stanza = "Files: debian/*\nCopyright: A\nLicense: GPL-3\n\nLicense: GPL-3\n Text.\n"
    (tmp_path / "copyright").write_text(stanza + "\nLicense: CC0-1.0\n")
    assert licence_of(str(tmp_path), tmp_path) == "CC0-1.0, GPL-3"
    (tmp_path / "copyright").write_text(stanza + "\nFiles: *\nCopyright: A\n B\nLicense: MIT\n")
    assert licence_of(str(tmp_path), tmp_path) == "MIT"
    assert licence_of("ukui-wallpapers", tmp_path) == "CC-BY-SA-3.0"
