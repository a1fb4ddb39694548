import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import train.compact_trainee
from sr_core.errors import ConfigError
from sr_core.preference_data.dataset import open_dataset
from sr_core.preference_data.export import export_runs
from sr_core.preference_data.pairing import PairSettings, mean_spread_in_view, pairable
from tests.explorer_run import write_run
from tests.train.conftest import SEED, Values, columns_of
from tests.train.killing import KILLED_STEPS, environment, kill_and_resume, write_recipe
from train.checkpoints import latest_checkpoint, step_folder
from train.config import parse_recipe
from train.data import seeded_generator
from train.losses import OBJECTIVES
from train.prefer import TRUTH, train_prefer, training_pairs
from train.preference_config import ObjectiveConfig, PairsConfig, PreferRecipe
from train.steps import (
    PARAMETRISATIONS,
    PairBatch,
    Parametrisation,
    adversarial_loser,
    pair_levels,
    preference_step,
)

ROOT = Path(__file__).resolve().parents[2]


class Toy:
    """A policy of two convolutions and its frozen twin; predicts whatever its parametrisation asks for."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(3)
        self.parametrisation: Parametrisation = PARAMETRISATIONS[kind]
        self.policy = self._network()
        self._reference = self._network()
        self._reference.load_state_dict(self.policy.state_dict())
        self._active: nn.Module = self.policy
        self.states: list[Tensor] = []

    @staticmethod
    def _network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))

    def predict(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:  # noqa: ARG002
        self.states.append(x.detach())
        return self._active(x)

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        before = self._active
        self._active = {"reference": self._reference, "policy": self.policy, "adversary": self._reference}[name]
        yield
        self._active = before

    def view(self, residual: Tensor) -> Tensor:
        return residual

    def mean_colour(self, difference: Tensor, condition: Tensor) -> Tensor:  # noqa: ARG002
        return difference.mean((-2, -1))


def toy_batch(index: int, count: int = 8) -> PairBatch[Tensor]:
    """Return pairs whose winner is bright and whose loser is dark."""
    generator = seeded_generator("toy", index)
    texture = 0.1 * torch.randn(count, 3, 8, 8, generator=generator)
    return PairBatch(condition=texture, winner=texture + 0.5, loser=texture - 0.5, weight=torch.ones(count))


def toy_step(toy: Toy, objective: ObjectiveConfig, index: int) -> Any:
    generator = seeded_generator("noise", index)
    level = pair_levels(8, "uniform", 0.05, 0.0, generator).clamp_max(0.95)
    return preference_step(toy, toy_batch(index), objective, level, torch.randn(8, 3, 8, 8, generator=generator))


@pytest.mark.parametrize(
    ("kind", "name"),
    [*((kind, "dpo") for kind in sorted(PARAMETRISATIONS)), ("v", "sobolev_dpo"), ("clean", "ipo"), ("clean", "hinge")],
)
def test_a_small_policy_learns_a_known_preference(kind: str, name: str) -> None:
    toy = Toy(kind)
    objective = ObjectiveConfig(name=name, beta=5.0, exponent=1.0 if name == "sobolev_dpo" else None)
    optimizer = torch.optim.Adam(toy.policy.parameters(), lr=1e-3)
    first = toy_step(toy, objective, 0).metrics
    assert float(first["rewards/margins"]) == 0
    for index in range(60):
        optimizer.zero_grad()
        toy_step(toy, objective, index).loss.backward()
        optimizer.step()
    last = toy_step(toy, objective, 1000).metrics
    assert float(last["rewards/accuracies"]) == 1
    assert float(last["rewards/margins"]) > 0


@pytest.mark.parametrize("kind", ["clean", "epsilon"])
def test_every_objective_logs_the_same_shape_of_the_references_error_at_step_0(kind: str) -> None:
    shapes = {}
    for name in sorted(OBJECTIVES):
        mask_power = 0.5 if name == "hinge" else 0.0
        objective = ObjectiveConfig(name=name, beta=5.0, mask_power=mask_power)
        shapes[name] = float(toy_step(Toy(kind), objective, 0).metrics["energy_per_mse"].detach())
    assert shapes == pytest.approx(dict.fromkeys(OBJECTIVES, shapes["dpo"]), rel=1e-5)
    assert shapes["dpo"] != pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("kind", sorted(PARAMETRISATIONS))
def test_winner_and_loser_share_noise_and_level_and_so_do_policy_and_reference(kind: str) -> None:
    toy = Toy(kind)
    toy_step(toy, ObjectiveConfig(name="dpo", beta=1.0), 5)
    reference, policy = toy.states
    assert torch.equal(reference, policy)
    winner, loser = policy.chunk(2)
    batch = toy_batch(5)
    level = pair_levels(8, "uniform", 0.05, 0.0, seeded_generator("noise", 5)).clamp_max(0.95).reshape(-1, 1, 1, 1)
    share = (1 - level) if kind in ("clean", "velocity") else (1 - level.square()).sqrt()
    torch.testing.assert_close(winner - loser, share * (batch.winner - batch.loser), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", sorted(PARAMETRISATIONS))
def test_a_perfect_prediction_has_no_error_and_gives_the_clean_end_back(kind: str) -> None:
    found = PARAMETRISATIONS[kind]
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, 4, 3, 8, 8, generator=generator).unbind()
    level = torch.tensor([0.05, 0.3, 0.7, 0.95])
    target = found.target(clean, noise, level)
    recovered = found.clean(found.noisy(clean, noise, level), target, level)
    torch.testing.assert_close(recovered, clean, atol=1e-4, rtol=1e-4)


class Oracle(Toy):
    """An adversary that knows the clean end of the state that it is shown, moved by a fixed amount."""

    def __init__(self, kind: str, index: int, moved: float) -> None:
        super().__init__(kind)
        self.index, self.moved = index, moved

    def predict(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:  # noqa: ARG002
        clean = toy_batch(self.index).winner
        alpha = self.parametrisation.alpha(level).reshape(-1, 1, 1, 1)
        noise = (x - alpha * clean) / level.reshape(-1, 1, 1, 1)
        wrong = (x - alpha * (clean + self.moved)) / level.reshape(-1, 1, 1, 1)
        torch.testing.assert_close(self.parametrisation.noisy(clean, noise, level), x)
        return self.parametrisation.target(clean + self.moved, wrong, level)


@pytest.mark.parametrize("kind", sorted(PARAMETRISATIONS))
@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0])
def test_a_perfect_adversary_returns_the_winner_and_another_its_own_clean_end(kind: str, strength: float) -> None:
    batch, generator = toy_batch(2), seeded_generator("noise", 2)
    level = torch.linspace(0.05, 0.95, 8)
    noise = torch.randn(8, 3, 8, 8, generator=generator)
    perfect = adversarial_loser(Oracle(kind, 2, 0.0), batch, level, noise, strength)
    torch.testing.assert_close(perfect, batch.winner, atol=1e-4, rtol=1e-4)
    other = adversarial_loser(Oracle(kind, 2, 0.3), batch, level, noise, strength)
    torch.testing.assert_close(other, batch.winner + strength * 0.3, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def recipe_values_of(curated: Path, tiny_head: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Values]:
    """Return a function that makes the values of a tiny recipe with other entries in a section or at the top."""
    cache = tmp_path_factory.mktemp("preference-cache")

    def make(output: Path, **changes: Any) -> Values:
        values: Values = {
            "seed": SEED,
            "output": str(output),
            "dataset": str(curated),
            "cache": str(cache),
            "backbone": {"head": str(tiny_head)},
            "lora": {"rank": 2, "alpha": 2.0},
            "pairs": {"top": 2},
            "objective": {"name": "hpo", "beta": 50.0, "kl_weight": 1.0},
            "optim": {"learning_rate": 1e-3, "batch_size": 4, "max_steps": 20, "warmup_steps": 4, "decay_steps": 6},
            "window_px": 16,
            "log_every": 1,
            "checkpoint_every": 5,
            "dtype": "float32",
        }
        for key, value in changes.items():
            values[key] = {**values[key], **value} if isinstance(value, dict) and key in values else value
        return json.loads(json.dumps(values))

    return make


def run(values: Values, *, resume: bool = False) -> Path:
    return train_prefer(parse_recipe(PreferRecipe, values, "test"), resume=resume)


def losses_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_first_step_is_at_margin_zero_and_logs_the_names_that_trl_uses(
    recipe_values_of: Callable[..., Values], tmp_path: Path
) -> None:
    run(recipe_values_of(tmp_path, optim={"max_steps": 1, "decay_steps": 0}))
    (line,) = losses_of(tmp_path)
    assert line["rewards/margins"] == line["winner_mse_delta"] == line["kl_proxy"] == 0
    assert {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "grad_norm", "loss", "lr"} <= line.keys()
    assert 0 < line["energy_per_mse"] != 1
    assert line["winner_colour_drift"] == 0


def test_a_run_resumed_in_the_middle_equals_the_unbroken_one(
    recipe_values_of: Callable[..., Values], tmp_path: Path
) -> None:
    whole = run(recipe_values_of(tmp_path / "whole", keep_checkpoints=4))
    run(recipe_values_of(tmp_path / "broken", keep_checkpoints=4))
    for step in (15, 20):
        shutil.rmtree(step_folder(tmp_path / "broken" / "checkpoints", step))
    assert latest_checkpoint(tmp_path / "broken" / "checkpoints").state["step"] == 10
    resumed = run(recipe_values_of(tmp_path / "broken", keep_checkpoints=4), resume=True)
    assert len(losses_of(tmp_path / "whole")) == 20
    assert losses_of(tmp_path / "broken") == losses_of(tmp_path / "whole")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
        ours, theirs = (tmp_path / run / "reference" / name for run in ("broken", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()
    ours, theirs = (latest_checkpoint(tmp_path / run / "checkpoints").state for run in ("broken", "whole"))
    assert ours["fixed"] == theirs["fixed"]
    assert len(ours["fixed"]["reference"]) == 64


def test_a_resumed_run_refuses_another_reference(recipe_values_of: Callable[..., Values], tmp_path: Path) -> None:
    values = recipe_values_of(tmp_path, optim={"max_steps": 5, "decay_steps": 0})
    run(values)
    state = next((tmp_path / "checkpoints").glob("step_*/state.json"))
    content = json.loads(state.read_text(encoding="utf-8"))
    content["fixed"]["reference"] = "0" * 64
    state.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match="must keep its reference"):
        run(recipe_values_of(tmp_path), resume=True)


def test_resuming_nothing_is_an_error(recipe_values_of: Callable[..., Values], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found none"):
        run(recipe_values_of(tmp_path), resume=True)


def test_samples_are_named_by_their_step_and_a_resumed_run_replaces_its_own(
    recipe_values_of: Callable[..., Values], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, bytes]] = []

    def grid(_dataset: object, _recipe: object, _trained: object, path: Path) -> Path:
        written.append((path.name, (tmp_path / "latest" / "adapter_model.safetensors").read_bytes()))
        return path

    monkeypatch.setattr(train.compact_trainee, "compact_grid", grid)
    values = recipe_values_of(tmp_path, sample_every=2, checkpoint_every=3, optim={"max_steps": 6, "decay_steps": 0})
    run(values)
    unbroken = list(written)
    assert [name for name, _ in unbroken] == ["grid_00000002.png", "grid_00000004.png", "grid_00000006.png"]
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000006")
    written.clear()
    run(values, resume=True)
    assert written == unbroken[1:]


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"as_dpo"}))
def test_every_objective_trains_an_adapter_and_leaves_its_reference_alone(
    name: str, recipe_values_of: Callable[..., Values], tmp_path: Path
) -> None:
    pull = 0.0 if name in ("simpo", "mapo") else 1.0
    objective = {"name": name, "kl_weight": pull, "exponent": 1.5 if name == "sobolev_dpo" else None}
    adapter = run(recipe_values_of(tmp_path, objective=objective, optim={"max_steps": 3, "decay_steps": 0}))
    moved = load_file(adapter / "adapter_model.safetensors")
    still = load_file(tmp_path / "reference" / "adapter_model.safetensors")
    assert all(not bool(value.any()) for key, value in still.items() if "lora_B" in key)
    assert any(bool(value.any()) for key, value in moved.items() if "lora_B" in key)


def test_all_weights_can_be_trained_against_a_frozen_copy(
    recipe_values_of: Callable[..., Values], tiny_head: Path, tmp_path: Path
) -> None:
    changes: Values = {"lora": {"train": "full"}, "optim": {"max_steps": 3, "decay_steps": 0}, "sample_every": 3}
    run(recipe_values_of(tmp_path, **changes))
    trained, before = load_file(tmp_path / "head.safetensors"), load_file(tiny_head)
    assert trained.keys() == before.keys()
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    assert torch.equal(trained["gain_coefficients"], before["gain_coefficients"])
    _, reference, policy, *_ = columns_of(tmp_path / "samples" / "grid_00000003.png", 5)
    assert not np.array_equal(reference, policy)


def test_pairs_are_those_of_the_weights_that_the_recipe_asks_for(curated: Path) -> None:
    dataset = open_dataset(curated)
    plain = training_pairs(dataset, PairsConfig(top=2, intra=False, inter=False))
    both = training_pairs(dataset, PairsConfig(top=2))
    assert {pair.weight for pair in plain} == {1.0}
    assert [pair[:3] for pair in plain] == [pair[:3] for pair in both]
    assert sum(pair.weight for pair in both) / len(both) == pytest.approx(1)
    supervised = training_pairs(dataset, PairsConfig(source="supervised"))
    assert {pair.winner for pair in supervised} == {TRUTH}
    assert len(supervised) == 4 * len(dataset)
    table = training_pairs(dataset, PairsConfig(source="table"))
    assert [pair[:3] for pair in table] == [pair[:3] for pair in both]


def test_fewer_candidates_are_normalised_anew_among_themselves(curated: Path) -> None:
    dataset = open_dataset(curated)
    pairs = training_pairs(dataset, PairsConfig(num_candidates=2, top=1))
    assert all({pair.winner, pair.loser} == {0, 1} for pair in pairs)
    with pytest.raises(ConfigError, match="fewer than 6"):
        training_pairs(dataset, PairsConfig(num_candidates=6, top=1))


TWO_CPU_PROCESSES = ROOT / "train" / "accelerate" / "two_cpu_processes.yaml"
# accelerate starts one process for --cpu, whatever the number: it asks MPI alone for more, and that with a host file.
LAUNCHERS = {
    "accelerate --cpu": (["accelerate.commands.launch", "--num_processes", "2", "--cpu"], 1),
    "accelerate": (["accelerate.commands.launch", "--config_file", str(TWO_CPU_PROCESSES)], 2),
    "torchrun": (["torch.distributed.run", "--nproc_per_node", "2", "--standalone", "--local_addr", "127.0.0.1"], 2),
}


@pytest.mark.parametrize(("launcher", "name"), [*((launcher, "hpo") for launcher in LAUNCHERS), ("torchrun", "kto")])
def test_the_processes_of_every_launcher_are_counted_and_train_what_one_does(
    launcher: str, name: str, recipe_values_of: Callable[..., Values], tmp_path: Path
) -> None:
    changes = {"objective": {"name": name}}
    alone = run(recipe_values_of(tmp_path / "one", **changes))
    values = recipe_values_of(tmp_path / "two", trackers=["tensorboard"], **changes)
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    command, count = LAUNCHERS[launcher]
    done = subprocess.run(
        [sys.executable, "-m", *command, "-m", "train", "prefer", str(recipe)],
        capture_output=True,
        text=True,
        env={**environment(), "CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "two" / "summary.json").read_text(encoding="utf-8"))
    assert summary["processes"] == count
    first, second = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    assert [line["step"] for line in second] == [line["step"] for line in first]
    for a, b in zip(first, second, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    one = load_file(alone / "adapter_model.safetensors")
    two = load_file(tmp_path / "two" / "adapter" / "adapter_model.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=0)


def test_a_run_killed_at_any_point_resumes_and_ends_as_the_unbroken_one(
    recipe_values_of: Callable[..., Values], tmp_path: Path
) -> None:
    settings = {"optim": {"max_steps": KILLED_STEPS, "decay_steps": 6}, "checkpoint_every": 2}
    whole = write_recipe(tmp_path / "whole.yaml", recipe_values_of(tmp_path / "whole", **settings))
    subprocess.run([sys.executable, "-m", "train", "prefer", str(whole)], check=True, env=environment(), cwd=ROOT)
    broken = tmp_path / "broken"
    recipe = write_recipe(tmp_path / "broken.yaml", recipe_values_of(broken, **settings))
    kill_and_resume("prefer", recipe, broken, seed=2)
    assert losses_of(broken) == losses_of(tmp_path / "whole")
    first, second = (load_file(p / "adapter" / "adapter_model.safetensors") for p in (tmp_path / "whole", broken))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_unknown_key_ends_the_command_before_anything_loads(tmp_path: Path) -> None:
    recipe = ROOT / "train" / "recipes" / "compact_hpo.yaml"
    command = [sys.executable, "-m", "train", "prefer", str(recipe), "objective.betta=3"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "objective.betta" in done.stderr


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the page exports of two runs, one with a reference and one with a candidate of another tool."""
    folder = tmp_path_factory.mktemp("exported")
    first = write_run(folder / "a", size=128, reference=True)
    second = write_run(folder / "b", size=128, seed=1)
    other = replace(second.candidates[0], seed=None, source="other tool")
    second = replace(second, candidates=(other, *second.candidates[1:]))
    second.save()
    settings = PairSettings(num_candidates=6, top=2, fidelity_weight=0.5)
    found = pairable([first, second], settings)
    export_runs(found, folder / "pairs", settings, mean_spread_in_view(found.runs, 2), datetime(2026, 1, 2, tzinfo=UTC))
    return folder / "pairs"


