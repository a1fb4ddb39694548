"""What all latent diffusion backbones share: conditions, noise levels, guidance, tiles in every step and sampling."""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.backbones.backbone import OnCall
from sr_core.backbones.drawing import AUTO_PROMPT, NATIVE, Drawing
from sr_core.backbones.latent_space import FREE_MEMORY, LEAST_SIDE, LatentSpace
from sr_core.backbones.latent_space import LatentObservation as LatentObservation
from sr_core.backbones.tagger import describe_photo
from sr_core.backbones.windows import Window, blend, plan_windows
from sr_core.diffusion import PREDICTIONS, flow_level, preserving_alpha, preserving_level, timestep_of_level
from sr_core.errors import InputError
from sr_core.flow import column, velocity_from_clean
from sr_core.noise import block_noise
from sr_core.samplers import SAMPLERS, integrate
from sr_core.schedules import SCHEDULES
from sr_core.tensors import Enlarged, Image, Latent, PerSample, Sigma

Own = TypeVar("Own", bound="LatentBackbone")
MAX_TEXTS = 64
"""Prompts whose embeddings are kept."""


class Text(NamedTuple):
    """What text encoders say of one prompt."""

    embedding: Float[Tensor, "b n d"]
    pooled: Float[Tensor, "b e"] | None = None
    """Of the whole prompt; only SDXL and FLUX have it."""


class LatentCondition(NamedTuple):
    """Everything about a photo, or about a window of it, that all of its candidates share."""

    lq: Enlarged
    latent: Latent
    text: Text
    negative: Text | None
    """None where the backbone has no negative prompt."""
    size: tuple[int, int]
    output: tuple[int, int]
    place: tuple[int, int] = (0, 0)
    """(top, left) of the window in the latent."""


