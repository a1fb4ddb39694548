"""What axe says about every tab of the page, with a run and without one, in light and in dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from sr_core.runs import Run
from sr_core.ui.explorer.sections import EXPLORE, PAGES
from tests.browser.conftest import PATIENCE_MS, new_page, settle
from tests.browser.server import served_page
from tests.explorer_run import write_run

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)
STRICT = ("serious", "critical")
TABS = (("restore",), *(("explore", section.name) for section in EXPLORE), *((section.name,) for section in PAGES))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("axe") / "run", num_candidates=4, size=128, before=True, reference=True)


@pytest.fixture(scope="module")
def served(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("axe-page")
    with served_page(root / "runs", runs=[run.folder]) as address:
        yield address


WIDTHS = {"desktop": (1280, 900), "phone": (375, 812)}


def visit(browser: Browser, address: str, theme: str, run: Run | None, device: str = "desktop") -> Page:
    width, height = WIDTHS[device]
    page = new_page(browser, viewport={"width": width, "height": height}, reduced_motion="reduce")
    page.goto(f"{address}?__theme={theme}{'' if run is None else '&run=' + run.values['id']}")
    page.locator("#sr-run").wait_for()
    if run is not None:
        page.locator("#sr-grid button[data-index]").first.wait_for()
    return page


def faults(page: Page) -> list[str]:
    """Return every serious or critical finding with the elements that it is about."""
    found = Axe().run(page).response["violations"]
    return [
        f"{v['id']} ({v['impact']}): {[(node['html'][:200], node['failureSummary']) for node in v['nodes'][:4]]}"
        for v in found
        if v["impact"] in STRICT
    ]


@pytest.mark.parametrize("device", WIDTHS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_tab_has_a_serious_fault(browser: Browser, served: str, run: Run, theme: str, device: str) -> None:
    page = visit(browser, served, theme, run, device)
    found = {}
    for tab in TABS:
        for name in tab:
            page.locator(f"#sr-tab-{name}-button").click()
        settle(page)
        found["/".join(tab)] = faults(page)
    page.context.close()
    wrong = [f"{tab}: {fault}" for tab, here in found.items() for fault in here]
    assert not wrong, "\n".join(wrong)


def test_a_page_without_a_run_has_no_serious_fault(browser: Browser, served: str) -> None:
    page = visit(browser, served, "light", None)
    found = {}
    for tab in ("restore", "explore", *(section.name for section in PAGES)):
        page.locator(f"#sr-tab-{tab}-button").click()
        settle(page)
        found[tab] = faults(page)
    page.context.close()
    wrong = [f"{tab}: {fault}" for tab, here in found.items() for fault in here]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("tab", TABS, ids="/".join)
def test_every_tab_fits_a_phone(browser: Browser, served: str, run: Run, tab: tuple[str, ...]) -> None:
    page = visit(browser, served, "light", run)
    for name in tab:
        page.locator(f"#sr-tab-{name}-button").click()
    page.set_viewport_size({"width": 375, "height": 812})
    page.wait_for_function("document.documentElement.scrollWidth <= 375", polling=50)
    page.context.close()
