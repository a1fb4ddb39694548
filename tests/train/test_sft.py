import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import train.sft
from sr_core.backbones.compact import load_head, residual_latent
from sr_core.backbones.flow_head import FlowHead
from sr_core.errors import ConfigError
from tests.train.conftest import Values, columns_of
from tests.train.killing import KILLED_STEPS, kill_and_resume, write_recipe
from tests.train.test_report import Reader
from train.config import SftRecipe
from train.data import CachedCrops, head_batch, seeded_generator
from train.sft import fit_scales, make_batch, train_sft

ROOT = Path(__file__).parents[2]
RecipeOf = Callable[..., SftRecipe]


def log_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def same_run(ours: Path, theirs: Path, *, steps: int = 20) -> None:
    """Assert that two runs have the same weights, averages, optimiser state and logged figures, bit for bit."""
    sets = [f"checkpoints/step_{steps:08d}/{name}.safetensors" for name in ("model", "ema", "optimizer")]
    for name in (*sets, "head.safetensors"):
        left, right = load_file(ours / name), load_file(theirs / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name
    assert log_of(ours) == log_of(theirs)


@pytest.fixture
def few_windows() -> Any:
    """Fit the scales from fewer windows, in this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.sft, "FIT_WINDOWS", 256)
        yield


@pytest.mark.usefixtures("few_windows")
def test_twenty_steps_resumed_in_the_middle_equal_the_unbroken_run(recipe_of: RecipeOf, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_sft(recipe_of(output=str(whole)))
    early = recipe_of(output=str(broken), optim={"max_steps": 20})
    original = train.sft.sft_step
    calls = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 13:
            raise KeyboardInterrupt
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.sft, "sft_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_sft(early)
    assert log_of(broken)[-1]["step"] == 12
    train_sft(early, resume=True)
    same_run(broken, whole)


def test_a_run_killed_at_any_point_resumes_to_the_same_weights(
    values: Values, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    changes = {"optim": {**values["optim"], "max_steps": KILLED_STEPS}, "checkpoint_every": 2}
    recipe = write_recipe(tmp_path / "recipe.yaml", {**values, **changes})
    kill_and_resume("sft", recipe, tmp_path / "run", seed=6)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train_sft(recipe_of(output=str(tmp_path / "whole"), **changes))
    finally:
        torch.set_num_threads(threads)
    assert [line["step"] for line in log_of(tmp_path / "run")] == list(range(1, KILLED_STEPS + 1))
    same_run(tmp_path / "run", tmp_path / "whole", steps=KILLED_STEPS)


def test_two_processes_learn_what_one_does(values: Values, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    pair = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29619"]
    for name, launcher in (("one", []), ("two", pair)):
        recipe = tmp_path / f"{name}.yaml"
        perceptual = {"weight": 1.0, "share": 0.5, "from_step": 6}
        changed = {**values, "output": str(tmp_path / name), "perceptual": perceptual}
        recipe.write_text(yaml.safe_dump(changed), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "train", "sft", str(recipe)],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "two" / "summary.json").read_text(encoding="utf-8"))
    assert summary["processes"] == 2
    first, second = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert [line["step"] for line in second] == [line["step"] for line in first]
    assert all("lpips" in line for line in second[7:])
    for a, b in zip(first, second, strict=True):
        assert b == pytest.approx(a, rel=1e-3)
    one, two = (load_file(tmp_path / name / "head.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=0)


@pytest.mark.usefixtures("few_windows")
def test_a_run_leaves_weights_recipe_summary_and_learns(recipe_of: RecipeOf, tmp_path: Path) -> None:
    optim = {"max_steps": 60, "learning_rate": 3e-3}
    recipe = recipe_of(output=str(tmp_path / "run"), optim=optim, checkpoint_every=60)
    final = train_sft(recipe)
    head = load_head(final)
    assert head.widths == (8, 8, 8)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text(encoding="utf-8"))["optim"]["max_steps"] == 60
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["crops"] == 2
    losses = [line["loss"] for line in log_of(tmp_path / "run")]
    assert sum(losses[-20:]) < sum(losses[:20])


@pytest.mark.usefixtures("few_windows")
def test_samples_trackers_and_the_report_leave_the_weights_alone(recipe_of: RecipeOf, tmp_path: Path) -> None:
    plain = train_sft(recipe_of(output=str(tmp_path / "plain"), optim={"max_steps": 5}))
    watched = tmp_path / "watched"
    watching = {"sample_every": 3, "trackers": ["tensorboard"]}
    weights, other = (
        load_file(plain),
        load_file(train_sft(recipe_of(output=str(watched), optim={"max_steps": 5}, **watching))),
    )
    assert all(torch.equal(other[name], weights[name]) for name in weights)
    assert log_of(watched) == log_of(tmp_path / "plain")
    assert list(watched.rglob("events.out.tfevents.*"))
    early, late = (watched / "samples" / f"grid_0000000{step}.png" for step in (3, 5))
    prior, first, second = columns_of(late, 3)
    assert prior.shape == (2 * 256, 256, 3)
    assert not np.array_equal(first, second)
    assert np.array_equal(columns_of(early, 3)[0], prior)
    assert not np.array_equal(columns_of(early, 3)[1], first)
    page = Reader(watched / "report.html")
    assert "Supervised training of compact's head" in page.words
    assert "seed 1" in page.words
    assert f"{log_of(watched)[-1]['loss']:.4g}" in page.words
    assert "weights.json" not in page.text
    assert (watched / "report.png").is_file()
    assert "sample_every above 0" in Reader(tmp_path / "plain" / "report.html").text


@pytest.mark.usefixtures("few_windows")
def test_a_run_from_before_samples_and_trackers_goes_on(recipe_of: RecipeOf, tmp_path: Path) -> None:
    train_sft(recipe_of(optim={"max_steps": 5}))
    state = tmp_path / "run" / "checkpoints" / "step_00000005" / "state.json"
    content = json.loads(state.read_text(encoding="utf-8"))
    for name in ("sample_every", "trackers"):
        del content["recipe"][name]
    state.write_text(json.dumps(content), encoding="utf-8")
    train_sft(recipe_of(optim={"max_steps": 6}, trackers=["tensorboard"]), resume=True)
    assert log_of(tmp_path / "run")[-1]["step"] == 6


def test_a_run_that_cannot_start_says_so_before_any_work(recipe_of: RecipeOf, tmp_path: Path) -> None:
    recipe = recipe_of(output=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="needs a finished checkpoint"):
        train_sft(recipe, resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("few_windows")
def test_fitted_scales_give_the_residual_unit_energy(cache: Path) -> None:
    crops, head = CachedCrops(cache), FlowHead((8, 8, 8), (1, 1, 1))
    fit_scales(head, crops, 16, 2.0, 0)
    hq, lq, prior, trunk = crops.windows(64, 16, seeded_generator(5))
    batch = head_batch(hq, lq, prior, trunk, head.gain(prior, lq))
    planes = residual_latent(batch.hq, batch.photo, head).unflatten(1, (3, 16))
    spread = planes.square().mean((0, 2, 3, 4)).sqrt()
    torch.testing.assert_close(spread, torch.tensor([1.0, 0.5, 0.5]), atol=0.1, rtol=0.1)
    assert float((trunk / head.trunk_std).square().mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.usefixtures("few_windows")
def test_a_batch_depends_on_seed_and_index_alone(cache: Path, recipe_of: RecipeOf) -> None:
    crops, head, recipe = CachedCrops(cache), FlowHead((8, 8, 8), (1, 1, 1)), recipe_of()
    make_batch(head, crops, recipe, 3)
    ours, theirs, other = (make_batch(head, crops, recipe, index) for index in (7, 7, 8))
    assert torch.equal(ours.hq, theirs.hq)
    assert torch.equal(ours.photo.trunk, theirs.photo.trunk)
    assert not torch.equal(ours.hq, other.hq)
