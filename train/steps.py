"""A step: the only place where model, noise and maths meet, and where losses are reduced."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from sr_core.backbones.compact import residual_latent
from sr_core.backbones.flow_head import FlowHead, HeadInput, image_from_planes, shuffle_planes
from sr_core.diffusion import PREDICTIONS, Prediction, diffuse, preserving_alpha
from sr_core.errors import ConfigError
from sr_core.flow import clean_error_weight, interpolate
from sr_core.tensors import Enlarged, Image, Latent, PerSample, Sigma
from train.data import Batch
from train.losses import (
    OBJECTIVES,
    Norm,
    PairResiduals,
    Residuals,
    SobolevNorm,
    Terms,
    difference_mask,
    mean_square,
    norm_of,
    objective_terms,
    preference_metrics,
    pulled_back,
    trusted_guess,
    unchanged,
)
from train.preference_config import ObjectiveConfig

LOGGED_NORM = SobolevNorm(1.5)
"""The Sobolev norm whose effect on the reference's error every run logs."""


class StepOutput(NamedTuple):
    """What one step hands to the engine."""

    loss: Tensor
    metrics: dict[str, Tensor]

    def share_of(self, parts: int) -> "StepOutput":
        """Return what one of `parts` equal micro-batches adds to its step."""
        if parts == 1:
            return self
        return StepOutput(self.loss / parts, {name: value / parts for name, value in self.metrics.items()})


def sft_sigmas(count: int, pure_noise_share: float, generator: Generator) -> Sigma:
    """Return uniform noise levels in (0, 1], the first share of them exactly 1."""
    sigma = 1 - torch.rand(count, generator=generator)
    sigma[: round(count * pure_noise_share)] = 1.0
    return sigma


class PerceptualTerm(NamedTuple):
    """A perceptual distance to add to the flow's error."""

    distance: Callable[[Image, Image], PerSample]
    weight: float
    share: float


def decode_latent(latent: Latent, photo: HeadInput, head: FlowHead) -> Enlarged:
    """Return the image of a clean latent, not clamped, so that gradients reach everywhere."""
    planes = photo.prior + latent * (photo.gain * head.channel_std())
    return image_from_planes(shuffle_planes(planes))


class BatchPart(NamedTuple):
    """Which samples of a batch one process has; the parts are equally large, and the mean over them is the batch's."""

    total: int
    """Samples of the whole batch."""
    own: slice = slice(None)

    def places(self, chosen: Iterable[int]) -> list[int]:
        """Return where the chosen samples of the whole batch lie in this part, those that it has."""
        wanted = set(chosen)
        return [place for place, sample in enumerate(range(self.total)[self.own]) if sample in wanted]

    def mean_over(self, values: PerSample, count: int) -> Tensor:
        """Return what this part adds to the mean over `count` samples of the batch, of which it has `values`."""
        return values.sum() * (self.total / (len(range(self.total)[self.own]) * count))


def perceptual_loss(
    predicted: Latent, batch: Batch, head: FlowHead, term: PerceptualTerm, part: BatchPart | None = None
) -> Tensor:
    """Return the mean distance between predicted clean images and the ground truth on every n-th sample.

    Which samples these are is settled in the whole batch, whatever part of it is here.
    """
    part = part or BatchPart(len(batch.hq))
    wanted = range(0, part.total, max(1, round(1 / term.share)))
    chosen = part.places(wanted)
    if not chosen:
        return predicted.new_zeros(())
    photo = HeadInput(*(tensor[chosen] for tensor in batch.photo))
    image = decode_latent(predicted[chosen], photo, head)
    target = image_from_planes(shuffle_planes(batch.hq[chosen]))
    return part.mean_over(term.distance(image, target), len(wanted))


