import copy
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

from sr_core.backbones.compact import residual_latent
from sr_core.backbones.flow_head import image_from_planes, shuffle_planes
from sr_core.degradations import degrade
from sr_core.errors import ConfigError, InputError
from sr_core.images import read_image, to_uint8, write_image
from sr_core.preference_data.dataset import MARKER, candidate_schema, open_dataset
from sr_core.preference_data.shards import (
    Origin,
    ScoredGroup,
    Seconds,
    group_table,
    merge_groups,
    pairs_table,
    write_group,
)
from sr_core.preferences import weigh_groups
from sr_core.rewards.group import hybrid_reward, score_term
from sr_core.sobolev import sobolev_energy
from tests.train.conftest import SEED, Values, columns_of
from tests.train.test_report import Reader
from train.__main__ import app
from train.adversary import adversary_policy, judged_text, rank_sweep, sweep_text, train_adversary
from train.baselines import BUILT_IN, FailureSource, over_sharpened, over_smoothed
from train.checkpoints import load_checkpoint
from train.compact_trainee import CompactModel, load_policy
from train.config import parse_recipe, recipe_values
from train.data import seeded_generator
from train.imitation import imitation, imitation_text
from train.losses import exponent_of, pulled_back, trusted_guess
from train.policy import ADVERSARY, POLICY, REFERENCE, HeadPolicy
from train.prefer import PairSource, train_prefer, training_pairs
from train.preference_config import PreferRecipe
from train.report import write_report
from train.steps import PairBatch, adversarial_loser, clean_step, preference_step
from train.store import GroupStore, Window, group_store

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def curated(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished dataset of three small groups: photographs with four differently noisy candidates each."""
    folder = tmp_path_factory.mktemp("dataset")
    schema = candidate_schema(("psnr", "niqe"))
    parts = []
    for index, name in enumerate(("472_bluebird.png", "241_building.png", "018_roman-colosseum.png")):
        hq = read_image(photos / "eval" / name).pixels[..., 160:256, 160:256]
        noise = torch.randn(4, *hq.shape[1:], generator=seeded_generator(index))
        strength = torch.tensor([0.002, 0.004, 0.008, 0.016]).reshape(4, 1, 1, 1)
        raw = {"psnr": [40.0, 34.0, 28.0, 22.0], "niqe": [4.0, 3.0, 6.0, 7.0]}
        group = ScoredGroup(
            group_id=f"crop-{index:06d}",
            origin=Origin(
                generator="test", model_id="compact", model_revision=None, adapter="sft", sampler="euler",
                schedule="geometric", steps=2, guidance=1.0, color_fix="off", tile_cfg="{}", preset="bicubic",
                photo=name,
            ),
            lq=to_uint8(degrade(hq, "bicubic", generator=seeded_generator(index))),
            hq=to_uint8(hq),
            images=[to_uint8(image[None]) for image in (hq + strength * noise)],
            candidate_ids=[0, 1, 2, 3],
            seeds=[10, 11, 12, 13],
            sources=[None] * 4,
            dtypes=["float32"] * 4,
            raw=raw,
            reward=hybrid_reward(raw, {key: score_term(key) for key in raw}),
            metrics=[],
        )  # fmt: skip
        parts.append(folder / f"group-{index}.parquet")
        write_group(parts[-1], group_table(group, schema, datetime(2026, 1, 1, tzinfo=UTC)), Seconds(0.0, 0.0, 0.0))
    merged = merge_groups(parts, folder, schema, groups_per_shard=2)
    pq.write_table(pairs_table(merged, weigh_groups(merged.rewards, 2)), folder / "pairs.parquet")
    content = {"digest": merged.digest, "group_ids": merged.group_ids, "candidates": merged.files}
    (folder / MARKER).write_text(json.dumps({**content, "pairs": "pairs.parquet"}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def filled(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache of the curated groups, in float32; it must not be changed."""
    folder = tmp_path_factory.mktemp("group-cache")
    group_store(open_dataset(curated), folder, dtype=torch.float32, device="cpu")
    return folder


@pytest.fixture(scope="module")
def held_out(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three small photographs that no group was cut from."""
    folder = tmp_path_factory.mktemp("held-out")
    for name in ("009_canyon-wren.png", "172_dome.png", "190_bicycles_restarts.png"):
        crop = read_image(photos / "eval" / name).pixels[..., 200:296, 200:296]
        write_image(folder / name, crop, format="png", recipe=None)
    return folder


@pytest.fixture(scope="module")
def base(curated: Path, filled: Path) -> Values:
    """Return the values of a tiny recipe of AS-DPO, all but the adversary's output."""
    optim = {
        "learning_rate": 1e-2, "batch_size": 4, "max_steps": 4, "warmup_steps": 1, "decay_steps": 1, "ema_rate": 0.5,
    }  # fmt: skip
    return {
        "seed": SEED,
        "output": "unused",
        "dataset": str(curated),
        "cache": str(filled),
        "backbone": {"head": None},
        "lora": {"rank": 2, "alpha": 2.0},
        "pairs": {"top": 2},
        "objective": {"name": "as_dpo", "beta": 100.0, "exponent": 1.5, "adversary_strength": 1.0},
        "optim": optim,
        "adversary": {"rank": 2, "alpha": 2.0, "optim": optim},
        "draw": {"num_candidates": 4, "num_steps": 2},
        "window_px": 8,
        "log_every": 1,
        "checkpoint_every": 2,
        "dtype": "float32",
    }


def recipe_of(base: Values, output: Path, *, optim: Values | None = None, **adversary: Any) -> PreferRecipe:
    values = copy.deepcopy(base)
    values["adversary"] |= {"output": str(output), **adversary}
    values["adversary"]["optim"] |= optim or {}
    return parse_recipe(PreferRecipe, json.loads(json.dumps(values)), "test")


def source_of(recipe: PreferRecipe, policy: HeadPolicy | None = None) -> FailureSource:
    assert recipe.adversary is not None
    dataset = open_dataset(Path(recipe.dataset))
    store = group_store(dataset, Path(recipe.cache), dtype=torch.float32, device="cpu")
    model = CompactModel(policy or adversary_policy(recipe, CPU), torch.float32, CPU)
    config = recipe.adversary
    return FailureSource(recipe, config.baselines, config.optim.batch_size, dataset, store, model)


@torch.no_grad()
def moved(policy: HeadPolicy, name: str, seed: int = 0) -> None:
    """Move a set of weights away from where it is."""
    generator = torch.Generator().manual_seed(seed)
    for value in policy.tensors(name).values():
        value.add_(0.1 * torch.randn(value.shape, generator=generator))


@torch.no_grad()
def error_to_failures(recipe: PreferRecipe, adapter: Path | None) -> float:
    """Return the mean squared error at pure noise to failures that training has not drawn."""
    policy = adversary_policy(recipe, CPU)
    if adapter is not None:
        policy.load(ADVERSARY, adapter)
    source = source_of(recipe, policy)
    errors = []
    for index in range(1000, 1008):
        batch = source(index, slice(None))
        noise = torch.randn(batch.hq.shape, generator=seeded_generator("noise", index))
        errors.append(clean_step(policy.head, batch, torch.ones(len(noise)), noise).metrics["clean_mse"])
    return float(torch.stack(errors).mean())


def test_the_prior_as_a_baseline_is_the_latent_of_zeros(base: Values, tmp_path: Path) -> None:
    source = source_of(recipe_of(base, tmp_path, baselines=["prior"]))
    batch = source(0, slice(None))
    assert torch.equal(residual_latent(batch.hq, batch.photo, source.model.policy.head), torch.zeros_like(batch.hq))


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "prior"])
def test_every_other_baseline_is_an_image_that_differs_from_the_prior(base: Values, tmp_path: Path, name: str) -> None:
    batch = source_of(recipe_of(base, tmp_path, baselines=[name]))(0, slice(None))
    images = image_from_planes(shuffle_planes(batch.hq))
    assert float(images.min()) > -1e-5
    assert float(images.max()) < 1 + 1e-5
    assert bool(((batch.hq - batch.photo.prior).abs().mean((1, 2, 3)) > 1e-4).all())


