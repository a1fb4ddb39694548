"""Hold-outs and spectra as the page keeps and shows them."""

from dataclasses import replace

import pytest

from sr_core.disagreement import spectrum_outliers
from sr_core.explanation import ranked_group
from sr_core.runs import Run
from sr_core.ui.explorer import checks
from sr_core.ui.explorer.checks import CheckStore, check_label, render_checks
from sr_core.ui.explorer.scope import Scope
from sr_core.ui.visits import Shown, job_of
from tests.explorer_run import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("checks") / "run", num_candidates=4, size=128)


def scope_of(*runs: Run) -> Scope:
    groups = [ranked_group(run) for run in runs]
    shown = [Shown(run=run, job=job_of(run), message="") for run in runs]
    return Scope(shown, [group for group in groups if group is not None], [f"{i}." for i, _ in enumerate(runs, 1)])


def test_nothing_is_taken_unasked(run: Run) -> None:
    store = CheckStore()
    assert store.kept(run) is None
    assert "Taking them costs" in render_checks(store, scope_of(run), "kendall")
    assert store.kept(run) is None


def test_what_was_taken_is_kept_until_the_run_has_other_candidates(run: Run) -> None:
    store = CheckStore()
    found = store.take(run)
    assert store.take(run) is found
    assert store.kept(run.reranked(1.0)) is found
    assert store.kept(replace(run, candidates=run.candidates[:3])) is None


def test_the_oldest_are_forgotten(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MOST_KEPT", 1)
    store = CheckStore()
    store.take(run)
    other = replace(run, candidates=run.candidates[:3])
    store.take(other)
    assert store.kept(run) is None
    assert store.kept(other) is not None


def test_tables_hold_the_distances_and_say_which_runs_are_missing(run: Run) -> None:
    store = CheckStore()
    found = store.take(run)
    html = render_checks(store, scope_of(run, replace(run, candidates=run.candidates[:3]).reranked(0.5)), "spearman")
    assert "1 of 2 runs are not checked yet" in html
    assert "Spearman rho with the reward" in html
    for distance in spectrum_outliers(found.decibels).distance:
        assert f"<td>{distance:.3f}</td>" in html
    for key in found.raw:
        assert check_label(key) in html
    for reason in found.left_out.values():
        assert reason in html


def test_hold_outs_have_names_for_people() -> None:
    assert check_label("lsd") == "LSD (dB) to the reference"
    assert check_label("consistency_lsd") == "LSD (dB) to the input, at its size"
    assert check_label("piqe") == "PIQE"
