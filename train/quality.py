"""Differentiable no-reference quality: 1 is the best and 0 the worst that the registry knows of a metric."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.errors import ConfigError
from sr_core.rewards.brisque import read_libsvm
from sr_core.rewards.niqe import read_model
from sr_core.rewards.offline import NIQE_FILE, find_brisque_file
from sr_core.rewards.registry import metric_spec
from sr_core.rewards.smooth_statistics import smooth_brisque, smooth_niqe
from sr_core.tensors import Image, PerSample

Quality = Callable[[Image], PerSample]


def _raw(name: str, device: str) -> Quality:
    """Return the metric with a gradient, in its own unit; raises WeightsError if a file is missing."""
    if name == "brisque":
        model = read_libsvm(find_brisque_file()[1], device)
        return lambda images: smooth_brisque(images, model)
    if name == "niqe":
        pristine = read_model(NIQE_FILE, device)
        return lambda images: smooth_niqe(images, pristine)
    from sr_core.rewards.iqa import load_differentiable

    return load_differentiable(metric_spec(name), device)


def load_quality(name: str, side_px: int, device: str) -> Quality:
    """Return Q, one value per image, with a gradient.

        Q = (value - worst) / (best - worst)

    Raises ConfigError if images of `side_px` are too small for the metric or it needs a reference, and WeightsError if
    a file of it is missing.
    """
    spec = metric_spec(name)
    if spec.full_reference:
        raise ConfigError(f"the quality is a no-reference metric, and {name} needs a reference")
    if side_px < spec.min_side:
        raise ConfigError(f"{name} needs at least {spec.min_side} px a side; images have {side_px}, set window_px")
    metric, worst, best = _raw(name, device), spec.worst, spec.best

    def quality(images: Image) -> PerSample:
        return ((metric(images.clamp(0, 1)) - worst) / (best - worst)).float()

    return quality


class Discriminator(torch.nn.Module):
    """A small U-Net that says for each pixel whether it is of a target or of a restoration, as logits.

    Every convolution is divided by its largest singular value, computed anew each time, so that nothing but the weights
    has to be kept. Source: the form is Real-ESRGAN's (arXiv 2107.10833, section 3.4), with two levels.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        sizes = {"enter": (3, width), "down": (width, 2 * width), "middle": (2 * width, 2 * width)}
        sizes |= {"up": (2 * width, width), "leave": (width, 1)}
        self.convs = torch.nn.ModuleDict({n: torch.nn.Conv2d(i, o, 3, padding=1) for n, (i, o) in sizes.items()})

    def forward(self, images: Image) -> Float[Tensor, "b 1 y x"]:
        """Return the logits; positive means a target."""
        weights = {name: _normalised(conv) for name, conv in self.convs.items()}

        def apply(name: str, x: Tensor, stride: int = 1) -> Tensor:
            bias = self.convs[name].bias
            assert isinstance(bias, Tensor)
            return torch.nn.functional.conv2d(x, weights[name], bias, stride=stride, padding=1)

        activate = torch.nn.functional.leaky_relu
        top = activate(apply("enter", images), 0.2)
        low = activate(apply("middle", activate(apply("down", top, stride=2), 0.2)), 0.2)
        raised = torch.nn.functional.interpolate(low, size=top.shape[-2:], mode="bilinear", align_corners=False)
        return apply("leave", top + activate(apply("up", raised), 0.2))


def _normalised(conv: torch.nn.Module) -> Tensor:
    weight = conv.weight
    assert isinstance(weight, Tensor)
    return weight / torch.linalg.matrix_norm(weight.flatten(1), 2)
