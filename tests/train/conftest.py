import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sr_core.backbones.compact import head_metadata
from sr_core.backbones.flow_head import FlowHead
from train.config import DataConfig, SftRecipe, parse_recipe
from train.curate import curate
from train.data import cached_crops, find_photos, pack
from train.preference_config import CurateRecipe

SEED = 11


def columns_of(grid: Path, count: int) -> list[np.ndarray]:
    """Return the columns of a sample grid."""
    with Image.open(grid) as picture:
        return np.split(np.asarray(picture), count, axis=1)


PRESETS = {"bicubic": 0.5, "real-esrgan": 0.5}


@pytest.fixture(scope="session")
def originals(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two photographs."""
    folder = tmp_path_factory.mktemp("originals")
    for name in ("472_bluebird.png", "241_building.png"):
        shutil.copyfile(photos / "eval" / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def crops(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two packed crops."""
    folder = tmp_path_factory.mktemp("crops")
    assert pack(find_photos([originals]), folder, crops_per_photo=1, seed=3) == 2
    return folder


@pytest.fixture(scope="session")
def cache(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the filled cache of the packed crops, in float32; it must not be changed."""
    folder = tmp_path_factory.mktemp("cache")
    config = DataConfig(crops=str(crops), cache=str(folder), presets=PRESETS, window_px=8)
    cached_crops(config, seed=SEED, dtype=torch.float32, device="cpu")
    return folder


Values = dict[str, Any]


@pytest.fixture
def values(crops: Path, cache: Path, tmp_path: Path) -> Values:
    """Return the values of a recipe that trains a tiny head for 20 steps."""
    return {
        "seed": SEED,
        "output": str(tmp_path / "run"),
        "log_every": 1,
        "checkpoint_every": 5,
        "dtype": "float32",
        "data": {"crops": str(crops), "cache": str(cache), "presets": PRESETS, "window_px": 8},
        "head": {"widths": [8, 8, 8], "num_blocks": [1, 1, 1]},
        "optim": {
            "learning_rate": 1e-3,
            "batch_size": 4,
            "max_steps": 20,
            "warmup_steps": 4,
            "decay_steps": 6,
        },
    }


@pytest.fixture
def recipe_of(values: Values) -> Callable[..., SftRecipe]:
    """Return a function that makes the recipe, with other values in `optim` or at the top."""

    def make(*, optim: Values | None = None, **top: object) -> SftRecipe:
        changed = {**values, **top, "optim": {**values["optim"], **(optim or {})}}
        return parse_recipe(SftRecipe, json.loads(json.dumps(changed)), "test")

    return make


@pytest.fixture(scope="session")
def tiny_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a tiny head with random weights, so that seeds differ; it must not be changed."""
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    torch.manual_seed(0)
    head, generator = FlowHead((8, 8, 8), (1, 1, 1)), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    save_file(head.state_dict(), path, metadata=head_metadata(head))
    return path


@pytest.fixture(scope="session")
def curate_values(originals: Path, tiny_head: Path, tmp_path_factory: pytest.TempPathFactory) -> Values:
    """Return the values of a recipe that curates three groups of four candidates, all but `output`."""
    crops = tmp_path_factory.mktemp("more-crops")
    assert pack(find_photos([originals]), crops, crops_per_photo=2, seed=5) == 4
    return {
        "seed": SEED,
        "crops": str(crops),
        "num_groups": 3,
        "presets": PRESETS,
        "backbone": {"head": str(tiny_head)},
        "draw": {"num_candidates": 4, "num_steps": 2},
        "top": 2,
        "groups_per_shard": 2,
        "dtype": "float32",
    }


@pytest.fixture(scope="session")
def curated(curate_values: Values, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished preference dataset; it must not be changed."""
    folder = tmp_path_factory.mktemp("curated")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes have that other runs are compared with
    try:
        return curate(parse_recipe(CurateRecipe, {**curate_values, "output": str(folder)}, "test"))
    finally:
        torch.set_num_threads(threads)
