"""HQ -> LQ synthesis with every published parameter set.

Order: blur, resize, noise, JPEG; optionally blur, resize, noise again; then, in either order with equal
chance, JPEG and the reduction to a quarter of the side followed by a sinc filter; clamp and round to 8 bits.
Resize factor, interpolation and kind of noise are drawn per batch, all strengths and kernels per image, so
small batches are more diverse. Source: Real-ESRGAN, arXiv 2107.10833.
"""

import difflib
import io
import math
from typing import NamedTuple

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor

from sr_core.blur_kernels import blur, gaussian_kernel, reflect_pad
from sr_core.degradation_draws import (
    Draw,
    DrawLog,
    Stage,
    Value,
    choose,
    draw_kernel,
    draw_one_of,
    draw_sinc,
    happens,
    no_kernel,
    uniform,
    uniform_per_image,
)
from sr_core.degradation_presets import PRESETS, DegradationPreset, StageParameters
from sr_core.errors import ConfigError, InputError
from sr_core.resampling import resize
from sr_core.tensors import Image, PerSample

__all__ = [
    "PRESETS",
    "SCALE",
    "DegradationPreset",
    "Degraded",
    "StageParameters",
    "degradation_preset",
    "degrade",
    "degrade_and_tell",
    "target",
    "usm_sharpen",
]

SCALE = 4
"""HQ side divided by LQ side."""

Quarter = Float[Tensor, "b 3 h//4 w//4"]
"""Pixels like `Image`, a quarter of the side of the function's image."""

Resized = Float[Tensor, "b 3 H W"]
"""Pixels like `Image`, of another size than the function's image."""

_MODES = ("area", "bilinear", "bicubic")
_USM_SIZE, _USM_SIGMA = 51, 8.0
_LUMA = (0.2989, 0.587, 0.114)


class Degraded(NamedTuple):
    """The LQ of each image and what was drawn for it."""

    lq: Float[Tensor, "b 3 h w"]
    draws: tuple[tuple[Draw, ...], ...]
    """One sequence per image, in the order of the steps."""


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
    return degrade_and_tell(hq, preset, generator=generator).lq


def degrade_and_tell(hq: Image, preset: DegradationPreset | str, *, generator: torch.Generator) -> Degraded:
    """Return what `degrade` returns, with every value that it drew; raises as it does."""
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
    kept, made = DrawLog(int(clean.sum())), DrawLog(int((~clean).sum()))
    if clean.any():
        lq[clean] = _clean_reduction(source[clean], preset, generator, kept)
    if not clean.all():
        lq[~clean] = _synthesised(source[~clean], preset, generator, made)
    logs = (iter(made.images), iter(kept.images))
    return Degraded(_on_8_bit_grid(lq).to(hq.device), tuple(tuple(next(logs[one])) for one in clean.tolist()))


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


def _synthesised(image: Image, preset: DegradationPreset, generator: torch.Generator, log: DrawLog) -> Quarter:
    """Run the stages and the final step on images that are not chosen to stay clean."""
    assert preset.first is not None, "a preset without a first stage keeps every image clean"
    height, width = image.shape[-2] // SCALE, image.shape[-1] // SCALE
    image = _blurred(image, preset.first, generator, log, "first")
    image = _resized(image, preset.first, (SCALE * height, SCALE * width), generator, log, "first")
    image = _noised(image, preset.first, generator, log, "first")
    if preset.first.jpeg_range is not None:
        image = _jpeg(image, uniform_per_image(preset.first.jpeg_range, len(image), generator), log, "first")
    if preset.second is None:
        return _finished(image, preset, (height, width), generator, log)
    if happens(preset.second_stage_prob, generator):
        if happens(preset.second_blur_prob, generator):
            image = _blurred(image, preset.second, generator, log, "second")
        # The second stage's factors are relative to the LQ, not to what the first stage left.
        image = _resized(image, preset.second, (height, width), generator, log, "second")
        image = _noised(image, preset.second, generator, log, "second")
    else:
        log.note("second", "skipped")
    return _finished(image, preset, (height, width), generator, log)


def _finished(
    image: Image, preset: DegradationPreset, size: tuple[int, int], generator: torch.Generator, log: DrawLog
) -> Resized:
    """Reduce to the LQ size with the final sinc filter, and compress before or after it."""
    if preset.final_jpeg_range is None:
        return _reduced(image, preset, size, generator, log)
    quality = uniform_per_image(preset.final_jpeg_range, len(image), generator)
    if happens(0.5, generator):
        return _jpeg(_reduced(image, preset, size, generator, log), quality, log, "final")
    return _reduced(_jpeg(image, quality, log, "final"), preset, size, generator, log)


