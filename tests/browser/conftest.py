"""One real server and one real Chromium for every browser test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImage
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.server import CHROMIUM, CHROMIUM_ARGS, served_page

PATIENCE_MS = 240_000
"""Nothing waits that long on an idle machine; a busy one may."""

COUNT_FETCHES = """
window.srFetches = 0;
const fetched = window.fetch;
window.fetch = (...call) => {
  window.srFetches += 1;
  return fetched(...call).finally(() => { window.srFetches -= 1; });
};
"""
IS_QUIET = """() => {
  const now = performance.now();
  const moves = (animation) => animation.playState === "running"
    && animation.effect?.getComputedTiming().iterations !== Infinity;
  const waits = (stage) => stage.checkVisibility() && stage.dataset.ready === "no";
  if (!window.srQuiet) {
    window.srQuiet = { since: now };
    new MutationObserver(() => { window.srQuiet.since = performance.now(); })
      .observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
  }
  if (window.srFetches || document.getAnimations().some(moves)
      || [...document.querySelectorAll("[data-ready]")].some(waits)) window.srQuiet.since = now;
  return now - window.srQuiet.since > 400;
}"""


@pytest.fixture(scope="session")
def run_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page") / "runs"


@pytest.fixture(scope="session")
def address(run_root: Path) -> Iterator[str]:
    with served_page(run_root) as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def small_photo(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "bluebird.png"
    with PillowImage.open(photos / "eval" / "472_bluebird.png") as image:
        image.convert("RGB").crop((128, 64, 384, 320)).resize((64, 64), PillowImage.Resampling.BICUBIC).save(path)
    return path


def open_page(browser: Browser, address: str, *, width: int = 1280, height: int = 900) -> Page:
    """Return a new visitor's page, ready to be used."""
    page = new_page(browser, viewport={"width": width, "height": height}, accept_downloads=True)
    page.goto(address)
    page.locator("#sr-run").wait_for()
    return page


def new_page(browser: Browser, **options: Any) -> Page:
    """Return an empty page of a new visitor, as patient as a busy machine needs."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(COUNT_FETCHES)
    return context.new_page()


def settle(page: Page) -> None:
    """Wait until nothing is asked for, nothing is drawn and nothing on the page has changed for a moment."""
    page.evaluate("() => { if (window.srQuiet) window.srQuiet.since = performance.now(); }")
    page.wait_for_function(IS_QUIET, polling=50)


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    opened = open_page(browser, address)
    yield opened
    opened.context.close()
