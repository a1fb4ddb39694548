"""Training commands that are killed at random points and resumed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.train.conftest import Values
from train.checkpoints import finished

ROOT = Path(__file__).resolve().parents[2]
ALONE = (sys.executable, "-m", "train")
KILLED_STEPS = 40
"""Steps of a run that `kill_and_resume` kills; enough that none ends before it is killed."""
_DYING = """
import os, pathlib, runpy, signal, sys

name, rename = sys.argv.pop(1), pathlib.Path.replace

def replace(path, target):
    if pathlib.Path(target).name == name:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)

pathlib.Path.replace = replace
runpy.run_module("train", run_name="__main__", alter_sys=True)
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def write_recipe(path: Path, values: Values) -> Path:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def kill_when(reached: Callable[[], bool], delay_s: float, arguments: list[str], errors: Path) -> None:
    """Run a command with its standard error in a file, and kill it some time after it reached a point."""
    with (
        errors.open("w", encoding="utf-8") as stderr,
        subprocess.Popen([*ALONE, *arguments], cwd=ROOT, env=environment(), stderr=stderr) as process,
    ):
        deadline = time.monotonic() + 600
        while not reached():
            assert process.poll() is None, errors.read_text(encoding="utf-8")[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the run must not end before it is killed"


def kill_before_rename(name: str, arguments: list[str]) -> None:
    """Run a command that is killed when a file is written and synced but has not got its `name` yet."""
    done = subprocess.run(
        [sys.executable, "-c", _DYING, name, *arguments],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


def kill_and_resume(command: str, recipe: Path, output: Path, seed: int) -> None:
    """Run `command` of KILLED_STEPS steps, kill it early, in the middle and late, at random points, and let it end."""
    rng, log = random.Random(seed), output / "log.jsonl"

    def lines() -> int:
        return log.read_bytes().count(b"\n") if log.is_file() else 0

    def resume() -> list[str]:
        return ["--resume"] if finished(output / "checkpoints") else []

    for first in (2, 12, 22):
        steps, delay_s = rng.randrange(first, first + 8), rng.uniform(0, 0.05)
        # The log of the run before is there too: only a longer one is this run's.
        least = max(steps, lines() + 1)
        kill_when(
            lambda least=least: lines() >= least,
            delay_s,
            [command, str(recipe), *resume()],
            recipe.with_suffix(".err"),
        )
    subprocess.run([*ALONE, command, str(recipe), *resume()], cwd=ROOT, env=environment(), check=True)
