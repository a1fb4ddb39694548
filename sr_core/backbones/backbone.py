"""The protocol of every restoration model: condition once, then one velocity field per photo."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.backbones.drawing import Drawing
from sr_core.errors import ConfigError
from sr_core.tensors import Enlarged, Image, Latent, PerSample, Sigma

Observation = Any
"""What the frozen part of a backbone sees in one photo or tile; the same for all of its adapters."""

Condition = Any
"""A NamedTuple of tensors that one photo or tile yields; only its own backbone looks inside."""

CONTROL_SCALE = 1.0
"""Weight of what a control branch adds, for all backbones with one: that of DP2O-SR's released script."""

OnCall = Callable[[], None]
"""Told before every network call; may raise to end the drawing."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One set of weights that a backbone is made of."""

    name: str
    """`base`, `controlnet`, `lora`, `tagger`."""
    what: str
    """For people, such as "Stable Diffusion 2 base"."""
    hub: str | None
    """Repository on the Hugging Face hub; None where it has not been released there."""
    num_bytes: int
    """On disk, in the files that are used."""
    licence: str
    gated: bool = False
    """Whether the hub gives it only to an account that has agreed to the licence."""
    files: tuple[str, ...] = ("*",)
    """Patterns of the files that are used; also what is downloaded."""
    needs: tuple[str, ...] = ()
    """Files of which one, below the folder, shows that the part is there."""
    optional: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Where weights lie beside the usual places, and how much memory they may take."""

    parts: tuple[tuple[str, str], ...] = ()
    """(name of a part, its folder or file)."""
    offload: str = "none"
    """`none`, `model` or `sequential`: what of the network waits in main memory."""
    quantize: str = "none"
    """`none`, `8bit` or `4bit`: how the frozen base is stored."""
    attention: str = "whole"
    """`whole`, or `sliced`: one head at a time, for devices without a fused kernel."""

    def __post_init__(self) -> None:
        choices = ((self.offload, OFFLOADS), (self.quantize, QUANTIZATIONS), (self.attention, ATTENTIONS))
        for value, known in choices:
            if value not in known:
                raise ConfigError(f"must be one of {', '.join(known)}, got {value!r}")


OFFLOADS = ("none", "model", "sequential")
QUANTIZATIONS = ("none", "8bit", "4bit")
ATTENTIONS = ("whole", "sliced")


@runtime_checkable
class Backbone(Protocol):
    """What the restorer, the page and training rely on."""

    name: str
    scale: int
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""

    @property
    def candidates_per_pass(self) -> int:
        """The fixed number of seeds in one model call; never depends on how many were asked for."""

    def latent_shape(self, lq: Image) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latent for `lq`."""

    def observe(self, lq: Image) -> Observation:
        """Return what the frozen part sees in `lq`; costs most of `encode` and serves every adapter."""

    def condition(self, observation: Observation) -> Condition:
        """Return what all candidates share, from an observation by this backbone with any adapter."""

    def encode(self, lq: Image) -> Condition:
        """Return what all candidates of `lq` share: the condition of its observation."""

    def velocity(self, x: Latent, sigma: Sigma, condition: Condition) -> Latent:
        """Return noise minus clean at (x, sigma); sigma is above 0."""

    def decode(self, x: Latent, condition: Condition) -> Enlarged:
        """Return the image of a clean latent, in about [0, 1], not clamped."""

    def prior_image(self, condition: Condition) -> Enlarged:
        """Return the deterministic restoration that the candidates vary around, in [0, 1]."""

    def spectral_view(self, residual: Latent) -> Tensor:
        """Return a latent residual on the grid where spectra are taken, by an orthogonal map."""

    def error_weight(self, sigma: Sigma) -> PerSample:
        """Return the weight of an error on this backbone's native target."""


@runtime_checkable
class OneStep(Protocol):
    """A backbone that restores in one step, from noise at a level that it chooses for the whole photo."""

    def choose_levels(self, lq: Image, seeds: Sequence[int] | None = None) -> Float[Tensor, " n"]:
        """Return the most likely level of a photo, or one draw per seed; all tiles use the same."""


@runtime_checkable
class WholePhoto(Protocol):
    """A backbone that takes a photo as a whole, splits it inside every step, and has settings of its own."""

    drawing: Drawing
    """Its settings; those of the table until a request binds others."""
    notices: list[str]
    """What happened while drawing that a user should read, such as a tile that was halved."""

    def bound(self, drawing: Drawing) -> Backbone:
        """Return this backbone with other settings; both share all weights."""

    def count_calls(self, lq: Image) -> int:
        """Return how often the network is called to draw one batch of candidates of `lq`."""

    def draw(self, condition: Condition, seeds: Sequence[int], on_call: OnCall) -> Latent:
        """Return the clean latents of some seeds, one each."""


@runtime_checkable
class BackboneLoader(Protocol):
    """Builds one backbone; imports what it needs only then."""

    def __call__(
        self, *, dtype: torch.dtype, device: str, adapter: Path | None, parts: Mapping[str, Path], options: LoadOptions
    ) -> Backbone:
        """Return the backbone from located parts; raises WeightsError if a file is missing or does not fit."""


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """What the table of backbones says of one before anything is loaded."""

    label: str
    load: BackboneLoader
    defaults: Drawing
    samplers: tuple[str, ...]
    parts: tuple[Part, ...] = ()
    one_of: tuple[str, ...] = ()
    """Names of optional parts of which at least one must be there."""
    variants: tuple[tuple[str, str], ...] = ()
    """Trained variants that come inside a part, beside the adapters that are installed: (name, folder in the part)."""
    scale: int = 4

    @property
    def control_scale(self) -> float | None:
        """Return the weight of the control branch; None where there is none, or need not be one."""
        needed = any(part.name == "controlnet" and not part.optional for part in self.parts)
        return CONTROL_SCALE if needed else None
