import json
import shutil
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sr_core.errors import ConfigError
from sr_core.preference_data.dataset import PAIR_SCHEMA, decode_png, open_dataset
from train.exports import export

PICKAPIC = [
    *("jpg_0", "jpg_1", "label_0", "label_1", "caption", "model_0", "model_1", "ranking_id", "has_label"),
    *("are_different", "num_example_per_prompt", "created_at"),
]


@pytest.fixture
def voted(curated: Path, tmp_path: Path) -> Path:
    """Return a copy of the dataset whose pairs are: lower id wins, higher id wins, a tie; one group has none."""
    folder = tmp_path / "voted"
    shutil.copytree(curated, folder)
    groups = open_dataset(curated).group_ids
    plain = {"source": "human", "human_votes": 3, "agreement": 1.0}
    rows = [
        {"group_id": groups[0], "winner_id": 0, "loser_id": 3, "reward_gap": 0.2, **plain},
        {"group_id": groups[0], "winner_id": 2, "loser_id": 1, "reward_gap": 0.1, **plain},
        {"group_id": groups[2], "winner_id": 3, "loser_id": 0, "reward_gap": 0.0, **plain},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), folder / "pairs-00000-of-00001.parquet")
    return folder


def pixels(data: bytes) -> np.ndarray:
    with PIL.Image.open(BytesIO(data)) as image:
        return np.array(image)


def test_pickapic_has_its_own_columns_and_labels_with_a_half_for_ties(voted: Path, tmp_path: Path) -> None:
    path = export(voted, tmp_path / "out", "pickapic")
    table = pq.read_table(path)
    assert table.column_names == PICKAPIC
    rows = table.to_pylist()
    assert [(row["label_0"], row["label_1"]) for row in rows] == [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)]
    assert [row["num_example_per_prompt"] for row in rows] == [2, 2, 1]
    assert [row["ranking_id"] for row in rows] == [0, 1, 2]
    assert all(row["has_label"] and row["are_different"] for row in rows)
    dataset = open_dataset(voted)
    first, last = dataset.group(0), dataset.group(2)
    for row, group, (left, right) in zip(rows, (first, first, last), ((0, 3), (1, 2), (0, 3)), strict=True):
        assert np.array_equal(pixels(row["jpg_0"]), group.images[left])
        assert np.array_equal(pixels(row["jpg_1"]), group.images[right])


def test_the_winner_of_every_exported_label_has_the_higher_reward(curated: Path, tmp_path: Path) -> None:
    dataset = open_dataset(curated)
    rewards = {
        image.tobytes(): reward
        for index in range(len(dataset))
        for image, reward in zip(dataset.group(index).images, dataset.group(index).reward, strict=True)
    }
    rows = pq.read_table(export(curated, tmp_path, "pickapic")).to_pylist()
    assert len(rows) == len(dataset.pairs())
    for row in rows:
        gap = rewards[pixels(row["jpg_0"]).tobytes()] - rewards[pixels(row["jpg_1"]).tobytes()]
        assert (gap > 0) == (row["label_0"] == 1)


def test_trl_has_the_photograph_the_chosen_and_the_rejected_and_no_ties(voted: Path, tmp_path: Path) -> None:
    table = pq.read_table(export(voted, tmp_path, "trl"))
    assert table.column_names == ["prompt", "images", "chosen", "rejected"]
    group = open_dataset(voted).group(0)
    rows = table.to_pylist()
    assert len(rows) == 2
    for row, (winner, loser) in zip(rows, ((0, 3), (2, 1)), strict=True):
        assert np.array_equal(decode_png(row["chosen"]), group.images[winner])
        assert np.array_equal(decode_png(row["rejected"]), group.images[loser])
        assert [decode_png(image).tobytes() for image in row["images"]] == [group.lq.tobytes()]


def test_the_datasets_library_shows_the_images_of_a_trl_export(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    path = export(curated, tmp_path / "out", "trl")
    loaded = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    row = loaded[0]
    assert row["chosen"].size == row["rejected"].size == (256, 256)
    assert [image.size for image in row["images"]] == [(64, 64)]


def test_an_unknown_kind_or_an_unfinished_dataset_is_refused(curated: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pickapic, trl, runs, got 'parquet'"):
        export(curated, tmp_path / "out", "parquet")
    with pytest.raises(ConfigError, match="_SUCCESS"):
        export(tmp_path, tmp_path / "out", "trl")
    assert not (tmp_path / "out").exists()


def test_exporting_twice_gives_the_same_rows(curated: Path, tmp_path: Path) -> None:
    first, second = (pq.read_table(export(curated, tmp_path / name, "pickapic")) for name in ("a", "b"))
    assert first.equals(second)
    assert json.loads(first.schema.metadata[b"huggingface"])["info"]["features"].keys() == set(PICKAPIC)
