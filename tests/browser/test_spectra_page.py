"""The view Spectra in a real browser: the library's numbers, switches, sorting, pins, a phone and a keyboard."""

import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from sr_core.runs import Run
from sr_core.spectra import Basis
from sr_core.spectral_report import pair_bands, spectral_report, weight_curve
from tests.browser.conftest import PATIENCE_MS, open_page
from tests.browser.server import served_page
from tests.explorer_run import write_run

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)
ROWS = "#sr-spectra-table tbody:first-of-type tr"


class Opened(NamedTuple):
    address: str
    run: Run
    large: Run
    """Sixteen candidates of 1024 x 1024 px."""

    def link(self, run: Run) -> str:
        return f"{self.address}?run={run.values['id']}"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    root = tmp_path_factory.mktemp("spectra")
    run = write_run(root / "audited", num_candidates=4, size=128, reference=True)
    large = write_run(root / "large", num_candidates=16, size=1024)
    with served_page(root / "runs", runs=[run.folder, large.folder]) as address:
        yield Opened(address, run, large)


def open_spectra(browser: Browser, link: str, num_candidates: int, **size: int) -> Page:
    page = open_page(browser, link, **size)
    expect(page.locator("#sr-grid button[data-index]")).to_have_count(num_candidates)
    page.locator("#sr-tab-explore-button").click()
    page.locator("#sr-tab-spectra-button").click()
    expect(page.locator(ROWS)).to_have_count(num_candidates)
    return page


@pytest.fixture
def page(browser: Browser, opened: Opened) -> Iterator[Page]:
    page = open_spectra(browser, opened.link(opened.run), 4)
    yield page
    page.context.close()


def chart(page: Page, name: str) -> dict[str, list[float]]:
    """Return the heights of what a chart draws, by name, once it is drawn."""
    stage = page.locator(f"#sr-spectra-{name} .sr-chart-stage[data-ready=yes]")
    stage.scroll_into_view_if_needed()
    drawn: dict[str, list[float]] = stage.evaluate(
        "stage => Object.fromEntries(stage.data.map((trace) => [trace.customdata && Array.isArray(trace.customdata[0])"
        " ? trace.customdata[0][1] : trace.name, Array.from(stage.calcdata[stage.data.indexOf(trace)],"
        " (point, k) => (trace.y._inputArray || trace.y)[k])]))"
    )
    return drawn


def column(page: Page, place: int) -> list[str]:
    return page.locator(f"{ROWS} > :nth-child({place})").all_inner_texts()


def choose(page: Page, side: str, words: str) -> None:
    page.locator(f"#sr-spectra-{side} input").click()
    page.locator("li[role=option]", has_text=re.compile(rf"^\W*{re.escape(words)} \(")).click()


def test_the_table_shows_the_numbers_of_the_library(page: Page, opened: Opened) -> None:
    report = spectral_report(opened.run)
    found = [report.pictures[f"candidate-{record.index}"] for record in opened.run.ranked]
    assert column(page, 3) == [f"{record.reward:.3f}" for record in opened.run.ranked]
    assert column(page, 4) == [f"{one.distance:.2f} dB" for one in found]
    assert column(page, 5) == [f"{one.fidelity['dct']:+.2f} dB" for one in found]
    assert column(page, 6) == [f"{100 * one.share['dct']:.3g} %" for one in found]
    assert column(page, 7) == [f"{one.level['dct']:+.2f} dB" for one in found]


@pytest.mark.parametrize("basis", ["dct", "fft"])
def test_the_charts_draw_the_librarys_numbers(page: Page, opened: Opened, basis: Basis) -> None:
    report = spectral_report(opened.run)
    title = page.locator("#sr-spectra-powers .sr-chart-title")
    if basis == "fft":
        page.get_by_label("FFT, Hann window").check()
    expect(title).to_contain_text({"dct": "DCT-II", "fft": "FFT"}[basis])
    powers, levels = chart(page, "powers"), chart(page, "levels")
    for picture, found in report.pictures.items():
        assert powers[picture] == pytest.approx(found.power[basis].tolist(), rel=1e-12)
        assert levels[picture] == pytest.approx(report.relative(picture, basis).tolist(), rel=1e-12)


