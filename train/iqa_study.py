"""How metrics agree with people: accuracy, who is right where another errs, and the best pair and triple of metrics.

A combination of metrics prefers the side with the larger mean of leads, each lead (by how much the first picture is
better, oriented so that higher is better) divided by its root mean square over all pairs. A majority of votes is not
used: of two metrics it decides nothing where they disagree.

Sources: Augmenting Perceptual Super-Resolution via Image Quality Predictors, arXiv 2504.18524, section 3.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sr_core.ballots import run_key, still_there
from sr_core.errors import InputError
from sr_core.preference_data.run_groups import find_runs
from sr_core.rewards.registry import METRICS
from sr_core.vote_statistics import HYBRID, JudgedPair, Proportion, Verdict, judged_pairs, verdicts, wilson
from train.human_pairs import is_votes, read_table, read_votes

OUTCOME, GROUP = "outcome", "group"
"""Columns of a table of pairs; each metric has two more, NAME_first and NAME_second."""
FIRST, SECOND = "_first", "_second"
FOLDS = 5


class Accuracy(NamedTuple):
    """How often metrics prefer what people prefer."""

    names: tuple[str, ...]
    right: Proportion
    tested: float | None = None
    """For a combination: accuracy on pairs of groups that did not choose it, by five folds; None with fewer groups."""


class Study(NamedTuple):
    """What pairs say about metrics."""

    num_pairs: int
    """Decided pairs that every metric has a value for."""
    num_ties: int
    num_left_out: int
    """Decided pairs that lack a metric."""
    too_rare: dict[str, int]
    """Metrics that score at most half of the decided pairs, with how many: they are left out."""
    metrics: tuple[Accuracy, ...]
    """Surest first."""
    complementarity: dict[str, dict[str, Proportion]]
    """{a: {b: share of a's errors on which b is right}}."""
    pair: Accuracy | None
    triple: Accuracy | None


def table_verdicts(path: Path, lower: Iterable[str] = ()) -> list[Verdict]:
    """Return the pairs of a table: column `outcome` (1 first, 0 second, 0.5 tie) and NAME_first, NAME_second.

    A column `group` names what belongs together (the photograph). Metrics of the registry know their direction; of
    others higher is better unless named in `lower`. Raises InputError if there is no metric or a column is missing.
    """
    table = read_table(path, (OUTCOME,))
    names = [str(column).removesuffix(FIRST) for column in table.columns if str(column).endswith(FIRST)]
    missing = [name for name in names if name + SECOND not in table.columns]
    if missing or not names:
        raise InputError(f"{path.name} must hold two columns per metric, NAME{FIRST} and NAME{SECOND}; got {names}")
    down = set(lower)
    found = []
    for number, row in enumerate(table.to_dict("records")):
        leads = {}
        for name in names:
            lead = float(row[name + FIRST]) - float(row[name + SECOND])
            falling = name in down or (name in METRICS and METRICS[name].lower_is_better)
            if np.isfinite(lead):
                leads[name] = -lead if falling else lead
        group = str(row.get(GROUP, number))
        found.append(Verdict(JudgedPair(group, 0, 1, float(row[OUTCOME])), leads, frozenset()))
    return found


def vote_verdicts(path: Path, runs: Sequence[str]) -> list[Verdict]:
    """Return the pairs that the page's votes decide, with the scores that the runs hold.

    Raises InputError if no run is named: votes do not hold scores.
    """
    if not runs:
        raise InputError(f"{path.name} holds votes, which name no scores; name the run folders with --runs")
    votes = read_votes(path)
    found = []
    for run in find_runs(tuple(runs), least=2):
        own = [vote for vote in still_there(run, votes) if vote.ballot.run == run_key(run)]
        found += verdicts(run, judged_pairs(own))
    return found


def num_foreign_votes(paths: Sequence[Path], runs: Sequence[str]) -> int:
    """Return how many votes of some files are on runs that are not named; they are not counted."""
    own = {run_key(run) for run in find_runs(tuple(runs), least=2)} if runs else set()
    return sum(vote.ballot.run not in own for path in paths if is_votes(path) for vote in read_votes(path))


def read_verdicts(paths: Sequence[Path], runs: Sequence[str], lower: Iterable[str]) -> list[Verdict]:
    """Return the pairs of several files, votes or tables."""
    found = []
    for path in paths:
        found += vote_verdicts(path, runs) if is_votes(path) else table_verdicts(path, lower)
    return found


def _matrix(found: Sequence[Verdict], names: Sequence[str]) -> np.ndarray:
    """Return (pairs, metrics) leads towards the side that people chose, each column over its root mean square."""
    leads = np.array([[v.leads[name] * (1 if v.pair.outcome == 1 else -1) for name in names] for v in found])
    spread = np.sqrt(np.mean(leads**2, axis=0))
    return leads / np.where(spread > 0, spread, 1)


def _best(towards: np.ndarray, names: Sequence[str], size: int) -> tuple[int, ...]:
    """Return the columns whose mean lead is right most often; of equals the first in the order of names."""
    order = combinations(range(len(names)), size)
    return max(order, key=lambda columns: int((towards[:, columns].mean(axis=1) > 0).sum()))


def _combination(towards: np.ndarray, groups: Sequence[str], names: Sequence[str], size: int) -> Accuracy | None:
    if len(names) < size:
        return None
    columns = _best(towards, names, size)
    hits = int((towards[:, columns].mean(axis=1) > 0).sum())
    kinds = sorted(set(groups))
    tested = None
    if len(kinds) >= FOLDS:
        fold = np.array([kinds.index(group) % FOLDS for group in groups])
        right = 0
        for part in range(FOLDS):
            chosen = _best(towards[fold != part], names, size)
            right += int((towards[fold == part][:, chosen].mean(axis=1) > 0).sum())
        tested = right / len(towards)
    return Accuracy(tuple(names[c] for c in columns), wilson(hits, len(towards)), tested)


def study(found: Sequence[Verdict]) -> Study:
    """Return what human choices say about the metrics that most pairs have; raises InputError without a decided pair.

    A metric that prefers neither side of a pair is not right on it.
    """
    decided = [v for v in found if v.pair.outcome != 0.5]
    counts: dict[str, int] = {}
    for verdict in decided:
        for name in verdict.leads:
            counts[name] = counts.get(name, 0) + 1
    counts.pop(HYBRID, None)
    names = [name for name, count in counts.items() if 2 * count > len(decided)]
    complete = [v for v in decided if all(name in v.leads for name in names)]
    if not names or not complete:
        raise InputError("there must be a pair that people decided and metrics scored; name runs with scores")
    towards = _matrix(complete, names)
    right = towards > 0
    metrics = [Accuracy((name,), wilson(int(right[:, k].sum()), len(complete))) for k, name in enumerate(names)]
    matrix: dict[str, dict[str, Proportion]] = {}
    for a, first in enumerate(names):
        errors = right[~right[:, a]]
        matrix[first] = {
            second: wilson(int(errors[:, b].sum()), len(errors)) for b, second in enumerate(names) if b != a
        }
    groups = [v.pair.run for v in complete]
    return Study(
        num_pairs=len(complete),
        num_ties=len(found) - len(decided),
        num_left_out=len(decided) - len(complete),
        too_rare={name: count for name, count in counts.items() if name not in names},
        metrics=tuple(sorted(metrics, key=lambda m: -(m.right.low or 0.0))),
        complementarity=matrix,
        pair=_combination(towards, groups, names, 2),
        triple=_combination(towards, groups, names, 3),
    )


def _share(value: Proportion) -> str:
    if value.share is None:
        return ""
    return f"{value.share:.3f} ({value.low:.3f} to {value.high:.3f})"


def study_text(result: Study) -> str:
    """Return a study as Markdown."""
    lines = [
        f"{result.num_pairs} decided pairs, {result.num_ties} ties (not counted), {result.num_left_out} without every "
        "metric (not counted); intervals are Wilson's, 95 %, and too narrow where one photograph gives several pairs.",
        *(f"Left out, scored on {count} pairs alone: {name}." for name, count in result.too_rare.items()),
        "",
        "| metric | accuracy |",
        "|---|---|",
        *(f"| {m.names[0]} | {_share(m.right)} |" for m in result.metrics),
        "",
        "Share of the errors of a row's metric on which the column's metric is right:",
        "",
        "| errs | errors | " + " | ".join(m.names[0] for m in result.metrics) + " |",
        "|---" * (len(result.metrics) + 2) + "|",
    ]
    order = [m.names[0] for m in result.metrics]
    for name, own in zip(order, result.metrics, strict=True):
        cells = ["" if other == name else _number(result.complementarity[name][other]) for other in order]
        lines.append(f"| {name} | {own.right.num - own.right.hits} | " + " | ".join(cells) + " |")
    lines.append("")
    for what, found in (("pair", result.pair), ("triple", result.triple)):
        if found is not None:
            tested = "" if found.tested is None else f"; {found.tested:.3f} on groups that did not choose it"
            lines.append(f"- best {what}: {' + '.join(found.names)}, accuracy {_share(found.right)}{tested}")
    return "\n".join(lines)


def _number(value: Proportion) -> str:
    return "" if value.share is None else f"{value.share:.2f}"
