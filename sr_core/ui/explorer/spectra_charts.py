"""Charts of a run's spectra and of what two objectives see in a pair, from the report's numbers."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import log10
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sr_core.runs import CandidateRecord, Run
from sr_core.spectra import Basis
from sr_core.spectral_report import PARTS_PER_OCTAVE, Numbers, PairBands, SpectralReport
from sr_core.ui.explorer.chart import COLOURS, chart_value
from sr_core.ui.explorer.pins import INPUT, PRIOR, REFERENCE, candidate_id
from sr_core.ui.pictures import extreme_of

BLUE, ORANGE, GREEN, PINK, RED, _, GREY, OLIVE = COLOURS
BASIS_NAMES: dict[Basis, str] = {"dct": "DCT-II", "fft": "FFT, Hann window"}
POWER_NAMES: dict[Basis, str] = {"dct": "Mean power of luma", "fft": "Mean power of luma, windowed"}
"""A window takes power away: white noise has 0.14 of its variance left under the Hann window, and all of it without."""
UNITS = {"output": "output pixel", "input": "input pixel"}
TICKS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Few enough for a phone."""
LEGEND = {"yref": "container", "y": 0, "yanchor": "bottom"}
"""Below the title of the axis, however many lines it takes."""
TARGETS = {"reference": "the reference", "prior": "the prior", "input": "the input enlarged by bicubic"}
NAMES = {INPUT: "Input, bicubic", PRIOR: "Prior", REFERENCE: "Reference"}
OTHERS, GUIDE, PLAIN = "Other candidates", "natural guide 1/f\u00b2", "Plain DPO"
NUM_WEIGHTS = 129
"""Points of the curve of weights."""


class Line(NamedTuple):
    """How a picture is drawn."""

    picture: str
    name: str
    colour: str
    dash: str
    width: float
    faint: bool = False
    """Whether it shares one entry of the legend with its like."""


class View(NamedTuple):
    """A run's report as it is looked at."""

    run: Run
    report: SpectralReport
    basis: Basis
    unit: str
    """"output" or "input": whose pixels frequencies are counted by."""

    @property
    def factor(self) -> float:
        """How many output pixels lie along one pixel of the unit."""
        return 1.0 if self.unit == "output" else 0.5 / self.report.nyquist

    @property
    def frequency(self) -> Numbers:
        """The report's frequencies in the unit."""
        return self.report.frequency[self.basis] * self.factor


def candidate_name(run: Run, record: CandidateRecord) -> str:
    """Return a candidate's name with its rank, and whether it is the best or the worst."""
    if record.rank is None:
        return record.name
    extreme = extreme_of(run, record)
    return f"{record.name} (rank {record.rank}{f', {extreme.lower()}' if extreme else ''})"


def lines(run: Run, report: SpectralReport) -> list[Line]:
    """Return how every picture is drawn, faint ones first so that the others lie on top."""
    best, worst = run.best, run.worst
    shown = [record for record in run.ranked if candidate_id(record) in report.pictures]
    faint, strong = [], []
    for record in shown:
        name = candidate_name(run, record)
        if best is not None and record.index == best.index:
            strong.append(Line(candidate_id(record), name, BLUE, "solid", 2.6))
        elif worst is not None and record.index == worst.index:
            strong.append(Line(candidate_id(record), name, RED, "dash", 2.2))
        else:
            faint.append(Line(candidate_id(record), name, GREY, "solid", 0.9, faint=True))
    context = [
        Line(INPUT, NAMES[INPUT], ORANGE, "dot", 2.0),
        Line(PRIOR, NAMES[PRIOR], GREEN, "dashdot", 2.0),
        Line(REFERENCE, NAMES[REFERENCE], PINK, "longdash", 2.2),
    ]
    return [*faint, *(line for line in context if line.picture in report.pictures), *strong]


def powers_chart(view: View) -> dict[str, Any]:
    """Return the radial power spectra of all pictures on logarithmic axes, with the natural guide."""
    report, basis, drawn = view.report, view.basis, lines(view.run, view.report)
    powers = {line.picture: report.pictures[line.picture].power[basis] for line in drawn}
    guide = {
        "type": "scatter", "x": view.frequency, "y": report.guide[basis], "name": GUIDE, "mode": "lines",
        "line": {"color": OLIVE, "dash": "longdashdot", "width": 1.4}, "hoverinfo": "skip",
    }  # fmt: skip
    axis = {
        "type": "log", "title": {"text": POWER_NAMES[basis], "standoff": 8}, "exponentformat": "power", "dtick": 2,
    }  # fmt: skip
    figure = _figure(view, [guide, *_traces(view, drawn, powers, "%{y:.3g}")], axis)
    count = sum(name.startswith("candidate-") for name in report.pictures)
    summary = (
        f"Power spectra of {count} candidates, {', '.join(line.name for line in drawn if line.picture in NAMES)} and "
        f"a {GUIDE} by {BASIS_NAMES[basis]}, from low to high frequency; {_limit_words(view)}."
    )
    note = (
        f"{crop_words(report)}Mean over all directions, {PARTS_PER_OCTAVE} points an octave; hover for names, click to "
        "compare with the input. A line that leaves the others at high frequencies is noise, blur or a pattern."
    )
    table = _table(view, drawn, powers)
    table[GUIDE] = report.guide[basis]
    title = f"Power by frequency, {BASIS_NAMES[basis]}"
    return chart_value(figure, title=title, summary=summary, table=table, note=note)


