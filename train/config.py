"""Recipes: frozen sections, read from YAML with dotted overrides, checked before anything loads."""

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
import yaml

from sr_core.degradation_presets import PRESETS
from sr_core.errors import ConfigError

STRICT = pydantic.ConfigDict(extra="forbid", use_attribute_docstrings=True)
section = pydantic.dataclasses.dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)

Recipe = TypeVar("Recipe")

TrackerName = Literal["tensorboard", "trackio"]


@section
class DataConfig:
    """Which crops are read and how they are degraded."""

    crops: str
    """Folder that `python -m train data` made."""
    photos: tuple[str, ...] = ()
    """What `python -m train data RECIPE` packs into it: folders of photographs, or Debian packages that hold some."""
    crops_per_photo: int = 10
    cache: str
    """Folder for the prior's features of the crops; made on first use."""
    presets: dict[str, float]
    """Degradation presets with the share of crops that each gets."""
    window_px: int = 32
    """Side of a training window in LQ pixels, cut from a cached crop at random."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.presets) - set(PRESETS))
        if unknown or not self.presets:
            raise ValueError(f"presets must be among {sorted(PRESETS)}, got {sorted(self.presets)}")
        if min(self.presets.values()) <= 0:
            raise ValueError(f"the share of a preset must be positive, got {self.presets}")
        if self.window_px < 4 or self.window_px % 4:
            raise ValueError(f"window_px must be a multiple of 4, got {self.window_px}")


@section
class HeadConfig:
    """Shape of the flow head."""

    widths: tuple[int, int, int] = (64, 96, 128)
    num_blocks: tuple[int, int, int] = (2, 2, 2)
    chroma_unit: float = 2.0
    """Latent unit of the colour planes in their own standard deviations; above 1, less noise and less weight."""


@section
class OptimConfig:
    """How the weights move."""

    learning_rate: float
    batch_size: int
    max_steps: int
    warmup_steps: int = 200
    decay_steps: int
    """Length of the final stretch over which the learning rate falls linearly to zero."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decay of the first and of the second moment."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_rate: float = 0.001
    """Slowest pull of the averaged weights towards the current ones; faster while the run is young."""
    pure_noise_share: float = 0.25
    """Share of each batch at exactly sigma = 1, where few-step sampling starts; of uniform noise levels alone."""
    micro_batch: int = 0
    """Samples of one pass in each process; the gradients of the passes add up to the batch's. 0 is the whole batch."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw_8bit` keeps its state in 8 bits (bitsandbytes)."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_size", "max_steps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.micro_batch < 0 or (self.micro_batch and self.batch_size % self.micro_batch):
            raise ValueError(f"micro_batch must divide batch_size {self.batch_size}, got {self.micro_batch}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}")
        if not 0 <= self.pure_noise_share <= 1:
            raise ValueError(f"pure_noise_share must lie in [0, 1], got {self.pure_noise_share}")


@section
class PerceptualConfig:
    """LPIPS between the predicted clean image and the ground truth, beside the flow's own error.

    Source: Improving the Training of Rectified Flows, arXiv 2405.20320, section 4.2 (LPIPS as the flow's metric).
    """

    weight: float
    """Multiplies the mean LPIPS (AlexNet)."""
    share: float = 0.5
    """Part of each batch, evenly spread over its noise levels, that the term is taken on."""
    from_step: int = 0
    """First step with the term; before it the head learns the flow alone."""

    def __post_init__(self) -> None:
        if self.weight < 0 or not 0 < self.share <= 1:
            raise ValueError(f"weight must be at least 0 and share in (0, 1], got {self.weight} and {self.share}")


@section
class ValidationConfig:
    """Held-out photographs that are looked at during training and never trained on or picked by."""

    photos: str
    presets: tuple[str, ...] = ("bicubic", "real-esrgan")
    every_steps: int = 5000
    limit: int = 0
    """Use only this many photographs; 0 means all."""


def check_pace(recipe: object) -> None:
    """Raise ValueError unless a recipe logs and saves every so many steps and keeps a checkpoint."""
    for name in ("log_every", "checkpoint_every", "keep_checkpoints"):
        if getattr(recipe, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(recipe, name)}")


@section
class SftRecipe:
    """Supervised training of the flow head."""

    seed: int
    output: str
    """Folder of the run: checkpoints, log, resolved recipe and final weights."""
    data: DataConfig
    head: HeadConfig
    optim: OptimConfig
    perceptual: PerceptualConfig | None = None
    validation: ValidationConfig | None = None
    log_every: int = 50
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    sample_every: int = 0
    """Steps between sample grids at fixed seeds, drawn by the averaged weights; 0 means none."""
    trackers: tuple[TrackerName, ...] = ()
    dtype: str = "auto"
    """`float32`, `bfloat16`, or `auto`: bfloat16 where the processor has it."""

    def __post_init__(self) -> None:
        check_pace(self)


def _merge_override(values: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in place; the value is read as YAML."""
    path, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"an override must look like section.key=value, got {override!r}")
    *parents, leaf = path.split(".")
    for name in parents:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {name} is a value, not a section")
    try:
        values[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def parse_recipe(kind: type[Recipe], values: dict[str, Any], label: str) -> Recipe:
    """Return the checked recipe; raises ConfigError with every fault on one line."""
    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        faults = "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{label}: {faults}") from None


def recipe_sections(path: Path) -> frozenset[str]:
    """Return the names of a recipe's top sections, to tell what kind it is; raises ConfigError if it cannot be read."""
    return frozenset(_read(path))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"the recipe must be a file, got {path}; see train/recipes")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name}: must hold sections, got {type(values).__name__}")
    return values


ADDED: dict[str, dict[str, Any]] = {"optim": {"betas": [0.9, 0.99]}, "backbone": {"training_guidance": None}}
"""Settings that recipes did not always have, by section, with what stood for them in the code before."""


DROPPED = ("beta_paper", "beta_release")
"""Names of what is no setting any more."""


def in_todays_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe that an earlier run stored, as plain values, with the settings of today."""
    return {
        name: ADDED.get(name, {}) | in_todays_settings(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if name not in DROPPED
    }


def load_recipe(kind: type[Recipe], path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a YAML recipe and apply `section.key=value` overrides.

    Raises ConfigError if the file is missing, is not a mapping, or has an unknown key or a value of the wrong type.
    """
    values = _read(path)
    for override in overrides:
        _merge_override(values, override)
    return parse_recipe(kind, values, path.name)


def recipe_values(recipe: object) -> dict[str, Any]:
    """Return a recipe as plain values, to be written beside what it made."""
    if not is_dataclass(recipe) or isinstance(recipe, type):
        raise TypeError(f"expected a recipe, got {type(recipe).__name__}")
    return asdict(recipe)