def _reduced(
    image: Image, preset: DegradationPreset, size: tuple[int, int], generator: torch.Generator, log: DrawLog
) -> Resized:
    mode = draw_one_of(_MODES, generator)
    image = _interpolated(image, size, mode)
    log.note("final", "resize", _size_values(size, mode))
    filtered = torch.rand(len(image), generator=generator) < preset.final_sinc_prob
    kernels = [
        draw_sinc(draw_one_of(preset.final_sinc_kernel_sizes, generator), math.pi / 3, generator)
        if chosen
        else no_kernel()
        for chosen in filtered.tolist()
    ]
    log.note("final", "sinc filter", [drawn.values for drawn in kernels])
    return blur(image, torch.stack([drawn.kernel for drawn in kernels])) if filtered.any() else image


def _clean_reduction(image: Image, preset: DegradationPreset, generator: torch.Generator, log: DrawLog) -> Quarter:
    size = (image.shape[-2] // SCALE, image.shape[-1] // SCALE)
    lq = resize(image, *size)
    log.note("clean", "resize", _size_values(size, "bicubic, antialiased"))
    if preset.clean_jpeg_range is None:
        return lq
    return _jpeg(lq, uniform_per_image(preset.clean_jpeg_range, len(lq), generator), log, "clean")


def _blurred(image: Image, stage: StageParameters, generator: torch.Generator, log: DrawLog, name: Stage) -> Image:
    drawn = [draw_kernel(stage, generator) for _ in image]
    log.note(name, "blur", [one.values for one in drawn])
    return blur(image, torch.stack([one.kernel for one in drawn]))


def _resized(
    image: Image, stage: StageParameters, base: tuple[int, int], generator: torch.Generator, log: DrawLog, name: Stage
) -> Resized:
    """Resize to a drawn factor of the base size (height, width)."""
    direction = choose(stage.resize_prob, generator)
    low, high = stage.resize_range
    factor = uniform(((1.0, high), (low, 1.0), (1.0, 1.0))[direction], generator)
    size = (max(1, int(base[0] * factor)), max(1, int(base[1] * factor)))
    mode = draw_one_of(_MODES, generator)
    log.note(name, "resize", {"factor": factor, **_size_values(size, mode)})
    return _interpolated(image, size, mode)


def _size_values(size: tuple[int, int], mode: str) -> dict[str, Value]:
    return {"width px": size[1], "height px": size[0], "interpolation": mode}


def _interpolated(image: Image, size: tuple[int, int], mode: str) -> Resized:
    """Resize without antialiasing, as the published pipelines do: aliasing is part of the degradation."""
    return image if image.shape[-2:] == size else F.interpolate(image, size=size, mode=mode)


def _noised(image: Image, stage: StageParameters, generator: torch.Generator, log: DrawLog, name: Stage) -> Image:
    gaussian = happens(stage.gaussian_noise_prob, generator)
    gray = torch.rand(len(image), generator=generator) < stage.gray_noise_prob
    limits = stage.noise_range if gaussian else stage.poisson_scale_range
    drawn = uniform_per_image(limits, len(image), generator)
    kind, unit = ("Gaussian", "sigma of 255") if gaussian else ("Poisson", "scale")
    log.note(
        name,
        "noise",
        [
            {"kind": kind, unit: value, "channels": "share it" if is_gray else "each its own"}
            for value, is_gray in zip(drawn.tolist(), gray.tolist(), strict=True)
        ],
    )
    if gaussian:
        strength, noise = drawn / 255, _gaussian_noise(image, gray, generator)
    else:
        strength, noise = drawn, _poisson_noise(image, gray, generator)
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


def _jpeg(image: Image, quality: PerSample, log: DrawLog, name: Stage) -> Image:
    """Encode and decode each image as a baseline JPEG with 4:2:0 chroma at its own quality (1 to 100)."""
    pixels = (_on_8_bit_grid(image) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    decoded, levels = [], quality.round().int().tolist()
    log.note(name, "JPEG", [{"quality": level} for level in levels])
    for array, level in zip(pixels, levels, strict=True):
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
