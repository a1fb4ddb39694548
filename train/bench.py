"""What preference training costs in units of supervised training, all taken in one run."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sr_core.backbones.compact import load_head
from sr_core.backbones.flow_head import FlowHead, HeadInput, unshuffle_planes
from sr_core.backbones.prior import TRUNK_CHANNELS
from sr_core.precision import resolve_dtype
from train.compact_trainee import CompactModel
from train.data import Batch
from train.policy import FullPolicy, HeadPolicy
from train.preference_config import ObjectiveConfig
from train.steps import PairBatch, StepOutput, preference_step, sft_step

SIDE = 64
"""LQ side of the crops that the shipped adapters are trained on."""
PAIRS = 4
RANK = 8
MEMORY_PAIRS = 8
STEPS = ("sft", "sft_lora", "dpo_full", "dpo_lora", "sobolev_lora", "sobolev_full")

Figures = dict[str, Any]


class BenchData(NamedTuple):
    """Two images per pair: as ground truths for supervised steps, as winner and loser for preference steps."""

    batch: Batch
    pairs: PairBatch[HeadInput]


def bench_data(head: FlowHead, pairs: int) -> BenchData:
    """Return random crops of the usual size and spread; what they show does not change what a step costs."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    lq, prior = uniform(pairs, 3, SIDE, SIDE), uniform(pairs, 3, 4 * SIDE, 4 * SIDE)
    trunk = torch.randn(pairs, TRUNK_CHANNELS, SIDE, SIDE, generator=generator)
    photo = HeadInput(trunk, unshuffle_planes(prior), lq, head.gain(prior, lq))
    twice = HeadInput(*(torch.cat([part, part]) for part in photo))
    latents = torch.randn(2 * pairs, 48, SIDE, SIDE, generator=generator)
    weight = torch.ones(pairs)
    return BenchData(
        Batch(twice, twice.prior + 0.05 * latents),
        PairBatch(condition=photo, winner=latents[:pairs], loser=latents[pairs:], weight=weight),
    )


def make_step(kind: str, dtype: torch.dtype, pairs: int) -> Callable[[], None]:
    """Return one whole step of `kind`: forward, reference, backward and update.

    `sft` and `*_full` move all weights, the others a LoRA; `sobolev_*` is `dpo_*` in the Sobolev norm, exponent 1.5.
    """
    head = load_head().to(memory_format=torch.channels_last)
    data = bench_data(head, pairs)
    policy = HeadPolicy(head, rank=RANK, alpha=float(RANK)) if kind.endswith("lora") else FullPolicy(head)
    parameters = [p for p in policy.trained().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    model = CompactModel(policy, dtype, torch.device("cpu"))
    name = "sobolev_dpo" if kind.startswith("sobolev") else "dpo"
    objective = ObjectiveConfig(name=name, beta=200.0)  # type: ignore[call-arg]
    level = torch.linspace(0.1, 1.0, pairs)
    noise = torch.randn(data.pairs.winner.shape, generator=torch.Generator().manual_seed(1))

    def forward() -> StepOutput:
        if kind.startswith("sft"):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                return sft_step(policy.head, data.batch, 0.25, torch.Generator().manual_seed(2))
        return preference_step(model, data.pairs, objective, level, noise)

    def step() -> None:
        torch.autograd.backward(forward().loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def step_seconds(dtype: torch.dtype, runs: int) -> dict[str, float]:
    """Return the median seconds of each kind of step; kinds take turns, so that a slow moment meets all of them."""
    steps = {kind: make_step(kind, dtype, PAIRS) for kind in STEPS}
    times: dict[str, list[float]] = {kind: [] for kind in STEPS}
    for turn in range(runs + 1):
        for kind, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                times[kind].append(time.perf_counter() - start)
    return {kind: statistics.median(values) for kind, values in times.items()}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory(kind: str) -> dict[str, int]:
    """Return this process's peak memory before the first and after the third step; for a fresh process."""
    step = make_step(kind, resolve_dtype("auto", "cpu"), MEMORY_PAIRS)
    before = _peak_bytes()
    for _ in range(3):
        step()
    return {"before": before, "peak": _peak_bytes()}


def _growth(memory: dict[str, int]) -> int:
    return memory["peak"] - memory["before"]


def _measured_memory(kind: str) -> dict[str, int]:
    command = "import json, sys; from train.bench import peak_memory; print(json.dumps(peak_memory(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", command, kind], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def bench(runs: int) -> Figures:
    """Return seconds, ratios and memory of training steps on two images a pair."""
    dtype = resolve_dtype("auto", "cpu")
    seconds = step_seconds(dtype, runs)
    memory = {kind: _measured_memory(kind) for kind in ("sft_lora", "dpo_lora", "sobolev_lora")}
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": seconds,
        "sobolev_step / dpo_step (LoRA)": seconds["sobolev_lora"] / seconds["dpo_lora"],
        "sobolev_step / dpo_step (all weights)": seconds["sobolev_full"] / seconds["dpo_full"],
        "dpo_step / sft_step (all weights)": seconds["dpo_full"] / seconds["sft"],
        "dpo_step / sft_step (LoRA)": seconds["dpo_lora"] / seconds["sft"],
        "dpo_step / sft_step (both LoRA)": seconds["dpo_lora"] / seconds["sft_lora"],
        "peak memory, dpo / sft (both LoRA)": memory["dpo_lora"]["peak"] / memory["sft_lora"]["peak"],
        "peak memory above the loaded model, dpo / sft": _growth(memory["dpo_lora"]) / _growth(memory["sft_lora"]),
        "memory_bytes": memory,
    }


def describe(figures: Figures) -> str:
    """Return the ratios as lines of text."""
    ratios = [f"{name:40s} {value:.3f}" for name, value in figures.items() if isinstance(value, float)]
    seconds = [f"{name:40s} {value:.4f} s" for name, value in figures["seconds"].items()]
    return "\n".join([f"{figures['machine']}, {figures['dtype']}", *seconds, *ratios])
