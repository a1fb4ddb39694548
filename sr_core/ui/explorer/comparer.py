"""Any two pictures of a run side by side, at true pixels."""

from typing import Any

import gradio as gr

from sr_core.ui.visits import Visit, VisitStore


def build_comparer(store: VisitStore) -> gr.HTML:  # noqa: ARG001
    """Lay out the comparer and return its widget."""
    return gr.HTML(None, elem_id="sr-comparer")


def comparer_value(visit: Visit) -> dict[str, Any] | None:  # noqa: ARG001
    """Return what the comparer shows of the run on screen."""
    return None