def levels_chart(view: View) -> dict[str, Any]:
    """Return every picture's level in dB: fidelity below the input's Nyquist frequency, invention above it."""
    report, basis, drawn = view.report, view.basis, lines(view.run, view.report)
    levels = {line.picture: report.relative(line.picture, basis) for line in drawn}
    axis = {"title": {"text": "Level, dB"}, "zeroline": True}
    figure = _figure(view, list(_traces(view, drawn, levels, "%{y:.2f} dB")), axis)
    summary = (
        f"Levels of {len(drawn)} pictures in dB by frequency: against the input's own spectrum below its Nyquist "
        f"frequency, against the 1/f\u00b2 continuation above it; {_limit_words(view)}."
    )
    note = (
        "Left of the line, fidelity: 0 dB has the input's own power, below is softer, above is sharpened. Right of it, "
        "invention: the input holds nothing there; 0 dB is as much fine detail as the 1/f\u00b2 of natural images "
        "predicts from its low frequencies. Power alone does not say that detail is true."
    )
    table = _table(view, drawn, levels)
    title = f"Fidelity and invention by frequency, {BASIS_NAMES[basis]}"
    return chart_value(figure, title=title, summary=summary, table=table, note=note)


def weights_chart(frequency: Numbers, weights: Numbers, exponent: float | int) -> dict[str, Any]:
    """Return the Sobolev weights along one axis beside the weight of plain DPO, which is one."""
    kept = np.unique(np.linspace(0, len(frequency) - 1, min(len(frequency), NUM_WEIGHTS)).round().astype(int))
    frequency, weights = frequency[kept], weights[kept]
    figure = go.Figure()
    plain = {"color": BLUE, "width": 2}
    figure.add_scatter(x=frequency[[0, -1]], y=[1, 1], name=PLAIN, line=plain, mode="lines", hoverinfo="skip")
    figure.add_scatter(
        x=frequency, y=weights, name=_sobolev_name(exponent), line={"color": ORANGE, "width": 2.4, "dash": "dash"},
        mode="lines", hovertemplate="%{x:.4f} cycles per output pixel: weight %{y:.4g}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(height=360, uirevision="weights", legend=LEGEND)
    figure.update_xaxes(title="Cycles per output pixel")
    figure.update_yaxes(type="log", title={"text": "Weight", "standoff": 8}, exponentformat="power", dtick=1)
    table = pd.DataFrame({"Weight": weights}, index=pd.Index([f"{f:.4f}" for f in frequency], name="Frequency"))
    summary = (
        f"Sobolev weight for exponent {exponent:g}: {weights[0]:.4g} at the mean, {weights[-1]:.4g} at the highest "
        "frequency along an axis; plain DPO weighs every frequency 1."
    )
    note = (
        "w = (1 + |\u03c9|\u00b2)^s with \u03c9 = 32 k/n on each axis of the DCT-II, divided by its mean over all "
        "coefficients; shown along one axis. Exponent 0 is plain DPO."
    )
    return chart_value(figure, title="What a frequency weighs", summary=summary, table=table, note=note)


def bands_chart(bands: PairBands, winner: str, loser: str, exponent: float | int, *, note: str = "") -> dict[str, Any]:
    """Return the energy by which the loser's residual exceeds the winner's, band by band, as both objectives see it."""
    target, middle = TARGETS[bands.target], (bands.edges[1:] + bands.edges[:-1]) / 2
    spans = [f"{low:.3f} to {high:.3f}" for low, high in zip(bands.edges[:-1], bands.edges[1:], strict=True)]
    figure = go.Figure()
    drawn = {PLAIN: (bands.plain, BLUE, ""), _sobolev_name(exponent): (bands.sobolev, ORANGE, "/")}
    for name, (energies, colour, shape) in drawn.items():
        figure.add_bar(
            x=middle, y=energies, name=name, customdata=spans, marker={"color": colour, "pattern": {"shape": shape}},
            hovertemplate=f"%{{customdata}}: %{{y:.4g}}<extra>{escape(name)}</extra>",
        )  # fmt: skip
    figure.update_layout(height=400, barmode="group", bargap=0.15, uirevision="bands", legend=LEGEND)
    figure.update_xaxes(title="Cycles per output pixel")
    figure.update_yaxes(title={"text": "Loser minus winner", "standoff": 8}, exponentformat="power", showexponent="all")
    table = pd.DataFrame({PLAIN: bands.plain, _sobolev_name(exponent): bands.sobolev}, index=spans)
    table.loc["All bands"] = [bands.plain.sum(), bands.sobolev.sum()]
    table.index.name = "Band"
    return chart_value(
        figure,
        title=f"{winner} over {loser}: what each objective sees",
        summary=_bands_summary(bands, winner, loser, exponent),
        table=table,
        note=f"{note}Residual energy of the loser less that of the winner, over all three channels, pixels in 0 to 1: "
        f"positive bands back the preference; above 0.5 lie diagonals. Residuals are taken from {target}. In training "
        "a model's answers at noise levels stand in their place; here the pictures themselves do.",
    )


def _bands_summary(bands: PairBands, winner: str, loser: str, exponent: float | int) -> str:
    plain, sobolev = float(bands.plain.sum()), float(bands.sobolev.sum())
    return (
        f"Against {TARGETS[bands.target]}, the mean square error of {loser} less that of {winner} is {plain:.4g}: "
        f"plain DPO sees that. Their Sobolev energies at exponent {exponent:g} differ by {sobolev:.4g}."
    )


def crop_words(report: SpectralReport) -> str:
    """Return a sentence on what is judged where it is not the whole picture."""
    if report.crop.whole:
        return ""
    height, width = report.crop.size
    return f"Judged by the centre {width} \u00d7 {height} px. "


def _limit_words(view: View) -> str:
    limit = view.report.nyquist * view.factor
    return f"the input's Nyquist frequency is {limit:.4g} cycles per {UNITS[view.unit]}"


def _sobolev_name(exponent: float | int) -> str:
    return f"Sobolev-DPO, exponent {exponent:g}"


def _traces(view: View, drawn: Sequence[Line], values: Mapping[str, Numbers], number: str) -> Iterator[dict[str, Any]]:
    """Yield pictures over the frequency as Plotly's lines; a click on a point opens the picture beside the input."""
    named, unit = False, f"cycles per {UNITS[view.unit]}"
    for line in drawn:
        yield {
            "type": "scatter",
            "x": view.frequency,
            "y": values[line.picture],
            "mode": "lines",
            "name": OTHERS if line.faint else escape(line.name),
            "line": {"color": line.colour, "dash": line.dash, "width": line.width},
            "opacity": 0.6 if line.faint else 1.0,
            "legendgroup": "others" if line.faint else line.picture,
            "showlegend": not (line.faint and named),
            "customdata": [[INPUT, line.picture]] * len(view.frequency),
            "hovertemplate": f"<b>{escape(line.name)}</b><br>%{{x:.4g}} {unit}<br>{number}<extra></extra>",
        }
        named = named or line.faint


def _figure(view: View, traces: list[dict[str, Any]], levels: dict[str, Any]) -> dict[str, Any]:
    """Return lines on a logarithmic axis of frequency in the view's unit, the input's Nyquist frequency marked."""
    limit = view.report.nyquist * view.factor
    low, high = float(view.frequency[0]), float(view.frequency[-1])
    ticks = [tick for tick in TICKS if low / 1.3 <= tick <= high * 1.1]
    axis = {
        "type": "log",
        "title": {"text": f"Cycles per {UNITS[view.unit]}"},
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
        "tickangle": 0,
        "range": [log10(low / 1.1), log10(high * 1.1)],
    }
    mark = {"type": "line", "x0": limit, "x1": limit, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": PINK}}
    words = {
        "text": "input\u2019s Nyquist", "x": log10(limit), "y": 1, "yref": "paper", "showarrow": False,
        "xanchor": "right", "yanchor": "top", "xshift": -4,
    }  # fmt: skip
    layout = {"height": 460, "hovermode": "closest", "xaxis": axis, "yaxis": levels, "shapes": [mark]}
    key = f"{view.run.folder.name} {view.basis} {view.unit}"
    return {"data": traces, "layout": {**layout, "annotations": [words], "legend": LEGEND, "uirevision": key}}


def _table(view: View, drawn: Sequence[Line], values: Mapping[str, Numbers]) -> pd.DataFrame:
    index = pd.Index([f"{frequency:.4g}" for frequency in view.frequency], name=f"Cycles per {UNITS[view.unit]}")
    columns = np.stack([values[line.picture] for line in reversed(drawn)], axis=1)
    return pd.DataFrame(columns, index=index, columns=[line.name for line in reversed(drawn)])
