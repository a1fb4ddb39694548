"""The table of a ranking whose rows the browser sorts and filters by any of its numbers."""

from collections.abc import Iterator
from html import escape
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from sr_core.explanation import RankBootstrap, RankedGroup
from sr_core.runs import CandidateRecord, Run
from sr_core.ui.explorer.pins import INPUT, candidate_id, pin_button
from sr_core.ui.tables import label_of
from sr_core.ui.theme import static_text


class _Column(NamedTuple):
    key: str
    """Names the column in the browser."""
    head: str
    """Words in the head's button."""
    spoken: str
    """The whole name, for the filter and screen readers."""
    ascending: bool
    """Which order the first press gives: best first."""


class _Cell(NamedTuple):
    value: float | None
    """What is sorted and filtered by, in full; None comes last."""
    text: str
    best: bool = False


def table_widget(elem_id: str) -> gr.HTML:
    """Return the widget that shows what `table_value` gives."""
    return gr.HTML(
        None,
        html_template=static_text("ranking.html"),
        js_on_load=static_text("ranking.js"),
        elem_id=elem_id,
        apply_default_css=False,
    )


def table_value(run: Run, group: RankedGroup, resampled: RankBootstrap) -> dict[str, Any]:
    """Return the table's HTML and the columns that can be filtered by, in the order of the rewards."""
    columns = list(_columns(group))
    records = {record.index: record for record in run.candidates}
    # The run's own order: by reward, equals as they were drawn.
    order = np.argsort(-group.reward.reward, kind="stable").tolist()
    best = records[group.indices[order[0]]]
    rows = "".join(_row(records[group.indices[m]], best, columns, _cells(group, resampled, records, m)) for m in order)
    return {
        "table": f"<thead>{_head(group, columns)}</thead><tbody>{rows}</tbody>",
        "columns": [{"key": column.key, "label": column.spoken} for column in columns],
        "ties": _tie_words(group),
    }


def arrow_of(lower_is_better: bool) -> tuple[str, str]:
    """Return the arrow that says which way is better, and its words."""
    return ("\u2193", "lower is better") if lower_is_better else ("\u2191", "higher is better")


def _columns(group: RankedGroup) -> Iterator[_Column]:
    yield _Column("seed", "Candidate", "Candidate, by seed", True)
    yield _Column("rank", "Rank", "Rank", True)
    yield _Column("reward", "Reward", "Reward", False)
    yield _Column("highest", "Highest in", "Highest in, % of resamplings", False)
    for key, term in group.terms.items():
        yield _Column(f"raw:{key}", "Raw", f"{label_of(key)}, raw", term.lower_is_better)
        yield _Column(f"normalised:{key}", "0 to 1", f"{label_of(key)}, 0 to 1", False)


def _cells(
    group: RankedGroup, resampled: RankBootstrap, records: dict[int, CandidateRecord], m: int
) -> dict[str, _Cell]:
    """Return one candidate's cells by column; numbers are rounded in their words only."""
    reward, ranks = group.reward, group.reward.ranks or (1,) * len(group.indices)
    seed, share = records[group.indices[m]].seed, 100 * float(resampled.highest[m])
    cells = {
        "seed": _Cell(seed, records[group.indices[m]].name),
        "rank": _Cell(ranks[m], f"{ranks[m]}{' tied' if ranks.count(ranks[m]) > 1 else ''}"),
        "reward": _Cell(float(reward.reward[m]), f"{reward.reward[m]:.3f}", m == group.best),
        "highest": _Cell(share, f"{share:.1f} %"),
    }
    for key, raw in group.raw.items():
        good = raw.min() if group.terms[key].lower_is_better else raw.max()
        cells[f"raw:{key}"] = _Cell(float(raw[m]), f"{raw[m]:.4g}", bool(raw[m] == good))
        value = float(reward.normalised[key][m])
        cells[f"normalised:{key}"] = _Cell(value, f"{value:.3f}")
    return cells


def _head(group: RankedGroup, columns: list[_Column]) -> str:
    """Return two rows: the metrics with direction, weight and tolerance, then a button per column."""
    metrics = "".join(_metric_head(group, key) for key in group.terms)
    num_own = len(columns) - 2 * len(group.terms)
    buttons = [
        f'<th scope="col" data-key="{escape(column.key)}" aria-sort="none">'
        f'<button type="button" data-sort="{escape(column.key)}" data-first="{_direction(column)}"'
        f' title="Sort by: {escape(column.spoken)}"><span class="sr-hidden">{escape(column.spoken)}</span>'
        f'<span aria-hidden="true">{escape(column.head)}</span></button></th>'
        for column in columns
    ]
    return (
        f'<tr><td></td><td colspan="{num_own}"></td>{metrics}</tr>'
        f'<tr>{buttons[0]}<th scope="col">Open against</th>{"".join(buttons[1:])}</tr>'
    )


def _direction(column: _Column) -> str:
    return "ascending" if column.ascending else "descending"


def _metric_head(group: RankedGroup, key: str) -> str:
    term = group.terms[key]
    arrow, words = arrow_of(term.lower_is_better)
    return (
        f'<th scope="colgroup" colspan="2">{escape(label_of(key))} <span aria-hidden="true">{arrow}</span>'
        f'<span class="sr-hidden"> ({words})</span><small>weight {100 * group.reward.weights[key]:.3g} %, '
        f"ties within {term.tolerance:.3g}</small></th>"
    )


def _row(record: CandidateRecord, best: CandidateRecord, columns: list[_Column], cells: dict[str, _Cell]) -> str:
    name = record.name
    pins = pin_button("Input", candidate_id(record), INPUT, spoken=f"Open {name} against the input")
    if record is not best:
        pins += pin_button("Best", candidate_id(record), candidate_id(best), spoken=f"Open {name} against the best")
    written = [_cell(column.key, cells[column.key]) for column in columns[1:]]
    first = cells["seed"]
    return (
        f'<tr><th scope="row" data-key="seed"{_data(first)}>{escape(first.text)}</th>'
        f'<td class="sr-pins">{pins}</td>{"".join(written)}</tr>'
    )


def _cell(key: str, cell: _Cell) -> str:
    text = f"<b>{escape(cell.text)}</b>" if cell.best else escape(cell.text)
    return f'<td data-key="{escape(key)}"{_data(cell)}>{text}</td>'


def _data(cell: _Cell) -> str:
    return "" if cell.value is None else f' data-value="{cell.value!r}"'


def _tie_words(group: RankedGroup) -> str:
    return (
        f"Tie band {group.reward.tie_band:.3f}: rewards no further apart share a rank. It is what the metrics' own "
        "tolerances add up to. 0 to 1 is a score's place between the group's worst and best; all have 0.5 where the "
        "whole spread is within the tolerance. The best of a column is bold."
    )
