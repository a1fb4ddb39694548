"""What the view Disagreement says about one run, many runs, and too few candidates."""

from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import pytest

from sr_core.disagreement import contested_pairs, correlate
from sr_core.explanation import RankedGroup, ranked_group
from sr_core.runs import Run
from sr_core.ui.explorer.disagreement import ALL, THIS, DisagreementSection
from sr_core.ui.explorer.section import Section
from sr_core.ui.visits import Visit, job_of
from tests.explorer_run import write_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    return [write_run(tmp_path / f"run{k}", num_candidates=5, size=64, seed=k) for k in range(2)]


def visit_of(folder: Path, *runs: Run, scope: str = THIS) -> Visit:
    visit = Visit(folder=folder)
    for run in runs:
        visit.put(run, job_of(run), "done")
    visit.choices["disagreement"] = (scope, "kendall")
    return visit


def group_of(run: Run) -> RankedGroup:
    group = ranked_group(run)
    assert group is not None
    return group


def test_it_is_a_section() -> None:
    assert isinstance(DisagreementSection(), Section)


def test_without_a_run_it_shows_nothing(tmp_path: Path) -> None:
    shown = DisagreementSection().show(Visit(folder=tmp_path))
    assert (shown[2], shown[3], shown[4], shown[6]) == ("", None, "", "")


def test_two_candidates_say_nothing(runs: list[Run], tmp_path: Path) -> None:
    two = replace(runs[0], candidates=runs[0].candidates[:2]).reranked(0.5)
    shown = DisagreementSection().show(visit_of(tmp_path, two))
    assert "Nothing can be said" in shown[2]
    assert "here there are 2" in shown[2]
    assert shown[3] is None


def test_all_runs_in_view_are_pooled_and_named(runs: list[Run], tmp_path: Path) -> None:
    section = DisagreementSection()
    one = section.show(visit_of(tmp_path, *runs))
    both = section.show(visit_of(tmp_path, *runs, scope=ALL))
    table = correlate([group_of(run).reward.normalised for run in runs], "kendall")
    assert both[3]["figure"]["data"][0]["z"] == [[table.between(a, b).value for b in table.keys] for a in table.keys]
    assert both[3]["figure"]["data"][0]["z"] != one[3]["figure"]["data"][0]["z"]
    assert "<td>10</td><td>2</td><td>2</td>" in both[3]["table"]
    first = contested_pairs([group_of(run) for run in runs], 1)[0]
    assert f'data-pin-run="run{first.group}"' in both[4]
    assert f"of {first.group + 1}. bluebird.png</strong>" in both[4]
    assert "bluebird.png" not in one[4]


def test_a_photo_that_was_restored_often_does_not_speak_for_other_photos(tmp_path: Path) -> None:
    section = DisagreementSection()
    for photo, words in (
        (0, "<td>40</td><td>8</td><td>1</td><td>candidates</td>"),
        (None, "<td>8</td><td>photos</td>"),
    ):
        runs = [write_run(tmp_path / f"{photo}-{k}", num_candidates=5, size=64, seed=k, photo=photo) for k in range(8)]
        assert words in section.show(visit_of(tmp_path, *runs, scope=ALL))[3]["table"]


def test_the_chart_is_valid_to_the_library_that_draws_it(runs: list[Run], tmp_path: Path) -> None:
    go.Figure(DisagreementSection().show(visit_of(tmp_path, runs[0]))[3]["figure"])


def test_a_metric_that_is_constant_is_shown_as_undefined(runs: list[Run], tmp_path: Path) -> None:
    records = tuple(replace(r, scores={**r.scores, "niqe": 4.0}) for r in runs[0].candidates)
    chart = DisagreementSection().show(visit_of(tmp_path, replace(runs[0], candidates=records).reranked(0.5)))[3]
    place = list(records[0].scores).index("niqe")
    assert set(chart["figure"]["data"][0]["text"][place]) == {"\u2013"}
    assert chart["figure"]["data"][0]["z"][place] == [None] * 6
    assert "<td>\u2013</td><td>\u2013</td><td>\u2013</td><td>0</td><td>0</td><td>0</td>" in chart["table"]


def test_metrics_that_agree_leave_nothing_contested(runs: list[Run], tmp_path: Path) -> None:
    records = tuple(replace(r, scores={"niqe": 4.0 + r.index, "brisque": 30.0 + r.index}) for r in runs[0].candidates)
    shown = DisagreementSection().show(visit_of(tmp_path, replace(runs[0], candidates=records).reranked(0.5)))
    assert "No pair is contested" in shown[4]


def test_names_that_came_with_a_file_are_text_not_markup(runs: list[Run], tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    records = tuple(replace(record, seed=None, source=hostile) for record in runs[0].candidates)
    shown = DisagreementSection().show(visit_of(tmp_path, replace(runs[0], candidates=records)))
    assert hostile not in repr(shown)
