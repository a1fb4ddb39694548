import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image as PillowImage
from safetensors.torch import load_file

from sr_core.backbones.compact import load_compact
from sr_core.errors import ConfigError, InputError
from sr_core.images import from_uint8, read_image, to_uint8, write_image
from sr_core.noise import block_noise
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
from sr_core.rewards.group import GroupReward
from sr_core.samplers import SAMPLERS, integrate
from sr_core.schedules import SCHEDULES
from sr_core.tensors import Enlarged, Image
from tests.train.conftest import Values
from train.config import parse_recipe
from train.judge_tables import REPORTED, compare
from train.prefer import train_prefer
from train.preference_config import CurateRecipe, PreferRecipe
from train.round_rule import Change, HeldOut, Judgement, change_since, check_judgement, standing, verdict_on
from train.rounds import Parts, judgement_from, run_rounds

ROOT = Path(__file__).parents[2]
SIDE = 8
"""LQ pixels of a photograph."""
EXPOSURES = (-8, -3, 3, 8)
"""What is added to the 8-bit values of a group's candidates: the constant shifts that brightness rewards."""
ORIGIN = Origin(
    generator="test", model_id="compact", model_revision=None, adapter="test", sampler="euler", schedule="geometric",
    steps=2, guidance=1.0, color_fix="off", tile_cfg="{}", preset=None, photo="test",
)  # fmt: skip


def draw(photo: Image, head: Path, adapter: Path | None, seeds: list[int]) -> Enlarged:
    """Return one restoration per seed, drawn in two steps."""
    model = load_compact(dtype=torch.float32, head=head, adapter=adapter)
    condition = model.encode(photo)
    noise = torch.cat([block_noise(seed, 48, 0, 0, SIDE, SIDE) for seed in seeds])
    latent = integrate(
        SAMPLERS["euler"], lambda x, s: model.velocity(x, s, condition), noise, SCHEDULES["geometric"](2)
    )
    return model.decode(latent, condition)


def candidates(photo: Image, recipe: CurateRecipe, seeds: list[int]) -> list[np.ndarray]:
    """Return what the current policy draws, each at another exposure."""
    assert recipe.backbone.head is not None
    adapter = None if recipe.backbone.adapter is None else Path(recipe.backbone.adapter)
    images = draw(photo, Path(recipe.backbone.head), adapter, seeds)
    return [to_uint8(image[None] + shift / 255) for image, shift in zip(images, EXPOSURES, strict=True)]


def brightness_reward(images: list[np.ndarray]) -> GroupReward:
    """Return brightness, scaled to [0, 1] within the group."""
    mean = np.array([float(image.mean()) for image in images])
    reward = (mean - mean.min()) / np.ptp(mean)
    return GroupReward(reward=reward, normalised={}, weights={}, tie_band=0.0, ranks=None, left_out={}, notices=())