def test_frequencies_can_be_counted_per_input_pixel(page: Page) -> None:
    stage = page.locator("#sr-spectra-powers .sr-chart-stage")
    expect(stage).to_have_attribute("aria-label", re.compile("Nyquist frequency is 0.125 cycles per output pixel"))
    page.get_by_label("Input pixel").check()
    expect(stage).to_have_attribute("aria-label", re.compile("Nyquist frequency is 0.5 cycles per input pixel"))


def test_the_table_is_sorted_by_any_column_and_by_keys(page: Page, opened: Opened) -> None:
    report = spectral_report(opened.run)
    by_share = sorted(opened.run.candidates, key=lambda r: report.pictures[f"candidate-{r.index}"].share["dct"])
    head = page.locator("#sr-spectra-table button[data-sort=share]")
    head.focus()
    for direction, order in (("ascending", by_share), ("descending", by_share[::-1])):
        page.keyboard.press("Enter")
        expect(page.locator("#sr-spectra-table th[data-key=share]")).to_have_attribute("aria-sort", direction)
        assert [words.split(" (")[0] for words in column(page, 1)] == [record.name for record in order]
    fixed = page.locator("#sr-spectra-table tbody.sr-fixed th").all_inner_texts()
    assert fixed == ["Input, bicubic", "Prior", "Reference"]


def test_candidates_are_filtered_by_any_spectral_number(page: Page, opened: Opened) -> None:
    report = spectral_report(opened.run)
    shares = {r.name: 100 * report.pictures[f"candidate-{r.index}"].share["dct"] for r in opened.run.ranked}
    limit = sorted(shares.values())[1]
    table = page.locator("#sr-spectra-table")
    names = table.locator("tbody:first-of-type tr:visible th")
    table.get_by_label("number").first.select_option("share")
    table.get_by_label("is at least").fill(repr(limit))
    expect(names).to_have_count(3)
    kept = [name for name, share in shares.items() if share >= limit]
    assert [words.split(" (")[0] for words in names.all_inner_texts()] == kept
    expect(table.locator(".sr-count")).to_have_text("3 of 4 shown")
    expect(table.locator("tbody.sr-fixed tr:visible")).to_have_count(3)
    page.get_by_label("FFT, Hann window").check()
    by_fft = [report.pictures[f"candidate-{r.index}"].share["fft"] for r in opened.run.ranked]
    expect(table.locator(".sr-count")).to_have_text(f"{sum(100 * share >= limit for share in by_fft)} of 4 shown")
    table.get_by_role("button", name="Show all").click()
    expect(names).to_have_count(4)


def test_a_button_and_a_point_open_a_pair(page: Page, opened: Opened) -> None:
    page.evaluate("window.addEventListener('sr-pin', (event) => { window.lastPin = event.detail; })")
    best = f"candidate-{opened.run.ranked[0].index}"
    page.locator(ROWS).first.get_by_role("button", name=re.compile("against the prior")).click()
    pinned = page.evaluate("window.lastPin")
    assert (pinned["left"], pinned["right"]) == ("prior", best)


def test_pair_and_exponent_give_the_librarys_bands(page: Page, opened: Opened) -> None:
    ranked = opened.run.ranked
    expect(page.locator("#sr-spectra-bands .sr-chart-title")).to_contain_text(
        f"{ranked[0].name} over {ranked[-1].name}"
    )
    choose(page, "loser", ranked[1].name)
    expect(page.locator("#sr-spectra-bands .sr-chart-title")).to_contain_text(f"{ranked[0].name} over {ranked[1].name}")
    number = page.locator("#sr-spectra-exponent input[type=number]")
    number.fill("2.25")
    number.press("Tab")
    expect(page.locator("#sr-spectra-bands .sr-numbers thead")).to_contain_text("exponent 2.25")
    expected = pair_bands(opened.run, ranked[0].index, ranked[1].index, 2.25)
    page.wait_for_function(
        "document.querySelector('#sr-spectra-bands .sr-chart-stage').data[1].name.endsWith('exponent 2.25')",
        polling=50,
    )
    drawn = chart(page, "bands")
    assert drawn["Plain DPO"] == pytest.approx(expected.plain.tolist(), rel=1e-12)
    assert drawn["Sobolev-DPO, exponent 2.25"] == pytest.approx(expected.sobolev.tolist(), rel=1e-12)
    total = page.locator("#sr-spectra-bands .sr-numbers tr").last
    expect(total).to_have_text(re.compile(f"All bands.*{expected.plain.sum():.4g}.*{expected.sobolev.sum():.4g}"))
    frequency, weights = weight_curve(opened.run, 2.25)
    last = page.locator("#sr-spectra-weights .sr-numbers tr").last
    expect(last).to_have_text(re.compile(f"{frequency[-1]:.4f}.*{weights[-1]:.4g}"))


