"""The view Ranking on the real page: its numbers are the library's, and the browser sorts and filters by any."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from sr_core.explanation import RankedGroup, bootstrap_ranks, contributions, drop_one, ranked_group
from sr_core.runs import Run
from tests.browser.conftest import PATIENCE_MS, open_page
from tests.browser.server import served_page
from tests.explorer_run import write_run

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

NUM_CANDIDATES = 6
ROWS = "#sr-ranking-table tbody tr"


class Opened(NamedTuple):
    page: Page
    run: Run
    group: RankedGroup


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Run]]:
    root: Path = tmp_path_factory.mktemp("ranking")
    run = write_run(root / "run", num_candidates=NUM_CANDIDATES, size=128, seed=3)
    with served_page(root / "runs", runs=[run.folder]) as address:
        yield address, run


@pytest.fixture
def opened(browser: Browser, served: tuple[str, Run]) -> Iterator[Opened]:
    address, run = served
    page = open_page(browser, f"{address}?run={run.values['id']}")
    expect(page.locator("#sr-grid button[data-index]")).to_have_count(NUM_CANDIDATES)
    page.locator("#sr-tab-explore-button").click()
    page.locator("#sr-tab-ranking-button").click()
    expect(page.locator(ROWS)).to_have_count(NUM_CANDIDATES)
    group = ranked_group(run)
    assert group is not None
    yield Opened(page, run, group)
    page.context.close()


def values(page: Page, key: str) -> list[float]:
    """Return a column's numbers in full, from the top row that is shown to the last."""
    cells = page.locator(f'{ROWS}:not([hidden]) [data-key="{key}"]')
    return [float(cell) for cell in cells.evaluate_all("cells => cells.map((cell) => cell.dataset.value)")]


def names(page: Page) -> list[str]:
    return page.locator(f'{ROWS}:not([hidden]) th[scope="row"]').all_inner_texts()


def sort_by(page: Page, key: str) -> None:
    page.locator(f'#sr-ranking-table button[data-sort="{key}"]').click()


def direction(page: Page, key: str) -> str | None:
    return page.locator(f'#sr-ranking-table th[data-key="{key}"][aria-sort]').get_attribute("aria-sort")


def test_the_table_holds_the_librarys_numbers(opened: Opened) -> None:
    page, run, group = opened
    assert names(page) == [record.name for record in run.ranked]
    order = [group.indices.index(record.index) for record in run.ranked]
    assert group.reward.ranks is not None
    assert values(page, "rank") == [group.reward.ranks[m] for m in order]
    assert values(page, "reward") == [record.reward for record in run.ranked]
    assert values(page, "seed") == [record.seed for record in run.ranked]
    assert values(page, "highest") == (100 * bootstrap_ranks(group).highest[order]).tolist()
    assert values(page, "mean_rank") == bootstrap_ranks(group).mean_rank[order].tolist()
    for key, part in contributions(group.reward).items():
        assert values(page, f"adds:{key}") == part[order].tolist()
        assert values(page, f"raw:{key}") == [record.scores[key] for record in run.ranked]
        assert values(page, f"normalised:{key}") == group.reward.normalised[key][order].tolist()


def test_the_headline_counts_drops_and_resamplings(opened: Opened) -> None:
    page, run, group = opened
    kept = sum(drop.outcome == "kept" for drop in drop_one(group))
    best = run.best
    assert best is not None
    lead = page.locator("#sr-ranking-lead")
    expect(lead).to_contain_text(f"{best.name} has the highest reward, {best.reward:.3f}.")
    expect(lead).to_contain_text(f"Rank 1 survives {kept} of {len(group.raw)} drops")
    share = 100 * bootstrap_ranks(group).highest[group.best]
    expect(lead).to_contain_text(f"first in {share:.0f} % of 1,000 resamplings")


def test_the_bars_are_the_contributions(opened: Opened) -> None:
    page, _, group = opened
    page.locator('#sr-ranking-bars .sr-chart-stage[data-ready="yes"]').wait_for()
    drawn: list[dict[str, Any]] = page.locator("#sr-ranking-bars .sr-chart-stage").evaluate(
        "stage => stage.data.filter((t) => t.type === 'bar').map((t) => ({y: [...t.y], pins: t.customdata}))"
    )
    order = np.argsort(-group.reward.reward, kind="stable")
    expected = [part[order].tolist() for part in contributions(group.reward).values()]
    assert [trace["y"] for trace in drawn] == expected
    assert drawn[0]["pins"] == [["input", f"candidate-{group.indices[m]}"] for m in order]


@pytest.mark.parametrize(
    "key", ["rank", "seed", "highest", "mean_rank", "raw:niqe", "normalised:consistency_vsi", "adds:niqe"]
)
def test_any_column_sorts_the_rows_both_ways(opened: Opened, key: str) -> None:
    page = opened.page
    if key == "rank":
        sort_by(page, "seed")
    before = values(page, key)
    sort_by(page, key)
    first = direction(page, key)
    assert first in ("ascending", "descending")
    assert values(page, key) == sorted(before, reverse=first == "descending")
    sort_by(page, key)
    assert direction(page, key) == ("descending" if first == "ascending" else "ascending")
    assert values(page, key) == sorted(before, reverse=first == "ascending")
    others = page.locator(f'#sr-ranking-table th[aria-sort]:not([data-key="{key}"])')
    assert set(others.evaluate_all("heads => heads.map((h) => h.getAttribute('aria-sort'))")) == {"none"}


