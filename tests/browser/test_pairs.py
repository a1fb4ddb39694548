"""The view Pairs on the real page: weights are the library's, a pair opens in the comparer, the export trains."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from sr_core.preference_data.dataset import open_dataset
from sr_core.preference_data.mean_spreads import read_mean_spreads
from sr_core.preferences import GroupPairs, weigh_groups
from sr_core.runs import Run
from tests.browser.conftest import PATIENCE_MS, open_page
from tests.browser.server import served_page
from tests.explorer_run import write_run
from train.prefer import training_pairs
from train.preference_config import PairsConfig

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

NUM_CANDIDATES = 8
HEAT = "#sr-pairs-heat .sr-chart-stage"
BUTTONS = "#sr-pairs-heat .sr-pairs-table button"


class Opened(NamedTuple):
    page: Page
    run: Run

    def weights(self, top: int) -> GroupPairs:
        """Return what the library says of the run with the shipped mean spread."""
        rewards = np.array([record.reward for record in self.run.candidates])
        (pairs,) = weigh_groups([rewards], top, mean_spread=read_mean_spreads().mu_sigma[NUM_CANDIDATES, top])
        return pairs


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Run]]:
    root: Path = tmp_path_factory.mktemp("pairs")
    run = write_run(root / "run", num_candidates=NUM_CANDIDATES, size=128, seed=4)
    with served_page(root / "runs", runs=[run.folder]) as address:
        yield address, run


@pytest.fixture
def opened(browser: Browser, served: tuple[str, Run]) -> Iterator[Opened]:
    address, run = served
    page = open_page(browser, f"{address}?run={run.values['id']}")
    expect(page.locator("#sr-grid button[data-index]")).to_have_count(NUM_CANDIDATES)
    page.locator("#sr-tab-explore-button").click()
    page.locator("#sr-tab-pairs-button").click()
    page.locator(f'{HEAT}[data-ready="yes"]').wait_for()
    page.evaluate("window.addEventListener('sr-pin', (event) => { (window.pins ||= []).push(event.detail); })")
    yield Opened(page, run)
    page.context.close()


def drawn(page: Page, name: str) -> Any:
    """Return a property of the heat map as Plotly holds it."""
    return page.evaluate(f"document.querySelector('{HEAT}').data[0].{name}")


def set_number(page: Page, name: str, value: str) -> None:
    page.locator(f"#sr-pairs-{name} input").fill(value)


def pairs_shown(page: Page, count: int) -> None:
    expect(page.locator(BUTTONS)).to_have_count(count)


def test_cells_hold_the_librarys_weights_and_follow_n(opened: Opened) -> None:
    pairs_shown(opened.page, 4)
    assert np.ravel(drawn(opened.page, "z")).tolist() == opened.weights(2).total.tolist()
    set_number(opened.page, "top", "3")
    pairs_shown(opened.page, 9)
    expect(opened.page.locator("#sr-pairs-words")).to_contain_text("9 pairs of this run: the 3 best of the first 8")
    opened.page.wait_for_function(f"document.querySelector('{HEAT}').data[0].z.length === 3", polling=50)
    assert np.ravel(drawn(opened.page, "z")).tolist() == opened.weights(3).total.tolist()
    expect(opened.page.locator("#sr-pairs-preset input")).to_have_value("My own N and M")


def test_a_picked_cell_opens_its_pair_in_the_comparer(opened: Opened) -> None:
    page, pairs = opened.page, opened.weights(2)
    cell = page.evaluate(
        f"""() => {{ const stage = document.querySelector('{HEAT}'); stage.scrollIntoView({{block: "center"}});
        const box = stage.getBoundingClientRect(), layout = stage._fullLayout;
        return [box.left + layout.xaxis._offset + layout.xaxis.d2p(1),
                box.top + layout.yaxis._offset + layout.yaxis.d2p(0)]; }}"""
    )
    page.mouse.move(cell[0] + 6, cell[1] + 6)
    page.locator(f"{HEAT} .hoverlayer .hovertext").wait_for()
    hover = page.locator(f"{HEAT} .hoverlayer").text_content() or ""
    assert all(f"{values[1]:.4g}" in hover for values in (pairs.gap, pairs.intra, pairs.inter, pairs.total))
    page.mouse.click(cell[0] + 6, cell[1] + 6)
    page.wait_for_function("window.pins && window.pins.length === 1", polling=50)
    pin = page.evaluate("window.pins[0]")
    assert (pin["left"], pin["right"]) == (f"candidate-{pairs.winners[1]}", f"candidate-{pairs.losers[1]}")


def test_every_pair_is_reached_by_keys(opened: Opened) -> None:
    page, pairs = opened.page, opened.weights(2)
    page.locator(BUTTONS).first.focus()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("window.pins && window.pins.length === 1", polling=50)
    pin = page.evaluate("window.pins[0]")
    assert (pin["left"], pin["right"]) == (f"candidate-{pairs.winners[2]}", f"candidate-{pairs.losers[2]}")


def test_one_photo_alone_has_no_inter_group_weight(opened: Opened) -> None:
    page = opened.page
    page.locator("#sr-pairs-spread input").click()
    page.get_by_role("option", name="All runs in view").click()
    expect(page.locator("#sr-pairs-words")).to_contain_text("undefined for one photo alone")
    expect(page.locator("#sr-pairs-heat .sr-chart-note")).to_contain_text("undefined for one photo alone")
    assert np.ravel(drawn(page, "z")).tolist() == opened.weights(2).intra.tolist()


def test_more_winners_than_half_are_refused_in_words_and_typing_goes_on(opened: Opened) -> None:
    page = opened.page
    set_number(page, "top", "5")
    alert = page.locator("#sr-pairs-words [role=alert]")
    expect(alert).to_have_text("N must lie in 1 to half of the M = 8 candidates, got 5")
    expect(page.locator("#sr-pairs-heat .sr-chart")).to_be_hidden()
    set_number(page, "top", "4")
    expect(alert).to_have_count(0)
    pairs_shown(page, 16)


def test_the_slider_weighs_the_pairs_anew(opened: Opened) -> None:
    page = opened.page
    page.locator("#sr-explore-taste input[type=range]").focus()
    page.keyboard.press("Home")
    expect(page.locator("#sr-pairs-words")).to_contain_text("faithful share: 0.5 there, 1 here")
    reward = opened.run.group_reward(1.0)
    assert reward is not None
    best = opened.run.candidates[int(np.argmax(reward.reward))]
    expect(page.locator(BUTTONS).first).to_have_text(re.compile(rf"^{re.escape(best.name)} over "))


def test_the_export_is_a_dataset_that_training_opens(opened: Opened, tmp_path: Path) -> None:
    page, pairs = opened.page, opened.weights(3)
    set_number(page, "top", "3")
    pairs_shown(page, 9)
    with page.expect_download() as download:
        page.locator("#sr-pairs-save").click()
    assert download.value.suggested_filename == "bluebird_pairs.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(tmp_path)
    dataset = open_dataset(tmp_path / "preference_pairs")
    table = dataset.pairs()
    for column, values in (
        ("winner_id", pairs.winners), ("loser_id", pairs.losers), ("reward_gap", pairs.gap), ("w_intra", pairs.intra),
        ("w_inter", pairs.inter), ("w_total", pairs.total),
    ):  # fmt: skip
        assert table[column].tolist() == values.tolist(), column
    trained = training_pairs(dataset, PairsConfig(source="table", top=3))
    assert [pair.weight for pair in trained] == pairs.total.tolist()
    expect(page.locator("#sr-pairs-told")).to_contain_text("python -m train prefer")


def test_a_phone_shows_the_whole_width(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": 375, "height": 812})
    opened.page.wait_for_function("document.documentElement.scrollWidth <= 375", polling=50)
