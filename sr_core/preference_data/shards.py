"""Groups of candidates written to disk: one file each while they are made, then shards of many."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, UInt8

from sr_core.encoding import Attachments, encode_png
from sr_core.errors import ConfigError
from sr_core.files import replacing
from sr_core.metadata import marker_packet, output_exif
from sr_core.preference_data.dataset import IMAGE_COLUMNS, PAIR_SCHEMA
from sr_core.preferences import GroupPairs
from sr_core.rewards.group import GroupReward
from sr_core.version import VERSION

SECONDS = b"seconds"
"""Key under which a group's file keeps the wall time that it took."""
_DRAWING = (
    *("seed", "generator", "model_id", "model_revision", "adapter", "sampler", "steps", "guidance", "control_scale"),
    *("color_fix", "tile_cfg", "schedule", "dtype"),
)
"""Columns that say how a candidate was drawn."""
FURTHER = ("tile", "prompt", "negative_prompt", "start", "strength", "parts", "offload", "quantize")
"""Settings of a drawing, by their names in run.json, that share the column `tile_cfg`."""
UNKNOWN_LICENSE = "unknown"
"""Licence of a source photograph where nobody stated one."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How the candidates of a group were drawn, as the table's columns name it."""

    generator: str
    model_id: str
    model_revision: str | None
    """SHA-256 of the weights; None where it was not recorded."""
    adapter: str
    sampler: str
    schedule: str
    steps: int
    guidance: float | None
    color_fix: str
    tile_cfg: str
    """JSON, as `further_settings` gives it."""
    preset: str | None
    photo: str
    """File name of the source photograph, with the corner of the crop."""
    control_scale: float | None = None
    code_version: str = VERSION
    license: str = UNKNOWN_LICENSE


@dataclass(frozen=True, kw_only=True)
class ScoredGroup:
    """Everything that is stored about one group."""

    group_id: str
    origin: Origin
    lq: UInt8[np.ndarray, "lq_h lq_w 3"]
    hq: UInt8[np.ndarray, "h w 3"] | None
    images: Sequence[UInt8[np.ndarray, "h w 3"]]
    candidate_ids: Sequence[int]
    seeds: Sequence[int | None]
    """None for a candidate that no seed drew."""
    sources: Sequence[str | None]
    """What a candidate without a seed is called: the name of its file or model."""
    dtypes: Sequence[str]
    raw: Mapping[str, Sequence[float]]
    reward: GroupReward
    metrics: Sequence[Mapping[str, Any]]
    """Provenance of each score."""


def further_settings(drawn: Mapping[str, Any]) -> str:
    """Return the column `tile_cfg`: which settings without a column of their own a group was drawn with."""
    return json.dumps({name: drawn[name] for name in FURTHER if drawn.get(name) is not None})


class Seconds(NamedTuple):
    """Wall time of one group or of many."""

    total: float
    model: float
    """Inside the restorer."""
    metrics: float
    """Inside the scorer."""


class Merged(NamedTuple):
    """What the shards hold."""

    files: tuple[str, ...]
    group_ids: tuple[str, ...]
    candidate_ids: tuple[tuple[int, ...], ...]
    rewards: tuple[Float64[np.ndarray, " m"], ...]
    seconds: Seconds
    digest: str
    """SHA-256 of all columns but the times."""


