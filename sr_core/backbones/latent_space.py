"""From a photo to a latent and back: enlarging as the releases do, padding, and the VAE in tiles."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from sr_core.backbones.costs import VAE_TILE_SIDE
from sr_core.errors import InputError
from sr_core.resampling import resize
from sr_core.tensors import Enlarged, Image, Latent

SCALE = 4
FREE_MEMORY = "close other programs on the GPU, or use offload or quantize"
LEAST_SIDE = 16
"""Windows and tiles are not halved below it, in latent pixels."""


class LatentObservation(NamedTuple):
    """What the frozen encoder sees in a photo."""

    lq: Enlarged
    """Enlarged by bicubic interpolation and padded, in [0, 1], float32."""
    latent: Latent
    """Of the enlarged photo, scaled as the network takes it, float32."""
    size: tuple[int, int]
    """(height, width) of the enlarged photo without padding; at least the network's own size."""
    output: tuple[int, int]
    """(height, width) of the restoration: `SCALE` times the photo."""


class LatentSpace:
    """The VAE of a latent backbone, kept in float32 as in the releases, and what it makes of photos."""

    scale = SCALE
    cell: int
    """Windows and padding are multiples of it, in latent pixels."""
    process_size: int
    """Least side of the enlarged photo in px: smaller ones are enlarged further and reduced again at the end."""

    def __init__(self, *, vae: Any, device: str) -> None:  # noqa: ANN401
        self.vae, self.device = vae, torch.device(device)
        self.factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        """Pixels per latent pixel."""
        self.notices: list[str] = []
        vae.enable_tiling()
        own = int(vae.tile_sample_min_size)
        side = min(own, VAE_TILE_SIDE)
        self._tiles = side, int(vae.tile_latent_min_size) if side == own else side // self.factor
        """Sides of the VAE's tiles in px and in latent pixels, as every request begins with."""
        self._restore_tiles()

    def _restore_tiles(self) -> None:
        """Give the VAE, which requests share, the tiles that it had before memory ran out in an earlier one."""
        if self.vae is not None:  # training lets go of it
            self.vae.tile_sample_min_size, self.vae.tile_latent_min_size = self._tiles

    def _sizes(self, lq: Image) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return (height, width) of the enlarged photo without and with padding."""
        height, width = (side * self.scale for side in lq.shape[-2:])
        growth = max(1.0, self.process_size / min(height, width))
        size = round(height * growth), round(width * growth)
        multiple = self.factor * self.cell
        padded = (-(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple)
        return size, padded

    def latent_shape(self, lq: Image) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latent for `lq`."""
        height, width = self._sizes(lq)[1]
        return int(self.vae.config.latent_channels), height // self.factor, width // self.factor

    @torch.no_grad()
    def observe(self, lq: Image) -> LatentObservation:
        """Enlarge the photo by bicubic interpolation, pad it and encode it."""
        size, padded = self._sizes(lq)
        image = resize(lq.to(self.device, torch.float32), *size).clamp(0, 1)
        image = pad(image, (0, padded[1] - size[1], 0, padded[0] - size[0]), mode="replicate")
        output = int(lq.shape[-2]) * self.scale, int(lq.shape[-1]) * self.scale
        return LatentObservation(image, self.encode_image(image), size, output)

    @torch.no_grad()
    def encode_image(self, image: Enlarged) -> Latent:
        """Return the posterior's mean of padded pixels in [0, 1], scaled as the network takes it, float32."""
        pixels = (2 * image - 1).to(self.device, self.vae.dtype)

        def encode(one: Tensor) -> Tensor:
            return self.vae.encode(one[None]).latent_dist.mode()

        mean = torch.cat([self._by_tiles(partial(encode, one)) for one in pixels]).float()
        return (mean - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode_latent(self, x: Latent) -> Enlarged:
        """Return the padded image of clean latents, in about [0, 1], float32."""
        z = x.float() / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        z = z.to(self.device, self.vae.dtype)

        def decode(one: Tensor) -> Tensor:
            return self.vae.decode(one[None]).sample

        return (torch.cat([self._by_tiles(partial(decode, one)) for one in z]).float() + 1) / 2

    def _by_tiles(self, call: Callable[[], Tensor]) -> Tensor:
        """Return what the VAE gives; where memory runs out, with its own tiles halved, and a notice."""
        while True:
            try:
                return call()
            except torch.OutOfMemoryError:
                pass  # what the failed call held is given back before the next one
            if self.vae.tile_sample_min_size < 2 * LEAST_SIDE * self.factor:
                raise InputError(f"memory ran out in the VAE with the smallest tiles; {FREE_MEMORY}")
            self.vae.tile_sample_min_size //= 2
            self.vae.tile_latent_min_size //= 2
            self._gave_way(f"the VAE's tiles were halved to {self.vae.tile_sample_min_size} px")

    def _gave_way(self, words: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.notices.append(f"memory ran out: {words}")

    def cut(self, image: Enlarged, size: tuple[int, int], output: tuple[int, int]) -> Float[Tensor, "b 3 _ _"]:
        """Return a padded image without its padding, at the restoration's size; both sizes are (height, width)."""
        return resize(image[..., : size[0], : size[1]], *output)
