"""Every score of every candidate, and where the scores come from, as HTML tables."""

from collections.abc import Mapping
from html import escape
from typing import Any

from sr_core.backbones import adapter_label
from sr_core.rewards.group import CONSISTENCY, score_term
from sr_core.rewards.registry import metric_spec
from sr_core.runs import CandidateRecord, Run
from sr_core.ui.pictures import extreme_of

_HALVES = {"reference": "Faithful half", "no_reference": "Vivid half"}
_SHOWN_ELSEWHERE = {"key", "name", "label", "half", "note", "lower_is_better", "direction"}


def label_of(key: str) -> str:
    """Return a score's name for people."""
    label = metric_spec(key.removeprefix(CONSISTENCY)).label
    return f"{label} to the input" if key.startswith(CONSISTENCY) else label


def score_keys(run: Run) -> list[str]:
    """Return the scores that the candidates have, reference half first."""
    keys = {key: None for record in run.candidates for key in record.scores}
    return sorted(keys, key=lambda key: score_term(key).half != "reference")


def render_details(run: Run) -> str:
    """Return the score table, the sentence about the reference, what was left out, and the provenance."""
    keys = score_keys(run)
    if not keys:
        return ""
    return f"{_table(run, keys)}{_basis(run)}{_left_out(run)}{_provenance(run)}"


def _table(run: Run, keys: list[str]) -> str:
    best = {key: _best(run, key) for key in keys}
    head = "".join(_column(key) for key in keys)
    groups = ""
    for half, words in _HALVES.items():
        count = sum(score_term(key).half == half for key in keys)
        groups += f'<th scope="colgroup" colspan="{count}">{words}</th>' if count else ""
    rows = "".join(_row(run, record, keys, best) for record in run.ranked)
    return (
        '<div class="sr-scroller" tabindex="0" role="region" aria-label="Scores of every candidate">'
        '<table class="sr-table">'
        "<caption>Raw scores. The arrow says which way is better; the best of a column is bold.</caption>"
        f'<thead><tr><td colspan="3"></td>{groups}</tr><tr><th scope="col">Rank</th><th scope="col">Seed</th>'
        f'<th scope="col">Reward</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _column(key: str) -> str:
    down = score_term(key).lower_is_better
    arrow, words = ("\u2193", "lower is better") if down else ("\u2191", "higher is better")
    note = escape(metric_spec(key.removeprefix(CONSISTENCY)).note)
    return (
        f'<th scope="col" title="{note}">{escape(label_of(key))} <span aria-hidden="true">{arrow}</span>'
        f'<span class="sr-hidden"> ({words})</span></th>'
    )


def _best(run: Run, key: str) -> float:
    values = [record.scores[key] for record in run.candidates if key in record.scores]
    return min(values) if score_term(key).lower_is_better else max(values)


def _row(run: Run, record: CandidateRecord, keys: list[str], best: Mapping[str, float]) -> str:
    if record.problem is not None:
        rank, cells = "failed", f'<td colspan="{len(keys) + 1}">{escape(record.problem)}</td>'
        return f'<tr><th scope="row">{rank}</th><td>{_seed(record)}</td>{cells}</tr>'
    extreme = extreme_of(run, record)
    rank = "\u2013" if record.rank is None else f"{record.rank}{f' {extreme.lower()}' if extreme else ''}"
    reward = "\u2013" if record.reward is None else f"{record.reward:.3f}"
    cells = ""
    for key in keys:
        value = record.scores.get(key)
        text = "\u2013" if value is None else f"{value:.4g}"
        cells += f"<td><b>{text}</b></td>" if value == best[key] and len(run.candidates) > 1 else f"<td>{text}</td>"
    return f'<tr><th scope="row">{rank}</th><td>{_seed(record)}</td><td>{reward}</td>{cells}</tr>'


def _seed(record: CandidateRecord) -> str:
    return escape(record.name) if record.seed is None else str(record.seed)


def _basis(run: Run) -> str:
    if run.values["reference"]:
        words = (
            "<strong>Scored with a reference.</strong> The faithful half compares each candidate with the reference "
            "that you gave; the vivid half looks at the candidate alone."
        )
    else:
        words = (
            "<strong>Scored without a reference.</strong> The faithful half reduces each candidate to the size of your "
            "photo and compares the two (consistency); the vivid half looks at the candidate alone. Details that are "
            "plausible but invented cannot be told from true ones this way."
        )
    band = run.values.get("tie_band")
    if band:
        words += f" Rewards closer than {band:.3f} are within the metrics' tolerance and share a rank."
    return f'<p class="sr-basis">{words}</p>'


def _left_out(run: Run) -> str:
    items = [f"<li><strong>{escape(e['name'])}</strong> {escape(e['reason'])}</li>" for e in run.values["left_out"]]
    if not items:
        return '<p class="sr-basis">No metric of the set was left out.</p>'
    return f'<div class="sr-leftout"><p><strong>Left out of the reward</strong></p><ul>{"".join(items)}</ul></div>'


def _provenance(run: Run) -> str:
    rows = "".join(_source(entry) for entry in run.values["metrics"])
    recipe = {
        "Photo": f"{run.values['input']['width']} x {run.values['input']['height']} px, "
        f"sha256 {run.values['input']['sha256'][:12]}",
        "Model": f"{run.values['backbone']} / {_adapter(run.values['adapter'])}, {run.values['dtype']}",
        "Compared with": _adapter(run.values.get("compare_adapter")),
        "Sampling": f"{run.values['steps']} steps, {run.values['sampler']}, colour transfer {run.values['color']}",
        "Metric set": run.values["metric_set"],
        "Version": run.values["version"],
    }
    facts = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in recipe.items() if value)
    return (
        '<details class="sr-provenance"><summary>Where these numbers come from</summary>'
        f"<dl>{facts}</dl><ul>{rows}</ul></details>"
    )


def _adapter(name: str | None) -> str:
    """Return an adapter's name for people with the one that commands take."""
    if name is None or adapter_label(name) == name:
        return name or ""
    return f"{adapter_label(name)} (--adapter {name})"


def _source(entry: Mapping[str, Any]) -> str:
    name = str(entry.get("key") or entry.get("name"))
    facts = [
        f"{escape(k)}: {escape(_short(v))}" for k, v in entry.items() if k not in _SHOWN_ELSEWHERE and v is not None
    ]
    return f"<li><strong>{escape(label_of(name))}</strong> <span>{' &middot; '.join(facts)}</span></li>"


def _short(value: object) -> str:
    """Return a fact in one line; hashes are cut, the file has them whole."""
    if isinstance(value, (list, tuple)):
        words = ", ".join(_short(item) for item in value[:6])
        return f"{words}, \u2026 ({len(value)})" if len(value) > 6 else words
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text[:12]}\u2026" if len(text) == 64 and " " not in text else text
