"""Laws of NIQE, and its agreement with pyiqa."""

from pathlib import Path

import pytest
import torch
from pyiqa.archs.niqe_arch import calculate_niqe
from safetensors.torch import save_file

from sr_core.errors import WeightsError
from sr_core.rewards.niqe import NiqeModel, block_features, distance, gaussian_of, niqe, read_model, split_blocks
from sr_core.rewards.offline import NIQE_FILE
from sr_core.rewards.scene_statistics import luma_8bit
from sr_core.tensors import Image

from .conftest import blurred, noisy


@pytest.fixture(scope="module")
def pristine() -> NiqeModel:
    return read_model(NIQE_FILE, "cpu")


def test_the_shipped_covariance_is_symmetric_and_positive(pristine: NiqeModel) -> None:
    torch.testing.assert_close(pristine.covariance, pristine.covariance.T)
    assert torch.linalg.eigvalsh(pristine.covariance).min() > 0


@pytest.mark.parametrize("damage", [lambda x: x, blurred, lambda x: noisy(x, 10)])
def test_scores_agree_with_pyiqa_fed_the_same_statistics(crops: Image, pristine: NiqeModel, damage) -> None:
    images = damage(crops)
    expected = calculate_niqe(images, mu_pris_param=pristine.mean[None], cov_pris_param=pristine.covariance[None])
    # The half-size image differs at its border, where pyiqa mirrors and torch renormalises the filter.
    torch.testing.assert_close(niqe(images, pristine).double(), expected, rtol=0.01, atol=0.02)


def test_blur_and_noise_raise_the_score(crops: Image, pristine: NiqeModel) -> None:
    clean = niqe(crops, pristine)
    assert (niqe(blurred(crops), pristine) > clean).all()
    assert (niqe(noisy(crops, 25), pristine) > clean).all()


def test_a_gaussian_has_no_distance_to_itself_and_distances_are_symmetric(crops: Image, pristine: NiqeModel) -> None:
    other = gaussian_of(block_features(luma_8bit(crops[0])))
    assert distance(pristine, pristine).item() == 0
    torch.testing.assert_close(distance(other, pristine), distance(pristine, other))


def test_a_rest_beyond_the_last_whole_block_does_not_count(crops: Image, pristine: NiqeModel) -> None:
    torch.testing.assert_close(niqe(crops[:, :, :250, :270], pristine), niqe(crops[:, :, :192, :192], pristine))


def test_blocks_are_cut_row_by_row() -> None:
    plane = torch.arange(24.0).reshape(4, 6)
    blocks = split_blocks(plane, 2, 3)
    assert blocks[1].tolist() == [[2, 3], [8, 9]]
    assert blocks[3].tolist() == [[12, 13], [18, 19]]


def test_blocks_without_structure_are_passed_over(crops: Image, pristine: NiqeModel) -> None:
    sky = crops[:1, :, :192, :288].clone()
    sky[..., 192:] = 0.5
    assert block_features(luma_8bit(sky[0]))[2].isnan().any()
    assert niqe(sky, pristine).isfinite().all()


def test_an_image_without_structure_has_no_score(pristine: NiqeModel) -> None:
    assert niqe(torch.full((1, 3, 192, 192), 0.5), pristine).isnan().all()


def test_missing_or_foreign_statistics_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.safetensors"):
        read_model(tmp_path / "absent.safetensors", "cpu")
    save_file({"mean": torch.zeros(36)}, tmp_path / "half.safetensors")
    with pytest.raises(WeightsError, match="covariance"):
        read_model(tmp_path / "half.safetensors", "cpu")
