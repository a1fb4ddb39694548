"""The view Spectra follows the visit: its run, its order, and what was chosen in it."""

from dataclasses import replace
from pathlib import Path

import pytest

from sr_core.runs import Run
from sr_core.ui.explorer.section import Section
from sr_core.ui.explorer.spectra import MAX_EXPONENT, NOTHING, SpectraSection
from sr_core.ui.visits import Visit, job_of
from tests.explorer_run import write_run

WORDS, BODY, POWERS, LEVELS, TABLE, PAIR, WINNER, LOSER, BANDS, WEIGHTS = range(10)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("runs") / "plain", num_candidates=4, size=128)


def visit_of(run: Run) -> Visit:
    visit = Visit(folder=run.folder.parent)
    visit.put(run, job_of(run), "opened")
    return visit


def test_it_is_a_section() -> None:
    assert isinstance(SpectraSection(), Section)


def test_without_a_run_it_says_what_is_missing(tmp_path: Path) -> None:
    shown = SpectraSection().show(Visit(folder=tmp_path))
    assert shown[WORDS] == NOTHING
    assert shown[BODY]["visible"] is False
    assert shown[POWERS] is shown[BANDS] is None


def test_it_opens_with_the_best_against_the_worst(run: Run) -> None:
    shown = SpectraSection().show(visit_of(run))
    assert run.best is not None
    assert run.worst is not None
    assert (shown[WINNER]["value"], shown[LOSER]["value"]) == (run.best.index, run.worst.index)
    assert [index for _, index in shown[WINNER]["choices"]] == [record.index for record in run.ranked]
    assert shown[BANDS]["title"].startswith(f"{run.best.name} over {run.worst.name}")
    assert all(shown[place] is not None for place in (POWERS, LEVELS, TABLE, WEIGHTS))


def test_the_pair_follows_another_order(run: Run) -> None:
    visit = visit_of(run)
    orders = set()
    for weight in (0.0, 1.0):
        visit.rank_by(weight)
        shown = SpectraSection().show(visit)
        on_screen = visit.on_screen
        assert on_screen is not None
        assert on_screen.run.best is not None
        assert shown[WINNER]["value"] == on_screen.run.best.index
        orders.add(shown[WINNER]["value"])
    assert len(orders) == 2


def test_a_candidate_outside_the_ranking_is_nobodys_loser(run: Run) -> None:
    *ranked, last = run.candidates
    some = replace(run, candidates=(*ranked, replace(last, scores={}))).reranked(0.5)
    assert some.worst is not None
    assert some.ranked[-1].rank is None
    shown = SpectraSection().show(visit_of(some))
    assert shown[LOSER]["value"] == some.worst.index
    assert last.index in [index for _, index in shown[LOSER]["choices"]]


def test_where_nobody_is_ranked_the_first_picture_stands_against_the_last(run: Run) -> None:
    none = replace(run, candidates=tuple(replace(record, scores={}) for record in run.candidates)).reranked(0.5)
    shown = SpectraSection().show(visit_of(none))
    assert (shown[WINNER]["value"], shown[LOSER]["value"]) == (0, 3)


def test_a_single_candidate_has_spectra_and_no_pair(run: Run) -> None:
    alone = replace(run, candidates=run.candidates[:1])
    shown = SpectraSection().show(visit_of(alone))
    assert shown[POWERS] is not None
    assert shown[PAIR]["visible"] is False
    assert shown[BANDS] is None


def test_a_missing_file_is_said_in_words_on_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=2, size=128)
    run.path(run.candidates[0]).unlink()
    shown = SpectraSection().show(visit_of(run))
    assert "not there any more" in shown[WORDS]
    assert shown[BODY]["visible"] is False


def test_the_slider_reaches_every_exponent_that_recipes_use() -> None:
    assert MAX_EXPONENT == 3
