"""Where metrics contradict each other: rank correlations, contested candidates and pairs, outliers in spectrum.

Metrics are compared on their normalised values: higher is better for all, and a metric whose spread in a group is
within its tolerance is constant there, so that it has no order to agree with. Ranks of one group are never mixed with
another's: a correlation over several groups is the mean of the groups' own, each weighted by its number of candidate
pairs, groups where it is undefined left out. Groups of one photo, restored more than once, speak for one photo.
"""

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import DegenerateDataWarning, bootstrap, kendalltau, median_abs_deviation, rankdata, spearmanr

from sr_core.errors import InputError
from sr_core.explanation import RankedGroup
from sr_core.rewards.group import Scores

FEWEST_CANDIDATES = 3
"""Below it a rank correlation says nothing."""
FEWEST_PHOTOS = 8
"""Whole photos are resampled where so many have both metrics; fewer say too little about other photos."""
NUM_RESAMPLES = 1000
BATCH = 250
"""Resamplings that are held in memory at once."""
CONFIDENCE = 0.95
LEAST_DEFINED = 0.5
"""Share of resamplings that must have a correlation for its interval to be given."""
OUTLIER_Z = 3.5
"""Robust z above which a spectrum is called an outlier; Iglewicz and Hoaglin, 1993, How to Detect Outliers."""

Statistic = Literal["kendall", "spearman"]
Resampled = Literal["photos", "candidates"]
Aligned = Mapping[str, Float[np.ndarray, " _"]]
"""One group: normalised values by score key."""
Stack = Float[np.ndarray, "k m"]
Draws = Int[np.ndarray, "r m"]
"""Candidates of each resampling."""


class Correlation(NamedTuple):
    """The rank correlation of two metrics with its bootstrap interval."""

    value: float | None
    """In [-1, 1]; None where it is undefined in every group."""
    low: float | None
    high: float | None
    num_candidates: int
    """Of the groups in which it is defined, together."""
    num_groups: int
    resampled: Resampled | None
    """What its interval resamples: whole photos, or the candidates inside each group; None where it has none."""
    num_photos: int
    """Of the groups in which it is defined."""


@dataclass(frozen=True, kw_only=True)
class CorrelationTable:
    """The correlations of all metrics with one another."""

    statistic: Statistic
    keys: tuple[str, ...]
    pairs: Mapping[tuple[str, str], Correlation]
    """By (earlier key, later key), a key with itself included."""
    num_resamples: int

    def between(self, a: str, b: str) -> Correlation:
        """Return the correlation of two metrics in either order."""
        return self.pairs[(a, b) if (a, b) in self.pairs else (b, a)]

    @property
    def lowest(self) -> tuple[str, str] | None:
        """Return the two metrics that contradict each other most; None where nothing is defined."""
        defined = [pair for pair, c in self.pairs.items() if pair[0] != pair[1] and c.value is not None]
        return min(defined, key=lambda pair: self.pairs[pair].value or 0.0, default=None)


class Contested(NamedTuple):
    """A pair of candidates about which metrics disagree."""

    group: int
    """Place of its group among those given."""
    left: int
    """Of the two the one that the reward prefers, as place in the group."""
    right: int
    conflict: float
    """In [0, 1], see `conflicts`."""
    prefer_left: Mapping[str, float]
    """Weighted gap beyond tolerance of each metric on this side, largest first."""
    prefer_right: Mapping[str, float]


class Quarrelled(NamedTuple):
    """A candidate about which metrics disagree."""

    group: int
    place: int
    conflict: float
    """Mean over its pairs with the others of its group."""
    praised_by: str
    """The metric that places it highest, of those with a weight."""
    blamed_by: str
    """The metric that places it lowest, of those with a weight."""


class SpectrumOutliers(NamedTuple):
    """How far each candidate's radial spectrum lies from the group's."""

    distance: Scores
    """RMS over radial bins of the difference to the group's median spectrum, in dB."""
    z: Scores | None
    """Robust z of the distance; None where most distances are equal."""


def kendall(x: Scores, y: Scores) -> float:
    """Return Kendall's tau-b; NaN where a side is constant."""
    return float(kendalltau(x, y, variant="b").statistic) if _varies(x, y) else float("nan")


def spearman(x: Scores, y: Scores) -> float:
    """Return Spearman's rho; NaN where a side is constant."""
    return float(spearmanr(x, y).statistic) if _varies(x, y) else float("nan")


def _varies(x: Scores, y: Scores) -> bool:
    return bool(np.ptp(x) > 0 and np.ptp(y) > 0)


