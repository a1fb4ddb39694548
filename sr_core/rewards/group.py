"""The hybrid reward of one group of candidates, its tie band and its ranks, as pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sr_core.errors import InputError
from sr_core.rewards.registry import Half, metric_spec

Scores = Float[np.ndarray, " m"]
"""One number per candidate of the group."""

CONSISTENCY = "consistency_"
"""Prefix of a score taken between the candidate reduced to LQ size and the LQ."""

CONSISTENCY_TOLERANCE = 0.2
"""Share of a metric's tolerance that holds after the reduction, which averages rounding noise away."""


class ScoreTerm(NamedTuple):
    """How one raw score enters the reward."""

    half: Half
    lower_is_better: bool
    tolerance: float
    """Raw units; differences within it mean nothing."""


@dataclass(frozen=True, kw_only=True)
class GroupReward:
    """The reward of every candidate of one group, and what it was made of."""

    reward: Scores
    """In [0, 1], higher is better; comparable inside this group only."""
    normalised: Mapping[str, Scores]
    """Per score, in [0, 1], higher is better."""
    weights: Mapping[str, float]
    """Share of each score in the reward; they sum to 1."""
    tie_band: float
    """Rewards no further apart than this share a rank."""
    ranks: tuple[int, ...] | None
    """1 is best; ties share a rank (1, 1, 3); None for a group of one."""
    left_out: Mapping[str, str]
    """Scores that could not be used, with the reason."""
    notices: tuple[str, ...]
    """What a reader of the reward must be told."""


def score_term(key: str) -> ScoreTerm:
    """Look up how a score key such as `niqe` or `consistency_lpips` enters the reward.

    Raises ConfigError if the metric is not known.
    """
    spec = metric_spec(key.removeprefix(CONSISTENCY))
    half: Half = "reference" if spec.full_reference else "no_reference"
    share = CONSISTENCY_TOLERANCE if key.startswith(CONSISTENCY) else 1.0
    return ScoreTerm(half=half, lower_is_better=spec.lower_is_better, tolerance=share * spec.tolerance)


def normalise(raw: Scores, *, lower_is_better: bool, tolerance: float) -> Scores:
    """Return each score's place between the group's worst (0) and best (1).

        s_bar_m = (s_m - min_j s_j) / (max_j s_j - min_j s_j),   1 - s_bar_m where lower is better

    A spread of at most `tolerance` says nothing: then every value is 0.5.

    Source: DP2O-SR, arXiv 2510.18851, section 4.1; the equal case is ours.
    """
    spread = raw.max() - raw.min()
    if spread <= tolerance:
        return np.full(raw.shape, 0.5)
    scaled = (raw - raw.min()) / spread
    return 1 - scaled if lower_is_better else scaled


def half_weights(halves: Mapping[str, Half], fidelity_weight: float) -> dict[str, float]:
    """Share `fidelity_weight` among the reference half, the rest among the other; an empty one yields all."""
    count = {half: sum(h == half for h in halves.values()) for half in ("reference", "no_reference")}
    share = {"reference": fidelity_weight, "no_reference": 1 - fidelity_weight}
    if not (count["reference"] and count["no_reference"]):
        share = {"reference": 1.0, "no_reference": 1.0}
    return {key: share[half] / count[half] for key, half in halves.items()}


def tie_band(raw: Mapping[str, Scores], weights: Mapping[str, float], tolerances: Mapping[str, float]) -> float:
    """Return the reward difference that the metrics' tolerances add up to.

        band = sum_m w_m tol_m / (max_m - min_m)

    Metrics whose spread is within their tolerance are the same for all and add nothing.
    """
    spreads = {key: float(np.ptp(values)) for key, values in raw.items()}
    return sum((weights[k] * tolerances[k] / spreads[k] for k in raw if spreads[k] > tolerances[k]), start=0.0)


def shared_ranks(reward: Scores, band: float) -> tuple[int, ...]:
    """Rank rewards, 1 is best; neighbours in the sorted order within `band` share a rank (1, 1, 3).

    Sharing chains: if a is within the band of b and b of c, all three share one rank, so that
    no two rewards within the band are ever told apart.
    """
    order = np.argsort(-reward, kind="stable")
    ranks = [0] * len(reward)
    # Rounding in the sums must not break a tie that the formula declares.
    slack = 1e-12
    for place, m in enumerate(order):
        tied = place > 0 and reward[order[place - 1]] - reward[m] <= band + slack
        ranks[m] = ranks[order[place - 1]] if tied else place + 1
    return tuple(ranks)


def hybrid_reward(
    raw: Mapping[str, Scores | Sequence[float]],
    terms: Mapping[str, ScoreTerm],
    *,
    fidelity_weight: float = 0.5,
) -> GroupReward:
    """Combine the raw scores of one group into a reward per candidate.

        R_m = fw mean_{reference half} s_bar_m + (1 - fw) mean_{no-reference half} s_bar_m

    `fidelity_weight` (fw) 0.5 is the paper's; 1 looks at the reference half alone. An empty half gives its
    share to the other, and a score with a value that is not finite is left out for the whole group; both are
    said in the result.

    Raises InputError if no score can be used, the lengths differ or the weight is outside [0, 1].

    Source: DP2O-SR, arXiv 2510.18851, section 4.1; ties and missing scores are ours.
    """
    if not 0 <= fidelity_weight <= 1:
        raise InputError(f"fidelity_weight must be in [0, 1], got {fidelity_weight}")
    values = _group_of_scores(raw)
    left_out = {k: "gave a value that is not finite" for k, v in values.items() if not np.isfinite(v).all()}
    used = {key: v for key, v in values.items() if key not in left_out}
    if not used:
        raise InputError(f"a reward needs at least one score that is finite, got {sorted(raw)}")
    halves = {key: terms[key].half for key in used}
    weights = half_weights(halves, fidelity_weight)
    normalised = {
        key: normalise(v, lower_is_better=terms[key].lower_is_better, tolerance=terms[key].tolerance)
        for key, v in used.items()
    }
    reward = np.sum([weights[key] * normalised[key] for key in used], axis=0)
    band = tie_band(used, weights, {key: terms[key].tolerance for key in used})
    return GroupReward(
        reward=reward,
        normalised=normalised,
        weights=weights,
        tie_band=band,
        ranks=shared_ranks(reward, band) if len(reward) > 1 else None,
        left_out=left_out,
        notices=tuple(f"{key} is left out: it {why}" for key, why in left_out.items()) + _lonely_half(halves),
    )


def _group_of_scores(raw: Mapping[str, Scores | Sequence[float]]) -> dict[str, Scores]:
    values = {key: np.asarray(scores, dtype=np.float64) for key, scores in raw.items()}
    shapes = {v.shape for v in values.values()}
    if len(shapes) > 1 or any(len(shape) != 1 or shape[0] == 0 for shape in shapes):
        got = {key: v.shape for key, v in values.items()}
        raise InputError(f"every metric must hold one number per candidate, got shapes {got}")
    return values


def _lonely_half(halves: Mapping[str, Half]) -> tuple[str, ...]:
    present = set(halves.values())
    if len(present) == 2:
        return ()
    name = "reference" if "reference" in present else "no-reference"
    return (f"only the {name} half could be scored; it makes the whole reward",)
