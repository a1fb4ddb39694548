"""Spectra of images and the distances between them.

Powers are |coefficient|^2 of orthonormal transforms of the mean-removed luma, and an ideal enlargement has its input's
powers times the ratio of their pixel counts. White noise of variance v has power v at every frequency for "dct"; for
"fft" the window, which is not divided out, leaves v times its mean square, (3/8)^2 = 0.14 on large planes. Frequencies
are in cycles per pixel; "extent" is the grid whose pixel is meant, where a picture is compared with a larger one.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sr_core.sobolev import dct2, sobolev_weights
from sr_core.tensors import Image, Latent, PerSample

LUMA = (0.299, 0.587, 0.114)
POWER_FLOOR = 1e-8
NATURAL_EXPONENT = 2.0
"""Power of natural images falls about as 1 / f^2."""
BAND_WIDTH = 1 / 32
"""Width of the bands of `band_energies`, in cycles per pixel."""

Basis = Literal["dct", "fft"]
"""What carries the frequencies: the orthonormal DCT-II, or the orthonormal FFT under a Hann window."""
Size = tuple[int, int]
"""Height and width in pixels."""


def luma(image: Image) -> Float[Tensor, "b h w"]:
    """Return Rec. 601 luma of sRGB-encoded pixels, in [0, 1]."""
    return torch.einsum("bchw,c->bhw", image.float(), torch.tensor(LUMA, device=image.device))


def windowed_power(grey: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Return the power spectrum |FFT|^2 / (h w) of the mean-removed, Hann-windowed plane; levels include the window."""
    height, width = grey.shape[-2:]
    rows = torch.hann_window(height, periodic=False, device=grey.device)
    columns = torch.hann_window(width, periodic=False, device=grey.device)
    centred = grey - grey.mean((-2, -1), keepdim=True)
    return torch.fft.fft2(centred * rows[:, None] * columns, norm="ortho").abs().square()


