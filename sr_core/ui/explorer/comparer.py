"""Any two pictures of a run side by side, at true pixels."""

from typing import Any

import gradio as gr

from sr_core.regions import Box, Region, find_regions
from sr_core.scoring import local_pixels
from sr_core.ui.explorer.chart import table_html
from sr_core.ui.explorer.crop_table import drift_table
from sr_core.ui.explorer.level_maps import SPREAD, above_map, magnitude_colours, spread_map
from sr_core.ui.explorer.pins import INPUT, candidate_id
from sr_core.ui.explorer.run_pictures import picture_value, run_pictures
from sr_core.ui.theme import static_text
from sr_core.ui.visits import Shown, Visit, VisitStore
from sr_core.ui.words import in_words

LOOKING: dict[str, Any] = {
    "concurrency_id": "looking",
    "concurrency_limit": 1,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""How events are wired that read the run's files: one at a time, beside the model."""


def answer_widget(event_name: str) -> gr.HTML:
    """Return a widget without a face: what an event returns to it reaches the browser's scripts under that name."""
    script = f'const eventName = "{event_name}";\n{static_text("comparer_answer.js")}'
    return gr.HTML(None, html_template="", js_on_load=script, elem_id=event_name)


class ComparerEvents:
    """What the comparer asks the server for: maps, crops worth a look, and their numbers."""

    def __init__(self, store: VisitStore) -> None:
        self._store = store

    def level_map(self, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        """Return a map of the run on screen for an overlay."""
        shown = self._shown(request)
        with in_words():
            value = spread_map(shown) if event.map == SPREAD else above_map(shown, str(event.picture))
        return {"run": shown.key, **value}

    def regions(self, request: gr.Request) -> dict[str, Any]:
        """Return crops of the run on screen where faces or text were found."""
        shown = self._shown(request)
        best = next((picture for picture in run_pictures(shown) if picture.kind == "candidate"), None)
        found = [] if best is None else find_regions(local_pixels(best.path))
        return {"run": shown.key, "regions": [_region_value(region, found) for region in found]}

    def numbers(self, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        """Return the edge drift of every picture in a crop of the run on screen."""
        shown = self._shown(request)
        box = Box(*(int(part) for part in event.box))
        with in_words():
            table, note = drift_table(shown, box)
        words = f"Edge drift at {box.left}, {box.top}, {box.width} x {box.height} px"
        return {"run": shown.key, "box": list(box), "table": table_html(table, caption=words), "note": note}

    def _shown(self, request: gr.Request) -> Shown:
        with in_words():
            return self._store.visit(request.session_hash).require()[0]


def build_comparer(store: VisitStore) -> gr.HTML:
    """Lay out the comparer, wire what it asks the server for, and return its widget.

    Its event `open_run` asks for another run of the visit, named by `run`.
    """
    events = ComparerEvents(store)
    widget = gr.HTML(
        None, html_template=static_text("comparer.html"), js_on_load=static_text("comparer.js"), elem_id="sr-comparer",
        apply_default_css=False,
    )  # fmt: skip
    answer = answer_widget("sr-comparer-answer")
    widget.want_map(events.level_map, None, answer, **LOOKING)
    widget.want_regions(events.regions, None, answer, **LOOKING)
    widget.want_numbers(events.numbers, None, answer, **LOOKING)
    return widget


def comparer_value(visit: Visit) -> dict[str, Any] | None:
    """Return what the comparer shows of the run on screen: every picture with its words and its lossless file."""
    shown = visit.on_screen
    if shown is None or shown.run.best is None:
        return None
    width, height = shown.run.values["size"]
    lq = shown.run.values["input"]
    return {
        "run": shown.key,
        "id": shown.run.values.get("id"),
        "name": shown.name,
        "width": width,
        "height": height,
        "input": [lq["width"], lq["height"]],
        "pictures": [picture_value(shown, picture) for picture in run_pictures(shown)],
        "colours": magnitude_colours(),
        "left": INPUT,
        "right": candidate_id(shown.run.best),
    }


def _region_value(region: Region, found: list[Region]) -> dict[str, Any]:
    same = [other for other in found if other.kind == region.kind]
    number = f" {same.index(region) + 1}" if len(same) > 1 else ""
    return {"words": f"{region.kind.capitalize()}{number}", "box": list(region.box)}
