"""Preference pairs of opened runs: which runs can give them, and their weights against a named mean spread."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sr_core.errors import ConfigError, InputError
from sr_core.preference_data.run_groups import first_candidates
from sr_core.preferences import GroupPairs, mean_group_spread, select_pairs, weigh_each
from sr_core.runs import CandidateRecord, Run


class Preset(NamedTuple):
    """How many candidates a paper's setting draws and pairs."""

    num_candidates: int
    """M."""
    top: int
    """N: the N best against the N worst."""

    def of(self, count: int) -> tuple[int, int]:
        """Return (M, N) for `count` candidates: the paper's where there are enough, else its ratio, N >= 1."""
        num_candidates = min(count, self.num_candidates)
        return num_candidates, max(1, num_candidates * self.top // self.num_candidates)


PRESETS = {"c-sd2": Preset(32, 8), "c-flux": Preset(64, 4)}
"""The two settings of DP2O-SR, arXiv 2510.18851, section 5.3: N/M of 1/4 for C-SD2 and of 1/16 for C-FLUX."""


FAITHFUL_HALF = {True: "against the reference", False: "against the input (consistency)"}
"""What the faithful half of a run's reward measures, by whether the run has a reference."""


class Circumstance(NamedTuple):
    """Something on which the spread of a run's rewards depends."""

    name: str
    plural: str
    of: Callable[[Run], str]


CIRCUMSTANCES = (
    Circumstance("faithful half", "faithful halves", lambda run: FAITHFUL_HALF[bool(run.values["reference"])]),
    Circumstance("metric set", "metric sets", lambda run: str(run.values["metric_set"])),
    Circumstance("backbone", "backbones", lambda run: str(run.values["backbone"])),
    Circumstance("adapter", "adapters", lambda run: str(run.values["adapter"])),
)
"""Runs that differ in one of them are no one population."""


class PairSettings(NamedTuple):
    """Which pairs are made of a run."""

    num_candidates: int
    """M: the first M scored candidates, their rewards taken anew among themselves."""
    top: int
    """N: the N best against the N worst."""
    fidelity_weight: float | int


class MeanSpread(NamedTuple):
    """The mu_sigma that inter-group weights are taken with."""

    value: float | None
    """None leaves the inter-group weights undefined."""
    words: str
    """Of which groups it is the mean."""
    cautions: tuple[str, ...] = ()
    """Where those groups differ from the one that is weighed."""


class WeighedRun(NamedTuple):
    """A run's first M candidates with their pairs."""

    run: Run
    pairs: GroupPairs

    def records(self, p: int) -> tuple[CandidateRecord, CandidateRecord]:
        """Return winner and loser of pair p."""
        return self.run.candidates[self.pairs.winners[p]], self.run.candidates[self.pairs.losers[p]]


class Refused(NamedTuple):
    """A run that cannot give the pairs asked for."""

    run: Run
    reason: str


class Paired(NamedTuple):
    """Runs that can give the pairs asked for, and those that cannot."""

    runs: list[Run]
    """Their first M candidates."""
    refused: list[Refused]


def num_scored(run: Run) -> int:
    """Return how many candidates of a run can be ranked."""
    return sum(bool(record.scores) for record in run.candidates)


def rewards_of(run: Run) -> np.ndarray:
    """Return the rewards of a run whose candidates are all ranked."""
    return np.array([record.reward for record in run.candidates], dtype=np.float64)


def pairable(runs: Sequence[Run], settings: PairSettings) -> Paired:
    """Split runs into those that have M comparable candidates and those that have not, with the reason in words.

    Raises ConfigError unless 1 <= N <= M / 2.
    """
    if not 1 <= settings.top <= settings.num_candidates / 2:
        raise ConfigError(
            f"N must lie in 1 to half of the M = {settings.num_candidates} candidates, got {settings.top}"
        )
    found = Paired([], [])
    for run in runs:
        try:
            first = first_candidates(run, settings.num_candidates, fidelity_weight=settings.fidelity_weight)
        except InputError as error:
            found.refused.append(Refused(run, str(error)))
        else:
            found.runs.append(first)
    return found


def mean_spread_in_view(runs: Sequence[Run], top: int) -> MeanSpread:
    """Return mu_sigma over runs as `pairable` gives them; undefined where all are of one photo: nothing is compared.

    A photo that was restored twice counts with both its groups, and is no second photo.
    """
    num_photos = len({run.photo for run in runs})
    if num_photos < 2:
        return MeanSpread(None, "one photo alone")
    rewards = [rewards_of(run) for run in runs]
    spreads, counts = [float(r.std()) for r in rewards], [len(select_pairs(r, top)) for r in rewards]
    cautions = tuple(_mixtures(runs))
    return MeanSpread(mean_group_spread(spreads, counts), f"{num_photos} photos in {len(runs)} runs in view", cautions)


def _mixtures(runs: Sequence[Run]) -> Iterator[str]:
    """Say in words in what runs differ that are taken as one population."""
    for circumstance in CIRCUMSTANCES:
        if len(distinct := sorted({circumstance.of(run) for run in runs})) > 1:
            yield f"their {circumstance.plural} differ: {', '.join(distinct)}"


def weigh_run(run: Run, top: int, *, mean_spread: float | None) -> WeighedRun:
    """Return the pairs of one run as `pairable` gives it; without `mean_spread` its inter-group weight is undefined."""
    (pairs,) = weigh_each([rewards_of(run)], top, mean_spread=mean_spread)
    return WeighedRun(run, pairs)
