import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sr_core.backbones.compact import load_compact
from sr_core.errors import ConfigError, WeightsError
from sr_core.images import from_uint8, to_uint8
from sr_core.noise import GENERATOR
from sr_core.preference_data.dataset import open_dataset
from sr_core.restorer import Restorer, RestoreRequest
from sr_core.rewards import GroupScorer
from tests.train.conftest import Values
from tests.train.killing import environment, kill_before_rename, kill_when, write_recipe
from train.config import parse_recipe
from train.curate import curate
from train.preference_config import CurateRecipe

ROOT = Path(__file__).parents[2]
IN_PAIR = [
    *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
    *("--standalone", "--local_addr", "127.0.0.1", "-m", "train"),
]
"""Two processes."""


def recipe_of(values: Values, output: Path) -> CurateRecipe:
    return parse_recipe(CurateRecipe, {**values, "output": str(output)}, "test")


def same_data(ours: Path, theirs: Path) -> None:
    """Assert that two datasets hold the same rows in the same files; only the times may differ."""
    names = sorted(path.name for path in theirs.glob("*.parquet"))
    assert sorted(path.name for path in ours.glob("*.parquet")) == names
    for name in names:
        left, right = (pq.read_table(folder / name) for folder in (ours, theirs))
        assert left.schema == right.schema
        kept = [column for column in left.column_names if column != "created_at"]
        assert left.select(kept).equals(right.select(kept)), name
    assert open_dataset(ours).digest == open_dataset(theirs).digest
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())


