"""How long the page takes to answer: printed, not held, because machines differ (`-s` shows the table)."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from sr_core.runs import Run
from tests.browser.conftest import PATIENCE_MS, new_page, open_page
from tests.browser.server import served_page
from tests.explorer_run import write_run

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)
CARDS = "#sr-grid button[data-index]"
TURNS = 20
WORDS = "watched.textContent"
NUM_HIDDEN = "String(watched.querySelectorAll('[hidden]').length)"
PINS_DRAWN = "watched.dataset.ready === 'yes' ? watched.dataset.pins : before"
"""The stage names its pins once both pictures are decoded, and draws them before anybody else has a turn."""
CHARTS_DRAWN = """(stages => stages.every((stage) => stage.dataset.ready === "yes")
  ? String(Math.min(...stages.map((stage) => drawings.get(stage) || 0)))
  : before)([...watched.querySelectorAll(".sr-chart-stage")])"""
"""How often every chart began or ended to be drawn, while none is at it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("latency") / "run", num_candidates=16, size=1024)


@pytest.fixture(scope="module")
def served(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("latency-page")
    with served_page(root / "runs", runs=[run.folder]) as address:
        yield address


@pytest.fixture
def page(browser: Browser, served: str, run: Run) -> Iterator[Page]:
    page = open_page(browser, f"{served}?run={run.values['id']}")
    expect(page.locator(CARDS)).to_have_count(16)
    page.locator('.sr-stage[data-ready="yes"]').wait_for()
    yield page
    page.context.close()


def answers(page: Page, act: Callable[[int], None], watched: str, sign: str) -> list[float]:
    """Return milliseconds from each act until a sign of `watched` is another, measured inside the browser.

    A sign is an expression of the page's language; it may be `before`, what it was at the act, to wait on.
    """
    page.evaluate(
        """([selector, sign]) => {
          // What was watched before has its say no more.
          if (window.stopWatching) window.stopWatching();
          window.began = 0; window.took = [];
          const listening = new AbortController();
          const watched = document.querySelector(selector);
          const state = new Function("watched", "before", "drawings", "return " + sign);
          let before = "";
          const drawings = new Map();
          const now = (event) => {
            if (!event.isTrusted) return;
            before = state(watched, before, drawings);
            window.began = performance.now();
          };
          for (const kind of ["keydown", "pointerdown"])
            document.addEventListener(kind, now, { capture: true, signal: listening.signal });
          const observer = new MutationObserver((changes) => {
            for (const { attributeName, target } of changes)
              if (attributeName === "data-ready") drawings.set(target, (drawings.get(target) || 0) + 1);
            if (!window.began || state(watched, before, drawings) === before) return;
            window.took.push(performance.now() - window.began);
            window.began = 0;
          });
          window.stopWatching = () => { listening.abort(); observer.disconnect(); };
          observer.observe(watched, {
            attributeFilter: ["hidden", "data-ready", "data-pins"], childList: true, characterData: true, subtree: true,
          });
        }""",
        [watched, sign],
    )
    for turn in range(TURNS):
        act(turn)
        page.wait_for_function("count => window.took.length > count", arg=turn, polling=50)
        page.wait_for_timeout(400)
    return list(page.evaluate("window.took"))[:TURNS]


def say(capsys: pytest.CaptureFixture[str], what: str, took: list[float]) -> None:
    with capsys.disabled():
        sys.stdout.write(
            f"\n{what}: median {np.median(took):.0f} ms, p95 {np.quantile(took, 0.95):.0f} ms of {len(took)}\n"
        )
    assert len(took) == TURNS
    assert min(took) > 0


def test_first_load(browser: Browser, served: str, capsys: pytest.CaptureFixture[str]) -> None:
    took = []
    for _ in range(3):
        page = new_page(browser)
        began = time.perf_counter()
        page.goto(served)
        page.locator("#sr-run").wait_for()
        took.append(1000 * (time.perf_counter() - began))
        page.context.close()
    with capsys.disabled():
        sys.stdout.write(f"\nfirst load, empty cache: median {np.median(took):.0f} ms of {len(took)}\n")
    assert min(took) > 0


def test_ranking_again(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    slider = page.locator("#sr-taste-slider input[type=range]")
    slider.focus()
    took = answers(page, lambda turn: page.keyboard.press("ArrowRight" if turn % 2 else "ArrowLeft"), "#sr-grid", WORDS)
    say(capsys, "rank 16 candidates of 1024 px again", took)


def test_ranking_again_under_explore(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    page.locator("#sr-tab-explore-button").click()
    expect(page.locator("#sr-ranking .sr-chart-stage[data-ready='yes']")).to_have_count(2)
    page.locator("#sr-explore-taste input[type=range]").focus()

    def move(turn: int) -> None:
        page.keyboard.press("ArrowRight" if turn % 2 else "ArrowLeft")

    took = answers(page, move, "#sr-ranking-lead", WORDS)
    say(capsys, "rank again with Explore open, until the words are there", took)
    took = answers(page, move, "#sr-ranking", CHARTS_DRAWN)
    say(capsys, "rank again with Explore open, until both charts are drawn", took)


def test_filtering(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    page.locator("#sr-tab-explore-button").click()
    field = page.locator("#sr-ranking").get_by_label("is at least")
    field.focus()
    took = answers(
        page,
        lambda turn: page.keyboard.press("Backspace" if turn % 2 else "1"),
        "#sr-ranking .sr-sortable",
        NUM_HIDDEN,
    )
    say(capsys, "filter 16 candidates", took)


def test_pinning(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    page.locator("#sr-tab-explore-button").click()
    buttons = page.locator("#sr-ranking .sr-sortable .sr-pin")
    count = buttons.count()
    page.locator(".sr-cmp-stage[data-ready='yes']").wait_for()
    took = answers(page, lambda turn: buttons.nth((3 * turn + 2) % count).click(), ".sr-cmp-stage", PINS_DRAWN)
    say(capsys, "pin another candidate, until both pictures are drawn", took)
