"""What the reward of a group is made of, and how firmly its order stands when metrics go or count twice.

Candidates are named by their place in the group, metrics by their score key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, prod
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import kendalltau

from sr_core.rewards.group import GroupReward, Scores, ScoreTerm, hybrid_reward, score_term, shared_ranks, tie_band
from sr_core.runs import Run

NUM_RESAMPLES = 1000
EQUAL = 1e-12
"""Rewards no further apart than this differ by rounding alone."""

Outcome = Literal["kept", "tied", "lost"]
"""Whether the best candidate keeps the highest reward, still shares rank 1, or neither."""


@dataclass(frozen=True, kw_only=True)
class RankedGroup:
    """The raw scores of one group and the reward made of them."""

    indices: tuple[int, ...]
    """Index in the run of each candidate."""
    raw: Mapping[str, Scores]
    """The scores that the reward uses."""
    terms: Mapping[str, ScoreTerm]
    fidelity_weight: float | int
    reward: GroupReward

    @classmethod
    def of(
        cls,
        raw: Mapping[str, Scores | Sequence[float]],
        terms: Mapping[str, ScoreTerm],
        *,
        fidelity_weight: float | int = 0.5,
        indices: Sequence[int] | None = None,
    ) -> "RankedGroup":
        """Return the group with its reward; raises as `hybrid_reward` does."""
        reward = hybrid_reward(raw, terms, fidelity_weight=float(fidelity_weight))
        used = {key: np.asarray(raw[key], dtype=np.float64) for key in reward.normalised}
        places = tuple(range(len(reward.reward))) if indices is None else tuple(indices)
        chosen = {key: terms[key] for key in used}
        return cls(indices=places, raw=used, terms=chosen, fidelity_weight=fidelity_weight, reward=reward)

    @property
    def best(self) -> int:
        """Return the candidate with the highest reward, the first of equals."""
        return int(np.argmax(self.reward.reward))


class Drop(NamedTuple):
    """The order without one metric."""

    key: str
    """The metric that is left out; its share goes to the others of its half, or to the other half if it was alone."""
    winner: int
    """The candidate with the highest reward."""
    outcome: Outcome
    """What becomes of the candidate that was best with every metric."""
    rank: int
    """Its rank now."""
    tau: float | None
    """Kendall's tau-b between the rewards with and without the metric; None where one of them is constant."""


@dataclass(frozen=True, kw_only=True)
class RankBootstrap:
    """How often each candidate took each rank when the metrics were resampled."""

    num_resamples: int
    seed: int
    num_distinct: int
    """Different resamplings that exist; the fewer metrics with a weight, the fewer."""
    highest: Scores
    """Share of resamplings in which a candidate has the highest reward; equals divide theirs, so it sums to 1."""
    rank_share: Float[np.ndarray, "m m"]
    """Share of resamplings in which the row's candidate has rank 1, 2, ..., ties sharing a rank."""

    @property
    def mean_rank(self) -> Scores:
        """Return each candidate's mean rank."""
        return self.rank_share @ np.arange(1.0, len(self.highest) + 1)


def ranked_group(run: Run) -> RankedGroup | None:
    """Return the run's scored candidates at its fidelity weight; None where fewer than two are scored.

    Scores that a candidate lacks (it may have joined later) count for nobody, as in the run's own reward.
    """
    weight = float(run.values.get("fidelity_weight", 0.5))
    reward = run.group_reward(weight)
    if reward is None:
        return None
    scored = [record for record in run.candidates if record.scores]
    raw = {key: np.array([record.scores[key] for record in scored], dtype=np.float64) for key in reward.normalised}
    return RankedGroup(
        indices=tuple(record.index for record in scored),
        raw=raw,
        terms={key: score_term(key) for key in raw},
        fidelity_weight=weight,
        reward=reward,
    )


def contributions(reward: GroupReward) -> dict[str, Scores]:
    """Return what each metric adds to each candidate's reward: w_m s_bar_m. They sum to the reward."""
    return {key: reward.weights[key] * values for key, values in reward.normalised.items()}


def rank_correlation(x: Scores, y: Scores) -> float | None:
    """Return Kendall's tau-b; None where one side is constant or there are fewer than two values."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(kendalltau(x, y, variant="b").statistic)


def drop_one(group: RankedGroup) -> tuple[Drop, ...]:
    """Return the order without each metric in turn that has a weight; empty where one makes the whole reward.

    At fidelity weight 0 or 1 a half has none: leaving such a metric out changes nothing, and tells nothing.
    """
    weighted = [key for key in group.raw if group.reward.weights[key] > 0]
    if len(weighted) < 2:
        return ()
    best = group.best
    drops = []
    for key in weighted:
        rest = {other: values for other, values in group.raw.items() if other != key}
        left = hybrid_reward(rest, group.terms, fidelity_weight=float(group.fidelity_weight))
        ranks = left.ranks or (1,) * len(left.reward)
        kept = left.reward[best] >= left.reward.max() - EQUAL
        outcome: Outcome = "kept" if kept else "tied" if ranks[best] == 1 else "lost"
        winner = best if kept else int(np.argmax(left.reward))
        drops.append(Drop(key, winner, outcome, ranks[best], rank_correlation(group.reward.reward, left.reward)))
    return tuple(drops)


def resampled_weights(group: RankedGroup, *, num_resamples: int, seed: int) -> Float[np.ndarray, "r k"]:
    """Return the metrics' shares in the reward when each half draws its metrics anew with replacement.

    A metric that is drawn twice counts twice; both halves keep their share, a half without one has nothing to draw.
    Columns are in the order of `raw`.
    """
    rng = np.random.default_rng(seed)
    keys = list(group.raw)
    weights = np.zeros((num_resamples, len(keys)))
    for members in _halves(group):
        columns = [keys.index(key) for key in members]
        counts = rng.multinomial(len(members), [1 / len(members)] * len(members), size=num_resamples)
        weights[:, columns] = counts * [group.reward.weights[key] for key in members]
    return weights


def bootstrap_ranks(group: RankedGroup, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> RankBootstrap:
    """Rank the group again and again with its metrics resampled inside their halves; seeded, so it can be repeated."""
    keys = list(group.raw)
    weights = resampled_weights(group, num_resamples=num_resamples, seed=seed)
    rewards = weights @ np.stack([group.reward.normalised[key] for key in keys])
    unit_bands = [tie_band({key: group.raw[key]}, {key: 1.0}, {key: group.terms[key].tolerance}) for key in keys]
    bands = weights @ np.array(unit_bands)
    ranks = np.array([shared_ranks(reward, float(band)) for reward, band in zip(rewards, bands, strict=True)])
    top = rewards >= rewards.max(axis=1, keepdims=True) - EQUAL
    places = np.arange(1, rewards.shape[1] + 1)
    return RankBootstrap(
        num_resamples=num_resamples,
        seed=seed,
        num_distinct=prod(comb(2 * len(half) - 1, len(half)) for half in _halves(group)),
        highest=(top / top.sum(axis=1, keepdims=True)).mean(axis=0),
        rank_share=(ranks[:, :, None] == places).mean(axis=0),
    )


def _halves(group: RankedGroup) -> list[list[str]]:
    """Return the keys of each half that has any and a share in the reward."""
    weighted = [key for key in group.raw if group.reward.weights[key] > 0]
    halves = [[key for key in weighted if group.terms[key].half == half] for half in ("reference", "no_reference")]
    return [half for half in halves if half]
