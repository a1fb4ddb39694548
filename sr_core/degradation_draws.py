"""What a degradation draws: chances, values in ranges and blur kernels, with a record of every value."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.blur_kernels import gaussian_kernel, identity_kernel, padded_kernel, plateau_kernel, sinc_kernel
from sr_core.degradation_presets import StageParameters
from sr_core.tensors import PerSample

Stage = Literal["first", "second", "final", "clean"]
Value = float | int | str
Kernel = Float[Tensor, "21 21"]
"""A blur kernel that sums to 1, padded with zeros."""

T = TypeVar("T")

_SHAPES = ("Gaussian", "generalised Gaussian", "plateau")


class Draw(NamedTuple):
    """One step of a degradation as it was drawn for one image."""

    stage: Stage
    step: str
    """What was done: blur, resize, noise, JPEG, sinc filter, reduction; or skipped."""
    values: Mapping[str, Value]
    """By name with its unit; "none" where a step was drawn to change nothing."""


class DrawnKernel(NamedTuple):
    """A blur kernel with the values that it was made from."""

    kernel: Kernel
    values: dict[str, Value]


class DrawLog:
    """What was drawn for each image of a batch, in the order of the steps."""

    def __init__(self, num_images: int) -> None:
        self.images: tuple[list[Draw], ...] = tuple([] for _ in range(num_images))

    def note(self, stage: Stage, step: str, values: Mapping[str, Value] | Sequence[Mapping[str, Value]] = ()) -> None:
        """Add a step: with the same values for every image, or with each image's own."""
        for place, draws in enumerate(self.images):
            own = values if isinstance(values, Mapping) else values[place] if values else {}
            draws.append(Draw(stage, step, own))


def draw_kernel(stage: StageParameters, generator: torch.Generator) -> DrawnKernel:
    """Draw one blur kernel of the stage."""
    size = draw_one_of(stage.kernel_sizes, generator)
    if happens(stage.sinc_prob, generator):
        return draw_sinc(size, math.pi / 3 if size < 13 else math.pi / 5, generator)
    kind = choose(stage.kernel_probs, generator)
    sigma_x = sigma_y = uniform(stage.blur_sigma_range, generator)
    angle = 0.0
    values: dict[str, Value] = {"size px": size, "sigma px": sigma_x}
    if kind % 2:  # odd kinds are the anisotropic ones
        sigma_y = uniform(stage.blur_sigma_range, generator)
        angle = uniform((-math.pi, math.pi), generator)
        values = {"size px": size, "sigma along px": sigma_x, "sigma across px": sigma_y, "angle rad": angle}
    beta, shape = 1.0, gaussian_kernel
    if kind in (2, 3):
        beta = draw_beta(stage.betag_range, generator)
    if kind in (4, 5):
        beta, shape = draw_beta(stage.betap_range, generator), plateau_kernel
    name = f"{'anisotropic' if kind % 2 else 'isotropic'} {_SHAPES[kind // 2]}"
    exponent = {"exponent": beta} if kind > 1 else {}
    kernel = padded_kernel(shape(size, sigma_x=sigma_x, sigma_y=sigma_y, angle=angle, beta=beta))
    return DrawnKernel(kernel, {"kernel": name, **values, **exponent})


def draw_sinc(size: int, lowest: float, generator: torch.Generator) -> DrawnKernel:
    """Draw the cut-off of a sinc kernel, from `lowest` to pi radians per pixel."""
    cutoff = uniform((lowest, math.pi), generator)
    return DrawnKernel(
        padded_kernel(sinc_kernel(size, cutoff=cutoff)), {"kernel": "sinc", "size px": size, "cut-off rad/px": cutoff}
    )


def no_kernel() -> DrawnKernel:
    """Return the kernel that changes nothing."""
    return DrawnKernel(padded_kernel(identity_kernel(1)), {"kernel": "none"})


def happens(probability: float, generator: torch.Generator) -> bool:
    """Draw whether something of a chance happens."""
    return torch.rand((), generator=generator).item() < probability


def choose(weights: Sequence[float], generator: torch.Generator) -> int:
    """Draw an index with probability proportional to its weight."""
    return int(torch.multinomial(torch.tensor(weights), 1, generator=generator).item())


def draw_one_of(options: Sequence[T], generator: torch.Generator) -> T:
    """Draw one of the options, each with the same chance."""
    return options[int(torch.randint(len(options), (), generator=generator).item())]


def uniform(limits: tuple[float, float], generator: torch.Generator) -> float:
    """Draw a number between two limits."""
    low, high = limits
    return low + (high - low) * torch.rand((), generator=generator).item()


def uniform_per_image(limits: tuple[float, float], count: int, generator: torch.Generator) -> PerSample:
    """Draw `count` numbers between two limits."""
    low, high = limits
    return low + (high - low) * torch.rand(count, generator=generator)


def draw_beta(limits: tuple[float, float], generator: torch.Generator) -> float:
    """Draw a shape exponent, as often below 1 as above it where the range holds 1."""
    low, high = limits
    if low <= 1 <= high:
        limits = (low, 1.0) if happens(0.5, generator) else (1.0, high)
    return uniform(limits, generator)
