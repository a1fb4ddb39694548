"""Where a run stands and what its photo had to be told, as HTML."""

from collections.abc import Sequence
from html import escape

from sr_core.ui.plans import duration
from sr_core.ui.visits import Shown

WELCOME = '<div class="sr-status sr-hidden" role="status"><p>Nothing restored yet.</p></div>'


def render_status(
    shown: Shown | None, *, problems: Sequence[str] = (), words: str = "", share: float | None = None
) -> str:
    """Return the line above the grid; `share` in [0, 1] draws how much is done."""
    lines = [f'<p class="sr-alert" role="alert">{escape(problem)}</p>' for problem in problems]
    if shown is not None:
        source, size = shown.run.values["input"], shown.run.values["size"]
        state = words or shown.message
        if shown.seconds is not None:
            state += f" in {duration(shown.seconds)}"
        lines.append(
            f"<p><strong>{escape(shown.name)}</strong> {source['width']} &times; {source['height']} "
            f"&rarr; {size[0]} &times; {size[1]} px &middot; {escape(state)}</p>"
        )
        lines += [f'<p class="sr-note">Note: {escape(notice)}</p>' for notice in shown.run.values["notices"]]
    elif words:
        lines.append(f"<p>{escape(words)}</p>")
    if share is not None:
        percent = round(100 * share)
        lines.append(
            f'<div class="sr-meter" role="progressbar" aria-label="Restoring" aria-valuenow="{percent}" '
            f'aria-valuemin="0" aria-valuemax="100"><span style="width:{percent}%"></span></div>'
        )
    return f'<div class="sr-status" role="status">{"".join(lines)}</div>' if lines else WELCOME
