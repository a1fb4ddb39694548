from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sr_core.errors import ConfigError
from sr_core.preference_data.dataset import candidate_schema, decode_png
from sr_core.preference_data.shards import (
    Origin,
    ScoredGroup,
    Seconds,
    group_table,
    merge_groups,
    pairs_table,
    write_group,
)
from sr_core.preferences import weigh_groups
from sr_core.rewards.group import hybrid_reward, score_term

SCHEMA = candidate_schema(["niqe", "brisque"])
DAY = datetime(2026, 1, 2, tzinfo=UTC)
ORIGIN = Origin(
    generator="g", model_id="m", model_revision=None, adapter="sft", sampler="euler", schedule="geometric", steps=4,
    guidance=1.0, color_fix="off", tile_cfg="{}", preset=None, photo="a.png",
)  # fmt: skip


def scored(number: int, niqe: Sequence[float] = (4.0, 3.0, 2.0, 1.0), ids: Sequence[int] = (0, 1, 2, 3)) -> ScoredGroup:
    draw = np.random.default_rng(number)
    raw = {"niqe": list(niqe)}
    return ScoredGroup(
        group_id=f"group-{number}",
        origin=ORIGIN,
        lq=draw.integers(0, 256, (4, 6, 3), dtype=np.uint8),
        hq=None,
        images=list(draw.integers(0, 256, (4, 16, 24, 3), dtype=np.uint8)),
        candidate_ids=ids,
        seeds=[10 * number + k for k in ids],
        sources=[None] * 4,
        dtypes=["float32"] * 4,
        raw=raw,
        reward=hybrid_reward(raw, {"niqe": score_term("niqe")}),
        metrics=[],
    )


def parts_of(folder: Path, groups: Sequence[ScoredGroup | None], created_at: datetime = DAY) -> list[Path]:
    paths = []
    for number, group in enumerate(groups):
        table = SCHEMA.empty_table() if group is None else group_table(group, SCHEMA, created_at)
        paths.append(folder / f"{number}.parquet")
        write_group(paths[-1], table, Seconds(3.0, 1.0, 0.5))
    return paths


def test_a_group_becomes_one_row_per_candidate_without_loss() -> None:
    group = scored(1)
    table = group_table(group, SCHEMA, DAY)
    rows = table.to_pylist()
    assert table.schema == SCHEMA
    assert all(np.array_equal(decode_png(row["image"]), image) for row, image in zip(rows, group.images, strict=True))
    assert np.array_equal(decode_png(rows[0]["lr_image"]), group.lq)
    assert [row["rank"] for row in rows] == [4, 3, 2, 1]
    assert rows[0]["scores"] == {"niqe": 4.0, "brisque": None}
    assert rows[3]["norm_scores"] == {"niqe": 1.0, "brisque": None}
    assert (rows[0]["width"], rows[0]["height"], rows[0]["hr_image"]) == (24, 16, None)


@pytest.mark.parametrize(("per_shard", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (9, [3])])
def test_shards_hold_the_groups_in_order_one_row_group_each(tmp_path: Path, per_shard: int, sizes: list[int]) -> None:
    parts = parts_of(tmp_path, [scored(0), None, scored(1), scored(2)])
    merged = merge_groups(parts, tmp_path, SCHEMA, groups_per_shard=per_shard)
    assert merged.files == tuple(f"candidates-{k:05d}-of-{len(sizes):05d}.parquet" for k in range(len(sizes)))
    assert [pq.ParquetFile(tmp_path / name).num_row_groups for name in merged.files] == sizes
    assert merged.group_ids == ("group-0", "group-1", "group-2")
    whole = pa.concat_tables(pq.read_table(tmp_path / name) for name in merged.files)
    assert whole["seed"].to_pylist() == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    assert merged.seconds == Seconds(12.0, 4.0, 2.0)


def test_the_digest_knows_every_column_but_the_time(tmp_path: Path) -> None:
    def digest(name: str, group: ScoredGroup, created_at: datetime = DAY) -> str:
        (tmp_path / name).mkdir()
        parts = parts_of(tmp_path / name, [group], created_at)
        return merge_groups(parts, tmp_path / name, SCHEMA, groups_per_shard=1).digest

    first = digest("a", scored(1))
    assert digest("b", scored(1), datetime(2030, 1, 1, tzinfo=UTC)) == first
    assert digest("c", scored(2)) != first
    assert digest("d", scored(1, niqe=(4.0, 3.0, 2.0, 0.5))) != first


def test_a_dataset_of_no_group_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one group"):
        merge_groups(parts_of(tmp_path, [None, None]), tmp_path, SCHEMA, groups_per_shard=2)


def test_pairs_name_candidates_by_their_ids_even_where_some_failed(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, [scored(0, ids=(0, 2, 5, 7)), scored(1)])
    merged = merge_groups(parts, tmp_path, SCHEMA, groups_per_shard=2)
    rows = pairs_table(merged, weigh_groups(merged.rewards, 1)).to_pylist()
    assert [(row["group_id"], row["winner_id"], row["loser_id"]) for row in rows] == [
        ("group-0", 7, 0),
        ("group-1", 3, 0),
    ]
    assert all(row["w_total"] == pytest.approx(1) for row in rows)


def test_the_weights_of_one_group_alone_are_left_open(tmp_path: Path) -> None:
    merged = merge_groups(parts_of(tmp_path, [scored(0)]), tmp_path, SCHEMA, groups_per_shard=2)
    (row,) = pairs_table(merged, weigh_groups(merged.rewards, 1)).to_pylist()
    assert (row["w_inter"], row["w_total"], row["human_votes"], row["agreement"]) == (None, None, 0, None)
    assert row["reward_gap"] == row["w_intra"] == 1.0
