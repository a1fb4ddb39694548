"""Blur kernels of the degradation model, and the convolution that applies one per image.

Every kernel is a square of odd side that sums to 1; sigmas are in pixels, angles and cut-offs in radians.
Source: Real-ESRGAN, arXiv 2107.10833, Sec. 3.1 and 3.3.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from sr_core.tensors import Image

MAX_KERNEL_SIZE = 21
"""Side in pixels that all kernels of a batch are padded to."""


def _offsets(size: int) -> tuple[Tensor, Tensor]:
    """Return the horizontal and vertical distances in pixels from the middle of a square grid."""
    steps = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    vertical, horizontal = torch.meshgrid(steps, steps, indexing="ij")
    return horizontal, vertical


def _squared_distance(size: int, sigma_x: float, sigma_y: float, angle: float) -> Tensor:
    """Return the squared Mahalanobis distance d^2 = o^T S^-1 o, S = R(angle) diag(sigma^2) R(angle)^T."""
    horizontal, vertical = _offsets(size)
    along = horizontal * math.cos(angle) + vertical * math.sin(angle)
    across = vertical * math.cos(angle) - horizontal * math.sin(angle)
    return (along / sigma_x).square() + (across / sigma_y).square()


def _normalised(kernel: Tensor) -> Float[Tensor, "size size"]:
    return (kernel / kernel.sum()).float()


def gaussian_kernel(
    size: int, *, sigma_x: float, sigma_y: float, angle: float = 0.0, beta: float = 1.0
) -> Float[Tensor, "size size"]:
    """Return a generalised Gaussian kernel; equal sigmas make it isotropic, beta 1 an ordinary Gaussian.

        kernel = exp(-(d^2)^beta / 2), normalised

    Source: Real-ESRGAN, arXiv 2107.10833, Sec. 3.1.
    """
    return _normalised(torch.exp(-0.5 * _squared_distance(size, sigma_x, sigma_y, angle) ** beta))


def plateau_kernel(
    size: int, *, sigma_x: float, sigma_y: float, angle: float = 0.0, beta: float = 1.0
) -> Float[Tensor, "size size"]:
    """Return a plateau-shaped kernel; a larger beta makes the top flatter and the flank steeper.

        kernel = 1 / (1 + (d^2)^beta), normalised

    Source: Real-ESRGAN, arXiv 2107.10833, Sec. 3.1.
    """
    return _normalised(1 / (1 + _squared_distance(size, sigma_x, sigma_y, angle) ** beta))


def sinc_kernel(size: int, *, cutoff: float) -> Float[Tensor, "size size"]:
    """Return the circular low-pass kernel with `cutoff` in (0, pi] radians per pixel; its lobes are negative.

        kernel = cutoff J1(cutoff r) / (2 pi r), and cutoff^2 / (4 pi) at r = 0, normalised

    Source: Real-ESRGAN, arXiv 2107.10833, Sec. 3.3.
    """
    radius = torch.hypot(*_offsets(size))
    middle = radius == 0
    radius = radius.masked_fill(middle, 1.0)
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    return _normalised(kernel.masked_fill(middle, cutoff**2 / (4 * math.pi)))


def identity_kernel(size: int) -> Float[Tensor, "size size"]:
    """Return the kernel that changes nothing."""
    kernel = torch.zeros(size, size)
    kernel[size // 2, size // 2] = 1
    return kernel


def padded_kernel(kernel: Float[Tensor, "s s"], size: int = MAX_KERNEL_SIZE) -> Float[Tensor, "size size"]:
    """Return the kernel with a border of zeros, `size` pixels on a side."""
    return F.pad(kernel, [(size - kernel.shape[-1]) // 2] * 4)


def reflect_pad(image: Float[Tensor, "b c h w"], rows: int, columns: int) -> Float[Tensor, "b c h2 w2"]:
    """Mirror the image about its border pixels, repeatedly where it is smaller than the border."""

    def mirrored(length: int, border: int) -> Tensor:
        positions = torch.arange(-border, length + border, device=image.device)
        period = max(2 * (length - 1), 1)
        positions = positions.remainder(period)
        return torch.minimum(positions, period - positions).clamp(max=length - 1)

    height, width = image.shape[-2:]
    return image.index_select(-2, mirrored(height, rows)).index_select(-1, mirrored(width, columns))


def blur(image: Image, kernels: Float[Tensor, "b s s"]) -> Image:
    """Convolve each image with its own kernel under mirrored borders; values are not clamped."""
    batch, channels, height, width = image.shape
    border = kernels.shape[-1] // 2
    planes = reflect_pad(image, border, border).reshape(1, batch * channels, height + 2 * border, -1)
    weight = kernels.repeat_interleave(channels, dim=0)[:, None]
    return F.conv2d(planes, weight, groups=batch * channels).reshape(batch, channels, height, width)
