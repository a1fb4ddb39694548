"""A step of IQA-guided training: one image, the terms on it, and how much each weighs."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import softplus

from sr_core.backbones.compact import residual_latent
from sr_core.backbones.flow_head import HeadInput, unshuffle_planes
from sr_core.flow import clean_error_weight, interpolate, velocity_from_clean
from sr_core.samplers import Step, Velocity
from sr_core.tensors import Enlarged, Image, Latent, PerSample
from train.iqa_config import QualityConfig
from train.iqa_sampling import TargetBatch
from train.policy import FullPolicy, HeadPolicy, PriorPolicy
from train.quality import Discriminator, Quality
from train.steps import StepOutput, decode_latent, sft_sigmas


class Terms(NamedTuple):
    """What the loss may look at; None where its weight is 0."""

    perceptual: Callable[[Image, Image], PerSample] | None
    quality: Quality | None
    discriminator: Discriminator | None


def adversarial_losses(discriminator: Discriminator, image: Image, target: Image) -> tuple[Tensor, Tensor]:
    """Return the restorer's loss and the discriminator's; neither moves the other's weights.

        restorer: softplus(-D(J)),    discriminator: softplus(-D(I)) + softplus(D(J))

    Source: the vanilla GAN loss of Real-ESRGAN, arXiv 2107.10833, which arXiv 2504.18524 keeps.
    """
    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    fooled: Tensor = functional_call(discriminator, frozen, (image,))
    real, fake = discriminator(target), discriminator(image.detach())
    return softplus(-fooled).mean(), (softplus(-real) + softplus(fake)).mean()


def guided_loss(image: Image, target: Image, config: QualityConfig, terms: Terms) -> StepOutput:
    """Return the loss of a restored image J against its target I, and its terms.

        l1 |I - J| + perceptual d(J, I) + gan A(J) - quality Q(J)

    Source: Augmenting Perceptual Super-Resolution via Image Quality Predictors, arXiv 2504.18524, section 3.3.
    """
    loss, metrics = image.new_zeros(()), {}
    if config.l1:
        metrics["l1"] = (image - target).abs().mean()
        loss = loss + config.l1 * metrics["l1"]
    if terms.perceptual is not None:
        metrics["lpips"] = terms.perceptual(image, target).mean()
        loss = loss + config.perceptual * metrics["lpips"]
    if terms.quality is not None:
        values = terms.quality(image)
        # A patch without structure has no scene statistics and, by the metric's doing, no slope; the others have.
        known = values.isfinite()
        metrics["quality"] = torch.where(known, values, torch.zeros_like(values)).sum() / known.sum().clamp(min=1)
        loss = loss - config.quality * metrics["quality"]
    if terms.discriminator is not None:
        metrics["gan"], metrics["discriminator"] = adversarial_losses(terms.discriminator, image, target)
        loss = loss + config.gan * metrics["gan"] + metrics["discriminator"]
    return StepOutput(loss, {name: value.detach() for name, value in metrics.items()})


def drawn_with_gradient(step: Step, velocity: Velocity, noise: Latent, sigmas: Float[Tensor, " n"]) -> Latent:
    """Return what `integrate` returns, with a gradient through every step.

    Source: DRaFT, arXiv 2309.17400, with all steps in the gradient; compact draws in four.
    """
    x = noise
    for sigma, following in pairwise(sigmas.to(noise.device)):
        x = step(velocity, x, sigma.expand(len(x)), following.expand(len(x)))
    return x


class HeadRestorer:
    """The flow head as IQA-guided training sees it."""

    def __init__(
        self,
        policy: HeadPolicy | FullPolicy,
        config: QualityConfig,
        step: Step,
        sigmas: Float[Tensor, " n"],
        *,
        pure_noise_share: float,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.policy, self.config, self._step, self._sigmas = policy, config, step, sigmas
        self._share, self._autocast = pure_noise_share, autocast

    def __call__(self, batch: TargetBatch, generator: torch.Generator) -> tuple[Enlarged, StepOutput | None]:
        """Return the image that the terms look at, and the flow's own error where it has a weight."""
        head, photo = self.policy.head, batch.photo
        clean = residual_latent(unshuffle_planes(batch.target.to(photo.lq.device)), photo, head)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        sigma = sft_sigmas(len(clean), self._share, generator).to(clean.device)
        flow, image = None, None
        if self.config.flow or self.config.image == "clean_end":
            predicted = self._clean(interpolate(clean, noise, sigma), sigma, self._photo(photo))
            error = (clean_error_weight(sigma) * (predicted - clean).square().mean((1, 2, 3))).mean()
            flow = StepOutput(error, {"flow": error.detach()})
            image = decode_latent(predicted, photo, head)
        if self.config.image == "sampled":
            embedded = self._photo(photo)

            def velocity(x: Latent, sigma: Tensor) -> Latent:
                return velocity_from_clean(x, self._clean(x, sigma, embedded), sigma)

            image = decode_latent(drawn_with_gradient(self._step, velocity, noise, self._sigmas), photo, head)
        assert image is not None
        return image, flow if self.config.flow else None

    def _photo(self, photo: HeadInput) -> Tensor:
        with self._autocast():
            return self.policy.head.photo_embedding(photo)

    def _clean(self, x: Latent, sigma: Tensor, embedded: Tensor) -> Latent:
        with self._autocast():
            return self.policy.head.clean(x.contiguous(memory_format=torch.channels_last), sigma, embedded)


class PriorRestorer:
    """The prior as IQA-guided training sees it: one output, no noise."""

    def __init__(self, policy: PriorPolicy, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        self.policy, self._autocast = policy, autocast

    def __call__(self, batch: TargetBatch, generator: torch.Generator) -> tuple[Enlarged, StepOutput | None]:  # noqa: ARG002
        """Return the restoration."""
        with self._autocast():
            image = self.policy.head(batch.photo.lq.contiguous(memory_format=torch.channels_last)).image
        return image.float(), None


Restorer = HeadRestorer | PriorRestorer


def guided_step(
    restorer: Restorer, batch: TargetBatch, config: QualityConfig, terms: Terms, generator: torch.Generator
) -> StepOutput:
    """Restore a batch, take the terms, add the flow's own error."""
    image, flow = restorer(batch, generator)
    output = guided_loss(image, batch.target.to(image.device), config, terms)
    metrics: Mapping[str, Tensor] = output.metrics
    loss = output.loss
    if flow is not None:
        loss = loss + config.flow * flow.loss
        metrics = {**metrics, **flow.metrics}
    return StepOutput(loss, dict(metrics))
