"""Laws of preference pairs and their weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sr_core.errors import ConfigError, InputError
from sr_core.preferences import GroupPairs, mean_group_spread, select_pairs, weigh_each, weigh_groups

# A coarse grid makes equal rewards, and so dropped pairs, common.
COARSE = st.integers(0, 4).map(lambda k: k / 4)
COARSE_GROUP = st.integers(4, 9).flatmap(lambda m: arrays(np.float64, m, elements=COARSE))


def random_groups(count: int, num_candidates: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(num_candidates) * rng.random() for _ in range(count)]


def all_of(groups: list[GroupPairs]) -> np.ndarray:
    totals = [group.total for group in groups]
    assert all(total is not None for total in totals)
    return np.concatenate([total for total in totals if total is not None])


def test_the_best_are_paired_with_the_worst() -> None:
    rewards = np.array([0.3, 0.9, 0.1, 0.5, 0.0, 0.7])
    assert select_pairs(rewards, 1) == [(1, 4)]
    assert select_pairs(rewards, 2) == [(1, 4), (1, 2), (5, 4), (5, 2)]
    assert len(select_pairs(rewards, 3)) == 9


@pytest.mark.parametrize(("count", "top"), [(6, 0), (6, -1), (6, 4), (7, 4), (1, 1), (0, 1)])
def test_top_must_lie_in_one_to_half_of_the_candidates(count: int, top: int) -> None:
    with pytest.raises(ConfigError, match=f"top must lie in 1 to half of the {count} candidates, got {top}"):
        select_pairs(np.linspace(0, 1, count), top)
    with pytest.raises(ConfigError):
        weigh_groups([np.linspace(0, 1, count)], top)


def test_a_reward_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        select_pairs(np.array([0.1, np.nan, 0.4, 0.2]), 1)


def test_groups_that_are_weighed_each_have_no_weight_among_one_another() -> None:
    groups = random_groups(3, 8)
    for alone, together in zip(weigh_each(groups, 2, mean_spread=None), weigh_groups(groups, 2), strict=True):
        assert alone.inter is alone.total is None
        assert alone.intra.tolist() == together.intra.tolist()
    named = weigh_each(groups, 2, mean_spread=0.2)
    assert [g.total.tolist() for g in named] == [g.total.tolist() for g in weigh_groups(groups, 2, mean_spread=0.2)]


def test_pairs_without_a_gap_are_dropped() -> None:
    assert select_pairs(np.array([0.5, 0.5, 0.5, 0.0]), 2) == [(0, 3), (1, 3)]
    assert select_pairs(np.full(8, 0.5), 4) == []


def test_equal_rewards_keep_the_order_of_the_candidates() -> None:
    assert select_pairs(np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]), 1) == [(0, 5)]


def test_the_weights_are_the_papers_where_no_pair_is_dropped() -> None:
    groups = random_groups(5, 8)
    spreads = [float(np.std(rewards)) for rewards in groups]
    for rewards, weighed in zip(groups, weigh_groups(groups, 3), strict=True):
        gaps = [rewards[w] - rewards[l] for w in np.argsort(-rewards)[:3] for l in np.argsort(rewards)[:3]]  # noqa: E741
        np.testing.assert_allclose(weighed.gap, gaps)
        np.testing.assert_allclose(weighed.intra, np.abs(gaps) + (1 - np.mean(gaps)))
        np.testing.assert_allclose(weighed.inter, weighed.spread + (1 - np.mean(spreads)))
        np.testing.assert_allclose(weighed.total, weighed.intra * weighed.inter)


@given(st.lists(COARSE_GROUP, min_size=2, max_size=6), st.sampled_from([0, 1]))
def test_the_mean_weight_of_all_pairs_is_one_with_unequal_counts_and_dropped_pairs(
    groups: list[np.ndarray], ddof: int
) -> None:
    weighed = weigh_groups(groups, 2, ddof=ddof)
    totals = all_of(weighed)
    assert totals.size == 0 or totals.mean() == pytest.approx(1, abs=1e-12)
    for group in weighed:
        assert len(group.intra) == 0 or group.intra.mean() == pytest.approx(1, abs=1e-12)


def test_groups_count_as_often_as_they_have_pairs() -> None:
    narrow, wide = np.array([0.5, 0.5, 0.5, 0.4]), np.array([1.0, 0.8, 0.2, 0.0])
    weighed = weigh_groups([narrow, wide], 2)
    assert [len(group.gap) for group in weighed] == [2, 4]
    mean_spread = (2 * narrow.std() + 4 * wide.std()) / 6
    assert weighed[0].inter == pytest.approx([narrow.std() + 1 - mean_spread] * 2)
    assert abs(np.mean([narrow.std(), wide.std()]) - mean_spread) > 0.01


def test_a_wider_gap_weighs_more_inside_a_group() -> None:
    (group,) = weigh_groups(random_groups(1, 8), 4)
    order = np.argsort(group.gap)
    assert (np.diff(group.intra[order]) > 0).all()


def test_a_wider_group_weighs_more_among_groups() -> None:
    weighed = sorted(weigh_groups(random_groups(6, 8), 2), key=lambda group: group.spread)
    inter = [float(group.inter[0]) for group in weighed if group.inter is not None]
    assert len(inter) == 6
    assert (np.diff(inter) > 0).all()


def test_order_of_candidates_does_not_matter() -> None:
    groups = random_groups(3, 8, seed=2)
    shuffles = [np.random.default_rng(k).permutation(8) for k in range(3)]
    shuffled = [rewards[order] for rewards, order in zip(groups, shuffles, strict=True)]
    for order, own, other in zip(shuffles, weigh_groups(groups, 3), weigh_groups(shuffled, 3), strict=True):
        np.testing.assert_array_equal(own.winners, order[other.winners])
        np.testing.assert_array_equal(own.losers, order[other.losers])
        np.testing.assert_allclose(own.total, other.total)


def test_order_of_groups_does_not_matter() -> None:
    groups = random_groups(4, 6)
    forward, backward = weigh_groups(groups, 2), weigh_groups(groups[::-1], 2)[::-1]
    for own, other in zip(forward, backward, strict=True):
        np.testing.assert_allclose(own.total, other.total)


def test_one_photo_alone_has_no_weight_among_photos() -> None:
    (group,) = weigh_groups(random_groups(1, 6), 2)
    assert group.inter is None
    assert group.total is None
    assert group.intra.mean() == pytest.approx(1)


def test_one_photo_is_weighed_against_a_given_mean_spread() -> None:
    groups = random_groups(3, 6)
    together = weigh_groups(groups, 2)
    mean_spread = mean_group_spread([g.spread for g in together], [len(g.gap) for g in together])
    for rewards, own in zip(groups, together, strict=True):
        (alone,) = weigh_groups([rewards], 2, mean_spread=mean_spread)
        np.testing.assert_allclose(alone.total, own.total)


def test_the_spread_is_the_populations_unless_asked_otherwise() -> None:
    rewards = random_groups(2, 6)
    assert [g.spread for g in weigh_groups(rewards, 2)] == pytest.approx([r.std() for r in rewards])
    assert [g.spread for g in weigh_groups(rewards, 2, ddof=1)] == pytest.approx([r.std(ddof=1) for r in rewards])


def test_groups_without_any_pair_are_empty_not_an_error() -> None:
    for group in weigh_groups([np.full(4, 0.5), np.full(6, 0.25)], 2):
        assert group.winners.shape == group.losers.shape == group.gap.shape == group.intra.shape == (0,)
        assert group.total is not None
        assert group.total.shape == (0,)
    assert weigh_groups([], 2) == []
