import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train.contrast
from sr_core.errors import ConfigError
from tests.train.conftest import SEED, Values
from train.ablations import slug
from train.config import parse_recipe
from train.contrast import (
    Reading,
    adapter_at,
    best_row,
    contrast,
    equal_readings,
    halves,
    recipe_of,
    winner_readings,
)
from train.judge_tables import REPORTED, SFT, TRAINED, lower_is_better
from train.prefer import train_prefer
from train.preference_config import PreferRecipe

ROWS = ("multi-pair DPO", "Sobolev-DPO, s = 1.5")


@pytest.fixture(autouse=True)
def few_probes() -> Iterator[None]:
    """Measure winners on fewer batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.contrast, "PROBES", 2)
        yield


@pytest.fixture(scope="module")
def rows(curated: Path, tiny_head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two short rows, the second of which goes further; it must not be changed."""
    out = tmp_path_factory.mktemp("rows")
    for name, objective, rate in zip(ROWS, ("dpo", "sobolev_dpo"), (3e-4, 1e-3), strict=True):
        values: Values = {
            "seed": SEED,
            "output": str(out / slug(name)),
            "dataset": str(curated),
            "cache": str(out / "cache"),
            "backbone": {"head": str(tiny_head)},
            "lora": {"rank": 2, "alpha": 2.0},
            "pairs": {"top": 2},
            "objective": {"name": objective, "beta": 50.0, "anchor": 1.0},
            "optim": {"learning_rate": rate, "batch_size": 4, "max_steps": 12, "warmup_steps": 1, "decay_steps": 2},
            "held_out": {"photos": ["none, the judge of this test needs no photographs"]},
            "window_px": 16,
            "checkpoint_every": 3,
            "keep_checkpoints": 9,
            "dtype": "float32",
        }
        train_prefer(parse_recipe(PreferRecipe, values, name))
    return out


def test_the_further_run_is_read_where_it_stood_as_far_as_the_other_at_its_end() -> None:
    short = [Reading(10, -0.001), Reading(20, -0.002)]
    far = [Reading(10, -0.0015), Reading(20, -0.0024), Reading(30, -0.009)]
    assert equal_readings(short, far) == (short[1], far[1])
    assert equal_readings(far, short) == (far[1], short[1])
    assert equal_readings(far, far) == (far[2], far[2])


def test_checkpoints_are_measured_on_the_same_winners_and_end_at_the_shipped_adapter(rows: Path) -> None:
    folders = [rows / slug(name) for name in ROWS]
    for folder in folders:
        recipe = recipe_of(folder)
        readings = winner_readings(recipe, folder)
        assert [reading.step for reading in readings] == [3, 6, 9, 12]
        assert winner_readings(recipe, folder) == readings
        last, final = (
            load_file(f / "adapter_model.safetensors") for f in (adapter_at(recipe, folder, 12), folder / "adapter")
        )
        assert all(torch.equal(last[name], value) for name, value in final.items())
    first, second = (winner_readings(recipe_of(folder), folder)[-1].winner_mse_delta for folder in folders)
    assert second < first < 0, "the anchor pulls the error on winners down, the larger rate further"


def test_an_adapter_that_changes_nothing_has_moved_no_winner(rows: Path) -> None:
    folder = rows / slug(ROWS[0])
    found = train.contrast.load_checkpoint(folder / "checkpoints" / "step_00000003")
    still = {name: torch.zeros_like(value) for name, value in found.tensors["ema"].items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train.contrast, "load_checkpoint", lambda _: found._replace(tensors={**found.tensors, "ema": still})
        )
        assert [reading.winner_mse_delta for reading in winner_readings(recipe_of(folder), folder)] == [0.0] * 4


def judged_values(shifts: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, dict[str, dict[str, list[float]]]]]:
    """Return scores whose trained metrics are better by one shift on even photographs and another on odd ones."""
    scores: dict[str, Any] = {}
    for model, shift in shifts.items():
        generator = np.random.default_rng(0)
        scores[model] = {"bicubic": {}}
        for number in range(6):
            values = {name: generator.normal(10, 1, 4) for name in (*REPORTED, "diversity")}
            for name in TRAINED:
                values[name] = values[name] + shift[number % 2] * (-1 if lower_is_better(name) else 1)
            scores[model]["bicubic"][f"photo-{number}"] = {name: value.tolist() for name, value in values.items()}
    return scores


def test_one_half_picks_and_the_other_judges() -> None:
    judged = judged_values({SFT: (0, 0), "a": (2, -1), "b": (0.5, 3)})
    picking, judging = halves(judged)
    assert sorted(picking["a"]["bicubic"]) == ["photo-0", "photo-2", "photo-4"]
    assert sorted(judging["a"]["bicubic"]) == ["photo-1", "photo-3", "photo-5"]
    assert best_row(picking, ("a", "b")) == "a"
    assert best_row(judging, ("a", "b")) == "b"


def test_two_rows_are_compared_at_their_ends_and_at_equal_movement(rows: Path) -> None:
    asked: list[dict[str, Path | None]] = []

    def judge(adapters: Mapping[str, Path | None], *_: object, **__: object) -> Any:
        asked.append(dict(adapters))
        return judged_values({name: (0.1 * len(name), 0.1 * len(name)) for name in adapters})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.contrast, "judge_adapters", judge)
        at_end = contrast(rows, ROWS[1:], ROWS[:1])
        equal = contrast(rows, ROWS[1:], ROWS[:1], equal_winner_error=True)
        with pytest.raises(ConfigError, match="must hold a finished row"):
            contrast(rows, ("HPO",), ROWS[:1])
    assert "| lsd (hold-out) |" in at_end
    assert "MISSED" not in at_end
    assert f"{ROWS[0]} at step 12" in equal
    read = asked[-1][ROWS[1]]
    assert read is not None
    assert read.name in ("adapter_00000003", "adapter_00000006", "adapter_00000009")
    content = json.loads((rows / f"contrast_{slug(ROWS[1])}_{slug(ROWS[0])}_equal.json").read_text(encoding="utf-8"))
    assert content["ours"] == ROWS[1]
    assert len(content["notes"]) == 2
