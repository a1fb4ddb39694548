"""What held-out scores of two adapters say: rewards over their union, curves over seeds, gates and intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sr_core.adapter_comparison import mean_interval, reward_curves, union_rewards
from sr_core.rewards.registry import metric_spec

SFT = "sft"
TRAINED = ("lpips", "ssimulacra2", "vsi", "brisque", "niqe")
"""What the reward is made of."""
HOLD_OUTS = ("st_lpips", "piqe", "lsd", "psnr")
"""What is no part of the reward: candidates are not paired by it, and `contrast` does not pick by it.

Online rounds stop by it, and whoever reads held-out figures can settle a recipe by it; no code prevents that.
"""
FEW_SEEDS = 4
"""ST-LPIPS, SSIM and LPIPS between seeds cost as much as drawing; they see the first seeds only, of every adapter."""
REPORTED = (*TRAINED, *HOLD_OUTS, "ssim")
LOWER = {"lsd": True, "psnr": False, "ssim": False}
PSNR_ALLOWANCE_DB = 0.5
CURVE = (1, 2, 4, 8, 16)

Values = dict[str, list[float]]
"""Raw values by metric, one per candidate."""
Judged = Mapping[str, Mapping[str, Mapping[str, Values]]]
"""{adapter: {preset: {photograph: values}}}"""


def lower_is_better(metric: str) -> bool:
    """Return whether smaller raw values are better."""
    return LOWER[metric] if metric in LOWER else metric_spec(metric).lower_is_better


def _gain(differences: np.ndarray) -> dict[str, float]:
    return mean_interval(differences)._asdict()


def compare(judged: Judged, ours: str, theirs: str, presets: Sequence[str] | None = None) -> dict[str, Any]:
    """Return what changes from `theirs` to `ours`: rewards, metrics, curves and, against SFT, the gates.

    Units of every interval are photographs (means over presets). Gains are positive where `ours` is better.
    """
    presets = tuple(presets or judged[ours])
    photos = sorted(judged[ours][presets[0]])
    rewards = {
        (photo, preset): union_rewards(judged[ours][preset][photo], judged[theirs][preset][photo], TRAINED)
        for photo in photos
        for preset in presets
    }

    def per_photo(value: Callable[[np.ndarray], float], side: int) -> np.ndarray:
        return np.array([np.mean([value(rewards[photo, preset][side]) for preset in presets]) for photo in photos])

    summaries: dict[str, Callable[[np.ndarray], float]] = {
        "mean": lambda r: float(r.mean()),
        "best": lambda r: float(r.max()),
        "worst": lambda r: float(r.min()),
        "std": lambda r: float(r.std()),
    }
    reward = {
        name: {
            "ours": float(per_photo(value, 0).mean()),
            "theirs": float(per_photo(value, 1).mean()),
            "change": _gain(per_photo(value, 0) - per_photo(value, 1)),
        }
        for name, value in summaries.items()
    }

    def raw(model: str, metric: str) -> np.ndarray:
        table = judged[model]
        return np.array([np.mean([np.mean(table[preset][photo][metric]) for preset in presets]) for photo in photos])

    metrics = {}
    for metric in REPORTED:
        sign = -1.0 if lower_is_better(metric) else 1.0
        own, other = raw(ours, metric), raw(theirs, metric)
        metrics[metric] = {
            "ours": float(own.mean()),
            "theirs": float(other.mean()),
            "gain": _gain(sign * (own - other)),
        }
    diversity = {"ours": float(raw(ours, "diversity").mean()), "theirs": float(raw(theirs, "diversity").mean())}
    diversity["ratio"] = diversity["ours"] / diversity["theirs"]
    candidates = len(next(iter(rewards.values()))[0])
    counts = [m for m in CURVE if m <= candidates]
    return {
        "ours": ours,
        "theirs": theirs,
        "photos": len(photos),
        "presets": list(presets),
        "candidates": candidates,
        "reward": reward,
        "curves": {
            name: reward_curves([pair[side] for pair in rewards.values()], counts)
            for side, name in enumerate((ours, theirs))
        },
        "metrics": metrics,
        "diversity": diversity,
        "gates": _gates(reward, metrics, diversity["ratio"]) if theirs == SFT else {},
    }


def _gates(reward: Mapping[str, Any], metrics: Mapping[str, Any], diversity: float) -> dict[str, dict[str, Any]]:
    """Return each requirement on an adapter against SFT with its figure and whether it holds."""
    ratio = reward["std"]["ours"] / reward["std"]["theirs"]
    worse = [m for m in HOLD_OUTS if m != "psnr" and metrics[m]["gain"]["high"] < 0]
    if metrics["psnr"]["gain"]["mean"] < -PSNR_ALLOWANCE_DB:
        worse.append("psnr")
    better = [m for m in HOLD_OUTS if metrics[m]["gain"]["low"] > 0]
    gains = {name: reward[name]["change"]["mean"] for name in ("mean", "worst", "best")}
    return {
        "mean_reward_rises_by_0.05": {"figure": gains["mean"], "holds": gains["mean"] >= 0.05},
        "worst_rises_by_0.08": {"figure": gains["worst"], "holds": gains["worst"] >= 0.08},
        "std_falls_by_25_percent": {"figure": ratio, "holds": ratio <= 0.75},
        "best_does_not_fall": {"figure": gains["best"], "holds": gains["best"] >= 0},
        f"diversity_of_first_{FEW_SEEDS}_seeds_at_least_60_percent": {"figure": diversity, "holds": diversity >= 0.6},
        "no_hold_out_worse": {"figure": worse, "holds": not worse},
        "a_hold_out_improves": {"figure": better, "holds": bool(better)},
    }


def gate_figure(gate: Mapping[str, Any]) -> str:
    """Return a requirement's figure as text: a number, or names of metrics."""
    figure = gate["figure"]
    return (", ".join(figure) or "none") if isinstance(figure, list) else f"{figure:.4f}"


def judgement_text(content: Mapping[str, Any]) -> str:
    """Return a comparison as Markdown tables."""
    ours, theirs = content["ours"], content["theirs"]
    head = (
        f"{content['photos']} photographs x {', '.join(content['presets'])}, {content['candidates']} seeds each "
        f"(ST-LPIPS, SSIM and LPIPS between neighbouring seeds: the first {FEW_SEEDS})"
    )
    lines = [head, "", f"| figure | {theirs} | {ours} | gain (95 % interval) |", "|---|---|---|---|"]
    for name, row in content["reward"].items():
        change = row["change"]
        spread = f"{change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"
        lines.append(f"| reward, {name} | {row['theirs']:.4f} | {row['ours']:.4f} | {spread} |")
    for name, row in content["metrics"].items():
        gain = row["gain"]
        spread = f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"
        held = " (hold-out)" if name in HOLD_OUTS else ""
        lines.append(f"| {name}{held} | {row['theirs']:.4f} | {row['ours']:.4f} | {spread} |")
    diversity = content["diversity"]
    between = f"{diversity['theirs']:.4f} | {diversity['ours']:.4f} | ratio {diversity['ratio']:.3f}"
    lines += [f"| LPIPS between seeds | {between} |", ""]
    for name, gate in content["gates"].items():
        lines.append(f"- {name.replace('_', ' ')}: {gate_figure(gate)}, {'holds' if gate['holds'] else 'missed'}")
    return "\n".join(lines).rstrip()
