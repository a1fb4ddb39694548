"""VSI: similarity of saliency, gradient and chroma, weighted by saliency; the reference's maps once."""

import math
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from sr_core.rewards.registry import Reference
from sr_core.tensors import Image, PerSample

Map = Float[Tensor, "1 1 h w"]
"""One value per pixel of one image."""

_SALIENCY_SIDE = 256
_LMN = ((0.06, 0.63, 0.27), (0.30, 0.04, -0.35), (0.34, -0.60, 0.17))
_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_WHITE_D50 = (0.9642, 1.0, 0.8251)
_C_SALIENCY, _C_GRADIENT, _C_CHROMA = 1.27, 386.0, 130.0
_ALPHA, _BETA = 0.4, 0.02


class VsiMaps(NamedTuple):
    """What VSI compares, reduced so that the shorter side has about 256 px."""

    saliency: Map
    """In [0, 1]."""
    gradient: Map
    """Scharr magnitude of the luminance-like channel L, 8-bit units."""
    chroma_m: Map
    chroma_n: Map


def vsi(images: Image, reference: Reference) -> PerSample:
    """Return the similarity of each image to one reference; 1 is identical.

        S = S_vs S_g^0.4 (S_m S_n)^0.02,   VSI = sum S max(vs_1, vs_2) / sum max(vs_1, vs_2)

    Source: VSI, doi 10.1109/TIP.2014.2346028, Eq. 4-10.
    """
    expected = vsi_maps(reference)
    return torch.cat([_pool(vsi_maps(image[None]), expected) for image in images])


def vsi_maps(image: Image) -> VsiMaps:
    """Return the maps of one image (batch 1) with pixels in [0, 1]."""
    factor = max(1, round(min(image.shape[-2:]) / _SALIENCY_SIDE))
    pixels = 255 * image
    light, m, n = torch.split(avg_pool2d(_mix(pixels, _LMN), factor), 1, dim=1)
    scharr = image.new_tensor([[3, 0, -3], [10, 0, -10], [3, 0, -3]]) / 16
    slopes = conv2d(light, torch.stack((scharr, scharr.T))[:, None], padding=1)
    gradient = slopes.square().sum(dim=1, keepdim=True).sqrt()
    return VsiMaps(avg_pool2d(saliency(image), factor), gradient, m, n)


def saliency(image: Image) -> Map:
    """Return where people look first, in [0, 1] and at image size: band-pass energy, centre and warm colours.

    Source: SDSP, doi 10.1109/ICIP.2013.6738036, Eq. 1-8.
    """
    small = interpolate(image, size=(_SALIENCY_SIDE, _SALIENCY_SIDE), mode="bilinear", align_corners=False)
    lab = _lab(small)
    band = torch.fft.irfft2(torch.fft.rfft2(lab) * _log_gabor().to(image), s=lab.shape[-2:])
    energy = band.square().sum(dim=1, keepdim=True).sqrt()
    warmth = _stretched(lab[:, 1:]).square().sum(dim=1, keepdim=True)
    prior = _centre_prior().to(image) * -torch.expm1(-warmth / 0.001**2)
    full = interpolate(energy * prior, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return _stretched(full)


def _pool(a: VsiMaps, b: VsiMaps) -> PerSample:
    chroma = _similarity(a.chroma_m, b.chroma_m, _C_CHROMA) * _similarity(a.chroma_n, b.chroma_n, _C_CHROMA)
    # A negative base has a complex power; its real part is what the authors' code keeps.
    sign = torch.where(chroma < 0, math.cos(math.pi * _BETA), 1.0)
    similarity = (
        _similarity(a.saliency, b.saliency, _C_SALIENCY)
        * _similarity(a.gradient, b.gradient, _C_GRADIENT) ** _ALPHA
        * (sign * chroma.abs() ** _BETA)
    )
    weight = torch.maximum(a.saliency, b.saliency).double()
    eps = torch.finfo(torch.float64).eps
    pooled = ((similarity * weight).sum(dim=(1, 2, 3)) + eps) / (weight.sum(dim=(1, 2, 3)) + eps)
    return pooled.to(a.saliency.dtype)


def _similarity(a: Map, b: Map, constant: float) -> Map:
    return (2 * a * b + constant) / (a.square() + b.square() + constant)


def _mix(image: Image, matrix: tuple[tuple[float, ...], ...]) -> Image:
    return conv2d(image, image.new_tensor(matrix)[:, :, None, None])


def _stretched(x: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c h w"]:
    """Map each channel's range to [0, 1]; a flat channel to 0."""
    low, high = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    return (x - low) / (high - low + torch.finfo(x.dtype).eps)


def _lab(image: Image) -> Image:
    """Return CIE L*a*b* (D50) of sRGB pixels in [0, 1]."""
    linear = torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    xyz = _mix(linear, _XYZ) / image.new_tensor(_WHITE_D50)[:, None, None]
    f = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), (903.3 * xyz + 16) / 116)
    x, y, z = torch.split(f, 1, dim=1)
    return torch.cat((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


@cache
def _log_gabor() -> Float[Tensor, "h v"]:
    """Return the band-pass on the half spectrum: centre 0.021 cycles per sample, bandwidth 1.34."""
    fy = torch.fft.fftfreq(_SALIENCY_SIDE, dtype=torch.float64)
    fx = torch.fft.rfftfreq(_SALIENCY_SIDE, dtype=torch.float64)
    radius = torch.hypot(fy[:, None], fx[None, :])
    response = torch.exp(-((radius / 0.021).log() ** 2) / (2 * 1.34**2))
    return torch.where(radius <= 0.5, response, 0)


@cache
def _centre_prior() -> Float[Tensor, "h w"]:
    """Return exp(-d^2 / 145^2) around the middle of the 256 x 256 saliency map."""
    offset = torch.arange(_SALIENCY_SIDE, dtype=torch.float64) + 1 - _SALIENCY_SIDE / 2
    return torch.exp(-(offset[:, None].square() + offset[None, :].square()) / 145**2)
