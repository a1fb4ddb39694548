"""Photographs and their damaged versions, shared by the tests of the metrics."""

from pathlib import Path

import pytest
import torch

from sr_core.images import read_image
from sr_core.resampling import resize_clamped
from sr_core.tensors import Image

NAMES = ("125_big-indian.png", "190_bicycles_restarts.png", "460_astronaut.png")


def to_8bit(image: Image) -> Image:
    """Round pixels as a file would hold them."""
    return (image.clamp(0, 1) * 255).round() / 255


def blurred(image: Image) -> Image:
    """Lose every detail that a quarter of the size cannot hold."""
    height, width = image.shape[-2:]
    return to_8bit(resize_clamped(resize_clamped(image, height // 4, width // 4), height, width))


def noisy(image: Image, sigma: float) -> Image:
    """Add Gaussian noise; `sigma` in 8-bit units."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return to_8bit(image + sigma / 255 * noise)


@pytest.fixture(scope="session")
def crops(photos: Path) -> Image:
    """Return three photographs as one batch of 288 x 288 px."""
    images = [read_image(photos / "eval" / name).pixels[:, :, 100:388, 100:388] for name in NAMES]
    return torch.cat(images)


@pytest.fixture(scope="session")
def photo(crops: Image) -> Image:
    """Return one of them."""
    return crops[:1]
