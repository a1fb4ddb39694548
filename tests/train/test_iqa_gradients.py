from pathlib import Path

import pytest
import torch
from jaxtyping import Float64
from torch import Tensor

from sr_core.images import read_image
from tests.sr_core.rewards.conftest import NAMES
from train.iqa_gradients import (
    Check,
    Metric,
    check_gradient,
    gradient_table,
    known_metrics,
    relative_difference,
    slope,
)

TRUSTED = ("smooth brisque (the loss)", "smooth niqe (the loss)", "lpips", "psnr")
TRAPS = ("brisque (as scored)", "niqe (as scored)", "piqe (as scored)", "pyiqa brisque", "pyiqa niqe", "pyiqa piqe")
Photo = Float64[Tensor, "1 3 h w"]


@pytest.fixture(scope="module")
def photo(photos: Path) -> Photo:
    """Return two blocks of NIQE side by side."""
    return read_image(photos / "eval" / NAMES[0]).pixels[..., 100:196, 100:292].double()


@pytest.fixture(scope="module")
def metrics(photo: Photo) -> dict[str, Metric]:
    padded = torch.nn.functional.pad(photo, (1,) * 4, mode="replicate")
    return known_metrics(torch.nn.functional.avg_pool2d(padded, 3, stride=1))


@pytest.mark.parametrize("name", TRUSTED)
def test_the_losses_and_the_reference_metrics_have_a_true_gradient(metrics, photo: Photo, name: str) -> None:
    check = check_gradient(metrics[name], photo, reaches=())
    assert check.passes
    assert check.worst is not None
    assert check.worst <= 1e-2


@pytest.mark.parametrize("name", TRAPS)
def test_the_metrics_as_scored_and_as_pyiqa_writes_them_do_not(metrics, photo: Photo, name: str) -> None:
    check = check_gradient(metrics[name], photo, directions=3, reaches=())
    assert not check.passes
    assert check.verdict == ("wrong" if name in ("pyiqa brisque", "pyiqa niqe") else "zero")


def test_a_narrow_count_is_differentiable_and_holds_less_far_than_a_wide_one(metrics, photo: Photo) -> None:
    small = photo[..., :96]
    wide, narrow = (
        check_gradient(metrics[name], small, directions=5, reaches=(1e-7, 1e-4))
        for name in ("smooth brisque (the loss)", "smooth brisque, narrow count")
    )
    assert wide.passes
    assert narrow.passes
    assert wide.reach == 1e-4
    assert narrow.reach in (None, 1e-7)


def test_the_table_names_every_metric_with_its_verdict() -> None:
    table = gradient_table({"good": Check("passes", 1e-3, 1e-4), "flat": Check("zero", None, None)})
    assert "| good | passes | 1.0e-03 | 0.026 grey levels |" in table
    assert "| flat | zero |  |  |" in table


def test_a_wrong_gradient_is_found_out() -> None:
    class Half(torch.autograd.Function):
        @staticmethod
        def forward(context, x: Tensor) -> Tensor:
            context.save_for_backward(x)
            return x.square().sum()

        @staticmethod
        def backward(context, gradient: Tensor) -> Tensor:
            return gradient * context.saved_tensors[0]

    photo = torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert check_gradient(lambda x: x.square().sum(), photo).passes
    check = check_gradient(Half.apply, photo)
    assert check.verdict == "wrong"
    assert check.worst == pytest.approx(0.5, abs=1e-3)
    assert check_gradient(lambda x: x.round().sum() + 0 * x.sum(), photo).verdict == "zero"
    assert check_gradient(lambda x: torch.zeros(1), photo).verdict == "none"  # noqa: ARG005


def test_the_stencil_is_exact_for_cubics() -> None:
    at, way = torch.full((1, 3, 2, 2), 0.3, dtype=torch.float64), torch.ones(1, 3, 2, 2, dtype=torch.float64)
    assert slope(lambda x: (x**3).sum(), at, way, 0.1) == pytest.approx(12 * 3 * 0.3**2, rel=1e-12)
    assert relative_difference(0.0, 0.0) == 0
    assert relative_difference(1.0, -1.0) == 2
