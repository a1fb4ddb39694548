"""What the papers' backbones cost on a GPU: random weights, one table, rows that were not run left blank."""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_core.backbones.latent import LatentBackbone
from sr_core.errors import ConfigError
from sr_core.files import replace_text
from train.flops import count_flops, utilisation
from train.latent_trainee import LatentModel, make_policy
from train.optimizers import make_optimizer
from train.preference_config import PreferRecipe
from train.random_models import random_backbone, random_condition
from train.steps import PairBatch, StepOutput, denoising_step, preference_step

BACKBONES = ("c-sd2", "c-flux", "flux-lora")
TRAINING_SIDE = 512
"""Side of the enlarged photo in training, px."""
OBJECTIVES = ("sft", "hpo", "sobolev_dpo")
TINY_SIDE = {512: 64, 1024: 128}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; None where it was not run, or cannot be known on this device."""

    backbone: str
    side: int
    """Of the enlarged photo, px."""
    what: str
    """`draw N=...`, or the objective of a training step."""
    seconds: float | None = None
    """Of all candidates of an image, or of a training step on one pair."""
    per_candidate: float | None = None
    peak_gb: float | None = None
    flops: int | None = None
    mfu: float | None = None
    """Of drawing: the share of the device's peak (model FLOPs utilisation)."""
    hfu: float | None = None
    """Of a training step: the same share, recomputed arithmetic counted (hardware FLOPs utilisation)."""
    note: str = ""

    @property
    def name(self) -> str:
        """Return what `only` selects by."""
        return f"{self.backbone} {self.side} {self.what}"


def planned_rows() -> list[Row]:
    """Return the whole table, blank."""
    rows = []
    for backbone in BACKBONES:
        for side in (512, 1024):
            counts = (1, 4, 8) if side == 1024 and backbone != "c-sd2" else (1, 8)
            rows += [Row(backbone=backbone, side=side, what=f"draw N={count}") for count in counts]
        rows += [Row(backbone=backbone, side=TRAINING_SIDE, what=name) for name in OBJECTIVES]
    return rows


class _Device:
    """Times and memory of one device."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)
        self.is_cuda = self.device.type == "cuda"
        if self.is_cuda and not torch.cuda.is_available():
            raise ConfigError("bench-gpu needs a CUDA device; --tiny --device cpu runs the same code at tiny size")

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the wall time of a call, until the device has finished."""
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def forget(self) -> None:
        """Start counting the peak anew."""
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gb(self) -> float | None:
        """Return the peak of allocated memory, in GB of 10^9 bytes."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.is_cuda else None


def draw_images(backbone: LatentBackbone, side: int, count: int) -> Tensor:
    """Encode a photo, draw `count` seeds and decode them as the restorer does: a pass that is not full is filled up."""
    condition = random_condition(backbone, side, count=1, generator=torch.Generator().manual_seed(0))
    condition = condition._replace(latent=backbone.encode_image(condition.lq))
    size = backbone.candidates_per_pass
    images = []
    for first in range(0, count, size):
        seeds = list(range(first, min(count, first + size)))
        seeds += [seeds[-1]] * (size - len(seeds))
        images.append(backbone.decode(backbone.draw(condition, seeds, lambda: None), condition).cpu())
    return torch.cat(images)[:count]


def bench_recipe(name: str, objective: str) -> PreferRecipe:
    """Return a recipe of one pair a step: a branch of all weights, or ASASR's LoRA, with gradient checkpointing."""
    from train.config import parse_recipe

    lora = {"rank": 16, "alpha": 16} if name == "flux-lora" else {"train": "full"}
    values = {
        "seed": 0, "output": "-", "dataset": "-", "cache": "-", "backbone": {"name": name}, "lora": lora,
        "objective": {"name": objective, "beta": 2000.0}, "gradient_checkpointing": True,
        "optim": {"learning_rate": 1e-6, "batch_size": 1, "max_steps": 1, "decay_steps": 0},
    }  # fmt: skip
    return parse_recipe(PreferRecipe, values, "bench")


