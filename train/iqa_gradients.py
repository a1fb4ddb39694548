"""Which metrics have a gradient that is their slope: finite differences along random directions, as a table."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from sr_core.errors import InputError
from sr_core.images import read_image
from sr_core.resampling import resize_clamped
from sr_core.rewards.brisque import BrisqueModel, brisque, read_libsvm
from sr_core.rewards.iqa import statistics_formulas
from sr_core.rewards.lpips import LpipsLayer, lpips
from sr_core.rewards.niqe import NiqeModel, niqe, read_model
from sr_core.rewards.offline import NIQE_FILE, find_brisque_file, load_lpips_layers, psnr
from sr_core.rewards.piqe import piqe
from sr_core.rewards.smooth_statistics import EXACT_WIDTH, LOSS_WIDTH, smooth_brisque, smooth_niqe
from sr_core.rewards.vsi import vsi

Photo = Float64[Tensor, "1 3 h w"]
Metric = Callable[[Photo], Tensor]

SIDE = 192
"""In pixels: four blocks of NIQE."""
NUM_DIRECTIONS = 20
STEP = 1e-8
"""Root mean square of a step in pixel values: far below a grey level, so that only the slope at the photo counts."""
RELATIVE = 1e-2
REACHES = (1e-6, 1e-5, 1e-4, 1e-3)
"""Larger steps, up to a quarter of a grey level, at which the slope is compared too."""
REACH_TOLERANCE = 0.1


class Check(NamedTuple):
    """What finite differences say about one metric."""

    verdict: str
    """`passes`, `wrong`, `zero` where the gradient vanishes everywhere, or `none` where there is none."""
    worst: float | None
    """Largest relative difference of the two slopes over all directions, at `STEP`."""
    reach: float | None
    """Largest step at which the median relative difference is below a tenth; None where none is."""

    @property
    def passes(self) -> bool:
        """Return whether the gradient may be trusted."""
        return self.verdict == "passes"


def _directions(photo: Photo, count: int, seed: int) -> list[Photo]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(photo.shape, dtype=torch.float64, generator=generator) for _ in range(count)]


def slope(metric: Metric, photo: Photo, direction: Photo, step: float) -> float:
    """Return the derivative along `direction` by central differences of fourth order.

    f'(0) = (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / (12 h)
    """
    with torch.no_grad():
        far_left, left, right, far_right = (float(metric(photo + k * step * direction)) for k in (-2, -1, 1, 2))
    return (8 * (right - left) - (far_right - far_left)) / (12 * step)


def relative_difference(a: float, b: float) -> float:
    """Return |a - b| over the larger magnitude; 0 for two zeros."""
    largest = max(abs(a), abs(b))
    return abs(a - b) / largest if largest else 0.0


def check_gradient(
    metric: Metric, photo: Photo, *, directions: int = NUM_DIRECTIONS, reaches: tuple[float, ...] = REACHES
) -> Check:
    """Compare a metric's gradient with finite differences along random directions, in float64."""
    point = photo.detach().clone().requires_grad_(True)
    value = metric(point).sum()
    if value.grad_fn is None:
        return Check("none", None, None)
    (gradient,) = torch.autograd.grad(value, point)
    if not bool(gradient.isfinite().all()):
        return Check("wrong", torch.inf, None)
    if not bool(gradient.any()):
        return Check("zero", None, None)
    ways = _directions(photo, directions, seed=0)
    analytic = [float((gradient * way).sum()) for way in ways]
    worst = max(relative_difference(a, slope(metric, photo, way, STEP)) for a, way in zip(analytic, ways, strict=True))
    reach = None
    for step in reaches:
        few = list(zip(analytic, ways, strict=True))[:5]
        middle = sorted(relative_difference(a, slope(metric, photo, way, step)) for a, way in few)[2]
        if middle < REACH_TOLERANCE:
            reach = step
    return Check("passes" if worst <= RELATIVE else "wrong", worst, reach)


def known_metrics(reference: Photo) -> dict[str, Metric]:
    """Return every offline metric that can be written in torch, ours and pyiqa's formulas fed the same numbers.

    Raises WeightsError if a file is missing.
    """
    model, pristine = read_libsvm(find_brisque_file()[1], "cpu"), read_model(NIQE_FILE, "cpu")
    layers = tuple(_double(layer) for layer in load_lpips_layers("cpu"))
    return {**_own(model, pristine), **_with_reference(reference, layers), **statistics_formulas(model, pristine)}


def _own(model: BrisqueModel, pristine: NiqeModel) -> dict[str, Metric]:
    return {
        "brisque (as scored)": lambda x: brisque(x, model),
        "niqe (as scored)": lambda x: niqe(x, pristine),
        "piqe (as scored)": piqe,
        "smooth brisque, narrow count": lambda x: smooth_brisque(x, model, width=EXACT_WIDTH),
        "smooth niqe, narrow count": lambda x: smooth_niqe(x, pristine, width=EXACT_WIDTH),
        "smooth brisque (the loss)": lambda x: smooth_brisque(x, model, width=LOSS_WIDTH),
        "smooth niqe (the loss)": lambda x: smooth_niqe(x, pristine, width=LOSS_WIDTH),
    }


def _with_reference(reference: Photo, layers: tuple[LpipsLayer, ...]) -> dict[str, Metric]:
    return {
        "lpips": lambda x: lpips(x, reference, layers),
        "psnr": lambda x: psnr(x, reference),
        "vsi": lambda x: vsi(x, reference),
    }


def _double(layer: LpipsLayer) -> LpipsLayer:
    return layer._replace(weight=layer.weight.double(), bias=layer.bias.double(), importance=layer.importance.double())


def check_all(photo: Photo, reference: Photo) -> dict[str, Check]:
    """Return the check of every known metric on one photograph against a reference of its size."""
    return {name: check_gradient(metric, photo) for name, metric in known_metrics(reference).items()}


def check_photo(path: Path) -> dict[str, Check]:
    """Return the checks on the middle 192 px of a photograph; the reference is the same place, blurred.

    Raises InputError if the photograph is smaller.
    """
    photo = read_image(path).pixels.double()
    top, left = ((side - SIDE) // 2 for side in photo.shape[-2:])
    if min(top, left) < 0:
        raise InputError(f"{path.name} must have at least {SIDE} px a side, got {tuple(photo.shape[-2:])}")
    middle = photo[..., top : top + SIDE, left : left + SIDE]
    blurred = resize_clamped(resize_clamped(middle, SIDE // 2, SIDE // 2), SIDE, SIDE)
    return check_all(middle, blurred)


def gradient_table(checks: Mapping[str, Check]) -> str:
    """Return the checks as a Markdown table."""
    lines = ["| metric | gradient | worst relative difference | slope holds up to |", "|---|---|---|---|"]
    for name, check in checks.items():
        worst = "" if check.worst is None else f"{check.worst:.1e}"
        reach = "" if check.reach is None else f"{255 * check.reach:.2g} grey levels"
        lines.append(f"| {name} | {check.verdict} | {worst} | {reach} |")
    return "\n".join(lines)
