"""The parameters of a degradation, and the published sets of them by name."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from sr_core.errors import ConfigError

Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageParameters:
    """One round of blur, resize, noise and JPEG. Raises ConfigError if a value cannot be drawn from."""

    resize_prob: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Chances of enlarging, reducing and keeping the size."""
    resize_range: Range = (0.15, 1.5)
    """Side factors, around 1; relative to the HQ in the first stage and to the LQ in the second."""
    gaussian_noise_prob: float = 0.5
    """Chance of Gaussian noise; Poisson noise otherwise."""
    noise_range: Range = (1.0, 30.0)
    """Standard deviation of the Gaussian noise, in 1/255."""
    poisson_scale_range: Range = (0.05, 3.0)
    """Factor on the Poisson noise."""
    gray_noise_prob: float = 0.4
    """Chance that the three channels share their noise."""
    jpeg_range: Range | None = (30.0, 95.0)
    """JPEG quality; None in the second stage, whose JPEG is the preset's final one."""
    blur_sigma_range: Range = (0.2, 3.0)
    """Standard deviation of the blur along each axis, in pixels."""
    kernel_probs: tuple[float, float, float, float, float, float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Chances of Gaussian, generalised Gaussian, plateau; each first isotropic, then anisotropic."""
    kernel_sizes: tuple[int, ...] = tuple(range(7, 22, 2))
    """Odd sides in pixels, equally likely, 21 at most."""
    betag_range: Range = (0.5, 4.0)
    """Shape exponent of the generalised Gaussian."""
    betap_range: Range = (1.0, 2.0)
    """Shape exponent of the plateau."""
    sinc_prob: float = 0.1
    """Chance of a sinc kernel instead of a blur."""

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_kernel_sizes(self.kernel_sizes)
        for name in ("resize_prob", "kernel_probs"):
            weights = getattr(self, name)
            if min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
                raise ConfigError(f"{name} must be chances that sum to 1, got {weights}; rescale them")
        if not self.resize_range[0] <= 1 <= self.resize_range[1]:
            raise ConfigError(f"resize_range must hold 1, got {self.resize_range}; widen it")
        if min(self.resize_range[0], self.blur_sigma_range[0], self.betag_range[0], self.betap_range[0]) <= 0:
            raise ConfigError("resize, sigma and beta ranges must start above 0; raise their lower ends")


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradationPreset:
    """A whole degradation. Raises ConfigError if its parts contradict each other."""

    source: str
    """Where the numbers come from, and what was decided where the publication is silent."""
    first: StageParameters | None
    """None: every image is only reduced."""
    second: StageParameters | None = None
    """None: first-order degradation."""
    second_stage_prob: float = 0.0
    """Chance, per batch, that the second stage runs."""
    second_blur_prob: float = 0.0
    """Chance, per batch, that the second stage blurs."""
    final_sinc_prob: float = 0.0
    """Chance, per image, of the sinc filter after the reduction to the LQ size."""
    final_sinc_kernel_sizes: tuple[int, ...] = tuple(range(7, 22, 2))
    """Odd sides in pixels of the final sinc filter."""
    final_jpeg_range: Range | None = None
    """Quality of the JPEG around the reduction to the LQ size; None: there is none."""
    usm_sharpen_target: bool = False
    """The publication sharpens the HQ, and degrades the sharpened one."""
    clean_prob: float = 0.0
    """Chance, per image, of a bicubic reduction (antialiased) in place of everything else."""
    clean_jpeg_range: Range | None = None
    """Quality of the one JPEG after a clean reduction; None: there is none."""

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_kernel_sizes(self.final_sinc_kernel_sizes)
        if (self.first is None) != (self.clean_prob == 1):
            raise ConfigError("a first stage must be given unless clean_prob is 1; give one or the other")
        if self.second is None and (self.second_stage_prob or self.second_blur_prob):
            raise ConfigError("second-stage chances must be 0 without a second stage; give a second stage")
        if self.second is not None and self.second.jpeg_range is not None:
            raise ConfigError("the second stage's jpeg_range must be None; set final_jpeg_range")
        if self.clean_jpeg_range is not None and not self.clean_prob:
            raise ConfigError("clean_jpeg_range must be None when no image stays clean; raise clean_prob")


def _check_numbers(parameters: StageParameters | DegradationPreset) -> None:
    """Check what the names promise: *_range is ordered and not negative, *_prob is a chance."""
    for field in fields(parameters):
        value = getattr(parameters, field.name)
        if field.name.endswith("_range") and value is not None:
            highest = 100 if "jpeg" in field.name else float("inf")
            if not 0 <= value[0] <= value[1] <= highest:
                raise ConfigError(
                    f"{field.name} must be (low, high), 0 <= low <= high <= {highest}, got {value}; fix it"
                )
        if field.name.endswith("_prob") and isinstance(value, float | int) and not 0 <= value <= 1:
            raise ConfigError(f"{field.name} must be a chance from 0 to 1, got {value}; change it")


def _check_kernel_sizes(sizes: tuple[int, ...]) -> None:
    if not sizes or any(size % 2 == 0 or not 1 <= size <= 21 for size in sizes):
        raise ConfigError(f"kernel sizes must be odd and from 1 to 21, got {sizes}; change them")


_REAL_ESRGAN_SECOND = StageParameters(
    resize_prob=(0.3, 0.4, 0.3),
    resize_range=(0.3, 1.2),
    noise_range=(1.0, 25.0),
    poisson_scale_range=(0.05, 2.5),
    jpeg_range=None,
    blur_sigma_range=(0.2, 1.5),
)

_REAL_ESRGAN = DegradationPreset(
    source="Real-ESRGAN, arXiv 2107.10833, released configuration; the same numbers are in SeeSR's "
    "make_paired_data and in DreamClear, whose declared chance of no degradation is never used.",
    first=StageParameters(),
    second=_REAL_ESRGAN_SECOND,
    second_stage_prob=1.0,
    second_blur_prob=0.8,
    final_sinc_prob=0.8,
    final_jpeg_range=(30.0, 95.0),
    usm_sharpen_target=True,
)

_SEESR_FIRST = StageParameters(
    resize_range=(0.3, 1.5),
    noise_range=(1.0, 15.0),
    poisson_scale_range=(0.05, 2.0),
    jpeg_range=(60.0, 95.0),
)

_SEESR_SECOND = replace(
    _REAL_ESRGAN_SECOND,
    resize_range=(0.6, 1.2),
    noise_range=(1.0, 12.0),
    poisson_scale_range=(0.05, 1.0),
)

_SEESR = replace(
    _REAL_ESRGAN,
    source="SeeSR, arXiv 2311.16518, released params yml, whose declared chance of no degradation is unused.",
    first=_SEESR_FIRST,
    second=_SEESR_SECOND,
    second_blur_prob=0.5,
    final_jpeg_range=(60.0, 100.0),
)

_STABLESR = replace(
    _SEESR,
    source="StableSR, arXiv 2305.07015, released configuration. Its 1 % without degradation take the HQ "
    "itself as LQ; at a quarter of the side that is the plain bicubic reduction, drawn here per image.",
    first=replace(_SEESR_FIRST, blur_sigma_range=(0.2, 1.5), betag_range=(0.5, 2.0), betap_range=(1.0, 1.5)),
    second=replace(_SEESR_SECOND, blur_sigma_range=(0.2, 1.0), betag_range=(0.5, 2.0), betap_range=(1.0, 1.5)),
    clean_prob=0.01,
)

_RESSHIFT_SECOND_SIZES = tuple(range(3, 14, 2))

_RESSHIFT = replace(
    _REAL_ESRGAN,
    source="ResShift, arXiv 2307.12348, training configuration (second stage for half of the batches, no "
    "sharpening); the final sinc has the second stage's kernel sizes.",
    first=StageParameters(kernel_sizes=tuple(range(3, 20, 2))),
    second=replace(_REAL_ESRGAN_SECOND, kernel_sizes=_RESSHIFT_SECOND_SIZES),
    second_stage_prob=0.5,
    final_sinc_kernel_sizes=_RESSHIFT_SECOND_SIZES,
    usm_sharpen_target=False,
)

_DP2O = replace(
    _RESSHIFT,
    source="DP2O-SR, arXiv 2510.18851, Sec. 5.1 names ResShift's first-order pipeline without its ranges; "
    "decided: ResShift's training ranges with the second stage off.",
    second=None,
    second_stage_prob=0.0,
    second_blur_prob=0.0,
)

_RESSHIFT_FIRST_ORDER = DegradationPreset(
    source="ResShift, arXiv 2307.12348, test configuration: first order, so its second-stage values do not "
    "act; the final sinc has their kernel sizes.",
    first=StageParameters(
        resize_range=(0.5, 1.5),
        noise_range=(1.0, 15.0),
        poisson_scale_range=(0.05, 0.3),
        jpeg_range=(70.0, 95.0),
        blur_sigma_range=(0.2, 0.8),
        kernel_probs=(0.6, 0.4, 0.0, 0.0, 0.0, 0.0),
        kernel_sizes=tuple(range(3, 12, 2)),
        betag_range=(1.0, 1.5),
        betap_range=(1.0, 1.2),
    ),
    final_sinc_prob=0.2,
    final_sinc_kernel_sizes=(3, 5),
    final_jpeg_range=(80.0, 100.0),
)

_ASASR_KERNEL_PROBS = (0.42, 0.26, 0.14, 0.05, 0.09, 0.04)

_ASASR = DegradationPreset(
    source="ASASR, arXiv 2605.23264, released synthesis tool with all knobs at 1. A fifth of the images get "
    "only a reduction and one JPEG. Not stated, so assumed: Real-ESRGAN's kernel sizes, and the final quality"
    " for that one JPEG.",
    first=StageParameters(
        resize_prob=(0.28, 0.38, 0.34),
        resize_range=(0.28, 1.65),
        gaussian_noise_prob=0.16,
        noise_range=(0.5, 5.5),
        poisson_scale_range=(0.01, 0.5),
        gray_noise_prob=0.88,
        jpeg_range=(48.0, 88.0),
        blur_sigma_range=(0.2, 2.35),
        kernel_probs=_ASASR_KERNEL_PROBS,
        betag_range=(0.45, 3.0),
        sinc_prob=0.06,
    ),
    second=StageParameters(
        resize_prob=(0.18, 0.28, 0.54),
        resize_range=(0.48, 1.32),
        gaussian_noise_prob=0.10,
        noise_range=(0.5, 4.0),
        poisson_scale_range=(0.01, 0.32),
        gray_noise_prob=0.836,
        jpeg_range=None,
        blur_sigma_range=(0.15, 1.75),
        kernel_probs=_ASASR_KERNEL_PROBS,
        betag_range=(0.45, 3.0),
        sinc_prob=0.05,
    ),
    second_stage_prob=1.0,
    second_blur_prob=0.55,
    final_sinc_prob=0.78,
    final_jpeg_range=(52.0, 90.0),
    usm_sharpen_target=True,
    clean_prob=0.2,
    clean_jpeg_range=(52.0, 90.0),
)

_HGGT_FIRST = StageParameters(
    resize_prob=(0.1, 0.85, 0.05),
    resize_range=(0.8, 1.2),
    noise_range=(1.0, 12.0),
    poisson_scale_range=(0.05, 0.8),
    gray_noise_prob=0.2,
    jpeg_range=(75.0, 95.0),
    blur_sigma_range=(0.1, 1.0),
    kernel_probs=(0.7, 0.3, 0.0, 0.0, 0.0, 0.0),
    kernel_sizes=(3, 5, 7, 9),
    betag_range=(0.1, 2.0),
    betap_range=(0.1, 1.0),
    sinc_prob=0.01,
)

_HGGT_SWINIR = DegradationPreset(
    source="Human Guided Ground-truth Generation (HGGT), arXiv 2303.13069, released SwinIR configuration: "
    "one stage, then the reduction, with neither a final sinc nor a final JPEG.",
    first=_HGGT_FIRST,
)

_HGGT_REAL_ESRGAN = DegradationPreset(
    source="Human Guided Ground-truth Generation (HGGT), arXiv 2303.13069, released Real-ESRGAN "
    "configuration: two stages; the final sinc has the second stage's kernel sizes.",
    first=replace(
        _HGGT_FIRST,
        resize_range=(0.9, 1.1),
        noise_range=(1.0, 8.0),
        poisson_scale_range=(0.05, 0.5),
        jpeg_range=(85.0, 95.0),
        blur_sigma_range=(0.1, 0.6),
        kernel_sizes=(3, 5, 7),
    ),
    second=replace(
        _HGGT_FIRST,
        resize_range=(0.9, 1.1),
        noise_range=(0.0, 4.0),
        poisson_scale_range=(0.0, 0.3),
        jpeg_range=None,
        blur_sigma_range=(0.1, 0.4),
        kernel_sizes=(3, 5),
    ),
    second_stage_prob=1.0,
    second_blur_prob=0.8,
    final_sinc_prob=0.1,
    final_sinc_kernel_sizes=(3, 5),
    final_jpeg_range=(87.0, 95.0),
)

PRESETS: Mapping[str, DegradationPreset] = MappingProxyType(
    {
        "bicubic": DegradationPreset(
            source="The classical benchmark setting: antialiased bicubic reduction, rounded to 8 bits.",
            first=None,
            clean_prob=1.0,
        ),
        "real-esrgan": _REAL_ESRGAN,
        "seesr": _SEESR,
        "stablesr": _STABLESR,
        "resshift": _RESSHIFT,
        "resshift-1st": _RESSHIFT_FIRST_ORDER,
        "dp2o": _DP2O,
        "asasr": _ASASR,
        "hggt-swinir": _HGGT_SWINIR,
        "hggt-real-esrgan": _HGGT_REAL_ESRGAN,
    }
)
"""Every published parameter set by name."""

GRADED = "graded"
"""Name, in recipes, of `graded_preset` at a strength drawn uniformly from [0, 1]; not among the published sets."""


def graded_preset(strength: float) -> DegradationPreset:
    """Return one degradation of a scale from 0, almost none, to 1, strong; monotone in all three of its parts.

    Blur of 0.2 to 3 px before the reduction, noise of 0 to 20/255 after it, JPEG of quality 95 to 30. For questions
    of the kind "what does more degradation change"; the ranges are ours.
    Raises ConfigError if the strength lies outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"the strength of a degradation must lie in [0, 1], got {strength}")
    sigma, noise, quality = 0.2 + 2.8 * strength, 20 * strength, 95 - 65 * strength
    kept = StageParameters(
        resize_prob=(0.0, 0.0, 1.0),
        gaussian_noise_prob=1.0,
        noise_range=(0.0, 0.0),
        gray_noise_prob=0.0,
        jpeg_range=None,
        blur_sigma_range=(sigma, sigma),
        kernel_probs=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        kernel_sizes=(21,),
        sinc_prob=0.0,
    )
    return DegradationPreset(
        source=f"Ours: strength {strength:g} of a graded scale of blur, noise and JPEG.",
        first=kept,
        second=replace(kept, noise_range=(noise, noise)),
        second_stage_prob=1.0,
        final_jpeg_range=(quality, quality),
    )
