"""The preference dataset on disk: Parquet tables of candidates and pairs, read group by group."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, UInt8

from sr_core.errors import ConfigError
from sr_core.rewards.group import hybrid_reward, score_term

MARKER = "_SUCCESS"
"""Written last: a folder without it is no dataset yet."""
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""An image as the `datasets` library stores it; the bytes are a PNG."""
IMAGE_COLUMNS = ("image", "lr_image", "hr_image")
TIME = pa.timestamp("ms", tz="UTC")


def table_schema(fields: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    """Return a schema that tells the `datasets` library which columns are images."""
    schema = pa.schema(list(fields))
    features = {name: feature(kind) for name, kind in fields}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def value_name(kind: pa.DataType) -> str:
    """Return what the `datasets` library calls the type of a plain value."""
    return {pa.float64(): "float64", TIME: "timestamp[ms, tz=UTC]"}.get(kind, str(kind))


def feature(kind: pa.DataType) -> dict[str, object] | list[object]:
    """Return what the `datasets` library calls a column type: an image, a list, a struct or a value."""
    if kind.equals(IMAGE):
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: feature(field.type) for field in kind}
    return {"dtype": value_name(kind), "_type": "Value"}


def candidate_schema(score_keys: Sequence[str]) -> pa.Schema:
    """Return the schema of the table of candidates; `score_keys` are the columns of both score structs.

    `lr_image` and `hr_image` are filled on the first row of each group only. A score is null where it could not be
    taken, `rank` where nothing could be ranked. `tile_cfg` is JSON: the side of a tile in LQ pixels, and every setting
    of the drawing that has no column of its own (see `further_settings` of `shards`). Datasets of earlier versions
    have the tile alone.
    """
    scores = pa.struct([(key, pa.float64()) for key in score_keys])
    text, number, count = pa.string(), pa.float64(), pa.int32()
    return table_schema(
        [
            ("group_id", text),
            ("candidate_id", count),
            ("seed", pa.int64()),
            ("generator", text),
            ("image", IMAGE),
            ("lr_image", IMAGE),
            ("hr_image", IMAGE),
            ("width", count),
            ("height", count),
            ("model_id", text),
            ("model_revision", text),
            ("adapter", text),
            ("sampler", text),
            ("steps", count),
            ("guidance", number),
            ("control_scale", number),
            ("color_fix", text),
            ("tile_cfg", text),
            ("scores", scores),
            ("norm_scores", scores),
            ("reward", number),
            ("rank", count),
            ("metric_versions", text),
            ("code_version", text),
            ("created_at", TIME),
            ("license", text),
            ("preset", text),
            ("photo", text),
            ("schedule", text),
            ("dtype", text),
        ]
    )


PAIR_SCHEMA = table_schema(
    [
        ("group_id", pa.string()),
        ("winner_id", pa.int32()),
        ("loser_id", pa.int32()),
        ("reward_gap", pa.float64()),
        ("w_intra", pa.float64()),
        ("w_inter", pa.float64()),
        ("w_total", pa.float64()),
        ("source", pa.string()),
        ("human_votes", pa.int32()),
        ("agreement", pa.float64()),
    ]
)
"""Winner and loser are candidate ids of the group; weights as `sr_core.preferences` gives them."""


