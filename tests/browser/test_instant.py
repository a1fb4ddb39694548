"""One restoration at once on the real page: the mode, the level that it began at, and the chart of levels."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from sr_core.runs import Run
from tests.browser.conftest import PATIENCE_MS, open_page
from tests.browser.server import served_page
from tests.browser.test_story import CARDS, runs_of, upload

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("instant") / "runs"


@pytest.fixture(scope="module")
def restored(browser: Browser, root: Path, small_photo: Path) -> Iterator[Page]:
    with served_page(root) as address:
        page = open_page(browser, address)
        upload(page, small_photo)
        page.locator("#sr-mode label", has_text="Instant").click()
        expect(page.locator("#sr-preset")).to_be_hidden()
        page.locator("#sr-run").click()
        expect(page.locator("#sr-status")).to_contain_text("done")
        yield page
        page.context.close()


def test_one_candidate_is_drawn_and_says_where_it_began(restored: Page, root: Path) -> None:
    (folder,) = runs_of(root)
    run = Run.open(folder)
    assert (run.values["adapter"], run.values["steps"], run.values["compare_adapter"]) == ("one_step", 1, None)
    (record,) = run.candidates
    assert record.level is not None
    expect(restored.locator(CARDS)).to_have_count(1)
    expect(restored.locator(".sr-caption")).to_contain_text(f"One step began at level {record.level:.2f} of 1")


def test_the_chart_has_its_numbers_beside_it(restored: Page) -> None:
    chart = restored.locator("#sr-level-chart")
    expect(chart.locator('.sr-chart-stage[data-ready="yes"]')).to_be_visible()
    expect(chart.locator(".sr-chart-title")).to_have_text("Where one step begins")
    expect(chart.locator(".sr-chart-note")).to_contain_text(re.compile(r"Kendall's tau [+-]0\.\d\d"))
    expect(chart.locator(".sr-numbers tbody tr")).to_have_count(5)


def test_the_page_fits_a_phone_and_the_way_back_is_one_press(restored: Page) -> None:
    restored.set_viewport_size({"width": 375, "height": 812})
    restored.wait_for_function("document.documentElement.scrollWidth <= 375", polling=50)
    restored.set_viewport_size({"width": 1280, "height": 900})
    number, mode = restored.get_by_label("number input for Candidates"), restored.locator("#sr-mode label")
    mode.filter(has_text="Best of N").click()
    expect(restored.locator("#sr-preset")).to_be_visible()
    expect(number).to_have_value("8")
    # To and fro at once: no answer about the mode before may set the widgets.
    for _ in range(8):
        mode.filter(has_text="Instant").click()
        expect(number).to_have_value("1")
        mode.filter(has_text="Best of N").click()
        expect(number).to_have_value("8")


def test_an_adapter_chosen_by_hand_leaves_instant(restored: Page) -> None:
    restored.locator("#sr-mode label", has_text="Instant").click()
    expect(restored.locator("#sr-preset")).to_be_hidden()
    restored.get_by_role("button", name="More settings").click()
    restored.get_by_label("Adapter").first.click()
    restored.get_by_role("option", name="DP2O").click()
    expect(restored.locator("#sr-preset")).to_be_visible()
    expect(restored.locator("#sr-mode label", has_text="Best of N").locator("input")).to_be_checked()
