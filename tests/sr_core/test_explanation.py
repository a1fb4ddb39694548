"""Laws of what explains a ranking."""

from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from sr_core.explanation import (
    RankedGroup,
    bootstrap_ranks,
    contributions,
    drop_one,
    rank_correlation,
    ranked_group,
    resampled_weights,
)
from sr_core.rewards.group import ScoreTerm, hybrid_reward, score_term
from sr_core.runs import CandidateRecord, Run

FR = ScoreTerm(half="reference", lower_is_better=True, tolerance=0.01)
NR = ScoreTerm(half="no_reference", lower_is_better=False, tolerance=0.01)
TERMS = {"f1": FR, "f2": FR, "n1": NR, "n2": NR, "n3": NR}


def group_of(seed: int = 0, m: int = 8, fidelity_weight: float = 0.5) -> RankedGroup:
    rng = np.random.default_rng(seed)
    return RankedGroup.of({key: rng.normal(size=m) for key in TERMS}, TERMS, fidelity_weight=fidelity_weight)


@given(st.integers(0, 1000), st.integers(2, 16), st.floats(0, 1))
def test_contributions_sum_to_the_reward(seed: int, m: int, fidelity_weight: float) -> None:
    group = group_of(seed, m, fidelity_weight)
    total = np.sum(list(contributions(group.reward).values()), axis=0)
    np.testing.assert_allclose(total, group.reward.reward, rtol=0, atol=1e-12)


def test_a_change_of_unit_leaves_the_contributions() -> None:
    group = group_of()
    scaled = {**group.raw, "f1": 40 * group.raw["f1"] - 7}
    terms = {**TERMS, "f1": FR._replace(tolerance=40 * FR.tolerance)}
    other = contributions(RankedGroup.of(scaled, terms).reward)
    for key, values in contributions(group.reward).items():
        np.testing.assert_allclose(other[key], values, atol=1e-12)


def test_permuting_the_candidates_permutes_everything() -> None:
    group = group_of()
    order = np.random.default_rng(1).permutation(8)
    moved = RankedGroup.of({key: values[order] for key, values in group.raw.items()}, TERMS)
    for key, values in contributions(group.reward).items():
        np.testing.assert_array_equal(contributions(moved.reward)[key], values[order])
    for before, after in zip(drop_one(group), drop_one(moved), strict=True):
        assert order[after.winner] == before.winner
        assert after[2:4] == before[2:4]
        assert after.tau == pytest.approx(before.tau)
    before, after = bootstrap_ranks(group), bootstrap_ranks(moved)
    np.testing.assert_allclose(after.highest, before.highest[order], atol=1e-12)
    np.testing.assert_allclose(after.rank_share, before.rank_share[order], atol=1e-12)


def test_a_dropped_metric_gives_the_reward_of_the_others() -> None:
    group = group_of(3)
    for drop in drop_one(group):
        rest = {key: values for key, values in group.raw.items() if key != drop.key}
        left = hybrid_reward(rest, TERMS)
        assert left.ranks is not None
        assert drop.rank == left.ranks[group.best]
        assert left.reward[drop.winner] == left.reward.max()
        assert (drop.outcome == "kept") == (drop.winner == group.best)
        assert (drop.outcome == "lost") == (drop.rank > 1)
        assert drop.tau == kendalltau(group.reward.reward, left.reward).statistic


def test_dropping_one_of_two_copies_that_fill_a_half_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    copied, other = rng.normal(size=7), rng.normal(size=7)
    group = RankedGroup.of({"f1": copied, "f2": copied, "n1": other}, TERMS)
    for drop in drop_one(group)[:2]:
        assert (drop.winner, drop.outcome, drop.rank) == (group.best, "kept", 1)
        assert drop.tau == pytest.approx(1)


def test_dropping_either_of_two_copies_is_the_same() -> None:
    group = group_of(4)
    group = RankedGroup.of({**group.raw, "n2": group.raw["n1"]}, TERMS)
    drops = {drop.key: drop for drop in drop_one(group)}
    assert drops["n1"][1:] == drops["n2"][1:]


def test_a_lead_within_the_tolerance_is_tied_not_lost() -> None:
    wide = ScoreTerm(half="no_reference", lower_is_better=False, tolerance=0.3)
    raw = {"n1": [1.0, 0.9, 0.0], "n2": [0.9, 1.0, 0.0], "n3": [1.0, 0.8, 0.0]}
    drops = {drop.key: drop for drop in drop_one(RankedGroup.of(raw, dict.fromkeys(raw, wide)))}
    assert drops["n1"].outcome == "kept"
    narrow = RankedGroup.of({"n1": [1.0, 0.5, 0.0], "n2": [0.9, 1.0, 0.0]}, {"n1": wide, "n2": wide})
    without = {drop.key: drop for drop in drop_one(narrow)}["n1"]
    assert narrow.best == 0
    assert (without.winner, without.outcome, without.rank) == (1, "tied", 1)
    strict = dict.fromkeys(("n1", "n2"), wide._replace(tolerance=0.01))
    lost = {drop.key: drop for drop in drop_one(RankedGroup.of(dict(narrow.raw), strict))}["n1"]
    assert (lost.winner, lost.outcome, lost.rank) == (1, "lost", 2)


def test_the_only_metric_cannot_be_dropped() -> None:
    assert drop_one(RankedGroup.of({"n1": [1.0, 2.0, 3.0]}, TERMS)) == ()


