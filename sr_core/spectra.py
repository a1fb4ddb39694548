"""Spectra of images and the distances between them."""

import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.tensors import Image, PerSample

LUMA = (0.299, 0.587, 0.114)
POWER_FLOOR = 1e-8


def luma(image: Image) -> Float[Tensor, "b h w"]:
    """Return Rec. 601 luma of sRGB-encoded pixels, in [0, 1]."""
    return torch.einsum("bchw,c->bhw", image.float(), torch.tensor(LUMA, device=image.device))


def windowed_power(grey: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Return the power spectrum |FFT|^2 / (h w) of the mean-removed, Hann-windowed plane."""
    height, width = grey.shape[-2:]
    rows = torch.hann_window(height, periodic=False, device=grey.device)
    columns = torch.hann_window(width, periodic=False, device=grey.device)
    centred = grey - grey.mean((-2, -1), keepdim=True)
    return torch.fft.fft2(centred * rows[:, None] * columns, norm="ortho").abs().square()


def radial_bins(height: int, width: int) -> tuple[Float[Tensor, "h w"], int]:
    """Return each FFT coefficient's bin and the number of bins.

    Bin k holds frequencies of about k cycles per shorter side, up to that side's Nyquist frequency; bin 0 is DC and
    bins beyond the last hold the corners.
    """
    side = min(height, width)
    fy = torch.fft.fftfreq(height)[:, None]
    fx = torch.fft.fftfreq(width)[None, :]
    return (torch.sqrt(fy.square() + fx.square()) * side).round(), side // 2 + 1


def radial_mean(power: Float[Tensor, "b h w"]) -> Float[Tensor, "b k"]:
    """Return the mean power per radial bin, DC included, corners left out."""
    bins, count = radial_bins(*power.shape[-2:])
    flat = bins.flatten().long().to(power.device)
    keep = flat < count
    sums = torch.zeros(len(power), count, device=power.device, dtype=power.dtype)
    sums.index_add_(1, flat[keep], power.flatten(1)[:, keep])
    return sums / torch.bincount(flat[keep], minlength=count).clamp_min(1)


def log_spectral_distance(image: Image, reference: Image) -> PerSample:
    """Return the root-mean-square difference of two radial power spectra, in dB; lower is better, 0 is equal.

    LSD = RMS_k 10 log10((P_k + 1e-8) / (R_k + 1e-8)),   k = 1 .. Nyquist
    """
    spectra = (radial_mean(windowed_power(luma(x)))[:, 1:] + POWER_FLOOR for x in (image, reference))
    own, other = spectra
    return (10 * torch.log10(own / other)).square().mean(1).sqrt()
