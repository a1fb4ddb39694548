import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sr_core.errors import ConfigError
from train.config import OptimConfig
from train.engine import Look, RunSettings, accumulate, ema_rate_at, fit, learning_rate_at, move_average
from train.steps import StepOutput


def optim(**changes: float) -> OptimConfig:
    return OptimConfig(
        **{"learning_rate": 0.01, "batch_size": 1, "max_steps": 12, "warmup_steps": 3, "decay_steps": 4, **changes}
    )


def settings(output: Path, **changes: Any) -> RunSettings:
    values = {"log_every": 1, "checkpoint_every": 4, "keep_checkpoints": 2, "resume": False, "recipe": {"seed": 1}}
    return RunSettings(output=output, **{**values, **changes})


class Line(nn.Module):
    """Learns y = 3 x - 1 from one random point a step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))

    def step(self, index: int) -> StepOutput:
        x = torch.randn((), generator=torch.Generator().manual_seed(index))
        loss = (self.weight * x + self.bias - (3 * x - 1)).square()
        return StepOutput(loss, {"x": x})


def log_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    config = optim(max_steps=100, warmup_steps=10, decay_steps=20)
    rates = [learning_rate_at(step, config) / 0.01 for step in range(101)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert rates[10:81] == [1.0] * 71
    assert rates[80:101] == pytest.approx([1 - k / 20 for k in range(21)])


@given(st.integers(1, 500), st.integers(0, 600), st.integers(0, 600))
def test_the_learning_rate_never_leaves_its_bounds(max_steps: int, warmup: int, decay: int) -> None:
    config = optim(max_steps=max_steps, warmup_steps=warmup, decay_steps=decay)
    assert all(0 < learning_rate_at(step, config) <= 0.01 for step in range(max_steps))


def test_the_average_follows_fast_while_young_and_slowly_later() -> None:
    assert ema_rate_at(0, 0.001) == 0.9
    assert ema_rate_at(80, 0.001) == 0.1
    assert ema_rate_at(10**6, 0.001) == 0.001
    rates = [ema_rate_at(step, 0.002) for step in range(6000)]
    assert rates == sorted(rates, reverse=True)


def test_the_average_moves_by_its_rate_and_copies_buffers() -> None:
    model = Line()
    with torch.no_grad():
        model.weight.fill_(8)
        model.unit.fill_(5)
    average = {name: torch.zeros(()) for name in model.state_dict()}
    for expected in (2.0, 3.5, 4.625):
        move_average(average, model, 0.25)
        assert float(average["weight"]) == pytest.approx(expected)
    assert float(average["unit"]) == 5


def test_training_learns_and_returns_the_averaged_weights(tmp_path: Path) -> None:
    model = Line()
    average = fit(model, model.step, optim(learning_rate=0.1, max_steps=300, weight_decay=0.0), settings(tmp_path))
    assert float(average["weight"]) == pytest.approx(3, abs=0.1)
    assert float(average["bias"]) == pytest.approx(-1, abs=0.1)
    lines = log_of(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 301))
    assert lines[-1].keys() == {"step", "loss", "grad_norm", "lr", "x"}


def test_gradients_are_clipped(tmp_path: Path) -> None:
    model = Line()
    steps = []
    original = nn.utils.clip_grad_norm_
    try:
        nn.utils.clip_grad_norm_ = lambda p, n: steps.append(n) or original(p, n)
        fit(model, model.step, optim(max_grad_norm=0.5), settings(tmp_path))
    finally:
        nn.utils.clip_grad_norm_ = original
    assert steps == [0.5] * 12


def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    whole = Line()
    expected = fit(whole, whole.step, optim(), settings(tmp_path / "whole"))
    first = Line()

    def interrupted(index: int) -> StepOutput:
        if index == 10:
            raise KeyboardInterrupt
        return first.step(index)

    with pytest.raises(KeyboardInterrupt):
        fit(first, interrupted, optim(), settings(tmp_path / "broken"))
    assert [line["step"] for line in log_of(tmp_path / "broken")] == list(range(1, 11))
    second = Line()
    resumed = fit(second, second.step, optim(), settings(tmp_path / "broken", resume=True))
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert torch.equal(second.weight, whole.weight)
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "whole")


def test_a_log_line_that_a_crash_cut_short_is_dropped(tmp_path: Path) -> None:
    model = Line()
    fit(model, model.step, optim(), settings(tmp_path))
    path = tmp_path / "log.jsonl"
    expected = log_of(tmp_path)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 13, "lo')
    again = Line()
    fit(again, again.step, optim(max_steps=13), settings(tmp_path, resume=True))
    assert log_of(tmp_path)[:12] == expected
    assert [line["step"] for line in log_of(tmp_path)] == list(range(1, 14))


def test_resuming_where_there_is_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a finished checkpoint"):
        fit(Line(), Line().step, optim(), settings(tmp_path, resume=True))


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path: Path) -> None:
    model = Line()
    fit(model, model.step, optim(), settings(tmp_path))
    before = log_of(tmp_path)
    with pytest.raises(ConfigError, match="already holds a run"):
        fit(model, model.step, optim(), settings(tmp_path))
    assert log_of(tmp_path) == before


RECIPE = {
    "seed": 1,
    "output": "a",
    "optim": {"max_steps": 12, "learning_rate": 0.01},
    "extra": {"weight": 1.0, "from_step": 20},
}


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"optim": {"max_steps": 12, "learning_rate": 0.02}}, "optim.learning_rate was 0.01, is 0.02"),
        ({"optim": {"max_steps": 99, "learning_rate": 0.01}, "output": "b"}, None),
        ({"optim": {"max_steps": 12, "learning_rate": 0.01, "betas": (0.9, 0.99)}}, None),
        ({"optim": {"max_steps": 12, "learning_rate": 0.01, "betas": (0.9, 0.999)}}, r"optim.betas was \[0.9, 0.99\]"),
        ({"validation": {"photos": "x"}}, None),
        ({"extra": {"weight": 2.0, "from_step": 30}}, None),
        ({"extra": {"weight": 2.0, "from_step": 3}}, "extra.from_step was None, is 3"),
        ({"extra": None}, None),
    ],
)
def test_a_resumed_run_keeps_the_recipe_that_made_its_numbers(
    tmp_path: Path, change: dict[str, Any], refused: str | None
) -> None:
    model = Line()
    fit(model, model.step, optim(), settings(tmp_path, recipe=RECIPE))
    changed = settings(tmp_path, resume=True, recipe={**RECIPE, **change})
    if refused is None:
        fit(Line(), Line().step, optim(), changed)
    else:
        with pytest.raises(ConfigError, match=refused):
            fit(Line(), Line().step, optim(), changed)


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path: Path) -> None:
    model = Line()

    def step(index: int) -> StepOutput:
        output = model.step(index)
        return output if index != 5 else StepOutput(output.loss * float("nan"), output.metrics)

    with pytest.raises(FloatingPointError, match="loss of step 5 is nan"):
        fit(model, step, optim(), settings(tmp_path))
    assert bool(torch.isfinite(model.weight))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]


def test_evaluation_sees_the_average_at_its_interval_and_at_the_end(tmp_path: Path) -> None:
    model, seen = Line(), []

    steps = []

    def evaluate(done: int, average: dict[str, torch.Tensor]) -> dict[str, float]:
        steps.append(done)
        seen.append(float(average["weight"]))
        return {"figure": seen[-1]}

    average = fit(model, model.step, optim(), settings(tmp_path), [Look(evaluate, 5), Look(evaluate, 0)])
    figures = {line["step"]: line["figure"] for line in log_of(tmp_path) if "figure" in line}
    assert list(figures) == steps == [5, 10, 12]
    assert figures[12] == float(average["weight"])


def test_micro_batches_give_the_loss_metrics_and_gradients_of_the_whole_batch() -> None:
    x = torch.randn(12, generator=torch.Generator().manual_seed(2))

    def output_of(model: Line, part: slice) -> StepOutput:
        error = (model.weight * x[part] - 3 * x[part]).square()
        return StepOutput(error.mean(), {"error": error.detach().mean()})

    whole, parted = Line(), Line()
    expected = accumulate(output_of(whole, slice(None)))
    found = accumulate(output_of(parted, slice(k, k + 4)).share_of(3) for k in (0, 4, 8))
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.metrics["error"], expected.metrics["error"])
    torch.testing.assert_close(parted.weight.grad, whole.weight.grad)
    with pytest.raises(ValueError, match="at least one micro-batch"):
        accumulate(iter(()))


def test_a_run_without_averaging_returns_its_last_weights_and_resumes(tmp_path: Path) -> None:
    whole, half, rest = Line(), Line(), Line()
    average = fit(whole, whole.step, optim(ema_rate=1.0, decay_steps=0), settings(tmp_path / "whole"))
    assert torch.equal(average["weight"], whole.weight)
    fit(half, half.step, optim(ema_rate=1.0, decay_steps=0, max_steps=8), settings(tmp_path / "half"))
    resumed = fit(rest, rest.step, optim(ema_rate=1.0, decay_steps=0), settings(tmp_path / "half", resume=True))
    assert torch.equal(resumed["weight"], whole.weight)