def resampled_kendall(values: Stack, draws: Draws) -> Float[np.ndarray, "k k r"]:
    """Return tau-b between all rows of `values` for each draw of candidates; NaN where undefined.

    With c the number of times that each candidate is drawn and S_a(i, j) = sign(a_i - a_j):

        tau_b = c' (S_a * S_b) c / sqrt(c' S_a^2 c  c' S_b^2 c)
    """
    num_keys, size = values.shape
    counts = np.stack([np.bincount(draw, minlength=size) for draw in draws]).astype(np.float64)
    signs = np.sign(values[:, :, None] - values[:, None, :])
    products = (signs[:, None] * signs[None]).reshape(num_keys, num_keys, -1)
    agreement = products @ (counts[:, :, None] * counts[:, None, :]).reshape(len(draws), -1).T
    return _divided(agreement)


def resampled_spearman(values: Stack, draws: Draws) -> Float[np.ndarray, "k k r"]:
    """Return Spearman's rho between all rows of `values` for each draw of candidates; NaN where undefined."""
    ranks = rankdata(values[:, draws], axis=-1)
    centred = ranks - ranks.mean(axis=-1, keepdims=True)
    return _divided(np.einsum("arm,brm->abr", centred, centred))


def _divided(products: Float[np.ndarray, "k k r"]) -> Float[np.ndarray, "k k r"]:
    """Return a_b / sqrt(a_a b_b)."""
    own = np.einsum("aar->ar", products)
    scale = np.sqrt(own[:, None] * own[None])
    return np.divide(products, scale, out=np.full(products.shape, np.nan), where=scale > 0)


STATISTICS: dict[Statistic, Callable[[Scores, Scores], float]] = {"kendall": kendall, "spearman": spearman}
RESAMPLED: dict[Statistic, Callable[[Stack, Draws], Float[np.ndarray, "k k r"]]] = {
    "kendall": resampled_kendall,
    "spearman": resampled_spearman,
}


def correlate(
    groups: Sequence[Aligned], statistic: Statistic, *, photos: Sequence[str] | None = None,
    num_resamples: int = NUM_RESAMPLES, seed: int = 0,
) -> CorrelationTable:  # fmt: skip
    """Return all metrics' correlations within groups, with 95 % percentile intervals of a seeded bootstrap.

    `photos` names the photo of each group; without it each has its own. Groups may have different metrics; those with
    fewer than three candidates are left out. For two metrics that groups of at least eight photos can compare, the
    bootstrap draws whole photos with replacement, each with all its groups, else candidates inside each group: then the
    interval tells how other candidates of the same photos would do, not other photos. Resamplings without a correlation
    are left out.
    """
    kept = [n for n, group in enumerate(groups) if len(next(iter(group.values()), ())) >= FEWEST_CANDIDATES]
    large = [groups[n] for n in kept]
    members = _members(kept if photos is None else [photos[n] for n in kept])
    keys = tuple(dict.fromkeys(key for group in large for key in group))
    by_group = np.array([_matrix(group, keys, statistic) for group in large]).reshape(len(large), len(keys), len(keys))
    sizes = np.array([len(next(iter(group.values()))) for group in large])
    pairs_of = sizes * (sizes - 1) / 2
    defined = np.isfinite(by_group)
    num_groups = defined.sum(axis=0)
    num_photos = (np.tensordot(members, defined, axes=1) > 0).sum(axis=0)
    few = (num_photos > 0) & (num_photos < FEWEST_PHOTOS)
    draws: dict[Resampled, Float[np.ndarray, "k k r"]] = {}
    if (num_photos >= FEWEST_PHOTOS).any():
        draws["photos"] = _draw_photos(by_group, pairs_of, members, num_resamples, seed)
    if few.any():
        places = np.flatnonzero((defined & few).any(axis=(1, 2)))
        chosen = [large[n] for n in places]
        draws["candidates"] = _draw_candidates(chosen, keys, pairs_of[places], statistic, num_resamples, seed)
    point = _pooled(by_group, pairs_of[:, None, None])
    pairs = {}
    for a, b in combinations_with_replacement(range(len(keys)), 2):
        count = int(num_groups[a, b])
        value, low, high = None, None, None
        resampled: Resampled = "candidates" if few[a, b] else "photos"
        if count > 0:
            value = float(point[a, b])
            low, high = _interval(draws[resampled][a, b])
        num_candidates = int(sizes[defined[:, a, b]].sum())
        pairs[keys[a], keys[b]] = Correlation(
            value, low, high, num_candidates, count, None if low is None else resampled, int(num_photos[a, b])
        )
    return CorrelationTable(statistic=statistic, keys=keys, pairs=pairs, num_resamples=num_resamples)


