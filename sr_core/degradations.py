"""HQ -> LQ synthesis with every published parameter set.

Order: blur, resize, noise, JPEG; optionally blur, resize, noise again; then, in either order with equal
chance, JPEG and the reduction to a quarter of the side followed by a sinc filter; clamp and round to 8 bits.
Resize factor, interpolation and kind of noise are drawn per batch, all strengths and kernels per image, so
small batches are more diverse. Source: Real-ESRGAN, arXiv 2107.10833.
"""

import difflib
import io
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor

from sr_core.blur_kernels import (
    blur,
    gaussian_kernel,
    identity_kernel,
    padded_kernel,
    plateau_kernel,
    reflect_pad,
    sinc_kernel,
)
from sr_core.degradation_presets import PRESETS, DegradationPreset, StageParameters
from sr_core.errors import ConfigError, InputError
from sr_core.resampling import resize
from sr_core.tensors import Image, PerSample

__all__ = [
    "PRESETS",
    "SCALE",
    "DegradationPreset",
    "StageParameters",
    "degradation_preset",
    "degrade",
    "draw_kernel",
    "target",
    "usm_sharpen",
]

SCALE = 4
"""HQ side divided by LQ side."""

Quarter = Float[Tensor, "b 3 h//4 w//4"]
"""Pixels like `Image`, a quarter of the side of the function's image."""

Resized = Float[Tensor, "b 3 H W"]
"""Pixels like `Image`, of another size than the function's image."""

T = TypeVar("T")

_MODES = ("area", "bilinear", "bicubic")
_USM_SIZE, _USM_SIGMA = 51, 8.0
_LUMA = (0.2989, 0.587, 0.114)


def degradation_preset(name: str) -> DegradationPreset:
    """Return the published parameter set of that name. Raises ConfigError with near matches if unknown."""
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else "choose one of them"
    raise ConfigError(f"degradation must be one of {', '.join(PRESETS)}, got {name!r}; {hint}")


