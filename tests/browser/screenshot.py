"""Take a picture of the page after a run: python -m tests.browser.screenshot OUT.png [--photo FILE] [--dark]."""

import argparse
import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from sr_core.assets import ASSETS
from tests.browser.server import CHROMIUM, CHROMIUM_ARGS, served_page

PATIENCE_MS = 900_000


def take(address: str, options: argparse.Namespace) -> None:
    """Restore a photo as a visitor would and photograph the result."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        page = browser.new_page(viewport={"width": options.width, "height": options.height})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{address}?__theme={'dark' if options.dark else 'light'}")
        page.locator("#sr-run").wait_for()
        if not options.empty:
            page.set_input_files("#sr-photos input[type=file]", str(options.photo))
            page.locator("#sr-preset label", has_text=options.preset).click()
            expect(page.locator("#sr-run")).to_be_enabled(timeout=PATIENCE_MS)
            page.locator("#sr-run").click()
            expect(page.locator("#sr-status")).to_contain_text("ranked in", timeout=PATIENCE_MS)
            page.locator('.sr-stage[data-ready="yes"]').wait_for()
            page.mouse.move(0, 0)
        page.wait_for_timeout(1500)
        page.screenshot(path=options.out, full_page=options.whole)
        browser.close()


def main() -> None:
    """Read the options, serve the page and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photo", type=Path, default=ASSETS / "examples" / "otters.jpg")
    parser.add_argument("--preset", default="Balanced")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--empty", action="store_true", help="the page as it greets a visitor")
    parser.add_argument("--whole", action="store_true", help="the whole page, not only what fits the window")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served_page(Path(folder) / "runs") as address:
        take(address, options)


if __name__ == "__main__":
    main()
