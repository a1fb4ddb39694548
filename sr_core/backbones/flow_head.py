"""The stochastic part of `compact`: a small U-Net that predicts the clean residual of the prior."""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad, pixel_shuffle, pixel_unshuffle, silu

from sr_core.backbones.prior import SCALE, TRUNK_CHANNELS
from sr_core.flow import column
from sr_core.tensors import Enlarged, Image, Latent, Sigma

LATENT_CHANNELS = 3 * SCALE**2
OPPONENT = (
    (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)),
    (1 / math.sqrt(2), -1 / math.sqrt(2), 0.0),
    (1 / math.sqrt(6), 1 / math.sqrt(6), -2 / math.sqrt(6)),
)
"""Orthonormal rotation of RGB into one brightness and two colour planes."""
CONTRAST_WINDOWS = (3, 7)
"""Sides, in LQ pixels, of the squares whose contrast sets the gain."""
CONTRAST_FLOOR = (0.5 / 255) ** 2
"""Variance added before the logarithm: half an 8-bit step."""
DATA_STD = 0.8
"""Typical spread of a scaled residual given the photo; sets the preconditioning only."""


class HeadInput(NamedTuple):
    """What the head knows of a photo, at LQ resolution."""

    trunk: Float[Tensor, "b 64 h w"]
    """The prior's features."""
    prior: Float[Tensor, "b 48 h w"]
    """The prior's restoration, pixel-unshuffled by 4."""
    lq: Image
    gain: Float[Tensor, "b 1 h w"]
    """Expected size of the residual, in pixel values; see `contrast_features`."""


def unshuffle_planes(image: Enlarged) -> Float[Tensor, "b 48 h w"]:
    """Return the opponent planes of an image, pixel-unshuffled by 4; an orthogonal map."""
    rotation = torch.tensor(OPPONENT, device=image.device, dtype=image.dtype)
    return pixel_unshuffle(torch.einsum("pc,bchw->bphw", rotation, image), SCALE)


def shuffle_planes(latent: Float[Tensor, "b 48 h w"]) -> Enlarged:
    """Return the opponent planes on the image's own grid; the inverse of the unshuffle."""
    return pixel_shuffle(latent, SCALE)


