"""Spectra of a run's pictures, and what two objectives see in a pair of them, gathered as arrays.

The 8-bit pixels count that are scored. Pictures above `MAX_PIXELS` are judged by their centre crop of the same shape,
and the report says so; only the distance to a reference is always of the whole picture. Results are kept in memory for
as long as their files stay the same.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from math import gcd, prod, sqrt
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sr_core.errors import InputError
from sr_core.images import from_uint8, read_image
from sr_core.resampling import resize_clamped
from sr_core.runs import Run, reference_file
from sr_core.scoring import local_pixels
from sr_core.sobolev import sobolev_weights
from sr_core.spectra import (
    BAND_WIDTH,
    NATURAL_EXPONENT,
    POWERS,
    Basis,
    OctaveParts,
    Rings,
    Size,
    axis_frequencies,
    band_energies,
    decibels,
    energy_beyond,
    fidelity_levels,
    invention,
    luma,
    natural_amplitude,
    num_below,
    nyquist,
    octave_means,
    octave_parts,
    on_grid,
    radial_mean,
    radial_power,
    residual_power,
    ring_sums,
    rings,
    root_mean_square,
)
from sr_core.tensors import Image

MAX_PIXELS = 1024 * 1024
"""Larger outputs are judged by a centre crop of at most so many pixels."""
MAX_TRIM = 1 / 32
"""Part of a crop's side that is given up so that its corners lie on whole pixels of input and output."""
PARTS_PER_OCTAVE = 12
"""Points of a curve per doubling of the frequency."""
NUM_READERS = 2
"""Files that are read and transformed at once."""
BASES: tuple[Basis, ...] = ("dct", "fft")

Numbers: TypeAlias = NDArray[np.float64]
Target = Literal["reference", "prior", "input"]
"""What residuals and distances are taken from."""


class Crop(NamedTuple):
    """The centre of a run's pictures that is judged."""

    lq_size: Size
    """Its height and width in the input's pixels."""
    size: Size
    """Its height and width in the output's pixels."""
    output_size: Size
    """The whole output's."""
    lq_corner: tuple[int, int] = (0, 0)
    """Its top and left in the input's pixels."""
    corner: tuple[int, int] = (0, 0)
    """The same place in the output's pixels."""

    @property
    def whole(self) -> bool:
        """Whether it is all of the picture."""
        return self.size == self.output_size


@dataclass(frozen=True, kw_only=True)
class PictureSpectrum:
    """What one picture's spectrum says, by basis where it depends on one."""

    power: Mapping[Basis, Numbers]
    """Mean power at the report's frequencies."""
    distance: float
    """If there is a reference, the `log_spectral_distance` of the whole picture to it, else the root-mean-square level
    below the input's Nyquist frequency against the input's, of Hann-windowed spectra; in dB."""
    fidelity: Mapping[Basis, float]
    """Mean level below the input's Nyquist frequency against the input's, in dB: soft below 0, sharpened above."""
    share: Mapping[Basis, float]
    """Share of the energy, without the mean, that lies where the input has none."""
    level: Mapping[Basis, float]
    """That energy against the 1 / f^2 continuation of the input's low frequencies, in dB; NaN at factor 1."""


@dataclass(frozen=True, kw_only=True)
class SpectralReport:
    """Spectra of one run's pictures at common frequencies."""

    crop: Crop
    nyquist: float
    """The input's Nyquist frequency in cycles per output pixel."""
    frequency: Mapping[Basis, Numbers]
    """In cycles per output pixel, from low to about 1/2."""
    guide: Mapping[Basis, Numbers]
    """The natural 1 / f^2 at those frequencies, anchored at the input's low ones."""
    lq_power: Mapping[Basis, Numbers]
    """The input's own powers, on the output's grid, for as many frequencies as lie below its Nyquist frequency."""
    target: Target
    """What distances are taken to: the reference or the input."""
    pictures: Mapping[str, PictureSpectrum]
    """By id, as `run_pictures` names them; "input" is enlarged by bicubic."""

    def relative(self, picture: str, basis: Basis) -> Numbers:
        """Return a picture's level in dB: against the input's own below its Nyquist frequency, the guide's above."""
        own = self.lq_power[basis]
        base = np.concatenate((own, self.guide[basis][len(own) :]))
        power = self.pictures[picture].power[basis]
        return np.asarray(decibels(torch.from_numpy(power), torch.from_numpy(base)).numpy(), dtype=np.float64)


