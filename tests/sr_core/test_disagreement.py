"""Laws of the disagreement between metrics."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from sr_core.disagreement import (
    FEWEST_PHOTOS,
    STATISTICS,
    Statistic,
    conflicts,
    contested_candidates,
    contested_pairs,
    correlate,
    preferences,
    resampled_kendall,
    resampled_spearman,
    spectrum_outliers,
)
from sr_core.errors import InputError
from sr_core.explanation import RankedGroup
from sr_core.rewards.group import ScoreTerm, hybrid_reward

UP = ScoreTerm(half="no_reference", lower_is_better=False, tolerance=0.01)
DOWN = ScoreTerm(half="reference", lower_is_better=True, tolerance=0.01)
TERMS = {"a": UP, "b": UP, "c": DOWN, "d": DOWN}
both = pytest.mark.parametrize("statistic", ["kendall", "spearman"])


def group_of(seed: int = 0, m: int = 8) -> RankedGroup:
    rng = np.random.default_rng(seed)
    return RankedGroup.of({key: rng.normal(size=m) for key in TERMS}, TERMS)


def aligned(*groups: RankedGroup) -> list[dict[str, np.ndarray]]:
    return [dict(group.reward.normalised) for group in groups]


def test_one_group_has_scipys_correlations() -> None:
    group = group_of()
    for statistic, reference in (("kendall", kendalltau), ("spearman", spearmanr)):
        table = correlate(aligned(group), statistic)
        for a, b in (("a", "b"), ("a", "c"), ("d", "c")):
            signs = [-1 if TERMS[key].lower_is_better else 1 for key in (a, b)]
            expected = reference(signs[0] * group.raw[a], signs[1] * group.raw[b]).statistic
            assert table.between(a, b).value == pytest.approx(expected, abs=1e-12)
            assert table.between(a, b) == table.between(b, a)
            assert table.between(a, b)[3:5] == (8, 1)


@both
def test_a_metric_agrees_with_itself_and_with_its_turned_copy(statistic: Statistic) -> None:
    values = np.random.default_rng(0).normal(size=9)
    group = RankedGroup.of({"up": values, "down": -values}, {"up": UP, "down": DOWN})
    table = correlate(aligned(group), statistic)
    for pair in (("up", "up"), ("up", "down")):
        found = table.between(*pair)
        assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))
    assert table.lowest == ("up", "down")


@both
@given(st.integers(0, 200))
def test_several_groups_are_weighted_by_their_pairs_and_never_mixed(statistic: Statistic, seed: int) -> None:
    groups = aligned(group_of(seed, 4), group_of(seed + 1, 9))
    found = correlate(groups, statistic, num_resamples=20).between("a", "c")
    own = [STATISTICS[statistic](group["a"], group["c"]) for group in groups]
    assert found.value == pytest.approx((6 * own[0] + 36 * own[1]) / 42, abs=1e-12)
    assert (found.num_candidates, found.num_groups) == (13, 2)


def test_groups_at_different_levels_do_not_feign_agreement() -> None:
    """Pooled naively, two photos of different difficulty make contradicting metrics correlate."""
    low, high = np.arange(5.0), 100 + np.arange(5.0)
    groups = [{"a": values, "b": values[::-1].copy()} for values in (low, high)]
    assert correlate(groups, "kendall").between("a", "b").value == pytest.approx(-1)
    assert kendalltau(np.r_[low, high], np.r_[low[::-1], high[::-1]]).statistic > 0


@both
def test_permuting_the_candidates_changes_no_correlation(statistic: Statistic) -> None:
    group = group_of()
    order = np.random.default_rng(1).permutation(8)
    moved = [{key: values[order] for key, values in aligned(group)[0].items()}]
    first, second = correlate(aligned(group), statistic), correlate(moved, statistic)
    for pair, found in first.pairs.items():
        assert second.pairs[pair].value == pytest.approx(found.value, abs=1e-12)


@both
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_groups", [1, 3, FEWEST_PHOTOS])
def test_an_interval_is_repeated_by_its_seed_and_contains_the_estimate(
    statistic: Statistic, seed: int, num_groups: int
) -> None:
    groups = aligned(*(group_of(100 * seed + i) for i in range(num_groups)))
    table = correlate(groups, statistic, seed=seed)
    assert table.pairs == correlate(groups, statistic, seed=seed).pairs
    assert table.pairs != correlate(groups, statistic, seed=seed + 1).pairs
    for found in table.pairs.values():
        assert found.resampled == ("photos" if num_groups == FEWEST_PHOTOS else "candidates")
        assert found.low is not None
        assert found.low - 1e-12 <= found.value <= found.high + 1e-12
        assert found.low >= -1 - 1e-12
        assert found.high <= 1 + 1e-12


def test_more_candidates_narrow_the_interval() -> None:
    widths = []
    for m in (6, 60):
        found = correlate(aligned(group_of(3, m)), "kendall").between("a", "b")
        widths.append(found.high - found.low)
    assert widths[1] < 0.5 * widths[0]


@pytest.mark.parametrize(("resampled", "reference"), [(resampled_kendall, kendalltau), (resampled_spearman, spearmanr)])
def test_a_resampling_has_scipys_correlation_of_the_drawn_candidates(resampled, reference) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, (3, 7)).astype(float)
    draws = rng.integers(0, 7, (50, 7))
    found = resampled(values, draws)
    for r, draw in enumerate(draws):
        for i in range(3):
            for j in range(3):
                x, y = values[i, draw], values[j, draw]
                if np.ptp(x) == 0 or np.ptp(y) == 0:
                    assert math.isnan(found[i, j, r])
                else:
                    assert found[i, j, r] == pytest.approx(reference(x, y).statistic, abs=1e-12)


@both
def test_a_metric_within_its_tolerance_has_no_order_to_agree_with(statistic: Statistic) -> None:
    flat = {"a": [1.0, 1.001, 1.002, 1.003], "b": [1.0, 2.0, 3.0, 4.0]}
    table = correlate(aligned(RankedGroup.of(flat, TERMS)), statistic)
    assert table.between("a", "b") == (None, None, None, 0, 0, None, 0)
    assert table.between("a", "a").value is None
    assert table.between("b", "b").value == pytest.approx(1)
    assert table.lowest is None


@both
def test_fewer_than_three_candidates_say_nothing(statistic: Statistic) -> None:
    table = correlate(aligned(group_of(0, 2)), statistic)
    assert (table.keys, dict(table.pairs)) == ((), {})
    mixed = correlate(aligned(group_of(0, 2), group_of(1, 5)), statistic)
    assert mixed.pairs == correlate(aligned(group_of(1, 5)), statistic).pairs


@both
def test_runs_with_other_metrics_count_where_they_have_both(statistic: Statistic) -> None:
    groups = aligned(group_of(0), group_of(1))
    del groups[1]["b"]
    table = correlate(groups, statistic)
    assert table.between("a", "b")[3:5] == (8, 1)
    assert table.between("a", "b").value == pytest.approx(STATISTICS[statistic](groups[0]["a"], groups[0]["b"]))
    assert table.between("a", "c")[3:5] == (16, 2)


@both
def test_a_metric_of_few_groups_has_the_interval_of_those_groups_alone(statistic: Statistic) -> None:
    """However many other groups there are, they say nothing about it."""
    groups = aligned(*(group_of(i) for i in range(FEWEST_PHOTOS)))
    for group in groups[2:]:
        del group["c"]
    table, alone = correlate(groups, statistic), correlate(groups[:2], statistic)
    for key in ("a", "b", "d"):
        found = table.between(key, "c")
        assert found == alone.between(key, "c")
        assert found.resampled == "candidates"
        assert found.high - found.low > 0.2
    assert table.between("a", "b").resampled == "photos"


@both
def test_one_photo_restored_often_speaks_for_one_photo(statistic: Statistic) -> None:
    groups = aligned(*(group_of(i) for i in range(FEWEST_PHOTOS)))
    table = correlate(groups, statistic, photos=["same"] * FEWEST_PHOTOS)
    own = correlate(groups, statistic)
    for pair, found in table.pairs.items():
        assert (found.resampled, found.num_photos) == ("candidates", 1)
        assert (found.value, found.num_groups) == (own.pairs[pair].value, FEWEST_PHOTOS)
    short = correlate(groups, statistic, photos=["same", "same", *map(str, range(2, FEWEST_PHOTOS))])
    assert short.between("a", "b").resampled == "candidates"
    assert short.between("a", "b").num_photos == FEWEST_PHOTOS - 1


@both
def test_a_photo_is_resampled_with_all_its_groups(statistic: Statistic) -> None:
    """Every photo restored twice alike is every photo once: no interval becomes narrower by it."""
    groups = aligned(*(group_of(i) for i in range(FEWEST_PHOTOS)))
    names = [str(i) for i in range(FEWEST_PHOTOS)]
    once = correlate(groups, statistic, photos=names)
    assert once == correlate(groups, statistic)
    for pair, found in correlate([*groups, *groups], statistic, photos=names * 2).pairs.items():
        assert found[:3] == pytest.approx(once.pairs[pair][:3], abs=1e-12)
        assert (found.resampled, found.num_groups, found.num_photos) == ("photos", 2 * FEWEST_PHOTOS, FEWEST_PHOTOS)
    mistaken = correlate([*groups, *groups], statistic).between("a", "b")
    right = once.between("a", "b")
    assert mistaken.high - mistaken.low < 0.9 * (right.high - right.low)


def test_a_gap_within_the_tolerance_prefers_nobody() -> None:
    group = RankedGroup.of({"a": [0.0, 0.009, 1.0, 0.5]}, TERMS)
    prefers = preferences(group)["a"]
    assert prefers[0, 1] == prefers[1, 0] == 0
    assert prefers[2, 0] == pytest.approx(1 - 0.01)
    assert prefers[3, 0] == pytest.approx(0.5 - 0.01)
    np.testing.assert_array_equal(prefers, -prefers.T)


@given(st.integers(0, 1000), st.integers(2, 10))
def test_conflict_is_symmetric_and_lies_in_zero_to_one(seed: int, m: int) -> None:
    found = conflicts(group_of(seed, m))
    np.testing.assert_array_equal(found, found.T)
    assert (np.diag(found) == 0).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_metrics_that_agree_have_no_conflict() -> None:
    values = np.random.default_rng(0).normal(size=6)
    group = RankedGroup.of({"a": values, "c": -values}, TERMS)
    assert (conflicts(group) == 0).all()
    assert contested_pairs([group], 5) == []
    assert contested_candidates([group], 5) == []


def test_halves_that_contradict_each_other_wholly_reach_one() -> None:
    exact = {key: term._replace(tolerance=1e-9) for key, term in TERMS.items()}
    group = RankedGroup.of({"a": [0.0, 1.0, 0.5], "c": [0.0, 1.0, 0.5]}, exact)
    assert conflicts(group)[0, 1] == pytest.approx(1)


def planted() -> tuple[RankedGroup, RankedGroup]:
    """Return a group whose metrics agree but for candidates 1 and 4 of the second, where they are far apart."""
    base = np.linspace(0, 1, 6)
    quiet = RankedGroup.of({"a": base, "b": base, "c": -base}, TERMS)
    a, c = base.copy(), -base
    a[[1, 4]] = a[[4, 1]]
    return quiet, RankedGroup.of({"a": a, "b": a, "c": c}, TERMS)


def test_the_planted_conflict_is_found_first() -> None:
    pairs = contested_pairs(planted(), 3)
    first = pairs[0]
    assert (first.group, {first.left, first.right}) == (1, {1, 4})
    sides = {frozenset(first.prefer_left), frozenset(first.prefer_right)}
    assert sides == {frozenset({"a", "b"}), frozenset({"c"})}
    assert [pair.conflict for pair in pairs] == sorted((pair.conflict for pair in pairs), reverse=True)
    assert first.conflict == pytest.approx(2 * min(sum(first.prefer_left.values()), sum(first.prefer_right.values())))
    candidates = contested_candidates(planted(), 10)
    assert {(entry.group, entry.place) for entry in candidates[:2]} == {(1, 1), (1, 4)}
    assert {candidates[0].praised_by, candidates[0].blamed_by} & {"c"}
    assert all(entry.group == 1 for entry in candidates)


@pytest.mark.parametrize(("weight", "named"), [(0.0, {"a", "b"}), (0.5, {"a", "b", "c", "d"}), (1.0, {"c", "d"})])
def test_who_praises_or_blames_has_a_weight(weight: float, named: set[str]) -> None:
    raw = {key: np.random.default_rng(n).normal(size=8) for n, key in enumerate(TERMS)}
    found = contested_candidates([RankedGroup.of(raw, TERMS, fidelity_weight=weight)], 20)
    assert found
    assert {key for entry in found for key in (entry.praised_by, entry.blamed_by)} == named


def test_the_pair_is_named_with_the_one_that_the_reward_prefers_on_the_left() -> None:
    group = group_of(5)
    for pair in contested_pairs([group], 100):
        assert group.reward.reward[pair.left] >= group.reward.reward[pair.right]


def test_permuting_the_candidates_permutes_the_conflicts() -> None:
    group = group_of(6)
    order = np.random.default_rng(2).permutation(8)
    moved = RankedGroup.of({key: values[order] for key, values in group.raw.items()}, TERMS)
    np.testing.assert_allclose(conflicts(moved), conflicts(group)[np.ix_(order, order)], atol=1e-12)


def test_preferences_sum_to_the_difference_of_rewards_without_tolerance() -> None:
    raw = group_of(8).raw
    exact = {key: term._replace(tolerance=0.0) for key, term in TERMS.items()}
    group = RankedGroup.of(raw, exact)
    total = sum(preferences(group).values())
    reward = hybrid_reward(raw, exact).reward
    np.testing.assert_allclose(total, reward[:, None] - reward[None], atol=1e-12)


def test_the_candidate_with_another_spectrum_stands_out() -> None:
    rng = np.random.default_rng(0)
    decibels = -20 * np.log10(np.arange(1, 65)) + rng.normal(scale=0.1, size=(8, 64))
    decibels[5, 32:] += 6
    found = spectrum_outliers(decibels)
    assert found.z is not None
    assert found.distance.argmax() == found.z.argmax() == 5
    assert found.z[5] > 3.5 > np.delete(found.z, 5).max()
    assert found.distance[5] == pytest.approx(6 / math.sqrt(2), rel=0.05)
    shifted = spectrum_outliers(decibels + np.linspace(0, 9, 64))
    np.testing.assert_allclose(shifted.distance, found.distance)


def test_equal_spectra_have_no_outlier_and_two_have_none_to_stand_out_from() -> None:
    found = spectrum_outliers(np.ones((4, 10)))
    assert (found.distance == 0).all()
    assert found.z is None
    with pytest.raises(InputError, match="at least 3"):
        spectrum_outliers(np.ones((2, 10)))
