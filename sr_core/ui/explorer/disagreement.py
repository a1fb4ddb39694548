"""The view Disagreement: where metrics contradict each other, and what checks say that the ranking has not seen."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr
import pandas as pd

from sr_core.disagreement import (
    FEWEST_CANDIDATES,
    FEWEST_PHOTOS,
    Contested,
    CorrelationTable,
    Quarrelled,
    Statistic,
    contested_candidates,
    contested_pairs,
    correlate,
)
from sr_core.explanation import ranked_group
from sr_core.ui.explorer.chart import SIGNED, chart_value, chart_widget
from sr_core.ui.explorer.checks import CheckStore, render_checks, resampled_words
from sr_core.ui.explorer.pins import INPUT, candidate_id, pin_button
from sr_core.ui.explorer.scope import Scope, name_of, record_of
from sr_core.ui.explorer.section import HEAVY, LIGHT
from sr_core.ui.tables import label_of
from sr_core.ui.visits import Visit, VisitStore
from sr_core.ui.words import in_words

NUM_LISTED = 8
"""Contested pairs and candidates that are listed."""
THIS, ALL = "this", "all"
STATISTICS: dict[Statistic, str] = {"kendall": "Kendall tau-b", "spearman": "Spearman rho"}


class DisagreementSection:
    """Lays out the view and fills it for the run on screen, or for all runs in view."""

    name = "disagreement"
    label = "Disagreement"

    def __init__(self) -> None:
        self._checks = CheckStore()

    def build(self, store: VisitStore) -> list[Any]:
        """Lay out the two choices, the correlations, the contested pairs and candidates, and the checks on request."""

        def choose(scope: str, statistic: str, request: gr.Request) -> list[Any]:
            visit = store.visit(request.session_hash)
            visit.choices[self.name] = (scope, statistic)
            return self.show(visit)

        def check(request: gr.Request, progress: gr.Progress = gr.Progress()) -> list[Any]:
            visit = store.visit(request.session_hash)
            with in_words():
                shown = self._scope(visit).shown
                for number, entry in enumerate(shown):
                    progress((number, len(shown)), desc=f"Hold-outs and spectra of {entry.name}", unit="runs")
                    self._checks.take(entry.run)
            return self.show(visit)

        with gr.Column(elem_id="sr-disagreement"):
            with gr.Row(elem_id="sr-disagreement-head"):
                scope = gr.Radio(_scopes(1), value=THIS, label="Runs", container=False, elem_id="sr-disagreement-scope")
                statistic = gr.Radio(
                    [(words, name) for name, words in STATISTICS.items()], value="kendall", label="Rank correlation",
                    container=False, elem_id="sr-disagreement-statistic",
                )  # fmt: skip
            lead = gr.HTML("", elem_id="sr-disagreement-lead", apply_default_css=False)
            matrix = chart_widget("sr-disagreement-matrix")
            contested = gr.HTML("", elem_id="sr-disagreement-contested", apply_default_css=False)
            button = gr.Button("Take hold-outs and spectra", elem_id="sr-disagreement-check")
            checks = gr.HTML("", elem_id="sr-disagreement-checks", apply_default_css=False)
        widgets = [scope, statistic, lead, matrix, contested, button, checks]
        gr.on([scope.input, statistic.input], choose, [scope, statistic], widgets, trigger_mode="always_last", **LIGHT)
        button.click(check, None, widgets, show_progress="full", show_progress_on=[checks], **HEAVY)
        return widgets

    def show(self, visit: Visit) -> list[Any]:
        """Return the view for the chosen runs and the chosen correlation."""
        chosen, statistic = visit.choices.get(self.name, (THIS, "kendall"))
        scope = self._scope(visit)
        radios = [gr.update(choices=_scopes(len(visit.shown)), value=chosen), statistic]
        if visit.on_screen is None:
            return [*radios, "", None, "", gr.update(visible=False), ""]
        table = correlate([group.reward.normalised for group in scope.groups], statistic, photos=scope.photos)
        if not table.keys:
            return [*radios, _too_few(scope), None, "", gr.update(visible=False), ""]
        pairs, candidates = contested_pairs(scope.groups, NUM_LISTED), contested_candidates(scope.groups, NUM_LISTED)
        return [
            *radios,
            headline(table, scope, pairs),
            _matrix(table, scope),
            _contested(scope, pairs, candidates),
            gr.update(visible=True),
            render_checks(self._checks, scope, statistic),
        ]

    def _scope(self, visit: Visit) -> Scope:
        """Return the chosen runs that have a group."""
        chosen, _ = visit.choices.get(self.name, (THIS, "kendall"))
        found = [
            (shown, group, f"{place}. {shown.name}")
            for place, shown in enumerate(visit.shown, start=1)
            if (chosen == ALL or shown is visit.on_screen) and (group := ranked_group(shown.run)) is not None
        ]
        return Scope([f[0] for f in found], [f[1] for f in found], [f[2] for f in found])


def _scopes(num_runs: int) -> list[tuple[str, str]]:
    return [("This run", THIS), (f"All {num_runs} runs in view" if num_runs > 1 else "All runs in view", ALL)]


def _too_few(scope: Scope) -> str:
    sizes = ", ".join(str(len(group.indices)) for group in scope.groups) or "none"
    return (
        f'<p class="sr-words"><strong>Nothing can be said.</strong> A rank correlation needs at least '
        f"{FEWEST_CANDIDATES} scored candidates of one photo; here there are {sizes}.</p>"
    )


def headline(table: CorrelationTable, scope: Scope, pairs: Sequence[Contested]) -> str:
    """Return in words which metrics contradict each other most, and where."""
    lowest = table.lowest
    if lowest is None:
        words = "<strong>No two metrics can be compared:</strong> each is constant within its tolerance."
    else:
        found = table.between(*lowest)
        a, b = (escape(label_of(key)) for key in lowest)
        words = (
            f"<strong>{a} and {b} agree least:</strong> {STATISTICS[table.statistic]} "
            f"{_signed(found.value)}, 95 % interval {_interval(found.low, found.high)}."
        )
    if pairs:
        first = pairs[0]
        left, right = (name_of(scope, first.group, place) for place in (first.left, first.right))
        words += f" They fight most over {escape(left)} and {escape(right)}."
    return f'<p class="sr-lead">{words}</p>'


def _signed(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.2f}"


def _interval(low: float | None, high: float | None) -> str:
    return "undefined" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"


def _matrix(table: CorrelationTable, scope: Scope) -> dict[str, Any]:
    """Return the heat map of all correlations beside their counts and intervals."""
    labels = [label_of(key) for key in table.keys]
    values = [[table.between(a, b).value for b in table.keys] for a in table.keys]
    words = [[f"{value:.2f}" if value is not None else "\u2013" for value in row] for row in values]
    hover = [[f"{label_of(a)} and {label_of(b)}<br>{_described(table, a, b)}" for b in table.keys] for a in table.keys]
    places = list(range(len(labels)))
    heat = {
        "type": "heatmap", "x": places, "y": places, "z": values, "zmin": -1, "zmax": 1, "colorscale": SIGNED,
        "text": words, "texttemplate": "%{text}", "hovertext": hover, "hoverinfo": "text", "xgap": 1, "ygap": 1,
        "showscale": False,
    }  # fmt: skip
    layout = {
        "height": 80 + 52 * len(labels), "uirevision": "matrix",
        "xaxis": {"tickvals": places, "ticktext": [str(place + 1) for place in places], "side": "top"},
        "yaxis": {"tickvals": places, "autorange": "reversed", "ticktext": [
            f"{label.replace(' to the ', '<br>to the ')} \u00b7 {place + 1}" for place, label in enumerate(labels)
        ]},
    }  # fmt: skip
    defined = sum(len(group.indices) >= FEWEST_CANDIDATES for group in scope.groups)
    lowest = table.lowest
    least = "" if lowest is None else f" Lowest: {label_of(lowest[0])} and {label_of(lowest[1])}."
    return chart_value(
        {"data": [heat], "layout": layout},
        title=f"How far metrics agree: {STATISTICS[table.statistic]}",
        summary=f"Rank correlation of {len(labels)} metrics with one another over {defined} runs.{least}",
        table=_pair_table(table),
        note=(
            "1: the same order; 0: unrelated; -1: the reverse. All metrics are turned so that higher is better. "
            "A dash: undefined, a metric's spread is within its tolerance. Runs are never mixed: the mean over runs "
            f"counts, weighted by pairs of candidates. {table.num_resamples:,} resamplings (seed 0): "
            f"of whole photos, each with all its runs, where {FEWEST_PHOTOS} or more have both metrics, so that the "
            "interval speaks for other photos like these; else of candidates inside each run, so that it speaks for "
            "others of the same photos."
        ),
    )


def _described(table: CorrelationTable, a: str, b: str) -> str:
    found = table.between(a, b)
    if found.value is None:
        return "undefined: constant within tolerance"
    return (
        f"{STATISTICS[table.statistic]} {found.value:.3f}, 95 % {_interval(found.low, found.high)}"
        f"<br>{found.num_candidates} candidates in {found.num_groups} runs of {found.num_photos} photos"
        f", resampled: {resampled_words(found) or 'none'}"
    )


def _pair_table(table: CorrelationTable) -> pd.DataFrame:
    """Return each two metrics with their correlation, interval and counts, the most contrary first."""
    lowest_first = sorted(table.pairs.items(), key=lambda item: 2.0 if item[1].value is None else item[1].value)
    rows = [
        {
            "Metrics": f"{label_of(a)} \u00b7 {label_of(b)}",
            STATISTICS[table.statistic]: found.value,
            "95 % from": found.low,
            "to": found.high,
            "Candidates": found.num_candidates,
            "Runs": found.num_groups,
            "Photos": found.num_photos,
            "Resampled": resampled_words(found),
        }
        for (a, b), found in lowest_first
        if a != b
    ]
    columns = ["Metrics", STATISTICS[table.statistic], "95 % from", "to", "Candidates", "Runs", "Photos", "Resampled"]
    return pd.DataFrame(rows, columns=columns).set_index("Metrics").astype(object)


def _contested(scope: Scope, pairs: Sequence[Contested], candidates: Sequence[Quarrelled]) -> str:
    """Return the lists of contested pairs and candidates, each with a button that opens it."""
    if not pairs:
        return (
            '<div class="sr-block"><h2>Most contested</h2><p class="sr-words">No pair is contested: beyond their '
            "tolerances all metrics prefer the same candidates.</p></div>"
        )
    pair_items = "".join(_pair_item(scope, pair) for pair in pairs)
    candidate_items = "".join(_candidate_item(scope, entry) for entry in candidates)
    return (
        f'<div class="sr-block sr-contested"><div><h2>Most contested pairs</h2><ol>{pair_items}</ol></div>'
        f"<div><h2>Most contested candidates</h2><ol>{candidate_items}</ol></div>"
        '<p class="sr-chart-note">Conflict, 0 to 1: each metric that prefers one side counts with its weight times its '
        "gap on the scale from the group's worst to best, beyond its tolerance. The conflict is twice what the weaker "
        "side gathers: 0 where no metric objects, 1 where half of the weight says best against worst and the other "
        "half the opposite. A candidate's is the mean over its pairs. Left: the one that the reward prefers.</p></div>"
    )


def _pair_item(scope: Scope, pair: Contested) -> str:
    left, right = (name_of(scope, pair.group, place) for place in (pair.left, pair.right))
    key = scope.shown[pair.group].key
    pins = pin_button(
        "Open pair", candidate_id(record_of(scope, pair.group, pair.right)),
        candidate_id(record_of(scope, pair.group, pair.left)), key,
        spoken=f"Open pair {left} and {right}",
    )  # fmt: skip
    sides = "".join(
        f"<span><b>{escape(record_of(scope, pair.group, place).name)}:</b> {_evidence(side)}</span>"
        for place, side in ((pair.left, pair.prefer_left), (pair.right, pair.prefer_right))
    )
    return (
        f'<li><span class="sr-conflict">{pair.conflict:.3f}</span> <strong>{escape(left)}</strong> against '
        f'<strong>{escape(right)}</strong> {pins}<span class="sr-sides">{sides}</span></li>'
    )


def _evidence(side: Mapping[str, float]) -> str:
    return ", ".join(f"{escape(label_of(key))} {value:.3f}" for key, value in side.items())


def _candidate_item(scope: Scope, entry: Quarrelled) -> str:
    name = name_of(scope, entry.group, entry.place)
    pin = pin_button(
        "Open", candidate_id(record_of(scope, entry.group, entry.place)), INPUT, scope.shown[entry.group].key,
        spoken=f"Open {name} against the input",
    )  # fmt: skip
    values = scope.groups[entry.group].reward.normalised
    return (
        f'<li><span class="sr-conflict">{entry.conflict:.3f}</span> <strong>{escape(name)}</strong> {pin}'
        f'<span class="sr-sides"><span>highest by {escape(label_of(entry.praised_by))}, '
        f"{values[entry.praised_by][entry.place]:.3f}; lowest by {escape(label_of(entry.blamed_by))}, "
        f"{values[entry.blamed_by][entry.place]:.3f}</span></span></li>"
    )
