"""The table of a run's spectral numbers, whose candidates the browser sorts and filters."""

from math import isnan
from typing import Any

from sr_core.runs import CandidateRecord, Run
from sr_core.ui.explorer.number_table import Cell, Column, head_cell, row_cell, row_head, table_value
from sr_core.ui.explorer.pins import INPUT, PRIOR, REFERENCE, candidate_id, pin_button
from sr_core.ui.explorer.spectra_charts import BASIS_NAMES, NAMES, View, crop_words
from sr_core.ui.pictures import extreme_of

COLUMNS = (
    Column("name", "Candidate", "Candidate, as it was drawn"),
    Column("rank", "Rank", "Rank"),
    Column("reward", "Reward", "Reward"),
    Column("distance", "Distance", "Distance, dB"),
    Column("fidelity", "Against the input", "Fidelity against the input, dB"),
    Column("share", "Share of energy", "Share of energy above, %"),
    Column("level", "Against 1/f\u00b2", "Level above against 1/f\u00b2, dB"),
)
_DASH = "\u2013"


def spectra_table(view: View) -> dict[str, Any]:
    """Return the table of every picture's numbers for `table_widget`, with buttons to compare.

    Only candidates are sorted and filtered; the input, the prior and the reference stay below them.
    """
    report, run = view.report, view.run
    distance = "LSD to the reference" if report.target == "reference" else "Below Nyquist: distance to the input"
    groups = (
        f'<td></td><td colspan="2"></td><th scope="colgroup">{distance}</th>'
        '<th scope="colgroup">Below Nyquist: fidelity</th>'
        '<th scope="colgroup" colspan="2">Above: invention</th><td></td>'
    )
    head = f'<tr>{groups}</tr><tr>{"".join(map(head_cell, COLUMNS))}<th scope="col">Open against</th></tr>'
    shown = [record for record in run.ranked if candidate_id(record) in report.pictures]
    rows = "".join(_row(view, candidate_id(record), _name(run, record), record) for record in shown)
    others = "".join(_row(view, name, words, None) for name, words in NAMES.items() if name in report.pictures)
    return table_value(
        head, f'<tbody>{rows}</tbody><tbody class="sr-fixed">{others}</tbody>', COLUMNS, rows="candidates",
        caption=f"Spectral numbers of each candidate by {BASIS_NAMES[view.basis]}",
        title="Numbers of each candidate", sort="rank", note=_words(view),
    )  # fmt: skip


def _name(run: Run, record: CandidateRecord) -> str:
    extreme = extreme_of(run, record)
    return f"{record.name} ({extreme.lower()})" if extreme else record.name


def _row(view: View, picture: str, name: str, record: CandidateRecord | None) -> str:
    found, basis = view.report.pictures[picture], view.basis
    itself = picture == view.report.target == REFERENCE
    rank = None if record is None else record.rank
    reward = None if record is None else record.reward
    share = 100 * found.share[basis]
    cells = {
        "rank": Cell(rank, str(rank)),
        "reward": Cell(reward, "" if reward is None else f"{reward:.3f}"),
        "distance": Cell(None if itself else found.distance, f"{found.distance:.2f} dB"),
        "fidelity": Cell(found.fidelity[basis], f"{found.fidelity[basis]:+.2f} dB"),
        "share": Cell(share, f"{share:.3g} %"),
        "level": Cell(found.level[basis], f"{found.level[basis]:+.2f} dB"),
    }
    written = "".join(row_cell(key, _known(cell)) for key, cell in cells.items())
    against = [other for other in (INPUT, PRIOR, REFERENCE) if other in view.report.pictures and other != picture]
    pins = "".join(
        pin_button(_short(other), picture, other, spoken=f"Open {name} against the {_short(other).lower()}")
        for other in against
    )
    place = 0 if record is None else record.index
    return f'<tr>{row_head("name", Cell(place, name))}{written}<td class="sr-pins">{pins}</td></tr>'


def _short(picture: str) -> str:
    return NAMES[picture].split(",")[0]


def _known(cell: Cell) -> Cell:
    """Return a cell as it is, or a dash where there is no number."""
    return Cell(None, _DASH) if cell.value is None or isnan(cell.value) else cell


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
