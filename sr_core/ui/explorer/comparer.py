"""Any two pictures of a run side by side, at true pixels."""

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image as PillowImage

from sr_core.errors import InputError, SRError
from sr_core.files import replace_text
from sr_core.regions import Box, Region, find_regions
from sr_core.scoring import local_pixels
from sr_core.ui.explorer.chart import table_html
from sr_core.ui.explorer.crop_table import drift_table
from sr_core.ui.explorer.level_maps import SPREAD, above_map, magnitude_colours, spread_map
from sr_core.ui.explorer.pins import INPUT, candidate_id
from sr_core.ui.explorer.run_pictures import RunPicture, find_picture, picture_value, run_pictures
from sr_core.ui.explorer.section import LIGHT
from sr_core.ui.theme import static_text
from sr_core.ui.visits import Shown, Visit, VisitStore

MOST_WAITING = 16
"""Looks that may wait in a line; more are sent away with a word."""
BUSY = "too many people look at pictures right now"
GONE = "that run is not here any more"
OPEN_FAILED = """() => { window.dispatchEvent(new CustomEvent("sr-open-failed")); }"""
"""Tells the comparer that its event `open_run` came to nothing."""
Look = Callable[[Shown, gr.EventData], dict[str, Any]]


class Line:
    """What reads a run's files, one after another: beside the model, and out of the queue of restorations."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._num_waiting = 0

    async def run(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Return what the work returns once it is its turn; None if the line is full."""
        if self._num_waiting >= MOST_WAITING:
            return None
        self._num_waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._num_waiting -= 1
        try:
            return await asyncio.to_thread(work)
        finally:
            self._turn.release()


MAPS, CROPS = Line(), Line()
"""Maps of large pictures take long; nobody's crop waits for them."""


def ask_server(widget: gr.HTML, event_name: str, *, store: VisitStore, line: Line, look: Look) -> None:
    """Let a widget's script ask something about a run of the visit, named by `run`, by its event `want_NAME`.

    The answer reaches the browser's scripts as the event `sr-NAME`. Its `run` is the one that was asked about; where
    there is no answer, `problem` says why and `again` whether asking again may help.
    """
    answer_name = event_name.replace("want_", "sr-")
    script = f'const eventName = "{answer_name}";\n{static_text("comparer_answer.js")}'
    answer = gr.HTML(None, html_template="", js_on_load=script, elem_id=answer_name, elem_classes="sr-answer")

    async def wanted(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        visit = store.visit(request.session_hash)
        found = await line.run(lambda: looked(visit, event, look))
        # A widget that gets the same value twice says nothing: the number makes every answer a new one.
        return {"number": event.number, **(found or {"run": str(event.run), "problem": BUSY, "again": True})}

    asked = getattr(widget, event_name)(wanted, None, answer, trigger_mode="multiple", **LIGHT)
    failed = f'() => {{ window.dispatchEvent(new CustomEvent("{answer_name}", {{ detail: null }})); }}'
    asked.failure(None, None, None, js=failed, **LIGHT)


def looked(visit: Visit, event: gr.EventData, look: Look) -> dict[str, Any]:
    """Return an answer about the run that an event names, which need not be the one on screen."""
    run = str(event.run)
    try:
        shown = next((shown for shown in visit.shown if shown.key == run), None)
        if shown is None:
            raise InputError(GONE)
        return {"run": run, **look(shown, event)}
    except SRError as error:
        return {"run": run, "problem": str(error), "again": False}
    except FileNotFoundError:
        # The run was deleted meanwhile.
        return {"run": run, "problem": GONE, "again": False}


def pictures_stamp(pictures: Iterable[RunPicture]) -> str:
    """Return what changes when pictures come or go; another order, and the words that it changes, leave it as it is."""
    return " ".join(sorted(picture.id for picture in pictures))


def is_transparent(path: Path) -> bool:
    """Return whether a file has opacity beside its colours: canvases hold the product, which rounds the colours."""
    with PillowImage.open(path) as image:
        return image.has_transparency_data


def level_map(shown: Shown, event: gr.EventData) -> dict[str, Any]:
    """Return a map of the run for an overlay."""
    return spread_map(shown) if event.map == SPREAD else above_map(shown, str(event.picture))


def regions(shown: Shown, event: gr.EventData) -> dict[str, Any]:
    """Return crops of the run where faces or text were found in the picture asked about; sought once for each file."""
    picture = find_picture(shown, str(event.picture))
    kept = shown.view_folder / f"{picture.id}-{picture.path.stat().st_mtime_ns}.regions.json"
    if not kept.is_file():
        found = find_regions(local_pixels(picture.path))
        replace_text(kept, json.dumps([_region_value(region, found) for region in found]))
    return {"regions": json.loads(kept.read_text())}


def numbers(shown: Shown, event: gr.EventData) -> dict[str, Any]:
    """Return the edge drift of every picture in a crop of the run; ids head the rows, the browser has their words."""
    box = Box(*(int(part) for part in event.box))
    table, note = drift_table(shown, box)
    words = f"Edge drift at {box.left}, {box.top}, {box.width} x {box.height} px"
    return {"table": table_html(table, caption=words), "note": note}


def build_comparer(store: VisitStore) -> gr.HTML:
    """Lay out the comparer, wire what it asks the server for, and return its widget.

    Its event `open_run` asks for another run of the visit, named by `run`; what answers it runs `OPEN_FAILED` where it
    cannot.
    """
    widget = gr.HTML(
        None,
        html_template=static_text("comparer.html"),
        js_on_load=static_text("ask.js") + static_text("comparer.js"),
        elem_id="sr-comparer",
        apply_default_css=False,
    )
    ask_server(widget, "want_map", store=store, line=MAPS, look=level_map)
    ask_server(widget, "want_regions", store=store, line=CROPS, look=regions)
    ask_server(widget, "want_numbers", store=store, line=CROPS, look=numbers)
    return widget


def comparer_value(visit: Visit) -> dict[str, Any] | None:
    """Return what the comparer shows of the run on screen: every picture with its words and its lossless file."""
    shown = visit.on_screen
    if shown is None or shown.run.best is None:
        return None
    width, height = shown.run.values["size"]
    lq, pictures = shown.run.values["input"], run_pictures(shown)
    return {
        "run": shown.key,
        "stamp": pictures_stamp(pictures),
        "id": shown.run.values.get("id"),
        "name": shown.name,
        "width": width,
        "height": height,
        "input": [lq["width"], lq["height"]],
        "pictures": [
            {**picture_value(shown, picture), "transparent": is_transparent(picture.path)} for picture in pictures
        ],
        "colours": magnitude_colours(),
        "left": INPUT,
        "right": candidate_id(shown.run.best),
    }


def _region_value(region: Region, found: list[Region]) -> dict[str, Any]:
    same = [other for other in found if other.kind == region.kind]
    number = f" {same.index(region) + 1}" if len(same) > 1 else ""
    return {"words": f"{region.kind.capitalize()}{number}", "box": list(region.box)}
