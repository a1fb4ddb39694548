"""Three people use the page from start to end on real photographs: a practitioner, a researcher and a trainer."""

import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage
from playwright.sync_api import Browser, Download, Page, expect

from sr_core.adapter_comparison import compare_adapters
from sr_core.ballots import run_key
from sr_core.disagreement import contested_pairs
from sr_core.explanation import ranked_group
from sr_core.preference_data.dataset import open_dataset
from sr_core.runs import Run
from tests.browser.conftest import PATIENCE_MS, open_page
from tests.browser.test_story import CARDS, runs_of, upload

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)


def open_tab(page: Page, *names: str) -> None:
    for name in names:
        page.locator(f"#sr-tab-{name}-button").click()


def restore(page: Page, photo: Path, num_candidates: int) -> None:
    """Drop a photo, ask for so many candidates and wait until they are ranked."""
    upload(page, photo)
    page.get_by_label("number input for Candidates").fill(str(num_candidates))
    page.get_by_label("number input for Candidates").press("Tab")
    expect(page.locator("#sr-run")).to_be_enabled()
    page.locator("#sr-run").click()
    expect(page.locator("#sr-status")).to_contain_text("ranked in")
    expect(page.locator(CARDS)).to_have_count(num_candidates)


def saved(page: Page, button: str) -> Download:
    with page.expect_download() as download:
        page.locator(button).click()
    return download.value


@pytest.fixture(scope="module")
def photo(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stories") / "lady bird.png"
    with PillowImage.open(photos / "eval" / "228_LadyBird.png") as image:
        image.convert("RGB").resize((64, 64), PillowImage.Resampling.BICUBIC).save(path)
    return path


def test_a_practitioner_upscales_and_downloads(browser: Browser, address: str, run_root: Path, photo: Path) -> None:
    page, before = open_page(browser, address), runs_of(run_root)
    restore(page, photo, 3)
    (folder,) = runs_of(run_root) - before
    best = Run.open(folder).best
    assert best is not None
    page.locator('.sr-stage[data-ready="yes"]').wait_for()
    for mode in ("Explore", "Vote", "Audit", "Runs"):
        expect(page.get_by_role("tab", name=mode, exact=True)).to_be_visible()
    # Nothing of what is behind the ranking is on screen until it is opened.
    expect(page.locator(".sr-chart, .sr-cmp, .sr-vote").locator("visible=true")).to_have_count(0)
    kept = saved(page, "#sr-save-one")
    assert kept.suggested_filename == f"lady bird_seed{best.seed}.png"
    with PillowImage.open(kept.path()) as image, PillowImage.open(folder / str(best.file)) as drawn:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(drawn))
    page.context.close()


@pytest.fixture(scope="module")
def researcher(browser: Browser, address: str, run_root: Path, photo: Path) -> Iterator[tuple[Page, Run]]:
    """Return the page of a researcher with a run of six candidates, and the run on disk."""
    page, before = open_page(browser, address), runs_of(run_root)
    restore(page, photo, 6)
    (folder,) = runs_of(run_root) - before
    yield page, Run.open(folder)
    page.context.close()


def test_a_researcher_finds_the_strongest_disagreement(researcher: tuple[Page, Run]) -> None:
    page, run = researcher
    open_tab(page, "explore", "disagreement")
    group = ranked_group(run)
    assert group is not None
    (worst,) = contested_pairs([group], 1)
    first = page.locator(".sr-contested li", has=page.get_by_role("button", name="Open pair")).first
    expect(first.locator(".sr-conflict")).to_have_text(f"{worst.conflict:.3f}")
    first.get_by_role("button", name=re.compile("^Open pair")).click()
    shown = {page.locator(side).input_value() for side in (".sr-cmp-left", ".sr-cmp-right")}
    assert shown == {f"candidate-{group.indices[place]}" for place in (worst.left, worst.right)}
    page.locator('.sr-cmp-stage[data-ready="yes"]').wait_for()


def test_the_researcher_votes_blind_on_six_pairs_and_exports(researcher: tuple[Page, Run]) -> None:
    page, run = researcher
    open_tab(page, "vote")
    for number, key in enumerate(("1", "2", "t", "1", "x", "2"), start=1):
        page.locator('.sr-vote[data-stage="ballot"] .sr-vote-panes[data-ready="yes"]').wait_for()
        words = page.locator(".sr-vote").inner_html()
        assert not any(str(record.file) in words for record in run.candidates)
        page.keyboard.press(key)
        expect(page.locator(".sr-vote-progress")).to_contain_text(f"{number} vote")
    page.locator('.sr-vote[data-stage="ballot"] .sr-vote-panes[data-ready="yes"]').wait_for()
    page.keyboard.press("r")
    page.locator('.sr-vote[data-stage="revealed"]').wait_for()
    page.locator("#sr-vote-results button.label-wrap").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Votes as Parquet").click()
    table = pq.read_table(io.BytesIO(download.value.path().read_bytes())).to_pydict()
    assert len(table["vote"]) == len(set(table["vote"])) == 6
    assert set(table["run"]) == {run_key(run)}
    assert sorted(table["answer"]) == ["bad", "choice", "choice", "choice", "choice", "tie"]