def test_what_was_chosen_stays_when_the_order_changes(page: Page, opened: Opened) -> None:
    page.get_by_label("FFT, Hann window").check()
    expect(page.locator("#sr-spectra-levels .sr-chart-title")).to_contain_text("FFT")
    number = page.get_by_label("number input for From faithful, 0, to vivid, 100").last
    number.fill("100")
    number.press("Tab")
    vivid = [record.name for record in opened.run.reranked(0.0).ranked]
    expect(page.locator(ROWS).first).to_contain_text(vivid[0])
    expect(page.locator("#sr-spectra-levels .sr-chart-title")).to_contain_text("FFT")
    expect(page.locator("#sr-spectra-bands .sr-chart-title")).to_contain_text(f"{vivid[0]} over {vivid[-1]}")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nobody_is_locked_out(browser: Browser, opened: Opened, theme: str) -> None:
    page = open_spectra(browser, f"{opened.link(opened.run)}&__theme={theme}", 4)
    for name in ("powers", "levels", "bands", "weights"):
        chart(page, name)
    found = Axe().run(page, context="#sr-spectra").response["violations"]
    serious = {v["id"]: v["nodes"][0]["html"] for v in found if v["impact"] in ("serious", "critical")}
    assert serious == {}
    page.context.close()


def test_a_phone_shows_every_chart_in_its_width(browser: Browser, opened: Opened) -> None:
    page = open_spectra(browser, opened.link(opened.run), 4, width=375, height=812)
    for name in ("powers", "levels", "bands", "weights"):
        chart(page, name)
        box = page.locator(f"#sr-spectra-{name} .sr-chart-stage").bounding_box()
        assert box is not None
        assert 0 <= box["x"] < box["x"] + box["width"] <= 375
    page.wait_for_function("document.documentElement.scrollWidth <= 375", polling=50)
    page.context.close()


def test_sixteen_large_candidates_answer_quickly(browser: Browser, opened: Opened) -> None:
    """Times are printed, not asserted: the machine that tests may be busy."""
    page = open_page(browser, opened.link(opened.large))
    expect(page.locator("#sr-grid button[data-index]")).to_have_count(16)
    page.locator("#sr-tab-explore-button").click()
    started = time.perf_counter()
    page.locator("#sr-tab-spectra-button").click()
    expect(page.locator(ROWS)).to_have_count(16)
    print(f"\nspectra of 16 at 1024 px: first opening {time.perf_counter() - started:.2f} s")  # noqa: T201
    chart(page, "weights")
    title, ranked = page.locator("#sr-spectra-bands .sr-chart-title"), opened.large.ranked

    def set_exponent(value: float) -> None:
        page.locator("#sr-spectra-exponent input[type=number]").fill(str(value))
        page.locator("#sr-spectra-exponent input[type=number]").press("Tab")
        expect(page.locator("#sr-spectra-bands .sr-numbers thead")).to_contain_text(f"exponent {value:g}")

    def set_loser(place: int) -> None:
        choose(page, "loser", ranked[place].name)
        expect(title).to_contain_text(f"over {ranked[place].name}:")

    def set_basis(words: str) -> None:
        page.get_by_label(words).check()
        expect(page.locator("#sr-spectra-powers .sr-chart-title")).to_contain_text(words)

    actions: dict[str, tuple[Callable[..., None], list[object]]] = {
        "exponent": (set_exponent, [0.5, 1.0, 2.0, 2.5, 3.0, 0.25]),
        "pair": (set_loser, [14, 13, 12, 11, 10]),
        "transform": (set_basis, ["FFT, Hann window", "DCT-II"] * 3),
    }
    for name, (act, values) in actions.items():
        times = []
        for value in values:
            started = time.perf_counter()
            act(value)
            times.append(1000 * (time.perf_counter() - started))
        print(f"{name}: median {statistics.median(times):.0f} ms, most {max(times):.0f} ms, on the page")  # noqa: T201
    assert spectral_report(opened.large).crop.whole
    page.context.close()
