"""Two adapters on the same seeds: rewards over the union of their candidates, changes, curves and intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

from sr_core.rewards.group import GroupReward, Scores, hybrid_reward, score_term
from sr_core.runs import Run

NUM_RESAMPLES = 10_000

RawScores = Mapping[str, Sequence[float]]
"""Raw values by score key, one per candidate."""


class MeanInterval(NamedTuple):
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedChange:
    """One seed drawn by both adapters."""

    index: int
    """Of the candidate in its run."""
    name: str
    """Such as `seed 3`."""
    before: float
    after: float

    @property
    def change(self) -> float:
        """Return what the adapter adds to the reward of this seed."""
        return self.after - self.before


@dataclass(frozen=True, kw_only=True)
class AdapterComparison:
    """What changes from a run's `compare_adapter` to its adapter."""

    before: str
    after: str
    fidelity_weight: float
    seeds: tuple[SeedChange, ...]
    """In the order of the run; seeds that one of the two failed are left out."""
    group: GroupReward
    """The union's reward: its weights, tie band and notices; candidates of `after` first."""
    left_out: Mapping[str, str]
    """Scores that only one of the two has, or that are not finite, with the reason."""
    mean_change: float
    interval: MeanInterval | None
    """Of the mean change over the seeds of this one photo; None for a single seed."""
    before_curves: Mapping[str, Mapping[int, float]]
    after_curves: Mapping[str, Mapping[int, float]]


def union_group(
    ours: RawScores, theirs: RawScores, keys: Sequence[str], *, fidelity_weight: float = 0.5
) -> GroupReward:
    """Return the hybrid reward of two sets of candidates of one photo as one group, ours first.

    `keys` are the scores that make the reward. Each set alone would be stretched to [0, 1] by itself, and a model whose
    candidates are all good would look like one whose candidates are all bad.
    """
    raw = {key: [*ours[key], *theirs[key]] for key in keys}
    return hybrid_reward(raw, {key: score_term(key) for key in keys}, fidelity_weight=fidelity_weight)


def union_rewards(
    ours: RawScores, theirs: RawScores, keys: Sequence[str], *, fidelity_weight: float = 0.5
) -> tuple[Scores, Scores]:
    """Return both sets' rewards, normalised over their union."""
    reward = union_group(ours, theirs, keys, fidelity_weight=fidelity_weight).reward
    count = len(ours[keys[0]])
    return reward[:count], reward[count:]


def expected_best(values: Scores, draws: int) -> float:
    """Return the expected maximum of `draws` of the values, drawn without replacement: exact, by order statistics.

    E max = sum_i v_(i) C(i - 1, m - 1) / C(n, m),   v_(1) <= ... <= v_(n)
    """
    ordered = np.sort(values)
    chances = np.array([comb(i, draws - 1) for i in range(len(values))], dtype=np.float64) / comb(len(values), draws)
    return float(ordered @ chances)


def reward_curves(rewards: Sequence[Scores], counts: Sequence[int]) -> dict[str, dict[int, float]]:
    """Return the best, mean and worst of M candidates, for each M of `counts`, averaged over the photos.

    Source: Best/Mean/Worst@M of DP2O-SR, arXiv 2510.18851; exact over all subsets instead of sampled ones.
    """
    return {
        "best": {m: float(np.mean([expected_best(r, m) for r in rewards])) for m in counts},
        "mean": {m: float(np.mean([r.mean() for r in rewards])) for m in counts},
        "worst": {m: float(np.mean([-expected_best(-r, m) for r in rewards])) for m in counts},
    }


def mean_interval(differences: Scores) -> MeanInterval:
    """Return mean and 95 % bootstrap interval (10,000 resamples, percentile) of at least two paired differences."""
    rng = np.random.default_rng(0)
    found = bootstrap((differences,), np.mean, n_resamples=NUM_RESAMPLES, method="percentile", rng=rng)
    low, high = found.confidence_interval
    return MeanInterval(float(differences.mean()), float(low), float(high))


def compare_adapters(run: Run) -> AdapterComparison | None:
    """Return what a run's adapter changes on its seeds, at the run's fidelity weight.

    None where the run has no adapter to compare with or no seed was scored for both.
    """
    paired = [record for record in run.candidates if record.scores and record.before_scores]
    other = run.values.get("compare_adapter")
    if other is None or not paired:
        return None
    everyone = [scores for record in paired for scores in (record.scores, record.before_scores)]
    named = dict.fromkeys(key for scores in everyone for key in scores)
    keys = [key for key in named if all(key in scores for scores in everyone)]
    if not keys:
        return None
    after = {key: [record.scores[key] for record in paired] for key in keys}
    before = {key: [record.before_scores[key] for record in paired] for key in keys}
    weight = float(run.values["fidelity_weight"])
    group = union_group(after, before, keys, fidelity_weight=weight)
    ours, theirs = np.split(group.reward, 2)
    places = zip(paired, theirs, ours, strict=True)
    seeds = tuple(SeedChange(record.index, record.name, float(b), float(a)) for record, b, a in places)
    changes = ours - theirs
    counts = range(1, len(seeds) + 1)
    unshared = {key: "was not scored for every image of both adapters" for key in named if key not in keys}
    return AdapterComparison(
        before=str(other),
        after=str(run.values["adapter"]),
        fidelity_weight=weight,
        seeds=seeds,
        group=group,
        left_out=unshared | dict(group.left_out),
        mean_change=float(changes.mean()),
        interval=mean_interval(changes) if len(seeds) > 1 else None,
        before_curves=reward_curves([theirs], counts),
        after_curves=reward_curves([ours], counts),
    )
