"""The view Spectra: where a run's pictures are soft, sharpened or inventive, and what two objectives make of a pair."""

from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr

from sr_core.errors import SRError
from sr_core.runs import CandidateRecord, Run
from sr_core.spectra import Basis
from sr_core.spectral_report import pair_bands, spectral_report, weight_curve
from sr_core.ui.explorer.chart import chart_widget
from sr_core.ui.explorer.number_table import table_widget
from sr_core.ui.explorer.section import LIGHT
from sr_core.ui.explorer.spectra_charts import (
    BASIS_NAMES,
    UNITS,
    View,
    bands_chart,
    candidate_name,
    crop_words,
    levels_chart,
    powers_chart,
    weights_chart,
)
from sr_core.ui.explorer.spectra_table import spectra_table
from sr_core.ui.visits import Visit, VisitStore
from sr_core.ui.words import in_words

MAX_EXPONENT, EXPONENT_STEP = 3.0, 0.25
NOTHING = '<p class="sr-words">There is nothing to measure yet: restore a photo first, or open a run under Runs.</p>'
_ABOUT = """<p class="sr-words">How much detail of each fineness a picture holds. <strong>Below</strong> the input's
Nyquist frequency the photo says how much there should be; <strong>above</strong> it everything is invented.</p>"""
_PAIR_HEAD = """<div class="sr-words"><h4>What training would see in a pair</h4>
<p>Plain DPO counts every frequency alike; Sobolev-DPO counts fine detail more, the more so the higher its exponent.</p>
</div>"""


@dataclass(frozen=True, kw_only=True)
class _Choices:
    """What was set by hand."""

    basis: Basis = "dct"
    unit: str = "output"
    exponent: float = 1.5
    pair: tuple[int | None, int | None] = (None, None)
    """Winner and loser by index; None follows the best and the worst."""
    run: str = ""
    """Key of the run whose candidates the pair names."""


class SpectraSection:
    """Spectra, their numbers, and what two objectives see in a pair."""

    name, label = "spectra", "Spectra"

    def build(self, store: VisitStore) -> list[Any]:
        """Lay out the widgets and wire their events."""
        words = gr.HTML(NOTHING)
        with gr.Column(visible=False, elem_id="sr-spectra") as body:
            gr.HTML(_ABOUT)
            with gr.Row(elem_id="sr-spectra-head"):
                bases = [(name, basis) for basis, name in BASIS_NAMES.items()]
                basis = gr.Radio(bases, value="dct", label="Transform", elem_id="sr-spectra-basis")
                units = [(name.capitalize(), unit) for unit, name in UNITS.items()]
                unit = gr.Radio(units, value="output", label="Frequency in cycles per", elem_id="sr-spectra-unit")
            powers = chart_widget("sr-spectra-powers")
            levels = chart_widget("sr-spectra-levels")
            numbers = table_widget("sr-spectra-table")
            with gr.Column(visible=False, elem_id="sr-spectra-pair") as pair:
                gr.HTML(_PAIR_HEAD)
                with gr.Row(elem_id="sr-spectra-choice"):
                    winner, loser = (
                        gr.Dropdown(
                            [], label=side, filterable=False, min_width=150, elem_id=f"sr-spectra-{side.lower()}"
                        )
                        for side in ("Winner", "Loser")
                    )
                    exponent = gr.Slider(
                        0, MAX_EXPONENT, _Choices.exponent, step=EXPONENT_STEP, label="Sobolev exponent", buttons=[],
                        elem_id="sr-spectra-exponent",
                    )  # fmt: skip
                bands = chart_widget("sr-spectra-bands")
                weights = chart_widget("sr-spectra-weights")
        self._wire(store, (basis, unit), (powers, levels, numbers), (winner, loser, exponent), (bands, weights))
        return [words, body, powers, levels, numbers, pair, winner, loser, bands, weights]

    def show(self, visit: Visit) -> list[Any]:
        """Return the spectra of the run on screen."""
        nothing = [gr.update(visible=False), *[None] * 3, gr.update(visible=False), *[gr.skip()] * 2, None, None]
        run = _drawn(visit)
        if run is None:
            return [NOTHING, *nothing]
        try:
            return ["", gr.update(visible=True), *_spectra(visit, run), *_pair(visit, run)]
        except SRError as error:
            return [f'<p class="sr-words">{escape(str(error))}</p>', *nothing]

    def _wire(
        self, store: VisitStore, basis_unit: tuple[Any, Any], spectra: tuple[Any, ...], choice: tuple[Any, ...],
        seen: tuple[Any, Any],
    ) -> None:  # fmt: skip
        """Connect the widgets; what is chosen is remembered for the next run and the next order."""

        def change_spectra(basis: Basis, unit: str, request: gr.Request) -> list[Any]:
            visit = store.visit(request.session_hash)
            _choose(visit, basis=basis, unit=unit)
            run = _drawn(visit)
            with in_words():
                return [gr.skip()] * len(spectra) if run is None else _spectra(visit, run)

        def change_pair(winner: int, loser: int, exponent: float | int, request: gr.Request) -> list[Any]:
            visit = store.visit(request.session_hash)
            run = _drawn(visit)
            if run is None:
                return [gr.skip()] * len(seen)
            _choose(visit, exponent=float(exponent), pair=_by_hand(run, winner, loser), run=run.folder.name)
            with in_words():
                return _seen(visit, run)

        for widget in basis_unit:
            widget.input(change_spectra, list(basis_unit), list(spectra), trigger_mode="always_last", **LIGHT)
        for widget in choice:
            widget.input(change_pair, list(choice), list(seen), trigger_mode="always_last", **LIGHT)


