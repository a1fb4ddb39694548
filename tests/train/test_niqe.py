"""Laws of fitting the NIQE statistics."""

from pathlib import Path

import pytest
import torch
from PIL import Image as PillowImage

from sr_core.errors import InputError
from sr_core.images import read_image, to_uint8
from sr_core.resampling import resize_clamped
from sr_core.rewards.niqe import niqe, read_model
from train.niqe import fit, sharp_features


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of five photographs and one picture that is too small."""
    folder = tmp_path_factory.mktemp("photographs")
    names = ("125_big-indian.png", "190_bicycles_restarts.png", "460_astronaut.png", "018_roman-colosseum.png")
    for name in (*names, "469_motorcycle_left.png"):
        (folder / name).symlink_to(photos / "eval" / name)
    PillowImage.new("RGB", (64, 64)).save(folder / "small.png")
    (folder / "notes.txt").write_text("not a photograph")
    return folder


@pytest.fixture(scope="module")
def fitted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fit") / "new" / "niqe.safetensors"
    assert fit([folder], out) > 36
    return out


def test_a_fit_can_be_read_back_and_knows_a_photograph_from_its_blur(folder: Path, fitted: Path) -> None:
    model = read_model(fitted, "cpu")
    torch.testing.assert_close(model.covariance, model.covariance.T)
    photo = read_image(folder / "460_astronaut.png").pixels
    blur = resize_clamped(resize_clamped(photo, 128, 128), 512, 512)
    assert niqe(blur, model) > niqe(photo, model) + 1


def test_fitting_again_gives_the_same_bytes(folder: Path, fitted: Path, tmp_path: Path) -> None:
    fit([folder], tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == fitted.read_bytes()


def test_only_sharp_blocks_are_kept() -> None:
    texture = 255 * torch.rand(480, 500, generator=torch.Generator().manual_seed(0))
    assert len(sharp_features(texture)) == 25
    texture[:, 192:] *= 0.2
    # Five rows of blocks, of which two columns are left sharp.
    assert len(sharp_features(texture)) == 10


def test_too_few_photographs_are_refused(tmp_path: Path) -> None:
    grey = torch.full((1, 3, 200, 200), 0.5)
    PillowImage.fromarray(to_uint8(grey)).save(tmp_path / "grey.png")
    with pytest.raises(InputError, match="more than 36 sharp blocks"):
        fit([tmp_path], tmp_path / "out")
