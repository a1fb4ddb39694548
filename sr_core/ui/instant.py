"""The page's instant mode: what it sets, and the chart of how the chosen level follows the strength of degradation."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from sr_core.assets import ASSETS
from sr_core.backbones import ONE_STEP, SFT, available_adapters
from sr_core.runs import Run
from sr_core.ui.explorer.chart import COLOURS, chart_value
from sr_core.ui.settings import Settings

BEST_OF_N, INSTANT = "Best of N", "Instant"
MODES: dict[str, dict[str, Any]] = {
    BEST_OF_N: {"num_candidates": Settings.num_candidates, "adapter": SFT, "compare": True},
    INSTANT: {"num_candidates": 1, "adapter": ONE_STEP, "compare": False},
}
"""What each mode sets; everything else stays as it is."""
LEVELS_FILE = ASSETS / "compact" / "one_step_levels.json"
"""Levels of the evaluation photographs, written by `python -m train evaluate-one-step --levels FILE`."""


def instant_offered(backbone: str) -> bool:
    """Return whether a backbone has weights for one step."""
    return ONE_STEP in available_adapters(backbone)


def mode_of(settings: Settings) -> str:
    """Return the mode that the widgets are set to."""
    return INSTANT if settings.adapter == ONE_STEP and settings.num_candidates == 1 else BEST_OF_N


def level_words(level: float) -> str:
    """Say at which level a restoration began."""
    return f"began at level {level:.2f} of 1"


@lru_cache(maxsize=1)
def shipped_levels() -> Mapping[str, Any] | None:
    """Return the figures that came with the weights, or None where there are none."""
    return json.loads(LEVELS_FILE.read_text(encoding="utf-8")) if LEVELS_FILE.is_file() else None


def level_chart(run: Run | None) -> dict[str, Any] | None:
    """Return the chart of a run in one step: the shipped levels by strength, and this photo's; None for other runs."""
    mine = [] if run is None else [record.level for record in run.candidates if record.level is not None]
    shipped = shipped_levels()
    if not mine or shipped is None:
        return None
    strengths, levels = shipped["strengths"], np.array(shipped["levels"])
    low, middle, high = (np.quantile(levels, share, axis=0) for share in (0.25, 0.5, 0.75))
    tau = shipped["kendall"]
    here = sum(mine) / len(mine)
    table = pd.DataFrame({"25 %": low, "median": middle, "75 %": high}, index=pd.Index(strengths, name="strength"))
    data = [
        {"type": "scatter", "mode": "lines", "x": strengths, "y": high.tolist(), "line": {"width": 0},
         "showlegend": False, "hoverinfo": "skip"},
        {"type": "scatter", "mode": "lines", "x": strengths, "y": low.tolist(), "line": {"width": 0}, "fill": "tonexty",
         "fillcolor": "rgba(0,114,178,0.18)", "name": "middle half", "hoverinfo": "skip"},
        {"type": "scatter", "mode": "lines+markers", "x": strengths, "y": middle.tolist(), "name": "median",
         "line": {"color": COLOURS[0]}},
        {"type": "scatter", "mode": "lines", "x": [strengths[0], strengths[-1]], "y": [here, here],
         "name": "this photo", "line": {"color": COLOURS[4], "dash": "dash"}},
    ]  # fmt: skip
    layout = {
        "height": 300,
        "legend": {"orientation": "h", "y": 1.03, "yanchor": "bottom"},
        "margin": {"t": 56},
        "xaxis": {"title": {"text": "strength of degradation"}},
        "yaxis": {"title": {"text": "level"}, "range": [0, 1]},
    }
    agreement = f"Kendall's tau {tau['tau']:+.2f} ({tau['low']:+.2f} to {tau['high']:+.2f})"
    tied = tau["low"] > 0 or tau["high"] < 0
    says = "it moves with the strength" if tied else "it depends on the photo, not measurably on the strength"
    note = (
        f"{len(levels)} photographs that training never saw, each degraded five times from almost not, 0, to strongly, "
        f"1: {agreement}; {says}. Level 0 is the prior alone, 1 the largest correction."
    )
    summary = (
        f"The level of one-step restoration by strength of degradation: median {middle[0]:.2f} at the weakest, "
        f"{middle[-1]:.2f} at the strongest; this photo {here:.2f}. {agreement}."
    )
    figure = {"data": data, "layout": layout}
    return chart_value(figure, title="Where one step begins", summary=summary, table=table, note=note)
