"""The table of an audit's seeds: what each became, its rewards and its distances to the full-quality photo."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from math import isfinite
from typing import Any, NamedTuple

from sr_core.adapter_comparison import AdapterComparison, SeedChange
from sr_core.backbones import adapter_label
from sr_core.runs import CandidateRecord, Run
from sr_core.ui.explorer.number_table import Cell, Column, head_cell, row_cell, row_head, table_value
from sr_core.ui.explorer.pins import REFERENCE, before_id, candidate_id, pin_button
from sr_core.ui.pictures import preview
from sr_core.ui.visits import Shown

_DISTANCES_NOTE = (
    "PSNR (higher is better) and LSD, the log-spectral distance (lower is better), compare with the full-quality photo "
    "too; they are not part of the reward."
)
_JOINED_NOTE = (
    "Candidates that joined have no seed that both adapters could draw, so they are not in this table; they are ranked "
    "under Ranking."
)
_DASH = "\u2013"


class _Distance(NamedTuple):
    """A distance to the full-quality photo, as a run stores it and as it is shown."""

    key: str
    words: str
    form: str
    lower_is_better: bool


_DISTANCES = (_Distance("psnr", "PSNR, dB", ".2f", False), _Distance("lsd", "LSD, dB", ".3f", True))


def audit_of(run: Run) -> Mapping[str, Any]:
    """Return what a run keeps of its audit; nothing where it was not made by one."""
    recipe = run.values.get("audit")
    return recipe if isinstance(recipe, Mapping) else {}


def seeds_table(shown: Shown, comparison: AdapterComparison | None) -> Any:  # noqa: ANN401 - a value, or "" for none
    """Return one row per seed with its pictures, rewards and distances, for `table_widget`.

    The pictures open it in the comparer. Candidates that joined have rows too where one adapter drew; with two there is
    nothing to set against them, and the note says where they are.
    """
    run = shown.run
    if not run.candidates:
        return ""
    other = run.values.get("compare_adapter")
    places = {seed.index: seed for seed in comparison.seeds} if comparison is not None else {}
    columns = list(_columns(run, other))
    drawn = [record for record in run.candidates if record.seed is not None]
    joined = len(drawn) < len(run.candidates)
    records = run.candidates if other is None else drawn
    rows = "".join(_row(shown, record, other, columns, places.get(record.index)) for record in records)
    title = "Every seed and joined candidate" if joined else "Every seed"
    notes = [_DISTANCES_NOTE] if "distances" in audit_of(run) else []
    notes += [_JOINED_NOTE] if joined and other is not None else []
    return table_value(
        _head(columns, other), f"<tbody>{rows}</tbody>", columns, rows="seeds", sort="seed",
        title=title if other is None else "The same seeds by both adapters",
        caption=f"{title}, scored against the full-quality photo" if other is None
        else "The same seeds by both adapters; rewards over the union of their candidates",
        note=" ".join(notes),
    )  # fmt: skip


def _columns(run: Run, other: str | None) -> Iterator[Column]:
    yield Column("seed", "Seed", "Seed, as it was drawn")
    after = adapter_label(run.values["adapter"])
    if other is None:
        yield Column("reward", "Reward", "Reward", ascending=False)
        yield Column("rank", "Rank", "Rank")
        for distance in _DISTANCES:
            yield Column(distance.key, distance.words, distance.words, distance.lower_is_better)
        return
    before = adapter_label(other)
    yield Column("change", "Change", "Change of the reward", ascending=False)
    for side, name in (("before", before), ("after", after)):
        yield Column(f"reward-{side}", name, f"Reward, {name}", ascending=False)
    for distance in _DISTANCES:
        for side, name in (("before", before), ("after", after)):
            yield Column(f"{distance.key}-{side}", name, f"{distance.words}, {name}", distance.lower_is_better)


def _head(columns: Sequence[Column], other: str | None) -> str:
    first, *rest = map(head_cell, columns)
    names = f'<tr>{first}<th scope="col">Look</th>{"".join(rest)}</tr>'
    if other is None:
        return f'<tr><td></td><td colspan="{len(columns)}"></td></tr>{names}'
    groups = "".join(
        f'<th scope="colgroup" colspan="{span}">{words}</th>'
        for words, span in (("Reward", 3), *((distance.words, 2) for distance in _DISTANCES))
    )
    return f"<tr><td></td><td></td>{groups}</tr>{names}"


def _row(
    shown: Shown, record: CandidateRecord, other: str | None, columns: Sequence[Column], place: SeedChange | None
) -> str:
    cells = dict(_cells(shown.run, record, other, place))
    written = "".join(row_cell(column.key, cells[column.key]) for column in columns[1:])
    return (
        f"<tr>{row_head('seed', Cell(record.index, record.name))}<td>{_look(shown, record, other)}</td>{written}</tr>"
    )


def _cells(
    run: Run, record: CandidateRecord, other: str | None, place: SeedChange | None
) -> Iterator[tuple[str, Cell]]:
    """Yield one seed's numbers by column."""
    if other is None:
        yield "reward", _number(record.reward, ".4f")
        yield "rank", _number(record.rank, "d")
        for distance in _DISTANCES:
            yield distance.key, _number(_stored(run, "candidates", record.index, distance.key), distance.form)
        return
    for key in ("change", "before", "after"):
        value = None if place is None else getattr(place, key)
        yield ("change", _number(value, "+.4f")) if key == "change" else (f"reward-{key}", _number(value, ".4f"))
    for distance in _DISTANCES:
        for side, kept in (("before", "before"), ("after", "candidates")):
            yield f"{distance.key}-{side}", _number(_stored(run, kept, record.index, distance.key), distance.form)