@pytest.mark.parametrize(
    ("weight", "dropped", "num_distinct"),
    [(0.0, ["n1", "n2", "n3"], comb(5, 3)), (0.5, list(TERMS), comb(3, 2) * comb(5, 3)), (1.0, ["f1", "f2"], 3)],
)
def test_a_metric_without_weight_is_neither_dropped_nor_counted_among_the_resamplings(
    weight: float, dropped: list[str], num_distinct: int
) -> None:
    group = group_of(3, fidelity_weight=weight)
    drops, resampled = drop_one(group), bootstrap_ranks(group)
    assert [drop.key for drop in drops] == dropped
    assert resampled.num_distinct == num_distinct
    # What has no weight changes neither, whatever it says.
    half = [key for key in TERMS if key in dropped]
    alone = RankedGroup.of({key: group.raw[key] for key in half}, TERMS, fidelity_weight=weight)
    assert drop_one(alone) == drops
    np.testing.assert_array_equal(bootstrap_ranks(alone).rank_share, resampled.rank_share)
    weights = resampled_weights(group, num_resamples=50, seed=0)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert set(np.flatnonzero(weights.any(axis=0))) == {list(TERMS).index(key) for key in dropped}


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_only_metric_with_a_weight_cannot_be_dropped(weight: float) -> None:
    raw = {"f1": [1.0, 2.0, 3.0], "n1": [1.0, 3.0, 2.0]}
    assert drop_one(RankedGroup.of(raw, TERMS, fidelity_weight=weight)) == ()
    assert len(drop_one(RankedGroup.of(raw, TERMS))) == 2


def test_constant_rewards_have_no_rank_correlation() -> None:
    assert rank_correlation(np.ones(4), np.arange(4.0)) is None
    assert rank_correlation(np.ones(1), np.ones(1)) is None


def test_resampling_is_repeated_by_its_seed_and_keeps_the_halves() -> None:
    group = group_of(fidelity_weight=0.3)
    weights = resampled_weights(group, num_resamples=200, seed=5)
    np.testing.assert_array_equal(weights, resampled_weights(group, num_resamples=200, seed=5))
    assert (weights != resampled_weights(group, num_resamples=200, seed=6)).any()
    np.testing.assert_allclose(weights[:, :2].sum(axis=1), 0.3)
    np.testing.assert_allclose(weights[:, 2:].sum(axis=1), 0.7)
    assert np.abs(weights.mean(axis=0) - list(group.reward.weights.values())).max() < 0.03


def test_a_resampling_is_the_reward_with_metrics_counted_as_often_as_drawn() -> None:
    group = group_of(7)
    for weights in resampled_weights(group, num_resamples=20, seed=1):
        copies, terms = {}, {}
        for key, weight in zip(group.raw, weights, strict=True):
            for i in range(round(weight / group.reward.weights[key])):
                copies[f"{key}.{i}"], terms[f"{key}.{i}"] = group.raw[key], TERMS[key]
        expected = hybrid_reward(copies, terms)
        mixed = weights @ np.stack([group.reward.normalised[key] for key in group.raw])
        np.testing.assert_allclose(mixed, expected.reward, atol=1e-12)


def test_the_bootstrap_is_a_distribution_over_ranks() -> None:
    result = bootstrap_ranks(group_of(9), num_resamples=300)
    assert result.highest.sum() == pytest.approx(1)
    np.testing.assert_allclose(result.rank_share.sum(axis=1), 1)
    assert (result.rank_share[:, 0] >= result.highest - 1e-12).all()
    assert result.num_distinct == comb(3, 2) * comb(5, 3)
    assert ((result.mean_rank >= 1) & (result.mean_rank <= 8)).all()


def test_a_candidate_that_every_metric_prefers_is_always_first() -> None:
    raw = {key: np.array([0.0, 1.0, 2.0]) * (-1 if TERMS[key].lower_is_better else 1) for key in TERMS}
    group = RankedGroup.of(raw, TERMS)
    assert bootstrap_ranks(group).highest.tolist() == [0, 0, 1]
    assert all(drop.outcome == "kept" for drop in drop_one(group))


def test_equal_candidates_divide_the_first_place() -> None:
    group = RankedGroup.of({"n1": [1.0, 1.0, 0.0], "f1": [0.0, 0.0, 1.0]}, TERMS)
    result = bootstrap_ranks(group)
    np.testing.assert_allclose(result.highest, [0.5, 0.5, 0])
    np.testing.assert_allclose(result.rank_share[:2, 0], 1)


def run_of(scores: list[dict[str, float]], tmp_path: Path) -> Run:
    records = tuple(CandidateRecord(index=i, seed=i, scores=s, file=f"{i}.png") for i, s in enumerate(scores))
    return Run(folder=tmp_path, values={"fidelity_weight": 0.25}, candidates=records).reranked(0.25)


def test_a_runs_group_is_its_own_reward_over_the_scores_that_all_have(tmp_path: Path) -> None:
    full = {"lpips": 0.2, "niqe": 4.0, "brisque": 30.0}
    run = run_of([full, {**full, "niqe": 5.0}, {"lpips": 0.1, "niqe": 4.5}], tmp_path)
    failed = replace(run.candidates[0], index=3, file=None, scores={}, rank=None, reward=None, problem="black")
    group = ranked_group(replace(run, candidates=(failed, *run.candidates)))
    assert group is not None
    assert group.indices == (0, 1, 2)
    assert list(group.raw) == ["lpips", "niqe"]
    assert group.terms["niqe"] == score_term("niqe")
    assert group.fidelity_weight == 0.25
    assert group.reward.reward.tolist() == [record.reward for record in run.candidates]


def test_fewer_than_two_scored_candidates_are_no_group(tmp_path: Path) -> None:
    assert ranked_group(run_of([{"niqe": 4.0}, {}], tmp_path)) is None
