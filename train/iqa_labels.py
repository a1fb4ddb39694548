"""Which targets of a group people call better: human-positive labels from votes or from tables of pairs.

A table has the columns `group_id`, `first`, `second`, `outcome`: targets by number or by the name of what made them, 1
where the first was preferred, 0 where the second was, 0.5 for a tie. Votes of the page are about candidates of runs,
which are groups once `python -m train curate` has added the runs.

A target is positive by `bradley_terry` if its strength is above the original's, where that was compared, and else above
the mean of the group's compared targets; by `majority` if it was preferred in more than half of its comparisons, ties
counting half. The original is positive where no other target is, and where it was compared and is above the mean.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sr_core.ballots import run_key, still_there
from sr_core.errors import ConfigError
from sr_core.preference_data.run_groups import find_runs, run_digest
from sr_core.vote_statistics import JudgedPair, bradley_terry, judged_pairs
from train.human_pairs import is_votes, read_table, read_votes

Comparison = tuple[int, int, float]
"""(target, target, outcome): 1 if the first was preferred, 0 if the second was, 0.5 for a tie."""
COLUMNS = ("group_id", "first", "second", "outcome")


def positive_by_strength(comparisons: Sequence[Comparison], original: int | None) -> frozenset[int]:
    """Return the targets whose Bradley-Terry strength is above the original's, or above the mean without one."""
    items = sorted({item for a, b, _ in comparisons for item in (a, b)})
    place = {item: k for k, item in enumerate(items)}
    strengths = bradley_terry(len(items), [(place[a], place[b], outcome) for a, b, outcome in comparisons])
    values = {item: strengths[k].value for item, k in place.items()}
    level = values.get(original, 0.0) if original is not None else 0.0
    better = {item for item, value in values.items() if item != original and value > level}
    if original in values and values[original] > 0:
        better.add(original)
    return frozenset(better)


def positive_by_majority(comparisons: Sequence[Comparison]) -> frozenset[int]:
    """Return the targets that were preferred in more than half of their comparisons; a tie counts half."""
    wins: dict[int, list[float]] = {}
    for a, b, outcome in comparisons:
        wins.setdefault(a, []).append(outcome)
        wins.setdefault(b, []).append(1 - outcome)
    return frozenset(item for item, won in wins.items() if sum(won) > len(won) / 2)


def positives(
    comparisons: Mapping[str, Sequence[Comparison]], originals: Mapping[str, int | None], rule: str
) -> dict[str, frozenset[int]]:
    """Return the human-positive targets of each group that was compared; the original where no other is."""
    found = {}
    for group, judged in comparisons.items():
        original = originals[group]
        better = positive_by_majority(judged) if rule == "majority" else positive_by_strength(judged, original)
        if not better and original is not None:
            better = frozenset({original})
        if better:
            found[group] = better
    return found


def read_comparisons(
    labels: Sequence[str], runs: Sequence[str], names: Mapping[str, Mapping[str, int]]
) -> dict[str, list[Comparison]]:
    """Return by group what people said; `names` maps each group's targets, by candidate id and by maker, to numbers.

    Comparisons of other groups and of targets that a group lacks are left out. Raises ConfigError if nothing is left,
    and InputError if a file is no votes and no table of pairs.
    """
    found: dict[str, list[Comparison]] = {}

    def add(group: str, first: object, second: object, outcome: float) -> None:
        known = names.get(group, {})
        a, b = known.get(str(first)), known.get(str(second))
        if a is not None and b is not None and a != b:
            found.setdefault(group, []).append((a, b, float(outcome)))

    for path in map(Path, labels):
        if is_votes(path):
            for group, pair in _judged(path, runs):
                add(group, pair.first, pair.second, pair.outcome)
        else:
            for row in read_table(path, COLUMNS)[list(COLUMNS)].itertuples(index=False):
                add(str(row[0]), row[1], row[2], float(row[3]))
    if not found:
        raise ConfigError(f"labels must compare targets of the dataset; {', '.join(labels)} compare none")
    return found


def _judged(path: Path, runs: Sequence[str]) -> list[tuple[str, JudgedPair]]:
    """Return what votes decide, each with the group that `curate` makes of its run."""
    if not runs:
        raise ConfigError(f"{path} holds votes on runs; name their folders as targets.runs")
    votes = read_votes(path)
    judged = []
    for run in find_runs(tuple(runs), least=2):
        group, key = f"run-{run_digest(run)[:16]}", run_key(run)
        own = [vote for vote in still_there(run, votes) if vote.ballot.run == key]
        judged += [(group, pair) for pair in judged_pairs(own)]
    return judged
