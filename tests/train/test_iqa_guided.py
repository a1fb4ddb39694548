import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sr_core.backbones.adapters import merge_adapter
from sr_core.backbones.compact import load_head
from sr_core.backbones.prior import Prior
from sr_core.errors import ConfigError
from sr_core.images import from_uint8
from sr_core.preference_data.dataset import open_dataset
from tests.train.conftest import SEED, Values
from train import iqa_guided
from train.config import parse_recipe
from train.iqa_attack import Trajectory, at_level, attack_table, common_level, draw_attack
from train.iqa_config import IqaRecipe
from train.iqa_guided import train_iqa
from train.iqa_publish import publish_iqa
from train.iqa_sampling import TargetSource
from train.iqa_targets import ORIGINAL, make_targets, unsharp
from train.store import TRUTH, GroupStore, group_store

SOURCES = ("sharpened", "clarity", "prior", "compact")


@pytest.fixture(scope="module")
def base(crops: Path, tiny_head: Path, tmp_path_factory: pytest.TempPathFactory) -> Values:
    """Return the values of a recipe on two crops of 64 px, its dataset made and its features cached."""
    folder = tmp_path_factory.mktemp("iqa")
    values: Values = {
        "seed": SEED,
        "output": str(folder / "run"),
        "dataset": str(folder / "targets"),
        "cache": str(folder / "cache"),
        "enhance": {
            "crops": str(crops),
            "num_groups": 2,
            "crop_px": 64,
            "presets": {"bicubic": 1.0},
            "sources": list(SOURCES),
        },
        "backbone": {"head": str(tiny_head)},
        "lora": {"rank": 2, "alpha": 2},
        "targets": {"strategy": "amo"},
        "quality": {"image": "clean_end", "flow": 1.0, "perceptual": 1.0},
        "optim": {"learning_rate": 1e-3, "batch_size": 2, "max_steps": 4, "warmup_steps": 1, "decay_steps": 1},
        "draw": {"num_steps": 2},
        "window_px": 16,
        "log_every": 1,
        "checkpoint_every": 2,
        "dtype": "float32",
    }
    recipe = parse_recipe(IqaRecipe, values, "test")
    make_targets(recipe)
    group_store(open_dataset(Path(recipe.dataset)), Path(recipe.cache), dtype=torch.float32, device="cpu")
    return values


@pytest.fixture
def recipe_of(base: Values, tmp_path: Path) -> Callable[..., IqaRecipe]:
    """Return a function that makes the recipe with other sections, writing into a folder of its own."""

    def make(name: str = "run", **sections: object) -> IqaRecipe:
        values = {**base, "output": str(tmp_path / name)}
        for key, value in sections.items():
            values[key] = {**values[key], **value} if isinstance(value, dict) and key in values else value
        return parse_recipe(IqaRecipe, json.loads(json.dumps(values)), "test")

    return make


def sampled(**weights: float) -> dict[str, Any]:
    return {"image": "sampled", "flow": 0.0, "perceptual": 0.0, **weights}


def test_the_dataset_holds_the_original_and_its_enhanced_versions(base: Values) -> None:
    dataset = open_dataset(Path(base["dataset"]))
    rows = dataset.rows(0, ["model_id"])["model_id"].to_pylist()
    assert rows == [ORIGINAL, *SOURCES]
    group = dataset.group(0)
    assert group.hq is not None
    assert np.array_equal(group.images[0], group.hq)
    assert group.lq.shape == (16, 16, 3)
    sharpened = unsharp(from_uint8(group.hq), 1.0, 0.8)
    assert np.abs(group.images[1] - (255 * sharpened[0].permute(1, 2, 0)).numpy()).max() <= 0.51
    # An enhanced version is the original's picture, and not the original itself.
    for image in group.images[1:]:
        error = np.abs(image.astype(float) - group.hq).mean()
        assert 0 < error < 30
    assert "brisque" in dataset.raw(0)


def test_a_dataset_of_other_settings_is_refused(recipe_of) -> None:
    with pytest.raises(ConfigError, match="other settings"):
        make_targets(recipe_of(seed=SEED + 1))


def test_amo_shows_the_target_whose_patch_scores_best(recipe_of) -> None:
    recipe = recipe_of()
    dataset = open_dataset(Path(recipe.dataset))
    store = group_store(dataset, Path(recipe.cache), dtype=torch.float32, device="cpu")
    source = TargetSource(recipe, dataset, store, load_head(Path(recipe.backbone.head)))
    batch = source(0, slice(None))
    again = source(0, slice(None))
    assert torch.equal(batch.target, again.target)
    assert batch.target.shape == (2, 3, 64, 64)
    scores = {own.group: dataset.raw(k)["brisque"] for k, own in enumerate(source.targets)}
    # The window is the whole crop, mirrored or not, so the stored scores say which target must win.
    best = {own.names[int(np.argmin(scores[own.group]))] for own in source.targets}
    assert set(batch.chosen) <= best


