"""A dataset's folder made complete: shards, pairs, figures and card, and only then the marker."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sr_core.files import replace_text, replacing
from sr_core.preference_data.card import CardFacts, write_card
from sr_core.preference_data.dataset import MARKER
from sr_core.preference_data.shards import merge_groups, pairs_table
from sr_core.preference_data.statistics import STATISTICS, dataset_statistics
from sr_core.preferences import GroupPairs, Rewards

PAIRS = "pairs-00000-of-00001.parquet"
RECIPE = "recipe.json"
"""What settles the dataset beside the files that it was made from."""
Weigh = Callable[[Sequence[Rewards], int], list[GroupPairs]]
"""Gives the pairs of all groups from their rewards and N: `weigh_groups` or `weigh_each` with settings."""


def complete_dataset(
    folder: Path,
    parts: Sequence[Path],
    schema: pa.Schema,
    facts: CardFacts,
    *,
    groups_per_shard: int,
    weigh: Weigh,
) -> None:
    """Merge the groups' files, weigh their pairs, describe both, and mark the dataset as finished.

    Raises ConfigError if no group has rows.
    """
    start = time.monotonic()
    merged = merge_groups(parts, folder, schema, groups_per_shard=groups_per_shard)
    weighed = weigh(merged.rewards, facts.top)
    with replacing(folder / PAIRS) as file:
        pq.write_table(pairs_table(merged, weighed), file)
    num_left_out = len(parts) - len(merged.group_ids)
    statistics = dataset_statistics(
        folder, merged, weighed, num_left_out=num_left_out, merge_s=time.monotonic() - start
    )
    replace_text(folder / STATISTICS, json.dumps(statistics, indent=1))
    write_card(folder, facts, {"candidates": merged.files, "pairs": (PAIRS,)}, statistics)
    content = {"digest": merged.digest, "group_ids": merged.group_ids, "candidates": merged.files, "pairs": PAIRS}
    replace_text(folder / MARKER, json.dumps(content))


def stored_recipe(folder: Path) -> dict[str, Any]:
    """Return the settings that a dataset was made with; empty where none are stored."""
    path = folder / RECIPE
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
