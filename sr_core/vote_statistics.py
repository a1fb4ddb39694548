"""What votes say about metrics and candidates: accuracy, Bradley-Terry strengths, complementarity and Top-K.

How votes count everywhere here:

- Of one voter's votes on a pair only the first counts: repeats are not independent. A vote that was taken back after it
  was told who was who is such a first one: the voter's word on its pairs is not blind any more and counts for nothing.
- A vote on a picture that its voter had been told about before is not blind and enters nothing.
- A choice of two decides one pair. A best and a worst of four decide five: the two in between are not compared.
- A tie prefers none: it is left out of accuracies, which counts beside them say, and is half a win for each side in
  strengths. Bad prefers none either and enters nothing but its count.
- A metric that gives both sides the same value has not preferred the winner: it is not right.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import choix
import numpy as np
from choix.opt import PairwiseFcts
from jaxtyping import Float
from scipy.stats import binomtest, norm

from sr_core.ballots import Pair, pairs_of
from sr_core.rewards.group import score_term
from sr_core.runs import Run
from sr_core.votes import Vote

CONFIDENCE = 0.95
HYBRID = "hybrid"
"""Key of the hybrid reward beside those of the metrics."""
PRIOR_SD = 2.0
"""Standard deviation of the prior on a strength, in log odds: without votes, 95 % of strengths lie within 3.9."""


class Proportion(NamedTuple):
    """A share with its 95 % Wilson interval; None where nothing was counted."""

    hits: int
    num: int
    share: float | None
    low: float | None
    high: float | None


class JudgedPair(NamedTuple):
    """One pair of candidates as one vote decided it."""

    run: str
    first: int
    second: int
    outcome: float
    """1 if the first was preferred, 0 if the second was, 0.5 for a tie."""


class Verdict(NamedTuple):
    """A judged pair and what the scores say about it."""

    pair: JudgedPair
    leads: Mapping[str, float]
    """By score key: by how much the first is better than the second, in the score's unit."""
    indistinct: frozenset[str]
    """Scores that differ by no more than their tolerance."""


class Agreement(NamedTuple):
    """How often one score prefers what people prefer."""

    key: str
    accuracy: Proportion
    """Over the pairs that people decided."""
    num_indistinct: int
    """Decided pairs that the score cannot tell apart by its own tolerance."""
    ties: Proportion
    """Pairs that people call equal: how many of them the score cannot tell apart either."""


class Strength(NamedTuple):
    """The Bradley-Terry strength of one item in log odds, 0 on average, with its 95 % interval."""

    value: float
    low: float
    high: float
    num: int
    """Comparisons that the item took part in."""


@dataclass(frozen=True, kw_only=True)
class Complementarity:
    """Who is right where the best metric errs."""

    best: Agreement
    """The metric whose accuracy is the highest that is sure."""
    num_errors: int
    others: tuple[Agreement, ...]
    """The other scores on the best one's errors alone, the surest first."""


def wilson(count: int, num: int) -> Proportion:
    """Return a share with its Wilson score interval.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference, J. Am. Stat. Assoc. 22.
    """
    if num == 0:
        return Proportion(0, 0, None, None, None)
    interval = binomtest(count, num).proportion_ci(CONFIDENCE, method="wilson")
    return Proportion(count, num, count / num, float(interval.low), float(interval.high))


def counted(votes: Iterable[Vote]) -> list[Vote]:
    """Return the votes that were not taken back, oldest first."""
    return sorted((vote for vote in votes if not vote.withdrawn), key=lambda vote: vote.at)


def decided_pairs(vote: Vote) -> list[JudgedPair]:
    """Return every pair that one vote decides or calls equal; none where all are bad."""
    run, indices = vote.ballot.run, [picture.candidate for picture in vote.ballot.shown]
    if vote.answer.kind == "bad":
        return []
    if vote.answer.kind == "tie":
        return [JudgedPair(run, a, b, 0.5) for a, b in pairs_of(indices)]
    place = {index: 1 - (index == vote.best) + (index == vote.worst) for index in indices}
    return [JudgedPair(run, a, b, float(place[a] < place[b])) for a, b in pairs_of(indices) if place[a] != place[b]]


