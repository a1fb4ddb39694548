"""What the view of preference pairs shows of a run: words, heat map, table and histogram."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from sr_core.errors import ConfigError, InputError
from sr_core.preference_data.mean_spreads import read_mean_spreads
from sr_core.preference_data.pairing import (
    PRESETS,
    MeanSpread,
    Paired,
    PairSettings,
    Refused,
    WeighedRun,
    mean_spread_in_view,
    num_scored,
    pairable,
    weigh_run,
)
from sr_core.runs import CandidateRecord, Run
from sr_core.ui.explorer.chart import COLOURS, MAGNITUDES, cell_text, chart_value
from sr_core.ui.explorer.pins import candidate_id, pin_button

SHIPPED, IN_VIEW = "shipped", "view"
"""Where mu_sigma comes from."""
OWN = "own"
"""Preset of those who set N and M themselves."""
UNDEFINED = "undefined for one photo alone"
"""Said in place of an inter-group weight where there is none."""
ROOMY = 4
"""N up to which a cell has room for three decimals."""
MAX_BINS = 24
LABEL_LENGTH = 16
"""Letters of a candidate's name on an axis."""


@dataclass(frozen=True)
class Choice:
    """What a visitor set in this view."""

    preset: str = "c-sd2"
    num_candidates: float | int | None = None
    """M as typed; looked at where the preset is the visitor's own, like `top`."""
    top: float | int | None = None
    spread: str = SHIPPED

    def settings(self, run: Run, fidelity_weight: float | int) -> PairSettings:
        """Return N and M for a run; raises ConfigError if a number is missing or not whole."""
        if self.preset != OWN:
            return PairSettings(*PRESETS[self.preset].of(num_scored(run)), fidelity_weight)
        typed = {"N": self.top, "M": self.num_candidates}
        for name, value in typed.items():
            if value is None or value != int(value):
                raise ConfigError(f"{name} must be a whole number, got {'nothing' if value is None else value}")
        assert self.top is not None
        assert self.num_candidates is not None
        return PairSettings(int(self.num_candidates), int(self.top), fidelity_weight)


class View(NamedTuple):
    """Everything that is shown of one run, and exported."""

    settings: PairSettings
    paired: Paired
    """All runs in view."""
    current: WeighedRun
    others: list[WeighedRun]
    spread: MeanSpread


def look(shown: Run, runs: Sequence[Run], choice: Choice, fidelity_weight: float | int) -> View:
    """Return the pairs of `shown` and of all `runs` in view; raises SRError if `shown` cannot give them."""
    if num_scored(shown) < 2:
        raise InputError(f"{shown.values['input']['name']} must have 2 scored candidates, got {num_scored(shown)}")
    settings = choice.settings(shown, fidelity_weight)
    paired = pairable(runs, settings)
    current = next((run for run in paired.runs if run.folder == shown.folder), None)
    if current is None:
        raise InputError(next(refused.reason for refused in paired.refused if refused.run.folder == shown.folder))
    if choice.spread == SHIPPED:
        spread = read_mean_spreads().mean_spread(settings, shown)
    else:
        spread = mean_spread_in_view(paired.runs, settings.top)
    weighed = [weigh_run(run, settings.top, mean_spread=spread.value) for run in paired.runs]
    others = [one for one in weighed if one.run is not current]
    return View(settings, paired, next(one for one in weighed if one.run is current), others, spread)


