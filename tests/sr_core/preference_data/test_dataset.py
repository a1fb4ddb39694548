import shutil
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from sr_core.decoding import read_xmp
from sr_core.errors import ConfigError
from sr_core.metadata import parse_marker
from sr_core.preference_data.dataset import candidate_schema, decode_png, open_dataset

WANTED = [
    *("group_id", "candidate_id", "seed", "generator", "image", "lr_image", "hr_image", "width", "height", "model_id"),
    *("model_revision", "adapter", "sampler", "steps", "guidance", "control_scale", "color_fix", "tile_cfg", "scores"),
    *("norm_scores", "reward", "rank", "metric_versions", "code_version", "created_at", "license"),
]
PAIR_COLUMNS = [
    *("group_id", "winner_id", "loser_id", "reward_gap", "w_intra", "w_inter", "w_total", "source", "human_votes"),
    "agreement",
]


def test_the_tables_have_the_columns_that_people_expect_in_their_order(curated: Path) -> None:
    assert candidate_schema(["niqe"]).names[: len(WANTED)] == WANTED
    dataset = open_dataset(curated)
    assert dataset.rows(0).column_names == candidate_schema(["niqe"]).names
    assert list(dataset.pairs().columns) == PAIR_COLUMNS


def test_a_group_is_read_as_its_rows_say(curated: Path) -> None:
    dataset = open_dataset(curated)
    assert len(dataset) == len(dataset.group_ids) == 3
    for index in range(3):
        group, rows = dataset.group(index), dataset.rows(index).to_pylist()
        assert group.group_id == dataset.group_ids[index]
        assert group.images.shape == (4, 256, 256, 3)
        assert group.lq.shape == (64, 64, 3)
        assert group.seeds == tuple(row["seed"] for row in rows)
        assert group.candidate_ids == (0, 1, 2, 3)
        assert np.array_equal(group.reward, [row["reward"] for row in rows])
        assert {key: values.tolist() for key, values in group.raw.items()} == {
            key: [row["scores"][key] for row in rows] for key in rows[0]["scores"]
        }
        assert all(np.array_equal(group.images[m], decode_png(row["image"])) for m, row in enumerate(rows))
        assert {key: values.tolist() for key, values in dataset.raw(index).items()} == {
            key: values.tolist() for key, values in group.raw.items()
        }


def test_the_photograph_stands_on_the_first_row_of_its_group_alone(curated: Path) -> None:
    for index in range(3):
        rows = open_dataset(curated).rows(index, ["lr_image", "hr_image"]).to_pylist()
        assert [(row["lr_image"] is not None, row["hr_image"] is not None) for row in rows] == [
            (True, True),
            *[(False, False)] * 3,
        ]


def test_candidates_carry_the_mark_and_photographs_do_not(curated: Path) -> None:
    row = open_dataset(curated).rows(0).to_pylist()[0]
    mark = parse_marker(read_xmp(row["image"]["bytes"], "image"))
    assert mark is not None
    assert mark.recipe is not None
    assert mark.recipe["seed"] == row["seed"]
    assert parse_marker(read_xmp(row["hr_image"]["bytes"], "hr")) is None


def test_the_best_reward_has_rank_one_and_rewards_lie_between_zero_and_one(curated: Path) -> None:
    table = open_dataset(curated).candidates(["group_id", "reward", "rank"])
    assert table["reward"].between(0, 1).all()
    best = table.loc[table.groupby("group_id")["reward"].idxmax()]
    assert (best["rank"] == 1).all()


def test_a_folder_that_is_no_finished_dataset_is_refused(curated: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a folder with _SUCCESS"):
        open_dataset(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(curated, broken)
    table = pq.read_table(broken / "candidates-00000-of-00002.parquet")
    pq.write_table(table, broken / "candidates-00000-of-00002.parquet")
    with pytest.raises(ConfigError, match="one row group for each of its 3 groups, got 2"):
        open_dataset(broken)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_the_datasets_library_shows_the_images_by_card_and_by_file(curated: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    by_card = datasets.load_dataset(str(curated), "candidates", split="train", cache_dir=cache)
    files = sorted(str(path) for path in curated.glob("candidates-*.parquet"))
    by_file = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    assert by_card.features == by_file.features
    assert by_card.num_rows == by_file.num_rows == 12
    group = open_dataset(curated).group(1)
    for loaded in (by_card, by_file):
        image = loaded[5]["image"]
        assert isinstance(image, PIL.Image.Image)
        assert np.array_equal(np.array(image), group.images[1])
    assert by_card[4]["lr_image"].size == (64, 64)
    assert by_card[5]["lr_image"] is None
    pairs = datasets.load_dataset(str(curated), "pairs", split="train", cache_dir=cache)
    assert pairs.num_rows == len(open_dataset(curated).pairs())


def test_any_reader_of_png_sees_the_same_pixels(curated: Path) -> None:
    row = open_dataset(curated).rows(0, ["image"]).to_pylist()[3]
    with PIL.Image.open(BytesIO(row["image"]["bytes"])) as image:
        assert image.mode == "RGB"
        assert np.array_equal(np.array(image), decode_png(row["image"]))
