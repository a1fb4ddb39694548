"""Preference pairs in the columns that other trainers read: Pick-a-Pic's and TRL's."""

from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sr_core.errors import ConfigError
from sr_core.files import replacing
from sr_core.preference_data.dataset import IMAGE, PreferenceDataset, open_dataset, table_schema
from sr_core.preference_data.pickapic import PICKAPIC_SCHEMA, ComparedImage, model_name, pickapic_row

FILE = "train-00000-of-00001.parquet"
PROMPT = "Restore this photograph at a higher resolution."
"""What TRL's column `prompt` says; the models themselves read no words."""

TRL_SCHEMA = table_schema(
    [("prompt", pa.string()), ("images", pa.list_(IMAGE)), ("chosen", IMAGE), ("rejected", IMAGE)]
)
"""`images` holds the one photograph that was restored."""


class _Group(NamedTuple):
    """The stored rows of a group's candidates by id, and its pairs."""

    lq: dict[str, Any]
    rows: dict[int, dict[str, Any]]
    pairs: list[dict[Hashable, Any]]


def _side(row: dict[str, Any]) -> ComparedImage:
    return ComparedImage(row["image"]["bytes"], model_name([row["model_id"], row["adapter"]]))


def _pickapic_rows(group: _Group, first_id: int) -> list[dict[str, Any]]:
    """Return one row per pair; the candidate with the lower id stands first, whoever won."""
    rows = []
    for number, pair in enumerate(group.pairs):
        tie = pair["reward_gap"] == 0
        left, right = sorted((pair["winner_id"], pair["loser_id"]))
        label = 0.5 if tie else float(left == pair["winner_id"])
        a, b = group.rows[left], group.rows[right]
        row = pickapic_row(
            _side(a),
            _side(b),
            label=label,
            ranking_id=first_id + number,
            num_pairs=len(group.pairs),
            created_at=max(a["created_at"], b["created_at"]),
        )
        rows.append(row)
    return rows


def _trl_rows(group: _Group, first_id: int) -> list[dict[str, Any]]:  # noqa: ARG001 - the signature of the table below
    """Return one row per pair that has a winner; TRL knows no ties."""
    return [
        {
            "prompt": PROMPT,
            "images": [group.lq],
            "chosen": group.rows[pair["winner_id"]]["image"],
            "rejected": group.rows[pair["loser_id"]]["image"],
        }
        for pair in group.pairs
        if pair["reward_gap"] != 0
    ]


class _Export(NamedTuple):
    schema: pa.Schema
    rows: Callable[[_Group, int], list[dict[str, Any]]]


EXPORTS = {"pickapic": _Export(PICKAPIC_SCHEMA, _pickapic_rows), "trl": _Export(TRL_SCHEMA, _trl_rows)}
"""Every kind of export."""


def _groups(dataset: PreferenceDataset) -> Iterator[_Group]:
    """Yield the groups that have pairs, one in memory at a time."""
    by_group = dict(iter(dataset.pairs().groupby("group_id", sort=False)))
    wanted = ["group_id", "candidate_id", "image", "lr_image", "model_id", "adapter", "created_at"]
    for index, group_id in enumerate(dataset.group_ids):
        if group_id not in by_group:
            continue
        rows = dataset.rows(index, wanted).to_pylist()
        yield _Group(
            rows[0]["lr_image"], {row["candidate_id"]: row for row in rows}, by_group[group_id].to_dict("records")
        )


def export(dataset: Path, out: Path, kind: str) -> Path:
    """Write the pairs of a dataset as one Parquet file in the folder `out` and return it; whole or not at all.

    `pickapic` has label_0 = 1 where the first image won, 0 where the second did and 0.5 for a tie (reward_gap 0);
    `trl` leaves ties out. Raises ConfigError if the folder is no finished dataset, or the kind is unknown.
    """
    if kind not in EXPORTS:
        raise ConfigError(f"kind must be one of {', '.join(EXPORTS)}, runs, got {kind!r}")
    opened, chosen, path, written = open_dataset(dataset), EXPORTS[kind], out / FILE, 0
    out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file, pq.ParquetWriter(file, chosen.schema) as writer:
        for group in _groups(opened):
            rows = chosen.rows(group, written)
            written += len(rows)
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=chosen.schema))
    return path