def dct_power(grey: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Return the squared orthonormal DCT-II of the mean-removed plane, whose sum is the plane's energy."""
    return dct2(grey - grey.mean((-2, -1), keepdim=True)).square()


POWERS: dict[Basis, Callable[[Float[Tensor, "b h w"]], Float[Tensor, "b h w"]]] = {
    "dct": dct_power,
    "fft": windowed_power,
}
"""The power spectrum of each basis, as large as the plane."""


@lru_cache(maxsize=8)
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


def decibels(power: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return how much stronger `power` is than `other`: 10 log10((P + 1e-8) / (R + 1e-8))."""
    return 10 * torch.log10((power + POWER_FLOOR) / (other + POWER_FLOOR))


def root_mean_square(levels: Float[Tensor, "b k"]) -> PerSample:
    """Return one number for a row of differences in dB; 0 only where all of them are 0."""
    return levels.square().mean(1).sqrt()


def radial_power(image: Image) -> Float[Tensor, "b k"]:
    """Return the mean power of the windowed luma per radial bin from 1 to Nyquist."""
    return radial_mean(windowed_power(luma(image)))[:, 1:]


def log_spectral_distance(image: Image, reference: Image) -> PerSample:
    """Return the root-mean-square difference of two radial power spectra, in dB; lower is better, 0 is equal.

    LSD = RMS_k 10 log10((P_k + 1e-8) / (R_k + 1e-8)),   k = 1 .. Nyquist
    """
    return root_mean_square(decibels(radial_power(image), radial_power(reference)))


def axis_frequencies(length: int, basis: Basis, extent: int) -> Float[Tensor, " n"]:
    """Return the frequency of each coefficient along one axis, in cycles per pixel of a grid of `extent` pixels."""
    if basis == "dct":
        return torch.arange(length, dtype=torch.float64) / (2 * extent)
    return torch.fft.fftfreq(length, dtype=torch.float64).abs() * (length / extent)


class Rings(NamedTuple):
    """Coefficients of a spectrum sorted by frequency, whatever their direction."""

    place: Int64[Tensor, "h w"]
    """Each coefficient's ring."""
    frequency: Float[Tensor, " k"]
    """Middle of each ring in cycles per pixel of the extent; ring 0 holds the mean, those beyond 1/2 the corners."""
    num_inside: Float[Tensor, " k"]
    """Coefficients in each ring."""


@lru_cache(maxsize=8)
def rings(size: Size, basis: Basis, extent: Size | None = None) -> Rings:
    """Return the rings of a spectrum of `size`: whole cycles per shorter side of the extent for "fft", half for "dct".

    The rings of an input with its enlargement's size as extent are those of the enlargement, as far as they go.
    """
    extent = extent or size
    fy, fx = (axis_frequencies(n, basis, m) for n, m in zip(size, extent, strict=True))
    steps = min(extent) * (2 if basis == "dct" else 1)
    if basis == "fft" and extent == size:
        place = radial_bins(*size)[0].long()
    else:
        place = (torch.hypot(fy[:, None], fx[None, :]) * steps).round().long()
    num_inside = torch.bincount(place.flatten()).double()
    return Rings(place, torch.arange(len(num_inside), dtype=torch.float64) / steps, num_inside)


def ring_sums(power: Float[Tensor, "b h w"], parts: Rings) -> Float[Tensor, "b k"]:
    """Return the energy in each ring in float64; over all rings it is the energy of the plane."""
    place, length = parts.place.flatten(), len(parts.num_inside)
    return torch.stack([torch.bincount(place, plane.flatten().double(), minlength=length) for plane in power])


def ring_means(power: Float[Tensor, "b h w"], parts: Rings) -> Float[Tensor, "b k"]:
    """Return the mean power in each ring in float64; an empty ring has none, 0."""
    return ring_sums(power, parts) / parts.num_inside.clamp_min(1)


class OctaveParts(NamedTuple):
    """Neighbouring rings taken together, so that every octave holds about as many parts."""

    group: Int64[Tensor, " k"]
    """Part of each ring, -1 for those left out: the mean, and the corners."""
    frequency: Float[Tensor, " n"]
    """Mean frequency of the coefficients in each part."""


def octave_parts(parts: Rings, per_octave: int) -> OctaveParts:
    """Return the parts of a spectrum between its mean and the Nyquist frequency of its extent, from low to high."""
    kept = (parts.frequency > 0) & (parts.frequency <= 0.5) & (parts.num_inside > 0)
    steps = (torch.log2(parts.frequency[kept] / parts.frequency[1]) * per_octave).round()
    group = torch.full_like(parts.frequency, -1, dtype=torch.int64)
    # Low octaves hold fewer rings than parts, so steps skip numbers that parts do not.
    group[kept] = torch.cat((steps.new_zeros(1), (steps.diff() > 0).to(steps).cumsum(0))).long()
    weight = parts.num_inside[kept]
    sums = torch.bincount(group[kept], weight * parts.frequency[kept])
    return OctaveParts(group, sums / torch.bincount(group[kept], weight))


def octave_means(sums: Float[Tensor, "b k"], parts: Rings, octaves: OctaveParts) -> Float[Tensor, "b n"]:
    """Return the mean power in each part of an octave from the energies in the rings."""
    kept = octaves.group >= 0
    place, length = octaves.group[kept], len(octaves.frequency)
    count = torch.bincount(place, parts.num_inside[kept], minlength=length)
    return torch.stack([torch.bincount(place, row[kept].double(), minlength=length) for row in sums]) / count


def num_below(parts: Rings, limit: float) -> int:
    """Return the number of rings that lie below a frequency with all of their width, the one of the mean included."""
    half = parts.frequency[1] / 2
    return int((parts.frequency + half <= limit).sum())


def nyquist(lq_size: Size, size: Size) -> float:
    """Return the highest frequency that a picture of `lq_size` holds in every direction, per pixel of `size`."""
    return 0.5 * min(n / m for n, m in zip(lq_size, size, strict=True))


def on_grid(power: Float[Tensor, "b k"], lq_size: Size, size: Size) -> Float[Tensor, "b k"]:
    """Return the powers that an ideal enlargement to `size` has where its input has `power`."""
    return power * (math.prod(size) / math.prod(lq_size))


def fidelity_levels(
    power: Float[Tensor, "b k"], lq_power: Float[Tensor, "1 j"], parts: Rings, limit: float
) -> Float[Tensor, "b n"]:
    """Return how far mean powers of rings lie above the input's, in dB, for every ring below `limit`; 0 is faithful.

    `lq_power` is the input's on the same rings and the same grid (`on_grid`). The mean over rings tells soft, below 0,
    from sharpened; the root-mean-square is the log-spectral distance below the input's Nyquist frequency.
    """
    chosen = slice(1, num_below(parts, limit))
    return decibels(power[:, chosen], lq_power[:, chosen].expand(len(power), -1))


def natural_amplitude(power: Float[Tensor, " k"], parts: Rings, limit: float) -> float:
    """Return A of the guide A / f^2 that runs through the rings up to `limit`: the mean of log(P f^2).

    The lowest ring shows the picture's layout alone and is left out; at least three others count.
    """
    chosen = slice(2, max(5, num_below(parts, limit)))
    products = (power + POWER_FLOOR)[chosen] * parts.frequency[: len(power)][chosen] ** NATURAL_EXPONENT
    return float(products.log().mean().exp())


@lru_cache(maxsize=8)
def beyond(size: Size, lq_size: Size, basis: Basis) -> Bool[Tensor, "h w"]:
    """Return which coefficients no picture of `lq_size` pixels holds: those at or above its Nyquist on either axis."""
    fy, fx = (_beyond_axis(n, m, basis) for n, m in zip(size, lq_size, strict=True))
    return fy[:, None] | fx[None, :]


def _beyond_axis(length: int, lq_length: int, basis: Basis) -> Bool[Tensor, " n"]:
    """Return which coefficients along one axis a picture of `lq_length` pixels lacks; none where it is as long."""
    steps = torch.arange(length)
    if length == lq_length:
        return torch.zeros(length, dtype=torch.bool)
    # Whole numbers, because a frequency at the limit may be rounded below it.
    return steps >= lq_length if basis == "dct" else 2 * torch.minimum(steps, length - steps) >= lq_length


@lru_cache(maxsize=8)
def _natural_energy(size: Size, lq_size: Size, basis: Basis) -> float:
    """Return the energy of 1 / f^2 beyond the band of `lq_size`."""
    fy, fx = (axis_frequencies(n, basis, n) for n in size)
    squares = (fy.square()[:, None] + fx.square()[None, :])[beyond(size, lq_size, basis)]
    return float((squares ** (-NATURAL_EXPONENT / 2)).sum())


def energy_beyond(power: Float[Tensor, "b h w"], lq_size: Size, basis: Basis) -> PerSample:
    """Return the energy at or above the Nyquist frequency of a picture of `lq_size`, in float64."""
    size = (power.shape[-2], power.shape[-1])
    return (power * beyond(size, lq_size, basis)).sum((-2, -1), dtype=torch.float64)


class Invention(NamedTuple):
    """Energy where the input has none."""

    share: PerSample
    """Of the energy of the plane without its mean, in [0, 1]."""
    level: PerSample
    """Mean power there in dB above that of the guide A / f^2; 0 is natural, NaN where the input reaches as far."""


def invention(
    energy: PerSample, total: PerSample, size: Size, lq_size: Size, *, amplitude: float, basis: Basis
) -> Invention:
    """Return how much of the energy `total` lies beyond the input's Nyquist frequency, where there is `energy`."""
    count = int(beyond(size, lq_size, basis).sum())
    share = torch.where(total > 0, energy / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
    natural = torch.full_like(energy, amplitude * _natural_energy(size, lq_size, basis))
    level = decibels(energy / count, natural / count) if count else torch.full_like(energy, math.nan)
    return Invention(share, level)


def residual_power(residual: Latent) -> Float[Tensor, "b h w"]:
    """Return each DCT-II coefficient's part of the mean square of a residual: their sum over the plane is that mean."""
    # One channel at a time fits a processor's cache.
    powers = [dct2(plane).square() for plane in residual.unbind(1)]
    return torch.stack(powers).sum(0) / residual[0].numel()


@lru_cache(maxsize=8)
def energy_bands(height: int, width: int) -> tuple[Int64[Tensor, "h w"], int]:
    """Return each DCT-II coefficient's band of `BAND_WIDTH` cycles per pixel, corners included, and their number."""
    fy, fx = axis_frequencies(height, "dct", height), axis_frequencies(width, "dct", width)
    place = (torch.hypot(fy[:, None], fx[None, :]) / BAND_WIDTH).long()
    return place, int(place.max()) + 1


def band_energies(power: Float[Tensor, "b h w"], exponent: float | int) -> Float[Tensor, "b k"]:
    """Return the Sobolev energy in each band from the `residual_power`, in float64.

    The sum over bands is `sobolev_energy` of the residual; exponent 0 gives the bands of the mean square.
    """
    height, width = power.shape[-2:]
    place, length = energy_bands(height, width)
    weights = sobolev_weights(height, width, float(exponent))
    flat = place.flatten()
    return torch.stack([torch.bincount(flat, (plane * weights).flatten(), minlength=length) for plane in power])
