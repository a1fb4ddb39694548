"""Preference pairs of scored candidates and their hierarchical weights, shared by the page and training.

A group is all candidates of one photo, M rewards in [0, 1], higher is better. Its N best are paired with its N worst:

    intra = (R_w - R_l) + (1 - mu_gap),    mu_gap   = mean gap of the group's pairs
    inter = sigma       + (1 - mu_sigma),  mu_sigma = mean standard deviation of groups, each as often as it has pairs
    total = intra * inter

Pairs without a gap say nothing and are dropped; where none is, mu_sigma is the paper's plain mean over groups. So the
mean of `intra` over a group's pairs, and of `total` over all pairs, is 1.

Source: DP2O-SR, arXiv 2510.18851, section 4.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sr_core.errors import ConfigError, InputError

Rewards = Float[np.ndarray, " m"]
"""One reward per candidate of a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPairs:
    """The pairs of one group, best winner and worst loser first, with their weights."""

    winners: Int[np.ndarray, " p"]
    """Index of the preferred candidate."""
    losers: Int[np.ndarray, " p"]
    """Index of the dispreferred candidate."""
    gap: Float[np.ndarray, " p"]
    """Reward of the winner minus the loser's, above 0."""
    intra: Float[np.ndarray, " p"]
    """Weight inside the group; its mean is 1."""
    inter: Float[np.ndarray, " p"] | None
    """Weight of the group among the others, the same for all its pairs; undefined for one photo alone."""
    total: Float[np.ndarray, " p"] | None
    """Product of both; undefined for one photo alone."""
    spread: float
    """Standard deviation of all rewards of the group."""


def select_pairs(rewards: Rewards, top: int) -> list[tuple[int, int]]:
    """Return (winner, loser) indices of the `top` best against the `top` worst, pairs of equal reward left out.

    The order is winners from the best, for each one losers from the worst; equal rewards keep the candidates' order.
    Raises ConfigError unless 1 <= top <= m / 2, and InputError if a reward is not finite.
    """
    if not 1 <= top <= len(rewards) / 2:
        raise ConfigError(f"top must lie in 1 to half of the {len(rewards)} candidates, got {top}")
    if not np.isfinite(rewards).all():
        raise InputError(f"rewards must be finite, got {rewards.tolist()}; leave such candidates out")
    order = np.argsort(-rewards, kind="stable").tolist()
    pairs = [(winner, loser) for winner in order[:top] for loser in order[: -top - 1 : -1]]
    return [(winner, loser) for winner, loser in pairs if rewards[winner] > rewards[loser]]


def mean_group_spread(spreads: Sequence[float], num_pairs: Sequence[int]) -> float:
    """Return mu_sigma: the mean spread over groups, each as often as it has pairs; 0 where no group has any."""
    return float(np.average(spreads, weights=num_pairs)) if sum(num_pairs) else 0.0


def _weighed(rewards: Rewards, pairs: list[tuple[int, int]], spread: float, mean_spread: float | None) -> GroupPairs:
    """Return the pairs of one group with their weights."""
    winners, losers = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    gap = rewards[winners] - rewards[losers]
    intra = gap + (1 - gap.mean()) if len(gap) else gap
    inter = None if mean_spread is None else np.full(len(gap), spread + (1 - mean_spread))
    total = None if inter is None else intra * inter
    return GroupPairs(winners=winners, losers=losers, gap=gap, intra=intra, inter=inter, total=total, spread=spread)


def weigh_groups(
    groups: Sequence[Float[np.ndarray, " _"]], top: int, *, ddof: int = 0, mean_spread: float | None = None
) -> list[GroupPairs]:
    """Return the pairs of every group with their hierarchical weights.

    `ddof` 0 takes the population's standard deviation, 1 the sample's; the paper does not say which. `mean_spread` is
    mu_sigma of other groups to compare with; without it mu_sigma comes from `groups`, and for one group alone `inter`
    and `total` are None. Raises as `select_pairs` does.
    """
    rewards = [np.asarray(group, dtype=np.float64) for group in groups]
    pairs = [select_pairs(group, top) for group in rewards]
    spreads = [float(group.std(ddof=ddof)) for group in rewards]
    if mean_spread is None and len(groups) > 1:
        mean_spread = mean_group_spread(spreads, [len(p) for p in pairs])
    return [_weighed(*group, mean_spread) for group in zip(rewards, pairs, spreads, strict=True)]


def weigh_each(groups: Sequence[Float[np.ndarray, " _"]], top: int, *, mean_spread: float | None) -> list[GroupPairs]:
    """Return the pairs of every group as if it were alone: `inter` and `total` are None without `mean_spread`.

    So are several groups of one photo weighed. Raises as `select_pairs` does.
    """
    return [pairs for group in groups for pairs in weigh_groups([group], top, mean_spread=mean_spread)]
