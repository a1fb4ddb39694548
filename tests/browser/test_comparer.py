"""The comparer and the maps on the real page: true pixels, one view for both pictures, keys for everything."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from playwright.sync_api import Browser, Locator, Page, Request, Route, expect

from sr_core.difference_maps import luma_levels, signed_difference, spread
from sr_core.runs import Run
from sr_core.scoring import local_pixels
from sr_core.ui.explorer.level_maps import SPREAD_LEGEND
from tests.browser.conftest import PATIENCE_MS, open_page, settle
from tests.browser.server import served_page
from tests.explorer_run import write_run

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

SIZE = 128
PIXELS = """([selector, x, y, width, height]) => Array.from(document.querySelector(selector)
  .getContext("2d").getImageData(x, y, width, height).data)"""


class Opened(NamedTuple):
    page: Page
    runs: tuple[Run, ...]


@pytest.fixture(scope="module")
def opened(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    root = tmp_path_factory.mktemp("comparer")
    runs = tuple(
        write_run(root / f"run{k}", num_candidates=4, size=SIZE, seed=k, before=k == 1, reference=k == 0)
        for k in range(3)
    )
    see_through(runs[2].path(runs[2].candidates[1]))
    with served_page(root / "runs", runs=[run.folder for run in runs]) as address:
        page = open_page(browser, f"{address}?run={runs[1].values['id']}")
        page.locator("#sr-grid button[data-index]").first.wait_for()
        page.goto(f"{address}?run={runs[0].values['id']}")
        page.locator("#sr-grid button[data-index]").first.wait_for()
        page.locator("#sr-tab-explore-button").click()
        yield Opened(page, runs)
        page.context.close()


def see_through(path: Path) -> None:
    """Give a picture an opacity that falls from the top to the bottom."""
    with PillowImage.open(path) as image:
        image.putalpha(PillowImage.linear_gradient("L").resize(image.size))
        image.save(path)


@pytest.fixture
def page(opened: Opened) -> Page:
    """Return the page with the best candidate against the input, side by side, at fit, the stage in focus."""
    page = opened.page
    best = opened.runs[0].best
    assert best is not None
    pin(page, left="input", right=f"candidate-{best.index}")
    stage(page).focus()
    for key in ("s", "f"):
        page.keyboard.press(key)
    page.locator(".sr-cmp-overlay").select_option("")
    stage(page).focus()
    return page


def stage(page: Page) -> Locator:
    return page.locator(".sr-cmp-stage")


def pin(page: Page, **places: str) -> None:
    page.evaluate("detail => window.dispatchEvent(new CustomEvent('sr-pin', {detail}))", places)
    wanted = f"{places['left']} {places['right']}"
    page.locator(f'.sr-cmp-stage[data-ready="yes"][data-pins="{wanted}"]').wait_for()


def file_of(run: Run, picture: str) -> np.ndarray[Any, Any]:
    if picture in ("prior", "reference"):
        return local_pixels(run.folder / f"{picture}.png")
    index = int(picture.removeprefix("candidate-"))
    return local_pixels(run.path(next(r for r in run.candidates if r.index == index)))


def levels_of(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)


def canvas_pixels(page: Page, name: str, box: tuple[int, int, int, int]) -> np.ndarray[Any, Any]:
    values = page.evaluate(PIXELS, [f".sr-cmp-canvas-{name}", *box])
    return np.array(values, dtype=np.uint8).reshape(box[3], box[2], 4)


def frame_once(page: Page) -> None:
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def cells(page: Page, row: str) -> list[float]:
    words = page.locator(f".sr-cmp-row-{row} td").all_inner_texts()
    return [float(word.replace("\u2212", "-").replace("+", "")) for word in words]


def test_at_four_to_one_every_pixel_is_the_files_own_sixteen_times(page: Page, opened: Opened) -> None:
    pin(page, left="candidate-0", right="candidate-1")
    page.keyboard.press("4")
    frame_once(page)
    width, height = page.locator(".sr-cmp-canvas-right").evaluate("canvas => [canvas.width, canvas.height]")
    for name, picture in (("left", "candidate-0"), ("right", "candidate-1")):
        drawn = canvas_pixels(page, name, (0, 0, width, height))
        whole = file_of(opened.runs[0], picture).repeat(4, 0).repeat(4, 1)
        y, x = ((height - 4 * SIZE) // 2, (width - 4 * SIZE) // 2)
        seen = drawn[max(0, y) :, max(0, x) :][: 4 * SIZE, : 4 * SIZE, :3]
        top, left = max(0, -y), max(0, -x)
        np.testing.assert_array_equal(seen, whole[top : top + seen.shape[0], left : left + seen.shape[1]])


def test_a_screenshot_shows_the_same_pixels(page: Page, opened: Opened) -> None:
    pin(page, left="candidate-0", right="candidate-1")
    page.keyboard.press("2")
    frame_once(page)
    taken = np.asarray(PillowImage.open(io.BytesIO(page.locator(".sr-cmp-canvas-right").screenshot())).convert("RGB"))
    whole = file_of(opened.runs[0], "candidate-1").repeat(2, 0).repeat(2, 1)
    height, width = taken.shape[:2]
    y, x = (height - 2 * SIZE) // 2, (width - 2 * SIZE) // 2
    part = np.s_[60:120, 60:110]
    shifted = [
        np.array_equal(taken[y + dy :, x + dx :][: 2 * SIZE, : 2 * SIZE][part], whole[part])
        for dy in (0, 1)
        for dx in (0, 1)
    ]
    assert any(shifted)


def test_both_pictures_move_together(page: Page) -> None:
    pin(page, left="candidate-0", right="candidate-0")
    page.keyboard.press("8")
    frame_once(page)
    area = (40, 40, 120, 120)
    before = canvas_pixels(page, "left", area)
    box = stage(page).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 136, box["y"] + 152, steps=4)
    page.mouse.up()
    frame_once(page)
    left, right = canvas_pixels(page, "left", area), canvas_pixels(page, "right", area)
    np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(left[:72, :56], before[48:, 64:])


def test_the_wheel_keeps_the_pixel_under_the_pointer(page: Page) -> None:
    page.keyboard.press("4")
    frame_once(page)
    box = stage(page).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 300, box["y"] + 260)
    frame_once(page)
    place = page.locator(".sr-cmp-place").inner_text()
    page.mouse.wheel(0, -120)
    expect(page.locator(".sr-cmp-scale")).to_have_text("6:1")
    page.mouse.move(box["x"] + 300.4, box["y"] + 260)
    frame_once(page)
    then = page.locator(".sr-cmp-place").inner_text()
    before, after = ([int(number) for number in re.findall(r"\d+", words)[:2]] for words in (place, then))
    assert np.abs(np.subtract(before, after)).max() <= 1


def test_arrow_keys_move_the_point_and_its_numbers_are_the_files(page: Page, opened: Opened) -> None:
    pin(page, left="prior", right="candidate-2")
    page.keyboard.press("4")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    frame_once(page)
    x, y = map(int, re.findall(r"\d+", page.locator(".sr-cmp-place").inner_text())[:2])
    left, right = file_of(opened.runs[0], "prior")[y, x], file_of(opened.runs[0], "candidate-2")[y, x]
    assert cells(page, "left")[:3] == left.tolist()
    assert cells(page, "right")[:3] == right.tolist()
    assert cells(page, "difference")[:3] == (right.astype(int) - left).tolist()
    expect(page.locator(".sr-cmp-said")).to_contain_text(f"x {x}, y {y}")


def test_the_differences_numbers_and_colours_are_the_librarys(page: Page, opened: Opened) -> None:
    pin(page, left="prior", right="candidate-2")
    page.keyboard.press("d")
    page.keyboard.press("f")
    frame_once(page)
    levels = [levels_of(file_of(opened.runs[0], p)) for p in ("candidate-2", "prior")]
    wanted = luma_levels(signed_difference(*levels)).numpy()
    words = page.locator(".sr-cmp-inview").inner_text().replace("\u2212", "-").replace("+", "")
    mean, rms, largest = map(float, re.findall(r"-?\d+\.\d+", words))
    assert (mean, rms) == pytest.approx((wanted.mean(), np.sqrt((wanted**2).mean())), abs=0.0051)
    assert largest == pytest.approx(wanted.flat[np.abs(wanted).argmax()], abs=0.051)
    expect(page.locator(".sr-cmp-legend-difference")).to_contain_text("+255")
    while page.locator('[data-gain="16"]').get_attribute("aria-pressed") != "true":
        page.keyboard.press("g")
    expect(page.locator(".sr-cmp-legend-difference")).to_contain_text("+15.9")
    scale = int(page.locator(".sr-cmp-scale").inner_text().split(":")[0])
    width, height = page.locator(".sr-cmp-canvas-difference").evaluate("canvas => [canvas.width, canvas.height]")
    drawn = canvas_pixels(page, "difference", (0, 0, width, height))
    y, x = round((height - scale * SIZE) / 2), round((width - scale * SIZE) / 2)
    colours = drawn[y + 1 :: scale, x + 1 :: scale][:SIZE, :SIZE].astype(int)
    warm = colours[..., 0] - colours[..., 2]
    assert (warm[wanted > 2] > 0).all()
    assert (warm[wanted < -2] < 0).all()
    page.keyboard.press("g")


def test_every_way_to_compare_has_a_key(page: Page) -> None:
    for key, mode in (("d", "difference"), ("w", "slider"), ("b", "blink"), ("s", "side")):
        page.keyboard.press(key)
        expect(stage(page)).to_have_attribute("data-mode", mode)
        expect(page.locator(f'[data-mode="{mode}"][aria-pressed]')).to_have_attribute("aria-pressed", "true")
    left = page.locator(".sr-cmp-left")
    value = left.input_value()
    page.keyboard.press("x")
    expect(page.locator(".sr-cmp-right")).to_have_value(value)
    page.keyboard.press("x")
    page.keyboard.press("Shift+>")
    expect(left).not_to_have_value(value)


def test_the_slider_is_driven_by_keys_and_by_dragging(page: Page) -> None:
    page.keyboard.press("w")
    handle = page.get_by_role("slider", name="How much of the left picture is shown")
    handle.press("Home")
    for key, value in (("ArrowRight", 1), ("Shift+ArrowRight", 11), ("End", 100)):
        handle.press(key)
        expect(handle).to_have_attribute("aria-valuenow", str(value))
    box, frame = handle.bounding_box(), stage(page).bounding_box()
    assert box is not None
    assert frame is not None
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] / 2, box["y"] + 20, steps=4)
    page.mouse.up()
    expect(handle).to_have_attribute("aria-valuenow", re.compile("49|50|51"))


def test_blink_shows_one_picture_then_the_other(page: Page) -> None:
    page.keyboard.press("b")
    expect(page.locator(".sr-cmp-play")).to_have_text("Pause")
    page.wait_for_function("document.querySelector('.sr-cmp-stage').dataset.flipped === 'true'", polling=50)
    page.keyboard.press(" ")
    expect(page.locator(".sr-cmp-play")).to_have_text("Play")
    seen = [page.locator(f".sr-cmp-canvas-{side}").evaluate("c => c.style.visibility") for side in ("left", "right")]
    page.keyboard.press(" ")
    then = [page.locator(f".sr-cmp-canvas-{side}").evaluate("c => c.style.visibility") for side in ("left", "right")]
    assert sorted(seen) == ["hidden", "visible"]
    assert then == seen[::-1]


def test_blink_waits_for_a_key_where_motion_is_unwanted(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.keyboard.press("b")
    expect(page.locator(".sr-cmp-play")).to_have_text("Play")
    page.emulate_media(reduced_motion="no-preference")


def test_the_input_is_shown_by_its_own_pixels_or_by_bicubic(page: Page, opened: Opened) -> None:
    lq = local_pixels(opened.runs[0].folder / "input.png")
    page.locator('[data-input="nearest"]').click()
    stage(page).focus()
    page.keyboard.press("1")
    frame_once(page)
    page.locator('.sr-cmp-stage[data-ready="yes"]').wait_for()
    x, y = map(int, re.findall(r"\d+", page.locator(".sr-cmp-place").inner_text())[:2])
    assert cells(page, "left")[:3] == lq[y // 4, x // 4].tolist()
    page.locator('[data-input="bicubic"]').click()


def test_pictures_say_what_they_are(page: Page, opened: Opened) -> None:
    best = opened.runs[0].best
    assert best is not None
    words = f"Candidate {best.index + 1}, seed {best.seed}, rank 1 of 4, reward {best.reward:.3f}"
    expect(page.locator(".sr-cmp-canvas-right")).to_have_attribute("aria-label", words)
    expect(page.locator(".sr-cmp-canvas-left")).to_have_attribute("aria-label", re.compile("Input photo bluebird.png"))
    options = page.locator(".sr-cmp-right option").evaluate_all("options => options.map(one => one.value)")
    assert options[:3] == ["input", "prior", "reference"]
    assert options[3:] == [f"candidate-{record.index}" for record in opened.runs[0].ranked]


def test_what_varies_lies_over_the_right_picture_with_its_legend(page: Page, opened: Opened) -> None:
    page.locator(".sr-cmp-overlay").select_option("spread")
    page.locator('.sr-cmp-stage[data-overlay="spread"]').wait_for()
    legend = page.locator(".sr-cmp-legend-overlay")
    expect(legend.locator(".sr-cmp-legend-words")).to_have_text(SPREAD_LEGEND)
    assert SPREAD_LEGEND == "varies between seeds; agreement does not prove truth"
    expect(page.locator(".sr-cmp-canvas-overlay")).to_be_visible()
    run = opened.runs[0]
    levels = spread(levels_of(local_pixels(run.path(record))) for record in run.candidates)
    x, y = map(int, re.findall(r"\d+", page.locator(".sr-cmp-place").inner_text())[:2])
    seen = float(page.locator(".sr-cmp-row-map td").inner_text().split()[0])
    assert seen == pytest.approx(float(levels[y, x]), abs=0.01)
    stage(page).focus()
    page.keyboard.press("o")
    page.locator('.sr-cmp-stage[data-overlay="above"]').wait_for()
    expect(legend).to_contain_text("above the input's Nyquist frequency")


def test_a_crop_drawn_with_keys_gets_its_numbers(page: Page) -> None:
    page.keyboard.press("c")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowLeft")
        page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("c")
    table = page.locator(".sr-cmp-drift table")
    table.wait_for()
    expect(table.locator("tbody tr")).to_have_count(6)
    expect(table.locator("tbody tr").nth(1).locator("th")).to_have_text("Reference")
    expect(page.locator(".sr-cmp-drift-note")).to_contain_text("edge pixels")
    assert page.locator(".sr-cmp-mark-crop").count() == 2
    expect(page.locator(".sr-cmp-found")).to_contain_text("Nothing found")
    stage(page).focus()
    page.keyboard.press("Escape")
    expect(page.locator(".sr-cmp-mark-crop")).to_have_count(0)


def test_a_phone_pinches_and_taps(browser: Browser, page: Page) -> None:
    context = browser.new_context(viewport={"width": 375, "height": 812}, has_touch=True, device_scale_factor=2)
    phone = context.new_page()
    phone.set_default_timeout(PATIENCE_MS)
    phone.goto(page.url)
    phone.locator("#sr-grid button[data-index]").first.wait_for()
    phone.locator("#sr-tab-explore-button").click()
    phone.locator('.sr-cmp-stage[data-ready="yes"]').wait_for()
    phone.wait_for_function("document.documentElement.scrollWidth <= 375", polling=50)
    before = phone.locator(".sr-cmp-scale").inner_text()
    phone.evaluate(
        """() => { const stage = document.querySelector(".sr-cmp-stage"), frame = stage.getBoundingClientRect();
        stage.setPointerCapture = () => {};
        const fire = (name, id, x, y) => stage.dispatchEvent(new PointerEvent(name, {pointerId: id,
          pointerType: "touch", clientX: frame.left + x, clientY: frame.top + y, bubbles: true}));
        fire("pointerdown", 11, 100, 100); fire("pointerdown", 12, 140, 100);
        fire("pointermove", 12, 260, 100); fire("pointerup", 12, 260, 100); fire("pointerup", 11, 100, 100); }"""
    )
    expect(phone.locator(".sr-cmp-scale")).not_to_have_text(before)
    phone.locator('[data-mode="blink"]').click()
    phone.locator(".sr-cmp-play").click()
    expect(phone.locator(".sr-cmp-play")).to_have_text("Play")
    shown = phone.locator(".sr-cmp-canvas-left").evaluate("c => c.style.visibility")
    stage(phone).tap()
    assert phone.locator(".sr-cmp-canvas-left").evaluate("c => c.style.visibility") != shown
    context.close()


def test_the_maps_stand_side_by_side_with_their_numbers(page: Page) -> None:
    page.locator("#sr-tab-maps-button").click()
    page.locator(".sr-maps[data-ready]").wait_for()
    expect(page.locator(".sr-maps canvas")).to_have_count(2)
    expect(page.locator('figure[data-map="spread"] .sr-maps-legend-words')).to_have_text(SPREAD_LEGEND)
    for name in ("spread", "above"):
        size = page.locator(f'figure[data-map="{name}"] canvas').evaluate("canvas => [canvas.width, canvas.height]")
        assert size == [SIZE, SIZE]
    expect(page.locator(".sr-maps-numbers tbody tr")).to_have_count(6)
    page.locator('[data-over="above"]').click()
    page.locator('.sr-cmp-stage[data-overlay="above"]').wait_for()
    expect(stage(page)).to_be_focused()


def test_a_pin_names_the_twin_of_a_seed(browser: Browser, page: Page, opened: Opened) -> None:
    other = opened.runs[1]
    with_twins = open_page(browser, page.url.split("?")[0] + f"?run={other.values['id']}")
    with_twins.locator("#sr-grid button[data-index]").first.wait_for()
    with_twins.locator("#sr-tab-explore-button").click()
    with_twins.locator('.sr-cmp-stage[data-ready="yes"]').wait_for()
    pin(with_twins, left="before-0", right="candidate-0")
    label = "Candidate 1, seed 0, drawn by SFT, without DP2O"
    expect(with_twins.locator(".sr-cmp-canvas-left")).to_have_attribute("aria-label", label)
    with_twins.context.close()


def test_a_pin_opens_a_picture_of_another_run_of_the_visit(page: Page, opened: Opened) -> None:
    other = str(opened.runs[1].values["id"])
    page.locator("#sr-tab-runs-button").click()
    page.locator(f'button[data-action="open"][data-run="{other}"]').click()
    page.locator("#sr-tab-explore-button").click()
    expect(page.locator('.sr-cmp-right option[value="before-0"]')).to_have_count(1)
    detail = {"left": "reference", "right": "candidate-3", "run": "001-opened"}
    page.evaluate("detail => window.dispatchEvent(new CustomEvent('sr-pin', {detail}))", detail)
    page.locator('.sr-cmp-stage[data-ready="yes"][data-pins="reference candidate-3"]').wait_for()
    expect(page.locator('.sr-cmp-right option[value="before-0"]')).to_have_count(0)
    expect(page.locator("#sr-explore-run input")).to_have_value("1. bluebird.png")


def follow(browser: Browser, page: Page, run: Run, **kwargs: Any) -> Page:
    """Return the comparer of a run on a page of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **kwargs)
    other = context.new_page()
    other.set_default_timeout(PATIENCE_MS)
    other.goto(page.url.split("?")[0] + f"?run={run.values['id']}")
    other.locator("#sr-grid button[data-index]").first.wait_for()
    other.locator("#sr-tab-explore-button").click()
    other.locator('.sr-cmp-stage[data-ready="yes"]').wait_for()
    return other


