import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.train.conftest import Values

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "train", *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("override", "word"),
    [("optim.nmae=1", "optim.nmae"), ("optim.batch_size=few", "optim.batch_size"), ("seed", "section.key=value")],
)
def test_a_wrong_recipe_ends_with_2_and_one_line(values: Values, tmp_path: Path, override: str, word: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    done = run("sft", recipe, override)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert word in line
    assert not (tmp_path / "run").exists()


RECIPES = {
    "data": "compact_sft", "sft": "compact_sft", "curate": "compact_curate", "adversary": "compact_as_dpo",
    "prefer": "compact_hpo", "rounds": "compact_hpo", "evaluate": "compact_hpo", "ablate": "compact_as_dpo",
    "one-step": "compact_one_step", "iqa-targets": "compact_iqa_amo", "iqa": "compact_iqa_ft",
    "iqa-attack": "compact_iqa_ft",
}  # fmt: skip
"""A shipped recipe for every command that takes one."""
UNKNOWN_KEY = """
import sys
from train.__main__ import main

command, recipe = sys.argv[1:]
sys.argv = ["train", command, recipe, "nmae=1"]
try:
    main()
except SystemExit as end:
    assert end.code == 2, end.code
loaded = {"torch", "numpy", "scipy", "pandas", "pyarrow", "accelerate", "peft", "diffusers"} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.mark.parametrize("command", RECIPES)
def test_an_unknown_key_is_refused_before_any_heavy_library_is_imported(command: str) -> None:
    recipe = ROOT / "train" / "recipes" / f"{RECIPES[command]}.yaml"
    done = subprocess.run(
        [sys.executable, "-c", UNKNOWN_KEY, command, recipe], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {recipe.name}: ")
    assert "nmae" in line


def test_a_missing_recipe_or_command_ends_with_2_and_one_line(tmp_path: Path) -> None:
    for arguments in (("sft", tmp_path / "absent.yaml"), ("trian",), ("sft",)):
        done = run(*arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


def test_options_of_another_recipe_or_of_no_list_are_refused_in_one_line(values: Values, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    for arguments, word in (
        (("evaluate", recipe, "--against", "hpo"), "need a recipe of prefer"),
        (("evaluate", recipe, "--adapter", "hpo", "--limit", "3", "--out", "x.json"), "without --limit, --out:"),
        (("held-out", tmp_path, "--out", tmp_path / "crops"), "--avoid must name"),
        (("held-out", tmp_path, "--out", tmp_path / "crops", "--from", recipe, "--avoid", tmp_path), "leave --avoid"),
        (("held-out", tmp_path, "--out", tmp_path / "crops", "--from", recipe, "--crops", "60"), "leave --avoid"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert word in line


@pytest.mark.parametrize(("option", "key"), [("--out", "data.crops"), ("--crops-per-photo", "data.crops_per_photo")])
def test_what_a_recipe_says_of_crops_is_not_said_by_an_option(
    values: Values, originals: Path, tmp_path: Path, option: str, key: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    data = {**values["data"], "photos": [str(originals)], "crops": str(tmp_path / "crops")}
    recipe.write_text(yaml.safe_dump({**values, "data": data}), encoding="utf-8")
    done = run("data", recipe, option, "3")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"error: {option} must be left out with a recipe, got 3; use {key}=3"]
    assert not (tmp_path / "crops").exists()


def test_packing_by_recipe_gives_the_crops_of_the_same_photographs_by_option(
    values: Values, originals: Path, crops: Path, tmp_path: Path
) -> None:
    """The seed of a recipe, which is of its training, places no crops."""
    recipe = tmp_path / "recipe.yaml"
    data = {**values["data"], "photos": [str(originals)], "crops": str(tmp_path / "crops"), "crops_per_photo": 1}
    recipe.write_text(yaml.safe_dump({**values, "data": data}), encoding="utf-8")
    for seed, expected in (("3", True), ("0", False)):
        done = run("data", recipe, "--seed", seed)
        assert done.returncode == 0, done.stderr
        assert f"placed by seed {seed}" in done.stdout
        packed = (tmp_path / "crops" / "crops.npy").read_bytes()
        assert (packed == (crops / "crops.npy").read_bytes()) is expected


def test_packing_by_command_gives_the_same_crops_as_before(originals: Path, crops: Path, tmp_path: Path) -> None:
    done = run("data", originals, "--out", tmp_path / "crops", "--crops-per-photo", "1", "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert "2 crops" in done.stdout
    assert (tmp_path / "crops" / "crops.npy").read_bytes() == (crops / "crops.npy").read_bytes()