@pytest.mark.parametrize("source", ["table", "scores"])
def test_what_the_page_exports_is_trained_on_with_the_pages_weights(
    recipe_values_of: Callable[..., Values], exported: Path, tmp_path: Path, source: str
) -> None:
    dataset = open_dataset(exported)
    weights = [pair.weight for pair in training_pairs(dataset, PairsConfig(source=source, top=2))]
    assert weights == pytest.approx(dataset.pairs()["w_total"].tolist(), abs=0 if source == "table" else 1e-14)
    values = recipe_values_of(
        tmp_path / "run",
        dataset=str(exported),
        cache=str(tmp_path / "cache"),
        pairs={"source": source},
        optim={"max_steps": 2, "decay_steps": 0},
    )
    run(values)
    lines = losses_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["rewards/margins"] == 0 != lines[1]["rewards/margins"]


def test_one_photograph_alone_is_trained_on_with_its_own_weights(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", size=128)
    settings = PairSettings(num_candidates=6, top=2, fidelity_weight=0.5)
    found = pairable([run], settings)
    export_runs(
        found, tmp_path / "pairs", settings, mean_spread_in_view(found.runs, 2), datetime(2026, 1, 2, tzinfo=UTC)
    )
    dataset = open_dataset(tmp_path / "pairs")
    expected = dataset.pairs()["w_intra"].tolist()
    assert len(set(expected)) > 1
    for source in ("table", "scores"):
        weights = [pair.weight for pair in training_pairs(dataset, PairsConfig(source=source, top=2))]
        assert weights == pytest.approx(expected, abs=1e-14)
