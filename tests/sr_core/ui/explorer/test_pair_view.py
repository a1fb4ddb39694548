import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sr_core.errors import ConfigError, InputError
from sr_core.preference_data.mean_spreads import read_mean_spreads
from sr_core.preferences import weigh_groups
from sr_core.runs import Run
from sr_core.ui.explorer.pair_view import (
    IN_VIEW,
    OWN,
    SHIPPED,
    UNDEFINED,
    Choice,
    describe,
    heat_map,
    histogram,
    look,
    pairs_table,
)
from tests.explorer_run import write_run

ALONE = Choice(spread=IN_VIEW)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("view")
    return [write_run(folder / str(k), num_candidates=8, size=64, seed=k) for k in range(3)]


def equal_rewards(run: Run) -> Run:
    """Return the run with its first two candidates scored alike."""
    first, second, *others = run.candidates
    return replace(run, candidates=(first, replace(second, scores=first.scores), *others)).reranked(0.5)


def test_every_cell_holds_the_librarys_weight_and_opens_its_pair(runs: list[Run]) -> None:
    view = look(runs[0], runs, ALONE, 0.5)
    figure = heat_map(view)["figure"]
    (trace,) = figure["data"]
    rewards = [np.array([record.reward for record in run.candidates]) for run in runs]
    expected = weigh_groups(rewards, 2)[0]
    assert expected.total is not None
    assert np.ravel(trace["z"]).tolist() == expected.total.tolist()
    pins = [
        f"candidate-{winner}/candidate-{loser}" for winner, loser in zip(expected.winners, expected.losers, strict=True)
    ]
    assert ["/".join(pin) for row in trace["customdata"] for pin in row] == pins
    printed = {(note["y"], note["x"]): note["text"] for note in figure["layout"]["annotations"]}
    assert printed == {(p // 2, p % 2): f"{weight:.3f}" for p, weight in enumerate(expected.total)}
    for value in (expected.gap, expected.intra, expected.inter, expected.total):
        assert f"{value[0]:.4g}" in trace["hovertext"][0][0]


def test_of_one_photo_alone_the_inter_group_weight_is_undefined_and_never_one(runs: list[Run]) -> None:
    view = look(runs[0], runs[:1], ALONE, 0.5)
    (trace,) = heat_map(view)["figure"]["data"]
    assert np.ravel(trace["z"]).tolist() == view.current.pairs.intra.tolist()
    assert all(f"inter {UNDEFINED}<br>product {UNDEFINED}" in text for row in trace["hovertext"] for text in row)
    assert pairs_table(view).count("<td>undefined</td>") == 2 * 4
    assert UNDEFINED in describe(view, ALONE)
    assert UNDEFINED in heat_map(view)["note"]


def test_one_photo_in_two_runs_is_one_photo_alone(runs: list[Run], tmp_path: Path) -> None:
    anew = write_run(tmp_path / "anew", num_candidates=8, size=64, seed=9, photo=0)
    words = describe(look(runs[0], [runs[0], anew], ALONE, 0.5), ALONE)
    assert f"{UNDEFINED}: open a run of another photo" in words
    words = describe(look(runs[0], [*runs, anew], ALONE, 0.5), ALONE)
    assert "mean spread of 3 photos in 4 runs in view." in words


def test_the_shipped_statistics_are_used_and_what_differs_stands_beside_them(runs: list[Run]) -> None:
    choice = Choice(spread=SHIPPED)
    view = look(runs[0], runs[:1], choice, 0.5)
    mu_sigma = read_mean_spreads().mu_sigma[8, 2]
    assert view.current.pairs.inter is not None
    assert view.current.pairs.inter[0] == view.current.pairs.spread + (1 - mu_sigma)
    words = describe(view, choice)
    assert f"{mu_sigma:.4g}" in words
    assert "metric set: train_offline there, offline here" in words
    assert "faithful half: against the reference there, against the input (consistency) here" in words
    assert "backbone" not in words
    assert "adapter" not in words
    assert "faithful share" not in words
    assert "faithful share: 0.5 there, 0.2 here" in describe(look(runs[0], runs, choice, 0.2), choice)


def test_the_mean_product_over_all_pairs_of_all_runs_is_one(runs: list[Run]) -> None:
    view = look(runs[0], runs, ALONE, 0.5)
    assert "1 over 12 pairs of 3 runs in view" in describe(view, ALONE)


def test_the_table_has_a_button_for_each_pair_with_the_numbers_of_the_library(runs: list[Run]) -> None:
    view = look(runs[1], runs, ALONE, 0.5)
    html = pairs_table(view)
    pins = re.findall(r'data-pin-right="([\w-]+)" data-pin-left="([\w-]+)"', html)
    wanted = [view.current.records(p) for p in range(4)]
    assert pins == [(f"candidate-{loser.index}", f"candidate-{winner.index}") for winner, loser in wanted]
    assert all(f"<td>{gap:.4g}</td>" in html for gap in view.current.pairs.gap)


def test_pairs_without_a_gap_are_counted_in_words_and_marked(runs: list[Run]) -> None:
    tied = equal_rewards(runs[0])
    tied = replace(tied, candidates=tuple(replace(r, scores=tied.candidates[0].scores) for r in tied.candidates[:4]))
    choice = Choice(preset=OWN, num_candidates=4, top=2, spread=IN_VIEW)
    view = look(tied, [tied], choice, 0.5)
    assert "<strong>0 pairs</strong>" in describe(view, choice)
    assert "4 pairs without a gap are dropped" in describe(view, choice)
    assert [note["text"] for note in heat_map(view)["figure"]["layout"]["annotations"]] == ["tie"] * 4
    assert "every pair is a tie" in heat_map(view)["summary"]
    assert histogram(view) is None


def test_the_histogram_counts_every_pair_once(runs: list[Run]) -> None:
    view = look(runs[0], runs, ALONE, 0.5)
    value = histogram(view)
    assert value is not None
    bars = {trace["name"]: sum(trace["y"]) for trace in value["figure"]["data"]}
    assert bars == {"this run": 4, "other runs in view": 8}


@pytest.mark.parametrize(
    ("top", "count", "words"),
    [
        (5, 8, "N must lie in 1 to half of the M = 8 candidates, got 5"),
        (0, 8, "N must lie in 1 to half of the M = 8 candidates, got 0"),
        (2, 9, "must have 9 scored candidates, got 8"),
        (None, 8, "N must be a whole number, got nothing"),
        (2, 4.5, "M must be a whole number, got 4.5"),
    ],
)
def test_what_cannot_be_paired_is_refused_in_words(
    runs: list[Run], top: int | None, count: float | int, words: str
) -> None:
    with pytest.raises((ConfigError, InputError), match=re.escape(words)):
        look(runs[0], runs, Choice(preset=OWN, num_candidates=count, top=top), 0.5)


def test_a_run_of_one_candidate_is_refused_in_words(runs: list[Run]) -> None:
    lonely = replace(runs[0], candidates=runs[0].candidates[:1])
    with pytest.raises(InputError, match=r"bluebird\.png must have 2 scored candidates, got 1"):
        look(lonely, [lonely], Choice(), 0.5)


def test_a_paper_with_more_candidates_lends_its_ratio_and_that_is_said(runs: list[Run]) -> None:
    for preset, expected, words in (
        ("c-sd2", (8, 2), "The paper takes 8 of 32; 2 of 8 keeps its ratio."),
        ("c-flux", (8, 1), "The paper takes 4 of 64; 1 of 8 is the nearest that there is."),
    ):
        choice = Choice(preset=preset)
        view = look(runs[0], runs, choice, 0.5)
        assert (view.settings.num_candidates, view.settings.top) == expected
        assert words in describe(view, choice)


def test_a_strangers_name_is_no_markup(runs: list[Run]) -> None:
    worst = runs[0].ranked[-1]
    records = [replace(r, seed=None, source="<img src=x>") if r.index == worst.index else r for r in runs[0].candidates]
    odd = replace(runs[0], candidates=tuple(records))
    view = look(odd, [odd], ALONE, 0.5)
    value = heat_map(view)
    assert "<img" not in value["table"]
    assert "<img" not in str(value["figure"])
