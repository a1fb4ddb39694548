"""What a rise of the trained reward costs elsewhere: ablation rows against figures that never train, as a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sr_core.adapter_comparison import MeanInterval
from sr_core.errors import ConfigError
from sr_core.files import replacing
from train.ablations import TABLE_VALUES, chosen_rows
from train.judge_tables import HOLD_OUTS

UNITS = {"lsd": "dB", "psnr": "dB"}


class TradeOff(NamedTuple):
    """One row: what the reward gained, and what every hold-out gained; positive is better for all."""

    name: str
    reward: MeanInterval
    hold_outs: Mapping[str, MeanInterval]


def read_trade_offs(folders: Sequence[Path], only: tuple[str, ...] = ()) -> tuple[TradeOff, ...]:
    """Return the rows that `ablate` judged in several folders; a name in two folders keeps its last figures.

    `only` asks for rows as `ablate` does, by parts of names or by whole ones after "=".
    Raises ConfigError where a folder holds no finished rows, or none of those asked for.
    """
    rows: dict[str, Any] = {}
    for folder in folders:
        path = folder / TABLE_VALUES
        if not path.is_file():
            raise ConfigError(f"{folder} must hold {path.name}; run: python -m train ablate RECIPE --out {folder}")
        rows |= json.loads(path.read_text(encoding="utf-8"))
    wanted = chosen_rows(only) if only else tuple(rows)
    if not rows.keys() & set(wanted):
        asked = f" of {'; '.join(only)}" if only else ""
        raise ConfigError(f"there must be a row{asked} to draw; {', '.join(map(str, folders))} hold none")
    return tuple(
        TradeOff(
            name,
            MeanInterval(**row["reward"]["mean"]["change"]),
            {metric: MeanInterval(**row["metrics"][metric]["gain"]) for metric in HOLD_OUTS},
        )
        for name, row in ((name, rows[name]) for name in wanted if name in rows)
    )


def draw_trade_offs(rows: Sequence[TradeOff], path: Path) -> None:
    """Draw one panel per hold-out, the reward's gain across and the hold-out's upwards, and number the rows.

    Bars are the 95 % intervals; up and to the right is better on both.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    colours = colormaps["tab20"]
    for place, metric in enumerate(HOLD_OUTS, start=1):
        axes = figure.add_subplot(2, 2, place)
        axes.axhline(0, color="#999999", linewidth=0.8)
        axes.axvline(0, color="#999999", linewidth=0.8)
        for index, row in enumerate(rows):
            across, up = row.reward, row.hold_outs[metric]
            axes.errorbar(
                across.mean,
                up.mean,
                xerr=[[across.mean - across.low], [across.high - across.mean]],
                yerr=[[up.mean - up.low], [up.high - up.mean]],
                fmt="o",
                markersize=4,
                linewidth=0.7,
                color=colours(index % colours.N),
                label=f"{index + 1}  {row.name}",
            )
            axes.annotate(str(index + 1), (across.mean, up.mean), (4, 3), textcoords="offset points", fontsize=8)
        unit = f", {UNITS[metric]}" if metric in UNITS else ""
        axes.set_xlabel("gain of the mean reward over SFT", fontsize=8)
        axes.set_title(f"gain of {metric} over SFT{unit} (up is better; never trained)", fontsize=9)
        axes.tick_params(labelsize=8)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)
