import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sr_core.backbones.flux import FluxBackbone
from sr_core.diffusion import preserving_level
from sr_core.errors import ConfigError, WeightsError
from sr_core.images import read_size
from sr_core.preference_data.dataset import open_dataset
from tests.train.conftest import columns_of
from tests.train.latent_case import GROUPS, SIDE, latent_values, save_backbone, write_dataset
from train.adversary import _learner, train_adversary
from train.checkpoints import latest_checkpoint
from train.config import parse_recipe
from train.engine import accumulate
from train.latent_trainee import LatentTrainee
from train.latent_weights import check_weights, load_latent
from train.losses import OBJECTIVES
from train.policy import REFERENCE
from train.prefer import PairSource, step_function, train_prefer, training_pairs
from train.preference_config import BackboneConfig, PreferRecipe
from train.processes import Processes

KINDS = ("sd2-epsilon", "sd2-v", "sd15", "sdxl", "c-flux", "flux-lora")
Values = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def small_flux() -> Any:
    """Let tiny photos stay tiny: FLUX would enlarge them to 512 px."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FluxBackbone, "process_size", 64)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("groups"))


@pytest.fixture(scope="module")
def values_of(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Values]:
    """Return a function that makes a recipe's values for a kind of backbone; its weights and cache are made once."""
    made: dict[str, tuple[Path, Values]] = {}

    def make(kind: str, output: Path, **changes: Any) -> Values:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = (folder, save_backbone(kind, folder))
        folder, backbone = made[kind]
        return latent_values(backbone, dataset, folder, output=str(output), **changes)

    return make


def recipe_of(values: Values) -> PreferRecipe:
    return parse_recipe(PreferRecipe, values, "test")


def losses_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def trainee_of(values: Values) -> tuple[LatentTrainee, PairSource]:
    recipe, processes = recipe_of(values), Processes()
    data = open_dataset(Path(recipe.dataset))
    trainee = LatentTrainee(recipe, processes, dtype=torch.float32)
    store = trainee.prepare(data, processes)
    return trainee, PairSource(recipe, store, training_pairs(data, recipe.pairs), trainee.model)


@pytest.mark.parametrize("kind", KINDS)
def test_every_objective_trains_every_backbone(kind: str, values_of: Callable[..., Values], tmp_path: Path) -> None:
    adversary = {
        "output": str(tmp_path / "adversary"), "rank": 2, "alpha": 2.0,
        "optim": {"learning_rate": 1e-3, "batch_size": 2, "max_steps": 1, "decay_steps": 0},
    }  # fmt: skip
    values = values_of(kind, tmp_path / "run", adversary=adversary)
    trainee, source = trainee_of(values)
    trainee.policy.add_adversary(rank=2, alpha=2.0, start=None)
    trained = trainee.trained()
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
    for name in OBJECTIVES:
        objective = {"name": name, "beta": 20.0, **({"lq_loser_weight": 1.0} if name == "as_dpo" else {})}
        source.recipe = recipe_of({**values, "objective": objective})
        step = step_function(source.recipe, source, Processes())
        before = [value.detach().clone() for value in trained.parameters()]
        for index in range(3):
            output = accumulate(step(index))
            assert torch.isfinite(output.loss), name
            optimizer.step()
            optimizer.zero_grad()
        moved = [not torch.equal(old, new) for old, new in zip(before, trained.parameters(), strict=True)]
        assert any(moved), name


@pytest.mark.parametrize(("kind", "own"), [("c-flux", 2.5), ("flux-lora", 0.0)])
def test_a_recipe_may_say_which_guidance_flux_is_told_in_training(
    kind: str, own: float, values_of: Callable[..., Values], tmp_path: Path
) -> None:
    values = values_of(kind, tmp_path / "run")
    for asked, told in ((None, own), (1.5, 1.5)):
        recipe = recipe_of({**values, "backbone": {**values["backbone"], "training_guidance": asked}})
        backbone = LatentTrainee(recipe, Processes(), dtype=torch.float32).backbone
        assert isinstance(backbone, FluxBackbone)
        assert backbone.training_guidance == told


