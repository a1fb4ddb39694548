import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sr_core.errors import ConfigError, WeightsError
from train.adversary import train_adversary
from train.config import SftRecipe, in_todays_settings, load_recipe, parse_recipe, recipe_sections, recipe_values
from train.iqa_config import IqaRecipe
from train.one_step_config import OneStepRecipe
from train.prefer import train_prefer
from train.preference_config import BETA_UNITS, OBJECTIVE_NAMES, CurateRecipe, PreferRecipe

FOLDER = Path(__file__).parents[2] / "train" / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
PREFERENCE = [path for path in RECIPES if "objective" in recipe_sections(path)]
LARGE = [path for path in PREFERENCE if not path.name.startswith("compact")]


KINDS = {"head": SftRecipe, "targets": IqaRecipe, "selector": OneStepRecipe, "objective": PreferRecipe}
SIZED = [FOLDER / f"compact_{name}.yaml" for name in ("sft", "curate", "hpo", "sobolev_dpo", "as_dpo")]


def kind_of(path: Path) -> type:
    """Return what a recipe is, told by its sections."""
    return next((kind for section, kind in KINDS.items() if section in recipe_sections(path)), CurateRecipe)


def load(path: Path) -> PreferRecipe:
    return load_recipe(PreferRecipe, path)


def test_the_recipes_of_both_papers_and_of_compact_are_there() -> None:
    names = {path.stem for path in RECIPES}
    assert names >= {f"compact_{name}" for name in ("sft", "curate", "hpo", "sobolev_dpo", "as_dpo")}
    assert {path.stem for path in LARGE} == {"dp2o_sd2", "dp2o_flux", "asasr_flux"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_in_the_repository_loads_as_its_kind(path: Path) -> None:
    assert json.loads(json.dumps(recipe_values(load_recipe(kind_of(path), path))))


@pytest.mark.parametrize("path", SIZED, ids=lambda path: path.name)
def test_what_a_recipe_asks_for_on_one_h200_is_valid_and_changes_it(path: Path) -> None:
    comment = re.search(r"^# One H200.*\n(#   .*\n)*", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert comment is not None
    overrides = re.findall(r"[\w.]+=[^\s,]+", comment.group())
    assert "dtype=bfloat16" in overrides
    assert load_recipe(kind_of(path), path, tuple(overrides)) != load_recipe(kind_of(path), path)


@pytest.mark.parametrize("path", [path for path in PREFERENCE if path not in LARGE], ids=lambda path: path.name)
def test_the_recipes_of_compact_state_how_much_of_a_batch_is_pure_noise(path: Path) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    sections = [values["optim"], *([values["adversary"]["optim"]] if "adversary" in values else [])]
    assert [section.get("pure_noise_share") for section in sections] == [0.25] * len(sections)


@pytest.mark.parametrize("path", PREFERENCE, ids=lambda path: path.name)
def test_every_preference_recipe_states_beta_in_all_units(path: Path) -> None:
    objective = load(path).objective
    stated = [re.match(r"[\d.]+", text) for text in (objective.beta_paper, objective.beta_release)]
    paper, release = (float(found.group()) for found in stated if found is not None)
    assert release == 2 * objective.beta  # both released codes multiply by -0.5 beta
    assert paper == (2 * objective.beta if objective.name == "hpo" else objective.beta)
    assert f"# in the paper's units {paper:g}, in the release's {release:g}" in path.read_text(encoding="utf-8")


def test_betas_units_follow_an_overridden_beta_and_objective_and_nothing_stale_is_kept() -> None:
    path = FOLDER / "compact_as_dpo.yaml"
    changed = load_recipe(PreferRecipe, path, ("objective.name=hpo", "objective.beta=50"))
    assert (changed.objective.beta_paper[:5], changed.objective.beta_release[:5]) == ("100 (", "100 (")
    assert set(BETA_UNITS) == set(OBJECTIVE_NAMES)
    stored = recipe_values(changed)
    assert not any(name.startswith("beta_") for name in stored["objective"])
    stored["objective"] |= {"beta_paper": "200 (stale)", "beta_release": "400"}
    assert parse_recipe(PreferRecipe, in_todays_settings(stored), "an earlier run") == changed


@pytest.mark.parametrize("path", LARGE, ids=lambda path: path.name)
def test_a_recipe_whose_weights_are_missing_says_what_to_get(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    recipe = load(path)
    with pytest.raises(WeightsError, match=f"type: sr weights {recipe.backbone.name} --download"):
        train_prefer(recipe)
    if recipe.adversary is not None:
        with pytest.raises(WeightsError, match="lora: ASASR's LoRA for super-resolution"):
            train_adversary(recipe)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": {"base": "weights"}}, "compact has no base"),
        ({"backbone": {"training_guidance": 1.0}}, "compact takes none"),
        ({"levels": "steps"}, "compact has no diffusion schedule"),
        ({"gradient_checkpointing": True}, "no gradient_checkpointing"),
        ({"optim": {"micro_batch": 7}}, "micro_batch must divide batch_size"),
    ],
)
def test_settings_of_large_backbones_are_refused_for_compact(changes: dict[str, Any], words: str) -> None:
    values = recipe_values(load(FOLDER / "compact_hpo.yaml"))
    for name, value in changes.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=words):
        parse_recipe(PreferRecipe, values, "test")


def test_the_papers_settings_are_those_of_the_papers() -> None:
    small, large, asasr = (load(FOLDER / f"{name}.yaml") for name in ("dp2o_sd2", "dp2o_flux", "asasr_flux"))
    assert [(r.pairs.num_candidates, r.pairs.top) for r in (small, large)] == [(32, 8), (64, 4)]
    assert [(r.draw.num_steps, r.draw.guidance) for r in (small, large)] == [(50, 3.5), (25, 2.5)]
    for recipe in (small, large):
        assert recipe.lora.train == "full"
        assert (recipe.optim.batch_size, recipe.optim.learning_rate, recipe.optim.max_steps) == (1024, 2e-5, 1000)
    assert [recipe.backbone.training_guidance for recipe in (small, large, asasr)] == [None, 2.5, 0.0]
    assert asasr.adversary is not None
    assert (asasr.optim.learning_rate, asasr.adversary.optim.learning_rate) == (1e-5, 5e-5)
    assert asasr.optim.betas == asasr.adversary.optim.betas == (0.9, 0.999)
    assert (asasr.lora.rank, asasr.lora.alpha) == (asasr.adversary.rank, asasr.adversary.alpha) == (16, 16)
    assert (asasr.objective.exponent, asasr.objective.adversary_strength) == (1.5, 0.1)
    assert {recipe.levels for recipe in (large, asasr)} == {"logit_normal"}


def test_the_compact_recipes_share_their_groups_and_the_photographs_that_judge() -> None:
    recipes = [load(path) for path in PREFERENCE if path.name.startswith("compact")]
    assert len({(recipe.dataset, recipe.cache, recipe.held_out) for recipe in recipes}) == 1
    curated = load_recipe(CurateRecipe, FOLDER / "compact_curate.yaml")
    assert recipes[0].dataset == curated.output
    assert recipes[0].draw == curated.draw
    assert len({recipe.output for recipe in recipes}) == len(recipes)