def first_votes(votes: Iterable[Vote]) -> list[tuple[Vote, frozenset[Pair]]]:
    """Return each vote that counts with the pairs that it is its voter's first word on; none without such a pair.

    `votes` must hold those taken back too: what was told about them stays known.
    """
    taken: set[tuple[str, str, Pair]] = set()
    found = []
    for vote in sorted(votes, key=lambda vote: vote.at):
        if vote.num_revealed or (vote.withdrawn and not vote.revealed):
            continue
        pairs = [(pair.first, pair.second) for pair in decided_pairs(vote)]
        if vote.withdrawn or not pairs:
            pairs = pairs_of(picture.candidate for picture in vote.ballot.shown)
        fresh = frozenset(pair for pair in pairs if (vote.voter, vote.ballot.run, pair) not in taken)
        taken.update((vote.voter, vote.ballot.run, pair) for pair in fresh)
        if fresh and not vote.withdrawn:
            found.append((vote, fresh))
    return found


def first_words(votes: Iterable[Vote]) -> list[tuple[Vote, JudgedPair]]:
    """Return every judged pair with its vote: of each voter the first word; `votes` as in `first_votes`."""
    return [(vote, pair) for vote, fresh in first_votes(votes) for pair in decided_pairs(vote) if pair[1:3] in fresh]


def judged_pairs(votes: Iterable[Vote]) -> list[JudgedPair]:
    """Return what votes decide: of each voter the first word on each pair; `votes` as in `first_votes`."""
    return [pair for _, pair in first_words(votes)]


def verdicts(run: Run, judged: Iterable[JudgedPair]) -> list[Verdict]:
    """Return what the scores and the reward of a run say about pairs of its candidates; unscored ones are left out."""
    records = {record.index: record for record in run.candidates if record.scores}
    band = float(run.values.get("tie_band") or 0.0)
    found = []
    for pair in judged:
        if pair.first not in records or pair.second not in records:
            continue
        a, b = records[pair.first], records[pair.second]
        leads, tolerances = {}, {}
        if a.reward is not None and b.reward is not None:
            leads[HYBRID], tolerances[HYBRID] = a.reward - b.reward, band
        for key in (key for key in a.scores if key in b.scores):
            term = score_term(key)
            lead = a.scores[key] - b.scores[key]
            leads[key], tolerances[key] = (-lead if term.lower_is_better else lead), term.tolerance
        close = frozenset(key for key, lead in leads.items() if abs(lead) <= tolerances[key])
        found.append(Verdict(pair, leads, close))
    return found


def is_right(verdict: Verdict, key: str) -> bool:
    """Return whether a score prefers the side that people chose."""
    lead = verdict.leads[key]
    return lead > 0 if verdict.pair.outcome == 1 else lead < 0


def agreement(found: Sequence[Verdict]) -> list[Agreement]:
    """Return every score's agreement with the votes, the reward first, then in the order of the scores."""
    keys = dict.fromkeys(key for verdict in found for key in verdict.leads)
    return [_agreement([v for v in found if key in v.leads], key) for key in keys]


def _agreement(found: Sequence[Verdict], key: str) -> Agreement:
    decided = [v for v in found if v.pair.outcome != 0.5]
    ties = [v for v in found if v.pair.outcome == 0.5]
    return Agreement(
        key,
        wilson(sum(is_right(v, key) for v in decided), len(decided)),
        sum(key in v.indistinct for v in decided),
        wilson(sum(key in v.indistinct for v in ties), len(ties)),
    )


def sure(found: Agreement) -> float:
    """Return the accuracy that a score has at least: the lower end of its interval, by which scores are compared.

    Scores that were judged on different pairs, some on many and some on few, are comparable by it.
    """
    return found.accuracy.low or 0.0


def complementarity(found: Sequence[Verdict]) -> Complementarity | None:
    """Return which other score is right where the best metric errs; None before a pair is decided.

    The best one has the highest `sure` accuracy, the first of equals. The reward is no candidate, being made of the
    others.

    Source: Augmenting Perceptual Super-Resolution via Image Quality Predictors, arXiv 2504.18524, section 3.
    """
    decided = [v for v in found if v.pair.outcome != 0.5]
    metrics = [a for a in agreement(decided) if a.key != HYBRID]
    if not metrics:
        return None
    best = max(metrics, key=sure)
    errors = [v for v in decided if best.key in v.leads and not is_right(v, best.key)]
    others = [a for a in agreement(errors) if a.key != best.key]
    return Complementarity(best=best, num_errors=len(errors), others=tuple(sorted(others, key=lambda a: -sure(a))))


