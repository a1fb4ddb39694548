import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from train.config import DataConfig, SftRecipe, parse_recipe
from train.data import cached_crops, pack

SEED = 11
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
    assert pack([originals], folder, crops_per_photo=1, seed=3) == 2
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
