"""Laws of the hybrid reward."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sr_core.errors import InputError
from sr_core.rewards.group import (
    CONSISTENCY_TOLERANCE,
    ScoreTerm,
    half_weights,
    hybrid_reward,
    normalise,
    score_term,
    shared_ranks,
    tie_band,
)

FR = ScoreTerm(half="reference", lower_is_better=True, tolerance=0.01)
NR = ScoreTerm(half="no_reference", lower_is_better=False, tolerance=0.01)
groups = st.integers(2, 16).flatmap(lambda m: arrays(np.float64, m, elements=st.floats(-100, 100, width=32)))


def paper_reward(fr: list[np.ndarray], nr: list[np.ndarray]) -> np.ndarray:
    """DP2O-SR's formula written out; FR lower is better, NR higher."""

    def scaled(s: np.ndarray) -> np.ndarray:
        return (s - s.min()) / (s.max() - s.min())

    fr_half = np.mean([1 - scaled(s) for s in fr], axis=0)
    return 0.5 * fr_half + 0.5 * np.mean([scaled(s) for s in nr], axis=0)


def random_group(seed: int = 0, m: int = 8) -> tuple[dict[str, np.ndarray], dict[str, ScoreTerm]]:
    rng = np.random.default_rng(seed)
    raw = {name: rng.normal(size=m) for name in ("f1", "f2", "f3", "n1")}
    return raw, {name: FR if name.startswith("f") else NR for name in raw}


def test_the_reward_is_the_papers_formula_where_nothing_ties() -> None:
    raw, terms = random_group()
    expected = paper_reward([raw["f1"], raw["f2"], raw["f3"]], [raw["n1"]])
    np.testing.assert_allclose(hybrid_reward(raw, terms).reward, expected, rtol=1e-12)


def test_both_halves_weigh_half_whatever_their_size() -> None:
    raw, terms = random_group()
    weights = hybrid_reward(raw, terms).weights
    assert weights["n1"] == 0.5
    assert weights["f1"] == weights["f2"] == weights["f3"] == pytest.approx(0.5 / 3)


@given(groups)
def test_normalised_values_span_zero_to_one_or_are_all_a_half(raw: np.ndarray) -> None:
    out = normalise(raw, lower_is_better=False, tolerance=0.5)
    if np.ptp(raw) > 0.5:
        assert (out.min(), out.max()) == (0, 1)
        assert out[raw.argmax()] == 1
    else:
        assert (out == 0.5).all()


@given(groups, st.floats(0.1, 50), st.floats(-50, 50))
def test_an_affine_change_of_unit_leaves_the_normalised_values(raw: np.ndarray, a: float, b: float) -> None:
    # Away from the threshold itself, where rounding could fall on either side.
    if abs(np.ptp(raw) - 0.5) < 1e-3:
        return
    before = normalise(raw, lower_is_better=True, tolerance=0.5)
    after = normalise(a * raw + b, lower_is_better=True, tolerance=0.5 * a)
    np.testing.assert_allclose(after, before, atol=1e-9)


@given(groups)
def test_turning_the_direction_round_mirrors_the_values(raw: np.ndarray) -> None:
    up = normalise(raw, lower_is_better=False, tolerance=0.5)
    down = normalise(raw, lower_is_better=True, tolerance=0.5)
    np.testing.assert_allclose(up + down, 1)
    np.testing.assert_allclose(normalise(-raw, lower_is_better=True, tolerance=0.5), up, atol=1e-12)


def test_permuting_the_candidates_permutes_the_result() -> None:
    raw, terms = random_group()
    order = np.random.default_rng(1).permutation(8)
    before = hybrid_reward(raw, terms)
    after = hybrid_reward({k: v[order] for k, v in raw.items()}, terms)
    np.testing.assert_allclose(after.reward, before.reward[order])
    assert before.ranks is not None
    assert after.ranks == tuple(before.ranks[m] for m in order)


def test_equal_values_give_one_half_and_one_shared_rank() -> None:
    result = hybrid_reward({"f": [3.0, 3.0, 3.0], "n": [1.0, 1.0, 1.0]}, {"f": FR, "n": NR})
    np.testing.assert_array_equal(result.reward, 0.5)
    assert result.ranks == (1, 1, 1)
    assert result.tie_band == 0


def test_a_spread_within_the_tolerance_counts_as_equal() -> None:
    result = hybrid_reward({"f": [0.0, 1.0, 0.5], "n": [0.5, 0.509, 0.5]}, {"f": FR, "n": NR})
    np.testing.assert_array_equal(result.normalised["n"], 0.5)
    np.testing.assert_allclose(result.reward, [0.75, 0.25, 0.5])


def test_one_candidate_gets_no_rank() -> None:
    result = hybrid_reward({"f": [0.2], "n": [40.0]}, {"f": FR, "n": NR})
    assert result.ranks is None
    np.testing.assert_array_equal(result.reward, [0.5])


@pytest.mark.parametrize(("weight", "name"), [(1.0, "f"), (0.0, "n")])
def test_at_either_end_of_the_slider_one_half_is_the_reward(weight: float, name: str) -> None:
    raw = {"f": [0.0, 1.0, 0.3], "n": [0.2, 0.1, 0.9]}
    result = hybrid_reward(raw, {"f": FR, "n": NR}, fidelity_weight=weight)
    np.testing.assert_array_equal(result.reward, result.normalised[name])


