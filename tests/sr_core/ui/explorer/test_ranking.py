"""What the view Ranking says, and what it says where there is little to say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from sr_core.explanation import bootstrap_ranks, drop_one, ranked_group
from sr_core.runs import CandidateRecord, Run
from sr_core.ui.explorer.ranking import RankingSection, candidate_names, headline
from sr_core.ui.explorer.section import Section
from sr_core.ui.visits import Visit, job_of
from tests.explorer_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "run", num_candidates=5, size=64)


def visit_of(folder: Path, *runs: Run) -> Visit:
    visit = Visit(folder=folder)
    for run in runs:
        visit.put(run, job_of(run), "done")
    return visit


def lead_of(run: Run) -> str:
    group = ranked_group(run)
    assert group is not None
    return headline(run, group, candidate_names(run, group), drop_one(group), bootstrap_ranks(group))


def test_it_is_a_section() -> None:
    assert isinstance(RankingSection(), Section)


def test_without_a_run_it_shows_nothing(tmp_path: Path) -> None:
    assert RankingSection().show(Visit(folder=tmp_path)) == ["", None, None, "", None]


def test_one_scored_candidate_has_no_order_to_explain(run: Run, tmp_path: Path) -> None:
    alone = replace(run, candidates=run.candidates[:1])
    lead, *rest = RankingSection().show(visit_of(tmp_path, alone))
    assert "this run has 1" in lead
    assert rest == [None, None, "", None]


def test_the_chart_has_a_table_of_the_same_numbers(run: Run, tmp_path: Path) -> None:
    bars = RankingSection().show(visit_of(tmp_path, run))[1]
    *traces, totals = bars["figure"]["data"]
    np.testing.assert_allclose(np.sum([trace["y"] for trace in traces], axis=0), totals["y"], rtol=0, atol=1e-12)
    assert totals["y"] == sorted((record.reward for record in run.candidates), reverse=True)
    for trace in traces:
        assert all(f"<td>{value:.4g}</td>" in bars["table"] for value in trace["y"])
    assert all(record.name in bars["table"] for record in run.candidates)


def test_charts_are_valid_to_the_library_that_draws_them(run: Run, tmp_path: Path) -> None:
    shown = RankingSection().show(visit_of(tmp_path, run))
    for chart in (shown[1], shown[4]):
        go.Figure(chart["figure"])


def test_names_that_came_with_a_file_are_text_not_markup(run: Run, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    records = tuple(replace(record, seed=None, source=hostile) for record in run.candidates)
    shown = RankingSection().show(visit_of(tmp_path, replace(run, candidates=records)))
    for chart in (shown[1], shown[4]):
        # The browser sets it as an attribute's text.
        assert hostile in chart.pop("summary")
    assert hostile not in repr(shown)
    assert "&lt;img src=x" in shown[2]["table"]


def test_a_candidate_without_a_seed_has_no_seed_to_sort_by(run: Run, tmp_path: Path) -> None:
    joined = replace(run.candidates[0], seed=None, source="other tool")
    table = RankingSection().show(visit_of(tmp_path, replace(run, candidates=(joined, *run.candidates[1:]))))[2]
    assert '<th scope="row" data-key="seed">other tool</th>' in table["table"]
    assert table["table"].count('<th scope="row" data-key="seed" data-value=') == len(run.candidates) - 1


def test_candidates_outside_the_ranking_are_counted(run: Run) -> None:
    failed = CandidateRecord(index=9, seed=9, problem="constant")
    assert "not in the ranking: 1" in lead_of(replace(run, candidates=(*run.candidates, failed)))
    assert "not in the ranking" not in lead_of(run)


def test_a_shared_first_rank_is_said(run: Run) -> None:
    same = tuple(replace(record, scores=run.candidates[0].scores) for record in run.candidates)
    lead = lead_of(replace(run, candidates=same).reranked(0.5))
    assert "It shares rank 1 with 4 more" in lead
    assert "first in 20 %" in lead


def test_one_metric_cannot_be_dropped(run: Run, tmp_path: Path) -> None:
    records = tuple(replace(record, scores={"niqe": record.scores["niqe"]}) for record in run.candidates)
    single = replace(run, candidates=records).reranked(0.5)
    lead, _, _, drops, _ = RankingSection().show(visit_of(tmp_path, single))
    assert "One metric makes the whole reward" in lead
    assert "only the no-reference half could be scored" in lead
    assert drops.count("<td>\u2013</td>") == 4


@pytest.mark.parametrize(("weight", "num_drops", "num_without"), [(0.0, 3, 3), (0.5, 6, 0), (1.0, 3, 3)])
def test_drops_of_metrics_without_weight_are_not_counted_and_their_rows_say_so(
    run: Run, tmp_path: Path, weight: float, num_drops: int, num_without: int
) -> None:
    visit = Visit(folder=tmp_path, fidelity_weight=weight)
    visit.put(run, job_of(run), "done")
    lead, _, _, drops, _ = RankingSection().show(visit)
    assert f"of {num_drops} drops of one metric" in lead
    assert f"({100 if num_without == 0 else 10} can differ" in lead
    assert drops.count("<td>no weight</td>") == num_without
    assert drops.count("<td>\u2013</td>") == 3 * num_without
