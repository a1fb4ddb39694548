"""Which candidates a voter sees next, and where: least voted and most informative first, positions balanced.

The key of an unordered pair, smallest first: how often this voter has decided it, also by a vote taken back after
who was who was told, how often anybody has, how little it could tell (in four steps), and a number from the seed.
"""

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sr_core.rewards.local_files import sha256_of
from sr_core.runs import Run
from sr_core.votes import NUM_SHOWN, Mode, ShownPicture, Vote

Pair = tuple[int, int]
"""Two candidates of a run, the lower index first."""
NUM_STEPS = 4
"""Into so many steps the interest of a pair is rounded, so that the seed decides among its equals."""


class Pool(NamedTuple):
    """The candidates of one run that can be voted on."""

    run: str
    indices: tuple[int, ...]
    interest: Mapping[Pair, float]
    """In [0, 1]: how much a vote on the pair would tell; a pair that is missing has 0."""


@dataclass(frozen=True, kw_only=True)
class History:
    """What was shown and decided so far; keys begin with the run."""

    mine: Counter[tuple[str, Pair]] = field(default_factory=Counter)
    """How often this voter has decided a pair, also by a vote taken back after it was told who was who."""
    everyone: Counter[tuple[str, Pair]] = field(default_factory=Counter)
    my_places: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    """(run, candidate, place): how often this voter saw a candidate at a place on screen."""
    places: Counter[tuple[str, int, int]] = field(default_factory=Counter)


class Draw(NamedTuple):
    """What the next ballot shows."""

    run: str
    indices: tuple[int, ...]
    """In the order on screen."""


def run_key(run: Run) -> str:
    """Return the name under which votes on a run are stored: it does not open the run.

    A hash of the run's id; runs of earlier versions have none, there it is one of the photo and the settings.
    """
    named = run.values.get("id")
    if named is None:
        settings = ("created_at", "version", "input", "backbone", "adapter", "steps", "sampler", "size", "color")
        named = json.dumps({key: run.values.get(key) for key in settings}, default=str)
    return hashlib.sha256(f"votes on {named}".encode()).hexdigest()[:32]


def show_pictures(run: Run, indices: Iterable[int]) -> tuple[ShownPicture, ...]:
    """Return candidates as a ballot names them."""
    records = {record.index: record for record in run.candidates}
    return tuple(ShownPicture(index, _file_sha256(run.path(records[index]))) for index in indices)


def still_there(run: Run, votes: Iterable[Vote]) -> list[Vote]:
    """Return the votes on a run whose pictures are among its candidates as they are now."""
    key, drawn = run_key(run), [record.index for record in run.candidates if record.file is not None]
    present = set(show_pictures(run, drawn))
    return [vote for vote in votes if vote.ballot.run == key and present.issuperset(vote.ballot.shown)]


def _file_sha256(path: Path) -> str:
    stat = path.stat()
    return _content_sha256(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4096)
def _content_sha256(path: Path, _mtime_ns: int, _size: int) -> str:
    return sha256_of(path)


def pairs_of(indices: Iterable[int]) -> list[Pair]:
    """Return every unordered pair."""
    return list(itertools.combinations(sorted(indices), 2))


def pool(run: Run) -> Pool:
    """Return the candidates of a run that have an image, and how much votes on their pairs would tell.

        interest = ((1 - |R_a - R_b| / (max R - min R)) + (1 - |2 s - 1|)) / 2

    R is the reward, s the share of its weight in metrics that prefer a, equal values half. Close rewards and metrics
    that contradict each other are where people can decide something.
    """
    indices = tuple(record.index for record in run.candidates if record.file is not None)
    reward = run.group_reward(run.values.get("fidelity_weight", 0.5))
    if reward is None:
        return Pool(run_key(run), indices, {})
    scored = [record.index for record in run.candidates if record.scores]
    spread = float(np.ptp(reward.reward))
    interest = {}
    for (i, a), (j, b) in itertools.combinations(enumerate(scored), 2):
        closeness = 1 - abs(reward.reward[i] - reward.reward[j]) / spread if spread else 1.0
        share = sum(
            weight * (1 + np.sign(reward.normalised[key][i] - reward.normalised[key][j])) / 2
            for key, weight in reward.weights.items()
        )
        interest[min(a, b), max(a, b)] = float(closeness + 1 - abs(2 * share - 1)) / 2
    return Pool(run_key(run), indices, interest)


def history(votes: Iterable[Vote], voter: str | None) -> History:
    """Count what `voter`, as `voter_key` gives it, and everybody saw and decided; None has voted on nothing yet."""
    past = History()
    for vote in votes:
        run, shown, own = vote.ballot.run, vote.ballot.shown, vote.voter == voter
        pairs = Counter((run, pair) for pair in pairs_of(picture.candidate for picture in shown))
        places = Counter((run, picture.candidate, place) for place, picture in enumerate(shown))
        past.places.update(places)
        if own:
            past.my_places.update(places)
            if not vote.withdrawn or vote.revealed:
                past.mine.update(pairs)
        if not vote.withdrawn:
            past.everyone.update(pairs)
    return past


def pairs_left(pools: Sequence[Pool], past: History) -> int:
    """Return how many unordered pairs this voter can still judge blind."""
    return sum(not past.mine[p.run, pair] for p in pools for pair in pairs_of(p.indices))


def draw(pools: Sequence[Pool], past: History, mode: Mode, seed: str) -> Draw | None:
    """Return the next ballot's candidates in their order on screen; None if no run has enough of them."""
    enough = [p for p in pools if len(p.indices) >= NUM_SHOWN[mode]]
    keys = {(p.run, pair): _key(p, pair, past, seed) for p in enough for pair in pairs_of(p.indices)}
    if not keys:
        return None
    run, first = min(keys, key=lambda key: keys[key])
    (source,) = (p for p in enough if p.run == run)
    chosen = list(first)
    while len(chosen) < NUM_SHOWN[mode]:
        # Greedy: the candidate whose pairs with those chosen are the least voted and most informative together.
        others = [index for index in source.indices if index not in chosen]
        chosen.append(min(others, key=lambda index: _sum(keys[run, _pair(index, other)] for other in chosen)))
    return Draw(run, balanced_order(run, chosen, past, seed))


def balanced_order(run: str, indices: Sequence[int], past: History, seed: str) -> tuple[int, ...]:
    """Return the order on screen that brings each candidate where it was least: for this voter, then for all.

    Equal orders are decided by the seed.
    """
    coin = random.Random(f"{seed} places {run} {sorted(indices)}")
    orders = [(order, coin.random()) for order in itertools.permutations(sorted(indices))]

    def cost(entry: tuple[tuple[int, ...], float]) -> tuple[int, int, float]:
        order, drawn = entry
        at = [(run, index, place) for place, index in enumerate(order)]
        return sum(past.my_places[key] for key in at), sum(past.places[key] for key in at), drawn

    return min(orders, key=cost)[0]


def _pair(a: int, b: int) -> Pair:
    return min(a, b), max(a, b)


def _key(source: Pool, pair: Pair, past: History, seed: str) -> tuple[float | int, ...]:
    step = math.floor(min(source.interest.get(pair, 0.0), 1 - 1e-9) * NUM_STEPS)
    drawn = random.Random(f"{seed} pair {source.run} {pair}").random()
    at = (source.run, pair)
    return past.mine[at], past.everyone[at], -step, drawn


def _sum(keys: Iterable[tuple[float | int, ...]]) -> tuple[float | int, ...]:
    return tuple(map(sum, zip(*keys, strict=True)))