def test_every_baseline_is_drawn_about_equally_often_and_from_every_group(base: Values, tmp_path: Path) -> None:
    source = source_of(recipe_of(base, tmp_path))
    drawn = [source._draw(seeded_generator("draw", k)) for k in range(800)]
    for name in BUILT_IN:
        assert sum(failure.baseline == name for failure in drawn) == pytest.approx(200, abs=50)
    assert {failure.group for failure in drawn} == set(open_dataset(Path(base["dataset"])).group_ids)
    assert {failure.candidate for failure in drawn} == {None, 0, 1, 2, 3}


def test_blur_and_unsharp_mask_move_an_image_in_opposite_directions() -> None:
    image = 0.5 + 0.1 * torch.rand(1, 3, 40, 40, generator=seeded_generator(0))
    spread = [float(x.std()) for x in (over_smoothed(image), image, over_sharpened(image))]
    assert spread == sorted(spread)
    flat = torch.full((1, 3, 20, 20), 0.25)
    torch.testing.assert_close(over_smoothed(flat), flat)
    torch.testing.assert_close(over_sharpened(flat), flat)


def test_the_few_step_baseline_is_the_models_and_not_the_adversarys(base: Values, tmp_path: Path) -> None:
    recipe = recipe_of(base, tmp_path, baselines=["few_steps"])
    policy = adversary_policy(recipe, CPU)
    source = source_of(recipe, policy)
    before = source(0, slice(None)).hq
    moved(policy, ADVERSARY)
    assert torch.equal(source(0, slice(None)).hq, before)
    assert policy.active == ADVERSARY
    moved(policy, REFERENCE)
    assert not torch.equal(source(0, slice(None)).hq, before)


