import json
from pathlib import Path

import pytest
import yaml

from sr_core.errors import ConfigError
from tests.train.conftest import Values
from train.config import SftRecipe, in_todays_settings, load_recipe, recipe_values


def written(values: Values, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def load(values: Values, folder: Path, *overrides: str) -> SftRecipe:
    return load_recipe(SftRecipe, written(values, folder), overrides)


def test_an_override_wins_and_is_read_as_yaml(values: Values, tmp_path: Path) -> None:
    recipe = load(
        values, tmp_path, "optim.learning_rate=5e-4", "seed=3", "head.widths=[4, 8, 12]", "data.presets={bicubic: 1}"
    )
    assert recipe.optim.learning_rate == 5e-4
    assert recipe.seed == 3
    assert recipe.head.widths == (4, 8, 12)
    assert recipe.data.presets == {"bicubic": 1.0}


def test_a_section_that_the_file_leaves_out_can_be_set_by_overrides(values: Values, tmp_path: Path) -> None:
    recipe = load(values, tmp_path, "validation.photos=somewhere", "validation.limit=2")
    assert recipe.validation is not None
    assert (recipe.validation.photos, recipe.validation.limit) == ("somewhere", 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.nmae=1", "optim.nmae: Unexpected keyword argument"),
        ("optim.max_steps=many", "optim.max_steps: Input should be a valid integer"),
        ("optim.max_steps=0", "max_steps must be positive, got 0"),
        ("optim.betas=[0.9, 1.0]", r"betas must lie in \[0, 1\), got \(0.9, 1.0\)"),
        ("optim.betas=[0.9]", "optim.betas"),
        ("optim.pure_noise_share=1.5", r"pure_noise_share must lie in \[0, 1\], got 1.5"),
        ("head.widths=[8, 8]", "head.widths"),
        ("data.presets={bicubc: 1}", "presets must be among .*bicubic.*got .*bicubc"),
        ("data.presets={}", "presets must be among"),
        ("data.presets={bicubic: 0}", "share of a preset must be positive"),
        ("data.window_px=30", "window_px must be a multiple of 4, got 30"),
        ("log_every=0", "log_every must be at least 1, got 0"),
        ("keep_checkpoints=0", "keep_checkpoints must be at least 1, got 0"),
        ("data=5", "data: "),
        ("seed.inner=5", "seed is a value, not a section"),
        ("seed", "must look like section.key=value, got 'seed'"),
        ("seed=[1", "seed: not valid YAML"),
    ],
)
def test_a_fault_is_named_in_one_line(values: Values, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(values, tmp_path, override)
    assert "\n" not in str(caught.value)


def test_all_faults_are_named_at_once(values: Values, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(values, tmp_path, "optim.nmae=1", "sede=2", "data.window_px=wide")
    for name in ("optim.nmae", "sede", "data.window_px", "recipe.yaml"):
        assert name in str(caught.value)


def test_a_missing_value_is_named(values: Values, tmp_path: Path) -> None:
    del values["optim"]["batch_size"]
    with pytest.raises(ConfigError, match=r"optim\.batch_size"):
        load(values, tmp_path)


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"", b"a: [1", b"\xff\xfe\x00seed", b"just words"])
def test_a_file_that_is_no_recipe_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"odd\.yaml") as caught:
        load_recipe(SftRecipe, path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be a file, got .*absent\.yaml"):
        load_recipe(SftRecipe, tmp_path / "absent.yaml")


def test_a_recipe_survives_being_written_as_values(values: Values, tmp_path: Path) -> None:
    recipe = load(values, tmp_path)
    again = load_recipe(SftRecipe, written(json.loads(json.dumps(recipe_values(recipe))), tmp_path))
    assert again == recipe


def test_a_stored_recipe_from_before_a_setting_means_what_the_code_did_then(values: Values, tmp_path: Path) -> None:
    stored = recipe_values(load(values, tmp_path))
    del stored["optim"]["betas"]
    again = in_todays_settings({"adversary": {"optim": {}}, **stored})
    assert again["optim"]["betas"] == again["adversary"]["optim"]["betas"] == [0.9, 0.99]
    assert in_todays_settings({"optim": {"betas": [0.9, 0.999]}})["optim"]["betas"] == [0.9, 0.999]


def test_only_a_recipe_has_values() -> None:
    with pytest.raises(TypeError, match="expected a recipe"):
        recipe_values({"seed": 1})
