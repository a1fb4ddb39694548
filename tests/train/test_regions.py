from pathlib import Path

import pytest
import torch

from sr_core.backbones.prior import load_prior
from sr_core.degradation_presets import GRADED, graded_preset
from sr_core.degradations import degrade
from sr_core.errors import ConfigError
from sr_core.images import read_image
from train.data import seeded_generator
from train.regions import CachedRegions, cached_regions, drawn_preset

COUNT = 3


def fill(originals: Path, folder: Path, **changes: object) -> CachedRegions:
    settings = {"count": COUNT, "presets": {GRADED: 1.0}, "seed": 5, "dtype": torch.float32, "device": "cpu"}
    return cached_regions([str(originals)], folder, **{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regions")
    fill(originals, folder)
    return folder


def test_windows_are_parts_of_their_regions_with_what_the_prior_says(originals: Path, folder: Path) -> None:
    regions = fill(originals, folder)
    assert len(regions) == COUNT
    found = regions.get(range(COUNT))
    assert found.region.shape == (COUNT, 3, 120, 120)
    places = found.region.unfold(2, 32, 1).unfold(3, 32, 1)
    for k in range(COUNT):
        distance = (places[k] - found.lq[k][:, None, None]).abs().amax(dim=(0, 3, 4))
        assert float(distance.min()) == 0.0
    with torch.inference_mode():
        output = load_prior()(found.lq[:1])
    torch.testing.assert_close(found.prior[:1], output.image, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.trunk[:1], output.trunk, atol=0.02, rtol=0.01)


def test_a_region_depends_on_seed_and_place_alone(originals: Path, folder: Path, tmp_path: Path) -> None:
    fewer = fill(originals, tmp_path / "fewer", count=1).get([0])
    for ours, theirs in zip(fewer, fill(originals, folder).get([0]), strict=True):
        assert torch.equal(ours, theirs)


def test_a_cache_of_something_else_is_refused(originals: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"name another data\.cache"):
        fill(originals, folder, seed=6)


def test_graded_draws_every_strength() -> None:
    blurs = [
        drawn_preset({GRADED: 1.0}, seeded_generator("grade", i)).first.blur_sigma_range[0]  # type: ignore[union-attr]
        for i in range(60)
    ]
    assert min(blurs) < 0.7
    assert max(blurs) > 2.5


def test_stronger_grades_lose_more(photos: Path) -> None:
    hq = read_image(photos / "eval" / "241_building.png").pixels[..., :128, :128]
    clean = torch.nn.functional.interpolate(hq, scale_factor=0.25, mode="area")
    errors = [
        float((degrade(hq, graded_preset(s / 4), generator=seeded_generator("s")) - clean).square().mean())
        for s in (0, 2, 4)
    ]
    assert errors == sorted(errors)
    assert errors[-1] > 2 * errors[0]
    with pytest.raises(ConfigError, match="strength"):
        graded_preset(1.2)
