import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sr_core.backbones import BACKBONES
from sr_core.backbones.backbone import LoadOptions
from sr_core.backbones.costs import COSTS
from sr_core.estimate import BASE_BYTES, CANVAS_BYTES_PER_PIXEL, Estimate, estimate, free_memory, needed_memory
from sr_core.job import Job
from sr_core.tiling import TILE, plan_tiles

PLENTY = 2**60
sides = st.integers(32, 1500)


def test_an_estimate_says_size_tiles_time_and_memory() -> None:
    found = estimate(128, 100, Job(), memory=PLENTY)
    assert (found.width, found.height, found.num_tiles, found.problem) == (512, 400, 1, None)
    assert re.fullmatch(r"512 x 400 px, about \d+ s, \d\.\d GB of memory, 1 tile", found.text)


@settings(deadline=None)
@given(sides, sides)
def test_tiles_are_counted_as_they_are_planned(width: int, height: int) -> None:
    assert estimate(width, height, Job(), memory=PLENTY).num_tiles == len(plan_tiles(height, width))


def test_more_of_anything_costs_more_time() -> None:
    base = estimate(200, 200, Job(), memory=PLENTY).seconds
    assert estimate(400, 200, Job(), memory=PLENTY).seconds > base
    assert estimate(200, 200, Job(num_candidates=9), memory=PLENTY).seconds > base
    assert estimate(200, 200, Job(num_steps=5), memory=PLENTY).seconds > base
    assert estimate(200, 200, Job(adapter="hpo", compare_adapter="sft"), memory=PLENTY).seconds > base
    heun, euler = (estimate(200, 200, Job(sampler=name), memory=PLENTY).seconds for name in ("heun", "euler"))
    assert heun > euler


@settings(deadline=None)
@given(sides, sides, st.floats(1, 8))
def test_memory_is_the_tiles_working_set_plus_24_bytes_a_pixel(width: int, height: int, scale: float) -> None:
    found = estimate(width, height, Job(scale=scale), memory=PLENTY)
    working_set = needed_memory(TILE, TILE, (1, 1))
    assert CANVAS_BYTES_PER_PIXEL == 24
    assert found.memory_bytes <= working_set + 24 * max(16 * width * height, found.width * found.height)


@pytest.mark.parametrize(("width", "height", "job"), [(16_000, 100, Job()), (100, 100, Job(size=(90, 100)))])
def test_an_impossible_output_is_a_problem_and_no_crash(width: int, height: int, job: Job) -> None:
    found = estimate(width, height, job, memory=PLENTY)
    assert found.problem
    assert (found.width, found.height, found.text) == (0, 0, found.problem)


@settings(deadline=None, max_examples=50)
@given(st.integers(100, 3000), st.integers(100, 3000), st.floats(0.1, 0.99))
def test_the_nearest_photo_that_fits_really_fits(width: int, height: int, share: float) -> None:
    needed = needed_memory(width, height, (4 * width, 4 * height))
    memory = BASE_BYTES + int((needed - BASE_BYTES) * share)
    found = estimate(width, height, Job(), memory=memory)
    assert found.problem
    match = re.search(r"a photo of (\d+) x (\d+) px fits", found.problem)
    assume(match is not None)
    assert match is not None
    smaller = int(match[1]), int(match[2])
    assert estimate(*smaller, Job(), memory=memory).problem is None
    assert smaller[0] / smaller[1] == pytest.approx(width / height, rel=0.1)


def test_where_nothing_fits_the_estimate_says_so() -> None:
    found = estimate(500, 500, Job(), memory=BASE_BYTES // 2)
    assert found.problem is not None
    assert "no photo of this shape fits" in found.problem


LARGE = [name for name, spec in BACKBONES.items() if spec.parts]


@pytest.mark.parametrize("name", LARGE)
def test_a_large_backbone_costs_more_the_more_is_asked_of_it(name: str) -> None:
    def cost(width: int = 300, **settings: Any) -> Estimate:
        return estimate(width, 300, Job(backbone=name, **settings), memory=PLENTY)

    base = cost()
    assert base.problem is None
    assert cost(num_steps=2).seconds < base.seconds < cost(num_candidates=16).seconds
    assert cost(width=900).seconds > base.seconds
    assert cost(width=900).num_tiles > base.num_tiles
    assert cost(tile=64).memory_bytes <= base.memory_bytes
    small = cost(weights=LoadOptions(quantize="4bit")).memory_bytes
    assert cost(weights=LoadOptions(offload="sequential")).memory_bytes < small < base.memory_bytes


@pytest.mark.parametrize("name", LARGE)
def test_a_large_backbone_compared_with_another_adapter_is_loaded_twice(name: str) -> None:
    alone = Job(backbone=name, dtype="float32")
    both = Job(backbone=name, dtype="float32", compare_adapter="hpo")
    needed = [estimate(300, 300, job, memory=PLENTY).memory_bytes for job in (alone, both)]
    assert needed[1] - needed[0] == pytest.approx(COSTS[name].weight_bytes(LoadOptions(), 4), abs=1)


@pytest.mark.parametrize("name", LARGE)
def test_a_large_backbone_that_does_not_fit_names_what_does(name: str) -> None:
    job = Job(backbone=name)
    least = estimate(32, 32, job, memory=PLENTY).memory_bytes
    found = estimate(3000, 2000, job, memory=least + 2**29)
    assert found.problem is not None
    match = re.search(r"a photo of (\d+) x (\d+) px fits", found.problem)
    if match is not None:
        assert estimate(int(match[1]), int(match[2]), job, memory=least + 2**29).problem is None
    nothing = estimate(100, 100, job, memory=2**28)
    assert nothing.problem is not None
    assert "offload, quantize or a smaller tile" in nothing.problem


def machine(root: Path, *, available: int, limit: str | None = None, used: int = 0, cache: int = 0) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal:  999 kB\nMemAvailable:  {available // 1024} kB\n", encoding="ascii")
    if limit is not None:
        group = root / "sys/fs/cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n", encoding="ascii")
        (group / "memory.current").write_text(f"{used}\n", encoding="ascii")
        (group / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n", encoding="ascii")
    return root


GB = 2**30


@pytest.mark.parametrize(
    ("limit", "used", "cache", "free"),
    [
        (None, 0, 0, 8 * GB),
        ("max", 3 * GB, 0, 8 * GB),
        (str(4 * GB), GB, 0, 3 * GB),
        (str(4 * GB), 3 * GB, 2 * GB, 3 * GB),
        (str(64 * GB), GB, 0, 8 * GB),
        (str(4 * GB), 5 * GB, 0, 0),
    ],
)
def test_free_memory_is_what_machine_and_container_leave(
    tmp_path: Path, limit: str | None, used: int, cache: int, free: int
) -> None:
    assert free_memory(machine(tmp_path, available=8 * GB, limit=limit, used=used, cache=cache)) == free


def test_a_system_that_does_not_tell_refuses_nothing(tmp_path: Path) -> None:
    assert estimate(3000, 3000, Job(), memory=free_memory(tmp_path)).problem is None


def test_this_machine_has_memory() -> None:
    assert free_memory() > 2**20


def test_float32_takes_as_much_longer_as_one_pass_of_the_prior_does() -> None:
    half, single = (estimate(512, 512, Job(dtype=name, num_candidates=1)) for name in ("bfloat16", "float32"))
    assert 2 < single.seconds / half.seconds < 1 / 0.35