def break_answers(page: Page, event: str) -> None:
    """Let the server fail at an event until `page.unroute_all`."""
    (number,) = page.evaluate(
        "name => window.gradio_config.dependencies.filter(d => d.targets.some(t => t[1] === name)).map(d => d.id)",
        event,
    )

    def fail(route: Route) -> None:
        if (route.request.post_data_json or {}).get("fn_index") == number:
            route.fulfill(status=500, json={"error": None})
        else:
            route.fallback()

    page.route("**/gradio_api/run/**", fail)


def test_what_failed_is_said_in_place_and_can_be_asked_for_again(browser: Browser, page: Page, opened: Opened) -> None:
    other = follow(browser, page, opened.runs[0])
    words = "The server did not answer."
    break_answers(other, "want_map")
    other.locator(".sr-cmp-overlay").select_option("spread")
    expect(other.locator(".sr-cmp-legend-overlay .sr-cmp-legend-words")).to_have_text(words)
    other.unroute_all()
    other.locator('[data-again="map"]').click()
    other.locator('.sr-cmp-stage[data-overlay="spread"]').wait_for()
    expect(other.locator('[data-again="map"]')).to_be_hidden()

    break_answers(other, "want_regions")
    break_answers(other, "want_numbers")
    other.locator(".sr-cmp-crops summary").click()
    expect(other.locator(".sr-cmp-found")).to_have_text(words)
    stage(other).focus()
    for key in ("c", *["Shift+ArrowLeft", "Shift+ArrowUp"] * 4, "c"):
        other.keyboard.press(key)
    expect(other.locator(".sr-cmp-drift-note")).to_have_text(words)
    other.unroute_all()
    other.locator('[data-again="regions"]').click()
    expect(other.locator(".sr-cmp-found")).to_contain_text("Nothing found")
    other.locator('[data-again="numbers"]').click()
    other.locator(".sr-cmp-drift table").wait_for()

    break_answers(other, "want_maps")
    other.locator("#sr-tab-maps-button").click()
    expect(other.locator('figure[data-map="above"] .sr-maps-words')).to_have_text(words)
    expect(other.locator('.sr-maps figure[aria-busy="true"]')).to_have_count(0)
    other.unroute_all()
    other.locator(".sr-maps-again").click()
    other.locator(".sr-maps[data-ready]").wait_for()
    expect(other.locator(".sr-maps-again")).to_be_hidden()
    other.context.close()


