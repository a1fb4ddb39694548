import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sr_core.backbones.flux import FluxBackbone
from sr_core.preference_data.dataset import open_dataset
from tests.train.latent_case import latent_values, save_backbone, write_dataset
from train.config import parse_recipe
from train.latent_trainee import LatentTrainee
from train.losses import OBJECTIVES
from train.policy import POLICY, REFERENCE
from train.prefer import PairSource, train_prefer, training_pairs
from train.preference_config import PreferRecipe
from train.processes import Processes

KINDS = ("sd2-epsilon", "sd2-v", "sd15", "sdxl", "c-flux", "flux-lora")
Values = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def small_flux() -> Any:
    """Let tiny photos stay tiny: FLUX would enlarge them to 512 px."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FluxBackbone, "process_size", 64)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("groups"))


@pytest.fixture(scope="module")
def values_of(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Values]:
    """Return a function that makes a recipe's values for a kind of backbone; its weights and cache are made once."""
    made: dict[str, tuple[Path, Values]] = {}

    def make(kind: str, output: Path, **changes: Any) -> Values:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = (folder, save_backbone(kind, folder))
        folder, backbone = made[kind]
        return latent_values(backbone, dataset, folder, output=str(output), **changes)

    return make


def recipe_of(values: Values) -> PreferRecipe:
    return parse_recipe(PreferRecipe, values, "test")


def losses_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def trainee_of(values: Values) -> tuple[LatentTrainee, PairSource]:
    recipe, processes = recipe_of(values), Processes()
    data = open_dataset(Path(recipe.dataset))
    trainee = LatentTrainee(recipe, processes, dtype=torch.float32)
    store = trainee.prepare(data, processes)
    return trainee, PairSource(recipe, store, training_pairs(data, recipe.pairs), trainee.model)


@pytest.mark.parametrize("kind", KINDS)
def test_policy_equals_reference_at_the_start_and_the_margin_is_zero(
    kind: str, values_of: Callable[..., Values], tmp_path: Path
) -> None:
    output = train_prefer(recipe_of(values_of(kind, tmp_path / "run"))).parent
    first, *_, last = losses_of(output)
    assert first["rewards/margins"] == 0
    assert first["kl_proxy"] == 0
    assert last["kl_proxy"] > 0
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in losses_of(output))