def training_steps(backbone: LatentBackbone, side: int) -> dict[str, Callable[[], None]]:
    """Return whole steps on two images: supervised, HPO and Sobolev-DPO, over the same weights and optimiser."""
    recipe = bench_recipe(backbone.name, "hpo")
    model = LatentModel(backbone, make_policy(backbone, recipe, backbone.dtype), backbone.dtype)
    parameters = list(model.policy.trained().parameters())
    optimizer = make_optimizer(parameters, recipe.optim)
    generator = torch.Generator().manual_seed(0)
    condition = random_condition(backbone, side, count=1, generator=generator)
    latents = torch.randn((2, *condition.latent.shape[1:]), generator=generator).to(backbone.device)
    noise = torch.randn((1, *latents.shape[1:]), generator=generator).to(backbone.device)
    level, weight = torch.full((1,), 0.6, device=backbone.device), torch.ones(1, device=backbone.device)
    pairs = PairBatch(condition=condition, winner=latents[:1], loser=latents[1:], weight=weight)

    def output_of(name: str) -> StepOutput:
        if name == "sft":
            return denoising_step(model, condition, latents, level.repeat(2), noise.repeat(2, 1, 1, 1))
        return preference_step(model, pairs, bench_recipe(backbone.name, name).objective, level, noise)

    def step(name: str) -> None:
        torch.autograd.backward(output_of(name).loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {name: partial(step, name) for name in OBJECTIVES}


def _measured(row: Row, device: _Device, times: Sequence[float], flops: int) -> Row:
    seconds = statistics.median(times)
    count = int(row.what.rpartition("=")[2]) if row.what.startswith("draw") else None
    share = utilisation(flops, seconds) if device.is_cuda else None
    return Row(
        backbone=row.backbone, side=row.side, what=row.what, seconds=seconds,
        per_candidate=None if count is None else seconds / count, peak_gb=device.peak_gb(), flops=flops,
        mfu=None if count is None else share, hfu=share if count is None else None, note=row.note,
    )  # fmt: skip


def _failed(row: Row, why: str) -> Row:
    return Row(backbone=row.backbone, side=row.side, what=row.what, note=why)


def run_rows(rows: Sequence[Row], *, tiny: bool, device_name: str, runs: int) -> Iterator[Row]:
    """Yield the rows with their figures, backbone by backbone; what does not fit the memory says so.

    Training steps of a backbone take turns, so that a slow moment meets all of them.
    """
    device = _Device(device_name)
    dtype = torch.bfloat16 if device.is_cuda else torch.float32
    for name in BACKBONES:
        own = [row for row in rows if row.backbone == name]
        if not own:
            continue
        backbone = random_backbone(name, tiny=tiny, dtype=dtype, device=device.device)
        if tiny:
            backbone.drawing = replace(backbone.drawing, num_steps=2)
        for row in (row for row in own if row.what.startswith("draw")):
            side, count = TINY_SIDE[row.side] if tiny else row.side, int(row.what.rpartition("=")[2])
            call = partial(draw_images, backbone, side, count)
            try:
                flops = count_flops(call)
                device.forget()
                yield _measured(row, device, [device.seconds(call) for _ in range(runs)], flops)
            except torch.OutOfMemoryError:
                device.forget()
                yield _failed(row, "out of memory")
        training = [row for row in own if not row.what.startswith("draw")]
        if training:
            side = TINY_SIDE[TRAINING_SIDE] if tiny else TRAINING_SIDE
            yield from _training_rows(training, backbone, side, device, runs)
        del backbone
        device.forget()


def _training_rows(
    rows: Sequence[Row], backbone: LatentBackbone, side: int, device: _Device, runs: int
) -> Iterator[Row]:
    times: dict[str, list[float]] = {row.what: [] for row in rows}
    peaks: dict[str, float | None] = {}
    try:
        steps = training_steps(backbone, side)
        flops = {row.what: count_flops(steps[row.what]) for row in rows}
        for _ in range(runs):
            for row in rows:
                device.forget()
                times[row.what].append(device.seconds(steps[row.what]))
                peaks[row.what] = device.peak_gb()
    except torch.OutOfMemoryError:
        device.forget()
        yield from (_failed(row, "out of memory") for row in rows)
        return
    for row in rows:
        measured = _measured(row, device, times[row.what], flops[row.what])
        yield Row(**{**asdict(measured), "peak_gb": peaks[row.what]})


def table(rows: Sequence[Row]) -> str:
    """Return the table in Markdown; blank where nothing was measured."""

    def cell(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    lines = [
        "| backbone | px | what | s per image or step | s per candidate | peak GB | TFLOP | MFU | HFU | note |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        tera = None if row.flops is None else row.flops / 1e12
        cells = (
            row.backbone, str(row.side), row.what, cell(row.seconds, ".3f"), cell(row.per_candidate, ".3f"),
            cell(row.peak_gb, ".1f"), cell(tera, ".4g"), cell(row.mfu, ".1%"), cell(row.hfu, ".1%"),
            row.note,
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios(rows: Sequence[Row]) -> list[str]:
    """Return what preference steps cost in units of others, for the backbones whose steps were timed."""
    seconds = {row.name: row.seconds for row in rows if row.seconds is not None}
    lines = []
    for name in BACKBONES:
        for one, other in (("hpo", "sft"), ("sobolev_dpo", "hpo")):
            pair = [seconds.get(f"{name} {TRAINING_SIDE} {what}") for what in (one, other)]
            if pair[0] is not None and pair[1] is not None:
                lines.append(f"{name}: {one} step / {other} step = {pair[0] / pair[1]:.3f}")
    return lines


def bench_gpu(*, tiny: bool, device: str, only: str = "", runs: int = 3, json_file: Path | None = None) -> str:
    """Measure the rows whose names hold one of the parts of `only` (between semicolons; empty means all).

    Returns the whole table, blank where a row was not run, with the ratios of training steps below it.
    Raises ConfigError if the device is not there or full size is asked of a CPU.
    """
    if not tiny and not device.startswith("cuda"):
        raise ConfigError(f"full size needs a CUDA device, got {device}; --tiny runs the same code at tiny size")
    rows = planned_rows()
    parts = [part for part in only.split(";") if part]
    chosen = [row for row in rows if not parts or any(part in row.name for part in parts)]
    measured: dict[str, Row] = {}
    for row in run_rows(chosen, tiny=tiny, device_name=device, runs=runs):
        measured[row.name] = row
    filled = [measured.get(row.name, row) for row in rows]
    if json_file is not None:
        replace_text(json_file, json.dumps([asdict(row) for row in filled], indent=1) + "\n")
    machine: Any = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    size = "tiny" if tiny else "full-size"
    head = f"{size} random weights on {machine}, torch {torch.__version__}, medians of {runs} runs after one warm-up"
    return "\n".join([head, "", table(filled), "", *ratios(filled)]).rstrip()