def plain_png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Return a photograph as a PNG without any metadata."""
    from imagecodecs import PNG, png_encode

    encoded = png_encode(np.ascontiguousarray(pixels), level=1, strategy=PNG.STRATEGY.RLE, filter=PNG.FILTER.SUB)
    return bytes(encoded)


def marked_png(pixels: UInt8[np.ndarray, "h w 3"], recipe: Mapping[str, object]) -> bytes:
    """Return a candidate as a PNG that carries the mark of content made with trained models."""
    height, width = pixels.shape[:2]
    exif = output_exif(None, width, height, None, keep_gps=False)
    return encode_png(pixels, Attachments(exif=exif, xmp=marker_packet(recipe), dpi=None), fast=True)


def _image(png: bytes, name: str) -> dict[str, Any]:
    return {"bytes": png, "path": f"{name}.png"}


def _candidate_columns(group: ScoredGroup, m: int) -> dict[str, Any]:
    """Return what is known of how candidate m was drawn; of one without a seed, where it came from."""
    origin, seed, source, dtype = group.origin, group.seeds[m], group.sources[m], group.dtypes[m]
    if seed is None:
        unknown = dict.fromkeys(_DRAWING)
        recipe: dict[str, object] = {"source": source, "version": VERSION}
        return {**unknown, "model_id": source, "image": marked_png(group.images[m], recipe)}
    recipe = {
        "seed": seed, "backbone": origin.model_id, "adapter": origin.adapter, "steps": origin.steps,
        "sampler": origin.sampler, "dtype": dtype, "version": VERSION,
    }  # fmt: skip
    return {"seed": seed, "dtype": dtype, "image": marked_png(group.images[m], recipe)}


def group_table(group: ScoredGroup, schema: pa.Schema, created_at: datetime) -> pa.Table:
    """Return a group's rows of the table of candidates."""
    keys = [field.name for field in schema.field("scores").type]
    origin = group.origin
    shared = {name: getattr(origin, name) for name in schema.names if hasattr(origin, name)}
    versions = json.dumps(list(group.metrics), sort_keys=True)
    reward = group.reward
    first = {"lr_image": _image(plain_png(group.lq), f"{group.group_id}_lr")}
    if group.hq is not None:
        first["hr_image"] = _image(plain_png(group.hq), f"{group.group_id}_hr")
    rows: list[dict[str, Any]] = []
    for m, candidate in enumerate(group.candidate_ids):
        pixels, drawing = group.images[m], _candidate_columns(group, m)
        normalised = {key: float(values[m]) for key, values in reward.normalised.items()}
        row = (
            shared
            | drawing
            | {
                "group_id": group.group_id,
                "candidate_id": candidate,
                "image": _image(drawing["image"], f"{group.group_id}_{candidate}"),
                "width": pixels.shape[1],
                "height": pixels.shape[0],
                "scores": {key: group.raw[key][m] if key in group.raw else None for key in keys},
                "norm_scores": {key: normalised.get(key) for key in keys},
                "reward": float(reward.reward[m]),
                "rank": None if reward.ranks is None else reward.ranks[m],
                "metric_versions": versions,
                "created_at": created_at,
            }
        )
        rows.append(row if rows else row | first)
    return pa.Table.from_pylist(rows, schema=schema)


def write_group(path: Path, table: pa.Table, seconds: Seconds) -> None:
    """Write a group's file, whole or not at all; a table without rows says that the group gave nothing."""
    timed = table.replace_schema_metadata({**(table.schema.metadata or {}), SECONDS: json.dumps(seconds).encode()})
    with replacing(path) as file:
        pq.write_table(timed, file)


def _hash_rows(digest: "hashlib._Hash", table: pa.Table) -> None:
    plain = table.drop_columns([*IMAGE_COLUMNS, "created_at"])
    digest.update(json.dumps(plain.to_pylist(), sort_keys=True).encode())
    for name in IMAGE_COLUMNS:
        for image in table[name].to_pylist():
            digest.update(b"" if image is None else hashlib.sha256(image["bytes"]).digest())


def merge_groups(parts: Sequence[Path], folder: Path, schema: pa.Schema, *, groups_per_shard: int) -> Merged:
    """Put the groups' files, in order, into shards with one row group per group; groups without rows are left out.

    Raises ConfigError if no group has rows.
    """
    timings = [Seconds(*json.loads(pq.read_schema(part).metadata[SECONDS])) for part in parts]
    parts = [part for part in parts if pq.read_metadata(part).num_rows]
    if not parts:
        raise ConfigError("a dataset needs at least one group with enough sound candidates, got none")
    num_shards = -(-len(parts) // groups_per_shard)
    digest = hashlib.sha256()
    files, group_ids, candidate_ids, rewards = [], [], [], []
    for shard in range(num_shards):
        files.append(f"candidates-{shard:05d}-of-{num_shards:05d}.parquet")
        with replacing(folder / files[-1]) as file, pq.ParquetWriter(file, schema) as writer:
            for part in parts[shard * groups_per_shard : (shard + 1) * groups_per_shard]:
                table = pq.read_table(part).replace_schema_metadata(schema.metadata)
                writer.write_table(table, row_group_size=len(table))
                _hash_rows(digest, table)
                group_ids.append(table["group_id"][0].as_py())
                candidate_ids.append(tuple(table["candidate_id"].to_pylist()))
                rewards.append(table["reward"].to_numpy())
    seconds = Seconds(*(sum(column) for column in zip(*timings, strict=True)))
    return Merged(tuple(files), tuple(group_ids), tuple(candidate_ids), tuple(rewards), seconds, digest.hexdigest())


def pairs_table(merged: Merged, weighed: Sequence[GroupPairs]) -> pa.Table:
    """Return the table of pairs by reward alone, ids of candidates in place of their positions."""
    rows = []
    for group, ids, pairs in zip(merged.group_ids, merged.candidate_ids, weighed, strict=True):
        for p in range(len(pairs.winners)):
            row = {
                "group_id": group,
                "winner_id": ids[int(pairs.winners[p])],
                "loser_id": ids[int(pairs.losers[p])],
                "reward_gap": float(pairs.gap[p]),
                "w_intra": float(pairs.intra[p]),
                "w_inter": None if pairs.inter is None else float(pairs.inter[p]),
                "w_total": None if pairs.total is None else float(pairs.total[p]),
                "source": "reward",
                "human_votes": 0,
                "agreement": None,
            }
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)
