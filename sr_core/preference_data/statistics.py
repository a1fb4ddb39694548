"""Figures of a preference dataset: counts, scores, spreads, and where the time went."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sr_core.preference_data.shards import Merged
from sr_core.preferences import GroupPairs, mean_group_spread

STATISTICS = "statistics.json"


def score_statistics(table: pa.Table) -> dict[str, dict[str, float]]:
    """Return by score key: mean, mean spread (standard deviation) inside a group, and how many rows lack it."""
    groups = table["group_id"].to_pylist()
    scores = table["scores"].combine_chunks()
    result = {}
    for field in scores.type:
        column = pd.Series(scores.field(field.name).to_numpy(zero_copy_only=False), dtype="float64")
        inside = column.groupby(groups).std(ddof=0)
        figures = {"mean": float(column.mean()), "spread": float(inside.mean())}
        # JSON has no NaN: a score that nothing holds has no figures.
        known = {name: value for name, value in figures.items() if np.isfinite(value)}
        result[field.name] = {**known, "missing": float(column.isna().sum())}
    return result


def _seconds(merged: Merged, merge_s: float) -> dict[str, float]:
    total = merged.seconds.total + merge_s
    inside = merged.seconds.model + merged.seconds.metrics
    return {
        "total": total,
        "model": merged.seconds.model,
        "metrics": merged.seconds.metrics,
        "merge": merge_s,
        "share_in_model_and_metrics": inside / total,
    }


def dataset_statistics(
    folder: Path, merged: Merged, weighed: Sequence[GroupPairs], *, num_left_out: int, merge_s: float
) -> dict[str, Any]:
    """Return what is worth knowing of a dataset before training on it, ready for JSON.

    Seconds are wall time, added up over processes and over what killed runs had finished; loading the models is not in
    them.
    """
    columns = ["group_id", "scores", "preset"]
    table = pa.concat_tables(pq.read_table(folder / name, columns=columns) for name in merged.files)
    presets = dict.fromkeys(merged.group_ids)
    presets.update(zip(table["group_id"].to_pylist(), table["preset"].to_pylist(), strict=True))
    scores = score_statistics(table)
    rewards = np.concatenate(merged.rewards)
    return {
        "groups": len(merged.group_ids),
        "groups_left_out": num_left_out,
        "groups_by_preset": dict(sorted(Counter(preset or "none" for preset in presets.values()).items())),
        "candidates": len(rewards),
        "pairs": sum(len(pairs.winners) for pairs in weighed),
        "mu_sigma": mean_group_spread([p.spread for p in weighed], [len(p.winners) for p in weighed]),
        "mean_reward": float(rewards.mean()),
        "mean_best_reward": float(np.mean([reward.max() for reward in merged.rewards])),
        "mean_worst_reward": float(np.mean([reward.min() for reward in merged.rewards])),
        "scores": scores,
        "missing_metrics": [key for key, figures in scores.items() if figures["missing"] == len(rewards)],
        "seconds": _seconds(merged, merge_s),
        "group_spreads": {group: float(pairs.spread) for group, pairs in zip(merged.group_ids, weighed, strict=True)},
    }


def curation_summary(folder: Path) -> str:
    """Return one line about a finished dataset: what it holds and where the time went."""
    content = json.loads((folder / STATISTICS).read_text(encoding="utf-8"))
    seconds = content["seconds"]
    return (
        f"{content['groups']} groups, {content['candidates']} candidates, {content['pairs']} pairs in {folder}; "
        f"{seconds['total']:.0f} s, {100 * seconds['share_in_model_and_metrics']:.1f} % of them inside the model "
        f"({seconds['model']:.0f} s) and the metrics ({seconds['metrics']:.0f} s)"
    )
