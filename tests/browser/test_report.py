"""The report of a run, opened as a file in a real browser."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request

from tests.browser.conftest import PATIENCE_MS
from train.report import write_report
from train.report_figures import SMOOTH_FROM

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><b>&"
NUM_LINES = 50


def values_at(step: int) -> dict[str, float]:
    """Return what a step logs, in no particular relation to each other."""
    wave = float(np.sin(step))
    return {
        "loss": 0.7 - 0.01 * step, "grad_norm": 1.5 + wave, "lr": 1e-4 * step,
        "rewards/chosen": wave, "rewards/rejected": -0.3 * wave, "rewards/margins": 1.3 * wave,
        "rewards/accuracies": 0.5 + 0.5 * wave, "winner_mse_delta": -1e-5 * wave, "kl_proxy": 1e-6 * step,
        f"further{HOSTILE}": wave,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with hostile names, as `prefer` would leave it."""
    folder = tmp_path_factory.mktemp("report") / "run<b>"
    (folder / "samples").mkdir(parents=True)
    lines = [json.dumps({"step": step, **values_at(step)}) for step in range(1, NUM_LINES + 1)]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = {"objective": {"name": "hpo", "beta_paper": HOSTILE}, "optim": {"max_steps": NUM_LINES}}
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    weights = {"pairs": 6, "mean": 1.0, "counts": [1, 3, 2], "edges": [0.8, 0.9, 1.0, 1.1]}
    (folder / "weights.json").write_text(json.dumps(weights), encoding="utf-8")
    grid = np.random.default_rng(0).integers(0, 256, (8, 40, 3), dtype=np.uint8)
    PillowImage.fromarray(grid).save(folder / "samples" / "grid_0000.png")
    write_report(folder)
    return folder


def opened(browser: Browser, run: Path, *, width: int, scheme: str) -> tuple[Page, list[str]]:
    """Return the page and a list that everything wrong is added to: messages, errors and requests for other files."""
    context = browser.new_context(
        viewport={"width": width, "height": 812}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page, wrong = context.new_page(), []
    page.set_default_timeout(PATIENCE_MS)
    address = (run / "report.html").as_uri()

    def on_message(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            wrong.append(message.text)

    def on_error(error: Error) -> None:
        wrong.append(str(error))

    def on_request(request: Request) -> None:
        if request.url != address and not request.url.startswith("data:"):
            wrong.append(request.url)

    page.on("console", on_message)
    page.on("pageerror", on_error)
    page.on("request", on_request)
    page.goto(address)
    page.locator("#weights .bars path").first.wait_for()
    return page, wrong


def drawn(page: Page, key: str) -> list[dict]:
    """Return what Plotly holds for a figure."""
    return page.evaluate(
        "key => document.getElementById(key).data.map(t => ({name: t.name, x: [...t.x], y: [...t.y]}))", key
    )


def test_the_page_draws_the_values_of_the_log_and_asks_for_nothing_else(browser: Browser, run: Path) -> None:
    page, wrong = opened(browser, run, width=1280, scheme="light")
    steps = list(range(1, NUM_LINES + 1))
    assert NUM_LINES >= SMOOTH_FROM
    for key, name in (("loss", "loss"), ("margins", "rewards/margins"), ("kl_proxy", "kl_proxy")):
        logged, mean = drawn(page, key)
        assert (logged["name"], mean["name"]) == (f"{name}, as logged", name)
        assert logged["x"] == steps
        assert logged["y"] == [values_at(step)[name] for step in steps]
    (rate,) = drawn(page, "lr")
    assert rate["y"] == [values_at(step)["lr"] for step in steps]
    assert [trace["name"] for trace in drawn(page, "rewards") if "logged" not in trace["name"]] == [
        "rewards/chosen", "rewards/rejected",
    ]  # fmt: skip
    (weights,) = drawn(page, "weights")
    assert weights["y"] == [1, 3, 2]
    assert page.locator(".samples img").evaluate("image => image.naturalWidth") == 40
    assert page.title() == "hpo on a head"
    assert page.locator("td", has_text=HOSTILE).inner_text() == HOSTILE
    assert wrong == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_follows_its_colours(browser: Browser, run: Path, scheme: str) -> None:
    page, wrong = opened(browser, run, width=375, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    ground, text = page.evaluate(
        "() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]; }"
    )
    first = page.evaluate("document.getElementById('lr').data[0].line.color")

    def brightness(colour: str) -> int:
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    assert (brightness(ground) > brightness(text)) == (scheme == "light")
    assert first == {"light": "#2a6fdb", "dark": "#7fb0ff"}[scheme]
    page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
    page.wait_for_function("old => document.getElementById('lr').data[0].line.color !== old", arg=first, polling=50)
    assert wrong == []
    page.context.close()
