"""Size, memory and time of a job before it runs, and the nearest setting that fits."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from sr_core.backbones.costs import (
    COSTS,
    CPU_FLOPS,
    CUDA_CANDIDATES,
    CUDA_FLOPS,
    VAE_FLOPS_PER_PIXEL,
    VAE_TILE_BYTES,
    Cost,
)
from sr_core.errors import SRError
from sr_core.job import Job
from sr_core.limits import MIN_SIDE
from sr_core.precision import resolve_dtype
from sr_core.tiling import plan_tiles

PRIOR_S_PER_PIXEL = 5.5e-5
"""Seconds per LQ pixel of one prior pass in bfloat16 on two recent server cores."""
HEAD_S_PER_PIXEL = 1.5e-6
"""The same for one evaluation of the flow head."""
FLOAT32_PACE = 1 / 0.35
"""How many times longer the same networks take in float32; of one pass of the prior on the same cores."""
SCORE_S_PER_PIXEL = 1.2e-7
"""Seconds per output pixel for the offline metrics."""
BASE_BYTES = 900 * 2**20
"""Libraries, weights and metrics of a running process."""
TILE_BYTES_PER_PIXEL = 24_000
"""Largest working set of the prior per LQ pixel of one tile."""
CANVAS_BYTES_PER_PIXEL = 24
"""Canvas, finished pixels and file per pixel at the prior's scale."""

PIXELS_PER_LATENT = 4
"""Pixels of the photo per latent pixel of a large backbone: enlarged by 4 a side, then reduced by 8."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job will cost."""

    width: int
    height: int
    """Output size in px; 0 x 0 where the job is impossible."""
    seconds: float
    """On two recent server cores; real machines differ by a factor of two."""
    memory_bytes: int
    num_tiles: int
    problem: str | None = None
    """Why the job cannot run, with what would."""

    @property
    def text(self) -> str:
        """Say it in one line."""
        if self.problem:
            return self.problem
        minutes = f"about {self.seconds:.0f} s" if self.seconds < 90 else f"about {self.seconds / 60:.0f} min"
        tiles = "1 tile" if self.num_tiles == 1 else f"{self.num_tiles} tiles"
        return f"{self.width} x {self.height} px, {minutes}, {self.memory_bytes / 2**30:.1f} GB of memory, {tiles}"


def free_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this machine, or the container around it, can still give.

    Where the system does not say (it is not Linux), nothing is refused: 2^63 - 1. `root` holds `proc` and `sys`.
    """
    free = sys.maxsize
    info, group = root / "proc/meminfo", root / "sys/fs/cgroup"
    if info.is_file():
        free = 1024 * _named_values(info).get("MemAvailable", free // 1024)
    limit, used, details = (group / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        # Files that were read once and can be dropped count as used.
        droppable = _named_values(details).get("inactive_file", 0) if details.is_file() else 0
        free = min(free, int(limit.read_text()) - int(used.read_text()) + droppable)
    return max(0, free)


def _named_values(path: Path) -> dict[str, int]:
    """Return the lines `name number ...` of a kernel file."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def needed_memory(width: int, height: int, size: tuple[int, int]) -> int:
    """Return the peak bytes of restoring a photo of `width` x `height` to `size`."""
    first = plan_tiles(height, width)[0]
    tile_pixels = (first.rows.stop - first.rows.start) * (first.columns.stop - first.columns.start)
    canvas = max(width * height * 16, size[0] * size[1])
    return BASE_BYTES + tile_pixels * TILE_BYTES_PER_PIXEL + canvas * CANVAS_BYTES_PER_PIXEL


def _needed(width: int, height: int, size: tuple[int, int], job: Job) -> int:
    """Return the peak bytes of a job."""
    cost = COSTS.get(job.backbone)
    if cost is None:
        return needed_memory(width, height, size)
    pixels = window_pixels(*_processed(width, height, cost), job.drawing.tile)
    states = cost.states_per_call * _candidates_per_call(job)
    working = max(pixels * cost.activation_bytes * states, VAE_TILE_BYTES)
    canvas = max(width * height * 16, size[0] * size[1]) * CANVAS_BYTES_PER_PIXEL
    loaded = 1 if job.compare_adapter is None else 2  # each adapter has a base of its own
    return int(loaded * cost.weight_bytes(job.weights, _bytes_per_value(job)) + working + canvas)


def window_pixels(width: int, height: int, tile: int) -> int:
    """Return the latent pixels of the largest window of a photo, for a tile in its pixels."""
    return min(tile, width) * min(tile, height) // PIXELS_PER_LATENT


