"""The choice of a level for restoration in one step: the network of the release, its draw, and what it sees of a photo.

Source: Hero-SR, arXiv 2412.07152 (its Dynamic Time-Step Module, from the released inference code).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, silu, softmax

from sr_core.backbones.prior import SCALE
from sr_core.tensors import Image, PerSample

VIEW_PX = 128
"""Side of what the choice of a level sees, whatever the photo's size."""

Logits = Float[Tensor, "b n"]


def diffusion_levels() -> Float[Tensor, " n"]:
    """Return the 101 timesteps of the release: 1, 9, 19, ..., 999."""
    return torch.tensor([1.0, *range(9, 1000, 10)])


def flow_levels() -> Float[Tensor, " n"]:
    """Return 101 levels of the straight path: 0, 0.01, ..., 1."""
    return torch.arange(101) / 100


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return silu(x + self.bn2(self.conv2(silu(self.bn1(self.conv1(x))))))


class TimestepSelector(nn.Module):
    """The release's network: an enlarged LQ in, one logit per candidate level out. Names of weights are the release's.

    64 channels throughout, 7 x 7 pooling, 3136 -> 1000 -> 101, and a LayerNorm on the logits.
    """

    time_list: Tensor

    def __init__(self, levels: Float[Tensor, " n"], channels: int = 64, num_blocks: int = 3) -> None:
        super().__init__()
        self.register_buffer("time_list", levels.float())

        def convolution(inputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.SiLU())

        self.conv1 = convolution(3)
        self.blocks = nn.Sequential(*(_ResidualBlock(channels) for _ in range(num_blocks)))
        self.conv2 = convolution(channels)
        self.fc = nn.Sequential(
            nn.Linear(channels * 49, 1000), nn.SiLU(), nn.Linear(1000, len(levels)), nn.LayerNorm(len(levels))
        )

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """Return the pooled features of an enlarged LQ in [-1, 1], of any size."""
        x = image if image.shape[-2:] == (VIEW_PX, VIEW_PX) else interpolate(image, size=(VIEW_PX, VIEW_PX))
        return adaptive_avg_pool2d(self.conv2(self.blocks(self.conv1(x))), 7).flatten(1)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Logits:
        """Return logits for an enlarged LQ in [-1, 1], of any size."""
        return self.fc(self.features(image))


class Choice(NamedTuple):
    """A level per photo, and how likely each candidate was."""

    level: PerSample
    probability: Float[Tensor, "b n"]
    """Softmax of the logits with their noise."""


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return -log(-log u), u uniform: with it added to logits, the largest is a draw from their softmax."""
    uniform = torch.rand(shape, generator=generator).clamp(1e-20, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))


def choose_level(logits: Logits, levels: Float[Tensor, " n"], noise: Logits | None = None) -> Choice:
    """Return the level with the largest logit, exactly as it stands in `levels`; differentiable straight through.

    Hard Gumbel-Softmax at temperature 1 (arXiv 1611.01144): forward sum_i z_i t_i with z one-hot, backward with z =
    softmax. `noise` is Gumbel noise; None takes the most likely level, which the release does not offer.
    """
    probability = softmax(logits if noise is None else logits + noise, dim=1)
    expected = probability @ levels
    hard = levels[probability.argmax(1)]
    return Choice(hard + (expected - expected.detach()), probability)


def selector_view(lq: Image) -> Float[Tensor, "b 3 p p"]:
    """Return what the selector sees of an LQ: enlarged x4 (bicubic), then 128 x 128 by nearest, in [-1, 1].

    Only the pixels that are kept are computed.
    """
    rows, columns = (_picked_rows(side, lq) for side in lq.shape[-2:])
    return 2 * (rows @ lq @ columns.T).clamp(0, 1) - 1


def _picked_rows(length: int, like: Tensor) -> Float[Tensor, "p n"]:
    """Return the matrix of an x4 bicubic enlargement (a = -0.75) of `length` pixels, every 128th part of it kept."""
    picked = torch.arange(VIEW_PX) * (SCALE * length) // VIEW_PX
    place = (picked + 0.5) / SCALE - 0.5
    first = place.floor()
    matrix = torch.zeros(VIEW_PX, length)
    a = -0.75
    for tap in range(-1, 3):
        x = (place - first - tap).abs()
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        index = (first.long() + tap).clamp(0, length - 1)
        matrix.scatter_add_(1, index[:, None], torch.where(x <= 1, near, far)[:, None])
    return matrix.to(like)