def test_the_first_press_puts_the_best_first_and_keys_do_it_too(opened: Opened) -> None:
    page, run, _ = opened
    page.locator('#sr-ranking-table button[data-sort="raw:niqe"]').focus()
    page.keyboard.press("Enter")
    best = min(run.candidates, key=lambda record: record.scores["niqe"])
    assert names(page)[0] == best.name
    assert direction(page, "raw:niqe") == "ascending"


def test_conditions_hide_the_other_rows(opened: Opened) -> None:
    page, run, _ = opened
    rewards = sorted(record.reward or 0.0 for record in run.candidates)
    page.get_by_label("is at least").first.fill(repr(rewards[2]))
    assert sorted(values(page, "reward")) == rewards[2:]
    expect(page.locator(".sr-count")).to_have_text(f"4 of {NUM_CANDIDATES} shown")
    page.get_by_role("button", name="Add a condition").click()
    expect(page.locator(".sr-filter select").nth(1)).to_be_focused()
    page.locator(".sr-filter select").nth(1).select_option("seed")
    page.get_by_label("and at most").nth(1).fill("2")
    wanted = {
        record.name for record in run.candidates if (record.reward or 0) >= rewards[2] and (record.seed or 0) <= 2
    }
    assert set(names(page)) == wanted
    page.get_by_role("button", name="Remove this condition").nth(1).click()
    expect(page.locator(".sr-count")).to_have_text(f"4 of {NUM_CANDIDATES} shown")
    page.get_by_role("button", name="Show all").click()
    expect(page.locator(".sr-count")).to_have_text(f"{NUM_CANDIDATES} of {NUM_CANDIDATES} shown")
    assert len(names(page)) == NUM_CANDIDATES


@pytest.mark.parametrize("key", ["mean_rank", "adds:consistency_lpips"])
def test_resampled_ranks_and_contributions_can_be_filtered_by(opened: Opened, key: str) -> None:
    page, _, _ = opened
    limit = sorted(values(page, key))[3]
    kept = [value for value in values(page, key) if value >= limit]
    page.locator(".sr-filter select").first.select_option(key)
    page.get_by_label("is at least").first.fill(repr(limit))
    expect(page.locator(".sr-count")).to_have_text(f"{len(kept)} of {NUM_CANDIDATES} shown")
    assert values(page, key) == kept


def test_a_row_opens_its_candidate_against_the_input_and_the_best(opened: Opened) -> None:
    page, run, _ = opened
    page.evaluate("() => { window.pins = []; window.addEventListener('sr-pin', (e) => window.pins.push(e.detail)); }")
    best, second = run.ranked[:2]
    page.get_by_role("button", name=f"Open {second.name} against the input").click()
    page.get_by_role("button", name=f"Open {second.name} against the best").click()
    expect(page.get_by_role("button", name=f"Open {best.name} against the best")).to_have_count(0)
    picture = f"candidate-{second.index}"
    assert [(pin["left"], pin["right"]) for pin in page.evaluate("window.pins")] == [
        ("input", picture),
        (f"candidate-{best.index}", picture),
    ]


def test_the_slider_ranks_anew_and_leaves_order_and_conditions_as_they_were(opened: Opened) -> None:
    page, run, _ = opened
    sort_by(page, "raw:niqe")
    page.get_by_label("and at most").first.fill("1")
    before = names(page)
    slider = page.locator("#sr-explore-taste input[type=range]")
    slider.focus()
    slider.press("End")
    vivid = ranked_group(run.reranked(0.0))
    assert vivid is not None
    expected = dict(zip((record.name for record in run.candidates), vivid.reward.reward.tolist(), strict=True))
    assert expected != {record.name: record.reward for record in run.candidates}
    page.wait_for_function(
        "([selector, value]) => document.querySelector(selector)?.dataset.value === value",
        arg=[f'{ROWS}:first-child [data-key="reward"]', repr(expected[before[0]])],
        polling=50,
    )
    assert names(page) == before
    assert dict(zip(names(page), values(page, "reward"), strict=True)) == expected
    assert direction(page, "raw:niqe") == "ascending"
    expect(page.get_by_label("and at most").first).to_have_value("1")


def test_the_table_of_drops_is_the_librarys(opened: Opened) -> None:
    page, run, group = opened
    words = {"kept": "yes", "tied": "shared", "lost": "no"}
    rows = page.locator("#sr-ranking-drops tbody tr")
    expect(rows).to_have_count(len(group.raw))
    found = [row.locator("td").all_inner_texts() for row in rows.all()]
    candidates = {record.index: record.name for record in run.candidates}
    for cells, drop in zip(found, drop_one(group), strict=True):
        assert cells[-4] == candidates[group.indices[drop.winner]]
        assert cells[-3] == words[drop.outcome]
        assert cells[-2] == str(drop.rank)
        assert cells[-1] == f"{drop.tau:.4g}"