def test_labels_decide_what_upos_shows(recipe_of, tmp_path: Path) -> None:
    dataset = open_dataset(Path(recipe_of().dataset))
    labels = tmp_path / "labels.csv"
    rows = [f"{group},clarity,{other},1" for group in dataset.group_ids for other in (ORIGINAL, "sharpened")]
    labels.write_text("group_id,first,second,outcome\n" + "\n".join(rows) + "\n")
    recipe = recipe_of(targets={"strategy": "upos", "labels": [str(labels)]})
    store = group_store(dataset, Path(recipe.cache), dtype=torch.float32, device="cpu")
    source = TargetSource(recipe, dataset, store, load_head(Path(recipe.backbone.head)))
    assert source(3, slice(None)).chosen == ("clarity", "clarity")


def test_the_ground_truth_of_any_preference_dataset_is_a_target(curated: Path, tiny_head: Path, recipe_of) -> None:
    recipe = recipe_of(dataset=str(curated), targets={"strategy": "original"})
    dataset = open_dataset(curated)
    source = TargetSource(recipe, dataset, GroupStore(curated, dataset.group_ids), load_head(tiny_head))
    assert all(own.indices[-1] == TRUTH and own.original == len(own.indices) - 1 for own in source.targets)
    assert all(own.names[-1] == ORIGINAL for own in source.targets)
    chances = [p.tolist() for p in source.probabilities if p is not None]
    assert chances == [[0.0] * 4 + [1.0]] * len(dataset)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"quality": sampled(l1=1.0, quality=0.5, gan=0.1)},
        {"quality": sampled(quality=1.0), "lora": {"rank": 2, "alpha": 2, "train": "full"}},
    ],
    ids=["amo", "ft_ig", "full"],
)
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(recipe_of, sections) -> None:
    whole = train_iqa(recipe_of("whole", **sections))
    part = recipe_of("part", **sections)
    train_iqa(recipe_of("part", **sections, optim={"max_steps": 2}))
    resumed = train_iqa(part, resume=True)
    name = "head.safetensors" if sections.get("lora") else "adapter_model.safetensors"
    first, second = load_file(whole / name), load_file(resumed / name)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    log = [json.loads(line) for line in (Path(part.output) / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3, 4]


def test_a_step_on_the_score_raises_it_and_moves_the_lora_alone(recipe_of, tiny_head: Path) -> None:
    optim = {"max_steps": 12, "learning_rate": 5e-3, "warmup_steps": 1}
    recipe = recipe_of(quality=sampled(quality=1.0), optim=optim)
    adapter = train_iqa(recipe)
    log = [json.loads(line) for line in (Path(recipe.output) / "log.jsonl").read_text().splitlines()]
    assert np.mean([row["quality"] for row in log[-3:]]) > log[0]["quality"]
    plain, merged = load_head(tiny_head), load_head(tiny_head)
    merge_adapter(merged, adapter)
    assert not torch.equal(plain.out.weight, merged.out.weight)
    assert torch.equal(plain.embed_level[0].weight, merged.embed_level[0].weight)


def test_the_prior_takes_a_lora_too_and_its_folder_merges_into_it(recipe_of, monkeypatch) -> None:
    def tiny() -> Prior:
        torch.manual_seed(5)
        return Prior(num_blocks=1).requires_grad_(False).eval()

    monkeypatch.setattr(iqa_guided, "load_prior", tiny)
    recipe = recipe_of(part="prior", quality={"flow": 0.0, "l1": 1.0, "quality": 0.1}, optim={"max_steps": 2})
    adapter = train_iqa(recipe)
    plain, merged = tiny(), tiny()
    merge_adapter(merged, adapter)
    lq = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert not torch.equal(plain(lq).image, merged(lq).image)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"].startswith("compact prior, sha256 ")


def test_a_run_that_is_not_judged_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train and evaluate"):
        publish_iqa(tmp_path, "iqa_amo")
    with pytest.raises(ConfigError, match="must be one of"):
        publish_iqa(tmp_path, "iqa_best")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"targets": {"strategy": "smp"}}, "needs `labels`"),
        ({"part": "prior"}, "no flow"),
        ({"window_px": 10}, "multiple of 4"),
        ({"lora": {"train": "full"}, "backbone": {"adapter": "somewhere"}}, "use lora"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(recipe_of, sections, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_of(**sections)


FULL = Trajectory((0, 1, 2), {"brisque": (40.0, 30.0, 20.0), "lsd": (5.0, 6.0, 9.0)})
LORA = Trajectory((0, 1, 2), {"brisque": (40.0, 35.0, 25.0), "lsd": (5.0, 5.1, 5.5)})


def test_runs_are_compared_at_the_best_score_that_both_reach(tmp_path: Path) -> None:
    level = common_level([FULL, LORA])
    assert level == 25
    assert at_level(FULL, level) == {"brisque": 25.0, "lsd": 7.5}
    assert at_level(LORA, level) == {"brisque": 25.0, "lsd": 5.5}
    assert at_level(FULL, 10.0) is None
    table = attack_table({"all": FULL, "lora": LORA})
    assert "| all, at the equal score | 25 | 7.5 |" in table
    draw_attack({"all": FULL, "lora": LORA}, tmp_path / "attack.png")
    assert (tmp_path / "attack.png").read_bytes().startswith(b"\x89PNG")
