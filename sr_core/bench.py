"""Timings of the main job in units of one float32 pass of the prior, all taken in one run."""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sr_core.assets import ASSETS
from sr_core.backbones.prior import load_prior, ncnn_pair
from sr_core.images import read_image, write_image
from sr_core.job import Job
from sr_core.pipeline import scorer_for, upscale
from sr_core.resampling import resize_clamped
from sr_core.tensors import Image

SIDE = 128
LARGE_SIDE = 1024
Figures = dict[str, Any]


def median_seconds(action: Callable[[], object], runs: int) -> float:
    """Return the median wall time of `runs` calls after one warm-up."""
    action()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def bench_photo(side: int) -> Image:
    """Return a square photograph of `side` px made from an example."""
    path = sorted(p for p in (ASSETS / "examples").iterdir() if p.suffix in {".jpg", ".png"})[0]
    pixels = read_image(path).pixels
    edge = min(pixels.shape[-2:])
    return resize_clamped(pixels[..., :edge, :edge], side, side)


def ncnn_seconds(photo: Image, runs: int) -> float | None:
    """Return the time of the prior in the `ncnn` package on the CPU; None where it is not installed."""
    if find_spec("ncnn") is None:
        return None
    import ncnn

    graph, weights = ncnn_pair()
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = torch.get_num_threads()
    net.load_param(str(graph))
    net.load_model(str(weights))
    array = np.ascontiguousarray(photo[0].numpy())

    def run() -> None:
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(array).clone())
        extractor.extract("output")

    return median_seconds(run, runs)


def _timed_job(photo: Path, reference: Path | None, folder: Path) -> tuple[float, float, float]:
    """Return seconds until the first candidate, until scoring starts, and in all."""
    start = time.perf_counter()
    first = scoring = 0.0
    for progress in upscale(photo, folder, Job(), reference=reference):
        now = time.perf_counter() - start
        first = first or now
        if progress.stage == "scoring":
            scoring = now
    return first, scoring, time.perf_counter() - start


def job_seconds(photo: Path, reference: Path | None, runs: int) -> tuple[float, float, float]:
    """Return medians of (first candidate, all ranked, share of scoring) of the default job."""
    with tempfile.TemporaryDirectory(prefix="sr-bench-") as folder:
        timed = [_timed_job(photo, reference, Path(folder) / str(k)) for k in range(runs + 1)][1:]
    firsts, totals = (statistics.median(t[k] for t in timed) for k in (0, 2))
    return firsts, totals, statistics.median((t[2] - t[1]) / t[2] for t in timed)


PEAK_OF_CHILD = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_memory_gb(photo: Path) -> float:
    """Return the peak resident memory of `sr upscale` with one candidate, in GB, as the system counts it."""
    with tempfile.TemporaryDirectory(prefix="sr-bench-") as folder:
        sr = [sys.executable, "-c", "from sr_core.cli import main; main()"]
        command = [*sr, "upscale", str(photo), "--out", folder, "--num-candidates", "1"]
        measure = [sys.executable, "-c", PEAK_OF_CHILD, *command]
        done = subprocess.run(measure, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) * 1024 / 1e9


def bench(*, runs: int, large: bool) -> Figures:
    """Measure everything in one process on one photo of 128 px, and memory on one of 1024 px."""
    photo = bench_photo(SIDE)
    prior = load_prior()
    with torch.inference_mode():
        prior_s = median_seconds(lambda: prior(photo.contiguous(memory_format=torch.channels_last)), runs)
    ncnn_s = ncnn_seconds(photo, runs)
    with tempfile.TemporaryDirectory(prefix="sr-bench-") as folder:
        path, reference, big = (Path(folder) / f"{name}.png" for name in ("photo", "reference", "large"))
        write_image(path, photo, format="png")
        write_image(reference, bench_photo(4 * SIDE), format="png")
        first, total, share = job_seconds(path, None, runs)
        _, with_reference, _ = job_seconds(path, reference, runs)
        peak = None
        if large:
            write_image(big, bench_photo(LARGE_SIDE), format="png")
            peak = peak_memory_gb(big)
    return {
        "prior_s": prior_s,
        "ncnn_s": ncnn_s,
        "ranked8_over_prior": total / prior_s,
        "ranked8_reference_over_prior": with_reference / prior_s,
        "first_candidate_over_prior": first / prior_s,
        "scoring_share": share,
        "peak_rss_gb": peak,
        "left_out": [missing.name for missing in scorer_for(Job().metric_set).missing],
        "runs": runs,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }


def describe(figures: Figures) -> str:
    """Return the figures as lines for people, medians with their targets."""
    rows = [
        ("prior, float32, 128 -> 512 px", "prior_s", "s", ""),
        ("the same in ncnn", "ncnn_s", "s", ""),
        ("8 ranked candidates / prior", "ranked8_over_prior", "", "target <= 2.0"),
        ("8 ranked with a reference / prior", "ranked8_reference_over_prior", "", ""),
        ("first candidate / prior", "first_candidate_over_prior", "", "target <= 1.2"),
        ("scoring's share of the job", "scoring_share", "", "target <= 0.5"),
        ("peak memory, 1024 -> 4096 px", "peak_rss_gb", "GB", "target <= 3"),
    ]
    lines = [f"medians of {figures['runs']} runs on {figures['threads']} threads, torch {figures['torch']}"]
    for label, key, unit, target in rows:
        value = "not measured" if figures[key] is None else f"{figures[key]:.3f} {unit}".rstrip()
        lines.append(f"{label:36s} {value:12s} {target}".rstrip())
    return "\n".join(lines)
