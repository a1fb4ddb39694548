"""The ranked grid: one card per candidate, best first, as HTML."""

from html import escape

from sr_core.runs import CandidateRecord, Run
from sr_core.ui.pictures import extreme_of, preview
from sr_core.ui.visits import Shown

EMPTY = """
<div class="sr-empty">
  <ol class="sr-steps">
    <li><strong>Drop a photo.</strong> A small or soft one shows most.</li>
    <li><strong>Press Run.</strong> Each candidate is drawn from its own seed and appears here as it is ready.</li>
    <li><strong>Keep the best.</strong> All are scored and ranked; compare each with your photo, pixel by pixel.</li>
  </ol>
  <div class="sr-ghosts" aria-hidden="true">
    <span>Best</span><span>2</span><span>3</span><span>4</span><span>5</span><span>6</span><span>7</span><span>Worst</span>
  </div>
  <div class="sr-ghost-stage" aria-hidden="true"><span>Input</span><i></i><span>Restored</span></div>
</div>
"""


def render_grid(shown: Shown | None, *, picked: int | None, num_expected: int) -> str:
    """Return the cards of a run, with a placeholder for every candidate still to come."""
    cards = []
    drawn = 0
    if shown is not None:
        drawn = len(shown.run.candidates)
        cards = [_card(shown, record, picked) for record in shown.run.ranked]
    waiting = 0 if shown is not None and shown.finished else num_expected - drawn
    cards += ['<li class="sr-card sr-waiting"><span class="sr-frame"></span><span>waiting</span></li>'] * waiting
    note = _tie_note(shown) if shown is not None else ""
    return f'{note}<ol class="sr-grid" aria-label="Candidates, best first">{"".join(cards)}</ol>'


def _card(shown: Shown, record: CandidateRecord, picked: int | None) -> str:
    label = escape(record.label)
    if record.problem is not None:
        return (
            f'<li class="sr-card sr-failed"><span class="sr-frame">Failed</span>'
            f'<span class="sr-seed">{escape(record.name)}</span>'
            f'<span class="sr-why">{escape(record.problem)}</span></li>'
        )
    badge, kind = _badge(shown.run, record)
    reward = "&nbsp;" if record.reward is None else f"{record.reward:.3f}"
    pressed = "true" if record.index == picked else "false"
    return (
        f'<li class="sr-card {kind}"><button type="button" data-index="{record.index}" aria-pressed="{pressed}">'
        f'<span class="sr-frame"><img src="{escape(preview(shown, record))}" alt="{label}" decoding="async">'
        f"{badge}</span>"
        f'<span class="sr-line"><span class="sr-seed">{escape(record.name)}</span>'
        f'<span class="sr-reward" title="Reward, 0 to 1 within this run">{reward}</span></span></button></li>'
    )


def _tie_note(shown: Shown) -> str:
    ranks = {record.rank for record in shown.run.candidates if record.rank is not None}
    count = sum(record.rank is not None for record in shown.run.candidates)
    if count < 2 or len(ranks) > 1:
        return ""
    return (
        f'<p class="sr-tie">All {count} tie: each reward is within the metrics\' own tolerance of the next. '
        "The highest comes first; let your eyes decide.</p>"
    )


def _badge(run: Run, record: CandidateRecord) -> tuple[str, str]:
    """Return the words on a card's corner and its class."""
    if record.rank is None:
        return "", ""
    extreme = extreme_of(run, record)
    tied = sum(other.rank == record.rank for other in run.candidates) > 1
    words = f"{extreme} \u00b7 {record.rank}" if extreme else f"{record.rank}"
    words += " tied" if tied else ""
    kind = {"Best": "sr-best", "Worst": "sr-worst"}.get(extreme, "")
    return f'<span class="sr-badge">{words}</span>', kind
