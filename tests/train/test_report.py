import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train.processes
from sr_core.errors import ConfigError
from train.config import parse_recipe
from train.judge_tables import REPORTED, compare
from train.prefer import train_prefer
from train.preference_config import PreferRecipe
from train.processes import Processes
from train.report import write_report
from train.report_figures import read_log, rounds_charts, running_mean

STEPS = 4


@pytest.fixture(scope="module")
def run(curated: Path, tiny_head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run that TensorBoard followed; it must not be changed."""
    folder = tmp_path_factory.mktemp("run")
    recipe = {
        "seed": 3,
        "output": str(folder / "run"),
        "dataset": str(curated),
        "cache": str(folder / "cache"),
        "backbone": {"head": str(tiny_head)},
        "draw": {"num_steps": 1},
        "lora": {"rank": 2, "alpha": 2},
        "pairs": {"top": 2},
        "objective": {"name": "hpo", "beta": 20},
        "optim": {"learning_rate": 1e-3, "batch_size": 2, "max_steps": STEPS, "warmup_steps": 1, "decay_steps": 1},
        "window_px": 8,
        "log_every": 1,
        "checkpoint_every": 4,
        "sample_every": STEPS,
        "trackers": ["tensorboard"],
        "dtype": "float32",
    }
    torch.set_num_threads(1)
    train_prefer(parse_recipe(PreferRecipe, recipe, "test"))
    return folder / "run"


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


class Reader(HTMLParser):
    """Collects a page's text outside scripts and styles, and its elements."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._inside = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style") and data.strip():
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return "\n".join(self.words)


def log_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_training_ends_with_a_report_that_says_what_is_missing(run: Path) -> None:
    page = Reader(run / "report.html")
    assert "Not judged yet: run python -m train evaluate RECIPE" in page.text
    assert "not finished" not in page.text
    assert "hpo on compact" in page.words
    last = log_of(run)[-1]
    assert f"{last['loss']:.4g}" in page.words
    for setting, value in (("optim.max_steps", str(STEPS)), ("objective.beta", "20.0"), ("device", "cpu")):
        assert page.words[page.words.index(setting) + 1] == value
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == 1
    with PillowImage.open(run / "report.png") as picture:
        picture.load()
        assert picture.format == "PNG"


def test_a_page_refers_to_nothing_outside_itself(run: Path) -> None:
    page = Reader(run / "report.html")
    for tag, attributes in page.elements:
        for name in ("src", "href", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag


def test_an_unfinished_run_and_absent_files_are_said(copied: Path) -> None:
    lines = (copied / "log.jsonl").read_text(encoding="utf-8").splitlines()
    (copied / "log.jsonl").write_text("\n".join(lines[:2]) + '\n{"step": 3, "lo', encoding="utf-8")
    (copied / "weights.json").unlink()
    shutil.rmtree(copied / "samples")
    page = Reader(write_report(copied))
    assert f"2 of {STEPS} steps" in page.text
    assert "No weights.json" in page.text
    assert "sample_every" in page.text


def judged(better_by: float) -> dict:
    """Return what judging writes about two models of which one is better by `better_by` in every metric."""
    generator = np.random.default_rng(0)

    def values(shift: float) -> dict[str, list[float]]:
        return {name: (generator.normal(10, 1, 4) + shift).tolist() for name in (*REPORTED, "diversity")}

    models = {
        name: {"bicubic": {f"photo{i}": values(shift) for i in range(3)}}
        for name, shift in (("hpo", better_by), ("sft", 0.0))
    }
    return compare(models, "hpo", "sft")


def test_what_judging_wrote_is_shown(copied: Path) -> None:
    content = judged(2.0)
    (copied / "judged.json").write_text(json.dumps(content), encoding="utf-8")
    page = Reader(write_report(copied))
    assert "Not judged yet" not in page.text
    place = page.words.index("psnr")
    row, gain = content["metrics"]["psnr"], content["metrics"]["psnr"]["gain"]
    assert page.words[place + 1 : place + 6] == [
        f"{row['theirs']:.4f}", f"{row['ours']:.4f}", f"{gain['mean']:+.4f}",
        f"{gain['low']:+.4f} to {gain['high']:+.4f}", "hold-out",
    ]  # fmt: skip
    spread = content["reward"]["std"]
    place = page.words.index("reward, std, lower is better")
    assert float(page.words[place + 3]) == pytest.approx(spread["theirs"] - spread["ours"], abs=1e-4)
    figures = json.loads(_script(copied / "report.html"))
    best = figures["judged_curves"]["data"][0]
    assert (best["name"], best["x"]) == ("best, hpo", [1, 2, 4])
    assert best["y"] == list(content["curves"]["hpo"]["best"].values())


def _script(page: Path) -> str:
    start = '<script type="application/json" id="figures">'
    return page.read_text(encoding="utf-8").split(start, 1)[1].split("</script>", 1)[0]


def test_rounds_are_reported_with_the_reason_for_stopping(tmp_path: Path) -> None:
    figure = {"sft": [1.0, 3.0], "adapter": [1.5, 3.5], "lower_is_better": True, "sft_mean": 2.0, "adapter_mean": 2.5}
    entry = {
        "round": 1, "accepted": False, "stop": True, "reason": "gamed & <left>", "reward_change": 0.5,
        "hold_out_change": -0.5, "hold_out_changes": {"lsd": -0.5}, "photos": ["a", "b"],
        "reward": {**figure, "lower_is_better": False}, "hold_outs": {"lsd": figure},
    }  # fmt: skip
    content = {
        "accepted_round": 0, "stopped": "stopped after round 1: gamed & <left>", "tolerance": 0.0, "recipe": {},
        "rounds": [entry],
    }  # fmt: skip
    (tmp_path / "rounds.json").write_text(json.dumps(content), encoding="utf-8")
    page = Reader(write_report(tmp_path))
    assert "stopped after round 1: gamed & <left>" in page.words
    assert "none (SFT)" in page.words
    reward, hold_outs = rounds_charts([entry])
    assert reward.traces[0].y == [0.0, 0.5]
    assert hold_outs.traces[0].y == [0.0, -0.5]  # half of the spread, and lower is better


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="output folder of a training run or of rounds"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_log_gives_its_finite_figures_and_skips_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "a": 2, "b": NaN}\n{"step": 2, "a": 3.5, "b": 1}\n{"step": 3, "a"', encoding="utf-8")
    curves = read_log(path)
    assert curves["a"] == ([1, 2], [2.0, 3.5])
    assert curves["b"] == ([2], [1.0])


@given(st.integers(1, 30), st.integers(0, 40), st.floats(-5, 5), st.floats(-5, 5))
def test_a_running_mean_keeps_a_straight_line(count: int, radius: int, slope: float, height: float) -> None:
    line = [slope * i + height for i in range(count)]
    assert running_mean(line, radius) == pytest.approx(line, abs=1e-9)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.integers(0, 10))
def test_a_running_mean_stays_within_its_neighbours(values: list[float], radius: int) -> None:
    for i, mean in enumerate(running_mean(values, radius)):
        near = values[max(0, i - radius) : i + radius + 1]
        assert min(near) - 1e-9 <= mean <= max(near) + 1e-9


def test_tensorboard_receives_every_figure_of_the_log(run: Path) -> None:
    (events,) = {path.parent for path in run.rglob("events.out.tfevents.*") if path.parent.name == run.name}
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    lines = log_of(run)
    names = lines[0].keys() - {"step"}
    assert {"loss", "rewards/margins", "winner_mse_delta"} <= names <= set(accumulator.Tags()["scalars"])
    for name in names:
        found = [(event.step, event.value) for event in accumulator.Scalars(name)]
        assert [step for step, _ in found] == [line["step"] for line in lines]
        for (_, value), line in zip(found, lines, strict=True):
            assert math.isclose(value, line[name], rel_tol=1e-6, abs_tol=1e-12)  # events hold float32


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_tracker_without_its_package_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.processes, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=f"pip install {name}"):
        Processes([name], tmp_path)


TRACKED = """
import sys
from pathlib import Path
from train.processes import Processes

def no_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise OSError("the network was asked for")

sys.addaudithook(no_network)
processes = Processes(["trackio"], Path(sys.argv[1]))
processes.track("run", {"seed": 3, "section": {"left": "out"}})
for step in (1, 2):
    processes.log({"loss": 1 / step, "rewards/margins": 0.5}, step)
processes.close()
"""


def test_trackio_keeps_every_figure_in_its_own_folder_without_a_network(tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("TRACKIO_")}
    done = subprocess.run(
        [sys.executable, "-c", TRACKED, str(tmp_path / "run")],
        env={**own, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the network was asked for" not in done.stdout + done.stderr
    with closing(sqlite3.connect(tmp_path / "trackio" / "run.db")) as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
    expected = {1: {"loss": 1.0, "rewards/margins": 0.5}, 2: {"loss": 0.5, "rewards/margins": 0.5}}
    assert {step: json.loads(metrics) for step, metrics in rows} == expected


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tensorboard, trackio"):
        Processes(["wandb"], tmp_path)