def group_files(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted((output / "groups").glob("[0-9]*.parquet"))}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let this process round as the processes do that it is compared with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_two_processes_make_the_data_of_one(curate_values: Values, curated: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "pair.yaml", {**curate_values, "output": str(tmp_path / "pair")})
    done = subprocess.run(
        [*IN_PAIR, "curate", str(recipe)],
        cwd=ROOT, env={**environment(), "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    same_data(tmp_path / "pair", curated)


@pytest.mark.usefixtures("one_thread")
def test_a_run_killed_again_and_again_ends_as_the_unbroken_one(
    curate_values: Values, curated: Path, tmp_path: Path
) -> None:
    output, errors = tmp_path / "killed", tmp_path / "killed.err"
    recipe = write_recipe(tmp_path / "killed.yaml", {**curate_values, "output": str(output)})
    arguments = ["curate", str(recipe)]
    seconds = json.loads((curated / "statistics.json").read_text(encoding="utf-8"))["seconds"]
    group_s = (seconds["total"] - seconds["merge"]) / 3
    # Early and late in the first half of a group, so that a machine four times as fast as it was then finishes at most
    # two of the three groups.
    for share in (np.arange(2) + np.random.default_rng(4).uniform(0, 1, 2)) / 4:
        # The bar is drawn when the models are there and a group begins.
        kill_when(lambda: "curating" in errors.read_text(encoding="utf-8"), share * group_s, arguments, errors)
        with pytest.raises(ConfigError, match="_SUCCESS"):
            open_dataset(output)
    kill_before_rename("000002.parquet", arguments)
    early = group_files(output)
    assert early.keys() == {"000000.parquet", "000001.parquet"}
    (leftover,) = (output / "groups").glob(".000002.parquet.*.part")
    os.truncate(leftover, leftover.stat().st_size // 2)
    for name in ("candidates-00001-of-00002.parquet", "_SUCCESS"):
        kill_before_rename(name, arguments)
        assert {name: changed for name, changed in group_files(output).items() if name in early} == early
        with pytest.raises(ConfigError, match="_SUCCESS"):
            open_dataset(output)
    curate(recipe_of(curate_values, output))
    same_data(output, curated)


def test_no_row_appears_twice_and_no_two_candidates_share_a_seed(curated: Path) -> None:
    table = open_dataset(curated).candidates(["group_id", "candidate_id", "seed"])
    assert len(table) == 12
    assert not table.duplicated(["group_id", "candidate_id"]).any()
    assert table["seed"].is_unique
    assert table.groupby("group_id")["candidate_id"].apply(list).tolist() == [[0, 1, 2, 3]] * 3


@pytest.mark.usefixtures("one_thread")
def test_a_row_gives_its_image_back(curated: Path, tiny_head: Path) -> None:
    dataset = open_dataset(curated)
    rows = dataset.rows(1).to_pylist()
    backbone = load_compact(dtype=torch.float32, head=tiny_head)
    chosen = rows[2]
    assert (chosen["generator"], chosen["sampler"], chosen["dtype"]) == (GENERATOR, "euler", "float32")
    request = RestoreRequest(
        num_candidates=1, seed=chosen["seed"], num_steps=chosen["steps"], schedule=chosen["schedule"]
    )
    (again,) = Restorer(lambda _: backbone, torch.float32).restore(from_uint8(dataset.group(1).lq), request)
    assert again.pixels is not None
    assert np.array_equal(to_uint8(again.pixels), dataset.group(1).images[2])


def test_scores_and_rewards_are_those_of_the_stored_pixels(curated: Path) -> None:
    group = open_dataset(curated).group(0)
    assert group.hq is not None
    scores = GroupScorer("train_offline").score(
        list(group.images), lq=from_uint8(group.lq), reference=from_uint8(group.hq)
    )
    assert group.raw.keys() == scores.raw.keys()
    for key, values in scores.raw.items():
        np.testing.assert_allclose(group.raw[key], values, rtol=1e-5)
    assert scores.reward is not None
    np.testing.assert_allclose(group.reward, scores.reward.reward, atol=1e-3)


def test_the_crops_are_drawn_without_replacement_and_stored_as_the_ground_truth(
    curated: Path, curate_values: Values
) -> None:
    dataset, crops = open_dataset(curated), np.load(Path(curate_values["crops"]) / "crops.npy")
    assert len(set(dataset.group_ids)) == 3
    for index, name in enumerate(dataset.group_ids):
        group = dataset.group(index)
        assert group.hq is not None
        assert np.array_equal(group.hq, crops[int(name.removeprefix("crop-"))])
        assert group.lq.shape == (64, 64, 3)
        assert group.preset in curate_values["presets"]


def test_the_weights_of_all_pairs_have_mean_one(curated: Path) -> None:
    pairs = open_dataset(curated).pairs()
    assert len(pairs) == 12
    assert pairs["w_total"].mean() == pytest.approx(1, abs=1e-12)
    assert set(pairs["source"]) == {"reward"}
    rewards = open_dataset(curated).candidates(["group_id", "candidate_id", "reward"])
    rewards = rewards.set_index(["group_id", "candidate_id"])["reward"]
    gaps = [rewards[p.group_id, p.winner_id] - rewards[p.group_id, p.loser_id] for p in pairs.itertuples()]
    np.testing.assert_allclose(pairs["reward_gap"], gaps)


def test_a_finished_dataset_is_returned_as_it_is(curated: Path, curate_values: Values) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in curated.iterdir()}
    assert curate(recipe_of(curate_values, curated)) == curated
    assert {p.name: p.stat().st_mtime_ns for p in curated.iterdir()} == before


@pytest.mark.parametrize(("changes", "word"), [({"seed": 12}, "seed"), ({"top": 1}, "top")])
def test_groups_of_another_recipe_are_never_mixed_in(
    curated: Path, curate_values: Values, changes: Values, word: str
) -> None:
    with pytest.raises(ConfigError, match=f"begun with another {word} .*name another output"):
        curate(recipe_of({**curate_values, **changes}, curated))


def test_groups_of_other_weights_are_never_mixed_in(curated: Path, curate_values: Values, tmp_path: Path) -> None:
    for name in ("recipe.json", "sources.json"):
        shutil.copyfile(curated / name, tmp_path / name)
    sources = json.loads((tmp_path / "sources.json").read_text(encoding="utf-8"))
    (tmp_path / "sources.json").write_text(json.dumps({**sources, "head": "0" * 64}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"another head \(see sources\.json\)"):
        curate(recipe_of(curate_values, tmp_path))


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"crops": "absent"}, ConfigError, "must hold packed crops"),
        ({"num_groups": 5}, ConfigError, "to 4, the crops"),
        ({"metric_set": "ofline"}, ConfigError, "did you mean offline"),
        ({"backbone": {"name": "flux-lora"}}, WeightsError, "sr weights flux-lora"),
        ({"backbone": {"head": "absent.safetensors"}}, WeightsError, "must be at absent"),
        ({"backbone": {"adapter": "absent"}}, WeightsError, "must be at absent"),
        ({"draw": {"num_candidates": 4, "guidance": 2.0}}, ConfigError, "guidance must be 1"),
        ({"draw": {"num_candidates": 4, "num_steps": 0}}, ConfigError, "steps must number"),
        ({"crops": None, "runs": ["absent"]}, ConfigError, "folders with run"),
    ],
)
def test_a_recipe_that_cannot_run_says_so_before_any_work(
    curate_values: Values, tmp_path: Path, changes: Values, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        curate(recipe_of({**curate_values, **changes}, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
