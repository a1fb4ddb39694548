"""One real server and one real Chromium for every browser test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image as PillowImage
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.server import CHROMIUM, CHROMIUM_ARGS, served_page

PATIENCE_MS = 180_000
"""Nothing waits that long on an idle machine; a busy one may."""


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
    page = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    page.locator("#sr-run").wait_for()
    return page


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    opened = open_page(browser, address)
    yield opened
    opened.context.close()