@given(st.floats(0, 1))
def test_the_reward_moves_linearly_with_the_slider(weight: float) -> None:
    raw, terms = random_group()
    ends = [hybrid_reward(raw, terms, fidelity_weight=w).reward for w in (0.0, 1.0)]
    mixed = hybrid_reward(raw, terms, fidelity_weight=weight).reward
    np.testing.assert_allclose(mixed, (1 - weight) * ends[0] + weight * ends[1], atol=1e-12)


@pytest.mark.parametrize(("halves", "said"), [({"f": FR}, "reference"), ({"n": NR}, "no-reference")])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_an_empty_half_gives_its_share_away_and_it_is_said(
    halves: dict[str, ScoreTerm], said: str, weight: float
) -> None:
    result = hybrid_reward({k: [0.1, 0.9] for k in halves}, halves, fidelity_weight=weight)
    assert sum(result.weights.values()) == 1
    assert any(f"only the {said} half" in notice for notice in result.notices)


@given(st.integers(1, 5), st.integers(1, 5), st.floats(0, 1))
def test_weights_sum_to_one(num_fr: int, num_nr: int, fidelity_weight: float) -> None:
    halves = {f"f{i}": FR.half for i in range(num_fr)} | {f"n{i}": NR.half for i in range(num_nr)}
    assert sum(half_weights(halves, fidelity_weight).values()) == pytest.approx(1)


def test_the_tie_band_adds_each_metrics_tolerance_in_reward_units() -> None:
    raw = {"f": np.array([0.0, 2.0]), "n": np.array([0.0, 0.5]), "flat": np.array([1.0, 1.001])}
    weights = {"f": 0.5, "n": 0.25, "flat": 0.25}
    band = tie_band(raw, weights, {"f": 0.1, "n": 0.05, "flat": 0.01})
    assert band == pytest.approx(0.5 * 0.1 / 2.0 + 0.25 * 0.05 / 0.5)


def test_changing_one_score_by_its_tolerance_moves_the_reward_by_no_more_than_the_band() -> None:
    raw, terms = random_group()
    result = hybrid_reward(raw, terms)
    # The middle candidate of each metric, so that neither end of the range moves.
    for name, values in raw.items():
        m = int(np.argsort(values)[len(values) // 2])
        moved = {**raw, name: values + 0.01 * (np.arange(len(values)) == m)}
        change = np.abs(hybrid_reward(moved, terms).reward - result.reward)
        assert 0 < change.max() <= result.tie_band


def test_ties_share_a_rank_and_the_next_rank_is_skipped() -> None:
    assert shared_ranks(np.array([0.9, 0.1, 0.88, 0.5]), 0.05) == (1, 4, 1, 3)


def test_ties_chain_so_that_no_two_within_the_band_are_told_apart() -> None:
    assert shared_ranks(np.array([0.50, 0.54, 0.58, 0.70]), 0.05) == (2, 2, 2, 1)


def test_without_a_band_only_equal_rewards_tie() -> None:
    assert shared_ranks(np.array([0.3, 0.3, 0.4, 0.2]), 0.0) == (2, 2, 1, 4)


@given(groups, st.floats(0, 5))
def test_a_better_reward_never_ranks_behind_a_worse_one(reward: np.ndarray, band: float) -> None:
    ranks = np.array(shared_ranks(reward, band))
    order = np.argsort(-reward)
    assert (np.diff(ranks[order]) >= 0).all()
    assert ranks.min() == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_takes_its_metric_out_for_the_whole_group(bad: float) -> None:
    clean = {"f": [0.0, 1.0, 0.5], "n1": [3.0, 1.0, 2.0]}
    terms = {"f": FR, "n1": NR, "n2": NR}
    result = hybrid_reward({**clean, "n2": [1.0, bad, 2.0]}, terms)
    np.testing.assert_array_equal(result.reward, hybrid_reward(clean, terms).reward)
    assert "n2" not in result.weights
    assert "not finite" in result.left_out["n2"]
    assert any("n2" in notice for notice in result.notices)


def test_a_group_without_any_finite_score_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        hybrid_reward({"f": [float("nan"), 1.0]}, {"f": FR})


def test_scores_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="one number per candidate"):
        hybrid_reward({"f": [1.0, 2.0], "n": [1.0, 2.0, 3.0]}, {"f": FR, "n": NR})


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_slider_outside_zero_to_one_is_refused(weight: float) -> None:
    with pytest.raises(InputError, match="fidelity_weight"):
        hybrid_reward({"f": [1.0, 2.0]}, {"f": FR}, fidelity_weight=weight)


def test_a_consistency_score_takes_the_reference_half_with_its_metrics_direction() -> None:
    consistency, full = score_term("consistency_lpips"), score_term("lpips")
    assert consistency[:2] == full[:2] == ("reference", True)
    assert consistency.tolerance == CONSISTENCY_TOLERANCE * full.tolerance
    assert score_term("niqe").half == "no_reference"
