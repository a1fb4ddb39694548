"""Hold-outs and spectra of runs, taken on request and kept while the page is served, and how they are shown."""

from collections import OrderedDict
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from sr_core.disagreement import FEWEST_CANDIDATES, OUTLIER_Z, Correlation, Statistic, correlate, spectrum_outliers
from sr_core.hold_outs import LSD, HoldOuts, hold_out_term, take_hold_outs
from sr_core.rewards.group import CONSISTENCY
from sr_core.runs import Run
from sr_core.ui.explorer.chart import table_html
from sr_core.ui.explorer.pins import INPUT, candidate_id, pin_button
from sr_core.ui.explorer.ranking_table import arrow_of
from sr_core.ui.explorer.scope import Scope, name_of, record_of
from sr_core.ui.tables import label_of

MOST_KEPT = 256
"""Runs whose checks are kept; the ones unused for longest go first."""
REWARD = "reward"
Found = Mapping[int, HoldOuts]
"""Checks by the run's place in the scope."""


class CheckStore:
    """Checks by run and its scored files; a run that changes is checked anew."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, HoldOuts] = OrderedDict()

    def take(self, run: Run) -> HoldOuts:
        """Return a run's hold-outs, taken now unless they are kept; raises as `take_hold_outs` does."""
        key = _key(run)
        if key not in self._kept:
            self._kept[key] = take_hold_outs(run)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def kept(self, run: Run) -> HoldOuts | None:
        """Return a run's hold-outs where they are kept."""
        return self._kept.get(_key(run))


def _key(run: Run) -> tuple[Any, ...]:
    return (str(run.folder), *((record.index, record.file) for record in run.candidates if record.scores))


def check_label(key: str) -> str:
    """Return a hold-out's name for people."""
    if key.removeprefix(CONSISTENCY) == LSD:
        return "LSD (dB) to the input, at its size" if key.startswith(CONSISTENCY) else "LSD (dB) to the reference"
    return label_of(key)


def resampled_words(found: Correlation) -> str | None:
    """Return what a correlation's interval resamples, for people; nothing where it has none."""
    return None if found.resampled is None else {"photos": "photos", "candidates": "candidates"}[found.resampled]


def render_checks(store: CheckStore, scope: Scope, statistic: Statistic) -> str:
    """Return the tables of hold-outs and spectrum outliers of the runs that were checked, and what is missing."""
    found = {
        number: checks for number, entry in enumerate(scope.shown) if (checks := store.kept(entry.run)) is not None
    }
    if not found:
        return (
            '<p class="sr-words">Hold-outs are metrics that the ranking does not use: log-spectral distance, PSNR, '
            "ST-LPIPS and PIQE, against the reference or else the input. They show whether the ranking holds where it "
            "was not looking. Taking them costs seconds to minutes.</p>"
        )
    waiting = len(scope.shown) - len(found)
    note = f'<p class="sr-words">{waiting} of {len(scope.shown)} runs are not checked yet.</p>' if waiting else ""
    return f"{note}{_hold_outs(scope, found, statistic)}{_outliers(scope, found)}"


def _hold_outs(scope: Scope, found: Found, statistic: Statistic) -> str:
    """Return how each hold-out agrees with the reward."""
    table = correlate(
        [{REWARD: scope.groups[n].reward.reward, **checks.normalised} for n, checks in found.items()], statistic,
        photos=[scope.photos[n] for n in found],
    )  # fmt: skip
    name = {"kendall": "Kendall tau-b", "spearman": "Spearman rho"}[statistic]
    rows = []
    for key in dict.fromkeys(key for checks in found.values() for key in checks.raw):
        agreement = table.between(REWARD, key) if key in table.keys else None
        arrow, _ = arrow_of(hold_out_term(key).lower_is_better)
        rows.append(
            {
                "Hold-out": f"{check_label(key)} {arrow}",
                f"{name} with the reward": None if agreement is None else agreement.value,
                "95 % from": None if agreement is None else agreement.low,
                "to": None if agreement is None else agreement.high,
                "Candidates": 0 if agreement is None else agreement.num_candidates,
                "Runs": 0 if agreement is None else agreement.num_groups,
                "Photos": 0 if agreement is None else agreement.num_photos,
                "Resampled": None if agreement is None else resampled_words(agreement),
                "Puts first": "; ".join(
                    _first(scope, n, checks, key) for n, checks in found.items() if key in checks.raw
                ),
            }
        )
    frame = pd.DataFrame(rows).set_index("Hold-out").astype(object)
    missing = {key: reason for checks in found.values() for key, reason in checks.left_out.items()}
    lines = "".join(f"<li>{escape(check_label(key))}: {escape(reason)}</li>" for key, reason in missing.items())
    lacking = f'<ul class="sr-chart-note">{lines}</ul>' if lines else ""
    return _block(
        "Hold-outs against the reward", frame,
        "Above 0 the hold-out confirms the order, below 0 it contradicts it; an interval around 0 says neither.",
        lacking,
    )  # fmt: skip


def _first(scope: Scope, number: int, checks: HoldOuts, key: str) -> str:
    """Return the candidate that a hold-out places highest in a run, or how many share that place."""
    best = np.flatnonzero(checks.normalised[key] == checks.normalised[key].max()).tolist()
    return name_of(scope, number, best[0]) if len(best) == 1 else f"{len(best)} alike"


def _outliers(scope: Scope, found: Found) -> str:
    """Return how far each candidate's spectrum lies from its group's, farthest first."""
    rows = []
    for number, checks in found.items():
        if len(checks.decibels) < FEWEST_CANDIDATES:
            continue
        far = spectrum_outliers(checks.decibels)
        for place, distance in enumerate(far.distance.tolist()):
            rows.append((distance, None if far.z is None else float(far.z[place]), number, place))
    rows.sort(key=lambda row: -row[0])
    body = ""
    for distance, z, number, place in rows:
        name, record = name_of(scope, number, place), record_of(scope, number, place)
        key = scope.shown[number].key
        pin = pin_button("Open", candidate_id(record), INPUT, key, spoken=f"Open {name} against the input")
        words = "undefined" if z is None else f"{z:+.2f}"
        verdict = "outlier" if z is not None and z > OUTLIER_Z else "\u2013"
        body += (
            f'<tr><th scope="row">{escape(name)}</th><td>{distance:.3f}</td><td>{words}</td><td>{verdict}</td>'
            f"<td>{pin}</td></tr>"
        )
    title = "Outliers in spectrum"
    return (
        f'<div class="sr-block"><h2>{title}</h2>'
        f'<div class="sr-scroller" tabindex="0" role="region" aria-label="{title}">'
        f'<table class="sr-numbers"><caption class="sr-hidden">{title}</caption><thead><tr>'
        '<th scope="col">Candidate</th><th scope="col">Distance, dB</th><th scope="col">Robust z</th>'
        '<th scope="col">Verdict</th><th scope="col">Open</th></tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="sr-chart-note">Distance: root mean square, over radial bins, of '
        "the candidate's power spectrum against the group's median, in dB. Robust z counts the spread of these "
        f"distances (1.4826 MAD) above their median; an outlier lies above {OUTLIER_Z:g}. With few candidates it is "
        "rough.</p></div>"
    )


def _block(title: str, frame: pd.DataFrame, note: str, extra: str) -> str:
    return (
        f'<div class="sr-block"><h2>{title}</h2>'
        f'<div class="sr-scroller" tabindex="0" role="region" aria-label="{title}">'
        f'{table_html(frame, caption=title)}</div><p class="sr-chart-note">{note}</p>{extra}</div>'
    )