@dataclass
class Toy:
    """Online rounds of a tiny head whose reward is brightness, judged by PSNR against truths that a test chooses."""

    photos: list[Image]
    head: Path
    truths: list[Enlarged]
    interrupted_round: int = 0
    """Judging this round raises once."""

    def __post_init__(self) -> None:
        self.calls: list[str] = []
        self.curations: list[CurateRecipe] = []

    def curate(self, recipe: CurateRecipe) -> Path:
        """Write a real dataset of the current policy's candidates."""
        folder = Path(recipe.output)
        self.calls.append(f"curate {folder.parent.name}")
        self.curations.append(recipe)
        if (folder / MARKER).is_file():
            return folder
        folder.mkdir(parents=True)
        schema, parts = candidate_schema(("brightness",)), []
        for number, photo in enumerate(self.photos):
            seeds = [recipe.seed * 1000 + 4 * number + m for m in range(4)]
            images = candidates(photo, recipe, seeds)
            group = ScoredGroup(
                group_id=f"photo-{number}", origin=ORIGIN, lq=to_uint8(photo), hq=None, images=images,
                candidate_ids=range(4), seeds=seeds, sources=[None] * 4, dtypes=["float32"] * 4, metrics=[],
                raw={"brightness": [float(image.mean()) for image in images]}, reward=brightness_reward(images),
            )  # fmt: skip
            parts.append(folder / f"{number}.parquet")
            write_group(parts[-1], group_table(group, schema, datetime.now(UTC)), Seconds(0.0, 0.0, 0.0))
        merged = merge_groups(parts, folder, schema, groups_per_shard=8)
        pq.write_table(pairs_table(merged, weigh_groups(merged.rewards, 2)), folder / "pairs.parquet")
        content = {
            "digest": merged.digest, "group_ids": merged.group_ids, "candidates": merged.files,
            "pairs": "pairs.parquet",
        }  # fmt: skip
        (folder / MARKER).write_text(json.dumps(content), encoding="utf-8")
        return folder

    def prefer(self, recipe: PreferRecipe, *, resume: bool, policy_start: Path | None) -> Path:
        start = "SFT" if policy_start is None else policy_start.parent.name
        self.calls.append(f"prefer {Path(recipe.output).name} from {start}, resume {resume}")
        return train_prefer(recipe, resume=resume, policy_start=policy_start)

    def outputs(self, adapter: Path | None) -> list[Enlarged]:
        """Return each photograph's mean over two seeds, the same for every adapter."""
        return [draw(photo, self.head, adapter, [1, 2]).mean(0, keepdim=True) for photo in self.photos]

    def judge(self, recipe: PreferRecipe, adapter: Path) -> Judgement:
        assert recipe.rounds is not None
        folder = adapter.parent.name
        self.calls.append(f"judge {folder}")
        if folder == f"round_{self.interrupted_round}":
            self.interrupted_round = 0
            raise KeyboardInterrupt
        both = [self.outputs(None), self.outputs(adapter)]

        def psnr(images: list[Enlarged]) -> np.ndarray:
            errors = [float((a - b).square().mean()) for a, b in zip(images, self.truths, strict=True)]
            return np.array([-10 * np.log10(error + 1e-6) for error in errors])

        def brightness(images: list[Enlarged]) -> np.ndarray:
            return np.array([float(image.mean()) for image in images])

        names = tuple(str(i) for i in range(len(self.photos)))
        reward, hold_out = (HeldOut(*map(measure, both), False) for measure in (brightness, psnr))
        return Judgement(names, reward, {"psnr": hold_out})

    @property
    def parts(self) -> Parts:
        return Parts(curate=self.curate, prefer=self.prefer, judge=self.judge)


@pytest.fixture(scope="module")
def small_photos(photos: Path) -> list[Image]:
    with PillowImage.open(photos / "eval" / "472_bluebird.png") as image:
        pixels = np.asarray(image.convert("RGB").resize((3 * SIDE, SIDE), PillowImage.Resampling.BICUBIC))
    return [from_uint8(pixels[:, i * SIDE : (i + 1) * SIDE].copy()) for i in range(3)]


@pytest.fixture(scope="module")
def values(tiny_head: Path, tmp_path_factory: pytest.TempPathFactory) -> Values:
    """Return the values of a recipe of rounds, all but `output`; the files that it holds out are never looked into."""
    held_out = tmp_path_factory.mktemp("held_out")
    for name in ("a", "b", "c"):
        (held_out / f"{name}.png").write_text(name, encoding="utf-8")
    curation = tmp_path_factory.mktemp("recipe") / "curate.yaml"
    curate = {"seed": 1, "output": "set anew", "crops": "none", "presets": {"bicubic": 1.0}, "top": 2}
    curation.write_text(yaml.safe_dump(curate), encoding="utf-8")
    return {
        "seed": 5,
        "dataset": "set anew",
        "cache": "set anew",
        "backbone": {"head": str(tiny_head)},
        "lora": {"rank": 2, "alpha": 2},
        "pairs": {"source": "table"},
        "objective": {"name": "dpo", "beta": 20},
        "optim": {
            "learning_rate": 1e-3, "batch_size": 8, "max_steps": 6, "warmup_steps": 1, "decay_steps": 1,
            "ema_rate": 1.0,
        },
        "held_out": {"photos": [str(held_out)]},
        "rounds": {"count": 3, "curate": str(curation)},
        "window_px": 8,
        "log_every": 1,
        "checkpoint_every": 3,
        "dtype": "float32",
    }  # fmt: skip