def _processed(width: int, height: int, cost: Cost) -> tuple[int, int]:
    """Return the size of the photo that a network sees: small ones are enlarged to its own size."""
    growth = max(1.0, cost.least_side / min(width, height))
    return round(width * growth), round(height * growth)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _candidates_per_call(job: Job) -> int:
    return CUDA_CANDIDATES if _device() == "cuda" and job.weights.offload == "none" else 1


def _bytes_per_value(job: Job) -> int:
    return resolve_dtype(job.dtype, _device()).itemsize


def _large_seconds(width: int, height: int, job: Job, cost: Cost) -> tuple[float, int]:
    """Return the seconds of drawing one candidate, and into how many windows the photo is split."""
    drawing = job.drawing
    tile, (width, height) = drawing.tile, _processed(width, height, cost)
    side_x, side_y = (max(1, -(-(side - tile // 4) // (tile - tile // 4))) for side in (width, height))
    steps = drawing.num_steps * (drawing.strength or 1.0) if drawing.sampler == "native" else drawing.num_steps
    calls = (2 * steps - 1 if drawing.sampler == "heun" else steps) * side_x * side_y
    flops = calls * cost.flops(window_pixels(width, height, tile)) + 16 * width * height * VAE_FLOPS_PER_PIXEL
    return flops / (CUDA_FLOPS if _device() == "cuda" else CPU_FLOPS), side_x * side_y


def usable_memory(job: Job) -> int:
    """Return the bytes that a job may take; for a large backbone the GPU's, and what this process holds already."""
    if job.backbone not in COSTS:
        return free_memory()
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]) + int(torch.cuda.memory_reserved())
    return free_memory() + _own_memory()


def _own_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this process has in memory; 0 where the system does not say."""
    file = root / "proc/self/status"
    if not file.is_file():
        return 0
    return 1024 * _named_values(file).get("VmRSS", 0)


def _nearest_that_fits(width: int, height: int, job: Job, memory: int) -> str:
    """Say which photo of the same shape could be restored in `memory` bytes."""
    for percent in range(99, 0, -1):
        smaller = width * percent // 100, height * percent // 100
        if min(smaller) < MIN_SIDE:
            break
        try:
            size = job.request(smaller).size
        except SRError:
            continue
        assert size is not None
        if _needed(*smaller, size, job) <= memory:
            return f"a photo of {smaller[0]} x {smaller[1]} px fits"
    if job.backbone in COSTS:
        return "no photo of this shape fits with these settings; offload, quantize or a smaller tile take less"
    return "no photo of this shape fits with these settings"


def estimate(width: int, height: int, job: Job, *, memory: int | None = None) -> Estimate:
    """Return what `job` costs for a photo of `width` x `height`, or why it cannot run.

    `memory` is what may be used in bytes; None asks the machine.
    """
    try:
        size = job.request((width, height)).size
    except SRError as error:
        return Estimate(width=0, height=0, seconds=0.0, memory_bytes=0, num_tiles=0, problem=str(error))
    assert size is not None
    tiles = plan_tiles(height, width)
    rows, columns = tiles[0].rows, tiles[0].columns
    tile_pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
    pixels = tile_pixels * len(tiles)
    drawn = job.num_candidates * (1 if job.compare_adapter is None else 2)
    seconds = pixels * (PRIOR_S_PER_PIXEL + HEAD_S_PER_PIXEL * job.passes * drawn)
    if resolve_dtype(job.dtype, _device()) == torch.float32:
        seconds *= FLOAT32_PACE
    num_tiles, cost = len(tiles), COSTS.get(job.backbone)
    if cost is not None:
        each, num_tiles = _large_seconds(width, height, job, cost)
        batch = _candidates_per_call(job)
        seconds = each * batch * -(-drawn // batch)
    seconds += SCORE_S_PER_PIXEL * min(size[0] * size[1], 16 * 512**2) * drawn
    needed = _needed(width, height, size, job)
    free = usable_memory(job) if memory is None else memory
    problem = None
    if needed > free:
        problem = (
            f"{size[0]} x {size[1]} px would need {needed / 2**30:.1f} GB of memory and {free / 2**30:.1f} GB is free; "
            f"{_nearest_that_fits(width, height, job, free)}"
        )
    return Estimate(
        width=size[0], height=size[1], seconds=seconds, memory_bytes=needed, num_tiles=num_tiles, problem=problem
    )