def _members(photos: Sequence[Hashable]) -> Float[np.ndarray, "p g"]:
    """Return 1 where the column's group is of the row's photo, else 0; photos in the order of their first group."""
    distinct = list(dict.fromkeys(photos))
    return np.array([[float(photo == other) for other in photos] for photo in distinct]).reshape(
        len(distinct), len(photos)
    )


def _matrix(group: Aligned, keys: Sequence[str], statistic: Statistic) -> Float[np.ndarray, "k k"]:
    """Return the correlations inside one group; NaN where undefined or a metric is missing."""
    out = np.full((len(keys), len(keys)), np.nan)
    measure = STATISTICS[statistic]
    for a, b in combinations_with_replacement(range(len(keys)), 2):
        if keys[a] in group and keys[b] in group:
            out[a, b] = out[b, a] = measure(group[keys[a]], group[keys[b]])
    return out


def _pooled(by_group: Float[np.ndarray, "g ..."], weights: Float[np.ndarray, "g ..."]) -> Float[np.ndarray, "..."]:
    """Return the weighted mean over groups where they are defined; NaN where none is."""
    summed, total = _weighted(by_group, weights)
    return _mean_of(summed.sum(axis=0), total.sum(axis=0))


def _weighted(
    by_group: Float[np.ndarray, "g ..."], weights: Float[np.ndarray, "g ..."]
) -> tuple[Float[np.ndarray, "g ..."], Float[np.ndarray, "g ..."]]:
    """Return each group's correlation times its weight, and its weight; both are 0 where it is undefined."""
    here = np.isfinite(by_group)
    return np.where(here, by_group, 0.0) * weights, here * weights


def _mean_of(summed: Float[np.ndarray, "..."], total: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)


def _draw_photos(
    by_group: Float[np.ndarray, "g k k"], weights: Float[np.ndarray, " g"], members: Float[np.ndarray, "p g"],
    num_resamples: int, seed: int,
) -> Float[np.ndarray, "k k r"]:  # fmt: skip
    """Return the pooled correlations of resampled photos, each with all its groups; what happens inside them stays."""
    summed, total = (np.tensordot(members, part, axes=1) for part in _weighted(by_group, weights[:, None, None]))

    def pooled(drawn: Int[np.ndarray, "r p"], axis: int) -> Float[np.ndarray, "k k r"]:
        assert axis == -1
        return np.moveaxis(_mean_of(summed[drawn].sum(axis=1), total[drawn].sum(axis=1)), 0, -1)

    return _bootstrapped((np.arange(len(members)),), pooled, num_resamples, seed)


def _draw_candidates(
    groups: Sequence[Aligned], keys: Sequence[str], weights: Float[np.ndarray, " g"], statistic: Statistic,
    num_resamples: int, seed: int,
) -> Float[np.ndarray, "k k r"]:  # fmt: skip
    """Return the pooled correlations when each group's candidates are resampled on their own."""
    sizes = [len(next(iter(group.values()))) for group in groups]
    # A metric that a group lacks is constant in it: undefined, as it should be.
    stacks = [
        np.stack([np.asarray(group.get(key, np.zeros(size)), dtype=np.float64) for key in keys])
        for group, size in zip(groups, sizes, strict=True)
    ]

    def pooled(*drawn: Int[np.ndarray, "r _"], axis: int) -> Float[np.ndarray, "k k r"]:
        assert axis == -1
        matrices = [RESAMPLED[statistic](stack, draws) for stack, draws in zip(stacks, drawn, strict=True)]
        return _pooled(np.stack(matrices), weights[:, None, None, None])

    return _bootstrapped(tuple(np.arange(size) for size in sizes), pooled, num_resamples, seed)


def _bootstrapped(
    samples: tuple[Int[np.ndarray, " _"], ...], pooled: Callable[..., Float[np.ndarray, "k k r"]],
    num_resamples: int, seed: int,
) -> Float[np.ndarray, "k k r"]:  # fmt: skip
    """Return scipy's bootstrap distribution of a statistic of drawn places."""
    with warnings.catch_warnings():
        # Undefined resamplings are left out below; scipy's own interval would be undefined with them.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            samples, pooled, vectorized=True, paired=False, method="percentile", n_resamples=num_resamples,
            batch=BATCH, rng=np.random.default_rng(seed),
        )  # fmt: skip
    return np.asarray(result.bootstrap_distribution)


