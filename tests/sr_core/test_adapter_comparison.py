from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sr_core.adapter_comparison import (
    AdapterComparison,
    compare_adapters,
    expected_best,
    mean_interval,
    reward_curves,
    union_rewards,
)
from sr_core.rewards.group import hybrid_reward, score_term
from sr_core.runs import CandidateRecord, Run

KEYS = ("lpips", "vsi", "brisque", "niqe")
SEEDS = 5


def scores(seed: int, count: int = SEEDS) -> list[dict[str, float]]:
    """Return plausible raw scores, one mapping per candidate."""
    rng = np.random.default_rng(seed)
    ranges = {"lpips": (0.1, 0.3), "vsi": (0.95, 0.99), "brisque": (10, 60), "niqe": (3, 7)}
    return [{key: float(rng.uniform(*ranges[key])) for key in KEYS} for _ in range(count)]


def run_of(after: Sequence[dict[str, float]], before: Sequence[dict[str, float]], weight: float = 0.5) -> Run:
    records = tuple(
        CandidateRecord(index=i, seed=10 + i, scores=own, before_scores=other)
        for i, (own, other) in enumerate(zip(after, before, strict=True))
    )
    values = {"adapter": "hpo", "compare_adapter": "sft", "fidelity_weight": weight}
    return Run(folder=Path("nowhere"), values=values, candidates=records)


def compared(run: Run) -> AdapterComparison:
    found = compare_adapters(run)
    assert found is not None
    return found


def changes(found: AdapterComparison) -> list[float]:
    return [seed.change for seed in found.seeds]


def test_the_same_adapter_twice_changes_no_seed() -> None:
    found = compared(run_of(scores(0), scores(0)))
    assert changes(found) == [0.0] * SEEDS
    assert found.mean_change == 0
    assert found.interval == (0, 0, 0)
    assert found.before_curves == found.after_curves


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_swapping_the_adapters_negates_every_change(weight: float) -> None:
    there, back = compared(run_of(scores(0), scores(1), weight)), compared(run_of(scores(1), scores(0), weight))
    assert any(changes(there))
    np.testing.assert_allclose(changes(there), np.negative(changes(back)))
    assert there.interval is not None
    assert back.interval is not None
    np.testing.assert_allclose(there.interval.mean, -back.interval.mean)
    assert there.after_curves == back.before_curves


def test_rewards_are_normalised_over_both_adapters_together() -> None:
    ours = {"lpips": [0.1, 0.3], "niqe": [1.0, 3.0]}
    theirs = {"lpips": [0.2, 0.5], "niqe": [2.0, 5.0]}
    own, other = union_rewards(ours, theirs, ("lpips", "niqe"))
    np.testing.assert_allclose([*own, *other], [1, 0.5, 0.75, 0])
    faithful, _ = union_rewards(ours, {**theirs, "niqe": [0.0, 0.0]}, ("lpips", "niqe"), fidelity_weight=1.0)
    np.testing.assert_allclose(faithful, [1, 0.5])


def test_the_numbers_are_those_of_one_group_with_all_images() -> None:
    after, before = scores(2), scores(3)
    found = compared(run_of(after, before, 0.7))
    raw = {key: [entry[key] for entry in (*after, *before)] for key in KEYS}
    wanted = hybrid_reward(raw, {key: score_term(key) for key in KEYS}, fidelity_weight=0.7).reward
    assert [seed.after for seed in found.seeds] + [seed.before for seed in found.seeds] == wanted.tolist()
    assert found.mean_change == pytest.approx(wanted[:SEEDS].mean() - wanted[SEEDS:].mean())
    assert [seed.name for seed in found.seeds] == [f"seed {10 + i}" for i in range(SEEDS)]


@given(arrays(np.float64, 6, elements=st.floats(0, 1)), st.integers(1, 6))
def test_the_expected_best_is_the_mean_over_all_subsets(values: np.ndarray, draws: int) -> None:
    every = [max(chosen) for chosen in combinations(values.tolist(), draws)]
    assert expected_best(values, draws) == pytest.approx(np.mean(every))


@given(arrays(np.float64, 7, elements=st.floats(0, 1)))
def test_curves_meet_at_one_and_end_at_the_extremes(values: np.ndarray) -> None:
    curves = reward_curves([values], range(1, 8))
    assert curves["best"][1] == pytest.approx(curves["worst"][1]) == pytest.approx(values.mean())
    assert set(curves["mean"].values()) == {values.mean()}
    best, worst = ([curve[m] for m in range(1, 8)] for curve in (curves["best"], curves["worst"]))
    assert all(b >= a - 1e-12 for a, b in pairwise(best))
    assert all(b <= a + 1e-12 for a, b in pairwise(worst))
    assert best[-1] == pytest.approx(values.max())
    assert worst[-1] == pytest.approx(values.min())


def test_a_runs_curves_are_those_of_its_rewards() -> None:
    found = compared(run_of(scores(4), scores(5)))
    own = np.array([seed.after for seed in found.seeds])
    assert found.after_curves == reward_curves([own], range(1, SEEDS + 1))


def test_seeds_that_one_adapter_failed_are_left_out_of_the_union() -> None:
    run = run_of(scores(6), scores(7))
    failed = replace(run.candidates[2], before_scores={})
    with_gap = replace(run, candidates=(*run.candidates[:2], failed, *run.candidates[3:]))
    without = replace(run, candidates=(*run.candidates[:2], *run.candidates[3:]))
    found = compared(with_gap)
    assert [seed.index for seed in found.seeds] == [0, 1, 3, 4]
    assert found == replace(compared(without), group=found.group)


def test_a_score_that_only_one_adapter_has_is_left_out_with_the_reason() -> None:
    before = [{key: value for key, value in entry.items() if key != "niqe"} for entry in scores(1)]
    found = compared(run_of(scores(0), before))
    assert set(found.group.weights) == {"lpips", "vsi", "brisque"}
    assert "both adapters" in found.left_out["niqe"]


def test_one_seed_has_a_change_and_no_interval() -> None:
    good = {"lpips": 0.1, "vsi": 0.99, "brisque": 10.0, "niqe": 3.0}
    bad = {"lpips": 0.3, "vsi": 0.95, "brisque": 60.0, "niqe": 7.0}
    found = compared(run_of([good], [bad]))
    assert found.interval is None
    assert found.mean_change == found.seeds[0].change == 1


def test_a_run_of_one_adapter_has_nothing_to_compare() -> None:
    run = run_of(scores(0), scores(1))
    assert compare_adapters(replace(run, values={**run.values, "compare_adapter": None})) is None
    assert compare_adapters(run_of(scores(0), [{}] * SEEDS)) is None
    assert compare_adapters(run_of(scores(0), [{"psnr": 20.0}] * SEEDS)) is None


def test_the_interval_holds_the_mean_and_narrows_with_more_seeds() -> None:
    few = np.array([0.0, 0.1, 0.2, 0.3])
    found, more = mean_interval(few), mean_interval(np.tile(few, 16))
    assert found.low < found.mean < found.high
    assert more.mean == pytest.approx(found.mean)
    assert more.high - more.low < found.high - found.low
