from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from sr_core.regions import MAX_REGIONS, Box, find_faces, find_regions, find_text


def pixels_of(path: Path) -> np.ndarray:
    with PillowImage.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_astronauts_face_is_found(photos: Path) -> None:
    (face, *others) = find_faces(pixels_of(photos / "eval" / "460_astronaut.png"))
    assert face.overlap(Box(180, 80, 85, 85)) > 0.8
    assert len(others) <= 1


def test_a_face_is_found_where_it_was_planted(photos: Path) -> None:
    astronaut = pixels_of(photos / "eval" / "460_astronaut.png")
    scene = np.full((600, 900, 3), 130, dtype=np.uint8)
    scene[300:500, 550:750] = astronaut[20:220, 120:320]
    (face,) = find_faces(scene)
    assert Box(550, 300, 200, 200).overlap(face) == 1
    half = np.asarray(PillowImage.fromarray(scene).resize((450, 300), PillowImage.Resampling.BICUBIC))
    (smaller,) = find_faces(half)
    assert smaller.overlap(face.scaled(0.5, (450, 300))) > 0.9


@pytest.mark.parametrize(
    ("name", "box"),
    [
        ("258_scenetext04.png", Box(0, 310, 46, 28)),
        ("262_scenetext_segmented_word.png", Box(0, 240, 390, 75)),
    ],
)
def test_the_words_on_a_photograph_are_found(photos: Path, name: str, box: Box) -> None:
    assert max(found.overlap(box) for found in find_text(pixels_of(photos / "eval" / name))) > 0.7


@pytest.mark.parametrize("size", [24, 32, 40])
def test_written_words_are_found_and_a_calm_picture_has_none(size: int) -> None:
    image = PillowImage.new("RGB", (512, 384), (200, 190, 170))
    assert find_regions(np.asarray(image)) == []
    drawing = ImageDraw.Draw(image)
    drawing.text((120, 150), "HOTEL", fill=(30, 30, 60), font=ImageFont.load_default(size))
    left, top, right, bottom = drawing.textbbox((120, 150), "HOTEL", font=ImageFont.load_default(size))
    (word,) = find_text(np.asarray(image))
    assert Box(int(left), int(top), int(right - left), int(bottom - top)).overlap(word) > 0.85


@pytest.mark.parametrize("name", ["472_bluebird.png", "484_house.png", "228_LadyBird.png"])
def test_photographs_without_people_and_words_have_no_regions(photos: Path, name: str) -> None:
    assert find_regions(pixels_of(photos / "eval" / name)) == []


def test_regions_are_few_apart_and_inside_the_picture(photos: Path) -> None:
    pixels = pixels_of(photos / "eval" / "262_scenetext_segmented_word.png")
    boxes = find_text(pixels)
    assert 1 <= len(boxes) <= MAX_REGIONS
    for place, box in enumerate(boxes):
        assert 0 <= box.left < box.left + box.width <= pixels.shape[1]
        assert 0 <= box.top < box.top + box.height <= pixels.shape[0]
        assert all(box.overlap(other) < 0.3 for other in boxes[:place])


def test_a_picture_smaller_than_a_face_has_none() -> None:
    assert find_faces(np.zeros((20, 20, 3), dtype=np.uint8)) == []
    assert find_regions(np.zeros((2, 3, 3), dtype=np.uint8)) == []


def test_overlap_is_the_share_of_the_smaller_box() -> None:
    box = Box(10, 10, 20, 10)
    assert box.overlap(box) == 1
    assert box.overlap(Box(0, 0, 100, 100)) == Box(0, 0, 100, 100).overlap(box) == 1
    assert box.overlap(Box(20, 10, 20, 10)) == 0.5
    assert box.overlap(Box(40, 40, 5, 5)) == 0
    assert box.scaled(2, (1000, 1000)) == Box(20, 20, 40, 20)
    assert box.scaled(1, (25, 15), margin=1) == Box(0, 0, 25, 15)
