"""The view Ranking: what each metric adds to each candidate's reward, and how firmly the order stands."""

from html import escape
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd

from sr_core.explanation import Drop, RankBootstrap, RankedGroup, bootstrap_ranks, contributions, drop_one, ranked_group
from sr_core.rewards.group import tie_band
from sr_core.runs import Run
from sr_core.ui.explorer.chart import COLOURS, MAGNITUDES, chart_value, chart_widget, table_html
from sr_core.ui.explorer.number_table import table_widget
from sr_core.ui.explorer.pins import INPUT, candidate_id
from sr_core.ui.explorer.ranking_table import arrow_of, ranking_table
from sr_core.ui.tables import label_of
from sr_core.ui.visits import Visit, VisitStore

PATTERNS = ("", "/", ".", "x")
"""Fill of a bar: the first for each colour, the next where the colours are used up."""
LEAST_PRINTED = 0.03
"""Parts of a bar that are lower have no room for their number; the table has it."""
OUTCOMES = {"kept": "yes", "tied": "shared", "lost": "no"}
HALVES = {"reference": "faithful", "no_reference": "vivid"}


class RankingSection:
    """Lays out the ranking's explanation and fills it for the run on screen."""

    name = "ranking"
    label = "Ranking"

    def build(self, store: VisitStore) -> list[Any]:
        """Lay out the headline, the bars, the table of candidates, the metrics one by one, and the resampled ranks."""
        del store
        with gr.Column(elem_id="sr-ranking"):
            return [
                gr.HTML("", elem_id="sr-ranking-lead", apply_default_css=False),
                chart_widget("sr-ranking-bars"),
                table_widget("sr-ranking-table"),
                gr.HTML("", elem_id="sr-ranking-drops", apply_default_css=False),
                chart_widget("sr-ranking-ranks"),
            ]

    def show(self, visit: Visit) -> list[Any]:
        """Return the explanation of the run's order at the slider's fidelity weight."""
        shown = visit.on_screen
        group = None if shown is None else ranked_group(shown.run)
        if shown is None or group is None:
            return [_missing(None if shown is None else shown.run), None, None, "", None]
        drops, resampled = drop_one(group), bootstrap_ranks(group)
        names = candidate_names(shown.run, group)
        return [
            headline(shown.run, group, names, drops, resampled),
            _bars(shown.run, group, names),
            ranking_table(shown.run, group, resampled),
            _drop_table(group, names, drops),
            _ranks(group, names, resampled),
        ]


def candidate_names(run: Run, group: RankedGroup) -> list[str]:
    """Return the name of each candidate of a group."""
    records = {record.index: record for record in run.candidates}
    return [records[index].name for index in group.indices]


def _missing(run: Run | None) -> str:
    if run is None:
        return ""
    count = sum(bool(record.scores) for record in run.candidates)
    return (
        '<p class="sr-words"><strong>There is no order to explain.</strong> '
        f"That takes at least two scored candidates; this run has {count}.</p>"
    )


def headline(run: Run, group: RankedGroup, names: list[str], drops: tuple[Drop, ...], resampled: RankBootstrap) -> str:
    """Return in words how firmly the first rank stands."""
    best, ranks = group.best, group.reward.ranks or (1,) * len(names)
    first = f"<strong>{escape(names[best])} has the highest reward, {group.reward.reward[best]:.3f}.</strong>"
    num_first = ranks.count(1)
    shared = (
        f" It shares rank 1 with {num_first - 1} more: their rewards lie within the tie band." if num_first > 1 else ""
    )
    outcomes = [drop.outcome for drop in drops]
    survival = f" Rank 1 survives {outcomes.count('kept')} of {len(drops)} drops of one metric"
    survival += f" and is shared after {outcomes.count('tied')} more" if "tied" in outcomes else ""
    if not drops:
        survival = " One metric makes the whole reward, so none can be dropped"
    chance = (
        f"; it is first in {100 * resampled.highest[best]:.0f} % of {resampled.num_resamples:,} resamplings of the "
        f"metrics ({resampled.num_distinct:,} can differ, seed {resampled.seed})."
    )
    unscored = sum(not record.scores for record in run.candidates)
    aside = f" Without scores, and not in the ranking: {unscored}." if unscored else ""
    notices = "".join(f'<p class="sr-words">{escape(notice)}.</p>' for notice in group.reward.notices)
    return f'<p class="sr-lead">{first}{shared}{survival}{chance}{aside}</p>{notices}'


