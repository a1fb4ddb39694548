"""The table of a run's spectral numbers, whose candidates the browser sorts."""

from html import escape
from math import isnan

from sr_core.runs import CandidateRecord, Run
from sr_core.ui.explorer.pins import INPUT, PRIOR, REFERENCE, candidate_id, pin_button
from sr_core.ui.explorer.spectra_charts import BASIS_NAMES, NAMES, View, crop_words
from sr_core.ui.pictures import extreme_of

COLUMNS = {
    "name": "Candidate",
    "rank": "Rank",
    "reward": "Reward",
    "distance": "Distance",
    "fidelity": "Against the input",
    "share": "Share of energy",
    "level": "Against 1/f\u00b2",
}
"""Columns of the table by key."""
_DASH = "\u2013"
_ATTRIBUTES = 'tabindex="0" role="region" aria-label="Spectral numbers of each candidate"'


def spectra_table(view: View) -> str:
    """Return the table of every picture's numbers, whose candidates the browser sorts, with buttons to compare."""
    report, run = view.report, view.run
    distance = "LSD to the reference" if report.target == "reference" else "Below Nyquist: distance to the input"
    head = "".join(
        f'<th scope="col" data-key="{key}" aria-sort="none">'
        f'<button type="button" data-sort="{key}">{words}</button></th>'
        for key, words in COLUMNS.items()
    )
    groups = (
        f'<td></td><td colspan="2"></td><th scope="colgroup">{distance}</th>'
        '<th scope="colgroup">Below Nyquist: fidelity</th>'
        '<th scope="colgroup" colspan="2">Above: invention</th><td></td>'
    )
    shown = [record for record in run.ranked if candidate_id(record) in report.pictures]
    rows = "".join(_row(view, candidate_id(record), _name(run, record), record) for record in shown)
    others = "".join(_row(view, name, words, None) for name, words in NAMES.items() if name in report.pictures)
    caption = f"Spectral numbers by {BASIS_NAMES[view.basis]}; each column can be sorted"
    return (
        '<div class="sr-block sr-spectra-numbers"><h4>Numbers of each candidate</h4>'
        f'<div class="sr-scroller" {_ATTRIBUTES}><table class="sr-numbers sr-sortable">'
        f'<caption class="sr-hidden">{caption}</caption><thead><tr>{groups}</tr>'
        f'<tr>{head}<th scope="col">Open against</th></tr></thead>'
        f'<tbody>{rows}</tbody><tbody class="sr-fixed">{others}</tbody></table></div>'
        f'<p class="sr-chart-note">{_words(view)}</p></div>'
    )


def _name(run: Run, record: CandidateRecord) -> str:
    extreme = extreme_of(run, record)
    return f"{record.name} ({extreme.lower()})" if extreme else record.name


def _row(view: View, picture: str, name: str, record: CandidateRecord | None) -> str:
    found, basis = view.report.pictures[picture], view.basis
    itself = picture == view.report.target == REFERENCE
    rank = None if record is None else record.rank
    reward = None if record is None else record.reward
    cells = {
        "rank": (rank, str(rank)),
        "reward": (reward, _DASH if reward is None else f"{reward:.3f}"),
        "distance": (None if itself else found.distance, f"{found.distance:.2f} dB"),
        "fidelity": (found.fidelity[basis], f"{found.fidelity[basis]:+.2f} dB"),
        "share": (found.share[basis], f"{100 * found.share[basis]:.3g} %"),
        "level": (found.level[basis], f"{found.level[basis]:+.2f} dB"),
    }
    written = "".join(_cell(value, text) for value, text in cells.values())
    against = [other for other in (INPUT, PRIOR, REFERENCE) if other in view.report.pictures and other != picture]
    pins = "".join(
        pin_button(_short(other), picture, other, spoken=f"Open {name} against the {_short(other).lower()}")
        for other in against
    )
    place = 0 if record is None else record.index
    return f'<tr><th scope="row" data-value="{place}">{escape(name)}</th>{written}<td class="sr-pins">{pins}</td></tr>'


def _short(picture: str) -> str:
    return NAMES[picture].split(",")[0]


def _cell(value: float | int | None, text: str) -> str:
    known = value is not None and not isnan(value)
    return f'<td data-value="{value!r}">{text}</td>' if known else f"<td>{_DASH}</td>"


def _words(view: View) -> str:
    limit = f"{view.report.nyquist:.4g} cycles per output pixel"
    distance = (
        "LSD: root-mean-square difference of the whole pictures' Hann-windowed radial spectra, from 1 cycle per "
        "shorter side to 1/2 cycle per pixel"
        if view.report.target == "reference"
        else f"Distance: root-mean-square level against the input's own Hann-windowed spectrum below its Nyquist "
        f"frequency ({limit}), for want of a reference"
    )
    return (
        f"{crop_words(view.report)}{distance}; 0 dB is equal. "
        "Fidelity: mean level against the input's own spectrum below its Nyquist frequency. Invention: the part "
        "of the energy, without the mean, at or above that frequency on either axis, and its level against the "
        "1/f\u00b2 continuation of the input's low frequencies. "
        f"Fidelity and invention by {BASIS_NAMES[view.basis]}."
    )
