import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sr_core.backbones.adapters import PEFT_FILES
from sr_core.errors import ConfigError
from tests.explorer_run import write_run
from tests.train.conftest import Values
from train.config import parse_recipe
from train.curation_plan import candidate_seed, make_plan, read_licenses
from train.preference_config import CurateRecipe

ROOT = Path(__file__).parents[2]


def recipe_of(values: Values, **changes: object) -> CurateRecipe:
    return parse_recipe(CurateRecipe, {**values, "output": "unused", **changes}, "test")


def test_no_two_groups_share_a_seed_and_recipes_differ() -> None:
    seeds = [candidate_seed(1, group, 16) + k for group in range(100) for k in range(16)]
    assert len(set(seeds)) == 1600
    assert candidate_seed(1, 0, 16) != candidate_seed(2, 0, 16)
    assert min(seeds) >= 0


def test_crops_are_drawn_by_the_seed_without_replacement(curate_values: Values) -> None:
    orders = {
        tuple(task.crop for task in make_plan(recipe_of(curate_values, seed=seed, num_groups=0), "cpu").tasks)
        for seed in range(8)
    }
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(orders) > 1
    short = make_plan(recipe_of(curate_values, seed=3, num_groups=2), "cpu").tasks
    whole = make_plan(recipe_of(curate_values, seed=3, num_groups=0), "cpu").tasks
    assert short == whole[:2]


def test_the_adapter_is_named_by_its_folder_and_its_content(curate_values: Values, tmp_path: Path) -> None:
    folder = tmp_path / "hpo"
    folder.mkdir()
    for name, text in zip(PEFT_FILES, ("{}", "weights"), strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    backbone = {**curate_values["backbone"], "adapter": str(folder)}
    first = make_plan(recipe_of(curate_values, backbone=backbone), "cpu")
    (folder / PEFT_FILES[1]).write_text("others", encoding="utf-8")
    second = make_plan(recipe_of(curate_values, backbone=backbone), "cpu")
    assert first.adapter.startswith("hpo@")
    assert first.adapter != second.adapter
    assert make_plan(recipe_of(curate_values), "cpu").adapter == "sft"


def test_the_sources_settle_what_is_read(curate_values: Values) -> None:
    plan = make_plan(recipe_of(curate_values), "cpu")
    index = json.loads((Path(curate_values["crops"]) / "crops.json").read_text(encoding="utf-8"))
    assert plan.sources["crops"] == index["sha256"]
    assert (plan.sources["dtype"], plan.sources["device"], plan.dtype) == ("float32", "cpu", torch.float32)
    assert len(plan.sources["head"]) == 64
    assert plan.score_keys == ("lpips", "ssimulacra2", "vsi", "brisque", "niqe")


def test_a_run_of_another_scale_is_refused_before_anything_is_made(curate_values: Values, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run = write_run(runs / "four", size=128, seed=1)
    assert [task.run for task in make_plan(recipe_of(curate_values, runs=[str(runs)]), "cpu").tasks][-1] is not None
    twice = write_run(runs / "two", size=128, seed=2)
    replace(twice, values={**run.values, "size": [64, 64]}).save()
    match = (
        f"bluebird.png must be enlarged by 4 for training, got 32 x 32 px to 64 x 64 px; leave the run {runs}/two out"
    )
    with pytest.raises(ConfigError, match=re.escape(match)):
        make_plan(recipe_of(curate_values, runs=[str(runs)]), "cpu")


def test_licences_are_read_by_photograph_and_settle_the_dataset(curate_values: Values, tmp_path: Path) -> None:
    path = tmp_path / "licenses.json"
    path.write_text(json.dumps({"CC0-1.0": ["a.png", "b.png"], "MIT": ["c.png"]}), encoding="utf-8")
    plan = make_plan(recipe_of(curate_values, licenses=str(path)), "cpu")
    assert plan.licenses == {"a.png": "CC0-1.0", "b.png": "CC0-1.0", "c.png": "MIT"}
    path.write_text(json.dumps({"CC0-1.0": ["a.png"]}), encoding="utf-8")
    other = make_plan(recipe_of(curate_values, licenses=str(path)), "cpu")
    assert other.sources["licenses"] != plan.sources["licenses"]
    assert "licenses" not in make_plan(recipe_of(curate_values), "cpu").sources


@pytest.mark.parametrize("content", ["[", "[]", '{"MIT": "a.png"}', '{"MIT": ["a.png"], "CC0-1.0": ["a.png"]}'])
def test_a_file_of_licences_that_says_nothing_clear_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "licenses.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"licences?|licence|file names"):
        read_licenses(path)
    with pytest.raises(ConfigError, match="must name a JSON file"):
        read_licenses(tmp_path / "absent.json")


def test_the_shipped_licences_name_each_photograph_once() -> None:
    assert len(read_licenses(ROOT / "assets" / "compact" / "photo_licenses.json")) == 331
