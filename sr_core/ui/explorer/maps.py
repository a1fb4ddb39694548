"""Two maps of invented detail side by side: what varies between seeds, and what the input cannot hold."""

from typing import Any

import gradio as gr

from sr_core.errors import InputError
from sr_core.ui.explorer.chart import table_html
from sr_core.ui.explorer.comparer import MAPS, ask_server, pictures_stamp
from sr_core.ui.explorer.level_maps import (
    ABOVE,
    ABOVE_LEGEND,
    SPREAD,
    SPREAD_LEGEND,
    above_map,
    figures_table,
    magnitude_colours,
    spread_map,
)
from sr_core.ui.explorer.run_pictures import run_pictures
from sr_core.ui.theme import static_text
from sr_core.ui.visits import Shown, Visit, VisitStore


class MapsSection:
    """The spread between candidates beside the energy above the input's Nyquist frequency."""

    name = "maps"
    label = "Maps"

    def build(self, store: VisitStore) -> list[Any]:
        """Lay out both maps; they are made when the browser asks for them."""
        widget = gr.HTML(
            None,
            html_template=static_text("maps.html"),
            js_on_load=static_text("ask.js") + static_text("maps.js"),
            elem_id="sr-maps",
            apply_default_css=False,
        )
        ask_server(
            widget, "want_maps", store=store, line=MAPS, look=lambda shown, event: both_maps(shown, str(event.picture))
        )
        return [widget]

    def show(self, visit: Visit) -> list[Any]:
        """Return the pictures that the second map can be of, the best candidate first."""
        shown = visit.on_screen
        if shown is None or shown.run.best is None:
            return [None]
        pictures = [picture for picture in run_pictures(shown) if picture.kind != "input"]
        pictures.sort(key=lambda picture: picture.kind != "candidate")
        return [
            {
                "run": shown.key,
                "stamp": pictures_stamp(pictures),
                "colours": magnitude_colours(),
                "pictures": [(picture.id, picture.words) for picture in pictures],
            }
        ]


def both_maps(shown: Shown, picture_id: str) -> dict[str, Any]:
    """Return both maps of a run and the table of their figures; words alone for one that cannot be made."""
    above = above_map(shown, picture_id)
    try:
        varies = spread_map(shown)
    except InputError as error:
        varies = {"map": SPREAD, "url": None, "legend": SPREAD_LEGEND, "words": str(error)}
    maps = [one for one in (varies, above) if one["url"] is not None]
    for one in maps:
        figures = one["figures"]
        one["spoken"] = f"Mean {figures['mean']:.2f}, largest {figures['largest']:.1f} levels"
    lq, (width, height) = shown.run.values["input"], shown.run.values["size"]
    if (lq["width"], lq["height"]) == (width, height):
        above["legend"] = f"{ABOVE_LEGEND}; the output has the input's size, so there is none"
    return {SPREAD: varies, ABOVE: above, "table": table_html(figures_table(maps), caption="Numbers of the maps")}
