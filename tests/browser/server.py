"""The real page in its own process, for tests and screenshots."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_S = 600
"""Nothing takes that long on an idle machine; a busy one may."""
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


WITH_ADAPTERS = """
import sys
from pathlib import Path
import app
from sr_core import backbones
backbones.ASSETS = Path(sys.argv.pop(1))
app.main()
"""


@contextmanager
def served_page(run_root: Path, *, assets: Path | None = None, runs: Sequence[Path] = ()) -> Iterator[str]:
    """Run `python app.py` and yield the page's address once it answers.

    `assets` has adapters for it to offer; `runs` are run folders that it opens for their links.
    """
    port = free_port()
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "SR_RUN_ROOT": str(run_root)}
    environment.pop("GRADIO_SERVER_NAME", None)
    environment.pop("SR_VOTES_FILE", None)
    log = run_root.with_suffix(".log")
    command = ["app.py"] if assets is None else ["-c", WITH_ADAPTERS, str(assets)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command, *map(str, runs)],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            address = f"http://127.0.0.1:{port}/"
            _wait_for(address, process, log)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=START_S)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=60).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
        else:
            return
    raise AssertionError(f"the page did not start within {START_S} s:\n{log.read_text()}")