def sft_step(
    head: FlowHead,
    batch: Batch,
    pure_noise_share: float,
    generator: Generator,
    term: PerceptualTerm | None = None,
    part: BatchPart | None = None,
) -> StepOutput:
    """Teach the head the clean residual at random noise levels (rectified flow, arXiv 2209.03003, Eq. 1).

    `batch` is the part `part` of the step's batch, all of it by default. Every process draws levels and noise of the
    whole batch and keeps its own, so that the mean over processes does not depend on how many there are.
    """
    part, device = part or BatchPart(len(batch.hq)), batch.hq.device
    levels = sft_sigmas(part.total, pure_noise_share, generator)
    noise = torch.randn((part.total, *batch.hq.shape[1:]), generator=generator)[part.own].to(device)
    sigma = levels[part.own].to(device)
    error, predicted = _clean_errors(head, batch, sigma, noise)
    metrics = {"clean_mse": error.detach().mean()}
    pure = int((levels == 1).sum())
    if pure:
        metrics["clean_mse_at_noise"] = part.mean_over(error.detach()[sigma == 1], pure)
    loss = (clean_error_weight(sigma) * error).mean()
    if term is not None:
        distance = perceptual_loss(predicted, batch, head, term, part)
        metrics["lpips"] = distance.detach()
        loss = loss + term.weight * distance
    return StepOutput(loss, metrics)


def clean_step(head: FlowHead, batch: Batch, sigma: Sigma, noise: Latent) -> StepOutput:
    """Compare the head's clean residual with the batch's at given noise levels and noise."""
    error, _ = _clean_errors(head, batch, sigma, noise)
    return StepOutput((clean_error_weight(sigma) * error).mean(), {"clean_mse": error.detach().mean()})


def _clean_errors(head: FlowHead, batch: Batch, sigma: Sigma, noise: Latent) -> tuple[PerSample, Latent]:
    """Return the mean squared error of the head's clean residual, one per sample, and that residual."""
    clean = residual_latent(batch.hq, batch.photo, head)
    x = interpolate(clean, noise, sigma).contiguous(memory_format=torch.channels_last)
    predicted = head.clean(x, sigma, head.photo_embedding(batch.photo))
    return (predicted - clean).square().mean(dim=(1, 2, 3)), predicted


@dataclass(frozen=True, kw_only=True)
class Parametrisation:
    """What a backbone predicts, and how its noisy states are made; `level` is sigma in (0, 1], 1 the noisiest."""

    prediction: Prediction
    alpha: Callable[[Sigma], PerSample]
    """Share of the clean end in the state at a noise level."""
    error_weight: Callable[[Sigma], PerSample]
    """Weight of the mean squared error on the target."""
    highest_level: float = 1.0
    """Noise levels are capped here; below 1 where a prediction at 1 would say nothing about the clean end."""

    def noisy(self, clean: Latent, noise: Latent, level: Sigma) -> Latent:
        """Return the state of the path."""
        return diffuse(clean, noise, self.alpha(level), level)

    def target(self, clean: Latent, noise: Latent, level: Sigma) -> Latent:
        """Return what the network should say."""
        return self.prediction.target(clean, noise, self.alpha(level), level)

    def clean(self, x: Latent, predicted: Latent, level: Sigma) -> Latent:
        """Return the clean end that a prediction at a state means."""
        return self.prediction.ends(x, predicted, self.alpha(level), level).clean


def _flow_alpha(level: Sigma) -> PerSample:
    return 1 - level


PARAMETRISATIONS: dict[str, Parametrisation] = {
    "clean": Parametrisation(prediction=PREDICTIONS["clean"], alpha=_flow_alpha, error_weight=clean_error_weight),
    "velocity": Parametrisation(prediction=PREDICTIONS["velocity"], alpha=_flow_alpha, error_weight=torch.ones_like),
    "epsilon": Parametrisation(
        prediction=PREDICTIONS["epsilon"], alpha=preserving_alpha, error_weight=torch.ones_like, highest_level=0.999
    ),
    "v": Parametrisation(prediction=PREDICTIONS["v"], alpha=preserving_alpha, error_weight=torch.ones_like),
}
"""Flow backbones predict the clean end (`compact`) or the velocity; diffusion backbones the noise or v."""

Condition = TypeVar("Condition", contravariant=True)


