from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from train.ablations import ABLATIONS
from train.config import load_recipe
from train.losses import OBJECTIVES, PairResiduals, Residuals, norm_of, objective_terms
from train.preference_config import OBJECTIVE_NAMES, ObjectiveConfig, PreferRecipe
from train.unread import SOME_READ, reads_lq_loser, unread_settings, unread_text

FOLDER = Path(__file__).parents[2] / "train" / "recipes"
OTHER: dict[str, Any] = {
    "label_smoothing": 0.2, "simpo_gamma": 0.5, "frequency_unit": 8.0, "sobolev_scaling": "raw",
    "sobolev_transform": "rfft", "adversary_strength": 1.0, "lq_loser_weight": 1.0, "guidance": "euclidean",
}  # fmt: skip
"""A value of each setting that is not its default; an exponent on an objective without one is refused."""


def recipe_of(*overrides: str) -> PreferRecipe:
    return load_recipe(PreferRecipe, FOLDER / "compact_as_dpo.yaml", ("objective.kl_weight=0", *overrides))


def loss_of(settings: ObjectiveConfig) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    residuals = [Residuals(*torch.randn(2, 2, 3, 8, 8, generator=generator)) for _ in range(2)]
    ones = torch.ones(2)
    return objective_terms(settings, PairResiduals(*residuals), error_weight=ones, pair_weight=ones).loss


def test_every_setting_that_some_objectives_leave_alone_is_tried_here() -> None:
    assert set(OTHER) | {"exponent"} == SOME_READ
    assert set(OBJECTIVES) == set(OBJECTIVE_NAMES)


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
@pytest.mark.parametrize("setting", ["label_smoothing", "simpo_gamma", "frequency_unit", "sobolev_scaling"])
def test_what_is_named_changes_no_loss_and_what_is_not_named_does(name: str, setting: str) -> None:
    recipe = recipe_of(f"objective.name={name}", "objective.beta=1", f"objective.{setting}={OTHER[setting]}")
    plain = replace(recipe.objective, **{setting: getattr(ObjectiveConfig(name="dpo", beta=1.0), setting)})  # type: ignore[type-var]
    same = torch.equal(loss_of(recipe.objective), loss_of(plain))
    assert same == (f"objective.{setting}" in unread_settings(recipe))


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_what_is_of_the_adversary_does_nothing_elsewhere(name: str) -> None:
    changes = (f"objective.{setting}={OTHER[setting]}" for setting in ("adversary_strength", "lq_loser_weight"))
    recipe = recipe_of(f"objective.name={name}", "objective.guidance=euclidean", *changes)
    found = {"objective.adversary_strength", "objective.lq_loser_weight", "objective.guidance", "adversary"}
    assert found & set(unread_settings(recipe)) == (set() if name == "as_dpo" else found)
    assert reads_lq_loser(recipe.objective) == (name == "as_dpo")


def test_euclidean_guidance_leaves_the_sobolev_norm_without_effect() -> None:
    changes = ("objective.guidance=euclidean", "objective.exponent=2.0", "objective.sobolev_transform=rfft")
    assert unread_settings(recipe_of(*changes)) == ("objective.exponent", "objective.sobolev_transform")
    assert norm_of(recipe_of(*changes).objective) is norm_of(ObjectiveConfig(name="dpo", beta=1.0))


@pytest.mark.parametrize(
    ("source", "name", "unread"),
    [
        ("scores", "hpo", {"adversary"}),
        ("scores", "dpo", {"adversary", "pairs.intra", "pairs.ddof"}),
        ("table", "hpo", {"adversary", "pairs.intra", "pairs.ddof", "pairs.top", "pairs.num_candidates"}),
        ("supervised", "hpo", {"adversary", "pairs.intra", "pairs.ddof", "pairs.top"}),
    ],
)
def test_what_a_source_of_pairs_does_not_read_is_named(source: str, name: str, unread: set[str]) -> None:
    changes = ("pairs.top=2", "pairs.num_candidates=8", "pairs.intra=false", "pairs.ddof=1")
    recipe = recipe_of(f"objective.name={name}", f"pairs.source={source}", *changes)
    assert set(unread_settings(recipe)) == unread
    assert unread_text(recipe).startswith(f"without effect under {name}")


@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_rows_of_an_ablation_leave_nothing_but_the_adversary_idle(name: str) -> None:
    recipe = load_recipe(PreferRecipe, FOLDER / "compact_as_dpo.yaml", ABLATIONS[name])
    assert set(unread_settings(recipe)) <= {"adversary"}


@pytest.mark.parametrize("name", ["compact_hpo", "compact_sobolev_dpo", "compact_as_dpo", "dp2o_sd2", "dp2o_flux"])
def test_a_recipe_for_one_objective_holds_nothing_idle(name: str) -> None:
    assert unread_text(load_recipe(PreferRecipe, FOLDER / f"{name}.yaml")) == ""
