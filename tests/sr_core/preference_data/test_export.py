import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sr_core.decoding import read_xmp
from sr_core.errors import InputError
from sr_core.metadata import parse_marker
from sr_core.preference_data.dataset import PreferenceDataset, open_dataset
from sr_core.preference_data.export import export_runs, pack_dataset, untrainable
from sr_core.preference_data.pairing import MeanSpread, PairSettings, mean_spread_in_view, pairable, weigh_run
from sr_core.runs import Run
from sr_core.scoring import local_pixels
from tests.explorer_run import write_run

DAY = datetime(2026, 1, 2, tzinfo=UTC)
SETTINGS = PairSettings(num_candidates=6, top=2, fidelity_weight=0.3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Return three runs; the second has a reference, the third a candidate that no seed drew."""
    folder = tmp_path_factory.mktemp("export")
    first = write_run(folder / "a", size=128)
    second = write_run(folder / "b", num_candidates=8, size=128, reference=True, seed=1)
    third = write_run(folder / "c", size=128, seed=2)
    joined = replace(third.candidates[1], seed=None, source="other_tool.png")
    third = replace(third, candidates=(third.candidates[0], joined, *third.candidates[2:]))
    third.save()
    return [first, second, third]


def export(runs: list[Run], folder: Path, spread: MeanSpread | None = None) -> PreferenceDataset:
    found = pairable(runs, SETTINGS)
    export_runs(found, folder, SETTINGS, spread or mean_spread_in_view(found.runs, 2), DAY)
    return open_dataset(folder)


def test_the_pairs_are_the_pages_to_the_last_bit(runs: list[Run], tmp_path: Path) -> None:
    found = pairable(runs, SETTINGS)
    spread = mean_spread_in_view(found.runs, 2)
    dataset = export(runs, tmp_path / "out")
    table = dataset.pairs()
    assert table["w_total"].mean() == pytest.approx(1, abs=1e-12)
    for run, group in zip(found.runs, dataset.group_ids, strict=True):
        weighed = weigh_run(run, 2, mean_spread=spread.value)
        rows = table[table["group_id"] == group]
        ids = [(winner.index, loser.index) for winner, loser in map(weighed.records, range(len(weighed.pairs.gap)))]
        assert list(zip(rows["winner_id"], rows["loser_id"], strict=True)) == ids
        for column, values in (
            ("reward_gap", weighed.pairs.gap), ("w_intra", weighed.pairs.intra),
            ("w_inter", weighed.pairs.inter), ("w_total", weighed.pairs.total),
        ):  # fmt: skip
            assert rows[column].tolist() == values.tolist(), column


def test_groups_hold_the_runs_pixels_scores_and_rewards(runs: list[Run], tmp_path: Path) -> None:
    dataset = export(runs, tmp_path / "out")
    for index, run in enumerate(pairable(runs, SETTINGS).runs):
        group = dataset.group(index)
        assert all(
            np.array_equal(image, local_pixels(run.path(record)))
            for image, record in zip(group.images, run.candidates, strict=True)
        )
        assert group.reward.tolist() == [record.reward for record in run.candidates]
        assert {k: v.tolist() for k, v in group.raw.items()} == {
            key: [record.scores[key] for record in run.candidates] for key in run.candidates[0].scores
        }
        assert np.array_equal(group.lq, local_pixels(run.folder / "input.png"))
        assert (group.hq is not None) == run.values["reference"]
        # What training takes anew from the raw scores is what the page shows.
        assert dataset.rewards(index, 0, SETTINGS.fidelity_weight).tolist() == pytest.approx(group.reward, abs=1e-15)


def test_a_candidate_that_no_seed_drew_names_its_source(runs: list[Run], tmp_path: Path) -> None:
    dataset = export(runs, tmp_path / "out")
    assert dataset.group(2).seeds == (0, None, 2, 3, 4, 5)
    row = dataset.rows(2).to_pylist()[1]
    assert row["model_id"] == "other_tool.png"
    assert row["adapter"] is row["sampler"] is row["steps"] is row["generator"] is None
    mark = parse_marker(read_xmp(row["image"]["bytes"], "image"))
    assert mark is not None
    assert mark.recipe is not None
    assert mark.recipe["source"] == "other_tool.png"
    assert dataset.rows(2).to_pylist()[0]["model_id"] == "compact"


def test_one_photo_alone_leaves_its_inter_group_weight_open(runs: list[Run], tmp_path: Path) -> None:
    dataset = export(runs[:1], tmp_path / "out")
    assert dataset.pairs()["w_inter"].isna().all()
    assert dataset.pairs()["w_total"].isna().all()
    assert dataset.pairs()["w_intra"].mean() == pytest.approx(1)
    assert "undefined and null" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_one_photo_in_two_runs_leaves_their_inter_group_weights_open(runs: list[Run], tmp_path: Path) -> None:
    """As the page shows them."""
    anew = write_run(tmp_path / "anew", size=128, seed=9, photo=0)
    dataset = export([runs[0], anew], tmp_path / "out")
    assert len(dataset) == 2
    pairs = dataset.pairs()
    assert pairs["w_inter"].isna().all()
    assert pairs["w_total"].isna().all()
    assert pairs.groupby("group_id")["w_intra"].mean().tolist() == pytest.approx([1, 1])


def test_a_named_mean_spread_goes_into_the_weights_the_card_and_the_recipe(runs: list[Run], tmp_path: Path) -> None:
    dataset = export(runs[:1], tmp_path / "out", MeanSpread(0.25, "480 curated groups"))
    (run,) = pairable(runs[:1], SETTINGS).runs
    expected = weigh_run(run, 2, mean_spread=0.25).pairs.total
    assert expected is not None
    assert dataset.pairs()["w_total"].tolist() == expected.tolist()
    assert "the mean spread 0.25 of 480 curated groups" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text(encoding="utf-8"))
    assert (recipe["mu_sigma"], recipe["num_candidates"], recipe["top"]) == (0.25, 6, 2)


def test_a_run_that_training_cannot_read_is_left_out_in_words(runs: list[Run], tmp_path: Path) -> None:
    odd = replace(runs[0], values={**runs[0].values, "size": [96, 96]})
    reason = "bluebird.png must be enlarged by 4 for training, got 32 x 32 px to 96 x 96 px"
    assert untrainable(odd) == reason
    assert untrainable(runs[0]) is None
    found = pairable([odd, runs[1]], SETTINGS)
    spread = MeanSpread(None, "one photo alone")
    assert [r.reason for r in export_runs(found, tmp_path / "out", SETTINGS, spread, DAY)] == [reason]
    assert len(open_dataset(tmp_path / "out")) == 1
    with pytest.raises(InputError, match=r"there must be a run to train on: .*enlarged by 4"):
        export_runs(pairable([odd], SETTINGS), tmp_path / "none", SETTINGS, spread, DAY)


def test_a_run_that_is_there_twice_counts_once(runs: list[Run], tmp_path: Path) -> None:
    assert len(export([runs[0], runs[1], runs[0]], tmp_path / "out")) == 2


def test_the_zip_holds_the_dataset_whole(runs: list[Run], tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    written = export(runs, folder)
    packed = pack_dataset(folder, tmp_path / "pairs.zip")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "opened")
    opened = open_dataset(tmp_path / "opened" / "pairs")
    assert opened.digest == written.digest
    assert opened.pairs().equals(written.pairs())
    assert {path.name for path in (tmp_path / "opened" / "pairs").iterdir()} == {path.name for path in folder.iterdir()}
