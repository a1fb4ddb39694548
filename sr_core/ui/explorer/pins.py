"""Buttons that open pictures of a run in the comparer, as HTML."""

from html import escape

from sr_core.runs import CandidateRecord

INPUT, PRIOR, REFERENCE = "input", "prior", "reference"
"""Picture ids of what a run holds beside its candidates."""


def candidate_id(record: CandidateRecord) -> str:
    """Return the picture id of a candidate."""
    return f"candidate-{record.index}"


def before_id(record: CandidateRecord) -> str:
    """Return the picture id of the same seed drawn by the run's adapter to compare with."""
    return f"before-{record.index}"


def pin_button(
    words: str, right: str, left: str | None = None, run: str | None = None, *, spoken: str | None = None
) -> str:
    """Return a button that puts `right`, and `left` if named, into the comparer.

    Both are picture ids; `run` is the key of another run of the visit that is opened first. `spoken` names the button
    where its words alone do not tell it from its neighbours.
    """
    places = {"right": right, "left": left, "run": run}
    data = "".join(f' data-pin-{side}="{escape(value)}"' for side, value in places.items() if value is not None)
    name = "" if spoken is None else f' aria-label="{escape(spoken)}"'
    return f'<button type="button" class="sr-pin"{name}{data}>{escape(words)}</button>'
