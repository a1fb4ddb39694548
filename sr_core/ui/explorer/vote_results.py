"""What the votes on the runs in view say, as charts and tables: agreement, strengths, complementarity and Top-K."""

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr
import pandas as pd
import plotly.graph_objects as go
from scipy.special import expit

from sr_core.ballots import still_there
from sr_core.runs import Run
from sr_core.ui.explorer.ballot_view import score_label
from sr_core.ui.explorer.chart import COLOURS, chart_value, chart_widget, table_html
from sr_core.vote_exports import origin_label
from sr_core.vote_statistics import (
    PRIOR_SD,
    Agreement,
    JudgedPair,
    Standing,
    Strength,
    Verdict,
    agreement,
    bradley_terry,
    chance_top_k,
    complementarity,
    counted,
    first_votes,
    judged_pairs,
    standings,
    sure,
    top_k,
    verdicts,
)
from sr_core.votes import Vote

NUM_RESULTS = 6
FEW = 30
"""Decided pairs below which the page warns that little is known."""
MAX_K = 3
_NO_TOP = (
    "no ballot yet on which an origin has exactly one picture beside others. Runs takes candidates of other tools."
)


def build_results() -> tuple[list[Any], list[gr.Button]]:
    """Lay out the results, closed and hidden until there is a vote; returns what is filled, and the two downloads."""
    with gr.Accordion("Results", open=False, visible=False, elem_id="sr-vote-results") as box:
        words = gr.HTML("", elem_id="sr-vote-words", apply_default_css=False)
        accuracy = chart_widget("sr-vote-accuracy")
        others = gr.HTML("", elem_id="sr-vote-others", apply_default_css=False)
        strengths = chart_widget("sr-vote-strengths")
        top = gr.HTML("", elem_id="sr-vote-top", apply_default_css=False)
        with gr.Row(elem_id="sr-vote-keep"):
            saves = [
                gr.Button("Votes as Parquet", elem_id="sr-vote-parquet"),
                gr.Button("Votes as Pick-a-Pic", elem_id="sr-vote-pickapic"),
            ]
    return [box, words, accuracy, others, strengths, top], saves


def results(runs: Sequence[Run], votes: Sequence[Vote], scope: str) -> list[Any]:
    """Return a value for each widget of `build_results`."""
    usable = [(run, still_there(run, votes)) for run in runs]
    used = [vote for _, found in usable for vote in counted(found)]
    if not used:
        return [gr.update(visible=False), "", None, "", None, ""]
    judged = [(run, judged_pairs(found)) for run, found in usable]
    said = [verdict for run, pairs in judged for verdict in verdicts(run, pairs)]
    num_votes = f"{len(used)} {'vote' if len(used) == 1 else 'votes'}"
    return [
        gr.update(visible=True, label=f"Results of {num_votes}"),
        _lead(used, judged, num_photos(usable), len(counted(votes)) - len(used)),
        _accuracy(agreement(said)),
        _complementarity(said),
        _strengths(judged, scope),
        _top(usable, scope),
    ]


def num_photos(usable: Sequence[tuple[Run, Sequence[Vote]]]) -> int:
    """Return how many different photos votes that count are about: several runs may be of the same one."""
    return len({run.photo for run, found in usable if counted(found)})


def _lead(used: Sequence[Vote], judged: Sequence[tuple[Run, Sequence[JudgedPair]]], photos: int, num_gone: int) -> str:
    kinds = [vote.answer.kind for vote in used]
    pairs = [pair for _, found in judged for pair in found]
    num_decided = sum(pair.outcome != 0.5 for pair in pairs)
    voters = len({vote.voter for vote in used})
    words = (
        f"<strong>{_count(len(used), 'vote')} by {_count(voters, 'person', 'people')} on {_count(photos, 'photo')}"
        f":</strong> {_count(kinds.count('choice'), 'choice')}, {_count(kinds.count('tie'), 'tie')}, "
        f"{kinds.count('bad')} with nothing good. They decide {_count(num_decided, 'pair')}; "
        "of one person's votes on a pair the first counts, and none where it was taken back knowing who was who."
    )
    num_told = sum(vote.num_revealed > 0 for vote in used)
    if num_told:
        words += f" {_count(num_told, 'vote')} by people who had been told who was who on a picture left out."
    if num_gone:
        words += f" {_count(num_gone, 'vote')} on pictures that are no longer in a run left out."
    if num_decided < FEW:
        words += (
            f" <strong>That is little:</strong> under {FEW} decided pairs most intervals still hold one half, "
            "and a metric whose interval holds one half cannot be told from tossing a coin."
        )
    return f'<p class="sr-words">{words}</p>'


def _count(num: int, one: str, many: str | None = None) -> str:
    return f"{num} {one if num == 1 else many or f'{one}s'}"


