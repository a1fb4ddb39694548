"""Held-out figures during a run of IQA-guided training: the score that trains beside those that do not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sr_core.backbones.flow_head import FlowHead, HeadInput, unshuffle_planes
from sr_core.backbones.prior import load_prior
from sr_core.errors import ConfigError
from sr_core.flow import velocity_from_clean
from sr_core.images import from_uint8, to_uint8
from sr_core.noise import block_noise
from sr_core.rewards.lpips import lpips
from sr_core.rewards.offline import load_lpips_layers
from sr_core.rewards.registry import load_metric
from sr_core.samplers import SAMPLERS, integrate
from sr_core.schedules import SCHEDULES
from sr_core.spectra import log_spectral_distance
from sr_core.tensors import Enlarged, Image
from train.data import find_photos
from train.iqa_config import IqaRecipe
from train.judge import photo_pair
from train.policy import FullPolicy, HeadPolicy, PriorPolicy
from train.steps import decode_latent

NO_REFERENCE = ("brisque", "niqe", "piqe")
LOOKED_AT = (*NO_REFERENCE, "st_lpips", "lpips", "lsd", "psnr")
HELD_OUT = "held_out/"
"""Prefix of the figures in the log."""
FIRST_LOOK = "first_look.json"
"""The figures before the first step, in the run's folder."""


class _Photo(NamedTuple):
    hq: Enlarged
    lq: Image
    head_input: HeadInput | None
    """None where the prior itself is trained."""


class HeldOutLook:
    """A few held-out photographs, degraded once, restored with one seed each by the averaged weights."""

    def __init__(
        self, recipe: IqaRecipe, policy: HeadPolicy | PriorPolicy | FullPolicy, trained: nn.Module, dtype: torch.dtype
    ) -> None:
        """Degrade the photographs and run the frozen prior on them; raises ConfigError if none are named."""
        if recipe.held_out is None:
            raise ConfigError("evaluate_every needs the section held_out: photos that never train")
        self.recipe, self.policy, self.trained, self.dtype = recipe, policy, trained, dtype
        settings = recipe.held_out
        paths = [path for folder in settings.photos for path in find_photos([Path(folder)])][: recipe.look_photos]
        self.metrics = {name: load_metric(name) for name in (*NO_REFERENCE, "st_lpips")}
        self.layers = load_lpips_layers("cpu")
        self.photos = [self._photo(path, preset) for path in paths for preset in settings.presets]

    def _photo(self, path: Path, preset: str) -> _Photo:
        hq, lq = photo_pair(path, preset)
        height, width = (side - side % 4 for side in lq.shape[-2:])  # the head halves its input twice
        hq, lq = hq[..., : 4 * height, : 4 * width], lq[..., :height, :width]
        if isinstance(self.policy, PriorPolicy):
            return _Photo(hq, lq, None)
        prior, head = load_prior().to(self.dtype), self.policy.head
        with torch.no_grad():
            output = prior(lq.to(self.dtype).contiguous(memory_format=torch.channels_last))
            image = output.image.float()
            return _Photo(hq, lq, HeadInput(output.trunk.float(), unshuffle_planes(image), lq, head.gain(image, lq)))

    def __call__(self, done: int, average: dict[str, Tensor]) -> dict[str, float]:  # noqa: ARG002
        """Return the mean of every figure over the photographs, with the averaged weights; `done` steps made them."""
        found: dict[str, list[float]] = {}
        with self._using(average), torch.no_grad():
            for photo in self.photos:
                image = from_uint8(to_uint8(self._restored(photo).clamp(0, 1)))
                for name, value in self._figures(image, photo.hq).items():
                    found.setdefault(HELD_OUT + name, []).append(value)
        return {name: sum(values) / len(values) for name, values in found.items()}

    @contextmanager
    def _using(self, average: dict[str, Tensor]) -> Iterator[None]:
        """Put other weights into the trained parameters until the block ends; they come back bit for bit."""
        parameters = dict(self.trained.named_parameters())
        before = {name: value.detach().clone() for name, value in parameters.items()}
        try:
            _copy(average, parameters)
            yield
        finally:
            _copy(before, parameters)

    def _restored(self, photo: _Photo) -> Enlarged:
        if photo.head_input is None:
            image: Enlarged = self.policy.head(photo.lq.to(self.dtype)).image.float()
            return image
        head, draw = self.policy.head, self.recipe.draw
        assert isinstance(head, FlowHead)
        assert self.recipe.held_out is not None
        height, width = photo.lq.shape[-2:]
        noise = block_noise(self.recipe.held_out.seed, photo.head_input.prior.shape[1], 0, 0, height, width)
        embedded = head.photo_embedding(photo.head_input)

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            return velocity_from_clean(x, head.clean(x, sigma, embedded), sigma)

        latent = integrate(SAMPLERS[draw.sampler], velocity, noise, SCHEDULES[draw.schedule](draw.num_steps))
        return decode_latent(latent, photo.head_input, head)

    def _figures(self, image: Enlarged, hq: Enlarged) -> dict[str, float]:
        values = {
            name: float(metric(image, hq if metric.spec.full_reference else None))
            for name, metric in self.metrics.items()
            if min(image.shape[-2:]) >= metric.spec.min_side
        }
        values["lpips"] = float(lpips(image, hq, self.layers))
        values["lsd"] = float(log_spectral_distance(image, hq))
        values["psnr"] = float(-10 * torch.log10((image - hq).square().mean()))
        return values


@torch.no_grad()
def _copy(values: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