@runtime_checkable
class PreferenceModel(Protocol[Condition]):
    """What preference training needs of a backbone with named sets of weights."""

    parametrisation: Parametrisation

    def predict(self, x: Latent, level: Sigma, condition: Condition) -> Latent:
        """Return the active set's prediction; `x` holds k states for each of the condition's samples, sample last."""

    def using(self, name: str) -> AbstractContextManager[None]:
        """Run a block with the set `name`: reference, policy or adversary."""

    def view(self, residual: Latent) -> Tensor:
        """Return a residual on the image's own grid, by an orthogonal map."""

    def mean_colour(self, difference: Tensor, condition: Condition) -> Tensor:
        """Return how far a difference of clean ends on that grid moves the image's mean colour, (b, planes)."""


AnyCondition = TypeVar("AnyCondition")


@dataclass(frozen=True, kw_only=True)
class PairBatch(Generic[AnyCondition]):
    """Pairs of candidates of the same photo, as latents; crop and flip are already shared."""

    condition: AnyCondition
    winner: Latent
    loser: Latent
    weight: PerSample
    """Weight of each pair; 1 where none is used."""
    lq: Latent | None = None
    """The enlarged LQ as a latent, a further loser of AS-DPO's released code."""


def pair_levels(
    count: int,
    distribution: str,
    lowest: float,
    pure_noise_share: float,
    generator: Generator,
    step_levels: Float[Tensor, " steps"] | None = None,
) -> Sigma:
    """Return noise levels in (lowest, 1], the first share of them exactly 1 (uniform only).

    `logit_normal` is the flow recipes' sigmoid of a standard normal (Stable Diffusion 3, arXiv 2403.03206, Eq. 19);
    `steps` draws among `step_levels`, the levels of a diffusion schedule's steps, as its own training does (DDPM,
    arXiv 2006.11239, Algorithm 1). Raises ConfigError if there is no such schedule.
    """
    if distribution == "steps":
        if step_levels is None:
            raise ConfigError("levels steps needs a backbone with a diffusion schedule; use uniform or logit_normal")
        known = step_levels[step_levels > lowest]
        return known[torch.randint(0, len(known), (count,), generator=generator)]
    if distribution == "logit_normal":
        return torch.sigmoid(torch.randn(count, generator=generator)).clamp_min(max(lowest, 1e-3))
    return lowest + (1 - lowest) * sft_sigmas(count, pure_noise_share, generator)


@torch.no_grad()
def adversarial_loser(
    model: PreferenceModel[AnyCondition],
    batch: PairBatch[AnyCondition],
    level: Sigma,
    noise: Latent,
    strength: float,
    *,
    norm: Norm = mean_square,
    trust_radius: float = 0.0,
) -> Latent:
    """Return the clean end of AS-DPO's loser: where the adversary would take the winner's own noisy state.

    x_hat = the adversary's clean end at x_w, pulled back to clean_w + strength (x_hat - clean_w).
    Above 0, `trust_radius` first bounds |v_adv - v_reference|, the root of `norm` over what separates the two
    velocities; on a straight path those differ by the difference of the clean ends over the noise level.
    Source: ASASR, arXiv 2605.23264, Eq. 16-17; the strength is the released code's (1 there is the paper).
    """
    kind = model.parametrisation
    x = kind.noisy(batch.winner, noise, level)

    def guess_of(name: str) -> Latent:
        with model.using(name):
            return kind.clean(x, model.predict(x, level, batch.condition), level)

    guess = guess_of("adversary")
    if trust_radius > 0:
        centre = guess_of("reference")
        guess = trusted_guess(guess, centre, norm(model.view(guess - centre)).sqrt(), trust_radius * level)
    return pulled_back(batch.winner, guess, strength)


def denoising_step(
    model: PreferenceModel[AnyCondition], condition: AnyCondition, clean: Latent, level: Sigma, noise: Latent
) -> StepOutput:
    """Compare the active set's prediction with its target at given noise levels: supervised training on clean latents.

    Source: DDPM, arXiv 2006.11239, Eq. 14; rectified flow, arXiv 2209.03003, Eq. 1; by the backbone's parametrisation.
    """
    kind = model.parametrisation
    x, target = kind.noisy(clean, noise, level), kind.target(clean, noise, level)
    error = mean_square(model.view(target - model.predict(x, level, condition)))
    return StepOutput((kind.error_weight(level) * error).mean(), {"mse": error.detach().mean()})


