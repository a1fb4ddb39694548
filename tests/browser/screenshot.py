"""Take the pictures that README shows: python -m tests.browser.screenshot FOLDER [NAME ...].

One photo is restored and one audited as a visitor would, so the command takes some minutes. Without names it makes all:

    python -m tests.browser.screenshot assets/report
    python -m tests.browser.screenshot assets/report maps phone --photo my.jpg

screenshot, explore, maps, audit and, in the dark, vote are 1280 px wide; phone is Restore as it greets, Explore and
Vote side by side, 375 px each.
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from PIL import Image as PillowImage
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sr_core.assets import ASSETS
from tests.browser.conftest import new_page, settle
from tests.browser.server import CHROMIUM, CHROMIUM_ARGS, served_page
from tests.explorer_run import PHOTO

PATIENCE_MS = 900_000
TRUTH = PHOTO.with_name("027_the-spices-of-life.png")
WIDTH = 1280
PHONE = (375, 812)
GAP = 20
"""Pixels between the three pictures of a phone."""


class Studio:
    """A browser on the page, and what was made there for its pictures."""

    def __init__(self, browser: Browser, address: str, options: argparse.Namespace) -> None:
        self._browser, self._address, self.options = browser, address, options

    def opened(self, run: str = "", *, width: int = WIDTH, height: int = 900, dark: bool = False) -> Page:
        """Return a new visitor's page that opens a run by its id, or the one that greets."""
        page = new_page(self._browser, viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE_MS)
        theme = "dark" if dark or self.options.dark else "light"
        page.goto(f"{self._address}?{urlencode({'__theme': theme} | ({'run': run} if run else {}))}")
        page.locator("#sr-run").wait_for()
        return page

    @cached_property
    def restored(self) -> Page:
        """Restore the photo, once, and return the page of the visitor who did."""
        page = self.opened()
        page.set_input_files("#sr-photos input[type=file]", str(self.options.photo))
        page.locator("#sr-preset label", has_text=self.options.preset).click()
        expect(page.locator("#sr-run")).to_be_enabled(timeout=PATIENCE_MS)
        page.locator("#sr-run").click()
        expect(page.locator("#sr-status")).to_contain_text("ranked in", timeout=PATIENCE_MS)
        page.locator('.sr-stage[data-ready="yes"]').wait_for()
        return page

    @property
    def run(self) -> str:
        """Return the id of the restored photo's run."""
        return parse_qs(urlsplit(self.restored.url).query)["run"][0]


def restore_tab(studio: Studio) -> PillowImage.Image:
    """Return the photo's ranked restorations."""
    studio.restored.locator("#sr-tab-restore-button").click()
    return shot(studio.restored, 900)


def explore_tab(studio: Studio) -> PillowImage.Image:
    """Return the comparer above the ranking's chart."""
    return shot(explored(studio.restored, "ranking"), 1800)


def maps_view(studio: Studio) -> PillowImage.Image:
    """Return both maps of invented detail."""
    page = explored(studio.restored, "maps")
    page.locator(".sr-maps[data-ready]").wait_for()
    return shot(page, 930, top="#sr-views")


def vote_tab(studio: Studio) -> PillowImage.Image:
    """Return a blind ballot in the dark."""
    page = studio.opened(studio.run, dark=True)
    return shot(voted(page), 780)


def audit_tab(studio: Studio) -> PillowImage.Image:
    """Return the same seeds of two adapters, held to a full-quality photo."""
    page = studio.opened()
    page.locator("#sr-tab-audit-button").click()
    page.set_input_files("#sr-audit-hq input[type=file]", str(studio.options.truth))
    page.locator("#sr-audit-b input").click()
    page.get_by_role("option", name="DP2O").click()
    expect(page.locator("#sr-audit-run")).to_be_enabled(timeout=PATIENCE_MS)
    page.locator("#sr-audit-run").click()
    page.locator(".sr-audit-change").wait_for()
    return shot(page, 1300)


def phone(studio: Studio) -> PillowImage.Image:
    """Return the page that greets, Explore and Vote side by side, as a phone shows them."""
    width, height = PHONE
    pages = [
        studio.opened(width=width, height=height),
        explored(studio.opened(studio.run, width=width, height=height), "ranking"),
        voted(studio.opened(studio.run, width=width, height=height)),
    ]
    whole = PillowImage.new("RGB", (len(pages) * (width + GAP) - GAP, height), "white")
    for place, page in enumerate(pages):
        whole.paste(shot(page, height), (place * (width + GAP), 0))
    return whole


PICTURES: dict[str, tuple[str, Callable[[Studio], PillowImage.Image]]] = {
    "screenshot": ("screenshot.png", restore_tab),
    "explore": ("explore.webp", explore_tab),
    "maps": ("maps.webp", maps_view),
    "vote": ("vote.webp", vote_tab),
    "audit": ("audit.webp", audit_tab),
    "phone": ("phone.webp", phone),
}


def explored(page: Page, view: str) -> Page:
    """Open a view under Explore; returns the page."""
    page.locator("#sr-tab-explore-button").click()
    page.locator('.sr-cmp-stage[data-ready="yes"]').wait_for()
    page.locator(f"#sr-tab-{view}-button").click()
    return page


def voted(page: Page) -> Page:
    """Open a ballot; returns the page."""
    page.locator("#sr-tab-vote-button").click()
    page.locator('.sr-vote[data-stage="ballot"] .sr-vote-panes[data-ready="yes"]').wait_for()
    return page


def shot(page: Page, height: int, *, top: str = "body") -> PillowImage.Image:
    """Return so many pixels of the page's height from the top of a part, once nothing moves any more."""
    size = page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": size["width"], "height": height})
    page.mouse.move(0, 0)
    page.locator(top).evaluate("part => part.scrollIntoView({block: 'start', behavior: 'instant'})")
    settle(page)
    return PillowImage.open(io.BytesIO(page.screenshot())).convert("RGB")


def take(studio: Studio, names: list[str]) -> None:
    """Write pictures into the folder, as they get ready."""
    for name in names:
        file, picture = PICTURES[name]
        kind = {"quality": 82, "method": 6} if file.endswith(".webp") else {"optimize": True}
        picture(studio).save(studio.options.folder / file, **kind)


def main() -> None:
    """Read the options, serve the page and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; all without")
    parser.add_argument("--photo", type=Path, default=ASSETS / "examples" / "otters.jpg", help="what is restored")
    parser.add_argument("--truth", type=Path, default=TRUTH, help="what is audited")
    parser.add_argument("--preset", default="Balanced")
    parser.add_argument("--dark", action="store_true", help="every picture in the dark")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - PICTURES.keys())
    if unknown:
        parser.error(f"names must be of {', '.join(PICTURES)}, got {', '.join(unknown)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        served_page(Path(folder) / "runs") as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        take(Studio(browser, address, options), options.names or list(PICTURES))
        browser.close()


if __name__ == "__main__":
    main()
