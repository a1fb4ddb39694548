import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sr_core.backbones.compact import head_metadata
from sr_core.backbones.compact_one_step import OneStepModel, load_one_step_model
from sr_core.backbones.flow_head import FlowHead
from sr_core.backbones.one_step import flow_levels
from sr_core.errors import ConfigError
from tests.sr_core.backbones.conftest import random_head
from train import one_step
from train.config import parse_recipe
from train.data import seeded_generator
from train.one_step import (
    OneStepLosses,
    draw_regions,
    fix_statistics,
    guide_distribution,
    mean_choice_entropy,
    measure_regions,
    one_step_loss,
    select_levels,
    size_penalty,
    teach_selector,
    train_one_step,
)
from train.one_step_config import OneStepRecipe, OwmsConfig, SelectorConfig
from train.owms import load_owms
from train.regions import cached_regions

Values = dict[str, Any]
COUNT = 2


@pytest.fixture(scope="module")
def cache(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regions")
    settings: Values = {"count": COUNT, "presets": {"bicubic": 1.0}, "seed": 5}
    cached_regions([str(originals)], folder, **settings, dtype=torch.float32, device="cpu")
    return folder


@pytest.fixture
def values(originals: Path, cache: Path, tmp_path: Path) -> Values:
    head: FlowHead = random_head()
    save_file(head.state_dict(), tmp_path / "head.safetensors", metadata=head_metadata(head))
    return {
        "seed": 5,
        "output": str(tmp_path / "run"),
        "head": str(tmp_path / "head.safetensors"),
        "data": {"photos": [str(originals)], "cache": str(cache), "count": COUNT, "presets": {"bicubic": 1.0}},
        "optim": {"learning_rate": 1e-3, "batch_size": 2, "max_steps": 4, "warmup_steps": 1, "decay_steps": 2},
        "losses": {"l2": 1.0, "lpips": 1.0},
        "selector": {"share": 0.5, "guide": 0.1, "guide_levels": 3, "first_steps": 2, "last_steps": 2, "entropy": 0.01},
        "log_every": 1,
        "checkpoint_every": 2,
        "dtype": "float32",
    }


@pytest.fixture(autouse=True)
def narrow_selector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every model here a selector of few channels; its shape is tested elsewhere."""
    from sr_core.backbones import compact_one_step as backbone

    plain = backbone.TimestepSelector
    monkeypatch.setattr(backbone, "TimestepSelector", lambda levels: plain(levels, channels=2, num_blocks=1))


def recipe_of(values: Values, **changes: Any) -> OneStepRecipe:
    return parse_recipe(OneStepRecipe, {**values, **changes}, "test.yaml")


def model_of() -> OneStepModel:
    torch.manual_seed(0)
    return OneStepModel.started_from(random_head())


def test_guidance_is_the_softmax_of_the_losses_parabola() -> None:
    places, levels = torch.linspace(0, 1, 6), flow_levels()
    parabola = lambda x: 0.3 + 2 * (x - 0.37) ** 2  # noqa: E731
    losses = torch.stack([parabola(places), torch.zeros(6)])
    found = guide_distribution(losses, places, levels, 0.05)
    torch.testing.assert_close(found[0], torch.softmax(-parabola(levels) / 0.05, 0))
    assert int(found[0].argmax()) == 37
    torch.testing.assert_close(found[1], torch.full((101,), 1 / 101))


def test_the_size_penalty_is_zero_at_the_size_and_symmetric_in_its_logarithm() -> None:
    size = 0.4
    found = size_penalty(torch.tensor([size**2, (2 * size) ** 2, (size / 2) ** 2]), size)
    torch.testing.assert_close(found[0], torch.tensor(0.0), atol=1e-10, rtol=0)
    torch.testing.assert_close(found[1], found[2])


def test_the_entropy_is_largest_when_the_batch_uses_all_levels() -> None:
    eye = torch.eye(4)
    torch.testing.assert_close(mean_choice_entropy(eye), torch.tensor(4.0).log())
    torch.testing.assert_close(mean_choice_entropy(eye[[1, 1, 1]]), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_the_selector_chooses_for_its_share_and_the_others_are_candidates() -> None:
    model, region = model_of().eval(), torch.rand(8, 3, 20, 20)
    chosen = select_levels(model, region, SelectorConfig(share=0.25), torch.Generator().manual_seed(0))
    assert len(chosen.logits) == 2
    distance = (chosen.sigma[:, None] - flow_levels()).abs().min(1).values
    torch.testing.assert_close(distance, torch.zeros(8), atol=1e-6, rtol=0)
    assert chosen.sigma[:2].requires_grad


def test_the_task_losses_alone_reach_the_selector_and_the_head(values: Values) -> None:
    recipe = recipe_of(values, selector={"share": 1.0}, velocity_weight=0.0)
    model, owms = model_of().eval(), load_owms(recipe.losses, "cpu")
    regions = cached_regions(
        recipe.data.photos, Path(recipe.data.cache), count=COUNT, presets=recipe.data.presets, seed=recipe.seed,
        dtype=torch.float32, device="cpu",
    )  # fmt: skip
    output = one_step_loss(model, owms, draw_regions(regions, recipe, 0), recipe, seeded_generator("test"))
    output.loss.backward()
    for parameter in (model.selector.fc[2].weight, model.selector.conv1[0].weight, model.head.out.weight):
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 0
    assert {"l2", "lpips", "size", "level"} <= output.metrics.keys()


def test_the_loss_table_has_the_losses_of_each_level_and_the_priors_at_zero(values: Values) -> None:
    recipe = recipe_of(values)
    regions = cached_regions(
        recipe.data.photos, Path(recipe.data.cache), count=COUNT, presets=recipe.data.presets, seed=recipe.seed,
        dtype=torch.float32, device="cpu",
    )  # fmt: skip
    model, owms = model_of(), load_owms(OwmsConfig(l2=1.0), "cpu")
    features, table = measure_regions(model, owms, regions, recipe, "cpu")
    assert features.shape[0] == table.shape[0] == COUNT
    batch = one_step._batch_of(model, regions.get(range(COUNT)))
    losses = OneStepLosses(model, owms, batch, torch.zeros_like(batch.hq))
    torch.testing.assert_close(table[:, 0], losses.clean.square().mean(dim=(1, 2, 3)))
    assert not torch.equal(table[:, 0], table[:, -1])


def test_guidance_alone_lowers_its_loss(values: Values) -> None:
    recipe = recipe_of(values)
    regions = cached_regions(
        recipe.data.photos, Path(recipe.data.cache), count=COUNT, presets=recipe.data.presets, seed=recipe.seed,
        dtype=torch.float32, device="cpu",
    )  # fmt: skip
    model = model_of()
    before = {name: value.clone() for name, value in model.selector.conv1.state_dict().items()}
    fix_statistics(model, regions, "cpu")
    losses = teach_selector(model, load_owms(recipe.losses, "cpu"), [regions], recipe, "cpu", 60)
    assert losses[-1] < losses[0] - 0.05
    assert torch.equal(before["0.weight"], model.selector.conv1[0].weight)


def test_a_resumed_run_equals_the_unbroken_one(values: Values, tmp_path: Path) -> None:
    unbroken = train_one_step(recipe_of(values))
    other = str(tmp_path / "other")
    half = {**values["optim"], "max_steps": 2, "decay_steps": 1}
    with pytest.MonkeyPatch.context() as patch:
        # The rate falls towards the end of a run, so a shorter run is not the first half of a longer one.
        patch.setattr("train.engine.learning_rate_at", lambda *_: 1e-3)
        train_one_step(recipe_of(values, output=str(tmp_path / "steady")))
        train_one_step(recipe_of(values, output=other, optim=half))
        resumed = train_one_step(recipe_of(values, output=other), resume=True)
    steady = load_file(tmp_path / "steady" / "one_step.safetensors")
    assert all(torch.equal(value, steady[name]) for name, value in load_file(resumed).items())
    model = load_one_step_model(unbroken)
    assert model.head.widths == (8, 8, 16)
    lines = [json.loads(line) for line in (unbroken.parent / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    changed = {**values["selector"], "share": 1.0}
    with pytest.raises(ConfigError, match=r"selector\.share"):
        train_one_step(recipe_of(values, output=other, selector=changed), resume=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"losses": {"l2": 0.0}}, "one above it"),
        ({"selector": {"share": 0.0}}, "share must lie"),
        ({"velocity_size": 0.0}, "velocity_size"),
        ({"losses": {"l2": 1.0, "clip": 1.0}}, "losses.clip"),
        ({"log_every": 0}, "log_every"),
        ({"losses": {"l2": 0.0, "image": 1.0}, "selector": {"guide": 0.1}}, "looks at l2 and lpips alone"),
    ],
)
def test_faults_of_a_recipe_are_named(values: Values, changes: Values, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe_of(values, **changes)