def test_the_legend_says_why_there_is_no_map(page: Page) -> None:
    page.locator(".sr-cmp-overlay").select_option("above")
    page.locator('.sr-cmp-stage[data-overlay="above"]').wait_for()
    pin(page, left="prior", right="input")
    legend = page.locator(".sr-cmp-legend-overlay .sr-cmp-legend-words")
    expect(legend).to_have_text("The input has nothing above its own Nyquist frequency.")
    expect(page.locator('[data-again="map"]')).to_be_hidden()


def test_two_overlays_chosen_in_haste_both_come(browser: Browser, page: Page, opened: Opened) -> None:
    other = follow(browser, page, opened.runs[1])
    stage(other).focus()
    other.keyboard.press("o")
    other.keyboard.press("o")
    other.locator('.sr-cmp-stage[data-overlay="above"]').wait_for()
    for _ in range(2):
        other.keyboard.press("o")
    other.locator('.sr-cmp-stage[data-overlay="spread"]').wait_for()
    other.context.close()


def test_a_pin_whose_run_does_not_open_is_forgotten(browser: Browser, page: Page, opened: Opened) -> None:
    other = follow(browser, page, opened.runs[0])
    break_answers(other, "open_run")
    shown = stage(other).get_attribute("data-pins")
    detail = {"left": "prior", "right": "candidate-3", "run": "001-nowhere"}
    other.evaluate("detail => window.dispatchEvent(new CustomEvent('sr-pin', {detail}))", detail)
    expect(other.locator(".sr-cmp-said")).to_have_text("That run could not be opened")
    assert stage(other).get_attribute("data-pins") == shown
    other.context.close()


