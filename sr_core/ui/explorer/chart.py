"""Plotly charts that are drawn in the browser, each beside the table of its numbers."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
import plotly
import plotly.graph_objects as go
from plotly.io.json import to_json_plotly

from sr_core.ui.pictures import file_url
from sr_core.ui.theme import static_text

PLOTLY_FOLDER = Path(plotly.__file__).with_name("package_data")
"""Where the library's script for browsers lies; the page may serve files from here."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A8A8A", "#B59B00")
"""Okabe and Ito's palette for series, told apart in every colour vision; yellow is darkened for white paper."""
MAGNITUDES = "Cividis"
"""Scale for values from small to large."""
SIGNED = [[0.0, "#8C510A"], [0.25, "#D8B365"], [0.5, "#F5F5F5"], [0.75, "#5AB4AC"], [1.0, "#01665E"]]
"""Scale for values from negative, brown, to positive, green-blue, with white at the middle."""


def chart_widget(elem_id: str, *, visible: bool = True) -> gr.HTML:
    """Return a widget that draws what `chart_value` gives; the script is fetched when the first chart is seen."""
    return gr.HTML(
        None,
        html_template=static_text("chart.html"),
        js_on_load=static_text("chart.js"),
        elem_id=elem_id,
        apply_default_css=False,
        visible=visible,
    )


def chart_value(
    figure: go.Figure | Mapping[str, Any], *, title: str, summary: str, table: pd.DataFrame, note: str = ""
) -> dict[str, Any]:
    """Return a chart for `chart_widget`.

    `figure` may be its data and layout as they are, which spares the library's check of every part, slow in a view that
    follows a slider.
    `summary` says in words what the chart shows, for those who cannot see it. `table` holds its numbers, with its
    index as the first column.
    """
    return {
        # With the value, because a widget in a tab that was never opened may not have its other settings yet.
        "script": file_url(PLOTLY_FOLDER / "plotly.min.js"),
        "figure": json.loads(to_json_plotly(figure)),
        "title": title,
        "summary": summary,
        "table": table_html(table, caption=title),
        "note": note,
    }


def table_html(table: pd.DataFrame, *, caption: str) -> str:
    """Return a table of numbers as HTML: four significant digits, a dash where there is no value."""
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in (table.index.name or "", *table.columns))
    rows = "".join(
        f'<tr><th scope="row">{escape(str(index))}</th>{"".join(f"<td>{cell_text(value)}</td>" for value in row)}</tr>'
        for index, row in zip(table.index, table.itertuples(index=False, name=None), strict=True)
    )
    return (
        f'<table class="sr-numbers"><caption class="sr-hidden">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def cell_text(value: object) -> str:
    """Return a table cell's words, escaped."""
    if value is None or (isinstance(value, float) and pd.isna(value)) or value is pd.NA:
        return "\u2013"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
