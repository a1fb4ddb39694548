import pytest
import torch
from torch import Tensor

from sr_core.images import read_image
from tests.sr_core.rewards.conftest import NAMES
from train.iqa_gradients import check_all, check_gradient, gradient_table, relative_difference, slope

SIDE = 192


@pytest.fixture(scope="module")
def checks(photos):
    photo = read_image(photos / "eval" / NAMES[0]).pixels[..., 100 : 100 + SIDE, 100 : 100 + SIDE].double()
    soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(photo, (1,) * 4, mode="replicate"), 3, stride=1)
    return check_all(photo, soft)


def test_the_losses_and_the_reference_metrics_have_a_true_gradient(checks) -> None:
    trusted = ("smooth brisque (the loss)", "smooth niqe (the loss)", "lpips", "psnr")
    assert [name for name in trusted if not checks[name].passes] == []
    # Those with a narrow count are differentiable too, but only far below a grey level.
    assert checks["smooth brisque, narrow count"].passes
    wide, narrow = (checks[f"smooth brisque{kind}"].reach for kind in (" (the loss)", ", narrow count"))
    assert wide is not None
    assert narrow is None or narrow < wide


def test_the_metrics_as_scored_and_as_pyiqa_writes_them_do_not(checks) -> None:
    traps = ("brisque (as scored)", "niqe (as scored)", "piqe (as scored)", "pyiqa brisque", "pyiqa niqe", "pyiqa piqe")
    assert [name for name in traps if checks[name].passes] == []
    assert checks["piqe (as scored)"].verdict in ("zero", "none")


def test_the_table_names_every_metric_with_its_verdict(checks) -> None:
    table = gradient_table(checks)
    assert all(f"| {name} | {check.verdict} |" in table for name, check in checks.items())


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