def test_a_chart_without_its_library_says_so_and_can_be_drawn_later(
    browser: Browser, page: Page, opened: Opened
) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.route("**/plotly.min.js", lambda route: route.abort())
    other = context.new_page()
    other.set_default_timeout(PATIENCE_MS)
    other.goto(page.url.split("?")[0] + f"?run={opened.runs[0].values['id']}")
    other.locator("#sr-grid button[data-index]").first.wait_for()
    other.locator("#sr-tab-explore-button").click()
    chart = other.locator("#sr-ranking-bars .sr-chart-stage")
    expect(chart).to_contain_text("its library did not load")
    context.unroute_all()
    chart.get_by_role("button", name="Try again").click()
    expect(chart).to_have_attribute("data-ready", "yes")
    expect(chart).not_to_contain_text("did not load")
    drawings = """() => { const stage = document.querySelector("#sr-ranking-bars .sr-chart-stage");
      window.drawings = 0; stage.on("plotly_afterplot", () => { window.drawings += 1; }); }"""
    other.evaluate(drawings)
    other.evaluate("document.body.classList.add('another')")
    other.wait_for_timeout(300)
    assert other.evaluate("window.drawings") == 0
    other.evaluate("document.body.classList.toggle('dark')")
    other.wait_for_function("window.drawings > 0", polling=50)
    context.close()


