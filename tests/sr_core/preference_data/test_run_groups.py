import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sr_core.errors import InputError
from sr_core.images import Pixels8, from_uint8, read_image, to_uint8
from sr_core.preference_data.dataset import candidate_schema
from sr_core.preference_data.run_groups import first_candidates, run_group, stored_group
from sr_core.preference_data.shards import ScoredGroup, group_table
from sr_core.rewards import GroupScorer, GroupScores
from sr_core.runs import Run
from sr_core.scoring import local_pixels
from sr_core.tensors import Enlarged, Image
from tests.explorer_run import write_run
from tests.restored_runs import restore_two


@pytest.fixture(scope="session")
def hq(photos: Path) -> Pixels8:
    return np.ascontiguousarray(to_uint8(read_image(photos / "eval" / "472_bluebird.png").pixels)[64:320, 64:320])


@pytest.fixture(scope="session")
def runs(hq: Pixels8, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two runs: `a` with a reference and the wanted metric set, `b` without and of another."""
    folder = tmp_path_factory.mktemp("runs")
    restore_two(from_uint8(hq), folder)
    return folder


@pytest.fixture(scope="session")
def groups(runs: Path) -> tuple[ScoredGroup, ScoredGroup]:
    scorer = GroupScorer("train_offline")

    def score(images: Sequence[Pixels8], lq: Image, reference: Enlarged | None) -> GroupScores:
        return scorer.score(images, lq=lq, reference=reference, fidelity_weight=0.5)

    first, second = (
        run_group(Run.open(runs / name), score, metric_set="train_offline", fidelity_weight=0.5) for name in "ab"
    )
    return first, second


def test_a_run_of_the_same_metric_set_keeps_its_scores(runs: Path, groups: tuple[ScoredGroup, ScoredGroup]) -> None:
    run, group = Run.open(runs / "a"), groups[0]
    assert group.raw == {key: [c.scores[key] for c in run.candidates] for key in group.raw}
    assert group.raw.keys() == run.candidates[0].scores.keys()
    assert group.reward.reward.tolist() == [c.reward for c in run.candidates]
    assert group.seeds == [0, 1, 2, 3]


def test_a_run_of_another_metric_set_is_scored_anew(runs: Path, groups: tuple[ScoredGroup, ScoredGroup]) -> None:
    run, group = Run.open(runs / "b"), groups[1]
    assert group.raw.keys() == {"consistency_lpips", "consistency_vsi", "brisque", "niqe"}
    assert "piqe" in run.candidates[0].scores
    assert group.raw["niqe"] == pytest.approx([c.scores["niqe"] for c in run.candidates], rel=1e-4)


def test_the_images_are_those_of_the_runs_files(runs: Path, groups: tuple[ScoredGroup, ScoredGroup]) -> None:
    for name, group in zip(("a", "b"), groups, strict=True):
        run = Run.open(runs / name)
        for record, image in zip(run.candidates, group.images, strict=True):
            assert np.array_equal(image, local_pixels(run.path(record)))
        assert np.array_equal(group.lq, local_pixels(runs / "photo.png"))
        assert group.origin.preset is None


SETTINGS = {
    "guidance": 5.5, "tile": 128, "prompt": "a bird", "negative_prompt": "blur", "start": "lq", "strength": 0.75,
    "parts": {"base": "mine"}, "offload": "none", "quantize": "8bit",
}  # fmt: skip


def test_a_run_of_other_settings_keeps_them_in_its_rows(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", size=128)
    audit = {"degradation": {"preset": "seesr", "seed": 5}}
    other = replace(run, values={**run.values, "backbone": "c-sd2", **SETTINGS, "audit": audit})
    group = stored_group(other, fidelity_weight=0.5)
    rows = group_table(group, candidate_schema(list(group.raw)), datetime.now(UTC)).to_pylist()
    for row in rows:
        assert (row["guidance"], row["control_scale"], row["preset"]) == (5.5, 1.0, "seesr")
        assert json.loads(row["tile_cfg"]) == {name: value for name, value in SETTINGS.items() if name != "guidance"}


def test_a_run_that_says_less_has_the_usual_tile_and_nothing_made_up(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", size=128)
    for audit in (None, {"lq": {"name": "given.png"}}):
        origin = stored_group(replace(run, values={**run.values, "audit": audit}), fidelity_weight=0.5).origin
        assert origin.guidance is origin.control_scale is origin.preset is None
        assert origin.tile_cfg == '{"tile": 224}'


def test_the_ground_truth_is_the_runs_reference_or_absent(hq: Pixels8, groups: tuple[ScoredGroup, ScoredGroup]) -> None:
    first, second = groups
    assert first.hq is not None
    assert np.array_equal(first.hq, hq)
    assert second.hq is None


def test_the_first_candidates_are_ranked_among_themselves(runs: Path) -> None:
    run = Run.open(runs / "a")
    first = first_candidates(run, 3, fidelity_weight=1.0)
    assert [record.seed for record in first.candidates] == [0, 1, 2]
    rewards = [record.reward for record in first.candidates]
    group = stored_group(first, fidelity_weight=1.0)
    assert group.reward.reward.tolist() == rewards
    assert len(group.images) == 3
    with pytest.raises(InputError, match=r"photo\.png must have 5 scored candidates, got 4"):
        first_candidates(run, 5, fidelity_weight=1.0)