def preference_step(
    model: PreferenceModel[AnyCondition],
    batch: PairBatch[AnyCondition],
    objective: ObjectiveConfig,
    level: Sigma,
    noise: Latent,
    *,
    trust_radius: float = 0.0,
    mean_of_all: Callable[[Tensor], Tensor] = unchanged,
) -> StepOutput:
    """Compare winner and loser at one shared noise level and one shared noise per pair.

    The reference speaks first and without gradients, on the same states. `as_dpo` replaces the loser by the adversary's
    and may add the enlarged LQ as a second one; `trust_radius` is `adversarial_loser`'s, in the objective's norm.
    `mean_of_all` is the mean over the processes that share the batch.
    """
    row, kind = OBJECTIVES[objective.name], model.parametrisation
    losers = [batch.loser]
    if row.adversarial:
        strength, norm = objective.adversary_strength, norm_of(objective)
        losers = [adversarial_loser(model, batch, level, noise, strength, norm=norm, trust_radius=trust_radius)]
        if objective.lq_loser_weight and batch.lq is not None:
            losers.append(batch.lq)
    samples = [batch.winner, *losers]
    levels, noises = level.repeat(len(samples)), noise.repeat(len(samples), 1, 1, 1)
    clean = torch.cat(samples)
    x, target = kind.noisy(clean, noises, levels), kind.target(clean, noises, levels)
    reference: list[Tensor] | None = None
    if row.needs_reference:
        with torch.no_grad(), model.using("reference"):
            predicted = model.predict(x, levels, batch.condition)
        reference = list(model.view(target - predicted).chunk(len(samples)))
    policy = list(model.view(target - model.predict(x, levels, batch.condition)).chunk(len(samples)))
    weight = kind.error_weight(level)

    def residuals(index: int) -> Residuals:
        return Residuals(policy[index], None if reference is None else reference[index])

    def compare(index: int, settings: ObjectiveConfig) -> Terms:
        mask = None
        if settings.mask_power > 0:
            mask = difference_mask(model.view(batch.winner), model.view(samples[index]), settings.mask_power)
        pair = PairResiduals(residuals(0), residuals(index))
        return objective_terms(
            settings, pair, error_weight=weight, pair_weight=batch.weight, mask=mask, mean_of_all=mean_of_all
        )

    terms = compare(1, objective)
    loss = terms.loss.mean()
    if len(samples) > 2:
        # The anchor and the pull to the reference are in the first comparison already.
        free = replace(objective, anchor=0.0, kl_weight=0.0)  # type: ignore[type-var]
        loss = loss + objective.lq_loser_weight * compare(2, free).loss.mean()
    metrics = {name: value.mean() for name, value in preference_metrics(terms).items() if name != "loss"}
    known = terms.errors.winner.reference if norm_of(objective) == LOGGED_NORM and not objective.mask_power else None
    energy = None if known is None else known / weight
    return StepOutput(loss, metrics | _norm_metrics(model, batch.condition, residuals(0), energy))


@torch.no_grad()
def _norm_metrics(
    model: PreferenceModel[AnyCondition], condition: AnyCondition, winner: Residuals, energy: PerSample | None
) -> dict[str, Tensor]:
    """Return what the Sobolev norm would do to the reference's error, and how far the winner's mean colour has moved.

    `energy_per_mse` (exponent 1.5, mean-one weights, whatever the objective) is 1 for white residuals, where a beta
    means the same in every norm. `energy` is the reference's where the objective has measured it already. Without a
    reference both figures are the policy's, which at step 0 is the reference, and no colour has moved from anywhere.
    """
    measured = winner.policy if winner.reference is None else winner.reference
    energy = LOGGED_NORM(measured) if energy is None else energy
    ratio = {"energy_per_mse": energy.mean() / mean_square(measured).mean()}
    if winner.reference is None:
        return ratio
    moved = model.mean_colour(winner.policy - winner.reference, condition)
    return ratio | {"winner_colour_drift": moved.square().sum(1).sqrt().mean()}
