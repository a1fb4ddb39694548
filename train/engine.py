"""The training loop: backward, clip, step, average, log, checkpoint; knows no diffusion."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sr_core.errors import ConfigError
from sr_core.files import replace_text
from train.checkpoints import (
    Checkpoint,
    check_start,
    latest_checkpoint,
    save_checkpoint,
)
from train.config import OptimConfig, in_todays_settings
from train.optimizers import make_optimizer, optimizer_tensors, restore_optimizer
from train.processes import Processes
from train.steps import StepOutput

YOUNG_EMA = 9.0
"""Numerator of the averaging rate of a young run: max(rate, 9 / (10 + step))."""


@runtime_checkable
class Paced(Protocol):
    """A recipe that says how often its run logs and saves."""

    @property
    def log_every(self) -> int:
        """Steps between lines of the log."""

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints."""

    @property
    def keep_checkpoints(self) -> int:
        """How many checkpoints stay."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where a run writes and how often."""

    output: Path
    log_every: int
    checkpoint_every: int
    keep_checkpoints: int
    resume: bool
    recipe: dict[str, Any]
    """Plain values of the recipe; a resumed run must have the same but for the length."""
    fixed: Mapping[str, str] = field(default_factory=dict)
    """Hashes of what a resumed run must find unchanged, by name: the reference."""
    processes: Processes | None = None
    """None is this process alone."""

    @classmethod
    def of(
        cls,
        recipe: Paced,
        output: Path,
        *,
        resume: bool,
        values: dict[str, Any],
        fixed: Mapping[str, str] | None = None,
        processes: Processes | None = None,
    ) -> "RunSettings":
        """Return the settings of a recipe's run, which goes on under the same `values` alone."""
        return cls(
            output=output,
            log_every=recipe.log_every,
            checkpoint_every=recipe.checkpoint_every,
            keep_checkpoints=recipe.keep_checkpoints,
            resume=resume,
            recipe=values,
            fixed=fixed or {},
            processes=processes,
        )


class Look(NamedTuple):
    """Something that is looked at every so many steps and after the last one: held-out photographs, samples."""

    figures: Callable[[int, dict[str, Tensor]], dict[str, float]]
    """Given the steps done and the averaged weights, returns figures for the log, or none."""
    every: int
    """0 is never."""


MAY_CHANGE = (
    "output", "log_every", "checkpoint_every", "keep_checkpoints", "validation",
    "dataset", "cache", "held_out", "rounds", "sample_every", "trackers",
)  # fmt: skip
MAY_CHANGE_INSIDE = {
    "optim": ("max_steps", "decay_steps"),
    "data": ("crops", "cache", "photos", "crops_per_photo", "paired"),
    "selector": ("last_steps",),
}
"""What a resumed run may set anew: its length, where things lie, what follows the last step or is only reported."""


def _essence(recipe: dict[str, Any], step: int) -> dict[str, Any]:
    """Return what made a run's numbers until `step`, flat, as JSON stores it.

    A section with a `from_step` that is still to come has not acted yet, so it may be added or changed.
    """
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(in_todays_settings(recipe))).items():
        inner = value if isinstance(value, dict) else {None: value}
        if inner.get("from_step", -1) >= step:
            continue
        flat |= {
            name if key is None else f"{name}.{key}": entry
            for key, entry in inner.items()
            if name not in MAY_CHANGE and key not in MAY_CHANGE_INSIDE.get(name, ())
        }
    return flat


def _check_same_recipe(found: dict[str, Any], wanted: dict[str, Any], step: int) -> None:
    """Raise ConfigError if a run would go on under another recipe than it began with."""
    old, new = _essence(found, step), _essence(wanted, step)
    changed = [
        f"{key} was {old.get(key)}, is {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)
    ]
    if changed:
        raise ConfigError(
            f"a resumed run must keep its recipe: {'; '.join(changed)}; name another output to start anew"
        )