class PairBands(NamedTuple):
    """By how much more residual energy the loser has than the winner, band by band; positive backs the preference."""

    edges: Numbers
    """Frequencies between which the bands lie, in cycles per output pixel; one more than bands."""
    plain: Numbers
    """As plain DPO counts it: the sum is the difference of mean square errors."""
    sobolev: Numbers
    """As Sobolev-DPO counts it: the sum is the difference of Sobolev energies."""
    target: Target
    """What the residuals are taken from."""


class _File(NamedTuple):
    """A file's place and what changes when its content does."""

    path: Path
    modified_ns: int
    num_bytes: int


class _Measured(NamedTuple):
    """Energies of one picture by basis."""

    sums: Mapping[Basis, Float[Tensor, "1 k"]]
    """In each ring."""
    beyond: Mapping[Basis, float]
    """Where the input has none."""
    radial: Float[Tensor, "1 k"] | None
    """The `radial_power` of the whole picture, for the distance to a reference."""


class _Input(NamedTuple):
    """The input as it is, and enlarged."""

    means: Mapping[Basis, Float[Tensor, "1 k"]]
    """Its own powers on the rings and the grid of the output, as far as they go."""
    enlarged: _Measured


class _Axis(NamedTuple):
    """Where the energies of a run's pictures lie, for one basis."""

    parts: Rings
    octaves: OctaveParts
    amplitude: float
    """A of the natural guide A / f^2."""

    @property
    def frequency(self) -> Numbers:
        """Frequencies of the parts of octaves, in cycles per output pixel."""
        return np.asarray(self.octaves.frequency.numpy(), dtype=np.float64)


def run_pictures(run: Run) -> dict[str, Path]:
    """Return a run's pictures by id: "input", "prior", "reference" and "candidate-<index>", those that have a file.

    Raises InputError if the reference is gone.
    """
    reference = reference_file(run)
    named = {
        "input": run.values["input"]["file"],
        "prior": run.values.get("prior"),
        "reference": None if reference is None else reference.name,
        **{f"candidate-{record.index}": record.file for record in run.candidates},
    }
    return {name: run.folder / str(file) for name, file in named.items() if file is not None}


def centre_crop(lq_size: Size, size: Size) -> Crop:
    """Return the crop that is judged: everything, or the centre of the same shape with at most `MAX_PIXELS`."""
    factor = sqrt(MAX_PIXELS / prod(size))
    if factor >= 1:
        return Crop(lq_size, size, size)
    height, width = (_centred(lq, n, factor) for lq, n in zip(lq_size, size, strict=True))
    (lq_top, lq_height, top, rows), (lq_left, lq_width, left, columns) = height, width
    return Crop((lq_height, lq_width), (rows, columns), size, (lq_top, lq_left), (top, left))


def _centred(lq_length: int, length: int, factor: float) -> tuple[int, int, int, int]:
    """Return start and length of the middle `factor` of one axis, in the input's pixels and in the output's.

    Both name the same place exactly where the sides share a divisor that is not too small, else to half a pixel.
    """
    step = lq_length // gcd(lq_length, length)
    if step > MAX_TRIM * factor * lq_length:
        step = 1
    used = int(lq_length * factor) // step * step
    start = (lq_length - used) // 2 // step * step
    return start, used, round(start * length / lq_length), used * length // lq_length


def spectral_report(run: Run) -> SpectralReport:
    """Return the spectra of a run's pictures; raises InputError if a file cannot be used."""
    files = tuple((name, _stamped(path)) for name, path in run_pictures(run).items())
    return _report(files, _crop(run))