def decode_png(image: dict[str, Any]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of an image column's value."""
    from imagecodecs import png_decode

    return png_decode(image["bytes"])


@dataclass(frozen=True, kw_only=True)
class CandidateGroup:
    """All candidates of one photograph."""

    group_id: str
    lq: UInt8[np.ndarray, "lq_h lq_w 3"]
    hq: UInt8[np.ndarray, "h w 3"] | None
    """None where the group came without a ground truth."""
    images: UInt8[np.ndarray, "m h w 3"]
    candidate_ids: tuple[int, ...]
    seeds: tuple[int | None, ...]
    """None for a candidate that no seed drew."""
    raw: dict[str, Float64[np.ndarray, " m"]]
    """Raw scores by key, those that the whole group has."""
    reward: Float64[np.ndarray, " m"]
    """In [0, 1], higher is better; comparable inside this group only."""
    preset: str | None
    """Degradation preset; None for a photograph that was not degraded by this project."""


class _Place(NamedTuple):
    shard: int
    row_group: int


class PreferenceDataset:
    """A finished dataset; images are read from disk as they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Read the index; raises ConfigError if `folder` is no finished dataset."""
        marker = folder / MARKER
        if not marker.is_file():
            raise ConfigError(
                f"a dataset must be a folder with {MARKER}, got {folder}; make one with: python -m train curate RECIPE"
            )
        content = json.loads(marker.read_text(encoding="utf-8"))
        self.folder = folder
        self.digest: str = content["digest"]
        """SHA-256 of everything in the table of candidates but the times."""
        self.group_ids: tuple[str, ...] = tuple(content["group_ids"])
        self._pairs: str = content["pairs"]
        self._files = tuple(pq.ParquetFile(folder / name) for name in content["candidates"])
        self._places = tuple(_Place(s, r) for s, file in enumerate(self._files) for r in range(file.num_row_groups))
        if len(self._places) != len(self.group_ids):
            raise ConfigError(
                f"{folder} must hold one row group for each of its {len(self.group_ids)} groups, "
                f"got {len(self._places)}; curate it again"
            )

    def __len__(self) -> int:
        return len(self.group_ids)

    @cached_property
    def score_keys(self) -> tuple[str, ...]:
        """Return every score key that the table has a column for."""
        return tuple(field.name for field in self._files[0].schema_arrow.field("scores").type)

    def rows(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the candidates of group `index` as they are stored; all columns by default."""
        place = self._places[index]
        table = self._files[place.shard].read_row_group(
            place.row_group, columns=None if columns is None else list(columns)
        )
        assert "group_id" not in table.column_names or table["group_id"][0].as_py() == self.group_ids[index]
        return table

    def raw(self, index: int) -> dict[str, Float64[np.ndarray, " m"]]:
        """Return the raw scores of group `index` without reading an image."""
        return _raw_scores(self.rows(index, ["scores"]))

    def rewards(self, index: int, num_candidates: int, fidelity_weight: float | int) -> Float64[np.ndarray, " m"]:
        """Return the rewards of the first candidates of group `index`, normalised among themselves; 0 means all.

        Raises ConfigError if the group has fewer.
        """
        raw = self.raw(index)
        count = num_candidates or len(next(iter(raw.values())))
        if any(len(values) < count for values in raw.values()):
            raise ConfigError(f"group {self.group_ids[index]} has fewer than {count} candidates")
        first = {key: values[:count] for key, values in raw.items()}
        terms = {key: score_term(key) for key in first}
        return hybrid_reward(first, terms, fidelity_weight=fidelity_weight).reward

    def group(self, index: int) -> CandidateGroup:
        """Return group `index` with its pixels."""
        table = self.rows(index)
        first = table.slice(0, 1).to_pylist()[0]
        return CandidateGroup(
            group_id=first["group_id"],
            lq=decode_png(first["lr_image"]),
            hq=None if first["hr_image"] is None else decode_png(first["hr_image"]),
            images=np.stack([decode_png(image) for image in table["image"].to_pylist()]),
            candidate_ids=tuple(table["candidate_id"].to_pylist()),
            seeds=tuple(table["seed"].to_pylist()),
            raw=_raw_scores(table),
            reward=table["reward"].to_numpy(),
            preset=first["preset"],
        )

    def candidates(self, columns: Sequence[str]) -> pd.DataFrame:
        """Return the named columns of all candidates, in order; leave the images out unless there are few."""
        return pa.concat_tables(file.read(columns=list(columns)) for file in self._files).to_pandas()

    def pairs(self) -> pd.DataFrame:
        """Return the table of pairs."""
        return pq.read_table(self.folder / self._pairs).to_pandas()


def _raw_scores(table: pa.Table) -> dict[str, Float64[np.ndarray, " m"]]:
    scores = table["scores"].combine_chunks()
    columns = {field.name: scores.field(field.name) for field in scores.type}
    return {
        key: column.to_numpy(zero_copy_only=False).astype(np.float64)
        for key, column in columns.items()
        if not column.null_count
    }


def open_dataset(folder: Path) -> PreferenceDataset:
    """Open a dataset of curation or of the page's export; raises ConfigError if it is not a finished one."""
    return PreferenceDataset(folder)
