"""The default backbone: the frozen prior and a small flow head on its scaled residual."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import pad

from sr_core.assets import ASSETS
from sr_core.backbones.flow_head import (
    LATENT_CHANNELS,
    FlowHead,
    HeadInput,
    image_from_planes,
    shuffle_planes,
    unshuffle_planes,
)
from sr_core.backbones.prior import SCALE, Prior, load_prior
from sr_core.errors import WeightsError
from sr_core.flow import clean_error_weight, velocity_from_clean
from sr_core.tensors import Enlarged, Image, Latent, PerSample, Sigma

HEAD_FILE = ASSETS / "compact" / "head.safetensors"
LAYOUT = "compact-flow-head/1"


class CompactObservation(NamedTuple):
    """What the prior sees in a photo or tile, float32; no adapter changes it."""

    trunk: Float[Tensor, "b 64 h w"]
    prior: Enlarged
    lq: Image


class CompactCondition(NamedTuple):
    """Everything about one photo or tile that all of its candidates share."""

    photo: Tensor
    """Embedded conditioning of the head, padded to a size that the head can halve twice."""
    prior: Enlarged
    """The prior's restoration, float32, not clamped."""
    gain: Float[Tensor, "b 1 h w"]
    """Expected size of the residual in pixel values, float32."""

    @property
    def latent_size(self) -> tuple[int, int]:
        """Return height and width of the latent without padding."""
        return int(self.gain.shape[-2]), int(self.gain.shape[-1])


def residual_latent(hq: Tensor, photo: HeadInput, head: FlowHead) -> Latent:
    """Return the clean latent: (HQ - prior) in opponent planes over gain and channel unit.

    `hq` holds opponent planes, pixel-unshuffled by 4.
    """
    return (hq - photo.prior) / (photo.gain * head.channel_std())


class CompactBackbone:
    """Prior plus flow head behind the backbone protocol; scale 4, any LQ size."""

    name = "compact"
    scale = SCALE

    def __init__(self, prior: Prior, head: FlowHead, *, dtype: torch.dtype, device: str = "cpu") -> None:
        self.dtype, self.device = dtype, torch.device(device)
        layout = torch.channels_last
        self.prior = prior.to(device=self.device, dtype=dtype).to(memory_format=layout).eval()
        self.head = head.to(device=self.device).to(memory_format=layout).eval()
        buffers = {name: value.clone() for name, value in self.head.named_buffers()}
        self.head.to(dtype)
        for name, value in buffers.items():
            setattr(self.head, name, value)

    @property
    def candidates_per_pass(self) -> int:
        """Return the fixed batch in which seeds are drawn, so that a kernel's choice never depends on their number.

        One on a CPU, where a single 128 px photo already fills the cores and the first candidate comes sooner.
        """
        return 1 if self.device.type == "cpu" else 8

    def latent_shape(self, lq: Image) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latent for `lq`."""
        return LATENT_CHANNELS, int(lq.shape[-2]), int(lq.shape[-1])

    @torch.inference_mode()
    def observe(self, lq: Image) -> CompactObservation:
        """Run the prior once."""
        lq = lq.to(self.device, torch.float32)
        trunk, image = self.prior(lq.to(self.dtype).contiguous(memory_format=torch.channels_last))
        return CompactObservation(trunk.float(), image.float(), lq)

    @torch.inference_mode()
    def condition(self, observation: CompactObservation) -> CompactCondition:
        """Embed what the head needs."""
        trunk, prior, lq = observation
        gain = self.head.gain(prior, lq)
        photo = HeadInput(trunk, unshuffle_planes(prior), lq, gain)
        height, width = lq.shape[-2:]
        padding = (0, -width % self.head.multiple, 0, -height % self.head.multiple)
        padded = HeadInput(*(pad(part, padding, mode="replicate") for part in photo))
        return CompactCondition(self.head.photo_embedding(padded), prior, gain)

    def encode(self, lq: Image) -> CompactCondition:
        """Run the prior once and embed what the head needs."""
        return self.condition(self.observe(lq))

    @torch.inference_mode()
    def velocity(self, x: Latent, sigma: Sigma, condition: CompactCondition) -> Latent:
        """Return dx/dsigma, float32; sigma must be above 0. The condition may have batch 1."""
        height, width = condition.latent_size
        x, sigma = x.to(self.device), sigma.to(self.device)
        padding = (0, condition.photo.shape[-1] - width, 0, condition.photo.shape[-2] - height)
        padded = pad(x, padding).contiguous(memory_format=torch.channels_last)
        clean = self.head.clean(padded, sigma, condition.photo)[..., :height, :width]
        return velocity_from_clean(x, clean, sigma)

    def decode(self, x: Latent, condition: CompactCondition) -> Enlarged:
        """Return the restoration of a clean latent, not clamped, so that a fault cannot hide as white or black."""
        residual = image_from_planes(shuffle_planes(x * (condition.gain * self.head.channel_std())))
        return condition.prior + residual

    def prior_image(self, condition: CompactCondition) -> Enlarged:
        """Return the prior's restoration, clamped to [0, 1]."""
        return condition.prior.clamp(0, 1)

    def spectral_view(self, residual: Latent) -> Enlarged:
        """Return a latent residual on the image's own grid; an orthogonal map, so energies are kept."""
        return shuffle_planes(residual)

    def error_weight(self, sigma: Sigma) -> PerSample:
        """Return the weight of an error on the clean residual."""
        return clean_error_weight(sigma)


def head_metadata(head: FlowHead) -> dict[str, str]:
    """Return what a head's file says about its own shape."""
    shape = {"widths": head.widths, "num_blocks": head.num_blocks}
    return {"layout": LAYOUT, **{name: ",".join(map(str, values)) for name, values in shape.items()}}


def head_shape(metadata: Mapping[str, str], path: Path, layout: str = LAYOUT) -> dict[str, tuple[int, int, int]]:
    """Return a head's shape from the metadata of its file; raises WeightsError for another layout."""
    if metadata.get("layout") != layout:
        raise WeightsError(f"{path} must hold layout {layout}, got {metadata.get('layout')}")
    shape = {}
    for name in ("widths", "num_blocks"):
        a, b, c = (int(value) for value in metadata[name].split(","))
        shape[name] = (a, b, c)
    return shape


def load_head(path: Path = HEAD_FILE) -> FlowHead:
    """Return the flow head stored at `path`, float32.

    Raises WeightsError if the file is missing, is not safetensors, or has another layout.
    """
    if not path.is_file():
        raise WeightsError(f"the flow head's weights must be at {path}; train them or check out the whole repository")
    try:
        with safe_open(path, framework="pt") as file:
            head = FlowHead(**head_shape(file.metadata() or {}, path))
            head.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as a flow head: {error}") from error
    return head


@lru_cache(maxsize=2)
def shared_prior(dtype: torch.dtype, device: str) -> Prior:
    """Return the frozen prior in one precision, the same object for every adapter."""
    return load_prior().to(device=device, dtype=dtype)


def load_compact(
    *, dtype: torch.dtype, device: str = "cpu", head: Path = HEAD_FILE, adapter: Path | None = None
) -> CompactBackbone:
    """Return the compact backbone, with a LoRA merged into its head where one is named.

    Raises WeightsError if a part is missing.
    """
    flow_head = load_head(head)
    if adapter is not None:
        from sr_core.backbones.adapters import merge_adapter

        merge_adapter(flow_head, adapter)
    return CompactBackbone(shared_prior(dtype, device), flow_head, dtype=dtype, device=device)
