"""What the large backbones cost in memory and arithmetic, from their networks' sizes, not measured on CUDA."""

from dataclasses import dataclass
from typing import Any

from sr_core.backbones.backbone import LoadOptions

BYTES_PER_PARAMETER = {"none": 2.0, "8bit": 1.1, "4bit": 0.6}
"""Of the frozen base in bfloat16, or quantized with its scales."""
OFFLOADED = {"none": 1.0, "model": 1.0, "sequential": 0.1}
"""Share of the network that lies on the device at once; `model` keeps only the text encoders elsewhere meanwhile."""
CUDA_FLOPS = 1.5e14
"""Arithmetic per second that is assumed of a GPU; not measured."""
CPU_FLOPS = 1.0e11
"""The same of two server cores."""
CUDA_CANDIDATES = 4
"""Candidates that a GPU draws in one call, whatever is asked for; one where weights are offloaded, and on a CPU."""
VAE_FLOPS_PER_PIXEL = 1.5e7
"""Encoding and decoding one pixel of the enlarged photo."""
VAE_BYTES = 4 * 84_000_000
VAE_TILE_SIDE = 512
"""Most pixels a side that the VAE takes at once."""
VAE_TILE_BYTES = 3 * 2**30
"""Working set of decoding one tile of `VAE_TILE_SIDE` in float32."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network takes, per window of a latent and state."""

    parameters: float
    """Of the base network."""
    control_parameters: float
    """Of the ControlNet; LoRA sets are merged and take nothing."""
    text_parameters: float
    linear_flops: float
    """Per latent pixel of a window."""
    square_flops: float
    """Per pair of latent pixels: attention."""
    activation_bytes: float
    """Largest working set per latent pixel of a window, with attention that keeps no matrix."""
    states_per_call: int
    """2 with classifier-free guidance."""
    quantizes_text: bool = False
    """Whether the text encoder is stored like the base; FLUX's is large."""
    fixed_flops: float = 0.0
    """Per call: text tokens, where the network takes them along."""
    least_side: int = 128
    """Pixels of the photo to which smaller ones are enlarged first."""

    def flops(self, pixels: int) -> float:
        """Return the arithmetic of one call for a window of so many latent pixels."""
        return self.states_per_call * (self.fixed_flops + pixels * (self.linear_flops + self.square_flops * pixels))

    def weight_bytes(self, options: LoadOptions, bytes_per_value: int) -> float:
        """Return what the weights take on the device while the network runs."""
        width = BYTES_PER_PARAMETER[options.quantize] * (bytes_per_value / 2 if options.quantize == "none" else 1)
        network = self.parameters * width + self.control_parameters * bytes_per_value
        text = self.text_parameters * (width if self.quantizes_text else bytes_per_value)
        if options.offload != "none":
            # Parts take turns: the larger one counts.
            return max(network, text) * OFFLOADED[options.offload] + VAE_BYTES
        return network + text + VAE_BYTES


_SD: dict[str, Any] = {"linear_flops": 2.24e8, "square_flops": 1.01e4, "activation_bytes": 21e3}
_FLUX: dict[str, Any] = {
    "parameters": 11.9e9,
    "text_parameters": 4.88e9,
    "activation_bytes": 25e3,
    "quantizes_text": True,
}

COSTS: dict[str, Cost] = {
    "c-sd2": Cost(parameters=866e6, control_parameters=364e6, text_parameters=340e6, states_per_call=2, **_SD),
    "sd15": Cost(parameters=860e6, control_parameters=361e6, text_parameters=123e6, states_per_call=2, **_SD),
    "sdxl": Cost(
        parameters=2.57e9, control_parameters=1.25e9, text_parameters=818e6, linear_flops=5.45e8, square_flops=4.0e3,
        activation_bytes=30e3, states_per_call=2, least_side=256,
    ),
    "c-flux": Cost(
        control_parameters=1.44e9, linear_flops=3.66e9, square_flops=4.7e4, fixed_flops=7.3e12, states_per_call=1,
        **_FLUX,
    ),
    "flux-lora": Cost(
        control_parameters=0.0, linear_flops=6.72e9, square_flops=1.8e5, fixed_flops=7.1e12, states_per_call=1,
        **_FLUX,
    ),
}  # fmt: skip
"""By backbone. Arithmetic was counted at full size on the meta device, at 512 and 1024 px (assets/report/figures.md).

SDXL's attention, its working set and those of FLUX are derived from their configurations.

`flux-lora` carries the photo's tokens along: twice the linear part, four times the attention.
"""
