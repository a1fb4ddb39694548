"""A visitor's story on the real page: drop a photo, run, rank, compare, keep."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image as PillowImage
from playwright.sync_api import Browser, Page, expect

from sr_core.runs import Run
from tests.browser.conftest import PATIENCE_MS, open_page

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

CARDS = "#sr-grid button[data-index]"
NUM_CANDIDATES = 4


class Story(NamedTuple):
    page: Page
    folder: Path
    """The run on the server's disk."""
    counts: list[int]
    """How many candidates each change of the grid showed."""


def upload(page: Page, *photos: Path) -> None:
    page.set_input_files("#sr-photos input[type=file]", [str(photo) for photo in photos])


def runs_of(root: Path) -> set[Path]:
    return {path.parent for path in root.glob("*/*/run.json") if path.parts[-3] != "library"}


def choose_fast(page: Page) -> None:
    page.locator("#sr-preset label", has_text="Fast").click()
    expect(page.get_by_label("number input for Candidates")).to_have_value(str(NUM_CANDIDATES))


@pytest.fixture(scope="module")
def story(browser: Browser, address: str, run_root: Path, small_photo: Path) -> Iterator[Story]:
    page = open_page(browser, address)
    before = runs_of(run_root)
    upload(page, small_photo)
    expect(page.locator(".sr-plan")).to_contain_text("256 \u00d7 256 px")
    choose_fast(page)
    page.evaluate(
        """() => { window.counts = [];
        new MutationObserver(() => window.counts.push(document.querySelectorAll("#sr-grid button[data-index]").length))
        .observe(document.querySelector("#sr-grid"), {childList: true, subtree: true}); }"""
    )
    page.locator("#sr-run").click()
    expect(page.locator("#sr-status")).to_contain_text("ranked in")
    expect(page.locator(CARDS)).to_have_count(NUM_CANDIDATES)
    (folder,) = runs_of(run_root) - before
    yield Story(page, folder, page.evaluate("window.counts"))
    page.context.close()


def seeds_on_screen(page: Page) -> list[str]:
    return [text.removeprefix("seed ") for text in page.locator(f"{CARDS} .sr-seed").all_inner_texts()]


def set_taste(page: Page, key: str) -> None:
    page.locator("#sr-taste-slider input[type=range]").focus()
    page.keyboard.press(key)


def expect_order(story: Story, fidelity_weight: float) -> None:
    run = Run.open(story.folder).reranked(fidelity_weight)
    for place, record in enumerate(run.ranked):
        assert record.reward is not None
        card = story.page.locator(CARDS).nth(place)
        expect(card.locator(".sr-seed")).to_have_text(f"seed {record.seed}")
        expect(card.locator(".sr-reward")).to_have_text(f"{record.reward:.3f}")
        expect(card.locator(".sr-badge")).to_contain_text(str(record.rank))
        expect(card.locator("img")).to_have_attribute("alt", record.label)


def test_candidates_arrive_one_by_one(story: Story) -> None:
    arrived = [count for count in story.counts if count]
    assert arrived == sorted(arrived)
    assert set(arrived) >= {1, NUM_CANDIDATES}


def test_the_grid_shows_rank_seed_and_reward_of_the_run_on_disk(story: Story) -> None:
    set_taste(story.page, "Home")
    expect_order(story, 1.0)
    rewards = {record.reward for record in Run.open(story.folder).reranked(1.0).ranked}
    num_marked = 2 if len(rewards) > 1 else 0
    expect(story.page.locator(".sr-badge", has_text=re.compile("Best|Worst"))).to_have_count(num_marked)


def test_the_slider_ranks_again_without_drawing(story: Story) -> None:
    times = {path: path.stat().st_mtime_ns for path in story.folder.iterdir()}
    for key, fidelity_weight in (("Home", 1.0), ("End", 0.0)):
        set_taste(story.page, key)
        expect_order(story, fidelity_weight)
    assert {path: path.stat().st_mtime_ns for path in story.folder.iterdir()} == times


def test_the_comparison_shows_the_files_own_pixels(story: Story) -> None:
    card = story.page.locator(CARDS).last
    card.click()
    expect(card).to_have_attribute("aria-pressed", "true")
    seed = seeds_on_screen(story.page)[-1]
    record = next(r for r in Run.open(story.folder).candidates if str(r.seed) == seed)
    after, before = story.page.locator(".sr-after"), story.page.locator(".sr-before")
    expect(after).to_have_attribute("src", re.compile(re.escape(str(record.file))))
    sent = story.page.request.get(story.page.url.split("?")[0] + str(after.get_attribute("src"))).body()
    assert sent == (story.folder / str(record.file)).read_bytes()
    expect(before).to_have_attribute("alt", re.compile("Input photo bluebird.png"))
    for image in (after, before):
        expect(image).to_have_js_property("naturalWidth", 256)


def test_the_comparison_is_driven_by_keys_alone(story: Story) -> None:
    handle = story.page.get_by_role("slider", name="How much of the input is shown")
    handle.focus()
    for key, value in (("Home", 0), ("ArrowRight", 1), ("Shift+ArrowRight", 11), ("ArrowLeft", 10), ("End", 100)):
        handle.press(key)
        expect(handle).to_have_attribute("aria-valuenow", str(value))
    after = story.page.locator(".sr-after")
    for key, width in (("4", 1024), ("2", 512), ("1", 256)):
        handle.press(key)
        expect(story.page.locator(f'[data-zoom="{key}"]')).to_have_attribute("aria-pressed", "true")
        assert after.evaluate("image => image.getBoundingClientRect().width") == width
    handle.press("4")
    expect(after).to_have_css("image-rendering", "pixelated")
    handle.press("f")
    expect(story.page.locator('[data-zoom="fit"]')).to_have_attribute("aria-pressed", "true")


