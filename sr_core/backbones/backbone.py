"""The protocol of every restoration model: condition once, then one velocity field per photo."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.tensors import Enlarged, Image, Latent, PerSample, Sigma

Observation = Any
"""What the frozen part of a backbone sees in one photo or tile; the same for all of its adapters."""

Condition = Any
"""A NamedTuple of tensors that one photo or tile yields; only its own backbone looks inside."""


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