def _bars(run: Run, group: RankedGroup, names: list[str]) -> dict[str, Any]:
    """Return the stacked bars: one per candidate, best first, one part per metric."""
    parts, reward = contributions(group.reward), group.reward.reward
    records = {record.index: record for record in run.candidates}
    order = np.argsort(-reward, kind="stable").tolist()
    # Places, not names: two candidates may be called the same.
    places = list(range(len(order)))
    pins = [[INPUT, candidate_id(records[group.indices[m]])] for m in order]
    bars = []
    for number, (key, values) in enumerate(parts.items()):
        hover = [
            f"{escape(names[m])}<br>{label_of(key)}: raw {group.raw[key][m]:.4g}"
            f"<br>0 to 1: {group.reward.normalised[key][m]:.3f}"
            f"<br>adds {values[m]:.3f} (weight {group.reward.weights[key]:.3f})"
            for m in order
        ]
        marker = {
            "color": COLOURS[number % len(COLOURS)],
            "pattern": {"shape": PATTERNS[number // len(COLOURS) % len(PATTERNS)]},
            "line": {"width": 0.5, "color": "#ffffff"},
        }
        bars.append(
            {
                "type": "bar", "x": places, "y": values[order].tolist(), "name": label_of(key), "marker": marker,
                "hovertext": hover, "hoverinfo": "text", "customdata": pins, "textposition": "inside", "textangle": 0,
                "text": [f"{values[m]:.2f}" if values[m] >= LEAST_PRINTED else "" for m in order],
                "insidetextanchor": "middle",
            }
        )  # fmt: skip
    totals = {
        "type": "scatter", "mode": "text", "x": places, "y": reward[order].tolist(), "textposition": "top center",
        "text": [f"{reward[m]:.3f}" for m in order], "showlegend": False, "hoverinfo": "skip",
    }  # fmt: skip
    band, top = group.reward.tie_band, float(reward.max())
    strip = {
        "type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": max(0.0, top - band), "y1": top, "layer": "below",
        "line": {"width": 0}, "fillcolor": "rgba(138, 138, 138, 0.28)",
    }  # fmt: skip
    ranks = group.reward.ranks or (1,) * len(names)
    layout = {
        "barmode": "stack", "uirevision": run.folder.name, "height": 400, "shapes": [strip] if band > 0 else [],
        "xaxis": {"tickvals": places, "ticktext": [f"{ranks[m]} \u00b7 {escape(names[m])}" for m in order]},
        "yaxis": {"title": {"text": "Reward"}, "range": [0, max(1.0, 1.08 * top)]},
    }  # fmt: skip
    table = pd.DataFrame(
        {label_of(key): values[order] for key, values in parts.items()} | {"Reward": reward[order]},
        index=pd.Index([names[m] for m in order], name="Candidate"),
    )
    best = order[0]
    largest = max(parts, key=lambda key: float(parts[key][best]))
    return chart_value(
        {"data": [*bars, totals], "layout": layout},
        title="What each metric adds to the reward",
        summary=(
            f"Stacked bars of {len(order)} candidates, best first. {names[best]} leads with {reward[best]:.3f}; "
            f"{label_of(largest)} adds most to it, {parts[largest][best]:.3f}."
        ),
        table=table,
        note=(
            "A part is the metric's weight times its score from 0, the group's worst, to 1, its best; the parts add up "
            "to the reward. The grey strip is the tie band below the highest reward. Click a bar to open the candidate "
            "against the input."
        ),
    )


def _drop_table(group: RankedGroup, names: list[str], drops: tuple[Drop, ...]) -> str:
    """Return how each metric enters the reward and what becomes of the order without it."""
    by_key = {drop.key: drop for drop in drops}
    rows = []
    for key, term in group.terms.items():
        drop = by_key.get(key)
        alone = tie_band({key: group.raw[key]}, {key: group.reward.weights[key]}, {key: term.tolerance})
        rows.append(
            {
                "Metric": f"{label_of(key)} {arrow_of(term.lower_is_better)[0]}",
                "Half": HALVES[term.half],
                "Weight": float(group.reward.weights[key]),
                "Tolerance": float(term.tolerance),
                "Spread here": float(np.ptp(group.raw[key])),
                "In the tie band": float(alone),
                "First without it": None if drop is None else names[drop.winner],
                "Rank 1 survives": _survival(drop, group.reward.weights[key]),
                "Its rank then": None if drop is None else drop.rank,
                "Kendall tau-b": None if drop is None else drop.tau,
            }
        )
    title = "The order without one metric"
    frame = pd.DataFrame(rows).set_index("Metric").astype(object)
    return (
        f'<div class="sr-block"><h2>{title}</h2>'
        f'<div class="sr-scroller" tabindex="0" role="region" aria-label="{title}">{table_html(frame, caption=title)}'
        '</div><p class="sr-chart-note">A metric\'s share goes to the others of its half; one without weight has none '
        'to give. "Shared": the candidate is '
        "no longer highest but within the tie band of the one that is. Tau-b compares the rewards with and without "
        "the metric: 1 is the same order, -1 the reverse.</p></div>"
    )


def _survival(drop: Drop | None, weight: float) -> str | None:
    """Return what becomes of rank 1 without a metric; that nothing can where it has no weight."""
    if weight == 0:
        return "no weight"
    return None if drop is None else OUTCOMES[drop.outcome]


def _ranks(group: RankedGroup, names: list[str], resampled: RankBootstrap) -> dict[str, Any]:
    """Return how often each candidate takes each rank when the metrics are resampled."""
    order = np.argsort(-group.reward.reward, kind="stable").tolist()
    share = 100 * resampled.rank_share[order]
    places, ranks = list(range(len(order))), list(range(1, len(order) + 1))
    heat = {
        "type": "heatmap", "x": ranks, "y": places, "z": share.tolist(), "zmin": 0, "colorscale": MAGNITUDES,
        "texttemplate": "%{z:.0f}", "hovertemplate": "rank %{x} in %{z:.1f} %<extra></extra>", "showscale": False,
    }  # fmt: skip
    layout = {
        "height": 120 + 30 * len(order), "uirevision": "ranks", "xaxis": {"title": {"text": "Rank"}, "dtick": 1},
        "yaxis": {"tickvals": places, "ticktext": [escape(names[m]) for m in order], "autorange": "reversed"},
    }  # fmt: skip
    index = pd.Index([names[m] for m in order], name="Candidate")
    table = pd.DataFrame({"Highest, %": 100 * resampled.highest[order], "Mean rank": resampled.mean_rank[order]}, index)
    for rank in ranks:
        table[f"Rank {rank}, %"] = share[:, rank - 1]
    return chart_value(
        {"data": [heat], "layout": layout},
        title="Ranks when the metrics are resampled, in % of the resamplings",
        summary=(
            f"Share of {resampled.num_resamples} resamplings in which each candidate takes each rank. "
            f"{names[order[0]]} has the highest reward in {100 * resampled.highest[order[0]]:.0f} % of them."
        ),
        table=table,
        note=(
            "Each half draws as many metrics as it has, with replacement: one drawn twice counts twice, one not drawn "
            'not at all. Ties share a rank, so ranks may be skipped; for "highest" equals divide their share. It says '
            "how much the order hangs on the choice of metrics, not on the photo or the seeds."
        ),
    )