def _check_unchanged(found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raise ConfigError if a run would go on against something else than it began with."""
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise ConfigError(
                f"a resumed run must keep its {name}: it was sha256 {found.get(name)}, is {wanted.get(name)}; "
                "put the old one back, or name another output to start anew"
            )


def learning_rate_at(step: int, optim: OptimConfig) -> float:
    """Return the rate of `step` (from 0): linear warm-up, constant, linear fall to zero over the last stretch."""
    warm = min(1.0, (step + 1) / max(1, optim.warmup_steps))
    left = (optim.max_steps - step) / max(1, optim.decay_steps)
    return optim.learning_rate * min(warm, left, 1.0)


def ema_rate_at(step: int, slowest: float) -> float:
    """Return how far the averaged weights move towards the current ones."""
    return max(slowest, YOUNG_EMA / (10 + step))


@torch.no_grad()
def move_average(average: dict[str, Tensor], model: nn.Module, rate: float) -> None:
    """Pull `average` towards the weights of `model` in place; buffers are copied."""
    parameters = dict(model.named_parameters())
    for name, value in model.state_dict().items():
        if name in parameters:
            average[name].lerp_(value, rate)
        else:
            average[name].copy_(value)


def _logged_step(line: str) -> int | None:
    """Return the step of a line of the log; None if a crash cut it short."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


class _Log:
    """JSON lines of a run; a resumed run drops what came after its checkpoint."""

    def __init__(self, path: Path, first_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        kept = [line for line in lines if (_logged_step(line) or first_step + 1) <= first_step]
        replace_text(path, "".join(line + "\n" for line in kept))
        self.path = path

    def write(self, values: dict[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def accumulate(output: StepOutput | Iterator[StepOutput]) -> StepOutput:
    """Run a step backward and return its loss and metrics without a graph.

    An iterator gives the micro-batches of one step, whose losses and metrics add up to the step's; each is run backward
    before the next is made, so that one at a time takes memory.
    """
    parts: Iterable[StepOutput] = (output,) if isinstance(output, StepOutput) else output
    loss: Tensor | None = None
    metrics: dict[str, Tensor] = {}
    for part in parts:
        torch.autograd.backward(part.loss)
        loss = part.loss.detach() if loss is None else loss + part.loss.detach()
        for name, value in part.metrics.items():
            metrics[name] = value if name not in metrics else metrics[name] + value
    if loss is None:
        raise ValueError("a step must have at least one micro-batch, got none")
    return StepOutput(loss, metrics)


def fit(
    model: nn.Module,
    step: Callable[[int], StepOutput | Iterator[StepOutput]],
    optim: OptimConfig,
    settings: RunSettings,
    looks: Sequence[Look] = (),
) -> dict[str, Tensor]:
    """Train `model` in place and return the averaged weights.

    `step(i)` must draw its randomness from `i` alone; then a resumed run equals the unbroken one bit for bit. It may
    give its micro-batches one by one, as `accumulate` takes them.
    The first process alone takes the `looks`.
    Raises ConfigError if asked to resume where there is nothing or under another recipe, or to start where a run lies,
    and FloatingPointError if the loss is not finite.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(trained, optim)
    # A run without averaging keeps no second copy: its average is the weights themselves.
    is_averaged = optim.ema_rate < 1
    average = {name: value.detach().clone() if is_averaged else value for name, value in model.state_dict().items()}
    first, elapsed, cpu = 0, 0.0, 0.0
    checkpoints = settings.output / "checkpoints"
    processes = settings.processes or Processes()
    check_start(settings.output, resume=settings.resume)
    processes.wait()
    if settings.resume:
        found = latest_checkpoint(checkpoints)
        _check_same_recipe(found.state["recipe"], settings.recipe, found.state["step"])
        _check_unchanged(found.state.get("fixed", {}), settings.fixed)
        model.load_state_dict(found.tensors["model"])
        for name, value in average.items():
            value.copy_(found.tensors["ema"][name])
        restore_optimizer(optimizer, found.tensors["optimizer"])
        first, elapsed, cpu = found.state["step"], found.state["elapsed_s"], found.state["cpu_s"]
    processes.wait()
    log = _Log(settings.output / "log.jsonl", first) if processes.is_main else None
    processes.track(settings.output.name, settings.recipe)
    wall_start, cpu_start = time.monotonic(), time.process_time()

    def report(line: dict[str, Any]) -> None:
        if log is not None:
            log.write(line)
        processes.log({key: value for key, value in line.items() if key != "step"}, line["step"])

    def save(done: int) -> None:
        if not processes.is_main:
            return
        state = {
            "step": done,
            "elapsed_s": elapsed + time.monotonic() - wall_start,
            "cpu_s": cpu + time.process_time() - cpu_start,
            "recipe": settings.recipe,
            "fixed": dict(settings.fixed),
        }
        sets = {"model": dict(model.state_dict()), "ema": average, "optimizer": optimizer_tensors(optimizer)}
        save_checkpoint(checkpoints, done, Checkpoint(sets, state), keep=settings.keep_checkpoints)

    steps = range(first, optim.max_steps)
    bar = tqdm(steps, initial=first, total=optim.max_steps, unit="step", mininterval=2, disable=not processes.is_main)
    for index in bar:
        rate = learning_rate_at(index, optim)
        for group in optimizer.param_groups:
            group["lr"] = rate
        output = accumulate(step(index))
        loss = processes.mean(output.loss)
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"the loss of step {index} is {loss.item()}")
        processes.average_gradients(trained)
        norm = nn.utils.clip_grad_norm_(trained, optim.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(f"the gradient of step {index} is not finite")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        move_average(average, model, ema_rate_at(index, optim.ema_rate))
        done = index + 1
        if done % settings.log_every == 0 or done in (1, optim.max_steps):
            values = {name: float(processes.mean(value)) for name, value in output.metrics.items()}
            line = {"step": done, "loss": float(loss), "grad_norm": float(norm), "lr": rate, **values}
            report(line)
            bar.set_postfix(loss=f"{line['loss']:.3f}")
        for look in looks if processes.is_main else ():
            if look.every and (done % look.every == 0 or done == optim.max_steps):
                figures = look.figures(done, average)
                if figures:
                    report({"step": done, **figures})
        if done % settings.checkpoint_every == 0 or done == optim.max_steps:
            save(done)
    processes.close()
    processes.wait()
    return average
