"""A trainer audits two adapters on the real page: degrade, restore on the same seeds, read what changes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image as PillowImage
from playwright.sync_api import Browser, Page, expect

from sr_core.adapter_comparison import AdapterComparison, compare_adapters
from sr_core.audit import Degradation, make_pair
from sr_core.runs import Run
from sr_core.scoring import score_files
from tests.browser.conftest import PATIENCE_MS, open_page, settle
from tests.browser.server import served_page
from tests.browser.test_story import runs_of
from tests.lora import install

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)
SEEDS = 2
ROWS = "#sr-audit-table tbody tr"


class Audited(NamedTuple):
    page: Page
    folder: Path
    """The run on the server's disk."""
    root: Path


@pytest.fixture(scope="module")
def hq(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hq") / "bluebird.png"
    with PillowImage.open(photos / "eval" / "472_bluebird.png") as image:
        image.convert("RGB").crop((160, 96, 290, 226)).save(path)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "runs"


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    assets = root.parent / "assets"
    install(assets, hpo=0.05)
    with served_page(root, assets=assets) as url:
        yield url


def open_audit(browser: Browser, address: str) -> Page:
    page = open_page(browser, address)
    page.get_by_role("tab", name="Audit", exact=True).click()
    page.locator("#sr-audit-run").wait_for()
    return page


def choose(page: Page, label: str, option: str | re.Pattern[str]) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def give(page: Page, photo: Path) -> None:
    page.set_input_files("#sr-audit-hq input[type=file]", str(photo))


def expect_pictures(page: Page) -> None:
    """Hold that both photos are there and not only their places."""
    script = "images => Promise.all(images.map(i => i.decode().then(() => i.naturalWidth > 0)))"
    assert page.locator("#sr-audit-photos img").evaluate_all(script) == [True, True]


@pytest.fixture(scope="module")
def audited(browser: Browser, address: str, root: Path, hq: Path) -> Iterator[Audited]:
    page = open_audit(browser, address)
    expect(page.locator("#sr-audit-run")).to_be_disabled()
    give(page, hq)
    expect(page.locator("#sr-audit-plan")).to_contain_text("128 \u00d7 128 px")
    choose(page, "Degradation", re.compile("^seesr"))
    page.get_by_label("Degradation seed").fill("3")
    choose(page, "Adapter B", "DP2O")
    seeds = page.get_by_label("number input for Seeds")
    seeds.fill(str(SEEDS))
    seeds.press("Tab")
    expect(page.locator("#sr-audit-run")).to_be_enabled()
    page.locator("#sr-audit-run").click()
    expect(page.locator("#sr-audit-status")).to_contain_text("ranked in")
    expect(page.locator(ROWS)).to_have_count(SEEDS)
    (folder,) = {path for path in runs_of(root) if path.parent.name not in ("library", "private")}
    yield Audited(page, folder, root)
    page.context.close()


@pytest.fixture
def page(audited: Audited) -> Page:
    """Return the audited page with its tab in front."""
    tab = audited.page.get_by_role("tab", name="Audit", exact=True)
    if tab.get_attribute("aria-selected") != "true":
        tab.click()
    expect(audited.page.locator(ROWS)).to_have_count(SEEDS)
    return audited.page


def found(audited: Audited) -> tuple[Run, AdapterComparison]:
    run = Run.open(audited.folder)
    comparison = compare_adapters(run)
    assert comparison is not None
    return run, comparison


def test_the_page_shows_the_numbers_of_the_run_on_disk(audited: Audited, page: Page) -> None:
    run, comparison = found(audited)
    assert (run.values["adapter"], run.values["compare_adapter"], run.values["reference"]) == ("hpo", "sft", True)
    for place, seed in enumerate(comparison.seeds):
        row = page.locator(ROWS).nth(place)
        for text in (seed.name, f"{seed.before:.4f}", f"{seed.after:.4f}", f"{seed.change:+.4f}"):
            expect(row).to_contain_text(text)
        stored = run.values["audit"]["distances"]
        for side, kept in (("before", "before"), ("after", "candidates")):
            cell = row.locator(f"[data-key=psnr-{side}]")
            expect(cell).to_have_text("{:.2f}".format(stored[kept][place]["psnr"]))
    words = page.locator("#sr-audit-words")
    expect(words).to_contain_text(f"{comparison.mean_change:+.4f} mean reward change from SFT to DP2O")
    assert comparison.interval is not None
    expect(words).to_contain_text(f"{comparison.interval.low:+.4f} to {comparison.interval.high:+.4f}")
    expect(words).to_contain_text("Full hybrid reward")
    for entry in run.values["left_out"]:
        expect(words).to_contain_text(entry["reason"])


def test_seeds_are_sorted_and_filtered_by_any_number(audited: Audited, page: Page) -> None:
    run, _ = found(audited)
    psnr = {r.name: run.values["audit"]["distances"]["candidates"][r.index]["psnr"] for r in run.candidates}
    table, names = page.locator("#sr-audit-table"), page.locator(f"{ROWS}:visible th")
    best_first = sorted(psnr, key=lambda name: -psnr[name])
    for order in (best_first, best_first[::-1]):
        table.locator("button[data-sort=psnr-after]").click()
        expect(names).to_have_text(order)
    table.get_by_label("number").first.select_option("psnr-after")
    table.get_by_label("is at least").fill(repr(psnr[best_first[0]]))
    expect(names).to_have_text(best_first[:1])
    table.get_by_role("button", name="Show all").click()
    table.locator("button[data-sort=seed]").click()
    expect(names).to_have_text([record.name for record in run.candidates])


def test_scoring_the_same_files_gives_the_same_numbers(audited: Audited) -> None:
    run, comparison = found(audited)
    files = [run.folder / str(r.file) for r in run.candidates] + [run.folder / str(r.before) for r in run.candidates]
    answer = score_files(files, reference=run.folder / "reference.png", metric_set="offline")
    raw = [dict(r.scores) for r in run.candidates] + [dict(r.before_scores) for r in run.candidates]
    assert [row["scores"] for row in answer["images"]] == raw
    rewards = [seed.after for seed in comparison.seeds] + [seed.before for seed in comparison.seeds]
    np.testing.assert_allclose([row["reward"] for row in answer["images"]], rewards)


def test_the_photos_and_values_offered_are_those_of_the_seed(
    audited: Audited, page: Page, hq: Path, tmp_path: Path
) -> None:
    pair = make_pair(hq, tmp_path, Degradation(preset="seesr", seed=3, side=512))
    expect(page.locator("#sr-audit-photos")).to_contain_text("seesr, seed 3")
    drawn = pair.recipe["degradation"]["drawn"]
    assert Run.open(audited.folder).values["audit"]["degradation"]["drawn"] == drawn
    page.locator("#sr-audit-photos summary").click()
    rows = page.locator(".sr-audit-drawn tbody tr")
    expect(rows).to_have_count(len(drawn))
    for place, draw in enumerate(drawn):
        expect(rows.nth(place).locator("td").first).to_have_text(draw["step"])
        for value in draw["values"].values():
            expect(rows.nth(place)).to_contain_text(f"{value:.4g}" if isinstance(value, float) else str(value))
    page.locator("#sr-audit-photos summary").click()
    expect_pictures(page)
    expect(page.locator("#sr-audit-status")).to_contain_text("middle 128 x 128 px of 130 x 130")
    for place, path in enumerate((pair.hq, pair.lq)):
        with page.expect_download() as download:
            page.locator("#sr-audit-photos a").nth(place).click()
        with PillowImage.open(download.value.path()) as sent, PillowImage.open(path) as made:
            np.testing.assert_array_equal(np.asarray(sent), np.asarray(made))


def test_both_charts_are_drawn_beside_their_numbers(audited: Audited, page: Page) -> None:
    _, comparison = found(audited)
    for widget in ("#sr-audit-changes", "#sr-audit-curves"):
        stage = page.locator(f"{widget} .sr-chart-stage")
        stage.scroll_into_view_if_needed()
        expect(stage).to_have_attribute("data-ready", "yes")
        expect(page.locator(f"{widget} .sr-numbers tbody tr")).to_have_count(SEEDS)
    last = page.locator("#sr-audit-curves .sr-numbers tbody tr").last
    expect(last).to_contain_text(f"{comparison.after_curves['best'][SEEDS]:.4g}")
    expect(page.locator("#sr-audit-changes .bars .point")).to_have_count(SEEDS)


def test_a_pin_opens_before_against_after_and_their_difference(page: Page) -> None:
    page.locator(ROWS).first.get_by_role("button", name="DP2O against SFT").click()
    expect(page.get_by_role("tab", name="Explore", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator(".sr-cmp-left")).to_have_value("before-0")
    expect(page.locator(".sr-cmp-right")).to_have_value("candidate-0")
    page.get_by_role("button", name="Difference", exact=True).click()
    expect(page.locator(".sr-cmp-canvas-difference")).to_be_visible()
    expect(page.locator("#sr-explore-run input")).to_have_value(re.compile("bluebird_seesr_3"))


def test_the_run_is_on_screen_in_the_other_tabs_too(audited: Audited, page: Page) -> None:
    page.get_by_role("tab", name="Restore", exact=True).click()
    expect(page.locator("#sr-grid button[data-index]")).to_have_count(SEEDS)
    run, _ = found(audited)
    best = page.locator("#sr-grid .sr-reward").first
    expect(best).to_have_text(f"{run.ranked[0].reward:.3f}")


def test_the_slider_changes_the_comparison_and_its_words(audited: Audited, page: Page) -> None:
    page.get_by_role("tab", name="Explore", exact=True).click()
    slider = page.locator("#sr-explore-taste input[type=range]")
    run, _ = found(audited)
    for value, weight in (("0", 1.0), ("100", 0.0), ("50", 0.5)):
        slider.fill(value)
        settle(page)
        page.get_by_role("tab", name="Audit", exact=True).click()
        comparison = compare_adapters(run.reranked(weight))
        assert comparison is not None
        expect(page.locator("#sr-audit-words")).to_contain_text(f"fidelity weight {weight:g}")
        expect(page.locator("#sr-audit-words")).to_contain_text(f"{comparison.mean_change:+.4f} mean reward change")
        page.get_by_role("tab", name="Explore", exact=True).click()
        settle(page)


def test_an_audit_fits_a_phone_and_has_no_serious_barrier(page: Page) -> None:
    barriers = Axe().run(page, context="#sr-audit-columns").response["violations"]
    serious = [entry for entry in barriers if entry["impact"] in ("serious", "critical")]
    assert "\n".join(f"{entry['id']}: {node['html']}" for entry in serious for node in entry["nodes"]) == ""
    page.set_viewport_size({"width": 375, "height": 812})
    page.wait_for_function("document.documentElement.scrollWidth <= 375", polling=50)
    page.set_viewport_size({"width": 1280, "height": 900})


def test_degrading_alone_shows_the_pair_and_restores_nothing(
    browser: Browser, address: str, root: Path, hq: Path
) -> None:
    before = runs_of(root)
    page = open_audit(browser, address)
    give(page, hq)
    expect(page.locator("#sr-audit-degrade")).to_be_enabled()
    page.locator("#sr-audit-degrade").click()
    expect(page.locator("#sr-audit-status")).to_contain_text("Degraded, not restored.")
    expect(page.locator("#sr-audit-photos img")).to_have_count(2)
    expect_pictures(page)
    assert runs_of(root) == before
    page.context.close()


def test_what_cannot_be_audited_is_refused_in_words(browser: Browser, address: str, hq: Path, tmp_path: Path) -> None:
    page = open_audit(browser, address)
    with PillowImage.open(hq) as image:
        image.resize((100, 100)).save(tmp_path / "small.png")
        image.resize((60, 40)).save(tmp_path / "wide.png")
    give(page, tmp_path / "small.png")
    alert = page.locator("#sr-audit-plan").get_by_role("alert")
    expect(alert).to_contain_text("at least 128 px a side, got 100 x 100")
    expect(page.locator("#sr-audit-run")).to_be_disabled()
    page.locator("#sr-audit-source label", has_text="Use my own").click()
    expect(alert).to_contain_text("there must be a low-quality photo too")
    page.set_input_files("#sr-audit-lq input[type=file]", str(tmp_path / "wide.png"))
    expect(alert).to_contain_text("100 x 100 px reduced to 60 px across is 60 x 60, got 60 x 40")
    expect(page.locator("#sr-audit-run")).to_be_disabled()
    choose(page, "Adapter B", "SFT")
    expect(page.locator("#sr-audit-run")).to_be_disabled()
    page.context.close()