def _interval(draws: Float[np.ndarray, " r"]) -> tuple[float | None, float | None]:
    """Return the percentile interval of the draws that are defined; nothing where too few are."""
    defined = draws[np.isfinite(draws)]
    if len(defined) < LEAST_DEFINED * len(draws):
        return None, None
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def preferences(group: RankedGroup) -> dict[str, Float[np.ndarray, "m m"]]:
    """Return how much each metric prefers the row's candidate to the column's, beyond its tolerance, weighted.

        e_m(i, j) = w_m sign(g) max(0, |g| - tol_m / spread_m),   g = s_bar_m(i) - s_bar_m(j)

    Positive values prefer i. It is 0 where the raw scores differ by no more than the tolerance.
    """
    out = {}
    for key, values in group.reward.normalised.items():
        spread = float(np.ptp(group.raw[key]))
        slack = group.terms[key].tolerance / spread if spread > 0 else 1.0
        gap = values[:, None] - values[None, :]
        out[key] = group.reward.weights[key] * np.sign(gap) * np.maximum(np.abs(gap) - slack, 0.0)
    return out


def conflicts(group: RankedGroup) -> Float[np.ndarray, "m m"]:
    """Return for each pair of candidates how much metrics contradict each other, in [0, 1].

        conflict(i, j) = 2 min(sum_m max(0, e_m(i, j)), sum_m max(0, e_m(j, i)))

    with e of `preferences`: twice the weaker side's evidence. 0 where no metric contradicts the others; 1 where half of
    the weight calls i the group's best and j its worst and the other half says the opposite.
    """
    size = len(group.reward.reward)
    evidence = sum((np.maximum(e, 0.0) for e in preferences(group).values()), start=np.zeros((size, size)))
    return 2 * np.minimum(evidence, evidence.T)


def contested_pairs(groups: Sequence[RankedGroup], limit: int) -> list[Contested]:
    """Return the pairs with the most conflict over all groups, strongest first; pairs without any are left out."""
    found = []
    for place, group in enumerate(groups):
        conflict, sides = conflicts(group), preferences(group)
        for i, j in zip(*np.triu_indices(len(conflict), 1), strict=True):
            if conflict[i, j] > 0:
                left, right = (i, j) if group.reward.reward[i] >= group.reward.reward[j] else (j, i)
                found.append((float(conflict[i, j]), place, int(left), int(right), sides))
    found.sort(key=lambda entry: (-entry[0], entry[1:4]))
    return [
        Contested(place, left, right, value, _side(sides, left, right), _side(sides, right, left))
        for value, place, left, right, sides in found[:limit]
    ]


def _side(sides: Mapping[str, Float[np.ndarray, "m m"]], i: int, j: int) -> dict[str, float]:
    """Return the metrics that prefer i to j with their evidence, largest first."""
    own = {key: float(e[i, j]) for key, e in sides.items() if e[i, j] > 0}
    return dict(sorted(own.items(), key=lambda item: -item[1]))


def contested_candidates(groups: Sequence[RankedGroup], limit: int) -> list[Quarrelled]:
    """Return the candidates with the most conflict over all groups, strongest first; those without any are left out."""
    found = []
    for number, group in enumerate(groups):
        conflict = conflicts(group)
        mean = conflict.sum(axis=1) / max(1, len(conflict) - 1)
        varying = {key: values for key, values in group.reward.normalised.items() if np.ptp(values) > 0}
        used = {key: values for key, values in varying.items() if group.reward.weights[key] > 0}
        for place in np.flatnonzero(mean > 0).tolist():
            praised = max(used, key=lambda key: used[key][place])
            blamed = min(used, key=lambda key: used[key][place])
            found.append(Quarrelled(number, place, float(mean[place]), praised, blamed))
    return sorted(found, key=lambda entry: (-entry.conflict, entry.group, entry.place))[:limit]


def spectrum_outliers(decibels: Float[np.ndarray, "m k"]) -> SpectrumOutliers:
    """Return how far each candidate's radial spectrum, in dB per bin, lies from the group's median spectrum.

        d_m = RMS_k(P_m,k - median_j P_j,k),   z_m = (d_m - median d) / (1.4826 MAD(d))

    Raises InputError with fewer than three candidates.
    """
    if len(decibels) < FEWEST_CANDIDATES:
        raise InputError(f"an outlier needs at least {FEWEST_CANDIDATES} candidates to stand out from")
    distance = np.sqrt(np.square(decibels - np.median(decibels, axis=0)).mean(axis=1))
    scale = float(median_abs_deviation(distance, scale="normal"))
    return SpectrumOutliers(distance, (distance - np.median(distance)) / scale if scale > 0 else None)