@lru_cache(maxsize=16)
def _report(stamped: tuple[tuple[str, _File], ...], crop: Crop) -> SpectralReport:
    files = dict(stamped)
    with ThreadPoolExecutor(NUM_READERS) as pool:
        tasks = {
            name: pool.submit(_measured_file, file, crop, name == "reference", "reference" in files)
            for name, file in files.items()
            if name != "input"
        }
        own = _measured_input(files["input"], crop, "reference" in files)
        measured = {"input": own.enlarged, **{name: task.result() for name, task in tasks.items()}}
    limit, axes = nyquist(crop.lq_size, crop.size), _axes(own, crop)
    reference = measured.get("reference")
    return SpectralReport(
        crop=crop,
        nyquist=limit,
        frequency={basis: axes[basis].frequency for basis in BASES},
        guide={basis: axes[basis].amplitude / axes[basis].frequency ** NATURAL_EXPONENT for basis in BASES},
        lq_power={basis: _power_below(own.means[basis], axes[basis], limit) for basis in BASES},
        target="input" if reference is None else "reference",
        pictures={name: _judged(one, own, reference, crop, axes) for name, one in measured.items()},
    )


def _axes(own: _Input, crop: Crop) -> dict[Basis, _Axis]:
    limit, axes = nyquist(crop.lq_size, crop.size), {}
    for basis in BASES:
        parts = rings(crop.size, basis)
        amplitude = natural_amplitude(own.means[basis][0], parts, limit / 4)
        axes[basis] = _Axis(parts, octave_parts(parts, PARTS_PER_OCTAVE), amplitude)
    return axes


def _power_below(means: Float[Tensor, "1 k"], axis: _Axis, limit: float) -> Numbers:
    """Return the input's mean power in the parts of octaves that lie below its Nyquist frequency."""
    parts, octaves = axis.parts, axis.octaves
    sums = torch.zeros(1, len(parts.num_inside), dtype=means.dtype)
    sums[:, : means.shape[1]] = means * parts.num_inside[: means.shape[1]]
    # The part of the first ring that is not wholly below is not either.
    below = int(octaves.group[: num_below(parts, limit) + 1].max())
    powers: Numbers = octave_means(sums, parts, octaves)[0, :below].numpy()
    return powers


def pair_bands(run: Run, winner: int, loser: int, exponent: float | int) -> PairBands:
    """Return what plain DPO and Sobolev-DPO see in a pair of candidates, given by index.

    The candidates stand for the model's answers; residuals are taken from the reference, else the prior, else the
    enlarged input, over all three channels. Raises InputError if a file cannot be used or is not there.
    """
    files, crop = run_pictures(run), _crop(run)
    order: tuple[Target, ...] = ("reference", "prior", "input")
    target = next(name for name in order if name in files)
    for index in (winner, loser):
        if f"candidate-{index}" not in files:
            raise InputError(f"a pair must be of candidates that have a picture, got candidate {index + 1}")
    pair = [_stamped(files[f"candidate-{index}"]) for index in (winner, loser)]
    base = _stamped(files[target])
    seen: list[Numbers] = []
    for s in (0.0, float(exponent)):
        of_winner, of_loser = (_bands(file, base, target, crop, s) for file in pair)
        seen.append(of_loser - of_winner)
    plain, sobolev = seen
    return PairBands(np.linspace(0, len(plain) * BAND_WIDTH, len(plain) + 1), plain, sobolev, target)


def weight_curve(run: Run, exponent: float | int) -> tuple[Numbers, Numbers]:
    """Return frequencies along one axis, in cycles per output pixel, and their Sobolev weights (mean one)."""
    height, width = _crop(run).size
    weights = sobolev_weights(height, width, float(exponent))[:, 0]
    return axis_frequencies(height, "dct", height).numpy(), weights.numpy()


def _crop(run: Run) -> Crop:
    width, height = run.values["size"]
    photo = run.values["input"]
    return centre_crop((photo["height"], photo["width"]), (height, width))


def _stamped(path: Path) -> _File:
    try:
        state = path.stat()
    except OSError:
        raise InputError(f"{path.name} must lie in the run's folder, but it is not there any more") from None
    return _File(path, state.st_mtime_ns, state.st_size)


def _cut(image: Image, corner: tuple[int, int], size: Size) -> Float[Tensor, "b 3 _ _"]:
    (top, left), (height, width) = corner, size
    return image[..., top : top + height, left : left + width].contiguous()