def test_keys_and_a_finger_read_the_maps(browser: Browser, page: Page, opened: Opened) -> None:
    other = follow(browser, page, opened.runs[0], has_touch=True)
    other.locator("#sr-tab-maps-button").click()
    other.locator(".sr-maps[data-ready]").wait_for()
    levels = spread(levels_of(local_pixels(opened.runs[0].path(record))) for record in opened.runs[0].candidates)
    canvas, words = other.locator('figure[data-map="spread"] canvas'), 'figure[data-map="spread"] .sr-maps-words'
    canvas.focus()
    other.keyboard.press("ArrowRight")
    other.keyboard.press("Shift+ArrowUp")
    said = f"x 65, y 54: {levels[54, 65]:.2f} levels"
    expect(other.locator(words)).to_have_text(said)
    expect(other.locator(".sr-maps-said")).to_have_text(said)
    other.keyboard.press("Enter")
    expect(stage(other)).to_be_focused()
    expect(other.locator(".sr-cmp-place")).to_contain_text("x 65, y 54 ")
    canvas.tap(position={"x": 3, "y": 3})
    expect(other.locator(words)).to_have_text(re.compile("^x 0, y 0: "))
    other.locator('figure[data-map="spread"] [data-go]').tap()
    expect(other.locator(".sr-cmp-place")).to_contain_text("x 0, y 0 ")
    other.context.close()