def _number(value: float | int | None, form: str) -> Cell:
    return Cell(None, _DASH) if value is None else Cell(value, format(value, form))


def _stored(run: Run, side: str, index: int, metric: str) -> float | int | None:
    """Return a stored distance to the reference; a run from elsewhere may hold anything in its place."""
    entry = _joined_distances(run, index)
    if entry is None:
        stored = audit_of(run).get("distances")
        entries = stored.get(side) if isinstance(stored, Mapping) else None
        entry = entries[index] if isinstance(entries, Sequence) and index < len(entries) else None
    value = entry.get(metric) if isinstance(entry, Mapping) else None
    return value if isinstance(value, float | int) and isfinite(value) else None


def _joined_distances(run: Run, index: int) -> object:
    """Return what is stored of a candidate that joined; None for another, and for one of an earlier version."""
    joined = run.values.get("joined")
    for entry in joined if isinstance(joined, Sequence) else ():
        if isinstance(entry, Mapping) and entry.get("index") == index:
            return entry.get("distances")
    return None


def _look(shown: Shown, record: CandidateRecord, other: str | None) -> str:
    """Return a seed's pictures with the button that opens them in the comparer."""
    thumbs = ""
    if record.before is not None and other is not None:
        thumbs += _thumb(shown, record, record.before, f"{record.name} by {adapter_label(other)}")
    if record.file is not None:
        thumbs += _thumb(shown, record, record.file, record.label)
    button = ""
    if record.file is not None and record.before is not None and other is not None:
        words = f"{adapter_label(shown.run.values['adapter'])} against {adapter_label(other)}"
        button = pin_button(words, candidate_id(record), before_id(record), run=shown.key)
    elif record.file is not None and other is None and shown.run.values["reference"]:
        button = pin_button("against the truth", candidate_id(record), REFERENCE, run=shown.key)
    return f'<div class="sr-audit-look"><span>{thumbs}</span>{button}</div>' if thumbs else _DASH


def _thumb(shown: Shown, record: CandidateRecord, file: str, label: str) -> str:
    address = preview(shown, replace(record, file=file))
    return f'<img src="{escape(address)}" alt="{escape(label)}" decoding="async">'