def test_the_researcher_exports_pairs_that_training_reads(researcher: tuple[Page, Run], tmp_path: Path) -> None:
    page, run = researcher
    open_tab(page, "explore", "pairs")
    page.locator('#sr-pairs-heat .sr-chart-stage[data-ready="yes"]').wait_for()
    with zipfile.ZipFile(saved(page, "#sr-pairs-save").path()) as archive:
        archive.extractall(tmp_path)
    (marker,) = tmp_path.rglob("_SUCCESS")
    dataset = open_dataset(marker.parent)
    assert len(dataset) == 1
    stored = dataset.group(0)
    assert list(stored.seeds) == [record.seed for record in run.candidates]
    np.testing.assert_array_equal(stored.reward, [record.reward for record in run.candidates])


def test_the_researcher_reopens_the_run_by_its_link(browser: Browser, researcher: tuple[Page, Run]) -> None:
    page, run = researcher
    open_tab(page, "restore")
    assert f"run={run.values['id']}" in page.url
    again = open_page(browser, page.url)
    expect(again.locator(CARDS)).to_have_count(6)
    assert again.locator(f"{CARDS} .sr-seed").all_inner_texts() == [record.name for record in run.ranked]
    open_tab(again, "vote")
    again.locator("#sr-vote-results button.label-wrap").click()
    expect(again.locator("#sr-vote-accuracy .sr-chart")).to_be_visible()
    again.context.close()


def test_every_number_is_the_one_of_the_command_and_of_the_library(researcher: tuple[Page, Run]) -> None:
    page, run = researcher
    files = [str(run.path(record)) for record in run.candidates]
    command = [str(Path(sys.executable).with_name("sr")), "score", *files, "--lq", str(run.folder / "input.png")]
    done = subprocess.run([*command, "--json", "-"], capture_output=True, text=True, check=True)
    scored = json.loads(done.stdout)["images"]
    assert [row["scores"] for row in scored] == [dict(record.scores) for record in run.candidates]
    assert [row["reward"] for row in scored] == [record.reward for record in run.candidates]
    assert [row["rank"] for row in scored] == [record.rank for record in run.candidates]
    open_tab(page, "restore")
    order = sorted(range(len(scored)), key=lambda k: -scored[k]["reward"])
    rewards = page.locator(f"{CARDS} .sr-reward").all_inner_texts()
    assert rewards == [f"{scored[k]['reward']:.3f}" for k in order]
    rows = page.locator("#sr-details .sr-table tbody tr")
    for place, k in enumerate(order):
        cells = rows.nth(place).locator("td").all_inner_texts()
        assert cells[0] == str(run.candidates[k].seed)
        assert cells[2:] == [f"{value:.4g}" for value in scored[k]["scores"].values()]
    open_tab(page, "explore", "ranking")
    bars = page.locator("#sr-ranking .sr-chart-stage[data-ready='yes']").first
    drawn = bars.evaluate("stage => stage.data.filter(t => t.type === 'bar').map(t => t.y._inputArray || t.y)")
    heights = np.sort(np.sum([np.array(list(y.values()) if isinstance(y, dict) else y, float) for y in drawn], axis=0))
    np.testing.assert_allclose(heights, np.sort([row["reward"] for row in scored]), atol=1e-9)


def test_a_trainer_compares_sft_with_dp2o_on_the_same_seeds(
    browser: Browser, address: str, run_root: Path, photos: Path, tmp_path: Path
) -> None:
    hq = tmp_path / "bluebird.png"
    with PillowImage.open(photos / "eval" / "472_bluebird.png") as image:
        image.convert("RGB").crop((128, 64, 384, 320)).save(hq)
    page, before = open_page(browser, address), runs_of(run_root)
    open_tab(page, "audit")
    page.set_input_files("#sr-audit-hq input[type=file]", str(hq))
    page.locator("#sr-audit-b input").click()
    page.get_by_role("option", name="DP2O").click()
    page.get_by_label("number input for Seeds").fill("3")
    page.get_by_label("number input for Seeds").press("Tab")
    expect(page.locator("#sr-audit-run")).to_be_enabled()
    page.locator("#sr-audit-run").click()
    expect(page.locator("#sr-audit-table tbody tr")).to_have_count(3)
    expect(page.locator(".sr-audit-change")).to_be_visible()
    (folder,) = runs_of(run_root) - before
    run = Run.open(folder)
    assert (run.values["adapter"], run.values["compare_adapter"], run.values["reference"]) == ("hpo", "sft", True)
    comparison = compare_adapters(run)
    expect(page.locator(".sr-audit-change")).to_have_text(f"{comparison.mean_change:+.4f}")
    page.get_by_role("button", name=re.compile("DP2O against SFT")).first.click()
    page.locator('.sr-cmp-stage[data-ready="yes"]').wait_for()
    shown = [page.locator(side).input_value() for side in (".sr-cmp-left", ".sr-cmp-right")]
    assert [value.split("-")[0] for value in shown] == ["before", "candidate"]
    assert len({value.split("-")[1] for value in shown}) == 1
    page.context.close()