def test_a_larger_picture_is_moved_by_dragging(story: Story) -> None:
    page = story.page
    page.locator('[data-zoom="4"]').click()
    scroll = page.locator(".sr-scroll")
    scroll.evaluate("area => { area.scrollLeft = 0; }")
    box = page.locator(".sr-stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8 - 60, box["y"] + 40, steps=4)
    page.mouse.up()
    assert scroll.evaluate("area => area.scrollLeft") == pytest.approx(60, abs=1)
    page.locator('[data-zoom="fit"]').click()


def test_the_table_names_every_metric_with_its_direction(story: Story) -> None:
    run = Run.open(story.folder)
    table = story.page.locator(".sr-table")
    expect(table.locator("tbody tr")).to_have_count(NUM_CANDIDATES)
    columns = table.locator("thead th[scope=col]").all_inner_texts()[3:]
    assert len(columns) == len(run.candidates[0].scores)
    assert all("\u2191" in column or "\u2193" in column for column in columns)
    expect(story.page.locator("#sr-details")).to_contain_text("Scored without a reference")
    for entry in run.values["left_out"]:
        expect(story.page.locator(".sr-leftout")).to_contain_text(entry["reason"])


def test_the_downloaded_png_holds_the_candidates_pixels(story: Story) -> None:
    story.page.locator(CARDS).first.click()
    seed = seeds_on_screen(story.page)[0]
    expect(story.page.locator(".sr-caption")).to_contain_text(f"seed {seed} ")
    with story.page.expect_download() as download:
        story.page.locator("#sr-save-one").click()
    assert download.value.suggested_filename == f"bluebird_seed{seed}.png"
    record = next(r for r in Run.open(story.folder).candidates if str(r.seed) == seed)
    with PillowImage.open(download.value.path()) as kept, PillowImage.open(story.folder / str(record.file)) as drawn:
        np.testing.assert_array_equal(np.asarray(kept), np.asarray(drawn))


def test_the_zip_holds_the_whole_run(story: Story) -> None:
    with story.page.expect_download() as download:
        story.page.locator("#sr-save-run").click()
    archive = zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes()))
    packed = {Path(name).name for name in archive.namelist()}
    assert packed == {path.name for path in story.folder.iterdir()}
    run = Run.open(story.folder)
    assert {record.file for record in run.candidates} < packed
    assert [record.seed for record in run.candidates] == list(range(NUM_CANDIDATES))


def test_a_phone_shows_the_whole_width(story: Story) -> None:
    story.page.set_viewport_size({"width": 375, "height": 812})
    story.page.wait_for_function("document.documentElement.scrollWidth <= 375", polling=50)
    story.page.set_viewport_size({"width": 1280, "height": 900})


def test_an_empty_page_fits_a_phone(browser: Browser, address: str) -> None:
    page = open_page(browser, address, width=375, height=812)
    page.wait_for_function("document.documentElement.scrollWidth <= 375", polling=50)
    page.context.close()


def test_stop_keeps_what_is_finished(page: Page, small_photo: Path, tmp_path: Path) -> None:
    # Large enough that most of the sixteen are still to come when the first can be seen.
    photo = tmp_path / "larger.png"
    with PillowImage.open(small_photo) as image:
        image.resize((160, 160)).save(photo)
    upload(page, photo)
    page.get_by_label("number input for Candidates").fill("16")
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("number input for Steps").fill("20")
    page.get_by_label("number input for Steps").press("Tab")
    expect(page.locator("#sr-run")).to_be_enabled()
    page.locator("#sr-run").click()
    page.locator(CARDS).first.wait_for()
    page.locator("#sr-stop").click()
    expect(page.locator("#sr-status")).to_contain_text("stopped with")
    expect(page.locator(".sr-waiting")).to_have_count(0)
    assert 1 <= page.locator(CARDS).count() < 16
    expect(page.locator("#sr-run")).to_be_enabled()
    expect(page.locator("#sr-stop")).to_be_disabled()


def test_a_file_that_is_no_photo_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    wrong = tmp_path / "notes.png"
    wrong.write_text("not a photo")
    upload(page, wrong)
    expect(page.get_by_role("alert").filter(has_text="notes.png")).to_contain_text("must")
    expect(page.locator("#sr-run")).to_be_disabled()


def test_an_impossible_size_is_refused_before_the_run(page: Page, tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    PillowImage.new("RGB", (2100, 40), "teal").save(wide)
    upload(page, wide)
    expect(page.locator("#sr-run")).to_be_enabled()
    page.get_by_label("number input for Enlarge by").fill("8")
    page.get_by_label("number input for Enlarge by").press("Tab")
    expect(page.get_by_role("alert").filter(has_text="wide.png")).to_contain_text("the largest that fits is")
    expect(page.locator("#sr-run")).to_be_disabled()


def test_the_own_preset_is_remembered_by_the_browser(page: Page) -> None:
    page.get_by_label("number input for Candidates").fill("3")
    page.get_by_role("button", name="More settings").click()
    page.get_by_role("button", name="Save as mine").click()
    expect(page.get_by_text("Saved in this browser")).to_be_visible()
    page.reload()
    expect(page.get_by_label("number input for Candidates")).to_have_value("8")
    page.locator("#sr-preset label", has_text="Yours").click()
    expect(page.get_by_label("number input for Candidates")).to_have_value("3")