def degrade(hq: Image, preset: DegradationPreset | str, *, generator: torch.Generator) -> Quarter:
    """Synthesise the LQ of each HQ: a quarter of the side, on the 8-bit grid, on the device of `hq`.

    Works on the CPU with a CPU generator, so that a seed gives the same pixels on every machine of one kind.
    Raises InputError if the sides are not multiples of 4 and ConfigError if the preset is unknown.
    """
    preset = degradation_preset(preset) if isinstance(preset, str) else preset
    height, width = hq.shape[-2:]
    if height % SCALE or width % SCALE or not hq.numel():
        raise InputError(
            f"HQ sides must be positive multiples of {SCALE}, got {width} x {height} px; crop the image first"
        )
    source = hq.detach().float().cpu()
    if preset.usm_sharpen_target:
        source = usm_sharpen(source)
    clean = torch.rand(len(source), generator=generator) < preset.clean_prob
    lq = torch.empty(len(source), 3, height // SCALE, width // SCALE)
    if clean.any():
        lq[clean] = _clean_reduction(source[clean], preset, generator)
    if not clean.all():
        lq[~clean] = _synthesised(source[~clean], preset, generator)
    return _on_8_bit_grid(lq).to(hq.device)


def target(hq: Image, preset: DegradationPreset | str, *, sharpen: bool = False) -> Image:
    """Return the training target: the HQ itself or, with `sharpen`, the unsharp-masked HQ of the publication.

    Raises ConfigError if sharpening is asked for and the preset does not publish it.
    """
    preset = degradation_preset(preset) if isinstance(preset, str) else preset
    if sharpen and not preset.usm_sharpen_target:
        raise ConfigError("sharpen must be off for a preset without unsharp masking; choose another preset")
    return usm_sharpen(hq) if sharpen else hq


def usm_sharpen(image: Image) -> Image:
    """Sharpen by a soft unsharp mask: Gaussian of 51 px (sigma 8), weight 0.5, threshold 10/255.

    Source: Real-ESRGAN, arXiv 2107.10833, released code.
    """
    detail = image - _usm_blur(image)
    mask = _usm_blur((detail.abs() * 255 > 10).to(image.dtype))
    sharp = (image + 0.5 * detail).clamp(0, 1)
    return mask * sharp + (1 - mask) * image


def draw_kernel(stage: StageParameters, generator: torch.Generator) -> Float[Tensor, "21 21"]:
    """Draw one blur kernel of the stage, padded with zeros to 21 x 21."""
    size = _draw_one_of(stage.kernel_sizes, generator)
    if _happens(stage.sinc_prob, generator):
        lowest = math.pi / 3 if size < 13 else math.pi / 5
        return padded_kernel(sinc_kernel(size, cutoff=_uniform((lowest, math.pi), generator)))
    kind = _choose(stage.kernel_probs, generator)
    sigma_x = sigma_y = _uniform(stage.blur_sigma_range, generator)
    angle = 0.0
    if kind % 2:  # odd kinds are the anisotropic ones
        sigma_y = _uniform(stage.blur_sigma_range, generator)
        angle = _uniform((-math.pi, math.pi), generator)
    beta, shape = 1.0, gaussian_kernel
    if kind in (2, 3):
        beta = _draw_beta(stage.betag_range, generator)
    if kind in (4, 5):
        beta, shape = _draw_beta(stage.betap_range, generator), plateau_kernel
    return padded_kernel(shape(size, sigma_x=sigma_x, sigma_y=sigma_y, angle=angle, beta=beta))


def _synthesised(image: Image, preset: DegradationPreset, generator: torch.Generator) -> Quarter:
    """Run the stages and the final step on images that are not chosen to stay clean."""
    assert preset.first is not None, "a preset without a first stage keeps every image clean"
    height, width = image.shape[-2] // SCALE, image.shape[-1] // SCALE
    image = _blurred(image, preset.first, generator)
    image = _resized(image, preset.first, (SCALE * height, SCALE * width), generator)
    image = _noised(image, preset.first, generator)
    if preset.first.jpeg_range is not None:
        image = _jpeg(image, _uniform_per_image(preset.first.jpeg_range, len(image), generator))
    if preset.second is not None and _happens(preset.second_stage_prob, generator):
        if _happens(preset.second_blur_prob, generator):
            image = _blurred(image, preset.second, generator)
        # The second stage's factors are relative to the LQ, not to what the first stage left.
        image = _resized(image, preset.second, (height, width), generator)
        image = _noised(image, preset.second, generator)
    return _finished(image, preset, (height, width), generator)


def _finished(image: Image, preset: DegradationPreset, size: tuple[int, int], generator: torch.Generator) -> Resized:
    """Reduce to the LQ size with the final sinc filter, and compress before or after it."""
    if preset.final_jpeg_range is None:
        return _reduced(image, preset, size, generator)
    quality = _uniform_per_image(preset.final_jpeg_range, len(image), generator)
    if _happens(0.5, generator):
        return _jpeg(_reduced(image, preset, size, generator), quality)
    return _reduced(_jpeg(image, quality), preset, size, generator)


def _reduced(image: Image, preset: DegradationPreset, size: tuple[int, int], generator: torch.Generator) -> Resized:
    image = _interpolated(image, size, _draw_one_of(_MODES, generator))
    filtered = torch.rand(len(image), generator=generator) < preset.final_sinc_prob
    if not filtered.any():
        return image
    kernels = []
    for chosen in filtered.tolist():
        kernel = identity_kernel(1)
        if chosen:
            side = _draw_one_of(preset.final_sinc_kernel_sizes, generator)
            kernel = sinc_kernel(side, cutoff=_uniform((math.pi / 3, math.pi), generator))
        kernels.append(padded_kernel(kernel))
    return blur(image, torch.stack(kernels))


def _clean_reduction(image: Image, preset: DegradationPreset, generator: torch.Generator) -> Quarter:
    lq = resize(image, image.shape[-2] // SCALE, image.shape[-1] // SCALE)
    if preset.clean_jpeg_range is None:
        return lq
    return _jpeg(lq, _uniform_per_image(preset.clean_jpeg_range, len(lq), generator))


def _blurred(image: Image, stage: StageParameters, generator: torch.Generator) -> Image:
    return blur(image, torch.stack([draw_kernel(stage, generator) for _ in image]))


def _resized(image: Image, stage: StageParameters, base: tuple[int, int], generator: torch.Generator) -> Resized:
    """Resize to a drawn factor of the base size (height, width)."""
    direction = _choose(stage.resize_prob, generator)
    low, high = stage.resize_range
    factor = _uniform(((1.0, high), (low, 1.0), (1.0, 1.0))[direction], generator)
    size = (max(1, int(base[0] * factor)), max(1, int(base[1] * factor)))
    return _interpolated(image, size, _draw_one_of(_MODES, generator))


def _interpolated(image: Image, size: tuple[int, int], mode: str) -> Resized:
    """Resize without antialiasing, as the published pipelines do: aliasing is part of the degradation."""
    return image if image.shape[-2:] == size else F.interpolate(image, size=size, mode=mode)


def _noised(image: Image, stage: StageParameters, generator: torch.Generator) -> Image:
    gaussian = _happens(stage.gaussian_noise_prob, generator)
    gray = torch.rand(len(image), generator=generator) < stage.gray_noise_prob
    if gaussian:
        strength = _uniform_per_image(stage.noise_range, len(image), generator) / 255
        noise = _gaussian_noise(image, gray, generator)
    else:
        strength = _uniform_per_image(stage.poisson_scale_range, len(image), generator)
        noise = _poisson_noise(image, gray, generator)
    return (image + strength[:, None, None, None] * noise).clamp(0, 1)


def _gaussian_noise(image: Image, gray: Bool[Tensor, " b"], generator: torch.Generator) -> Image:
    noise = torch.randn(image.shape, generator=generator)
    return torch.where(gray[:, None, None, None], noise[:, :1], noise)


def _poisson_noise(image: Image, gray: Bool[Tensor, " b"], generator: torch.Generator) -> Image:
    """Return shot noise at scale 1: the fewer distinct values an image has, the fewer photons it counts."""
    image = _on_8_bit_grid(image)
    noise = []
    for pixels, is_gray in zip(image, gray.tolist(), strict=True):
        signal = pixels
        if is_gray:
            signal = _on_8_bit_grid((pixels * pixels.new_tensor(_LUMA)[:, None, None]).sum(0, keepdim=True))
        counts = torch.bincount((signal * 255).round().long().flatten(), minlength=256)
        photons = 2.0 ** math.ceil(math.log2(int((counts > 0).sum())))
        drawn = torch.poisson(signal * photons, generator=generator) / photons
        noise.append((drawn - signal).expand(3, -1, -1))
    return torch.stack(noise)


def _jpeg(image: Image, quality: PerSample) -> Image:
    """Encode and decode each image as a baseline JPEG with 4:2:0 chroma at its own quality (1 to 100)."""
    pixels = (_on_8_bit_grid(image) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    decoded = []
    for array, level in zip(pixels, quality.round().int().tolist(), strict=True):
        stream = io.BytesIO()
        picture = PIL.Image.fromarray(np.ascontiguousarray(array))
        picture.save(stream, "JPEG", quality=level, subsampling="4:2:0")
        decoded.append(np.asarray(PIL.Image.open(stream)))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float() / 255


def _on_8_bit_grid(image: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return (image.clamp(0, 1) * 255 + 0.5).floor() / 255


def _usm_blur(image: Image) -> Image:
    # A Gaussian's margin is the Gaussian of one dimension, so two thin passes equal the square kernel.
    line = gaussian_kernel(_USM_SIZE, sigma_x=_USM_SIGMA, sigma_y=_USM_SIGMA).sum(0).to(image)
    border = _USM_SIZE // 2
    planes = reflect_pad(image, border, border).flatten(0, 1)[None]
    count = planes.shape[1]  # one group per plane is what runs fast on a CPU
    planes = F.conv2d(planes, line[:, None].expand(count, 1, -1, -1), groups=count)
    planes = F.conv2d(planes, line[None, :].expand(count, 1, -1, -1), groups=count)
    return planes.reshape(image.shape)


def _happens(probability: float, generator: torch.Generator) -> bool:
    return torch.rand((), generator=generator).item() < probability


def _choose(weights: Sequence[float], generator: torch.Generator) -> int:
    """Draw an index with probability proportional to its weight."""
    return int(torch.multinomial(torch.tensor(weights), 1, generator=generator).item())


def _draw_one_of(options: Sequence[T], generator: torch.Generator) -> T:
    return options[int(torch.randint(len(options), (), generator=generator).item())]


def _uniform(limits: tuple[float, float], generator: torch.Generator) -> float:
    low, high = limits
    return low + (high - low) * torch.rand((), generator=generator).item()


def _uniform_per_image(limits: tuple[float, float], count: int, generator: torch.Generator) -> PerSample:
    low, high = limits
    return low + (high - low) * torch.rand(count, generator=generator)


def _draw_beta(limits: tuple[float, float], generator: torch.Generator) -> float:
    """Draw a shape exponent, as often below 1 as above it where the range holds 1."""
    low, high = limits
    if low <= 1 <= high:
        limits = (low, 1.0) if _happens(0.5, generator) else (1.0, high)
    return _uniform(limits, generator)