def recipe_of(values: Values, output: Path, **changed: Any) -> PreferRecipe:
    return parse_recipe(PreferRecipe, {**values, "output": str(output), **changed}, "test")


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def written(output: Path) -> dict[str, Any]:
    return json.loads((output / "rounds.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dark_run(
    values: Values, small_photos: list[Image], tiny_head: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a series whose truths are what the SFT model draws, so that any shift is a loss."""
    toy = Toy(small_photos, tiny_head, [])
    toy.truths = toy.outputs(None)
    output = tmp_path_factory.mktemp("dark") / "run"
    assert run_rounds(recipe_of(values, output), toy.parts) == output / "adapter"
    return output


def test_a_reward_that_a_shift_games_from_the_start_leaves_the_model_before_training(
    dark_run: Path, small_photos: list[Image], tiny_head: Path
) -> None:
    (only,) = written(dark_run)["rounds"]
    assert only["reward_change"] > 0 > only["hold_out_change"]
    assert written(dark_run)["accepted_round"] == 0
    assert not (dark_run / "round_2").exists()
    for photo in small_photos:
        kept = draw(photo, tiny_head, dark_run / "adapter", [7])
        assert torch.equal(kept, draw(photo, tiny_head, None, [7]))
        assert not torch.equal(kept, draw(photo, tiny_head, dark_run / "round_1" / "adapter", [7]))


def test_a_reward_that_a_shift_games_stops_at_the_round_that_overshoots_and_keeps_the_earlier_adapter(
    values: Values, small_photos: list[Image], tiny_head: Path, dark_run: Path, tmp_path: Path
) -> None:
    toy = Toy(small_photos, tiny_head, [])
    toy.truths = toy.outputs(dark_run / "round_1" / "adapter")  # just as bright as round 1 gets, by the same seeds
    output = tmp_path / "run"
    adapter = run_rounds(recipe_of(values, output), toy.parts)
    first, second = written(output)["rounds"]
    assert (first["accepted"], first["stop"]) == (True, False)
    assert (second["accepted"], second["stop"]) == (False, True)
    assert second["reward"]["adapter_mean"] > first["reward"]["adapter_mean"] > first["reward"]["sft_mean"]
    assert "round 2" in written(output)["stopped"]
    assert not (output / "round_3").exists()
    assert content(adapter) == content(output / "round_1" / "adapter") == content(dark_run / "round_1" / "adapter")
    assert content(adapter) != content(output / "round_2" / "adapter")


def test_an_interrupted_series_goes_on_and_ends_as_the_unbroken_one(
    values: Values, small_photos: list[Image], tiny_head: Path, tmp_path: Path
) -> None:
    toy = Toy(small_photos, tiny_head, [], interrupted_round=2)
    toy.truths = [image + 0.5 for image in toy.outputs(None)]  # brighter than two rounds can get
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    shorter = {"rounds": {**values["rounds"], "count": 1}}
    run_rounds(recipe_of(values, broken, **shorter), toy.parts)
    longer = {"rounds": {**values["rounds"], "count": 2}}
    with pytest.raises(KeyboardInterrupt):
        run_rounds(recipe_of(values, broken, **longer), toy.parts)
    assert content(broken / "adapter") == content(broken / "round_1" / "adapter"), "the earlier one is there meanwhile"
    run_rounds(recipe_of(values, broken, **longer), toy.parts)
    assert toy.calls == [
        "curate round_1", "prefer round_1 from SFT, resume False", "judge round_1",
        "curate round_2", "prefer round_2 from round_1, resume False", "judge round_2",
        "curate round_2", "prefer round_2 from round_1, resume True", "judge round_2",
    ]  # fmt: skip
    toy.calls.clear()
    run_rounds(recipe_of(values, broken, **longer), toy.parts)
    assert toy.calls == []
    run_rounds(recipe_of(values, unbroken, **longer), toy.parts)
    assert written(broken)["rounds"] == written(unbroken)["rounds"]
    assert [entry["accepted"] for entry in written(broken)["rounds"]] == [True, True]
    assert content(broken / "adapter") == content(unbroken / "adapter") == content(unbroken / "round_2" / "adapter")
    _check_what_each_round_started_from(toy.curations[-2:], unbroken)


def _check_what_each_round_started_from(curations: list[CurateRecipe], output: Path) -> None:
    first, second = curations
    assert first.backbone.adapter is None
    assert second.backbone.adapter == str(output / "round_1" / "adapter")
    assert first.seed != second.seed
    weights = "adapter_model.safetensors"
    for number in (1, 2):
        reference = load_file(output / f"round_{number}" / "reference" / weights)
        assert all(not value.any() for name, value in reference.items() if "lora_B" in name)
    (start,) = (json.loads((output / "round_2" / "log.jsonl").read_text().splitlines()[0]) for _ in range(1))
    assert start["kl_proxy"] > 0, "round 2 begins away from the reference"


def test_two_processes_make_the_rounds_of_one(
    values: Values, curate_values: Values, photos: Path, tmp_path: Path
) -> None:
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for name in ("472_bluebird.png", "241_building.png"):
        write_image(held_out / name, read_image(photos / "eval" / name).pixels[..., 160:352, 160:352], format="png")
    curation = tmp_path / "curate.yaml"
    curation.write_text(yaml.safe_dump({**curate_values, "num_groups": 2, "output": "set anew"}), encoding="utf-8")
    own = {
        **values,
        "pairs": {"top": 2},
        "optim": {**values["optim"], "learning_rate": 1e-2},
        "held_out": {"photos": [str(held_out)], "presets": ["bicubic"], "num_candidates": 2},
        "rounds": {"count": 2, "curate": str(curation), "tolerance": 100.0},
        "draw": {"num_candidates": 4, "num_steps": 2},
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes have that this one is compared with
    try:
        run_rounds(recipe_of(own, tmp_path / "one"))
    finally:
        torch.set_num_threads(threads)
    recipe = tmp_path / "rounds.yaml"
    recipe.write_text(yaml.safe_dump({**own, "output": str(tmp_path / "two")}), encoding="utf-8")
    launcher = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29620", "-m"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "train", "rounds", str(recipe)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "two" / "round_2" / "summary.json").read_text(encoding="utf-8"))
    assert summary["processes"] == 2
    first, second = (written(tmp_path / name) for name in ("one", "two"))
    assert len(second["rounds"]) == 2
    assert second["accepted_round"] == first["accepted_round"]
    digests = [open_dataset(tmp_path / name / "round_1" / "dataset").digest for name in ("one", "two")]
    assert digests[0] == digests[1]
    for ours, theirs in zip(second["rounds"], first["rounds"], strict=True):
        assert ours["reward"]["adapter_mean"] == pytest.approx(theirs["reward"]["adapter_mean"], abs=0.02)
        assert ours["accepted"] == theirs["accepted"]


def test_rounds_of_another_recipe_are_refused(values: Values, dark_run: Path) -> None:
    other = recipe_of(values, dark_run, objective={"name": "dpo", "beta": 21})
    with pytest.raises(ConfigError, match="another objective"):
        run_rounds(other)


def test_photographs_that_change_between_rounds_are_refused_before_any_work(
    values: Values, small_photos: list[Image], tiny_head: Path, tmp_path: Path
) -> None:
    held_out, output = tmp_path / "held_out", tmp_path / "run"
    shutil.copytree(values["held_out"]["photos"][0], held_out)
    toy = Toy(small_photos, tiny_head, [])
    toy.truths = [image + 0.5 for image in toy.outputs(None)]

    def run(count: int, parts: Parts = toy.parts) -> None:
        changed = {"rounds": {**values["rounds"], "count": count}, "held_out": {"photos": [str(held_out)]}}
        run_rounds(recipe_of(values, output, **changed), parts)

    run(1)
    files = [held_out / f"{name}.png" for name in "abc"]
    assert list(written(output)["rounds"][0]["photo_sha256"]) == ["a", "b", "c"]
    first = written(output)["rounds"]
    toy.calls.clear()
    files[0].write_text("another photograph of the same name", encoding="utf-8")
    files[1].rename(held_out / "d.png")
    with pytest.raises(ConfigError, match=r"same held-out photographs.*gone: b; new: d; changed: a; put back"):
        run(2)
    assert toy.calls == []
    assert written(output)["rounds"] == first
    run(1)  # nothing is left to judge
    (held_out / "d.png").rename(files[1])
    files[0].write_text("a", encoding="utf-8")

    def prefer(recipe: PreferRecipe, *, resume: bool, policy_start: Path | None) -> Path:
        files[2].write_text("changed while the round was trained", encoding="utf-8")
        return toy.prefer(recipe, resume=resume, policy_start=policy_start)

    with pytest.raises(ConfigError, match="since the last one changed: c;"):
        run(2, replace(toy.parts, prefer=prefer))
    assert toy.calls == ["curate round_2", "prefer round_2 from round_1, resume False"]
    files[2].write_text("c", encoding="utf-8")
    run(2)
    assert len(written(output)["rounds"]) == 2


def test_a_recipe_without_what_rounds_need_is_refused(values: Values, tmp_path: Path) -> None:
    recipe = recipe_of(values, tmp_path / "run")
    for lacking in ({"rounds": None}, {"held_out": None}):
        with pytest.raises(ConfigError, match="`rounds` and `held_out`"):
            run_rounds(replace(recipe, **lacking))
    with pytest.raises(ConfigError, match=r"lora\.train"):
        run_rounds(recipe_of(values, tmp_path / "run", lora={"train": "full"}))
    assert not (tmp_path / "run").exists()


def judgement(sft: list[float], adapter: list[float], *, lower_is_better: bool, reward: float = 0.1) -> Judgement:
    zero = np.zeros(len(sft))
    figure = HeldOut(np.array(sft), np.array(adapter), lower_is_better)
    return Judgement(tuple("abc")[: len(sft)], HeldOut(zero, zero + reward, False), {"figure": figure})


def change_from_sft(found: Judgement) -> Change:
    return change_since(standing(found, of="sft"), found)


def test_a_change_has_no_unit_and_is_positive_where_better() -> None:
    sft, adapter = [1.0, 2.0, 6.0], [2.0, 3.0, 5.5]
    higher = change_from_sft(judgement(sft, adapter, lower_is_better=False))
    lower = change_from_sft(judgement(sft, adapter, lower_is_better=True))
    scaled = change_from_sft(judgement([1000 * x for x in sft], [1000 * x for x in adapter], lower_is_better=False))
    assert higher.hold_out == pytest.approx(0.5 / np.std(sft))
    assert lower.hold_out == -higher.hold_out
    assert scaled.hold_out == pytest.approx(higher.hold_out)
    assert higher.reward == pytest.approx(0.1)


def test_a_change_counts_from_the_best_accepted_round() -> None:
    first = judgement([1.0, 3.0], [2.0, 4.0], lower_is_better=False, reward=0.1)
    second = judgement([1.0, 3.0], [1.5, 3.5], lower_is_better=False, reward=0.3)
    change = change_since(standing(first, of="adapter"), second)
    assert change.reward == pytest.approx(0.2)
    assert change.hold_out == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("reward", "hold_out", "accepted", "stop"),
    [
        (0.1, 0.2, True, False),
        (0.1, -0.05, True, False),  # within the tolerance
        (0.1, -0.2, False, True),
        (-0.1, -0.2, False, False),
        (-0.1, 0.2, False, False),
        (0.0, -0.2, False, False),
    ],
)
def test_only_a_rise_of_the_reward_against_falling_hold_outs_stops(
    reward: float, hold_out: float, accepted: bool, stop: bool
) -> None:
    verdict = verdict_on(Change(reward, {"a": hold_out - 1.0, "b": hold_out + 1.0}), 0.1)
    assert (verdict.accepted, verdict.stop) == (accepted, stop)


def test_figures_that_cannot_judge_are_refused() -> None:
    with pytest.raises(InputError, match="figure must be finite"):
        check_judgement(judgement([1.0, 2.0], [1.0, np.nan], lower_is_better=False))
    with pytest.raises(ConfigError, match="at least 2 photographs"):
        check_judgement(judgement([1.0], [1.0], lower_is_better=False))


def test_a_judgement_holds_the_means_that_judging_reports() -> None:
    generator = np.random.default_rng(2)

    def values() -> dict[str, list[float]]:
        return {name: generator.normal(10, 1, 4).tolist() for name in (*REPORTED, "diversity")}

    judged = {
        model: {preset: {photo: values() for photo in ("a", "b", "c")} for preset in ("bicubic", "seesr")}
        for model in ("dpo", "sft")
    }
    found, reported = judgement_from(judged, "dpo"), compare(judged, "dpo", "sft")
    assert found.photos == ("a", "b", "c")
    assert found.reward.adapter.mean() == pytest.approx(reported["reward"]["mean"]["ours"])
    assert found.reward.sft.mean() == pytest.approx(reported["reward"]["mean"]["theirs"])
    assert set(found.hold_outs) == {"st_lpips", "piqe", "lsd", "psnr"}
    for name, figure in found.hold_outs.items():
        assert figure.sft.mean() == pytest.approx(reported["metrics"][name]["theirs"])
        assert (figure.adapter - figure.sft).mean() * (-1 if figure.lower_is_better else 1) == pytest.approx(
            reported["metrics"][name]["gain"]["mean"]
        )