def _accuracy(found: Sequence[Agreement]) -> dict[str, Any] | None:
    """Return the chart of how often each score prefers what people prefer."""
    decided = [a for a in found if a.accuracy.share is not None]
    if not decided:
        return None
    names = [score_label(a.key) for a in decided]
    shares = [float(a.accuracy.share or 0) for a in decided]
    figure = _points(
        names, shares, [float(a.accuracy.low or 0) for a in decided], [float(a.accuracy.high or 0) for a in decided]
    )
    figure.update_layout(
        xaxis={"range": [0, 1], "title": {"text": "Accuracy on decided pairs"}},
        shapes=[_line(0.5)],
        uirevision="accuracy",
    )
    table = pd.DataFrame(
        {
            "Right": [a.accuracy.hits for a in decided],
            "Of": [a.accuracy.num for a in decided],
            "Accuracy": shares,
            "95 % from": [a.accuracy.low for a in decided],
            "to": [a.accuracy.high for a in decided],
            "Too close to tell": [a.num_indistinct for a in decided],
            "Ties seen as ties": [f"{a.ties.hits} of {a.ties.num}" for a in decided],
        },
        index=pd.Index(names, name="Score"),
    )
    best = max(decided, key=sure)
    return chart_value(
        figure,
        title="Agreement with the votes",
        summary=f"{score_label(best.key)} agrees the most surely: {_of_pairs(best)}.",
        table=table,
        note="The share of decided pairs where the score prefers what people chose, with 95 % Wilson intervals; the "
        "line at 0.5 is a coin. Ties and ballots with nothing good are left out; a score that gives both sides the "
        "same value is not right. The reward is the one at the slider's present place. Five pairs from one ballot of "
        "four are not independent: their interval is a little too narrow.",
    )


def _of_pairs(found: Agreement) -> str:
    return f"with {found.accuracy.hits} of {_count(found.accuracy.num, 'decided pair')}"


def _complementarity(said: Sequence[Verdict]) -> str:
    """Return the table of who is right where the best metric errs."""
    found = complementarity(said)
    if found is None:
        return ""
    best = escape(score_label(found.best.key))
    if found.num_errors == 0:
        words = f"<strong>Where the best metric errs:</strong> nowhere yet, {best} agrees {_of_pairs(found.best)}."
        return f'<p class="sr-words">{words}</p>'
    table = pd.DataFrame(
        {
            "Right": [a.accuracy.hits for a in found.others],
            "Of": [a.accuracy.num for a in found.others],
            "Share": [a.accuracy.share for a in found.others],
            "95 % from": [a.accuracy.low for a in found.others],
            "to": [a.accuracy.high for a in found.others],
        },
        index=pd.Index([score_label(a.key) for a in found.others], name="Score"),
    )
    title = f"Who is right where {score_label(found.best.key)} errs"
    words = (
        f"{best} agrees {_of_pairs(found.best)}: of all metrics' intervals its begins the highest. A score that is "
        "right where it errs adds what it lacks; one that errs with it adds nothing."
    )
    return _panel(title, table, words)


def _items(run: Run, scope: str) -> dict[int, str]:
    """Return under which name each candidate is counted: its own in one run, what drew it over several."""
    if scope == "all":
        return {record.index: origin_label(run, record) for record in run.candidates}
    names = Counter(record.name for record in run.candidates)
    return {r.index: r.name if names[r.name] == 1 else f"{r.name} ({r.index + 1})" for r in run.candidates}


def _strengths(judged: Sequence[tuple[Run, Sequence[JudgedPair]]], scope: str) -> dict[str, Any] | None:
    """Return the chart of Bradley-Terry strengths; None where nothing was compared with something else."""
    compared = [
        (items[pair.first], items[pair.second], pair.outcome)
        for run, pairs in judged
        for items in (_items(run, scope),)
        for pair in pairs
        if items[pair.first] != items[pair.second]
    ]
    names = sorted({name for a, b, _ in compared for name in (a, b)})
    if not names:
        return None
    found = bradley_terry(len(names), [(names.index(a), names.index(b), outcome) for a, b, outcome in compared])
    order = sorted(range(len(names)), key=lambda place: -found[place].value)
    return _strength_chart([names[p] for p in order], [found[p] for p in order], scope)


