"""The table of a ranking holds the run's numbers in full: the sorted and filtered ones are those of the charts."""

import re
from pathlib import Path

import numpy as np
import pytest

from sr_core.explanation import RankBootstrap, RankedGroup, bootstrap_ranks, contributions, ranked_group
from sr_core.runs import Run
from sr_core.ui.explorer.ranking_table import PER_METRIC, ranking_table
from tests.explorer_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "run", num_candidates=5, size=128)


def explained(run: Run) -> tuple[RankedGroup, RankBootstrap]:
    group = ranked_group(run)
    assert group is not None
    return group, bootstrap_ranks(group)


def column(table: str, key: str) -> list[float]:
    """Return a column's numbers in full, from the first row to the last."""
    return [float(value) for value in re.findall(rf'data-key="{re.escape(key)}" data-value="(.*?)"', table)]


def test_mean_ranks_are_those_of_the_resamplings(run: Run) -> None:
    group, resampled = explained(run)
    order = [group.indices.index(record.index) for record in run.ranked]
    table = ranking_table(run, group, resampled)["table"]
    assert column(table, "mean_rank") == resampled.mean_rank[order].tolist()
    assert f">{resampled.mean_rank[order[0]]:.2f}<" in table


def test_what_the_metrics_add_is_the_charts_and_sums_to_the_reward(run: Run) -> None:
    group, resampled = explained(run)
    order = [group.indices.index(record.index) for record in run.ranked]
    table = ranking_table(run, group, resampled)["table"]
    parts = contributions(group.reward)
    added = {key: column(table, f"adds:{key}") for key in parts}
    assert added == {key: part[order].tolist() for key, part in parts.items()}
    np.testing.assert_allclose(np.sum(list(added.values()), axis=0), [record.reward for record in run.ranked])


def test_every_column_has_a_head_a_condition_and_a_cell_in_every_row(run: Run) -> None:
    group, resampled = explained(run)
    value = ranking_table(run, group, resampled)
    keys = [entry["key"] for entry in value["columns"]]
    assert re.findall(r'data-sort="(.*?)"', value["table"]) == keys
    assert [len(column(value["table"], key)) for key in keys] == [len(run.candidates)] * len(keys)
    spans = [int(span) for span in re.findall(r'colspan="(\d+)"', value["table"])]
    # The column of buttons has no key, the row's name no span.
    assert spans == [len(keys) - PER_METRIC * len(group.terms), *[PER_METRIC] * len(group.terms)]