def bradley_terry(num_items: int, comparisons: Sequence[tuple[int, int, float]]) -> list[Strength]:
    """Return the strength of each item from (item, item, outcome) comparisons, outcomes as in `JudgedPair`.

        P(a before b) = 1 / (1 + exp(theta_b - theta_a)),   theta ~ N(0, PRIOR_SD^2)

    The most probable strengths under that prior, which keeps them finite for items that always win. The interval is the
    normal one from the curvature there, of each strength against the mean of all.

    Source: Bradley and Terry 1952, Rank analysis of incomplete block designs, Biometrika 39.
    """
    # A tie is half a win each way; the library counts whole ones, so everything is counted twice.
    doubled = []
    for a, b, outcome in comparisons:
        doubled += [(a, b)] * round(2 * outcome) + [(b, a)] * round(2 - 2 * outcome)
    penalty = 2 / (2 * PRIOR_SD**2)
    theta = choix.opt_pairwise(num_items, doubled, alpha=penalty, tol=1e-10)
    deviation = _deviations(PairwiseFcts(doubled, penalty).hessian(theta) / 2)
    reach = norm.ppf((1 + CONFIDENCE) / 2) * deviation
    centred = theta - theta.mean()
    taken = np.bincount([item for a, b, _ in comparisons for item in (a, b)], minlength=num_items)
    return [
        Strength(float(value), float(value - width), float(value + width), int(num))
        for value, width, num in zip(centred, reach, taken, strict=True)
    ]


def _deviations(curvature: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """Return the standard deviation of each strength less the mean of all."""
    centring = np.eye(len(curvature)) - 1 / len(curvature)
    return np.sqrt(np.diag(centring @ np.linalg.inv(curvature) @ centring).clip(0))


def ballot_ranks(vote: Vote) -> dict[int, int]:
    """Return the rank of each candidate on one ballot; equals share a rank, and there is none where all are bad."""
    indices = [picture.candidate for picture in vote.ballot.shown]
    if vote.answer.kind == "bad":
        return {}
    if vote.answer.kind == "tie":
        return dict.fromkeys(indices, 1)
    between = 2 if len(indices) > 2 else len(indices)
    return {i: 1 if i == vote.best else len(indices) if i == vote.worst else between for i in indices}


class Standing(NamedTuple):
    """Where one method came on one ballot."""

    rank: int
    among: tuple[int, ...]
    """The ranks of all pictures on that ballot."""


def standings(votes: Iterable[tuple[Vote, Mapping[int, str]]]) -> dict[str, list[Standing]]:
    """Return by method where it came on each ballot, given each vote with the method that made each candidate.

    A method counts on the ballots on which it has one picture: with two it would be given the better one's rank, and
    may have met nothing but itself. Other methods may have several there, since ranks are those of pictures.
    Source of one picture per method and group: ASASR, arXiv 2605.23264, Eq. 47.
    """
    found: dict[str, list[Standing]] = {}
    for vote, methods in votes:
        ranks = ballot_ranks(vote)
        among, shown = tuple(sorted(ranks.values())), [methods[index] for index in ranks]
        for index, rank in ranks.items():
            if shown.count(methods[index]) == 1:
                found.setdefault(methods[index], []).append(Standing(rank, among))
    return found


def top_k(found: Sequence[Standing], k: int) -> Proportion:
    """Return in which share of groups a method ranks among the first k.

        TopK(m) = 1/N sum_i 1[rank_i(m) <= K]

    Here a group i is one ballot that shows the method m, a candidate or what drew it.

    Source: ASASR, arXiv 2605.23264, Eq. 47.
    """
    return wilson(sum(standing.rank <= k for standing in found), len(found))


def chance_top_k(found: Sequence[Standing], k: int) -> float | None:
    """Return the Top-K that a method has on average if the same answers fall on the pictures at random."""
    shares = [sum(rank <= k for rank in standing.among) / len(standing.among) for standing in found]
    return float(np.mean(shares)) if shares else None