def _strength_chart(names: Sequence[str], found: Sequence[Strength], scope: str) -> dict[str, Any]:
    figure = _points(names, [s.value for s in found], [s.low for s in found], [s.high for s in found])
    figure.update_layout(xaxis={"title": {"text": "Strength, log odds"}}, shapes=[_line(0)], uirevision="strengths")
    table = pd.DataFrame(
        {
            "Strength": [s.value for s in found],
            "95 % from": [s.low for s in found],
            "to": [s.high for s in found],
            "Comparisons": [s.num for s in found],
        },
        index=pd.Index(names, name="Candidate" if scope == "run" else "Origin"),
    )
    return chart_value(
        figure,
        title="Bradley-Terry strengths of " + ("the candidates" if scope == "run" else "what drew the candidates"),
        summary=f"{names[0]} is the strongest by the votes, {names[-1]} the weakest of {len(names)}.",
        table=table,
        note=f"A lead of 1 wins {expit(1):.0%} of comparisons. A tie is half a win for each side. Strengths have a "
        f"normal prior of standard deviation {PRIOR_SD:g}, which keeps an item that always wins finite; the intervals "
        "are the normal ones from the curvature at the most probable strengths.",
    )


def _top(usable: Sequence[tuple[Run, Sequence[Vote]]], scope: str) -> str:
    """Return the table of Top-K ratios over ballots."""
    judged = [(vote, _items(run, scope)) for run, votes in usable for vote, _ in first_votes(votes)]
    found = standings(judged)
    if not found:
        unjudged = scope == "run" or all(vote.answer.kind == "bad" for vote, _ in judged)
        return "" if unjudged else f'<p class="sr-words"><strong>Top-K:</strong> {_NO_TOP}</p>'
    order = sorted(found, key=lambda name: -(top_k(found[name], 1).low or 0.0))
    table = pd.DataFrame(
        [[len(found[name]), *(_ratio(found[name], k) for k in range(1, MAX_K + 1))] for name in order],
        columns=["Ballots", *(f"Top-{k}" for k in range(1, MAX_K + 1))],
        index=pd.Index(order, name="Candidate" if scope == "run" else "Origin"),
    )
    words = (
        "Top-K is computed on people's answers, A/B and best and worst of four alike: of the ballots showing it, the "
        "share on which its picture is among the first K, with its 95 % Wilson interval, and what chance alone would "
        "give on those ballots. Ballots with nothing good rank nobody and are left out of the count and the share. The "
        "chosen one is first, the worst of four last, the two between share rank 2, equals share rank 1. Top-2 and "
        "Top-3 come from ballots of four alone."
    )
    if scope == "all":
        words += (
            " An origin counts on the ballots on which it has exactly one picture; with several it would be given the "
            "best one's rank."
        )
    return _panel("Top-1 and Top-K", table, words)


def _ratio(standings: Sequence[Standing], k: int) -> str:
    """Return a Top-K in words, over the ballots that show more than K pictures."""
    larger = [standing for standing in standings if len(standing.among) > k]
    found = top_k(larger, k)
    if found.share is None:
        return "\u2013"
    return f"{found.share:.2f} ({found.low:.2f} to {found.high:.2f}), chance {chance_top_k(larger, k):.2f}"


def _panel(title: str, table: pd.DataFrame, words: str) -> str:
    return (
        f'<section class="sr-chart" aria-label="{escape(title)}"><p class="sr-chart-title">{escape(title)}</p>'
        f'<div class="sr-scroller" tabindex="0" role="region" aria-label="Numbers: {escape(title)}">'
        f'{table_html(table, caption=title)}</div><p class="sr-chart-note">{words}</p></section>'
    )


def _points(names: Sequence[str], values: Sequence[float], low: Sequence[float], high: Sequence[float]) -> go.Figure:
    """Return points with their intervals, one line per name, the first on top."""
    places = list(range(len(names)))
    spans = [f"{bottom:.3f} to {top:.3f}" for bottom, top in zip(low, high, strict=True)]
    reach = {
        "type": "data", "symmetric": False, "color": COLOURS[0], "thickness": 2,
        "array": [top - value for value, top in zip(values, high, strict=True)],
        "arrayminus": [value - bottom for value, bottom in zip(values, low, strict=True)],
    }  # fmt: skip
    points = go.Scatter(
        x=list(values), y=places, mode="markers", marker={"size": 10, "color": COLOURS[0]}, error_x=reach,
        hovertext=[f"{escape(n)}<br>{v:.3f} ({span})" for n, v, span in zip(names, values, spans, strict=True)],
        hoverinfo="text",
    )  # fmt: skip
    numbers = go.Scatter(
        x=list(high), y=places, mode="text", text=[f" {value:.2f}" for value in values], textposition="middle right",
        hoverinfo="skip", cliponaxis=False,
    )  # fmt: skip
    figure = go.Figure([points, numbers])
    figure.update_layout(
        height=90 + 34 * len(names),
        showlegend=False,
        yaxis={
            "tickvals": places,
            "ticktext": [escape(name) for name in names],
            "range": [len(names) - 0.5, -0.5],
            "zeroline": False,
        },
        margin={"r": 40},
    )
    return figure


def _line(x: float | int) -> dict[str, Any]:
    return {
        "type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1,
        "line": {"width": 1.5, "dash": "dot", "color": COLOURS[6]}, "layer": "below",
    }  # fmt: skip