def image_from_planes(planes: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """Return RGB from opponent planes."""
    rotation = torch.tensor(OPPONENT, device=planes.device, dtype=planes.dtype)
    return torch.einsum("pc,bphw->bchw", rotation, planes)


def _box_mean(x: Tensor, side: int) -> Tensor:
    return avg_pool2d(pad(x, (side // 2,) * 4, mode="replicate"), side, stride=1)


def contrast_features(prior: Enlarged, lq: Image) -> Float[Tensor, "b f h w"]:
    """Return logarithms of local variances at LQ resolution, from which the residual's size is predicted.

    One per window of `CONTRAST_WINDOWS` from the prior's brightness, and one from what the prior took away from the
    LQ (noise or texture); flat input gives the logarithm of `CONTRAST_FLOOR`.
    """
    grey = prior.mean(1, keepdim=True)
    cells = pixel_unshuffle(grey, SCALE)
    mean, square = cells.mean(1, keepdim=True), cells.square().mean(1, keepdim=True)
    variances = [_box_mean(square, side) - _box_mean(mean, side).square() for side in CONTRAST_WINDOWS]
    removed = (lq - avg_pool2d(prior, SCALE)).square().mean(1, keepdim=True)
    variances.append(_box_mean(removed, CONTRAST_WINDOWS[0]))
    return torch.cat([torch.log(v.clamp_min(0) + CONTRAST_FLOOR) for v in variances], 1)


NUM_CONTRAST_FEATURES = len(CONTRAST_WINDOWS) + 1


class Block(nn.Module):
    """Two convolutions with a skip; the noise level scales and shifts what lies between them."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * channels)
        nn.init.normal_(self.conv2.weight, std=1e-3)
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Return x plus a correction that depends on the embedded noise level."""
        scale, shift = self.film(level)[:, :, None, None].chunk(2, 1)
        return x + self.conv2(silu(self.conv1(silu(x)) * (1 + scale) + shift))


class FlowHead(nn.Module):
    """U-Net at LQ resolution, without normalisation layers, so that a tile sees what the whole photo sees.

    Output preconditioning follows EDM (arXiv 2206.00364, Table 1) on the straight path; the last convolution starts
    at zero, so an untrained head is the best linear denoiser of a white residual.
    """

    gain_coefficients: Tensor
    component_std: Tensor
    trunk_std: Tensor

    def __init__(
        self, widths: tuple[int, int, int] = (64, 96, 128), num_blocks: tuple[int, int, int] = (2, 2, 2)
    ) -> None:
        super().__init__()
        self.widths, self.num_blocks = widths, num_blocks
        embedding = 2 * widths[0]
        conditioning = TRUNK_CHANNELS + LATENT_CHANNELS + 3 + 1
        self.register_buffer("gain_coefficients", torch.zeros(NUM_CONTRAST_FEATURES + 1))
        self.register_buffer("component_std", torch.ones(3))
        self.register_buffer("trunk_std", torch.ones(()))
        self.embed_x = nn.Conv2d(LATENT_CHANNELS, widths[0], 3, padding=1)
        self.embed_photo = nn.Conv2d(conditioning, widths[0], 3, padding=1)
        self.embed_level = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        def stage(width: int, count: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, embedding) for _ in range(count))

        self.down = nn.ModuleList(stage(w, n) for w, n in zip(widths, num_blocks, strict=True))
        self.up = nn.ModuleList(stage(w, 1) for w in widths[:-1])
        pairs = list(pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.out = nn.Conv2d(widths[0], LATENT_CHANNELS, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    @property
    def multiple(self) -> int:
        """Return the number that height and width must be divisible by."""
        return 2 ** len(self.shrink)

    def gain(self, prior: Enlarged, lq: Image) -> Float[Tensor, "b 1 h w"]:
        """Return the expected root-mean-square residual around each LQ pixel: exp of a fitted linear form, halved."""
        features = contrast_features(prior, lq)
        slope, intercept = self.gain_coefficients[:-1], self.gain_coefficients[-1]
        return torch.exp((torch.einsum("f,bfhw->bhw", slope, features) + intercept) / 2).unsqueeze(1)

    def channel_std(self) -> Float[Tensor, "1 48 1 1"]:
        """Return each latent channel's unit, relative to the gain."""
        return self.component_std.repeat_interleave(SCALE**2).reshape(1, -1, 1, 1)

    def photo_embedding(self, photo: HeadInput) -> Tensor:
        """Return the convolved conditioning; the same for every seed and step."""
        parts = (photo.trunk / self.trunk_std, photo.prior * 2 - 1, photo.lq * 2 - 1, photo.gain.log() / 4 + 1)
        dtype = self.embed_photo.weight.dtype
        return self.embed_photo(torch.cat([part.to(dtype) for part in parts], 1))

    def clean(self, x: Latent, sigma: Sigma, photo: Tensor) -> Latent:
        """Return the predicted clean residual in latent units, float32, from an embedded photo.

        `photo` may have batch 1, shared by all samples. Height and width are multiples of `multiple`.
        """
        mix = ((1 - sigma) * DATA_STD).square() + sigma.square()
        skip = column((1 - sigma) * DATA_STD**2 / mix)
        size = column(sigma * DATA_STD * mix.rsqrt())
        return skip * x + size * self.network(x * column(mix.rsqrt()), sigma, photo).float()

    def level_embedding(self, sigma: Sigma) -> Float[Tensor, "b e"]:
        """Return what the blocks are told of the noise level."""
        return self.embed_level(fourier(sigma, 2 * self.widths[0]).to(self.out.weight.dtype))

    def network(self, x: Tensor, sigma: Sigma, photo: Tensor) -> Tensor:
        """Return the network's answer to a state of unit size, in the dtype of its weights."""
        dtype = self.out.weight.dtype
        level = self.level_embedding(sigma)
        h = self.embed_x(x.to(dtype)) + photo
        skips = []
        for index, blocks in enumerate(self.down):
            h = _through(blocks, h, level)
            if index < len(self.shrink):
                skips.append(h)
                h = self.shrink[index](h)
        for grow, blocks, skip in zip(reversed(self.grow), reversed(self.up), reversed(skips), strict=True):
            h = skip + interpolate(grow(h), scale_factor=2, mode="nearest")
            h = _through(blocks, h, level)
        return self.out(silu(h))


def _through(blocks: nn.Module, h: Tensor, level: Tensor) -> Tensor:
    """Return `h` after every block of one stage."""
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        h = block(h, level)
    return h


def fourier(sigma: Sigma, width: int, octaves: int = 6) -> Float[Tensor, "b w"]:
    """Return sines and cosines of the noise level at frequencies from 1 to 2^octaves half-turns."""
    frequencies = torch.logspace(0, octaves, width // 2, base=2.0, device=sigma.device) * math.pi
    angle = sigma[:, None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], 1)