def _drawn(visit: Visit) -> Run | None:
    """Return the run on screen if it has a picture to look at."""
    run = None if visit.on_screen is None else visit.on_screen.run
    return run if run is not None and run.best is not None else None


def _choices(visit: Visit) -> _Choices:
    chosen = visit.choices.get(SpectraSection.name)
    return chosen if isinstance(chosen, _Choices) else _Choices()


def _choose(visit: Visit, **changes: Any) -> None:  # noqa: ANN401 - fields of the choices
    visit.choices[SpectraSection.name] = replace(_choices(visit), **changes)


def _spectra(visit: Visit, run: Run) -> list[Any]:
    """Return both charts of spectra and the table."""
    chosen = _choices(visit)
    view = View(run, spectral_report(run), chosen.basis, chosen.unit)
    return [powers_chart(view), levels_chart(view), spectra_table(view)]


def _pictured(run: Run) -> list[CandidateRecord]:
    return [record for record in run.ranked if record.file is not None]


def _extremes(run: Run) -> tuple[CandidateRecord, CandidateRecord]:
    """Return the best and the worst; the first and the last picture where fewer than two are ranked."""
    pictured = _pictured(run)
    return run.best or pictured[0], run.worst or pictured[-1]


def _by_hand(run: Run, winner: int, loser: int) -> tuple[int | None, int | None]:
    """Return the pair, None on a side that is what the ranking says: it follows when the order changes."""
    best, worst = _extremes(run)
    return (None if winner == best.index else winner, None if loser == worst.index else loser)


def _winner_and_loser(visit: Visit, run: Run) -> tuple[CandidateRecord, CandidateRecord]:
    """Return the pair on screen: what was chosen of this run, else the best and the worst."""
    chosen, (best, worst) = _choices(visit), _extremes(run)
    by_index = {record.index: record for record in _pictured(run)}
    winner, loser = chosen.pair if chosen.run == run.folder.name else (None, None)
    return (
        best if winner is None else by_index.get(winner, best),
        worst if loser is None else by_index.get(loser, worst),
    )


def _pair(visit: Visit, run: Run) -> list[Any]:
    """Return the part about a pair, its dropdowns and its charts; hidden where there is no pair."""
    pictured = _pictured(run)
    if len(pictured) < 2:
        return [gr.update(visible=False), gr.skip(), gr.skip(), None, None]
    choices = [(candidate_name(run, record), record.index) for record in pictured]
    sides = (gr.update(choices=choices, value=record.index) for record in _winner_and_loser(visit, run))
    return [gr.update(visible=True), *sides, *_seen(visit, run)]


def _seen(visit: Visit, run: Run) -> list[Any]:
    """Return what both objectives see in the pair, and the weights."""
    exponent = _choices(visit).exponent
    winner, loser = _winner_and_loser(visit, run)
    bands = pair_bands(run, winner.index, loser.index, exponent)
    crop = crop_words(spectral_report(run))
    return [
        bands_chart(bands, winner.name, loser.name, exponent, note=crop),
        weights_chart(*weight_curve(run, exponent), exponent),
    ]
