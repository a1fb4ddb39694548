"""A run opened by its link: the tab Explore follows the visit, and the visit follows the tab."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from sr_core.runs import Run
from tests.browser.conftest import PATIENCE_MS, new_page, open_page, settle
from tests.browser.server import served_page
from tests.explorer_run import write_run

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)
CARDS = "#sr-grid button[data-index]"


class Opened(NamedTuple):
    address: str
    runs: tuple[Run, ...]

    def link(self, run: Run) -> str:
        return f"{self.address}?run={run.values['id']}"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    root = tmp_path_factory.mktemp("explore")
    runs = tuple(write_run(root / f"run{k}", num_candidates=4, size=128, seed=k, before=k == 1) for k in range(2))
    with served_page(root / "runs", runs=[run.folder for run in runs]) as address:
        yield Opened(address, runs)


@pytest.fixture
def page(browser: Browser, opened: Opened) -> Iterator[Page]:
    page = open_page(browser, opened.link(opened.runs[0]))
    expect(page.locator(CARDS)).to_have_count(4)
    yield page
    page.context.close()


def explore(page: Page) -> None:
    page.locator("#sr-tab-explore-button").click()
    expect(page.locator("#sr-explore-head")).to_be_visible()
    expect(page.locator("#sr-ranking-lead")).to_contain_text("has the highest reward")
    settle(page)


def seeds(page: Page) -> list[str]:
    return page.locator(f"{CARDS} .sr-seed").all_inner_texts()


def names(run: Run) -> list[str]:
    return [record.name for record in run.ranked]


def test_a_link_opens_its_run_ranked_as_it_was(page: Page, opened: Opened) -> None:
    assert seeds(page) == names(opened.runs[0])
    expect(page).to_have_url(re.compile(f"run={opened.runs[0].values['id']}"))
    expect(page.locator(".sr-link")).to_contain_text("Whoever has this run's link can open it")


def test_a_reload_comes_back_to_the_run(page: Page, opened: Opened) -> None:
    page.reload()
    expect(page.locator(CARDS)).to_have_count(4)
    assert seeds(page) == names(opened.runs[0])


def test_a_link_to_nothing_says_so(browser: Browser, opened: Opened) -> None:
    page = open_page(browser, f"{opened.address}?run=nothing-of-that-name")
    expect(page.get_by_text("not here any more")).to_be_visible()
    expect(page.locator(CARDS)).to_have_count(0)
    page.locator("#sr-tab-explore-button").click()
    expect(page.get_by_text("Nothing to look at yet.").first).to_be_visible()
    page.context.close()


def test_the_slider_of_one_tab_is_the_slider_of_the_other(page: Page, opened: Opened) -> None:
    explore(page)
    slider = page.locator("#sr-explore-taste input[type=range]")
    for key, weight in (("End", 0.0), ("Home", 1.0)):
        slider.focus()
        page.keyboard.press(key)
        page.locator("#sr-tab-restore-button").click()
        first = opened.runs[0].reranked(weight).ranked[0]
        expect(page.locator(f"{CARDS} .sr-reward").first).to_have_text(f"{first.reward:.3f}")
        assert seeds(page) == names(opened.runs[0].reranked(weight))
        expect(page.locator("#sr-taste-slider input[type=range]")).to_have_value(str(round(100 * (1 - weight))))
        explore(page)


def test_the_slider_keeps_up_with_fast_keys(page: Page, opened: Opened) -> None:
    explore(page)
    slider = page.locator("#sr-explore-taste input[type=range]")
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(12):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(40)
    expect(slider).to_have_value("60")
    best = opened.runs[0].reranked(0.4).ranked[0]
    expect(page.locator("#sr-ranking-lead")).to_contain_text(f"{best.reward:.3f}")
    settle(page)
    expect(slider).to_have_value("60")


def test_a_link_opens_the_order_that_its_maker_left(browser: Browser, opened: Opened) -> None:
    run = opened.runs[0]
    other = open_page(browser, opened.link(run))
    expect(other.locator(CARDS)).to_have_count(4)
    weight = 1 - int(other.locator("#sr-taste-slider input[type=range]").input_value()) / 100
    assert seeds(other) == names(run.reranked(weight))
    other.context.close()


def test_every_view_opens_and_says_something_about_the_run(page: Page) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    explore(page)
    views = page.locator("#sr-views > .tab-wrapper [role=tab]")
    labels = views.all_inner_texts()
    assert labels == ["Ranking", "Pairs", "Spectra", "Disagreement", "Maps"]
    for label in labels:
        page.get_by_role("tab", name=label, exact=True).click()
        panel = page.locator("#sr-views [role=tabpanel]:visible")
        expect(panel).to_contain_text(re.compile(r"\w{3}"))
    assert problems == []


def test_a_page_without_a_run_says_what_to_do_in_every_tab(browser: Browser, opened: Opened) -> None:
    page = open_page(browser, opened.address)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    for label in ("Explore", "Vote", "Audit", "Runs"):
        page.get_by_role("tab", name=label, exact=True).click()
        expect(page.locator("#sr-tabs > [role=tabpanel]:visible").first).to_contain_text(re.compile(r"\w{3}"))
    assert problems == []
    page.context.close()


def test_an_unopened_page_fetches_no_chart_library(browser: Browser, opened: Opened) -> None:
    page = new_page(browser)
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(opened.link(opened.runs[0]))
    expect(page.locator(CARDS)).to_have_count(4)
    assert [url for url in fetched if "plotly.min.js" in url] == []
    page.context.close()
