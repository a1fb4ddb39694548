"""A finished dataset of real crops whose candidates and scores no model had to make."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sr_core.images import from_uint8, read_image, to_uint8
from sr_core.preference_data.card import CardFacts
from sr_core.preference_data.dataset import candidate_schema
from sr_core.preference_data.folder import complete_dataset
from sr_core.preference_data.shards import Origin, ScoredGroup, Seconds, group_table, write_group
from sr_core.preferences import weigh_groups
from sr_core.resampling import resize_clamped
from sr_core.rewards.group import hybrid_reward, score_term

KEYS = ("lpips", "ssimulacra2", "vsi", "brisque", "niqe")
FACTS = CardFacts(
    drawn="from 4 seeds by `compact` (adapter `sft`)", made="Made by a test.", metric_set="`train_offline`",
    fidelity_weight=0.5, top=2, weights="Over the table the mean of `w_total` is 1.", biases=("Few photographs.",),
    recipe={"seed": 11, "output": "/somewhere/else"},
)  # fmt: skip


def group_of(photo: Path, number: int) -> ScoredGroup:
    """Return a crop, its quarter, and four noisy copies with scores of plausible size."""
    draw = np.random.default_rng(number)
    hq = to_uint8(read_image(photo).pixels)[64:320, 64:320]
    noisy = [hq.astype(np.float64) + draw.normal(0, 2 + 2 * m, hq.shape) for m in range(4)]
    raw = {
        "lpips": draw.uniform(0.1, 0.4, 4).tolist(),
        "ssimulacra2": draw.uniform(40, 70, 4).tolist(),
        "vsi": draw.uniform(0.93, 0.98, 4).tolist(),
        "brisque": draw.uniform(10, 40, 4).tolist(),
        "niqe": draw.uniform(3, 6, 4).tolist(),
    }
    origin = Origin(
        generator="blocks", model_id="compact", model_revision=None, adapter="sft", sampler="euler",
        schedule="geometric", steps=2, guidance=1.0, color_fix="off", tile_cfg="{}", preset="bicubic",
        photo=f"{photo.name}@64,64",
    )  # fmt: skip
    return ScoredGroup(
        group_id=f"crop-{number:06d}",
        origin=origin,
        lq=to_uint8(resize_clamped(from_uint8(np.ascontiguousarray(hq)), 64, 64)),
        hq=hq,
        images=[np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in noisy],
        candidate_ids=range(4),
        seeds=[10 * number + m for m in range(4)],
        sources=[None] * 4,
        dtypes=["float32"] * 4,
        raw=raw,
        reward=hybrid_reward(raw, {key: score_term(key) for key in raw}),
        metrics=[{"key": key} for key in raw],
    )


@pytest.fixture(scope="session")
def curated(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished dataset of three groups in two shards; it must not be changed."""
    folder, aside = tmp_path_factory.mktemp("dataset"), tmp_path_factory.mktemp("groups")
    schema, parts = candidate_schema(KEYS), []
    for number, name in enumerate(("472_bluebird.png", "241_building.png", "472_bluebird.png")):
        table = group_table(group_of(photos / "eval" / name, number), schema, datetime(2026, 1, 2, tzinfo=UTC))
        parts.append(aside / f"{number}.parquet")
        write_group(parts[-1], table, Seconds(3.0, 1.0, 0.5))
    complete_dataset(folder, parts, schema, FACTS, groups_per_shard=2, weigh=weigh_groups)
    return folder
