"""Runs and own candidates in a real browser: join, take out, delete, import, and what others may see."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from sr_core.images import read_output, write_image
from sr_core.joining import Member, join_images, part
from sr_core.resampling import resize_clamped
from sr_core.runs import Run
from sr_core.ui.explorer.runs import RUNS_KEY
from tests.browser.conftest import PATIENCE_MS, open_page, settle
from tests.browser.server import served_page
from tests.explorer_run import photo_pixels, varied, write_run

pytestmark = pytest.mark.browser
SIDE = 256
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with the scores that its files really have."""
    folder = tmp_path_factory.mktemp("run")
    made = write_run(folder / "bluebird", num_candidates=4, size=SIDE)
    write_image(folder / "extra.png", photo_pixels(SIDE), format="png")
    return part(join_images(made, [Member(folder / "extra.png", "extra")]).run, 4)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return what two other tools made of the photo."""
    folder = tmp_path_factory.mktemp("outputs")
    hq = photo_pixels(SIDE)
    soft = resize_clamped(resize_clamped(hq, SIDE // 4, SIDE // 4), SIDE, SIDE)
    paths = [folder / "other tool.png", folder / "bicubic.png"]
    for path, pixels in zip(paths, (varied(hq, 0.01, torch.Generator().manual_seed(3)), soft), strict=True):
        write_image(path, pixels, format="png")
    return paths


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Iterator[str]:
    with served_page(tmp_path_factory.mktemp("page") / "runs", runs=[run.folder]) as url:
        yield url


def open_runs(browser: Browser, address: str) -> Page:
    page = open_page(browser, address)
    page.locator("#sr-tab-runs-button").click()
    page.locator("#sr-runs-list .sr-runs-count").wait_for()
    return page


def cards(page: Page) -> list[str]:
    return page.locator("#sr-runs-list .sr-run:visible .sr-run-name").all_inner_texts()


def test_two_images_join_the_run_and_a_stranger_sees_nothing(
    browser: Browser, served: str, run: Run, outputs: list[Path], tmp_path: Path
) -> None:
    page = open_page(browser, f"{served}?run={run.values['id']}")
    page.locator("#sr-grid button[data-index]").first.wait_for()
    page.locator("#sr-tab-runs-button").click()
    expect(page.locator("#sr-runs-list .sr-run")).to_have_count(1)
    expect(page.locator("#sr-runs-members tbody tr")).to_have_count(4)

    page.locator("#sr-runs-images input[type=file]").set_input_files(outputs)
    expect(page.locator("#sr-runs-said")).to_contain_text("Joined and ranked: other tool, bicubic.")
    rows = page.locator("#sr-runs-members tbody tr")
    expect(rows).to_have_count(6)
    wanted = join_images(_copy(run, tmp_path / "copy"), [Member(path, path.stem) for path in outputs]).run
    shown = [row.locator("th, td").all_inner_texts()[:3] for row in rows.all()]
    assert shown == [[r.name, str(r.rank), f"{r.reward:.3f}"] for r in wanted.ranked]

    page.locator("#sr-tab-restore-button").click()
    labels = page.locator("#sr-grid .sr-card .sr-seed")
    expect(labels).to_have_count(6)
    assert labels.all_inner_texts() == [r.name for r in wanted.ranked]

    page.locator("#sr-tab-runs-button").click()
    page.locator('#sr-runs-members button[aria-label="Take bicubic out"]').click()
    expect(rows).to_have_count(5)
    expect(page.locator("#sr-runs-said")).to_contain_text("bicubic is out")

    stranger = open_runs(browser, served)
    assert cards(stranger) == []
    link = open_page(browser, f"{served}?run={run.values['id']}")
    expect(link.locator("#sr-grid button[data-index]")).to_have_count(4)
    for other in (page, stranger, link):
        other.context.close()


def _copy(run: Run, folder: Path) -> Run:
    folder.mkdir()
    for path in run.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return Run.open(folder)


def test_a_run_leaves_as_a_zip_comes_back_is_found_again_and_is_deleted(
    browser: Browser, served: str, run: Run, tmp_path: Path
) -> None:
    page = open_page(browser, f"{served}?run={run.values['id']}")
    page.locator("#sr-grid button[data-index]").first.wait_for()
    page.locator("#sr-tab-runs-button").click()
    with page.expect_download() as saved:
        page.locator("#sr-runs-list button[data-action=export]").click()
    saved.value.save_as(tmp_path / "run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        assert f"bluebird/{run.candidates[0].file}" in archive.namelist()
    foreign = page.locator("#sr-runs-list .sr-run")
    expect(foreign.locator("button[data-action=delete]")).to_have_count(0)

    page.locator("#sr-runs-import input[type=file]").set_input_files(tmp_path / "run.zip")
    expect(page.locator("#sr-runs-said")).to_contain_text("bluebird.png is on screen, with 4 candidates")
    expect(page.locator("#sr-runs-list .sr-run")).to_have_count(2)
    own = page.locator("#sr-runs-list .sr-run[aria-current]")
    imported = own.locator("button[data-action=open]").get_attribute("data-run")
    assert imported != run.values["id"]

    page.locator("#sr-runs-search").fill("nothing like it")
    assert cards(page) == []
    expect(page.locator(".sr-runs-count")).to_have_text("0 of 2 runs")
    page.locator("#sr-runs-search").fill("a copy 256")
    expect(page.locator("#sr-runs-list .sr-run:visible")).to_have_count(1)
    page.locator("#sr-runs-search").fill("")

    page.wait_for_function(f"JSON.parse(localStorage.getItem('{RUNS_KEY}'))?.length === 2", polling=200)
    again = page.context.new_page()
    again.set_default_timeout(PATIENCE_MS)
    again.goto(served)
    again.locator("#sr-tab-runs-button").click()
    expect(again.locator("#sr-runs-list .sr-run")).to_have_count(2)
    again.locator(f'#sr-runs-list button[data-action=open][data-run="{imported}"]').click()
    again.locator("#sr-grid button[data-index]").first.wait_for()
    again.wait_for_url(f"**run={imported}*")
    again.locator("#sr-tab-runs-button").click()
    mine = again.locator(f'#sr-runs-list .sr-run:has([data-run="{imported}"])')
    mine.locator("button[data-action=delete]").click()
    mine.get_by_role("button", name="Keep").click()
    expect(mine.locator("button[data-action=delete]")).to_be_focused()
    mine.locator("button[data-action=delete]").press("Enter")
    mine.locator("button[data-sure]").click()
    expect(again.locator("#sr-runs-said")).to_contain_text("Deleted")
    expect(again.locator("#sr-runs-list .sr-run")).to_have_count(1)
    assert "run=" not in again.url

    gone = open_page(browser, f"{served}?run={imported}")
    expect(gone.locator(".toast-body")).to_contain_text("not here any more")
    gone.context.close()
    page.context.close()


def test_a_folder_joins_and_what_is_no_image_is_passed_over(
    browser: Browser, served: str, run: Run, outputs: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "outputs of a tool"
    folder.mkdir()
    for path in outputs:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "settings.txt").write_text("steps: 4")
    page = open_page(browser, f"{served}?run={run.values['id']}")
    page.locator("#sr-grid button[data-index]").first.wait_for()
    page.locator("#sr-tab-runs-button").click()
    page.locator("#sr-runs-folder input[type=file]").set_input_files(folder)
    expect(page.locator("#sr-runs-said")).to_contain_text("Joined and ranked: bicubic, other tool.")
    expect(page.locator("#sr-runs-said")).to_contain_text("1 of 3 files passed over: no images")
    names = page.locator("#sr-runs-members tbody th")
    expect(names).to_have_count(6)
    assert {"bicubic", "other tool"} <= set(names.all_inner_texts())
    page.context.close()


REMEMBERED = f"JSON.parse(localStorage.getItem('{RUNS_KEY}') || '[]').map(([run]) => run)"


def remembered(page: Page) -> list[str]:
    return list(page.evaluate(REMEMBERED))


def test_tabs_that_write_the_list_at_the_same_moment_lose_no_run(browser: Browser, served: str, run: Run) -> None:
    """A tab that holds the list makes another one wait, and what it wrote meanwhile is kept."""
    page = open_page(browser, served)
    page.evaluate(
        f"() => new Promise(held => navigator.locks.request('{RUNS_KEY}',"
        " () => new Promise(release => { window.release = release; held(); })))"
    )
    other = page.context.new_page()
    other.goto(f"{served}?run={run.values['id']}")
    other.locator("#sr-grid button[data-index]").first.wait_for()
    settle(other)
    assert remembered(page) == []
    written = "kept-by-the-first-tab"
    # As the page's own tabs do, this one keeps the lock until the others can read what it wrote.
    page.evaluate(
        f"() => {{ localStorage.setItem('{RUNS_KEY}', '[[\"{written}\", \"\"]]'); setTimeout(window.release, 200); }}"
    )
    page.wait_for_function(f"{REMEMBERED}.length === 2", polling=200)
    assert set(remembered(page)) == {run.values["id"], written}
    page.context.close()


def test_a_run_taken_off_in_one_tab_stays_off_while_another_has_it_open(
    browser: Browser, served: str, run: Run
) -> None:
    link, run_id = f"{served}?run={run.values['id']}", run.values["id"]
    first = open_page(browser, link)
    first.wait_for_function(f"{REMEMBERED}.length === 1", polling=200)
    second = first.context.new_page()
    second.goto(served)
    second.locator("#sr-tab-runs-button").click()
    second.locator(f"#sr-runs-list button[data-action=forget][data-run='{run_id}']").click()
    expect(second.locator("#sr-runs-list .sr-run")).to_have_count(0)
    second.wait_for_function(f"{REMEMBERED}.length === 0", polling=200)
    first.locator("#sr-tab-runs-button").click()
    first.locator("#sr-runs-list .sr-runs-count").wait_for()
    settle(first)
    assert remembered(first) == []
    again = first.context.new_page()
    again.goto(link)
    again.wait_for_function(f"{REMEMBERED}.length === 1", polling=200)
    first.context.close()


def test_a_hostile_zip_and_wrong_sizes_are_refused_in_words(
    browser: Browser, served: str, run: Run, tmp_path: Path
) -> None:
    page = open_page(browser, f"{served}?run={run.values['id']}")
    page.locator("#sr-grid button[data-index]").first.wait_for()
    page.locator("#sr-tab-runs-button").click()
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as archive:
        archive.writestr("../../run.json", "{}")
    page.locator("#sr-runs-import input[type=file]").set_input_files(tmp_path / "hostile.zip")
    expect(page.locator(".toast-body").last).to_contain_text("plain and lead downwards")
    small = tmp_path / "small.png"
    write_image(small, photo_pixels(64), format="png")
    page.locator("#sr-runs-images input[type=file]").set_input_files(small)
    expect(page.locator(".toast-body").last).to_contain_text("small.png 64 x 64")
    expect(page.locator("#sr-runs-members tbody tr")).to_have_count(4)
    assert read_output(small).pixels.shape == (64, 64, 3)
    page.context.close()
