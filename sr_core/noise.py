"""Seeded noise that depends on the place in the photo, never on how the photo is split into tiles."""

import hashlib

import torch

from sr_core.tensors import Latent

BLOCK = 64
"""Side of a noise block in LQ pixels."""
GENERATOR = "torch-cpu-mt19937/sha256(seed,row,column)/64x64"
"""Recipe of the generator, written beside every candidate."""


def _block(seed: int, row: int, column: int, channels: int) -> torch.Tensor:
    digest = hashlib.sha256(f"{seed}/{row}/{column}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))
    return torch.randn(channels, BLOCK, BLOCK, generator=generator)


def block_noise(seed: int, channels: int, top: int, left: int, height: int, width: int) -> Latent:
    """Return standard normal noise (1, channels, height, width), float32 on the CPU.

    `top` and `left` place the window in the photo's LQ grid and may be negative. Each 64 x 64 block comes from its own
    generator, seeded by (seed, block row, block column), so every window that covers a pixel sees the same value.
    """
    rows = range(top // BLOCK, (top + height - 1) // BLOCK + 1)
    columns = range(left // BLOCK, (left + width - 1) // BLOCK + 1)
    field = torch.cat([torch.cat([_block(seed, r, c, channels) for c in columns], 2) for r in rows], 1)
    y, x = top - rows[0] * BLOCK, left - columns[0] * BLOCK
    return field[:, y : y + height, x : x + width].unsqueeze(0).contiguous()
