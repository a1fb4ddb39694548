import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import train.crop_groups
from sr_core.backbones.compact import head_metadata, load_head
from sr_core.degradations import degrade
from sr_core.errors import ConfigError
from sr_core.images import from_uint8
from sr_core.preference_data.dataset import open_dataset
from sr_core.runs import Run
from tests.restored_runs import restore_two
from tests.train.conftest import PRESETS, Values
from train.config import parse_recipe
from train.crop_groups import Workshop, degraded
from train.curate import curate
from train.curation_plan import Task, make_plan
from train.data import seeded_generator
from train.preference_config import CurateRecipe


def test_presets_come_by_their_shares_and_degrade_as_they_do_alone(crops: Path) -> None:
    hq = from_uint8(np.load(crops / "crops.npy")[0][:32, :32].copy())
    drawn = [degraded(hq, {"bicubic": 0.75, "seesr": 0.25}, seeded_generator(k))[0] for k in range(80)]
    assert 0.6 < drawn.count("bicubic") / 80 < 0.9
    preset, lq = degraded(hq, {"bicubic": 1.0}, seeded_generator(3))
    generator = seeded_generator(3)
    torch.multinomial(torch.tensor([1.0]), 1, generator=generator)
    assert preset == "bicubic"
    assert torch.equal(lq, degrade(hq, "bicubic", generator=generator))


def test_a_group_depends_on_the_recipe_and_its_number_alone(curate_values: Values, tmp_path: Path) -> None:
    licenses = tmp_path / "licenses.json"
    licenses.write_text('{"CC0-1.0": ["472_bluebird.png"]}', encoding="utf-8")
    values = {**curate_values, "output": str(tmp_path), "licenses": str(licenses)}
    plan = make_plan(parse_recipe(CurateRecipe, values, "test"), "cpu")
    workshop = Workshop(plan)
    last = workshop.make(plan.tasks[2])
    other = workshop.make(Task(2, plan.tasks[0].crop, None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.crop_groups, "MAX_CANDIDATES", 3)  # more than one request may hold
        again = workshop.make(plan.tasks[2])
    assert last is not None
    assert again is not None
    assert other is not None
    assert list(again.candidate_ids) == [0, 1, 2, 3]
    assert all(np.array_equal(a, b) for a, b in zip(last.images, again.images, strict=True))
    assert len({image.tobytes() for image in last.images}) == 4
    assert last.seeds == again.seeds == other.seeds
    assert not np.array_equal(last.lq, other.lq)
    for group in (last, other):
        stated = group.origin.photo.startswith("472_bluebird")
        assert group.origin.license == ("CC0-1.0" if stated else "unknown")


def test_a_model_whose_every_image_fails_gives_no_dataset(
    curate_values: Values, tiny_head: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.safetensors"
    tensors = {name: value * float("nan") for name, value in load_file(tiny_head).items()}
    save_file(tensors, broken, metadata=head_metadata(load_head(tiny_head)))
    values = {**curate_values, "num_groups": 1, "backbone": {"head": str(broken)}, "output": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match="at least one group with enough sound candidates"):
        curate(parse_recipe(CurateRecipe, values, "test"))
    assert not (tmp_path / "out" / "_SUCCESS").exists()


@pytest.fixture(scope="module")
def runs(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    restore_two(from_uint8(np.load(crops / "crops.npy")[0]), folder)
    return folder


def recipe_of(output: Path, *runs: Path, **changes: object) -> CurateRecipe:
    values = {
        "seed": 1, "output": str(output), "runs": [str(run) for run in runs], "presets": PRESETS, "top": 2,
        "draw": {"num_candidates": 4}, **changes,
    }  # fmt: skip
    return parse_recipe(CurateRecipe, values, "test")


def test_runs_stand_behind_the_crops_of_the_same_recipe(
    runs: Path, curate_values: dict[str, object], tmp_path: Path
) -> None:
    values = {**curate_values, "num_groups": 1, "output": str(tmp_path / "both"), "runs": [str(runs / "b")]}
    dataset = open_dataset(curate(parse_recipe(CurateRecipe, values, "test")))
    assert [name.split("-")[0] for name in dataset.group_ids] == ["crop", "run"]
    assert dataset.raw(0).keys() == {"lpips", "ssimulacra2", "vsi", "brisque", "niqe"}
    assert dataset.raw(1).keys() == {"consistency_lpips", "consistency_vsi", "brisque", "niqe"}


def test_the_fidelity_weight_is_the_recipes(runs: Path, tmp_path: Path) -> None:
    dataset = open_dataset(curate(recipe_of(tmp_path / "out", runs / "a", fidelity_weight=1.0)))
    reward = Run.open(runs / "a").group_reward(1.0)
    assert reward is not None
    assert dataset.group(0).reward.tolist() == pytest.approx(reward.reward.tolist())


def test_a_run_that_cannot_make_the_pairs_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"at least 6 candidates \(twice top\), got 4"):
        curate(recipe_of(tmp_path / "out", runs, top=3, draw={"num_candidates": 8}))
    shutil.copytree(runs / "a", tmp_path / "twice" / "a")
    with pytest.raises(ConfigError, match="named twice"):
        curate(recipe_of(tmp_path / "out", runs / "a", tmp_path / "twice"))
    assert not (tmp_path / "out").exists()
