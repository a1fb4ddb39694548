import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sr_core.errors import ConfigError
from sr_core.preference_data.dataset import open_dataset
from sr_core.preference_data.mean_spreads import SHIPPED, mean_spreads, read_mean_spreads, write_mean_spreads
from sr_core.preference_data.pairing import PairSettings
from sr_core.preferences import weigh_groups
from tests.explorer_run import write_run

RECIPE = {
    "seed": 11, "output": "/somewhere/else", "metric_set": "train_offline", "fidelity_weight": 0.5, "top": 2, "ddof": 0,
    "draw": {"num_candidates": 4}, "runs": [], "backbone": {"name": "compact", "adapter": None},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the dataset with the recipe that curation stores."""
    folder = tmp_path_factory.mktemp("spreads") / "dataset"
    shutil.copytree(curated, folder)
    (folder / "recipe.json").write_text(json.dumps(RECIPE), encoding="utf-8")
    return folder


def test_mu_sigma_makes_the_mean_weight_of_the_curation_one(made: Path) -> None:
    dataset, rows = open_dataset(made), mean_spreads(made)["mean_spreads"]
    assert [(row["num_candidates"], row["top"]) for row in rows] == [(2, 1), (3, 1), (4, 1), (4, 2)]
    for row in rows:
        rewards = [dataset.rewards(index, row["num_candidates"], 0.5) for index in range(len(dataset))]
        weighed = weigh_groups(rewards, row["top"], mean_spread=row["mu_sigma"])
        totals = np.concatenate([group.total for group in weighed if group.total is not None])
        assert totals.mean() == pytest.approx(1, abs=1e-12)
        assert len(totals) == row["pairs"]


def test_the_whole_groups_mu_sigma_is_that_of_the_datasets_figures(made: Path) -> None:
    figures = json.loads((made / "statistics.json").read_text(encoding="utf-8"))
    assert mean_spreads(made)["mean_spreads"][-1]["mu_sigma"] == pytest.approx(figures["mu_sigma"], abs=1e-15)


def test_the_file_says_nothing_of_the_machine_and_reads_back(made: Path, tmp_path: Path) -> None:
    path = write_mean_spreads(made, tmp_path / "new" / "spreads.json")
    assert "/somewhere" not in path.read_text(encoding="utf-8")
    found = read_mean_spreads(path)
    content = mean_spreads(made)
    assert (found.groups, found.num_candidates, found.top) == (3, 4, 2)
    assert list(found.mu_sigma.values()) == [row["mu_sigma"] for row in content["mean_spreads"]]


def test_what_differs_from_the_curation_is_said(made: Path, tmp_path: Path) -> None:
    spreads = read_mean_spreads(write_mean_spreads(made, tmp_path / "spreads.json"))
    same = PairSettings(num_candidates=4, top=2, fidelity_weight=0.5)
    run = write_run(tmp_path / "run", num_candidates=2, size=64, reference=True)
    alike = replace(run, values={**run.values, "metric_set": "train_offline"})
    assert spreads.mean_spread(same, alike).cautions == ()
    values = {**run.values, "reference": False, "backbone": "c-flux", "adapter": "hpo"}
    settings = PairSettings(num_candidates=8, top=1, fidelity_weight=0.25)
    other = spreads.mean_spread(settings, replace(run, values=values))
    assert other.value == spreads.mu_sigma[4, 2]
    assert other.cautions == (
        "faithful half: against the reference there, against the input (consistency) here",
        "metric set: train_offline there, offline here",
        "backbone: compact there, c-flux here",
        "adapter: sft there, hpo here",
        "faithful share: 0.5 there, 0.25 here",
        "N of M: 2 of 4 there, 1 of 8 here",
    )


def test_the_file_names_what_drew_and_scored_its_groups(made: Path, tmp_path: Path) -> None:
    content = mean_spreads(made)
    assert (content["with_reference"], content["backbone"], content["adapter"]) == (True, "compact", "sft")
    assert all(open_dataset(made).group(index).hq is not None for index in range(content["groups"]))
    adapted = shutil.copytree(made, tmp_path / "adapted")
    backbone = {"name": "c-sd2", "adapter": "/somewhere/else/hpo"}
    (adapted / "recipe.json").write_text(json.dumps({**RECIPE, "backbone": backbone}), encoding="utf-8")
    found = read_mean_spreads(write_mean_spreads(adapted, tmp_path / "adapted.json"))
    assert (found.backbone, found.adapter) == ("c-sd2", "hpo")


def test_a_file_that_does_not_say_what_drew_its_groups_is_refused(made: Path, tmp_path: Path) -> None:
    content = mean_spreads(made)
    for name in ("with_reference", "backbone", "adapter"):
        older = tmp_path / f"{name}.json"
        older.write_text(json.dumps({key: content[key] for key in content if key != name}), encoding="utf-8")
        with pytest.raises(ConfigError, match=rf"must say {name}; write it anew: python -m train spreads"):
            read_mean_spreads(older)


def test_a_dataset_with_runs_added_has_no_mean_spreads_of_one_population(made: Path, tmp_path: Path) -> None:
    mixed = shutil.copytree(made, tmp_path / "mixed")
    (mixed / "recipe.json").write_text(json.dumps({**RECIPE, "runs": ["runs/a"]}), encoding="utf-8")
    with pytest.raises(ConfigError, match="must be curated from crops alone"):
        mean_spreads(mixed)


def test_a_dataset_that_curation_did_not_make_has_none(curated: Path) -> None:
    with pytest.raises(ConfigError, match=r"must hold the recipe\.json of curation"):
        mean_spreads(curated)


def test_the_shipped_file_covers_every_setting_of_the_page() -> None:
    shipped = read_mean_spreads(SHIPPED)
    assert shipped.groups >= 400
    assert (shipped.metric_set, shipped.num_candidates, shipped.top) == ("train_offline", 16, 4)
    assert (shipped.with_reference, shipped.backbone, shipped.adapter) == (True, "compact", "sft")
    assert set(shipped.mu_sigma) == {(m, n) for m in range(2, 17) for n in range(1, m // 2 + 1)}
    assert all(0 < value < 0.5 for value in shipped.mu_sigma.values())