def test_the_parts_of_two_processes_make_up_the_batch_of_one(base: Values, tmp_path: Path) -> None:
    source = source_of(recipe_of(base, tmp_path))
    whole = source(3, slice(None)).hq
    for k in (0, 1):
        torch.testing.assert_close(source(3, slice(k, None, 2)).hq, whole[k::2])
    assert not torch.equal(source(4, slice(None)).hq, whole)


@pytest.fixture(scope="module")
def trained(base: Values, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> PreferRecipe:
    """Return a recipe whose adversary has learned from every built-in baseline; its run must not be changed."""
    output = tmp_path_factory.mktemp("adversary") / "run"
    judged = {"photos": [str(held_out)], "presets": ["bicubic", "real-esrgan"]}
    values = {**base, "held_out": judged, "checkpoint_every": 100, "sample_every": 40}
    optim = {"max_steps": 40, "learning_rate": 1e-3}
    recipe = recipe_of(values, output, baselines=list(BUILT_IN), rank=4, alpha=4.0, optim=optim)
    train_adversary(recipe)
    return recipe


def run_of(recipe: PreferRecipe) -> Path:
    assert recipe.adversary is not None
    return Path(recipe.adversary.output)


def test_training_comes_nearer_to_the_failures_on_unseen_draws(trained: PreferRecipe) -> None:
    before, after = (error_to_failures(trained, path) for path in (None, run_of(trained) / "adapter"))
    assert after < 0.995 * before


def test_training_leaves_reference_and_policy_alone(trained: PreferRecipe) -> None:
    untouched = adversary_policy(trained, CPU)
    state = load_checkpoint(run_of(trained) / "checkpoints" / "step_00000040").state
    assert state["fixed"]["reference"] == untouched.reference_hash()
    model = CompactModel(untouched, torch.float32, CPU)
    hashes = [untouched.set_hash(name) for name in (REFERENCE, POLICY, ADVERSARY)]
    batch = source_of(trained, untouched)(0, slice(None))
    noise = torch.randn(batch.hq.shape, generator=seeded_generator("noise"))
    clean_step(model.policy.head, batch, torch.ones(len(noise)), noise).loss.backward()
    for parameter in untouched.head.parameters():
        if parameter.grad is not None:
            parameter.data.sub_(parameter.grad)
    after = [untouched.set_hash(name) for name in (REFERENCE, POLICY, ADVERSARY)]
    assert [a == b for a, b in zip(hashes, after, strict=True)] == [True, True, False]


def test_on_photographs_that_never_train_the_adversary_is_nearer_to_the_baselines_on_average(
    trained: PreferRecipe,
) -> None:
    summary = json.loads((run_of(trained) / "summary.json").read_text(encoding="utf-8"))["imitation"]
    assert summary["photos"] == 3
    assert {key.rsplit("/", 1)[1] for key in summary["values"]} == {"bicubic", "real-esrgan"}
    rows = summary["lpips"]
    assert rows.keys() == {*BUILT_IN, "all"}
    for row in rows.values():
        assert row["gain"][0] == pytest.approx(row["sft"] - row["adversary"])
        assert row["nearer"] == (row["gain"][1] > 0)
    assert rows["all"]["gain"][0] == pytest.approx(sum(rows[name]["gain"][0] for name in BUILT_IN) / len(BUILT_IN))
    assert rows["all"]["nearer"]


def test_a_run_ends_with_a_grid_and_a_report_of_how_near_it_comes(trained: PreferRecipe) -> None:
    _, model, adversary, *_ = columns_of(run_of(trained) / "samples" / "grid_00000040.png", 5)
    assert not np.array_equal(model, adversary)
    page = Reader(run_of(trained) / "report.html")
    summary = json.loads((run_of(trained) / "summary.json").read_text(encoding="utf-8"))
    assert "Adversary on compact" in page.words
    row = summary["imitation"]["lpips"]["over_sharpened"]
    place = page.words.index("over_sharpened")
    assert page.words[place + 1 : place + 3] == [f"{row['sft']:.4f}", f"{row['adversary']:.4f}"]
    assert "not finished" not in page.text
    assert "weights.json" not in page.text
    assert f"over_sharpened  {row['sft']:>9.4f}" in judged_text(trained)


def test_a_run_of_an_earlier_version_gets_its_report_and_table_too(trained: PreferRecipe, tmp_path: Path) -> None:
    old = Path(shutil.copytree(run_of(trained), tmp_path / "old"))
    summary = json.loads((old / "summary.json").read_text(encoding="utf-8"))
    assert summary["imitation"].pop("notes") == []
    (old / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert "over_sharpened" in Reader(write_report(old)).words
    assert imitation_text(summary["imitation"]) == judged_text(trained)


def test_an_adversary_that_learned_nothing_is_not_nearer(trained: PreferRecipe, tmp_path: Path) -> None:
    adversary_policy(trained, CPU).save(tmp_path / "adapter", ADVERSARY)
    for row in imitation(trained, tmp_path / "adapter", photos=2, seeds=1)["lpips"].values():
        assert row["sft"] == row["adversary"]
        assert not row["nearer"]


def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(base: Values, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_adversary(recipe_of(base, whole))
    train_adversary(recipe_of(base, broken, optim={"max_steps": 2}))
    with pytest.raises(ConfigError, match="already holds a run"):
        train_adversary(recipe_of(base, broken))
    train_adversary(recipe_of(base, broken), resume=True)
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "log.jsonl"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_resumed_run_keeps_what_settles_the_adversary(base: Values, tmp_path: Path) -> None:
    train_adversary(recipe_of(base, tmp_path, optim={"max_steps": 2}))
    with pytest.raises(ConfigError, match=r"adversary\.baselines was"):
        train_adversary(recipe_of(base, tmp_path, baselines=["prior"]), resume=True)
    other = {**base, "objective": {"name": "dpo", "beta": 3.0}}
    train_adversary(recipe_of(other, tmp_path), resume=True)


def test_the_adversary_starts_as_the_model_before_preference_training(base: Values, tmp_path: Path) -> None:
    policy = adversary_policy(recipe_of(base, tmp_path), CPU)
    moved(policy, ADVERSARY)
    policy.save(tmp_path / "start", ADVERSARY)
    started = {**base, "backbone": {**base["backbone"], "adapter": str(tmp_path / "start")}}
    recipe = recipe_of(started, tmp_path)
    again = adversary_policy(recipe, CPU)
    assert again.set_hash(ADVERSARY) == again.set_hash(REFERENCE) == policy.set_hash(ADVERSARY)
    with pytest.raises(ConfigError, match="rank"):
        adversary_policy(recipe_of(started, tmp_path, rank=3), CPU)


def folder_of_outputs(base: Values, folder: Path) -> dict[str, Tensor]:
    """Write other photographs under the groups' names and return their pixels."""
    folder.mkdir()
    dataset = open_dataset(Path(base["dataset"]))
    images = {}
    for index, group in enumerate(dataset.group_ids):
        images[group] = torch.rand(1, 3, 96, 96, generator=seeded_generator(index)).mul(255).round().div(255)
        write_image(folder / f"{group}.png", to_uint8(images[group]), format="png", recipe=None)
    return images


def test_a_folder_of_outputs_is_imitated_in_the_window_of_its_photo(base: Values, tmp_path: Path) -> None:
    images = folder_of_outputs(base, tmp_path / "outputs")
    source = source_of(recipe_of(base, tmp_path, baselines=[str(tmp_path / "outputs")]))
    group = source.store.group_ids[1]
    folder = source._folders[str(tmp_path / "outputs")]
    plain, mirrored = (folder.image(group, Window(3, 5, 8, 12, flip)) for flip in (False, True))
    torch.testing.assert_close(plain, images[group][..., 12:44, 20:68], atol=1e-6, rtol=0)
    assert torch.equal(mirrored, plain.flip(-1))
    batch = source(0, slice(None))
    shown = image_from_planes(shuffle_planes(batch.hq))
    assert float(shown.std()) == pytest.approx(12**-0.5, abs=0.02)


def test_a_folder_that_does_not_fit_the_groups_is_refused(base: Values, tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    recipe = recipe_of(base, tmp_path / "run", baselines=["prior", str(folder)])
    with pytest.raises(ConfigError, match=r"baselines must be prior, .* or folders of outputs, got"):
        train_adversary(recipe)
    folder_of_outputs(base, folder)
    first, second, *_ = sorted(folder.iterdir())
    shutil.move(second, tmp_path / "aside.png")
    with pytest.raises(ConfigError, match=f"an output for each group; {second.name} is missing"):
        train_adversary(recipe)
    write_image(second, read_image(first).pixels[..., :80, :84], format="png", recipe=None)
    with pytest.raises(ConfigError, match="96 x 96 px, got 84 x 80"):
        train_adversary(recipe)
    shutil.move(tmp_path / "aside.png", second)
    assert (train_adversary(recipe) / "adapter_model.safetensors").is_file()


def test_missing_held_out_photographs_are_told_before_training(base: Values, tmp_path: Path) -> None:
    values = {**base, "held_out": {"photos": [str(tmp_path / "nowhere")]}}
    with pytest.raises(InputError, match="photographs must lie in a folder"):
        train_adversary(recipe_of(values, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_recipe_without_the_section_is_refused(base: Values) -> None:
    values = {**base, "objective": {"name": "dpo", "beta": 1.0}, "adversary": None}
    with pytest.raises(ConfigError, match="section `adversary`"):
        train_adversary(parse_recipe(PreferRecipe, values, "test"))


def test_a_sweep_of_ranks_trains_each_once_and_compares_them(base: Values, held_out: Path, tmp_path: Path) -> None:
    values = {**base, "held_out": {"photos": [str(held_out)], "limit": 2, "presets": ["bicubic"]}}
    folder_of_outputs(base, tmp_path / "outputs")
    recipe = recipe_of(values, tmp_path / "run", baselines=["prior", str(tmp_path / "outputs")])
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe_values(recipe)), encoding="utf-8")
    said = CliRunner().invoke(app, ["adversary", str(path), "--ranks", "1", "2", "3"], catch_exceptions=False).stdout
    found = rank_sweep(recipe, (1, 2, 3))
    assert said == sweep_text(recipe, found) + "\n"
    assert said.splitlines()[-1].endswith(
        f"Not judged, as folders hold no outputs of held-out photographs: {tmp_path / 'outputs'}"
    )
    for line, (rank, row) in zip(said.splitlines()[2:], found.items(), strict=False):
        assert line.split()[:3] == [str(rank), str(row["parameters"]), f"{row['sft']:.4f}"]
    assert found[2]["parameters"] == 2 * found[1]["parameters"]
    assert found[1]["adversary"] != found[2]["adversary"]
    written = [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("run_rank*/adapter/*"))]
    assert rank_sweep(recipe, (1, 2, 3)) == found
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("run_rank*/adapter/*"))] == written
    with pytest.raises(ConfigError, match="held_out"):
        rank_sweep(recipe_of(base, tmp_path / "run"))


@given(exponent=st.floats(0, 2), share=st.floats(0.05, 0.95), seed=st.integers(0, 10**6))
def test_a_guess_outside_the_trust_region_ends_on_its_border_in_the_same_direction(
    exponent: float, share: float, seed: int
) -> None:
    guess, centre = torch.randn(2, 3, 2, 8, 12, generator=seeded_generator(seed), dtype=torch.float64)
    distance = sobolev_energy(guess - centre, exponent).sqrt()
    pulled = trusted_guess(guess, centre, distance, share * distance)
    torch.testing.assert_close(sobolev_energy(pulled - centre, exponent).sqrt(), share * distance)
    torch.testing.assert_close(pulled - centre, share * (guess - centre))
    assert torch.equal(trusted_guess(guess, centre, distance, 1.01 * distance), guess)
    assert torch.equal(trusted_guess(centre, centre, 0 * distance, distance), centre)


class Step:
    """One AS-DPO step with an adversary that has been moved away from the model."""

    def __init__(self, recipe: PreferRecipe) -> None:
        policy = load_policy(recipe, CPU)
        assert isinstance(policy, HeadPolicy)
        self.recipe, self.policy = recipe, policy
        dataset = open_dataset(Path(recipe.dataset))
        store: GroupStore = group_store(dataset, Path(recipe.cache), dtype=torch.float32, device="cpu")
        self.model = CompactModel(policy, torch.float32, CPU)
        self.batch: PairBatch[Any] = PairSource(recipe, store, training_pairs(dataset, recipe.pairs), self.model)(
            0, slice(None)
        )
        self.level = torch.tensor([0.3, 0.5, 0.8, 1.0])
        self.noise = torch.randn(self.batch.winner.shape, generator=seeded_generator("noise"))

    def loss(self, trust_radius: float = 0.0) -> float:
        output = preference_step(
            self.model, self.batch, self.recipe.objective, self.level, self.noise, trust_radius=trust_radius
        )
        return float(output.loss.detach())


@pytest.fixture
def step(trained: PreferRecipe) -> Step:
    return Step(trained)


def test_as_dpo_consults_the_trained_adversary(step: Step) -> None:
    moved(step.policy, POLICY)
    before = step.loss()
    assert step.loss() == before
    moved(step.policy, ADVERSARY)
    assert step.loss() != before


def test_the_trust_region_bounds_the_adversarys_velocity_in_the_objectives_norm(step: Step) -> None:
    model, batch, level = step.model, step.batch, step.level
    norm = sobolev_norm_of(step)

    def loser(radius: float) -> Tensor:
        return adversarial_loser(model, batch, level, step.noise, 1.0, norm=norm, trust_radius=radius)

    x = model.parametrisation.noisy(batch.winner, step.noise, level)
    with torch.no_grad(), step.policy.using(REFERENCE):
        centre = model.predict(x, level, batch.condition)

    def distance(clean: Tensor) -> Tensor:
        return norm(model.view(clean - centre)).sqrt() / level

    free = distance(loser(0.0))
    radius = float(free.median())
    torch.testing.assert_close(distance(loser(radius)), free.clamp(max=radius), rtol=1e-4, atol=0)
    assert torch.equal(loser(1.01 * float(free.max())), loser(0.0))
    torch.testing.assert_close(loser(1e-6), pulled_back(batch.winner, centre, 1.0), atol=1e-4, rtol=0)


def sobolev_norm_of(step: Step) -> Any:
    return lambda residual: sobolev_energy(residual, exponent_of(step.recipe.objective))


def test_the_recipes_trust_radius_reaches_the_step(trained: PreferRecipe, base: Values, tmp_path: Path) -> None:
    logs = []
    for radius in (0.0, 1e-3):
        values = {**base, "output": str(tmp_path / f"radius-{radius}")}
        recipe = recipe_of(values, run_of(trained), rank=4, alpha=4.0, trust_radius=radius)
        train_prefer(recipe)
        logs.append((Path(recipe.output) / "log.jsonl").read_text(encoding="utf-8"))
    assert logs[0] != logs[1]
