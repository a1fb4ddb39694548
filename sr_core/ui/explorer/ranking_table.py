"""The table of a ranking: every candidate with its rank, reward and scores."""

from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np

from sr_core.explanation import RankBootstrap, RankedGroup, contributions
from sr_core.runs import CandidateRecord, Run
from sr_core.ui.explorer.number_table import Cell, Column, head_cell, row_cell, row_head, table_value
from sr_core.ui.explorer.pins import INPUT, candidate_id, pin_button
from sr_core.ui.tables import label_of

PER_METRIC = 3
"""Columns below each metric's head: its raw score, the score from 0 to 1, and what it adds to the reward."""


def ranking_table(run: Run, group: RankedGroup, resampled: RankBootstrap) -> dict[str, Any]:
    """Return the table's HTML and the columns that can be filtered by, in the order of the rewards."""
    columns = list(_columns(group))
    records = {record.index: record for record in run.candidates}
    # The run's own order: by reward, equals as they were drawn.
    order = np.argsort(-group.reward.reward, kind="stable").tolist()
    best = records[group.indices[order[0]]]
    rows = "".join(_row(records[group.indices[m]], best, columns, _cells(group, resampled, records, m)) for m in order)
    return table_value(
        _head(group, columns), f"<tbody>{rows}</tbody>", columns, rows="candidates", title="", sort="rank",
        caption="Every candidate with its rank, reward and scores", note=_tie_words(group),
    )  # fmt: skip


def arrow_of(lower_is_better: bool) -> tuple[str, str]:
    """Return the arrow that says which way is better, and its words."""
    return ("\u2193", "lower is better") if lower_is_better else ("\u2191", "higher is better")


def _columns(group: RankedGroup) -> Iterator[Column]:
    yield Column("seed", "Candidate", "Candidate, by seed", True)
    yield Column("rank", "Rank", "Rank", True)
    yield Column("reward", "Reward", "Reward", False)
    yield Column("highest", "Highest in", "Highest in, % of resamplings", False)
    yield Column("mean_rank", "Mean rank", "Mean rank over resamplings", True)
    for key, term in group.terms.items():
        yield Column(f"raw:{key}", "Raw", f"{label_of(key)}, raw", term.lower_is_better)
        yield Column(f"normalised:{key}", "0 to 1", f"{label_of(key)}, 0 to 1", False)
        yield Column(f"adds:{key}", "Adds", f"{label_of(key)}, added to the reward", False)


def _cells(
    group: RankedGroup, resampled: RankBootstrap, records: dict[int, CandidateRecord], m: int
) -> dict[str, Cell]:
    """Return one candidate's cells by column; numbers are rounded in their words only."""
    reward, ranks = group.reward, group.reward.ranks or (1,) * len(group.indices)
    seed, share = records[group.indices[m]].seed, 100 * float(resampled.highest[m])
    mean_rank, parts = float(resampled.mean_rank[m]), contributions(reward)
    cells = {
        "seed": Cell(seed, records[group.indices[m]].name),
        "rank": Cell(ranks[m], f"{ranks[m]}{' tied' if ranks.count(ranks[m]) > 1 else ''}"),
        "reward": Cell(float(reward.reward[m]), f"{reward.reward[m]:.3f}", m == group.best),
        "highest": Cell(share, f"{share:.1f} %"),
        "mean_rank": Cell(mean_rank, f"{mean_rank:.2f}"),
    }
    for key, raw in group.raw.items():
        good = raw.min() if group.terms[key].lower_is_better else raw.max()
        cells[f"raw:{key}"] = Cell(float(raw[m]), f"{raw[m]:.4g}", bool(raw[m] == good))
        value = float(reward.normalised[key][m])
        cells[f"normalised:{key}"] = Cell(value, f"{value:.3f}")
        added = float(parts[key][m])
        cells[f"adds:{key}"] = Cell(added, f"{added:.3f}")
    return cells


def _head(group: RankedGroup, columns: list[Column]) -> str:
    """Return two rows: the metrics with direction, weight and tolerance, then a button per column."""
    metrics = "".join(_metric_head(group, key) for key in group.terms)
    num_own = len(columns) - PER_METRIC * len(group.terms)
    buttons = [head_cell(column) for column in columns]
    return (
        f'<tr><td></td><td colspan="{num_own}"></td>{metrics}</tr>'
        f'<tr>{buttons[0]}<th scope="col">Open against</th>{"".join(buttons[1:])}</tr>'
    )


def _metric_head(group: RankedGroup, key: str) -> str:
    term = group.terms[key]
    arrow, words = arrow_of(term.lower_is_better)
    return (
        f'<th scope="colgroup" colspan="{PER_METRIC}">{escape(label_of(key))} <span aria-hidden="true">{arrow}</span>'
        f'<span class="sr-hidden"> ({words})</span><small>weight {100 * group.reward.weights[key]:.3g} %, '
        f"ties within {term.tolerance:.3g}</small></th>"
    )


def _row(record: CandidateRecord, best: CandidateRecord, columns: list[Column], cells: dict[str, Cell]) -> str:
    name = record.name
    pins = pin_button("Input", candidate_id(record), INPUT, spoken=f"Open {name} against the input")
    if record is not best:
        pins += pin_button("Best", candidate_id(record), candidate_id(best), spoken=f"Open {name} against the best")
    written = "".join(row_cell(column.key, cells[column.key]) for column in columns[1:])
    return f'<tr>{row_head("seed", cells["seed"])}<td class="sr-pins">{pins}</td>{written}</tr>'


def _tie_words(group: RankedGroup) -> str:
    return (
        f"Tie band {group.reward.tie_band:.3f}: rewards no further apart share a rank. It is what the metrics' own "
        "tolerances add up to. 0 to 1 is a score's place between the group's worst and best; all have 0.5 where the "
        "whole spread is within the tolerance; times the metric's weight it is what the metric adds to the reward. "
        "Resamplings draw the metrics anew, as in the chart below. The best of a column is bold."
    )
