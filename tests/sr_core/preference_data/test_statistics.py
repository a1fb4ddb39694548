import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sr_core.preference_data.dataset import open_dataset
from sr_core.preference_data.statistics import curation_summary, score_statistics


def test_the_figures_are_those_of_the_tables(curated: Path) -> None:
    content = json.loads((curated / "statistics.json").read_text(encoding="utf-8"))
    dataset = open_dataset(curated)
    rewards = [dataset.group(index).reward for index in range(3)]
    assert content["mean_reward"] == pytest.approx(np.mean(rewards))
    assert content["mean_best_reward"] == pytest.approx(np.mean(np.max(rewards, axis=1)))
    assert list(content["group_spreads"].values()) == pytest.approx(np.std(rewards, axis=1).tolist())
    counts = dataset.pairs().groupby("group_id", sort=False).size()
    spreads = [content["group_spreads"][group] for group in counts.index]
    assert content["mu_sigma"] == pytest.approx(np.average(spreads, weights=counts))
    assert sum(content["groups_by_preset"].values()) == content["groups"] == 3
    assert content["missing_metrics"] == []
    lpips = np.array([dataset.raw(index)["lpips"] for index in range(3)])
    assert content["scores"]["lpips"]["mean"] == pytest.approx(lpips.mean())
    assert content["scores"]["lpips"]["spread"] == pytest.approx(lpips.std(axis=1).mean())


def test_the_time_is_accounted_for(curated: Path) -> None:
    seconds = json.loads((curated / "statistics.json").read_text(encoding="utf-8"))["seconds"]
    share = seconds["share_in_model_and_metrics"]
    assert share == pytest.approx((seconds["model"] + seconds["metrics"]) / seconds["total"])
    assert seconds["model"] + seconds["metrics"] + seconds["merge"] <= seconds["total"]
    assert f"{100 * share:.1f} % of them inside the model" in curation_summary(curated)
    assert curation_summary(curated).startswith("3 groups, 12 candidates, 12 pairs")


def test_a_score_that_nothing_holds_is_counted_and_has_no_figures() -> None:
    scores = pa.array(
        [{"a": 1.0, "b": None}, {"a": 3.0, "b": None}], pa.struct([("a", pa.float64()), ("b", pa.float64())])
    )
    table = pa.table({"group_id": ["g", "g"], "scores": scores})
    assert score_statistics(table) == {"a": {"mean": 2.0, "spread": 1.0, "missing": 0.0}, "b": {"missing": 2.0}}
