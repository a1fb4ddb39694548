from pathlib import Path

import PIL.Image
import pytest

from sr_core.errors import InputError
from sr_core.images import read_image, write_image
from sr_core.resampling import resize_clamped
from sr_core.scoring import score_files

SIDE = 64


@pytest.fixture(scope="module")
def files(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return files of one photo: the original, a blurred and a noisy one, and its LQ."""
    folder = tmp_path_factory.mktemp("images")
    hq = read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200 : 200 + SIDE, 180 : 180 + SIDE]
    lq = resize_clamped(hq, SIDE // 2, SIDE // 2)
    made = {
        "hq": hq,
        "blurred": resize_clamped(resize_clamped(hq, 8, 8), SIDE, SIDE),
        "soft": resize_clamped(lq, SIDE, SIDE),
        "lq": lq,
    }
    paths = {name: folder / f"{name}.png" for name in made}
    for name, pixels in made.items():
        write_image(paths[name], pixels, format="png")
    return paths


def test_a_group_is_scored_against_its_reference(files: dict[str, Path]) -> None:
    images = [files["blurred"], files["hq"], files["soft"]]
    result = score_files(images, reference=files["hq"])
    assert result["reference"] is True
    assert result["metric_set"] == "offline"
    assert [row["file"] for row in result["images"]] == [str(path) for path in images]
    assert result["images"][1]["scores"]["lpips"] == pytest.approx(0, abs=1e-4)
    rewards = [row["reward"] for row in result["images"]]
    assert max(rewards) == rewards[1]
    assert min(rewards) == rewards[0]
    assert result["images"][1]["rank"] == 1


def test_without_a_reference_consistency_with_the_photo_takes_its_half(files: dict[str, Path]) -> None:
    result = score_files([files["blurred"], files["hq"]], lq=files["lq"])
    assert result["reference"] is False
    better, worse = result["images"][1]["scores"], result["images"][0]["scores"]
    assert any(key.startswith("consistency_") for key in better)
    assert better["consistency_lpips"] < worse["consistency_lpips"]


def test_with_neither_only_the_no_reference_half_counts(files: dict[str, Path]) -> None:
    result = score_files([files["blurred"], files["hq"]])
    halves = {metric["half"] for metric in result["metrics"]}
    assert halves == {"no_reference"}
    assert not any("consistency" in key for key in result["images"][0]["scores"])


def test_one_image_has_scores_and_no_reward(files: dict[str, Path]) -> None:
    (row,) = score_files([files["soft"]])["images"]
    assert row["scores"]
    assert row["reward"] is None
    assert row["rank"] is None


def test_the_order_of_images_changes_nothing(files: dict[str, Path]) -> None:
    images = [files["blurred"], files["hq"], files["soft"]]
    rows = {row["file"]: row for row in score_files(images)["images"]}
    for row in score_files(images[::-1])["images"]:
        assert row["reward"] == pytest.approx(rows[row["file"]]["reward"], abs=1e-5)


def test_images_of_several_sizes_are_not_compared(files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="must have one size"):
        score_files([files["hq"], files["lq"]])
    with pytest.raises(InputError, match="reference must measure 64 x 64"):
        score_files([files["hq"]], reference=files["lq"])


def test_a_file_that_is_no_image_is_refused_by_name(files: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    for path in (broken, tmp_path / "absent.png"):
        with pytest.raises(InputError, match=path.name):
            score_files([files["hq"], path])
    PIL.Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "black.png")
    assert score_files([files["hq"], tmp_path / "black.png"])["images"][0]["rank"] == 1
