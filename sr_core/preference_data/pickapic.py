"""One row per compared pair in Pick-a-Pic's columns, as diffusers' preference scripts read them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa

from sr_core.preference_data.dataset import TIME, table_schema

PICKAPIC_SCHEMA = table_schema(
    [
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("caption", pa.string()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("has_label", pa.bool_()),
        ("are_different", pa.bool_()),
        ("num_example_per_prompt", pa.int32()),
        ("created_at", TIME),
    ]
)
"""The columns of Pick-a-Pic that diffusers' preference scripts read; the bytes are PNGs in spite of the name."""


class ComparedImage(NamedTuple):
    """One side of a pair."""

    png: bytes
    model: str
    """What made it."""


def model_name(parts: Sequence[str | None]) -> str:
    """Return what made a picture from the parts of its name; a picture of another tool has fewer."""
    return "/".join(part for part in parts if part is not None)


def pickapic_row(
    first: ComparedImage, second: ComparedImage, *, label: float, ranking_id: int, num_pairs: int, created_at: datetime
) -> dict[str, Any]:
    """Return one row; `label` is 1 where the first was preferred, 0 where the second was and 0.5 for a tie.

    `num_pairs` counts the rows of the same photo.
    """
    return {
        "jpg_0": first.png,
        "jpg_1": second.png,
        "label_0": label,
        "label_1": 1 - label,
        "caption": "",
        "model_0": first.model,
        "model_1": second.model,
        "ranking_id": ranking_id,
        "has_label": True,
        "are_different": first.png != second.png,
        "num_example_per_prompt": num_pairs,
        "created_at": created_at,
    }
