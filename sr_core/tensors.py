"""The tensor vocabulary: each kind of tensor with its shape, range and meaning."""

from jaxtyping import Float
from torch import Tensor

Image = Float[Tensor, "b 3 h w"]
"""sRGB-encoded pixels, RGB, in [0, 1]; the only pixel range outside `images.py`."""

Enlarged = Float[Tensor, "b 3 H W"]
"""Pixels like `Image`, on a larger grid than the `Image` or `Latent` beside them in a signature."""

Latent = Float[Tensor, "b c h w"]
"""A backbone's own representation; 48 channels at LQ resolution for `compact`."""

Sigma = Float[Tensor, " b"]
"""Noise level in [0, 1], one per sample; 1 is pure noise."""

PerSample = Float[Tensor, " b"]
"""One number per sample."""
