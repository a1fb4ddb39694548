"""Everything on the result side of the page, as updates of its widgets in one fixed order."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import gradio as gr

from sr_core.backbones import SFT, adapter_label
from sr_core.runs import CandidateRecord
from sr_core.ui.grid import EMPTY, render_grid
from sr_core.ui.instant import level_chart, level_words
from sr_core.ui.library import KEEP_S
from sr_core.ui.pictures import comparison
from sr_core.ui.status import render_status
from sr_core.ui.tables import render_details
from sr_core.ui.visits import Shown, Visit

Update = Any
"""A value for a widget, or what `gr.update` returns."""


class Panel(NamedTuple):
    """One value or update per widget of the result side."""

    status: Any
    switcher: Any
    """Chooses among the runs of several photos."""
    taste: Any
    """Holds the faithful-to-vivid slider."""
    grid: Any
    viewer: Any
    keep: Any
    """Holds the downloads."""
    details: Any
    link: Any
    """The run's name for its link, once it is kept."""
    level: Any
    """The chart of the level that one step began at."""


def show(visit: Visit, *, problems: Sequence[str] = (), words: str = "", num_expected: int = 0) -> Panel:
    """Return the result side as it should be now."""
    shown, record = visit.on_screen, visit.candidate
    status = render_status(shown, problems=problems, words=words)
    if shown is None:
        grid = render_grid(None, picked=None, num_expected=num_expected) if num_expected else EMPTY
        return Panel(status, _switcher(visit), _hidden(), grid, None, _hidden(), "", None, None)
    picked = None if record is None else record.index
    viewer = None if record is None else {**comparison(shown, record), "caption": _caption(shown, record)}
    ranked = any(other.rank is not None for other in shown.run.candidates)
    return Panel(
        status,
        _switcher(visit),
        gr.update(visible=ranked),
        render_grid(shown, picked=picked, num_expected=num_expected or shown.job.num_candidates),
        viewer,
        gr.update(visible=shown.finished and record is not None),
        render_details(shown.run),
        _link(shown),
        level_chart(shown.run),
    )


def waiting(visit: Visit, num_expected: int, words: str) -> Panel:
    """Return the result side between the press on the button and the first candidate."""
    grid = render_grid(None, picked=None, num_expected=num_expected)
    return Panel(render_status(None, words=words), _switcher(visit), _hidden(), grid, None, _hidden(), "", None, None)


def _link(shown: Shown) -> dict[str, str] | None:
    run_id = shown.run.values.get("id")
    return {"run": run_id, "kept": f"{KEEP_S / 3600:.0f} hours"} if run_id and shown.finished else None


def _switcher(visit: Visit) -> Update:
    choices = [(f"{place + 1}. {shown.name}", place) for place, shown in enumerate(visit.shown)]
    return gr.update(choices=choices, value=visit.current if choices else None, visible=len(choices) > 1)


def _caption(shown: Shown, record: CandidateRecord) -> str:
    width, height = shown.run.values["size"]
    adapter = shown.run.values["adapter"]
    words = f"{record.name} \u00b7 {width} \u00d7 {height} px"
    if adapter != SFT:
        words += f" \u00b7 {adapter_label(adapter)}"
    return words if record.level is None else f"{words} {level_words(record.level)}"


def _hidden() -> Update:
    return gr.update(visible=False)