def test_a_tap_sets_the_point_while_the_view_is_zoomed_in(browser: Browser, page: Page, opened: Opened) -> None:
    other = follow(browser, page, opened.runs[0], has_touch=True)
    stage(other).focus()
    other.keyboard.press("8")
    frame_once(other)
    place = other.locator(".sr-cmp-place").inner_text()
    stage(other).tap(position={"x": 40, "y": 60})
    expect(other.locator(".sr-cmp-place")).not_to_have_text(place)
    other.context.close()


@pytest.mark.parametrize("across", [11, 21, 41])
def test_the_lens_shows_as_many_pixels_as_it_says(page: Page, opened: Opened, across: int) -> None:
    pin(page, left="candidate-0", right="candidate-1")
    page.locator(".sr-cmp-lens-size").select_option(str(across))
    frame_once(page)
    x, y = map(int, re.findall(r"\d+", page.locator(".sr-cmp-place").inner_text())[:2])
    side = page.locator(".sr-cmp-lens-right").evaluate("canvas => canvas.width")
    drawn = np.array(page.evaluate(PIXELS, [".sr-cmp-lens-right", 0, 0, side, side]), dtype=np.uint8)
    size, half = side // across, across // 2
    seen = drawn.reshape(side, side, 4)[size // 2 :: size, size // 2 :: size, :3]
    whole = np.pad(file_of(opened.runs[0], "candidate-1"), ((half, half), (half, half), (0, 0)))
    seen, wanted = seen[0], whole[y, x : x + across]
    inside = (np.arange(across) + x - half >= 0) & (np.arange(across) + x - half < SIZE)
    assert side == size * across
    np.testing.assert_array_equal(seen[inside], wanted[inside])


def test_a_picture_with_transparency_is_said_to_be_rounded(browser: Browser, page: Page, opened: Opened) -> None:
    other = follow(browser, page, opened.runs[2])
    note = other.locator(".sr-cmp-glass")
    pin(other, left="candidate-1", right="candidate-0")
    expect(note).to_contain_text(re.compile("Has transparency: Rank . . seed 1 . [0-9.]+ Where a pixel is not opaque"))
    pin(other, left="candidate-0", right="candidate-2")
    expect(note).to_be_hidden()
    other.context.close()


def test_another_order_renames_maps_and_rows_and_seeks_crops_anew(browser: Browser, page: Page, opened: Opened) -> None:
    run = opened.runs[0]
    faithful = run.reranked(1.0)
    assert run.best is not None
    assert faithful.best is not None
    assert faithful.best.index != run.best.index
    other = follow(browser, page, run)
    asked: list[dict[str, Any]] = []
    other.on("request", lambda request: asked.extend(_questions(request)))
    stage(other).focus()
    for key in ("c", *["Shift+ArrowLeft", "Shift+ArrowUp"] * 4, "c"):
        other.keyboard.press(key)
    rows = other.locator(".sr-cmp-drift tbody th")
    expect(rows).to_have_text(["Prior (no seed)", "Reference", *_words(run)])
    expect(other.locator(".sr-cmp-found")).to_contain_text("Nothing found")
    other.locator("#sr-tab-maps-button").click()
    other.locator(".sr-maps[data-ready]").wait_for()
    words, chosen = other.locator('figure[data-map="above"] .sr-maps-words'), other.locator(".sr-maps select")
    expect(chosen).to_have_value(f"candidate-{run.best.index}")
    expect(words).to_contain_text(_words(run)[0])
    other.locator("#sr-explore-taste input[type=range]").focus()
    other.keyboard.press("Home")
    now = next(name for name in _words(faithful) if run.best.name in name)
    expect(words).to_have_text(re.compile(f"in 8-bit levels: {re.escape(now)}$"))
    expect(chosen).to_have_value(f"candidate-{run.best.index}")
    expect(rows).to_have_text(["Prior (no seed)", "Reference", *_words(faithful)])
    expect(other.locator(".sr-cmp-found")).to_contain_text("Nothing found")
    settle(other)
    sought = [question["picture"] for question in asked if question.keys() == {"run", "picture", "number"}]
    assert sought == [f"candidate-{best.index}" for best in (run.best, faithful.best)]
    # Another order is not another map.
    assert sum("stamp" in question and "box" not in question for question in asked) == 1
    other.context.close()


def _words(run: Run) -> list[str]:
    """Return what the page calls each candidate, best first."""
    return [f"Rank {one.rank} \u00b7 {one.name} \u00b7 {one.reward:.3f}" for one in run.ranked]


def _questions(request: Request) -> list[dict[str, Any]]:
    """Return what a request tells the server of an event."""
    sent = request.post_data_json if request.method == "POST" and "gradio_api" in request.url else None
    data = sent.get("event_data") if isinstance(sent, dict) else None
    return [data] if isinstance(data, dict) and "number" in data else []