def plural(word: str, count: int) -> str:
    """Return a count with its noun."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def left_out(refused: Sequence[Refused]) -> str:
    """Return which runs could not be used and why, as HTML; nothing where all could."""
    if not refused:
        return ""
    items = "".join(f"<li>{escape(one.reason)}</li>" for one in refused)
    verb = "is" if len(refused) == 1 else "are"
    return f'<div class="sr-leftout"><p>{plural("run", len(refused))} {verb} left out</p><ul>{items}</ul></div>'


def describe(view: View, choice: Choice) -> str:
    """Return the counts, mu_sigma with where it comes from, and what must be known about it, as HTML."""
    return (
        f'<ul class="sr-pairs-facts"><li>{_counts(view, choice)}</li><li>{_spreads(view)}</li>'
        f"<li>{_mean_of_products(view)}</li></ul>{left_out(view.paired.refused)}"
    )


def _counts(view: View, choice: Choice) -> str:
    settings, num_pairs = view.settings, len(view.current.pairs.gap)
    words = (
        f"<strong>{plural('pair', num_pairs)}</strong> of this run: the {settings.top} best of the first "
        f"{settings.num_candidates} candidates against the {settings.top} worst."
    )
    dropped = settings.top**2 - num_pairs
    words += f" {plural('pair', dropped)} without a gap {'is' if dropped == 1 else 'are'} dropped." if dropped else ""
    if choice.preset != OWN:
        paper = PRESETS[choice.preset]
        if (settings.num_candidates, settings.top) != (paper.num_candidates, paper.top):
            exact = settings.top * paper.num_candidates == paper.top * settings.num_candidates
            ratio = "keeps its ratio" if exact else "is the nearest that there is"
            words += (
                f" The paper takes {paper.top} of {paper.num_candidates}; "
                f"{settings.top} of {settings.num_candidates} {ratio}."
            )
    return words


def _spreads(view: View) -> str:
    pairs, spread = view.current.pairs, view.spread
    own = f"Spread \u03c3 of this group <strong>{pairs.spread:.4g}</strong>"
    if spread.value is None:
        way_out = "open a run of another photo, or compare with the shipped statistics"
        return f"{own}; inter-group weight {UNDEFINED}: {way_out}."
    words = f"{own}, \u03bc\u03c3 <strong>{spread.value:.4g}</strong>: mean spread of {escape(spread.words)}."
    if spread.cautions:
        cautions = escape("; ".join(spread.cautions))
        words += f" Their settings differ ({cautions}): read the inter-group weight as a rough scale."
    return words


def _mean_of_products(view: View) -> str:
    """Say what the weights average to, which shows at once with which groups they were taken."""
    every = [view.current, *view.others]
    totals = [run.pairs.total for run in every if run.pairs.total is not None]
    if not totals:
        return f"Mean intra-group weight {_mean(view.current.pairs.intra)}; product {UNDEFINED}."
    words = f"Mean product {_mean(view.current.pairs.total)} over this run"
    if not view.others:
        return f"{words}."
    every_pair = plural("pair", sum(map(len, totals)))
    return f"{words}, {_mean(np.concatenate(totals))} over {every_pair} of {plural('run', len(every))} in view."


def _mean(values: np.ndarray | None) -> str:
    return "\u2013" if values is None or not len(values) else f"{values.mean():.4g}"


def _order(run: WeighedRun, top: int) -> tuple[list[CandidateRecord], list[CandidateRecord]]:
    """Return winners from the best and losers from the worst, those without a pair as well."""
    ranked = sorted(run.run.candidates, key=lambda record: -(record.reward or 0.0))
    return ranked[:top], ranked[: -top - 1 : -1]


def _axis(records: Sequence[CandidateRecord]) -> list[str]:
    """Return the labels of candidates, with rewards where few; what a stranger named is shortened and plain."""
    names = [r.name if len(r.name) <= LABEL_LENGTH else f"{r.name[: LABEL_LENGTH - 1]}\u2026" for r in records]
    if len(records) > ROOMY:
        return [escape(name) for name in names]
    return [f"{escape(name)}<br>{record.reward:.3f}" for name, record in zip(names, records, strict=True)]


def _weights(view: View) -> np.ndarray:
    """Return what the heat map colours: the product, or the intra-group weight where that is all there is."""
    pairs = view.current.pairs
    return pairs.intra if pairs.total is None else pairs.total


def heat_map(view: View) -> dict[str, Any]:
    """Return all top-N x bottom-N pairs, winners as rows and losers as columns, for `chart_widget`."""
    winners, losers = _order(view.current, view.settings.top)
    places = {tuple(r.index for r in view.current.records(p)): p for p in range(len(view.current.pairs.gap))}
    weights, digits = _weights(view), 3 if view.settings.top <= ROOMY else 2
    values: list[list[float | None]] = []
    texts, hovers, pins = [], [], []
    for winner in winners:
        found = [places.get((winner.index, loser.index)) for loser in losers]
        values.append([None if p is None else float(weights[p]) for p in found])
        texts.append(["tie" if p is None else f"{weights[p]:.{digits}f}" for p in found])
        hovers.append([_hover(view, winner, loser, p) for loser, p in zip(losers, found, strict=True)])
        pins.append([[candidate_id(winner), candidate_id(loser)] for loser in losers])
    figure = go.Figure(
        go.Heatmap(
            z=values, hovertext=hovers, hoverinfo="text", customdata=pins, colorscale=MAGNITUDES, xgap=2, ygap=2,
            showscale=False, hoverongaps=True,
        )
    )  # fmt: skip
    ticks, hidden = list(range(view.settings.top)), {"showgrid": False, "zeroline": False, "showline": False}
    figure.update_layout(
        height=140 + 52 * max(2, view.settings.top),
        annotations=_printed(values, texts, size=14 if view.settings.top <= ROOMY else 11),
        xaxis={"title": "Loser, worst first", "tickvals": ticks, "ticktext": _axis(losers), "side": "top", **hidden},
        yaxis={
            "title": {"text": "Winner", "standoff": 14},
            "tickvals": ticks,
            "ticktext": _axis(winners),
            "autorange": "reversed",
            **hidden,
        },
        margin={"t": 72, "b": 8},
        uirevision="pairs",
    )
    alone = view.current.pairs.total is None
    what = "intra-group weight" if alone else "weight, intra x inter"
    value = chart_value(
        figure,
        title=f"Pairs by {what}",
        summary=_summary(view, winners, losers, what),
        table=pd.DataFrame(),
        note=f"Colour: {what}. Inter-group weight {UNDEFINED}." if alone else f"Colour: {what}.",
    )
    return {**value, "table": pairs_table(view)}


def _printed(values: list[list[float | None]], texts: list[list[str]], *, size: int) -> list[dict[str, Any]]:
    """Return each cell's number as an annotation, black or white, whichever is told better from the cell's colour."""
    known = [value for row in values for value in row if value is not None]
    low, spread = (min(known), max(known) - min(known)) if known else (0.0, 0.0)
    annotations = []
    for y, (row, words) in enumerate(zip(values, texts, strict=True)):
        for x, (value, text) in enumerate(zip(row, words, strict=True)):
            font: dict[str, Any] = {"size": size}
            if value is not None:
                share = (value - low) / spread if spread else 0.5
                font["color"] = "#000000" if _luminance(share) > _EVEN else "#ffffff"
            annotations.append({"x": x, "y": y, "text": text, "showarrow": False, "font": font})
    return annotations


_EVEN = 0.179
"""Relative luminance against which black and white stand out alike, by WCAG's contrast."""


