"""The same seed before and after preference training, on the real page with an adapter installed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from sr_core.runs import Run
from tests.browser.conftest import PATIENCE_MS, open_page
from tests.browser.server import served_page
from tests.browser.test_story import CARDS, runs_of, seeds_on_screen, upload
from tests.lora import install

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def adapter_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters") / "runs"


@pytest.fixture(scope="module")
def compared(browser: Browser, adapter_root: Path, small_photo: Path) -> Iterator[Page]:
    """Return a page that has restored a photo with DP2O and its comparison."""
    assets = adapter_root.parent / "assets"
    install(assets, hpo=0.1)
    with served_page(adapter_root, assets=assets) as address:
        page = open_page(browser, address)
        upload(page, small_photo)
        page.get_by_role("button", name="More settings").click()
        expect(page.locator("#sr-adapter-words")).to_contain_text("before preference training, DP2O after it")
        expect(page.locator("#sr-compare")).to_be_hidden()
        page.get_by_label("Adapter").click()
        page.get_by_role("option", name="DP2O").click()
        expect(page.locator("#sr-compare input")).to_be_checked()
        page.get_by_label("number input for Candidates").fill("2")
        page.get_by_label("number input for Candidates").press("Tab")
        page.get_by_role("button", name="More settings").click()
        page.locator("#sr-run").click()
        expect(page.locator("#sr-status")).to_contain_text("ranked in")
        yield page
        page.context.close()


def shown_file(page: Page, image: str) -> bytes:
    """Return the bytes of the picture that the viewer shows."""
    page.locator('.sr-stage[data-ready="yes"]').wait_for()
    source = page.locator(image).get_attribute("src")
    return page.request.get(page.url.split("?")[0] + str(source)).body()


def test_the_viewer_shows_the_same_seed_before_and_after(compared: Page, adapter_root: Path) -> None:
    (folder,) = runs_of(adapter_root)
    run = Run.open(folder)
    assert (run.values["adapter"], run.values["compare_adapter"]) == ("hpo", "sft")
    same_seed = compared.get_by_role("button", name="SFT, same seed")
    same_seed.click()
    expect(same_seed).to_have_attribute("aria-pressed", "true")
    for place in (1, 0):
        compared.locator(CARDS).nth(place).click()
        seed = seeds_on_screen(compared)[place]
        record = next(r for r in run.candidates if str(r.seed) == seed)
        before = compared.locator(".sr-before")
        expect(before).to_have_attribute("alt", f"Seed {seed} drawn by SFT, without DP2O")
        expect(before).to_have_attribute("src", re.compile(re.escape(str(record.before))))
        assert shown_file(compared, ".sr-before") == (folder / str(record.before)).read_bytes()
        assert shown_file(compared, ".sr-after") == (folder / str(record.file)).read_bytes()
    expect(compared.locator(".sr-refined")).to_contain_text("Local refinement: same photo, same seed, same noise")
    expect(compared.locator(".sr-left")).to_have_text("SFT")
    expect(compared.locator(".sr-right")).to_have_text("DP2O")
    expect(compared.locator(".sr-caption")).to_contain_text("DP2O")


def test_keys_change_what_a_candidate_is_compared_with(compared: Page) -> None:
    handle = compared.locator(".sr-handle")
    compared.get_by_role("button", name="Input", exact=True).click()
    handle.press("c")
    expect(handle).to_have_attribute("aria-label", "How much of the SFT image is shown")
    handle.press("Home")
    expect(handle).to_have_attribute("aria-valuetext", "0 % SFT")
    expect(compared.get_by_role("button", name="Bicubic")).to_be_disabled()
    handle.press("c")
    expect(handle).to_have_attribute("aria-label", "How much of the input is shown")
    expect(compared.get_by_role("button", name="Bicubic")).to_be_enabled()
    expect(compared.locator(".sr-before")).to_have_attribute("alt", re.compile("Input photo bluebird.png"))
    expect(compared.locator(".sr-refined")).to_be_hidden()


def test_the_comparison_fits_a_phone(compared: Page) -> None:
    compared.get_by_role("button", name="SFT, same seed").click()
    compared.set_viewport_size({"width": 375, "height": 812})
    compared.wait_for_function("document.documentElement.scrollWidth <= 375", polling=50)
    compared.set_viewport_size({"width": 1280, "height": 900})


def test_without_adapters_the_page_says_where_they_come_from(browser: Browser, tmp_path: Path) -> None:
    with served_page(tmp_path / "runs", assets=tmp_path / "bare") as address:
        page = open_page(browser, address)
        page.get_by_role("button", name="More settings").click()
        expect(page.locator("#sr-adapter-words")).to_contain_text("No adapter is installed")
        expect(page.locator("#sr-adapter-words")).to_contain_text("bare/compact/adapters")
        expect(page.locator("#sr-compare")).to_be_hidden()
        page.context.close()