def _whole(file: _File, crop: Crop, *, handed_in: bool) -> Image:
    """Return a picture of the output's size; what a visitor handed in is decoded apart."""
    image = read_image(file.path).pixels if handed_in else from_uint8(local_pixels(file.path))
    if tuple(image.shape[-2:]) != crop.output_size:
        height, width = crop.output_size
        raise InputError(
            f"{file.path.name} must measure {width} x {height} px like the run's output, "
            f"got {image.shape[-1]} x {image.shape[-2]}"
        )
    return image


def _measured(image: Image, crop: Crop, to_reference: bool) -> _Measured:
    grey, sums, beyond = luma(_cut(image, crop.corner, crop.size)), {}, {}
    radial: Float[Tensor, "1 k"] | None = None
    for basis in BASES:
        power = POWERS[basis](grey)
        sums[basis] = ring_sums(power, rings(crop.size, basis))
        beyond[basis] = float(energy_beyond(power, crop.lq_size, basis))
        if basis == "fft" and to_reference:
            # The whole picture's spectrum is the one just taken, unless only a crop was judged.
            radial = radial_mean(power)[:, 1:] if crop.whole else radial_power(image)
    return _Measured(sums, beyond, radial)


@lru_cache(maxsize=256)
def _measured_file(file: _File, crop: Crop, handed_in: bool, to_reference: bool) -> _Measured:
    return _measured(_whole(file, crop, handed_in=handed_in), crop, to_reference)


@lru_cache(maxsize=32)
def _measured_input(file: _File, crop: Crop, to_reference: bool) -> _Input:
    image = read_image(file.path).pixels
    grey, means = luma(_cut(image, crop.lq_corner, crop.lq_size)), {}
    for basis in BASES:
        parts = rings(crop.lq_size, basis, crop.size)
        sums = ring_sums(POWERS[basis](grey), parts)
        means[basis] = on_grid(sums / parts.num_inside.clamp_min(1), crop.lq_size, crop.size)
    return _Input(means, _measured(resize_clamped(image, *crop.output_size), crop, to_reference))


def _judged(
    one: _Measured, own: _Input, reference: _Measured | None, crop: Crop, axes: Mapping[Basis, _Axis]
) -> PictureSpectrum:
    """Return what a picture's energies say beside the input's and the reference's."""
    limit = nyquist(crop.lq_size, crop.size)
    levels, fidelity, power, share, level = {}, {}, {}, {}, {}
    for basis in BASES:
        parts, octaves, amplitude = axes[basis]
        sums, energy = one.sums[basis], torch.tensor([one.beyond[basis]], dtype=torch.float64)
        power[basis] = octave_means(sums, parts, octaves)[0].numpy()
        levels[basis] = fidelity_levels(sums / parts.num_inside.clamp_min(1), own.means[basis], parts, limit)
        fidelity[basis] = float(levels[basis].mean())
        found = invention(energy, sums.sum(1), crop.size, crop.lq_size, amplitude=amplitude, basis=basis)
        share[basis], level[basis] = float(found.share), float(found.level)
    distance = float(root_mean_square(levels["fft"]))
    if reference is not None and one.radial is not None and reference.radial is not None:
        distance = float(root_mean_square(decibels(one.radial, reference.radial)))
    return PictureSpectrum(power=power, distance=distance, fidelity=fidelity, share=share, level=level)


@lru_cache(maxsize=4)
def _target_pixels(file: _File, target: Target, crop: Crop) -> Image:
    if target == "input":
        whole = resize_clamped(read_image(file.path).pixels, *crop.output_size)
    else:
        whole = _whole(file, crop, handed_in=target == "reference")
    return _cut(whole, crop.corner, crop.size)


@lru_cache(maxsize=16)
def _residual_power(file: _File, base: _File, target: Target, crop: Crop) -> Float[Tensor, "1 h w"]:
    pixels = _cut(_whole(file, crop, handed_in=False), crop.corner, crop.size)
    return residual_power(pixels - _target_pixels(base, target, crop))


@lru_cache(maxsize=1024)
def _bands(file: _File, base: _File, target: Target, crop: Crop, exponent: float) -> Numbers:
    bands: Numbers = band_energies(_residual_power(file, base, target, crop), exponent)[0].numpy()
    return bands