@pytest.mark.parametrize("kind", ["sd2-v", "c-flux", "flux-lora"])
def test_policy_equals_reference_at_the_start_and_a_resumed_run_equals_the_unbroken_one(
    kind: str, values_of: Callable[..., Values], tmp_path: Path
) -> None:
    whole, broken = (values_of(kind, tmp_path / name, optim={"max_steps": 4}) for name in ("whole", "broken"))
    result = train_prefer(recipe_of(whole))
    first, *_, last = losses_of(result.parent)
    assert first["rewards/margins"] == first["kl_proxy"] == 0
    assert last["kl_proxy"] > 0
    train_prefer(recipe_of({**broken, "optim": {**broken["optim"], "max_steps": 2}}))
    resumed = train_prefer(recipe_of(broken), resume=True)
    assert [line["loss"] for line in losses_of(resumed.parent)] == [line["loss"] for line in losses_of(result.parent)]
    ours, theirs = (load_file(next(folder.glob("*.safetensors"))) for folder in (resumed, result))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    states = [latest_checkpoint(folder.parent / "checkpoints").state["fixed"] for folder in (resumed, result)]
    assert states[0] == states[1]
    assert len(states[0]["reference"]) == 64


@pytest.mark.parametrize(
    ("kind", "train"),
    [("sd2-epsilon", "full"), ("sd2-epsilon", "lora"), ("sdxl", "full"), ("c-flux", "full"), ("flux-lora", "lora")],
)
def test_what_is_written_predicts_as_the_policy_did(
    kind: str, train: str, values_of: Callable[..., Values], tmp_path: Path
) -> None:
    values = values_of(kind, tmp_path / "run", lora={"train": train, "rank": 2, "alpha": 2.0})
    trainee, source = trainee_of(values)
    shift = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainee.trained().parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=shift))
    average = {name: value.clone() for name, value in trainee.trained().state_dict().items()}
    trainee.write(average, tmp_path / "run")
    batch = source(0, slice(None))
    level, x = torch.tensor([0.4, 0.8]), batch.winner
    expected = trainee.model.predict(x, level, batch.condition)
    with torch.no_grad(), trainee.model.using(REFERENCE):
        assert not torch.allclose(trainee.model.predict(x, level, batch.condition), expected, atol=1e-4)
    loaded = load_latent(
        trainee.recipe.backbone, dtype=torch.float32, device="cpu", adapter=trainee.result(tmp_path / "run")
    )
    torch.testing.assert_close(loaded.predict(x, level, batch.condition), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sd2-epsilon", "c-flux"])
def test_a_policy_on_a_start_adapter_is_loaded_together_with_it(
    kind: str, values_of: Callable[..., Values], tmp_path: Path
) -> None:
    lora = {"train": "lora", "rank": 2, "alpha": 2.0}

    def moved(backbone: Values, output: Path) -> tuple[LatentTrainee, PairSource]:
        values = values_of(kind, output, lora=lora)
        trainee, source = trainee_of({**values, "backbone": values["backbone"] | backbone})
        shift = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in trainee.trained().parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=shift))
        trainee.write(dict(trainee.trained().state_dict()), output)
        return trainee, source

    first, _ = moved({}, tmp_path / "first")
    start = first.result(tmp_path / "first")
    trainee, source = moved({"adapter": str(start)}, tmp_path / "second")
    batch, level = source(0, slice(None)), torch.tensor([0.4, 0.8])
    expected = trainee.model.predict(batch.winner, level, batch.condition)
    written = trainee.result(tmp_path / "second")
    loaded, alone = (
        load_latent(config, dtype=torch.float32, device="cpu", adapter=written).predict(
            batch.winner, level, batch.condition
        )
        for config in (trainee.recipe.backbone, first.recipe.backbone)
    )
    torch.testing.assert_close(loaded, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(alone, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["sd2-epsilon", "flux-lora"])
def test_winner_and_loser_share_noise_level_and_crop(
    kind: str, values_of: Callable[..., Values], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee, source = trainee_of(values_of(kind, tmp_path / "run", window_px=8 if kind == "flux-lora" else 0))
    seen: list[tuple[Tensor, Tensor, Any]] = []
    predict = trainee.backbone.predict

    def recorded(x: Tensor, level: Tensor, condition: Any) -> Tensor:
        seen.append((x.detach(), level, condition))
        return predict(x, level, condition)

    monkeypatch.setattr(trainee.backbone, "predict", recorded)
    accumulate(step_function(source.recipe, source, Processes())(3))
    batch = source(3, slice(None))
    (x, levels, condition), (other, _, _) = seen
    assert torch.equal(x, other)
    level = levels.chunk(2)[0]
    assert torch.equal(level, levels.chunk(2)[1])
    share = trainee.model.parametrisation.alpha(level).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(
        x.chunk(2)[0] - x.chunk(2)[1], share * (batch.winner - batch.loser), atol=1e-5, rtol=1e-4
    )
    assert torch.equal(condition.latent, batch.condition.latent)
    assert condition.latent.shape[-2:] == x.shape[-2:]


@pytest.mark.parametrize("kind", ["sd2-epsilon", "flux-lora"])
def test_micro_batches_and_checkpointed_activations_give_the_gradients_of_the_batch(
    kind: str, values_of: Callable[..., Values], tmp_path: Path
) -> None:
    gradients = []
    for changes in ({}, {"optim": {"micro_batch": 1}, "gradient_checkpointing": True}):
        trainee, source = trainee_of(values_of(kind, tmp_path / "run", **changes))
        generator = torch.Generator().manual_seed(2)
        trained = trainee.trained()
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
        accumulate(step_function(source.recipe, source, Processes())(0))
        gradients.append(torch.cat([p.grad.flatten() for p in trained.parameters() if p.grad is not None]))
    whole, parts = gradients
    assert float(whole.norm()) > 0
    assert float((whole - parts).norm() / whole.norm()) < 1e-4


@pytest.mark.parametrize("kind", ["sd2-epsilon", "flux-lora"])
def test_in_bfloat16_too_the_policy_starts_as_the_reference(
    kind: str, values_of: Callable[..., Values], tmp_path: Path
) -> None:
    values = values_of(kind, tmp_path / "run", dtype="bfloat16", cache=str(tmp_path / "cache"))
    recipe, processes = recipe_of(values), Processes()
    data = open_dataset(Path(recipe.dataset))
    trainee = LatentTrainee(recipe, processes, dtype=torch.bfloat16)
    source = PairSource(recipe, trainee.prepare(data, processes), training_pairs(data, recipe.pairs), trainee.model)
    output = accumulate(step_function(recipe, source, processes)(0))
    assert float(output.metrics["rewards/margins"]) == 0
    trained = list(trainee.trained().parameters())
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert any(parameter.grad is not None and float(parameter.grad.abs().max()) > 0 for parameter in trained)


@pytest.mark.parametrize("kind", ["sd2-epsilon", "sd2-v"])
def test_the_native_prediction_and_the_velocity_mean_the_same_clean_end(
    kind: str, values_of: Callable[..., Values], tmp_path: Path
) -> None:
    trainee, source = trainee_of(values_of(kind, tmp_path / "run", draw={"guidance": 1.0}))
    batch, sigma = source(0, slice(0, 1)), torch.tensor([0.5])
    level = preserving_level(sigma)
    x = batch.winner
    state = x / float(((1 - sigma).square() + sigma.square()).sqrt())
    clean = trainee.model.parametrisation.clean(state, trainee.model.predict(state, level, batch.condition), level)
    velocity = trainee.backbone.velocity(x, sigma, batch.condition)
    torch.testing.assert_close(x - 0.5 * velocity, clean, atol=1e-5, rtol=1e-5)


def test_a_cache_goes_on_where_it_was_and_refuses_another_prompt(
    values_of: Callable[..., Values], tmp_path: Path
) -> None:
    values = values_of("sd2-epsilon", tmp_path / "run", cache=str(tmp_path / "cache"))
    trainee_of(values)
    files = sorted((tmp_path / "cache").glob("*.safetensors"))
    contents = {file: file.read_bytes() for file in files}
    gone = next(file for file in files if file.name != "text.safetensors")
    gone.unlink()
    marker = tmp_path / "cache" / "_SUCCESS.json"
    marker.write_text(json.dumps({k: v for k, v in json.loads(marker.read_text()).items() if k != "finished"}))
    trainee_of(values)
    assert {file: file.read_bytes() for file in files} == contents
    with pytest.raises(ConfigError, match="name another cache"):
        trainee_of({**values, "backbone": {**values["backbone"], "prompt": "a bird"}})


def test_an_adversary_of_a_latent_backbone_trains_and_as_dpo_uses_it(
    values_of: Callable[..., Values], tmp_path: Path
) -> None:
    adversary = {
        "output": str(tmp_path / "adversary"), "rank": 2, "alpha": 2.0,
        "baselines": ["prior", "few_steps", "over_smoothed"],
        "optim": {"learning_rate": 1e-2, "batch_size": 3, "max_steps": 3, "decay_steps": 0, "micro_batch": 1},
    }  # fmt: skip
    objective = {"name": "as_dpo", "beta": 20.0, "adversary_strength": 1.0}
    for kind in ("sd2-epsilon", "flux-lora"):
        own = {**adversary, "output": str(tmp_path / kind)}
        values = values_of(kind, tmp_path / f"{kind}-run", adversary=own, objective=objective, sample_every=3)
        recipe = recipe_of(values)
        folder = train_adversary(recipe)
        _, model, imitator, *_ = columns_of(tmp_path / kind / "samples" / "grid_00000003.png", 5)
        assert not np.array_equal(model, imitator)
        assert (tmp_path / kind / "report.html").is_file()
        assert any(
            float(value.abs().max()) > 0
            for name, value in load_file(next(folder.glob("*.safetensors"))).items()
            if "lora_B" in name
        )
        result = train_prefer(recipe)
        state = latest_checkpoint(result.parent / "checkpoints").state["fixed"]
        assert len(state["adversary"]) == 64
        assert losses_of(result.parent)[-1]["kl_proxy"] > 0


@pytest.mark.parametrize(
    ("kind", "dtype"), [("sd2-epsilon", "float32"), ("sd2-epsilon", "bfloat16"), ("flux-lora", "bfloat16")]
)
def test_samples_are_drawn_from_reference_and_policy(
    kind: str, dtype: str, values_of: Callable[..., Values], tmp_path: Path
) -> None:
    cache = str(tmp_path / "cache")
    result = train_prefer(recipe_of(values_of(kind, tmp_path / "run", sample_every=3, dtype=dtype, cache=cache)))
    (grid,) = (result.parent / "samples").glob("grid_*.png")
    assert read_size(grid) == (5 * 4 * SIDE, GROUPS * 4 * SIDE)


@pytest.mark.parametrize("kind", ["sd2-epsilon", "flux-lora"])
def test_what_is_trained_is_never_sharded_and_hashes_are_of_whole_weights(
    kind: str, values_of: Callable[..., Values], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharded: set[int] = set()

    def shard(_: Processes, module: torch.nn.Module) -> None:
        """Stand for FSDP: what is frozen is no longer whole afterwards."""
        for parameter in module.parameters():
            if not parameter.requires_grad:
                sharded.add(id(parameter))
                parameter.data.zero_()

    adversary = {
        "output": str(tmp_path / "adversary"), "rank": 2, "alpha": 2.0, "baselines": ["prior"],
        "optim": {"learning_rate": 1e-2, "batch_size": 1, "max_steps": 1, "decay_steps": 0},
    }  # fmt: skip
    recipe = recipe_of(values_of(kind, tmp_path / "run", adversary=adversary, objective={"name": "as_dpo"}))
    train_adversary(recipe)
    data = open_dataset(Path(recipe.dataset))
    trainee = LatentTrainee(recipe, Processes(), dtype=torch.float32)
    before = trainee.fixed()
    monkeypatch.setattr(Processes, "shard", shard)
    trainee.prepare(data, Processes())
    assert trainee.fixed() == before
    assert {"reference", "adversary"} <= before.keys()
    learner = _learner(recipe, Processes(), data, torch.float32)
    assert sharded.isdisjoint(id(parameter) for parameter in learner.trained.parameters())
    assert learner.reference == before["reference"]


def test_a_prompt_that_describes_each_photo_is_refused(values_of: Callable[..., Values], tmp_path: Path) -> None:
    values = values_of("sd2-epsilon", tmp_path / "run")
    values["backbone"]["prompt"] = "auto"
    with pytest.raises(ConfigError, match="training encodes one prompt for all"):
        LatentTrainee(recipe_of(values), Processes(), dtype=torch.float32)


def test_missing_weights_are_told_before_anything_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="sr weights c-sd2 --download"):
        check_weights(BackboneConfig(name="c-sd2"))
    with pytest.raises(ConfigError, match=r"backbone\.head is of compact"):
        check_weights(BackboneConfig(name="c-sd2", head="x"))
