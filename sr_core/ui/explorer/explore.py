"""The tab Explore: run and slider at its head, the comparer below, then one view after another."""

from typing import Any

import gradio as gr

from sr_core.ui.explorer.comparer import OPEN_FAILED, build_comparer, comparer_value
from sr_core.ui.explorer.section import LIGHT, Section
from sr_core.ui.explorer.sections import EXPLORE
from sr_core.ui.visits import Visit, VisitStore
from sr_core.ui.words import in_words

NOTHING_YET = (
    '<p class="sr-words"><strong>Nothing to look at yet.</strong> Restore a photo first, or open a run under Runs.</p>'
)


class Explore:
    """Lays out the tab and keeps what is on screen in step with the visit."""

    def __init__(self, store: VisitStore, sections: tuple[Section, ...] = EXPLORE) -> None:
        self._store, self._sections = store, sections

    def build(self, tab: gr.Tab) -> None:
        """Lay out the head, the comparer and the views inside the open tab, and wire them."""
        with gr.Column(elem_id="sr-explore"):
            words = gr.HTML(NOTHING_YET)
            with gr.Row(visible=False, elem_id="sr-explore-head") as head:
                switcher = gr.Dropdown([], label="Run", filterable=False, container=False, elem_id="sr-explore-run")
                taste = gr.Slider(
                    0, 100, 50, step=5, label="From faithful, 0, to vivid, 100", buttons=[], elem_id="sr-explore-taste"
                )
            comparer = build_comparer(self._store)
            tabs, filled = [], []
            with gr.Tabs(elem_id="sr-views", overflow_behavior="wrap"):
                for section in self._sections:
                    with gr.Tab(section.label, id=section.name, elem_id=f"sr-tab-{section.name}") as view:
                        filled.append(section.build(self._store))
                    tabs.append(view)
        outputs = [words, head, switcher, taste, comparer, *(widget for widgets in filled for widget in widgets)]
        counts = [len(widgets) for widgets in filled]

        def refreshed(visit: Visit) -> list[Any]:
            return [*self._head(visit), comparer_value(visit), *self._views(visit, counts)]

        def refresh(request: gr.Request) -> list[Any]:
            return refreshed(self._store.visit(request.session_hash))

        def switch(key: str, request: gr.Request) -> list[Any]:
            visit = self._store.visit(request.session_hash)
            with in_words():
                visit.show_run(key)
            return refreshed(visit)

        def open_pinned(event: gr.EventData, request: gr.Request) -> list[Any]:
            return switch(str(event.run), request)

        def rank(taste: float | int, request: gr.Request) -> list[Any]:
            visit = self._store.visit(request.session_hash)
            visit.rank_by(1 - taste / 100)
            visit.explore_weight = visit.fidelity_weight
            self._store.keep_order(visit)
            # The slider has moved on by the time of the answer: an answer that set it would take steps back.
            return [gr.skip()] * 4 + refreshed(visit)[4:]

        self._refresh, self._outputs = refresh, outputs
        tab.select(refresh, None, outputs, **LIGHT)
        switcher.input(switch, switcher, outputs, **LIGHT)
        opened = comparer.open_run(open_pinned, None, outputs, **LIGHT)
        opened.failure(None, None, None, js=OPEN_FAILED, **LIGHT)
        taste.input(rank, taste, outputs, trigger_mode="always_last", **LIGHT)
        for section, view, widgets in zip(self._sections, tabs, filled, strict=True):
            view.select(self._opener(section), None, widgets, **LIGHT)

    def follow(self, event: Any) -> None:  # noqa: ANN401 - Gradio's dependencies have no public type
        """Refresh the tab once an event has changed what is on screen, for those who opened it before."""
        event.then(self._refresh, None, self._outputs, **LIGHT)

    def _opener(self, section: Section) -> Any:  # noqa: ANN401 - Gradio reads its signature
        def open_view(request: gr.Request) -> Any:  # noqa: ANN401 - one value, or a list of several
            visit = self._store.visit(request.session_hash)
            visit.view = section.name
            values = section.show(visit)
            # Gradio takes what a function with one output returns for that output's value.
            return values[0] if len(values) == 1 else values

        return open_view

    def _head(self, visit: Visit) -> list[Any]:
        choices = [(f"{place + 1}. {shown.name}", shown.key) for place, shown in enumerate(visit.shown)]
        shown = visit.on_screen
        # Opening the tab sets the slider only where another one moved: it may be in somebody's hand by then.
        stale = visit.explore_weight != visit.fidelity_weight
        visit.explore_weight = visit.fidelity_weight
        return [
            "" if shown else NOTHING_YET,
            gr.update(visible=shown is not None),
            gr.update(choices=choices, value=None if shown is None else shown.key),
            round(100 * (1 - visit.fidelity_weight)) if stale else gr.skip(),
        ]

    def _views(self, visit: Visit, counts: list[int]) -> list[Any]:
        """Return values for the view on screen; the others are filled when they are opened."""
        current = visit.view or (self._sections[0].name if self._sections else "")
        values: list[Any] = []
        for section, count in zip(self._sections, counts, strict=True):
            values += section.show(visit) if section.name == current else [gr.skip()] * count
        return values