def matched(value: Tensor, count: int) -> Tensor:
    """Return a condition's tensor for `count` states, which hold k for each of its samples, sample last."""
    return value.repeat(count // len(value), *(1 for _ in value.shape[1:]))


class LatentBackbone(LatentSpace, ABC):
    """A latent network behind the backbone protocol; subclasses say how it is called (`forward`, `encode_text`).

    The photo is a whole: one latent, split into windows in every call and blended. `drawing` holds the settings.
    """

    name: str
    prediction: str
    """What the network says: epsilon, v or velocity (see `PREDICTIONS`)."""

    def __init__(
        self, *, vae: Any, scheduler: Any, drawing: Drawing, dtype: torch.dtype, device: str,  # noqa: ANN401
        candidates_per_pass: int = 1, tagger: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(vae=vae, device=device)
        self.scheduler, self.drawing, self.dtype = scheduler, drawing, dtype
        self.candidates_per_pass = candidates_per_pass
        self.tagger = tagger
        """Folder of the model that describes a photo where the prompt is `auto`; None where it is missing."""
        self._texts: dict[str, Text] = {}
        self._side: int | None = None
        self._one_by_one = False

    # --- What a subclass says of its network ---

    @abstractmethod
    def forward(self, x: Latent, time: PerSample, condition: LatentCondition) -> Latent:
        """Return the network's prediction for states of one window, by the condition's `text`; differentiable.

        `x` may hold k states for each of the condition's samples (see `matched`); `time` is the scheduler's, one per
        state.
        """

    @abstractmethod
    def encode_text(self, prompt: str) -> Text:
        """Return what the text encoders say; without gradients."""

    def guided(self, x: Latent, time: PerSample, condition: LatentCondition) -> Latent:
        """Return the prediction with classifier-free guidance against the negative prompt (arXiv 2207.12598, Eq. 6).

        For conditions of one sample. Networks that take the guidance as an input replace it.
        """
        guidance, negative = self.drawing.guidance, condition.negative
        if guidance is None or guidance == 1 or negative is None:
            return self.forward(x, time, condition)
        both = condition._replace(text=_paired(condition.text, negative))
        predicted = self.forward(x.repeat_interleave(2, 0), time.repeat_interleave(2, 0), both)
        wanted, unwanted = predicted[0::2], predicted[1::2]
        return unwanted + guidance * (wanted - unwanted)

    def time_of(self, level: Sigma) -> PerSample:
        """Return the scheduler's time at a native noise level in (0, 1]."""
        return timestep_of_level(level, self.scheduler.alphas_cumprod)

    def fresh_scheduler(self, shape: tuple[int, int]) -> Any:  # noqa: ANN401, ARG002
        """Return a scheduler of the release, set to the drawing's steps, for a latent of (height, width)."""
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(self.drawing.num_steps)
        return scheduler

    def noised(self, clean: Latent, noise: Latent, time: PerSample, scheduler: Any) -> Latent:  # noqa: ANN401
        """Return the state of the scheduler's path at a time."""
        return scheduler.add_noise(clean, noise, time.long())

    # --- Training ---

    def predict(self, x: Latent, level: Sigma, condition: LatentCondition) -> Latent:
        """Return the network's own prediction at a native level, without guidance and without tiles."""
        return self.forward(x, self.time_of(level), condition)

    # --- The photo ---

    def bound(self: Own, drawing: Drawing) -> Own:
        """Return this backbone with other settings, no notices and whole tiles again; both share all weights."""
        other = copy.copy(self)
        other.drawing, other.notices, other._side, other._one_by_one = drawing, [], None, False
        other._restore_tiles()
        return other

    @torch.no_grad()
    def condition(self, observation: LatentObservation) -> LatentCondition:
        """Add what the prompts of the drawing say."""
        lq, latent, size, output = observation
        drawing = self.drawing
        negative = None if drawing.negative_prompt is None else self.text(drawing.negative_prompt)
        prompt = self._described(lq, size) if drawing.prompt == AUTO_PROMPT else drawing.prompt or ""
        return LatentCondition(lq, latent, self.text(prompt), negative, size, output)

    def _described(self, lq: Enlarged, size: tuple[int, int]) -> str:
        """Return what the tagger says of the photo, told as a notice; nothing where there is no tagger."""
        if self.tagger is None:
            self.notices.append(
                f"tagger left out: no weights for it; the prompt is empty (see `sr weights {self.name}`)"
            )
            return ""
        prompt = describe_photo(lq[:1, :, : size[0], : size[1]], self.tagger)
        self.notices.append(f"prompt by the tagger: {prompt}")
        return prompt

    def encode(self, lq: Image) -> LatentCondition:
        """Return what all candidates of `lq` share."""
        return self.condition(self.observe(lq))

    def text(self, prompt: str) -> Text:
        """Return what the text encoders say, computed once per prompt."""
        if prompt not in self._texts:
            if len(self._texts) >= MAX_TEXTS:
                self._texts.clear()
            with torch.no_grad():
                self._texts[prompt] = self.encode_text(prompt)
        return self._texts[prompt]

    def decode(self, x: Latent, condition: LatentCondition) -> Enlarged:
        """Return restorations of four times the photo's size, not clamped."""
        return self.cut(self.decode_latent(x), condition.size, condition.output)

    def prior_image(self, condition: LatentCondition) -> Enlarged:
        """Return the enlarged photo, which all candidates vary around."""
        return self.cut(condition.lq, condition.size, condition.output).clamp(0, 1)

    def spectral_view(self, residual: Latent) -> Latent:
        """Return the residual itself: the latent's grid is the image's own, reduced."""
        return residual

    def error_weight(self, sigma: Sigma) -> PerSample:
        """Return 1: errors on the native target are not weighted."""
        return torch.ones_like(sigma)

    # --- Drawing ---

    def crop(self, condition: LatentCondition, window: Window) -> LatentCondition:
        """Return the condition of a window."""
        lq, latent = window.crop(condition.lq, self.factor), window.crop(condition.latent)
        return condition._replace(lq=lq, latent=latent, place=(window.top, window.left))

    def _windows(self, height: int, width: int) -> list[Window]:
        return plan_windows(height, width, self._side or self.window_side(self.drawing.tile), self.cell)

    def window_side(self, tile: int) -> int:
        """Return the side of a window in latent pixels for a tile in LQ pixels."""
        return max(2 * self.cell, tile * self.scale // self.factor // self.cell * self.cell)

    def field(self, x: Latent, time: PerSample, condition: LatentCondition, on_call: OnCall) -> Latent:
        """Return the guided prediction for whole latents, blended from windows, float32."""

        def predict(part: Latent, window: Window) -> Latent:
            on_call()
            return self.guided(part, time, self.crop(condition, window)).float()

        return blend(predict, x, self._windows(*x.shape[-2:]))

    @torch.no_grad()
    def velocity(self, x: Latent, sigma: Sigma, condition: LatentCondition, on_call: OnCall = lambda: None) -> Latent:
        """Return noise minus clean of the guided prediction; sigma is above 0.

        A network of a variance-preserving schedule is asked at the level whose state is a multiple of the flow's.
        """
        x, sigma = x.to(self.device, torch.float32), sigma.to(self.device, torch.float32)
        if self.prediction == "velocity":
            return self.field(x, self.time_of(sigma), condition, on_call)
        level = preserving_level(sigma).clamp(*self._level_range())
        state = x / column(((1 - sigma).square() + sigma.square()).sqrt())
        predicted = self.field(state, self.time_of(level), condition, on_call)
        ends = PREDICTIONS[self.prediction].ends(state, predicted, preserving_alpha(level), level)
        return velocity_from_clean(x, ends.clean, sigma)

    def _level_range(self) -> tuple[float, float]:
        power = self.scheduler.alphas_cumprod
        return float((1 - power[0]).sqrt()), float((1 - power[-1]).sqrt())

    def _top(self) -> float:
        """Return the flow's sigma at the schedule's noisiest level."""
        if self.prediction == "velocity":
            return 1.0
        return float(flow_level(torch.tensor([self._level_range()[1]], dtype=torch.float64)))

    def count_calls(self, lq: Image) -> int:
        """Return how often the network is called for one batch of candidates of `lq`."""
        steps = self.drawing.num_steps
        _, height, width = self.latent_shape(lq)
        if self.drawing.sampler == NATIVE:
            steps = self._num_drawn(steps)
        elif self.drawing.sampler == "heun":
            steps = 2 * steps - 1
        return steps * len(self._windows(height, width))

    def _num_drawn(self, steps: int) -> int:
        return max(1, round(steps * (self.drawing.strength or 1.0)))

    @torch.no_grad()
    def draw(self, condition: LatentCondition, seeds: Sequence[int], on_call: OnCall) -> Latent:
        """Return clean latents, one per seed; where memory runs out, from new on with less at once.

        Seeds are drawn one by one first, which changes no candidate, and then in windows of half the side.
        Raises InputError if it runs out with the smallest windows too.
        """
        while True:
            try:
                return self._sample_in_turn(condition, seeds, on_call)
            except torch.OutOfMemoryError:
                pass  # what the failed call held is given back before the next one
            if len(seeds) > 1 and not self._one_by_one:
                self._one_by_one = True
                self._gave_way("candidates were drawn one by one")
                continue
            self._halve(max(condition.latent.shape[-2:]))

    def _halve(self, longest: int) -> None:
        """Halve the windows of this and all later draws of the request, and say so."""
        side = min(longest, self._side or self.window_side(self.drawing.tile))
        smaller = side // 2 // self.cell * self.cell
        if smaller < max(2 * self.cell, LEAST_SIDE):
            words = f"memory ran out with the smallest tiles, {side * self.factor} px of the enlarged photo"
            raise InputError(f"{words}; {FREE_MEMORY}")
        self._side = smaller
        self._gave_way(
            f"tiles of {smaller * self.factor} px of the enlarged photo were used instead of {side * self.factor} px"
        )

    def _sample_in_turn(self, condition: LatentCondition, seeds: Sequence[int], on_call: OnCall) -> Latent:
        """Return clean latents, drawn together, or one by one, each seed once, where memory ran out before."""
        if not self._one_by_one:
            return self._sample(condition, seeds, on_call)
        drawn = {seed: self._sample(condition, [seed], on_call) for seed in dict.fromkeys(seeds)}
        return torch.cat([drawn[seed] for seed in seeds])

    def _sample(self, condition: LatentCondition, seeds: Sequence[int], on_call: OnCall) -> Latent:
        channels, height, width = condition.latent.shape[1:]
        noise = torch.cat([block_noise(seed, channels, 0, 0, height, width) for seed in seeds]).to(self.device)
        if self.drawing.sampler == NATIVE:
            return self._native(noise, condition, seeds, on_call)
        drawing, top = self.drawing, self._top() * (self.drawing.strength or 1.0)
        sigmas = SCHEDULES[drawing.schedule](drawing.num_steps) * top
        clean = condition.latent if drawing.start == "lq" else torch.zeros_like(condition.latent)
        spread = 1.0 if drawing.start == "lq" else ((1 - top) ** 2 + top**2) ** 0.5 / top
        x = (1 - top) * clean + top * spread * noise
        return integrate(
            SAMPLERS[drawing.sampler], lambda x, sigma: self.velocity(x, sigma, condition, on_call), x, sigmas
        )

    def _native(self, noise: Latent, condition: LatentCondition, seeds: Sequence[int], on_call: OnCall) -> Latent:
        """Run the release's own scheduler; every seed has a generator of its own for the noise of its steps."""
        drawing, (height, width) = self.drawing, noise.shape[-2:]
        scheduler = self.fresh_scheduler((height, width))
        times = scheduler.timesteps[len(scheduler.timesteps) - self._num_drawn(len(scheduler.timesteps)) :]
        x = noise
        if drawing.start == "lq":
            x = self.noised(condition.latent.expand_as(noise), noise, times[:1].to(noise).expand(len(noise)), scheduler)
        generators = [step_generator(seed) for seed in seeds]
        for time in times:
            predicted = self.field(x, time.to(x).expand(len(x)), condition, on_call)
            x = scheduler.step(predicted, time, x, generator=generators).prev_sample
        return x


def step_generator(seed: int) -> torch.Generator:
    """Return the generator of the noise that a stochastic sampler adds to one candidate."""
    digest = hashlib.sha256(f"{seed}/steps".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


def _paired(text: Text, negative: Text) -> Text:
    """Return two prompts as one of batch 2."""
    pooled = None if text.pooled is None or negative.pooled is None else torch.cat([text.pooled, negative.pooled])
    return Text(torch.cat([text.embedding, negative.embedding]), pooled)
