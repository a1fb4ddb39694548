import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sr_core.errors import ConfigError
from sr_core.images import read_marker
from sr_core.preference_data.dataset import open_dataset
from sr_core.preference_data.export import export_runs
from sr_core.preference_data.pairing import PairSettings, mean_spread_in_view, pairable
from sr_core.runs import Run
from sr_core.scoring import local_pixels
from sr_core.ui.visits import job_of
from tests.explorer_run import write_run
from train.group_runs import write_runs

SETTINGS = PairSettings(num_candidates=6, top=2, fidelity_weight=0.3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    written = [write_run(folder / str(k), size=128, reference=k == 1, seed=k) for k in range(2)]
    return [run.reranked(SETTINGS.fidelity_weight) for run in written]


@pytest.fixture(scope="module")
def dataset(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, found = tmp_path_factory.mktemp("exported") / "pairs", pairable(runs, SETTINGS)
    export_runs(found, folder, SETTINGS, mean_spread_in_view(found.runs, 2), datetime(2026, 1, 2, tzinfo=UTC))
    return folder


def test_a_run_that_became_a_group_comes_back_as_it_was(runs: list[Run], dataset: Path, tmp_path: Path) -> None:
    for before, after in zip(runs, write_runs(dataset, tmp_path / "out"), strict=True):
        opened = Run.open(after.folder)
        assert opened == after
        for old, new in zip(before.candidates, opened.candidates, strict=True):
            assert (new.index, new.seed, new.reward, new.rank) == (old.index, old.seed, old.reward, old.rank)
            assert new.scores == old.scores
            assert np.array_equal(local_pixels(opened.path(new)), local_pixels(before.path(old)))
            assert read_marker(opened.path(new)) is not None
        assert np.array_equal(local_pixels(opened.folder / "input.png"), local_pixels(before.folder / "input.png"))
        kept = ("size", "backbone", "adapter", "steps", "sampler", "schedule", "noise", "metric_set", "reference")
        assert {name: opened.values[name] for name in kept} == {name: before.values[name] for name in kept}
        assert opened.values["input"]["name"] == before.values["input"]["name"]
        assert opened.values["tie_band"] == pytest.approx(before.values["tie_band"], abs=1e-15)
        assert (opened.folder / "reference.png").is_file() == before.values["reference"]
        assert job_of(opened).metric_set == "offline"


def test_the_settings_of_another_backbone_come_back(runs: list[Run], tmp_path: Path) -> None:
    settings = {"guidance": 5.5, "tile": 128, "prompt": "a bird", "negative_prompt": "", "start": "lq", "strength": 0.5}
    others = [replace(run, values={**run.values, "backbone": "c-sd2", **settings}) for run in runs]
    found = pairable(others, SETTINGS)
    export_runs(found, tmp_path / "pairs", SETTINGS, mean_spread_in_view(found.runs, 2), datetime.now(UTC))
    for run in write_runs(tmp_path / "pairs", tmp_path / "out"):
        assert {name: run.values[name] for name in settings} == settings
        assert job_of(run).guidance == 5.5


def test_a_run_of_a_group_is_exported_as_that_group(dataset: Path, tmp_path: Path) -> None:
    found = pairable(write_runs(dataset, tmp_path / "out"), SETTINGS)
    export_runs(found, tmp_path / "again", SETTINGS, mean_spread_in_view(found.runs, 2), datetime.now(UTC))
    first, second = open_dataset(dataset), open_dataset(tmp_path / "again")
    for index in range(len(first)):
        left, right = first.group(index), second.group(index)
        assert np.array_equal(left.images, right.images)
        # Scores come in another order, which may round their sum differently.
        assert right.reward == pytest.approx(left.reward, abs=1e-14)
        assert {key: values.tolist() for key, values in right.raw.items()} == {
            key: values.tolist() for key, values in left.raw.items()
        }
    ids, weights = ["winner_id", "loser_id"], ["reward_gap", "w_intra", "w_inter", "w_total"]
    assert first.pairs()[ids].equals(second.pairs()[ids])
    assert first.pairs()[weights].to_numpy() == pytest.approx(second.pairs()[weights].to_numpy(), abs=1e-14)


def test_the_groups_of_curation_open_as_runs(curated: Path, tmp_path: Path) -> None:
    opened, recipe = open_dataset(curated), json.loads((curated / "recipe.json").read_text(encoding="utf-8"))
    for index, run in enumerate(write_runs(curated, tmp_path / "out")):
        group, rows = opened.group(index), opened.rows(index).to_pylist()
        assert run.folder.name == group.group_id
        assert run.values["metric_set"] == recipe["metric_set"]
        assert run.values["metrics"] == json.loads(rows[0]["metric_versions"])
        assert [record.rank for record in run.candidates] == [row["rank"] for row in rows]
        again = run.reranked(recipe["fidelity_weight"])
        assert [record.reward for record in again.candidates] == pytest.approx(group.reward, abs=1e-12)
        assert [record.rank for record in again.candidates] == [record.rank for record in run.candidates]
        assert np.array_equal(local_pixels(run.folder / "reference.png"), group.hq)
        assert run.values["notices"][-1] == f"degraded by the preset {group.preset}"


def test_a_candidate_that_no_seed_drew_keeps_its_name(runs: list[Run], tmp_path: Path) -> None:
    shutil.copytree(runs[0].folder, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    content["candidates"][0] |= {"seed": None, "source": "other tool"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(content), encoding="utf-8")
    found = pairable([Run.open(tmp_path / "run")], SETTINGS)
    export_runs(found, tmp_path / "pairs", SETTINGS, mean_spread_in_view(found.runs, 2), datetime.now(UTC))
    (run,) = write_runs(tmp_path / "pairs", tmp_path / "out")
    assert [record.name for record in Run.open(run.folder).candidates][:2] == ["other tool", "seed 1"]


def test_runs_are_not_written_over_each_other(dataset: Path, tmp_path: Path) -> None:
    write_runs(dataset, tmp_path / "out")
    with pytest.raises(ConfigError, match="must not hold runs of the dataset yet, got run-"):
        write_runs(dataset, tmp_path / "out")
