"""A table whose rows the browser sorts and filters by any of its numbers."""

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from sr_core.ui.theme import static_text


class Column(NamedTuple):
    """One number that every row has."""

    key: str
    """Names the column in the browser."""
    head: str
    """Words in the head's button."""
    spoken: str
    """The whole name, for the filter and screen readers."""
    ascending: bool = True
    """Which order the first press gives."""


class Cell(NamedTuple):
    """One row's number."""

    value: float | int | None
    """What is sorted and filtered by, in full and in the unit that is shown; None comes last and passes no filter."""
    text: str
    best: bool = False


def table_widget(elem_id: str) -> gr.HTML:
    """Return the widget that shows what `table_value` gives."""
    return gr.HTML(
        None,
        html_template=static_text("number_table.html"),
        js_on_load=static_text("number_table.js"),
        elem_id=elem_id,
        apply_default_css=False,
    )


def table_value(
    head: str, body: str, columns: Sequence[Column], *, rows: str, caption: str, title: str, sort: str, note: str
) -> dict[str, Any]:
    """Return a table for `table_widget` from the HTML of its head and of its bodies, of which the first is sorted.

    `rows` says what the rows are, `title` is shown above the conditions unless it is empty, `sort` is the column that
    the rows are sorted by at first, and `note` is plain text below.
    """
    return {
        "table": f"<thead>{head}</thead>{body}",
        "columns": [{"key": column.key, "label": column.spoken} for column in columns],
        "rows": rows,
        "caption": caption,
        "title": title,
        "sort": sort,
        "note": note,
    }


def head_cell(column: Column) -> str:
    """Return the head of a column: a button that sorts by it."""
    direction = "ascending" if column.ascending else "descending"
    return (
        f'<th scope="col" data-key="{escape(column.key)}" aria-sort="none">'
        f'<button type="button" data-sort="{escape(column.key)}" data-first="{direction}"'
        f' title="Sort by: {escape(column.spoken)}"><span class="sr-hidden">{escape(column.spoken)}</span>'
        f'<span aria-hidden="true">{escape(column.head)}</span></button></th>'
    )


def row_head(key: str, cell: Cell) -> str:
    """Return the cell that names its row."""
    return f'<th scope="row" data-key="{escape(key)}"{_data(cell)}>{escape(cell.text)}</th>'


def row_cell(key: str, cell: Cell) -> str:
    """Return one number of a row."""
    text = f"<b>{escape(cell.text)}</b>" if cell.best else escape(cell.text)
    return f'<td data-key="{escape(key)}"{_data(cell)}>{text}</td>'


def _data(cell: Cell) -> str:
    return "" if cell.value is None else f' data-value="{cell.value!r}"'
