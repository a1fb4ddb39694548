"""Preference pairs of the run on screen: which pairs training would draw, with which weights, and their export."""

from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from typing import Any

import gradio as gr

from sr_core.errors import InputError, SRError
from sr_core.preference_data.pairing import Paired, num_scored
from sr_core.runs import Run
from sr_core.ui.explorer.chart import chart_widget
from sr_core.ui.explorer.pair_view import (
    IN_VIEW,
    OWN,
    SHIPPED,
    Choice,
    View,
    describe,
    heat_map,
    histogram,
    left_out,
    look,
    plural,
)
from sr_core.ui.explorer.section import FILES, LIGHT
from sr_core.ui.pictures import file_url
from sr_core.ui.theme import static_text
from sr_core.ui.visits import Visit, VisitStore
from sr_core.ui.words import in_words

THIS_RUN, ALL_RUNS = "this", "all"
"""What is exported."""

_PRESETS = [
    ("DP2O-SR for SD2, N/M = 1/4 (8 of 32)", "c-sd2"),
    ("DP2O-SR for FLUX, N/M = 1/16 (4 of 64)", "c-flux"),
    ("My own N and M", OWN),
]
_INTRO = """<p class="sr-words"><strong>Which pairs would training draw from this group?</strong> The N best of the
first M candidates against the N worst, weighed as DP2O-SR does: <em>intra</em> says how large a pair's gap is among the
group's, <em>inter</em> how far the group spreads among groups, and training takes their product. Pick a cell to
compare its two pictures.</p>"""
_NOTHING = """<p class="sr-words"><strong>No pairs yet.</strong> A run needs at least two scored candidates.</p>"""
_EXPORT = """<p class="sr-words"><strong>Export as training data</strong> A folder of Parquet tables, candidates and
pairs as shown above, that <code class="sr-nowrap">python -m train prefer</code> reads, as one zip. Photos are
inside.</p>"""


class PairsSection:
    """Heat map, table and histogram of the pairs, and their export."""

    name = "pairs"
    label = "Pairs"

    def build(self, store: VisitStore) -> list[Any]:
        """Lay out the settings, the charts and the export."""
        gr.HTML(_INTRO)
        with gr.Row(elem_id="sr-pairs-settings"):
            preset = gr.Dropdown(_PRESETS, value="c-sd2", label="Setting", filterable=False, elem_id="sr-pairs-preset")
            top = gr.Number(None, label="N best against N worst", precision=0, elem_id="sr-pairs-top")
            count = gr.Number(None, label="M: first candidates", precision=0, elem_id="sr-pairs-count")
            spread = gr.Dropdown(
                [("Shipped curation statistics", SHIPPED), ("All runs in view", IN_VIEW)],
                value=SHIPPED, label="Groups to compare with (\u03bc\u03c3)", filterable=False,
                elem_id="sr-pairs-spread",
            )  # fmt: skip
        words = gr.HTML("", elem_id="sr-pairs-words")
        heat = chart_widget("sr-pairs-heat")
        histogram = chart_widget("sr-pairs-histogram")
        with gr.Column(elem_id="sr-pairs-export") as export:
            gr.HTML(_EXPORT)
            with gr.Row():
                scope = gr.Radio(
                    [("This run", THIS_RUN), ("All runs in view", ALL_RUNS)], value=THIS_RUN, label="Which runs",
                    elem_id="sr-pairs-scope",
                )  # fmt: skip
                save = gr.Button("Export as training data", variant="primary", elem_id="sr-pairs-save")
            told = gr.HTML("", elem_id="sr-pairs-told")
            offer = gr.HTML(None, html_template="", js_on_load=static_text("save.js"), elem_id="sr-pairs-offer")
        filled = [preset, top, count, spread, words, heat, histogram, export, told]

        def choose(request: gr.Request, preset: str, top: float | None, count: float | None, spread: str) -> list[Any]:
            visit = store.visit(request.session_hash)
            visit.choices[self.name] = Choice(preset, count, top, spread)
            return self.show(visit)

        def type_in(request: gr.Request, top: float | None, count: float | None) -> list[Any]:
            visit = store.visit(request.session_hash)
            own = replace(self._choice(visit), preset=OWN, top=top, num_candidates=count)
            visit.choices[self.name] = own
            return [OWN, gr.skip(), gr.skip(), *self.show(visit)[3:]]

        def write(request: gr.Request, scope: str) -> tuple[dict[str, str], str]:
            return self._export(store.visit(request.session_hash), scope)

        for chosen in (preset, spread):
            chosen.input(choose, [preset, top, count, spread], filled, **LIGHT)
        for typed in (top, count):
            typed.input(type_in, [top, count], filled, trigger_mode="always_last", **LIGHT)
        save.click(write, scope, [offer, told], **FILES)
        return filled

    def _choice(self, visit: Visit) -> Choice:
        choice: Choice = visit.choices.get(self.name, Choice())
        return choice

    def _look(self, visit: Visit) -> View:
        if visit.on_screen is None:
            raise InputError("there must be a restored photo first; drop one and press Run")
        runs = [shown.run for shown in visit.shown]
        return look(visit.on_screen.run, runs, self._choice(visit), visit.fidelity_weight)

    def show(self, visit: Visit) -> list[Any]:
        """Show the pairs of the run on screen, or say in words why there are none."""
        choice = self._choice(visit)
        told = ""
        try:
            view = self._look(visit)
        except SRError as error:
            alert = f'<p class="sr-alert" role="alert">{escape(str(error))}</p>'
            words = alert if visit.on_screen and num_scored(visit.on_screen.run) > 1 else _NOTHING
            typed = [choice.preset, choice.top, choice.num_candidates, choice.spread]
            return [*typed, words, None, None, gr.update(visible=False), told]
        return [
            choice.preset,
            view.settings.top,
            view.settings.num_candidates,
            choice.spread,
            describe(view, choice),
            heat_map(view),
            histogram(view),
            gr.update(visible=True),
            told,
        ]

    def _export(self, visit: Visit, scope: str) -> tuple[dict[str, str], str]:
        """Pack the pairs on screen, or those of all runs in view, and hand the zip to the browser."""
        from sr_core.preference_data.export import export_runs, pack_dataset

        with in_words():
            view = self._look(visit)
            paired = view.paired if scope == ALL_RUNS else Paired([view.current.run], [])
            folder = visit.new_download_folder() / "preference_pairs"
            refused = export_runs(paired, folder, view.settings, view.spread, datetime.now(UTC))
            target = pack_dataset(folder, folder.with_name(_file_name(view.current.run, len(paired.runs))))
        count = len(paired.runs) + len(paired.refused) - len(refused)
        words = escape(f"{plural('run', count)} in {target.name}. Unpack it and train with")
        told = f'<p class="sr-words" role="status">{words} <code>{_COMMAND}</code></p>{left_out(refused)}'
        return {"address": file_url(target), "name": target.name}, told


_COMMAND = (
    "python -m train prefer train/recipes/compact_hpo.yaml dataset=preference_pairs pairs.source=table "
    "cache=preference_cache output=preference_run"
)


def _file_name(run: Run, count: int) -> str:
    stem = str(run.values["input"]["name"]).rpartition(".")[0] or "photo"
    return f"{stem}_pairs.zip" if count == 1 else f"pairs_of_{count}_runs.zip"
