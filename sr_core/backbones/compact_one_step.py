"""`compact` in one step: a head that says the velocity from noise at any level, and the backbone around it.

After Hero-SR, arXiv 2412.07152; the form for a residual, and its training, are ours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import pad

from sr_core.assets import ASSETS
from sr_core.backbones.compact import CompactBackbone, CompactCondition, head_shape, shared_prior
from sr_core.backbones.flow_head import DATA_STD, FlowHead, fourier
from sr_core.backbones.one_step import TimestepSelector, choose_level, flow_levels, gumbel_noise, selector_view
from sr_core.backbones.prior import Prior
from sr_core.errors import WeightsError
from sr_core.flow import clean_from_velocity, column
from sr_core.tensors import Enlarged, Image, Latent, Sigma

ONE_STEP_FILE = ASSETS / "compact" / "one_step.safetensors"
LAYOUT = "compact-one-step/1"
REACH = 2.0
"""Residual at level 1 in units of what a flow head predicts from pure noise: at level 1/2 they are the same."""
SMALL_LEVEL = 0.02
"""Below this level noise is no longer told from nothing; keeps the velocity finite at 0."""
_LEVEL_OCTAVES = 3


class OneStepHead(FlowHead):
    """A flow head that says the velocity at any level from 0 to 1, from noise alone on the residual.

    A flow head's weights fit: at level 1/2 it then restores what that head predicts from pure noise, and other levels
    in proportion, until training tells them apart.
    """

    def __init__(
        self, widths: tuple[int, int, int] = (64, 96, 128), num_blocks: tuple[int, int, int] = (2, 2, 2)
    ) -> None:
        super().__init__(widths, num_blocks)
        size = 2 * widths[0]
        last = nn.Linear(size, size)
        self.embed_shift = nn.Sequential(nn.Linear(size, size), nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def level_embedding(self, sigma: Sigma) -> Float[Tensor, "b e"]:
        """Return the embedding of pure noise plus a learned function of the level."""
        wave = fourier(sigma, 2 * self.widths[0], _LEVEL_OCTAVES).to(self.out.weight.dtype)
        return super().level_embedding(torch.ones_like(sigma)) + self.embed_shift(wave)

    def correction(self, x: Latent, sigma: Sigma, photo: Tensor) -> Latent:
        """Return the correction at level 1, float32, at x = sigma noise; `photo` as for `clean`."""
        size = (sigma.square() + SMALL_LEVEL**2).rsqrt()
        return REACH * DATA_STD * self.network(x * column(size), sigma, photo).float()

    def velocity(self, x: Latent, sigma: Sigma, photo: Tensor) -> Latent:
        """Return the velocity, float32, at x = sigma noise; finite at 0.

            v = sigma / (sigma^2 + e^2) x - correction,   e = 0.02

        The first term is the noise itself but for the smallest levels, so the residual is sigma times the correction.
        """
        return velocity_of(x, self.correction(x, sigma, photo), sigma)


def velocity_of(x: Latent, correction: Latent, sigma: Sigma) -> Latent:
    """Return the velocity that a correction at x = sigma noise means."""
    return column(sigma / (sigma.square() + SMALL_LEVEL**2)) * x - correction


class OneStepModel(nn.Module):
    """Head and selector together: what is trained and stored."""

    def __init__(self, head: OneStepHead, selector: TimestepSelector) -> None:
        super().__init__()
        self.head, self.selector = head, selector

    @classmethod
    def started_from(cls, head: FlowHead) -> "OneStepModel":
        """Return a model whose head continues a flow head, with an untrained selector."""
        ours = OneStepHead(head.widths, head.num_blocks)
        ours.load_state_dict({**ours.state_dict(), **head.state_dict()})
        return cls(ours, TimestepSelector(flow_levels()))


class CompactOneStep(CompactBackbone):
    """`compact` restoring in one step from the level that its selector chooses for the whole photo."""

    def __init__(
        self, prior: Prior, head: OneStepHead, selector: TimestepSelector, *, dtype: torch.dtype, device: str = "cpu"
    ) -> None:
        super().__init__(prior, head, dtype=dtype, device=device)
        self.one_step_head = head
        # Always float32: the level must not depend on the precision of the rest.
        self.selector = selector.to(self.device).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def choose_levels(self, lq: Image, seeds: Sequence[int] | None = None) -> Float[Tensor, " n"]:
        """Return the level of a whole photo (1, 3, h, w): the most likely one, or one draw per seed."""
        logits = self.selector(selector_view(lq.to(self.device, torch.float32))).cpu()
        levels = self.selector.time_list.cpu()
        if seeds is None:
            return choose_level(logits, levels).level
        # Another stream than the noise blocks': the draw of a level must say nothing about them.
        noise = [gumbel_noise((1, len(levels)), torch.Generator().manual_seed(seed ^ 0x5EED1E7E1)) for seed in seeds]
        return torch.cat([choose_level(logits, levels, one).level for one in noise])

    @torch.inference_mode()
    def velocity(self, x: Latent, sigma: Sigma, condition: CompactCondition) -> Latent:
        """Return the velocity at x = sigma noise, float32, at any sigma from 0 to 1."""
        height, width = condition.latent_size
        padding = (0, condition.photo.shape[-1] - width, 0, condition.photo.shape[-2] - height)
        padded = pad(x.to(self.device), padding).contiguous(memory_format=torch.channels_last)
        return self.one_step_head.velocity(padded, sigma.to(self.device), condition.photo)[..., :height, :width]

    def restore_at(self, noise: Latent, sigma: Sigma, condition: CompactCondition) -> Enlarged:
        """Return the restoration from level `sigma`; at 0 the prior's, bit for bit."""
        x = column(sigma.to(self.device)) * noise.to(self.device)
        velocity = self.velocity(x, sigma, condition)
        return self.decode(clean_from_velocity(x, velocity, sigma.to(self.device)), condition)


def one_step_metadata(model: OneStepModel) -> dict[str, str]:
    """Return what a file of this layout says about its own shape."""
    shape = {"widths": model.head.widths, "num_blocks": model.head.num_blocks}
    return {"layout": LAYOUT, **{name: ",".join(map(str, values)) for name, values in shape.items()}}


def one_step_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's weights as they are stored: halves, to keep the file small."""
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def load_one_step_model(path: Path = ONE_STEP_FILE) -> OneStepModel:
    """Return the model stored at `path`, float32; raises WeightsError if it is missing or of another layout."""
    if not path.is_file():
        raise WeightsError(f"the one-step weights must be at {path}; train them: python -m train one-step RECIPE")
    try:
        with safe_open(path, framework="pt") as file:
            shape = head_shape(file.metadata() or {}, path, LAYOUT)
            model = OneStepModel(OneStepHead(**shape), TimestepSelector(flow_levels()))
            model.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as a one-step model: {error}") from error
    # The levels are decimal fractions; halves would shift them.
    model.selector.time_list.copy_(flow_levels())
    return model


def load_compact_one_step(*, dtype: torch.dtype, device: str = "cpu", path: Path = ONE_STEP_FILE) -> CompactOneStep:
    """Return `compact` in one step, around the same prior as its other adapters; raises WeightsError."""
    model = load_one_step_model(path)
    return CompactOneStep(shared_prior(dtype, device), model.head, model.selector, dtype=dtype, device=device)
