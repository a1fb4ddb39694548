"""The view Disagreement on the real page: correlations, contested pairs and checks are the library's."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from sr_core.disagreement import contested_candidates, contested_pairs, correlate, spectrum_outliers
from sr_core.explanation import RankedGroup, ranked_group
from sr_core.hold_outs import take_hold_outs
from sr_core.runs import Run
from tests.browser.conftest import PATIENCE_MS, open_page
from tests.browser.server import served_page
from tests.explorer_run import write_run

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

NUM_CANDIDATES = 6
STAGE = "#sr-disagreement-matrix .sr-chart-stage"


class Opened(NamedTuple):
    page: Page
    run: Run
    group: RankedGroup


@pytest.fixture(scope="module")
def opened(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    root: Path = tmp_path_factory.mktemp("disagreement")
    run = write_run(root / "run", num_candidates=NUM_CANDIDATES, size=256, seed=5, reference=True)
    group = ranked_group(run)
    assert group is not None
    with served_page(root / "runs", runs=[run.folder]) as address:
        page = open_page(browser, f"{address}?run={run.values['id']}")
        expect(page.locator("#sr-grid button[data-index]")).to_have_count(NUM_CANDIDATES)
        page.locator("#sr-tab-explore-button").click()
        page.locator("#sr-tab-disagreement-button").click()
        expect(page.locator("#sr-disagreement-lead")).to_contain_text("agree least")
        yield Opened(page, run, group)
        page.context.close()


def name(opened: Opened, place: int) -> str:
    return next(r.name for r in opened.run.candidates if r.index == opened.group.indices[place])


@pytest.mark.parametrize(("statistic", "words"), [("spearman", "Spearman rho"), ("kendall", "Kendall tau-b")])
def test_the_heat_map_and_its_table_are_the_librarys(opened: Opened, statistic, words: str) -> None:
    page, _, group = opened
    page.locator("#sr-disagreement-statistic label", has_text=words).click()
    expect(page.locator("#sr-disagreement-matrix .sr-chart-title")).to_have_text(f"How far metrics agree: {words}")
    page.locator(f'{STAGE}[data-ready="yes"]').wait_for()
    table = correlate([group.reward.normalised], statistic)
    drawn = page.locator(STAGE).evaluate("stage => ({z: stage.data[0].z, text: stage.data[0].text})")
    expected = [[table.between(a, b).value for b in table.keys] for a in table.keys]
    assert drawn["z"] == expected
    assert drawn["text"] == [[f"{value:.2f}" for value in row] for row in expected]
    rows = page.locator("#sr-disagreement-matrix tbody tr")
    expect(rows).to_have_count(len(table.keys) * (len(table.keys) - 1) // 2)
    assert table.lowest is not None
    lowest = table.between(*table.lowest)
    assert rows.first.locator("td").all_inner_texts() == [
        *(f"{value:.4g}" for value in (lowest.value, lowest.low, lowest.high)),
        str(NUM_CANDIDATES),
        "1",
        "1",
        "candidates",
    ]
    expect(page.locator("#sr-disagreement-lead")).to_contain_text(
        f"{words} {lowest.value:+.2f}, 95 % interval {lowest.low:+.2f} to {lowest.high:+.2f}"
    )


def test_contested_pairs_come_strongest_first_and_open_in_the_comparer(opened: Opened) -> None:
    page, _, group = opened
    page.evaluate("() => { window.pins = []; window.addEventListener('sr-pin', (e) => window.pins.push(e.detail)); }")
    pairs = contested_pairs([group], 8)
    items = page.locator(".sr-contested li", has=page.get_by_role("button", name="Open pair"))
    expect(items).to_have_count(len(pairs))
    assert [float(item) for item in items.locator(".sr-conflict").all_inner_texts()] == [
        round(pair.conflict, 3) for pair in pairs
    ]
    first = pairs[0]
    left, right = name(opened, first.left), name(opened, first.right)
    page.get_by_role("button", name=f"Open pair {left} and {right}").click()
    (pin,) = page.evaluate("window.pins")
    assert (pin["left"], pin["right"]) == tuple(f"candidate-{group.indices[p]}" for p in (first.left, first.right))
    assert pin["run"]
    candidates = page.locator(".sr-contested > div:nth-child(2) li strong").all_inner_texts()
    assert candidates == [name(opened, entry.place) for entry in contested_candidates([group], 8)]


def test_checks_are_taken_on_request(opened: Opened) -> None:
    page, run, group = opened
    expect(page.locator("#sr-disagreement-checks table")).to_have_count(0)
    page.get_by_role("button", name="Take hold-outs and spectra").click()
    expect(page.locator("#sr-disagreement-checks table")).to_have_count(2)
    found = take_hold_outs(run)
    table = correlate([{"reward": group.reward.reward, **found.normalised}], "kendall")
    rows = page.locator('[aria-label="Hold-outs against the reward"] tbody tr')
    expect(rows).to_have_count(len(found.raw))
    for row, key in zip(rows.all(), found.raw, strict=True):
        agreement = table.between("reward", key)
        shown = row.locator("td").all_inner_texts()
        assert shown[:3] == [
            "\u2013" if value is None else f"{value:.4g}" for value in (agreement.value, agreement.low, agreement.high)
        ]
    far = spectrum_outliers(found.decibels)
    spectra = page.locator('[aria-label="Outliers in spectrum"] tbody tr')
    expect(spectra).to_have_count(NUM_CANDIDATES)
    order = (-far.distance).argsort(kind="stable")
    assert spectra.locator("th").all_inner_texts() == [name(opened, place) for place in order]
    assert spectra.locator("td:nth-child(2)").all_inner_texts() == [f"{far.distance[p]:.3f}" for p in order]


def test_the_view_fits_a_phone(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": 375, "height": 812})
    opened.page.wait_for_function("document.documentElement.scrollWidth <= 375", polling=50)
    opened.page.set_viewport_size({"width": 1280, "height": 900})
