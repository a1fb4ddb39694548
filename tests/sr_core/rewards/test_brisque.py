"""Laws of BRISQUE, and its agreement with the packages that know it."""

import pickletools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pyiqa.archs.brisque_arch import rbf_kernel
from pyiqa.archs.brisque_arch import scale_features as pyiqa_scaled

from sr_core.errors import WeightsError
from sr_core.images import read_image
from sr_core.rewards.brisque import BrisqueModel, brisque, image_features, read_libsvm, regress, scale_features
from sr_core.rewards.offline import find_brisque_file
from sr_core.rewards.scene_statistics import luma_8bit
from sr_core.tensors import Image

from .conftest import blurred, noisy


@pytest.fixture(scope="module")
def model() -> BrisqueModel:
    return read_libsvm(find_brisque_file()[1], "cpu")


def test_the_file_holds_the_published_regression(model: BrisqueModel) -> None:
    assert model.vectors.shape == (770, 36)
    assert (model.gamma, model.rho) == (0.05, -155.845)
    # Dual coefficients of a support vector regression sum to 0 and are bounded by its cost.
    assert model.coefficients.sum().item() == pytest.approx(0, abs=1e-2)
    assert model.coefficients.abs().max() == 1024


def test_the_feature_ranges_are_those_that_come_with_the_regression(model: BrisqueModel) -> None:
    ranges = find_brisque_file()[1].with_name("normalize.pickle")
    # Read opcode by opcode: nothing of the pickle is executed.
    numbers = [arg for op, arg, _ in pickletools.genops(ranges.read_bytes()) if op.name == "BINFLOAT"]
    assert torch.cat((model.lowest, model.highest)).tolist() == numbers


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("009_canyon-wren.png", 34.368),
        ("027_the-spices-of-life.png", 5.299),
        ("193_Dragonfly_by_Bolly.png", 9.924),
        ("241_building.png", 32.686),
    ],
)
def test_photographs_score_as_the_package_brisque_scored_them(
    photos: Path, model: BrisqueModel, name: str, score: float
) -> None:
    # Recorded from brisque 0.2.0. It weighs colours as Rec. 709 does, pads with zeros and does not round.
    image = read_image(photos / "eval" / name).pixels
    assert brisque(image, model).item() == pytest.approx(score, abs=0.8)


def test_the_regression_agrees_with_pyiqa_fed_the_same_numbers(model: BrisqueModel, crops: Image) -> None:
    # pyiqa scales by the ranges of another release; take ours back to those.
    features = torch.stack([image_features(luma_8bit(image)) for image in crops])
    lowest = -pyiqa_scaled(torch.zeros(1, 36, dtype=torch.float64))[0] - 1
    width = 2 / (pyiqa_scaled(torch.ones(1, 36, dtype=torch.float64))[0] + lowest + 1)
    lowest = lowest * width / 2
    shared = replace(model, lowest=lowest, highest=lowest + width)
    kernel = rbf_kernel(pyiqa_scaled(features), model.vectors.T, model.gamma)
    expected = kernel @ model.coefficients - model.rho
    torch.testing.assert_close(regress(features, shared), expected, rtol=0, atol=1e-4)


def test_a_support_vector_far_from_everything_leaves_the_bias(model: BrisqueModel) -> None:
    far = torch.full((1, 36), 1e6, dtype=torch.float64)
    assert regress(far, model).item() == -model.rho


def test_blur_and_noise_raise_the_score(model: BrisqueModel, crops: Image) -> None:
    clean = brisque(crops, model)
    assert (brisque(blurred(crops), model) > clean + 20).all()
    assert (brisque(noisy(crops, 25), model) > clean + 20).all()


def test_mirroring_a_photograph_hardly_changes_its_features(crops: Image) -> None:
    luma = luma_8bit(crops[0])
    # The two diagonals swap; everything else is the same set of products.
    order = [*range(10), *range(14, 18), *range(10, 14)]
    torch.testing.assert_close(scale_features(luma.flip(1))[order], scale_features(luma), rtol=1e-4, atol=1e-5)


def test_an_image_without_structure_has_no_score(model: BrisqueModel) -> None:
    assert brisque(torch.full((1, 3, 96, 96), 0.5), model).isnan().all()


@pytest.mark.parametrize(
    "text",
    [
        "svm_type epsilon_svr\nkernel_type linear\ntotal_sv 1\nrho 0\nSV\n1 1:0.5\n",
        "svm_type epsilon_svr\nkernel_type rbf\ngamma 0.05\ntotal_sv 2\nrho 0\nSV\n1 1:0.5\n",
        "not a model",
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "svm.txt"
    path.write_text(text)
    with pytest.raises(WeightsError, match="libsvm text model"):
        read_libsvm(path, "cpu")