def _luminance(share: float) -> float:
    """Return the relative luminance of the scale's colour at `share` of its length, as WCAG 2 defines it."""
    (colour,) = sample_colorscale(MAGNITUDES, [share], colortype="tuple")
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


def _summary(view: View, winners: Sequence[CandidateRecord], losers: Sequence[CandidateRecord], what: str) -> str:
    weights = _weights(view)
    words = f"Heat map of {len(winners)} winners against {len(losers)} losers by {what}"
    return f"{words}, {weights.min():.3f} to {weights.max():.3f}." if len(weights) else f"{words}: every pair is a tie."


def _hover(view: View, winner: CandidateRecord, loser: CandidateRecord, p: int | None) -> str:
    head = f"<b>{escape(winner.name)}</b> over <b>{escape(loser.name)}</b>"
    if p is None:
        return f"{head}<br>no gap: both have reward {winner.reward:.4g}, the pair is dropped"
    lines = [f"{name} {value}" for name, value in zip(_COLUMNS, _numbers(view, p, UNDEFINED), strict=True)]
    return "<br>".join([head, *lines])


_COLUMNS = ("gap", "intra", "inter", "product")


def _numbers(view: View, p: int, undefined: str) -> list[str]:
    """Return gap, intra, inter and product of pair p as they are printed."""
    pairs = view.current.pairs
    weights = [undefined if values is None else cell_text(float(values[p])) for values in (pairs.inter, pairs.total)]
    return [cell_text(float(pairs.gap[p])), cell_text(float(pairs.intra[p])), *weights]


def pairs_table(view: View) -> str:
    """Return every pair with its numbers and a button that opens it in the comparer, as HTML."""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Winner over loser", *_COLUMNS))
    rows = []
    for p in range(len(view.current.pairs.gap)):
        winner, loser = view.current.records(p)
        words = f"{winner.name} over {loser.name}"
        button = pin_button(words, candidate_id(loser), left=candidate_id(winner))
        cells = "".join(f"<td>{number}</td>" for number in _numbers(view, p, "undefined"))
        rows.append(f'<tr><th scope="row">{button}</th>{cells}</tr>')
    return (
        '<table class="sr-numbers sr-pairs-table"><caption class="sr-hidden">Every pair; the button opens it in the '
        f"comparer</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def histogram(view: View) -> dict[str, Any] | None:
    """Return how the weights are spread, of this run and of the others in view, for `chart_widget`."""
    alone = view.current.pairs.total is None
    own = _weights(view)
    rest = [run.pairs.intra if run.pairs.total is None else run.pairs.total for run in view.others]
    others = np.concatenate(rest) if rest else np.empty(0)
    every = np.concatenate([own, others])
    if not len(every):
        return None
    edges = np.histogram_bin_edges(every, bins=min(MAX_BINS, max(1, round(2 * len(every) ** 0.5))))
    series = {"this run": own, "other runs in view": others}
    counts = {name: np.histogram(values, edges)[0] for name, values in series.items() if len(values)}
    middles, widths = ((edges[:-1] + edges[1:]) / 2).tolist(), np.diff(edges).tolist()
    figure = go.Figure()
    for colour, (name, column) in zip(COLOURS, counts.items(), strict=False):
        figure.add_bar(x=middles, y=column.tolist(), width=widths, name=name, marker_color=colour)
    what = "intra-group weight" if alone else "weight, intra x inter"
    figure.update_layout(
        barmode="stack", bargap=0, height=300, xaxis={"title": what}, yaxis={"title": "pairs", "rangemode": "tozero"},
        uirevision="pairs",
    )  # fmt: skip
    bins = pd.Index([f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)], name=what)
    return chart_value(
        figure,
        title="How the weights spread",
        summary=f"Histogram of {len(every)} weights from {every.min():.4g} to {every.max():.4g}, "
        f"mean {every.mean():.4g}.",
        table=pd.DataFrame(counts, index=bins),
        note="A weight of 1 trains as plain DPO does; above 1 counts more.",
    )
