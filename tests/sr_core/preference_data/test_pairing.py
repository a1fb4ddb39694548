from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sr_core.errors import ConfigError
from sr_core.preference_data.pairing import (
    PRESETS,
    PairSettings,
    mean_spread_in_view,
    num_scored,
    pairable,
    rewards_of,
    weigh_run,
)
from sr_core.preferences import weigh_groups
from sr_core.runs import Run
from tests.explorer_run import write_run

SETTINGS = PairSettings(num_candidates=6, top=2, fidelity_weight=0.5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("pairing")
    return [write_run(folder / str(k), num_candidates=6 + k, size=64, seed=k) for k in range(3)]


def test_the_weights_of_runs_one_by_one_are_those_of_all_together(runs: list[Run]) -> None:
    found = pairable(runs, SETTINGS)
    spread = mean_spread_in_view(found.runs, 2)
    together = weigh_groups([rewards_of(run) for run in found.runs], 2)
    for run, expected in zip(found.runs, together, strict=True):
        weighed = weigh_run(run, 2, mean_spread=spread.value).pairs
        for name in ("winners", "losers", "gap", "intra", "inter", "total"):
            assert np.array_equal(getattr(weighed, name), getattr(expected, name)), name
    totals = np.concatenate([weigh_run(run, 2, mean_spread=spread.value).pairs.total for run in found.runs])
    assert totals.mean() == pytest.approx(1, abs=1e-12)


def test_one_photo_alone_has_no_inter_group_weight(runs: list[Run]) -> None:
    found = pairable(runs[:1], SETTINGS)
    spread = mean_spread_in_view(found.runs, 2)
    weighed = weigh_run(found.runs[0], 2, mean_spread=spread.value).pairs
    assert spread.value is weighed.inter is weighed.total is None
    assert weighed.intra.mean() == pytest.approx(1)


def test_one_photo_in_two_runs_is_one_photo(runs: list[Run], tmp_path: Path) -> None:
    """Restored anew, opened from one's own archive, or copied: nothing is there to compare its group with."""
    anew = write_run(tmp_path / "anew", num_candidates=7, size=64, seed=9, photo=0)
    copy = replace(runs[0], folder=tmp_path / "copy")
    assert anew.photo == runs[0].photo != runs[1].photo
    for again in (anew, copy):
        found = pairable([runs[0], again], SETTINGS)
        assert mean_spread_in_view(found.runs, 2) == (None, "one photo alone", ())
    three = pairable([runs[0], anew, runs[1]], SETTINGS).runs
    spread = mean_spread_in_view(three, 2)
    assert spread.words == "2 photos in 3 runs in view"
    totals = [weigh_run(run, 2, mean_spread=spread.value).pairs.total for run in three]
    assert np.concatenate(totals).mean() == pytest.approx(1, abs=1e-12)


def test_pairs_name_the_candidates_that_won_and_lost(runs: list[Run]) -> None:
    (run,) = pairable(runs[2:], SETTINGS).runs
    weighed = weigh_run(run, 2, mean_spread=None)
    best, worst = weighed.records(0)
    assert best == max(run.candidates, key=lambda record: record.reward)
    assert worst == min(run.candidates, key=lambda record: record.reward)
    for p, gap in enumerate(weighed.pairs.gap):
        winner, loser = weighed.records(p)
        assert winner.reward - loser.reward == gap


def test_rewards_are_taken_anew_among_the_first_candidates(runs: list[Run]) -> None:
    settings = PairSettings(num_candidates=4, top=1, fidelity_weight=0.25)
    (run,) = pairable(runs[1:2], settings).runs
    first = replace(runs[1], candidates=runs[1].candidates[:4]).group_reward(0.25)
    assert rewards_of(run).tolist() == first.reward.tolist()


def test_a_run_with_too_few_candidates_is_named_and_the_others_stay(runs: list[Run]) -> None:
    found = pairable(runs, PairSettings(num_candidates=8, top=2, fidelity_weight=0.5))
    assert [run.folder for run in found.runs] == [runs[2].folder]
    assert [refused.reason for refused in found.refused] == [
        "bluebird.png must have 8 scored candidates, got 6",
        "bluebird.png must have 8 scored candidates, got 7",
    ]
    assert [num_scored(run) for run in runs] == [6, 7, 8]


def test_runs_that_share_no_score_are_refused(runs: list[Run]) -> None:
    first, *others = runs[0].candidates
    odd = replace(runs[0], candidates=(replace(first, scores={"lpips": 0.2}), *others))
    found = pairable([odd], SETTINGS)
    assert not found.runs
    assert "share a score" in found.refused[0].reason


@pytest.mark.parametrize("top", [0, 4])
def test_more_winners_than_half_of_the_candidates_are_refused_in_words(runs: list[Run], top: int) -> None:
    with pytest.raises(ConfigError, match=f"N must lie in 1 to half of the M = 6 candidates, got {top}"):
        pairable(runs, PairSettings(num_candidates=6, top=top, fidelity_weight=0.5))


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("c-sd2", 100, (32, 8)), ("c-sd2", 16, (16, 4)), ("c-sd2", 2, (2, 1)), ("c-flux", 64, (64, 4)),
        ("c-flux", 32, (32, 2)), ("c-flux", 8, (8, 1)),
    ],
)  # fmt: skip
def test_the_papers_settings_keep_their_ratio_where_candidates_are_few(
    name: str, count: int, expected: tuple[int, int]
) -> None:
    assert PRESETS[name].of(count) == expected


def test_an_audit_among_runs_without_a_reference_is_said(runs: list[Run], tmp_path: Path) -> None:
    audited = write_run(tmp_path / "audited", size=64, reference=True, seed=9)
    found = pairable([audited, runs[1]], SETTINGS)
    assert mean_spread_in_view(found.runs, 2).cautions == (
        "their faithful halves differ: against the input (consistency), against the reference",
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("backbone", "c-flux", "their backbones differ: c-flux, compact"),
        ("adapter", "hpo", "their adapters differ: hpo, sft"),
    ],
)
def test_runs_of_several_models_are_said_to_be(runs: list[Run], name: str, value: str, words: str) -> None:
    other = replace(runs[0], values={**runs[0].values, name: value})
    assert mean_spread_in_view(pairable(runs[1:], SETTINGS).runs, 2).cautions == ()
    assert mean_spread_in_view(pairable([other, runs[1]], SETTINGS).runs, 2).cautions == (words,)


def test_runs_of_several_metric_sets_are_said_to_be(runs: list[Run]) -> None:
    other = replace(runs[0], values={**runs[0].values, "metric_set": "standard"})
    found = pairable([other, runs[1]], SETTINGS)
    assert mean_spread_in_view(found.runs, 2).cautions == ("their metric sets differ: offline, standard",)
