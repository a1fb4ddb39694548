"""What an audit shows: the two photos, the words and the charts, as HTML and figures."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sr_core.adapter_comparison import AdapterComparison, compare_adapters, reward_curves
from sr_core.audit import AuditPair
from sr_core.backbones import adapter_label
from sr_core.degradations import PRESETS
from sr_core.runs import Run
from sr_core.ui.explorer.audit_seeds import audit_of, seeds_table
from sr_core.ui.explorer.chart import COLOURS, chart_value
from sr_core.ui.explorer.pins import before_id, candidate_id
from sr_core.ui.explorer.run_pictures import reference_picture
from sr_core.ui.pictures import file_url, prepare_input
from sr_core.ui.tables import label_of
from sr_core.ui.visits import Shown

INTRODUCTION = """
<div class="sr-empty">
  <ol class="sr-steps">
    <li><strong>Give a sharp photo.</strong> It is the truth that restorations are held to: the full hybrid reward,
    which a photo without an original cannot have.</li>
    <li><strong>Have it degraded.</strong> By a published preset and a seed, so that anybody can do it again; or give
    the low-quality photo yourself.</li>
    <li><strong>Compare two models.</strong> Same photo, same seeds, two adapters: what changes, by how much, and
    where.</li>
  </ol>
</div>
"""
_BETTER, _WORSE, _BEFORE, _AFTER, _NEUTRAL = COLOURS[2], COLOURS[4], COLOURS[1], COLOURS[0], COLOURS[6]
_JOINED_NOTE = (
    " Candidates that joined are ranked in the same group and are not among the drawn: no further seed would give them."
)
_KINDS = (("best", "triangle-up"), ("mean", "circle"), ("worst", "triangle-down"))


def render_pair(pair: AuditPair) -> str:
    """Return the two photos before anything is restored."""
    return _pair(file_url(pair.hq), file_url(pair.lq), pair.lq.name, pair.recipe)


def render_photos(shown: Shown) -> str:
    """Return the reference and the input of a run, nothing for a run without a reference."""
    reference = reference_picture(shown)
    if reference is None:
        return ""
    prepare_input(shown)
    return _pair(file_url(reference), file_url(shown.view_folder / "input.png"), shown.name, audit_of(shown.run))


def _pair(hq: str, lq: str, lq_name: str, recipe: Mapping[str, Any]) -> str:
    stem = Path(lq_name).stem
    words, method = _method(recipe)
    return (
        '<div class="sr-audit-pair">'
        f'<figure><img src="{escape(hq)}" alt="Full-quality photo, the reference"><figcaption>Full quality '
        f'<a href="{escape(hq)}" download="{escape(stem)}_hq.png">Download</a></figcaption></figure>'
        f'<figure><img class="sr-exact" src="{escape(lq)}" alt="Low-quality photo that is restored, enlarged to the '
        f'same size"><figcaption>Low quality, {words} <a href="{escape(lq)}" download="{escape(stem)}.png">Download</a>'
        f"</figcaption></figure></div>{method}"
    )


def _method(recipe: Mapping[str, Any]) -> tuple[str, str]:
    """Return how the LQ came about in a few words, and in full."""
    made = recipe.get("degradation")
    if not isinstance(made, Mapping) or made.get("preset") not in PRESETS:
        return "as given", ""
    name, seed = str(made["preset"]), made.get("seed")
    preset = PRESETS[name]
    stages = [("First round", preset.first), ("Second round", preset.second)]
    rows = {stage: _parameters(parameters) for stage, parameters in stages if parameters is not None}
    rows["Whole"] = {k: v for k, v in _parameters(preset).items() if k not in ("source", "first", "second")}
    lists = "".join(
        f"<h4>{stage}</h4><dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in values.items())}</dl>"
        for stage, values in rows.items()
    )
    call = f'degrade(hq, "{name}", generator=torch.Generator().manual_seed({seed}))'
    return f"{escape(name)}, seed {escape(str(seed))}", (
        f'<details class="sr-provenance"><summary>How it was degraded</summary><p>{escape(preset.source)}</p>'
        f"{_drawn(made.get('drawn'))}"
        "<p>The seed draws every value from the ranges below. The same again, from the full-quality file: "
        f"<code>{escape(call)}</code></p>{lists}</details>"
    )


def _drawn(draws: object) -> str:
    """Return the table of what a seed drew, step by step; nothing for a run that does not say."""
    rows = ""
    for draw in draws if isinstance(draws, list) else ():
        values = draw.get("values") if isinstance(draw, Mapping) else None
        if not isinstance(values, Mapping):
            return ""
        words = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
        )
        cells = (str(draw.get("step")), words.replace("kernel ", "", 1))
        rows += f'<tr><th scope="row">{escape(str(draw.get("stage")).capitalize())}</th>'
        rows += "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    if not rows:
        return ""
    return (
        '<h4>What this seed drew</h4><div class="sr-scroller" tabindex="0" role="region" '
        'aria-label="What this seed drew"><table class="sr-numbers sr-audit-drawn"><caption class="sr-hidden">Every '
        'value that the seed drew, in the order of the steps</caption><thead><tr><th scope="col">Round</th>'
        f'<th scope="col">Step</th><th scope="col">Drawn</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _parameters(parameters: Any) -> dict[str, str]:  # noqa: ANN401 - either dataclass of a preset
    values = {name: getattr(parameters, name) for name in parameters.__dataclass_fields__}
    return {name.replace("_", " "): _range(value) for name, value in values.items()}


def _range(value: object) -> str:
    if value is None:
        return "none"
    return ", ".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def render_findings(run: Run, comparison: AdapterComparison | None) -> str:
    """Return what was found in words: the change with its interval, which reward it is and what it leaves out."""
    lines = [] if comparison is None else [_headline(comparison)]
    return "".join(f'<p class="sr-words">{line}</p>' for line in (*lines, _basis(run, comparison)))


def _headline(comparison: AdapterComparison) -> str:
    before, after = (escape(adapter_label(name)) for name in (comparison.before, comparison.after))
    count, changes = len(comparison.seeds), [seed.change for seed in comparison.seeds]
    words = (
        f'<strong class="sr-audit-change">{comparison.mean_change:+.4f}</strong> mean reward change from {before} to '
    )
    words += f"{after} over {count} {'seed' if count == 1 else 'seeds'}"
    if comparison.interval is not None:
        low, high = comparison.interval.low, comparison.interval.high
        words += f"; 95 % bootstrap interval over the seeds of this one photo: {low:+.4f} to {high:+.4f}"
    better, worse = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    return f"{words}. Better for {better}, worse for {worse}. Other photos may say otherwise."


def _basis(run: Run, comparison: AdapterComparison | None) -> str:
    if run.values["reference"]:
        words = "<strong>Full hybrid reward:</strong> compared with the full-quality photo, and looked at alone"
    else:
        words = (
            "<strong>Reward without a reference:</strong> compared with the input after reduction, and looked at alone"
        )
    reasons = {entry["name"]: entry["reason"] for entry in run.values["left_out"]}
    if comparison is None:
        keys = [entry["key"] for entry in run.values["metrics"] if entry["key"] not in reasons]
    else:
        # What a joined candidate lacks is left out of the run's ranking, not of what the two adapters drew.
        keys = list(comparison.group.weights)
        reasons = {name: reason for name, reason in reasons.items() if name not in comparison.group.weights}
    words += f" ({escape(', '.join(map(label_of, keys)))}), at fidelity weight {run.values['fidelity_weight']:g}."
    if comparison is not None:
        reasons |= comparison.left_out
        words += (
            f" Normalised over the {2 * len(comparison.seeds)} candidates of both adapters together; elsewhere on the "
            f"page, {escape(adapter_label(comparison.after))}'s candidates are normalised among themselves."
            f" Changes within {comparison.group.tie_band:.4f} are within the metrics' own tolerance."
        )
    left = "; ".join(f"{escape(label_of(name))}: {escape(reason)}" for name, reason in reasons.items())
    return words + (f" <strong>Left out:</strong> {left}." if left else " No metric was left out.")


def change_chart(run: Run, comparison: AdapterComparison | None) -> dict[str, Any] | None:
    """Return the chart of each seed's reward change; None without two adapters."""
    if comparison is None:
        return None
    before, after = adapter_label(comparison.before), adapter_label(comparison.after)
    records = {record.index: record for record in run.candidates}
    seeds = comparison.seeds
    figure = go.Figure(
        go.Bar(
            x=[escape(seed.name) for seed in seeds],
            y=[seed.change for seed in seeds],
            text=[f"{seed.change:+.3f}" for seed in seeds],
            textposition="outside",
            cliponaxis=False,
            marker_color=[_BETTER if seed.change >= 0 else _WORSE for seed in seeds],
            customdata=[[before_id(records[seed.index]), candidate_id(records[seed.index])] for seed in seeds],
            hovertemplate="%{x}: %{y:+.4f}<extra></extra>",
        )
    )
    figure.add_hline(comparison.mean_change, line_dash="dot", line_color=_NEUTRAL, line_width=2)
    figure.update_yaxes(title=f"Reward, {escape(after)} \u2212 {escape(before)}", zeroline=True)
    figure.update_layout(showlegend=False, uirevision="audit-change", height=340)
    rising = sum(seed.change > 0 for seed in seeds)
    numbers = {before: [s.before for s in seeds], after: [s.after for s in seeds], "Change": [s.change for s in seeds]}
    return chart_value(
        figure,
        title=f"What {after} changes on each seed",
        summary=f"Bars of the reward change per seed: {rising} of {len(seeds)} rise, {comparison.mean_change:+.4f} on "
        "average.",
        table=pd.DataFrame(numbers, index=pd.Index([seed.name for seed in seeds], name="Seed")),
        note=f"Dotted: the mean, {comparison.mean_change:+.4f}. A bar opens its seed in the comparer.",
    )


