import re
from dataclasses import replace

from sr_core.ui.grid import render_grid
from sr_core.ui.pictures import extreme_of
from tests.sr_core.ui.conftest import MakeShown


def words(html: str) -> list[str]:
    return re.findall(r'class="sr-badge">([^<]*)<', html)


def test_best_and_worst_are_marked_in_words(make_shown: MakeShown) -> None:
    html = render_grid(make_shown([9.0, 1.0, 5.0]), picked=None, num_expected=3)
    assert words(html) == ["Best \u00b7 1", "2", "Worst \u00b7 3"]


def test_cards_lie_from_best_to_worst(make_shown: MakeShown) -> None:
    html = render_grid(make_shown([9.0, 1.0, 5.0]), picked=1, num_expected=3)
    assert re.findall(r'data-index="(\d)"', html) == ["1", "2", "0"]
    assert re.findall(r'data-index="(\d)" aria-pressed="true"', html) == ["1"]


def test_a_group_of_equal_rewards_has_neither_best_nor_worst(make_shown: MakeShown) -> None:
    shown = make_shown([5.0, 5.0, 5.0])
    assert words(render_grid(shown, picked=None, num_expected=3)) == ["1 tied"] * 3
    assert {extreme_of(shown.run, record) for record in shown.run.candidates} == {""}
    assert "All 3 tie" in render_grid(shown, picked=None, num_expected=3)


def test_every_card_says_what_its_picture_shows(make_shown: MakeShown) -> None:
    shown = make_shown([9.0, 1.0])
    html = render_grid(shown, picked=None, num_expected=2)
    assert [record.label for record in shown.run.ranked] == re.findall(r'alt="([^"]*)"', html)


def test_a_failed_candidate_is_marked_last_and_cannot_be_picked(make_shown: MakeShown) -> None:
    shown = make_shown([9.0, 1.0])
    failed = replace(shown.run.candidates[0], index=2, seed=2, file=None, scores={}, problem="it is <flat>")
    shown.run = replace(shown.run, candidates=(failed, *shown.run.candidates)).reranked(0.5)
    html = render_grid(shown, picked=None, num_expected=3)
    assert html.rindex("Failed") > html.rindex("<button")
    assert "it is &lt;flat&gt;" in html
    assert html.count("<button") == 2


def test_what_is_still_to_come_has_a_place(make_shown: MakeShown) -> None:
    shown = make_shown([9.0, 1.0])
    shown.run = replace(shown.run, values={**shown.run.values, "status": "drawing"})
    assert render_grid(shown, picked=None, num_expected=5).count("sr-waiting") == 3
    shown.run = replace(shown.run, values={**shown.run.values, "status": "stopped"})
    assert "sr-waiting" not in render_grid(shown, picked=None, num_expected=5)
    assert render_grid(None, picked=None, num_expected=5).count("sr-waiting") == 5


def test_highest_and_lowest_reward_are_marked_even_where_all_share_a_rank(make_shown: MakeShown) -> None:
    shown = make_shown([9.0, 1.0, 5.0])
    shown.run = replace(shown.run, candidates=tuple(replace(r, rank=1) for r in shown.run.candidates))
    html = render_grid(shown, picked=None, num_expected=3)
    assert words(html) == ["Best \u00b7 1 tied", "1 tied", "Worst \u00b7 1 tied"]
    assert "All 3 tie" in html
