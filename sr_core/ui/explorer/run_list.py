"""The runs that a browser may see, as HTML: those on its page, and those that it made or opened before."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path

from PIL import Image as PillowImage

from sr_core.backbones import adapter_label
from sr_core.errors import InputError
from sr_core.runs import Run
from sr_core.scoring import local_pixels
from sr_core.ui.pictures import file_url
from sr_core.ui.visits import Visit, VisitStore

MAX_PICTURED = 60
"""Rows with a picture; making one takes a moment, so older runs are listed by their words."""
THUMB_SIDE = 192
_NO_THUMB = '<span class="sr-run-thumb" aria-hidden="true"></span>'
_STATUS = {"done": "finished", "stopped": "stopped early", "drawing": "in the making"}


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One run of the list."""

    run: Run
    run_id: str
    is_own: bool
    """Whether this browser made it and so may delete it."""
    on_screen: bool


def owns(store: VisitStore, visit: Visit, run_id: str) -> bool:
    """Return whether this browser made a run: on this page, or earlier, by the key that it got then."""
    made_here = any(shown.run.values.get("id") == run_id for shown in visit.shown) and run_id not in visit.opened
    return made_here or store.library.is_owner(run_id, visit.owner_keys.get(run_id, ""))


def listed_runs(store: VisitStore, visit: Visit) -> list[Listed]:
    """Return the runs of a page, newest first, then those that its browser remembers and that are still kept."""
    current = visit.on_screen
    found: dict[str, Listed] = {}
    for shown in reversed(visit.shown):
        run_id = str(shown.run.values.get("id") or shown.key)
        own = owns(store, visit, run_id)
        found[run_id] = Listed(run=shown.run, run_id=run_id, is_own=own, on_screen=shown is current)
    for run_id in visit.remembered:
        if run_id not in found:
            try:
                run = store.library.look(run_id)
            except InputError:
                continue
            found[run_id] = Listed(run=run, run_id=run_id, is_own=owns(store, visit, run_id), on_screen=False)
    return list(found.values())


def render_runs(store: VisitStore, visit: Visit) -> str:
    """Return the list as HTML, each run with the words that a search looks in."""
    rows = enumerate(listed_runs(store, visit))
    return "".join(_row(visit, listed, pictured=place < MAX_PICTURED) for place, listed in rows)


def _row(visit: Visit, listed: Listed, *, pictured: bool) -> str:
    run, run_id = listed.run, escape(listed.run_id)
    name = str(run.values["input"]["name"])
    facts = [*_facts(run), *([] if listed.is_own else ["opened by its link"])]
    now = ' aria-current="true"' if listed.on_screen else ""
    badge = '<span class="sr-run-now">on screen</span>' if listed.on_screen else ""
    words = " ".join((name, *facts)).casefold()
    drop = (
        f'<button type="button" class="sr-pin sr-run-delete" data-action="delete" data-run="{run_id}" '
        f'aria-label="Delete {escape(name)}">Delete</button>'
        if listed.is_own
        else f'<button type="button" class="sr-pin" data-action="forget" data-run="{run_id}" '
        f'aria-label="Take {escape(name)} off this list">Take off the list</button>'
    )
    kept = run.values.get("status") in ("done", "stopped")
    actions = (
        f'<button type="button" class="sr-pin" data-action="open" data-run="{run_id}" '
        f'aria-label="Open {escape(name)}">Open</button>'
        f'<button type="button" class="sr-pin" data-action="copy" data-run="{run_id}" '
        f'aria-label="Copy the link of {escape(name)}">Copy link</button>'
        f'<button type="button" class="sr-pin" data-action="export" data-run="{run_id}" '
        f'aria-label="Download {escape(name)} as zip">Zip</button>{drop}'
        if kept
        else ""
    )
    return (
        f'<li class="sr-run"{now} data-words="{escape(words)}">{_thumb(visit, listed) if pictured else _NO_THUMB}'
        f'<div class="sr-run-words"><p class="sr-run-name">{escape(name)} {badge}</p>'
        f"<p>{' &middot; '.join(escape(fact) for fact in facts)}</p></div>"
        f'<div class="sr-run-actions">{actions}</div></li>'
    )


def _facts(run: Run) -> Iterator[str]:
    """Yield what tells one run from another."""
    values = run.values
    yield _moment(values.get("created_at"))
    yield "{} \u00d7 {} px".format(*values["size"])
    joined = sum(record.source is not None for record in run.candidates)
    drawn = f"{len(run.candidates)} candidates" if len(run.candidates) != 1 else "1 candidate"
    yield f"{drawn}, {joined} of them joined" if joined else drawn
    yield adapter_label(str(values["adapter"]))
    if values.get("reference"):
        yield "with reference"
    best = run.best
    if best is not None and best.reward is not None:
        yield f"best reward {best.reward:.3f} ({best.name})"
    if values.get("status") != "done":
        yield _STATUS.get(str(values.get("status")), "unfinished")
    if values.get("origin_id"):
        yield "a copy"


def _moment(text: object) -> str:
    try:
        return f"{datetime.fromisoformat(str(text)):%d %b %Y, %H:%M} UTC"
    except ValueError:
        return "date unknown"


def _thumb(visit: Visit, listed: Listed) -> str:
    path = _thumb_file(visit, listed)
    if path is None:
        return _NO_THUMB
    return f'<img class="sr-run-thumb" src="{escape(file_url(path))}" alt="" loading="lazy">'


def _thumb_file(visit: Visit, listed: Listed) -> Path | None:
    """Return a small picture of a run's best candidate, made once per page."""
    best = listed.run.best
    if best is None or not listed.run.path(best).is_file():
        return None
    path = visit.folder / "thumbs" / f"{listed.run_id}-{best.index}.png"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        image = PillowImage.fromarray(local_pixels(listed.run.path(best)))
        image.thumbnail((THUMB_SIDE, THUMB_SIDE), PillowImage.Resampling.BICUBIC, reducing_gap=3.0)
        image.save(path, compress_level=1)
    return path


def render_members(run: Run) -> str:
    """Return a run's candidates in their ranking, with where each came from and how one that joined leaves again."""
    entries = {entry["index"]: entry for entry in run.values.get("joined") or ()}
    rows = ""
    for record in run.ranked:
        rank = "\u2013" if record.rank is None else str(record.rank)
        reward = "\u2013" if record.reward is None else f"{record.reward:.3f}"
        entry = entries.get(record.index)
        button = (
            f'<button type="button" class="sr-pin" data-part="{record.index}" '
            f'aria-label="Take {escape(record.name)} out">Take out</button>'
            if record.source is not None
            else ""
        )
        rows += (
            f'<tr><th scope="row">{escape(record.name)}</th><td>{rank}</td><td>{reward}</td>'
            f"<td>{escape(_origin(entry, run))}</td><td>{button}</td></tr>"
        )
    return (
        '<div class="sr-scroller" tabindex="0" role="region" aria-label="Members of the run">'
        '<table class="sr-numbers sr-members"><caption class="sr-hidden">Candidates by rank</caption><thead><tr>'
        '<th scope="col">Candidate</th><th scope="col">Rank</th><th scope="col">Reward</th>'
        '<th scope="col">From</th><th scope="col"><span class="sr-hidden">Action</span></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _origin(entry: dict[str, object] | None, run: Run) -> str:
    if entry is None:
        return f"drawn by {adapter_label(str(run.values['adapter']))}"
    if entry.get("kind") != "model":
        return str(entry.get("origin"))
    return f"{entry.get('architecture')} \u00d7{entry.get('scale')}, {entry.get('origin')}"