def curves_chart(run: Run, comparison: AdapterComparison | None) -> dict[str, Any] | None:
    """Return the chart of the best, mean and worst of M candidates; None before two seeds are ranked."""
    curves = _curves(run, comparison)
    if not curves:
        return None
    figure, columns = go.Figure(), {}
    for (name, by_kind), colour in zip(curves.items(), (_AFTER, _BEFORE), strict=False):
        for kind, symbol in _KINDS:
            counts, values = list(by_kind[kind]), list(by_kind[kind].values())
            columns[f"{name}, {kind}"] = values
            dash = "dash" if kind == "mean" else "solid"
            figure.add_scatter(
                x=counts, y=values, name=f"{escape(name)}, {kind}", mode="lines+markers", marker_symbol=symbol,
                marker_size=8, line={"color": colour, "dash": dash},
                hovertemplate="%{y:.4f} for %{x} drawn<extra>%{fullData.name}</extra>",
            )  # fmt: skip
    figure.update_xaxes(title="Candidates drawn, M", dtick=1)
    figure.update_yaxes(title="Reward")
    figure.update_layout(uirevision="audit-curves", height=400)
    return chart_value(
        figure,
        title="Best, mean and worst of M candidates",
        summary="Expected best, mean and worst reward against how many candidates are drawn: "
        + "; ".join(f"{name} {values[0]:.3f} to {values[-1]:.3f}" for name, values in columns.items())
        + ".",
        table=pd.DataFrame(columns, index=pd.Index(counts, name="M")),
        note="Exact over all choices of M among the seeds (order statistics), not sampled."
        + (_JOINED_NOTE if comparison is None and any(record.seed is None for record in run.candidates) else ""),
    )


def _curves(run: Run, comparison: AdapterComparison | None) -> dict[str, Mapping[str, Mapping[int, float]]]:
    """Return the curves by adapter's name, the adapter that draws first; only what a seed drew is in them."""
    if comparison is not None:
        return {
            adapter_label(comparison.after): comparison.after_curves,
            adapter_label(comparison.before): comparison.before_curves,
        }
    drawn = [r.reward for r in run.candidates if r.seed is not None and r.reward is not None]
    rewards = np.array(drawn, dtype=np.float64)
    if len(rewards) < 2:
        return {}
    return {adapter_label(run.values["adapter"]): reward_curves([rewards], range(1, len(rewards) + 1))}


def views(shown: Shown) -> tuple[str, str, Any, Any, Any]:
    """Return photos, findings, seeds and both charts of a run."""
    comparison = compare_adapters(shown.run) if shown.finished else None
    scored = any(record.scores for record in shown.run.candidates)
    return (
        render_photos(shown),
        render_findings(shown.run, comparison) if scored else "",
        seeds_table(shown, comparison),
        change_chart(shown.run, comparison),
        curves_chart(shown.run, comparison) if scored else None,
    )
