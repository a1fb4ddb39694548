"""Decode a photo in a child process, so that a hostile file can cost seconds but not the server.

Run as `python -m sr_core.sandbox PHOTO FOLDER` it is the child: arrays and metadata go to FOLDER.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from sr_core.decoding import Decoded, decode
from sr_core.errors import InputError
from sr_core.limits import MAX_INPUT_PIXELS, check_file_size
from sr_core.metadata import Metadata
from sr_core.samples import Array

CPU_S = 10
"""Processor time of the child; the slowest accepted photo takes 2 s of it, on any load."""
TIMEOUT_S = 60
"""Time by the clock, for what waits without computing."""
MEMORY_BYTES = 3 * 2**30
"""Address space of the child; 50 MP of 16-bit RGBA with a colour conversion fill 2 GB."""


class ChildCommand(NamedTuple):
    """How a module of this project is started as a process of its own."""

    arguments: list[str]
    environment: dict[str, str]


def child_command(module: str, *arguments: str, num_threads: int = 1) -> ChildCommand:
    """Return the command that runs `module` in a child with this interpreter and `arguments`."""
    # The package may run from a checkout that is not installed; -P keeps the working folder out.
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # Every thread of a maths library reserves address space, which would count against the limit.
    threads = {"OMP_NUM_THREADS": str(num_threads), "OPENBLAS_NUM_THREADS": str(num_threads)}
    return ChildCommand(
        [sys.executable, "-P", "-m", module, *arguments], {**os.environ, **threads, "PYTHONPATH": paths}
    )


def run_limited(command: ChildCommand, *, timeout_s: float | int, too_slow: str, broken: str) -> bytes:
    """Run a child to its end and return what it printed.

    Raises InputError with `too_slow` after `timeout_s`, and with `broken` if a limit or a crash ended it.
    """
    try:
        done = subprocess.run(
            command.arguments,
            env=command.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(too_slow) from None
    if done.returncode > 0:
        raise RuntimeError(f"{command.arguments[3]} did not start:\n{done.stderr.decode(errors='replace')}")
    if done.returncode < 0:
        raise InputError(broken)
    return done.stdout


def decode_isolated(path: Path) -> Decoded:
    """Decode `path` as `decode` does, within limits of time and memory.

    Raises InputError if the file cannot be read, or if decoding breaks a limit or the decoder.
    """
    with TemporaryDirectory(prefix="sr-decode-") as folder:
        advice = "save it again as PNG or JPEG"
        run_limited(
            child_command("sr_core.sandbox", str(path.absolute()), folder),
            timeout_s=TIMEOUT_S,
            too_slow=f"{path.name} must decode within {TIMEOUT_S} s; {advice}",
            broken=f"{path.name} must be a sound image, but it broke its decoder or its limits; {advice}",
        )
        return _collect(Path(folder))


def _collect(folder: Path) -> Decoded:
    """Read what the child left; arrays are checked, since the file may have taken the child over."""
    report = json.loads((folder / "report.json").read_text())
    if "error" in report:
        raise InputError(report["error"])
    pixels = np.load(folder / "pixels.npy", allow_pickle=False)
    alpha = np.load(folder / "alpha.npy", allow_pickle=False) if (folder / "alpha.npy").exists() else None
    assert pixels.ndim == 3
    assert pixels.shape[-1] == 3
    assert pixels.dtype in (np.uint8, np.uint16)
    assert pixels[..., 0].size <= MAX_INPUT_PIXELS
    assert alpha is None or (alpha.shape == pixels.shape[:2] and alpha.dtype in (np.uint8, np.uint16))
    dpi = report["dpi"]
    metadata = Metadata(
        exif=_bytes(folder / "exif"),
        icc=_bytes(folder / "icc"),
        dpi=None if dpi is None else (dpi[0], dpi[1]),
    )
    return Decoded(pixels, alpha, metadata, tuple(report["notices"]))


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def limit_resources(*, cpu_s: int = CPU_S, memory_bytes: int = MEMORY_BYTES) -> None:
    """Let this process, a child, use no more; for good."""
    try:
        import resource
    except ImportError:  # Windows has no such limits; the one by the clock still holds
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))


def _deposit(decoded: Decoded, folder: Path) -> None:
    _save(decoded.pixels, folder / "pixels.npy")
    if decoded.alpha is not None:
        _save(decoded.alpha, folder / "alpha.npy")
    for name, content in (("exif", decoded.metadata.exif), ("icc", decoded.metadata.icc)):
        if content is not None:
            (folder / name).write_bytes(content)
    report = {"dpi": decoded.metadata.dpi, "notices": decoded.notices}
    (folder / "report.json").write_text(json.dumps(report))


def _save(array: Array, path: Path) -> None:
    # Turned photos are views; np.save would store them column by column.
    np.save(path, np.ascontiguousarray(array), allow_pickle=False)


def main() -> None:
    """Decode argv[1] into the folder argv[2]; a refusal is an answer, not a failure."""
    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    limit_resources()
    try:
        try:
            check_file_size(path.stat().st_size, path.name)
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path.name} must be a readable file: {error.strerror}") from error
        _deposit(decode(data, path.name), folder)
    except InputError as error:
        (folder / "report.json").write_text(json.dumps({"error": str(error)}))


if __name__ == "__main__":
    main()
