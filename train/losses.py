"""Objectives of preference training: from residuals of policy and reference to one loss per pair.

A residual is target minus prediction on the image's own grid, at the noise and noise level that winner and loser share.
An error e is the mean over elements of its square (or Sobolev energy), times the noise level's weight. For a pair

    chosen = -beta (e_policy - e_reference) of the winner,    rejected = the same of the loser
    margin = chosen - rejected

`beta` multiplies the mean errors directly: code that writes -0.5 beta (Diffusion-DPO, ASASR) quotes twice the value.
Every value is one per pair; the caller reduces.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sr_core.flow import column
from sr_core.sobolev import UNIT, Scaling, Transform, single_or_double, sobolev_energy
from sr_core.tensors import Latent, PerSample
from train.preference_config import ObjectiveConfig
from train.preference_losses import dspo_residual, hinge_loss, ipo_loss, kto_loss, mapo_score, sigmoid_loss

Norm = Callable[[Latent], PerSample]
Mask = Float[Tensor, "b 1 h w"]


@dataclass(frozen=True, slots=True)
class SobolevNorm:
    """The squared Sobolev norm of some settings; see `sobolev_energy`. Two of equal settings are equal."""

    exponent: float
    unit: float = UNIT
    scaling: Scaling = "mean_one"
    transform: Transform = "dct"

    def __call__(self, residual: Latent) -> PerSample:
        """Return the energy of each residual."""
        return sobolev_energy(residual, self.exponent, unit=self.unit, scaling=self.scaling, transform=self.transform)


def unchanged(value: Tensor) -> Tensor:
    """Return the value: the mean over one process alone."""
    return value


class Residuals(NamedTuple):
    """Target minus prediction of both models on the same input; a reference-free objective needs no reference."""

    policy: Tensor
    reference: Tensor | None


class PairResiduals(NamedTuple):
    """Residuals on the preferred and on the dispreferred candidate."""

    winner: Residuals
    loser: Residuals


class Errors(NamedTuple):
    """Errors of both models on the same input, one per sample."""

    policy: Tensor
    reference: Tensor | None


class PairErrors(NamedTuple):
    """Errors on the preferred and on the dispreferred candidate."""

    winner: Errors
    loser: Errors


class Evidence(NamedTuple):
    """What an objective may look at."""

    chosen: Tensor
    rejected: Tensor
    errors: PairErrors
    residuals: PairResiduals
    norm: Norm
    """The weighted error that made `errors`, for other residuals."""
    mean_of_all: Callable[[Tensor], Tensor]
    """Mean over the processes that share the batch."""


class Terms(NamedTuple):
    """Values of one step, one per pair."""

    loss: Tensor
    margin: Tensor
    """chosen - rejected; positive where the policy favours the winner more than the reference does."""
    chosen: Tensor
    """TRL's implicit reward of the winner."""
    rejected: Tensor
    """The same of the loser."""
    errors: PairErrors
    """In the objective's own norm, masked where a mask is used."""
    winner_squares: Errors
    """The winner's plain weighted mean squares, never masked, so that runs of different norms compare."""
    drift: Tensor | None
    """Mean square between the predictions of policy and reference, winner and loser averaged."""


def mean_square(residual: Latent) -> PerSample:
    """Return the mean square of each sample."""
    return single_or_double(residual).square().mean((1, 2, 3))


def difference_mask(winner: Latent, loser: Latent, power: float) -> Mask:
    """Return |winner - loser|^power, the difference averaged over channels, over its mean; 1 for an equal pair."""
    amount = (winner - loser).abs().mean(1, keepdim=True).pow(power)
    mean = amount.mean((1, 2, 3), keepdim=True)
    return torch.where(mean > 0, amount / mean, torch.ones_like(amount))


def pulled_back(winner: Latent, guess: Latent, strength: float) -> Latent:
    """Return winner + strength (guess - winner), the clean end of the adversarial loser; strength 0 is the winner.

    Source: ASASR, arXiv 2605.23264, released code (0.1); strength 1 is the paper's Eq. 16.
    """
    return winner + strength * (guess - winner)


def trusted_guess(guess: Latent, centre: Latent, distance: PerSample, radius: PerSample) -> Latent:
    """Return `guess` moved straight towards `centre` until it is `radius` away; one that is nearer stays as it is.

        centre + min(1, radius / distance) (guess - centre)

    `distance` is the norm of guess - centre, so in that norm the result is the nearest point of the ball.

    Source: ASASR, arXiv 2605.23264, Eq. 38, whose |v| <= epsilon is stated here about the model before training.
    """
    factor = column(radius / distance.clamp_min(torch.finfo(distance.dtype).tiny))
    return torch.where(factor < 1, centre + factor * (guess - centre), guess)


def relative_reward(beta: float, errors: Errors) -> PerSample:
    """Return -beta (e_policy - e_reference)."""
    assert errors.reference is not None, "this objective needs the reference's residuals"
    return -beta * (errors.policy - errors.reference)


def free_reward(beta: float, errors: Errors) -> PerSample:
    """Return -beta e_policy."""
    return -beta * errors.policy


def mapo_reward(beta: float, errors: Errors) -> PerSample:  # noqa: ARG001
    """Return MaPO's score; its beta weighs the preference term instead."""
    return mapo_score(errors.policy)


Loss = Callable[[ObjectiveConfig, Evidence], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """How one objective reads the evidence."""

    loss: Loss
    reward: Callable[[float, Errors], Tensor] = relative_reward
    needs_reference: bool = True
    """Whether the reference must predict too."""
    weighted: bool = False
    """Whether the hierarchical pair weights multiply the loss."""
    sobolev: bool = False
    """Whether errors are Sobolev energies with the recipe's exponent; otherwise mean squares."""
    adversarial: bool = False
    """Whether an adversary makes the loser."""
    paired: bool = True
    """Whether the margin decides; an unpaired objective judges winner and loser each alone."""
    default_exponent: float = 0.0
    """The source's Sobolev exponent."""
    reads: tuple[str, ...] = ()
    """Settings of the recipe that this loss has and others have not."""


def _sigmoid(settings: ObjectiveConfig, evidence: Evidence) -> Tensor:
    return sigmoid_loss(evidence.chosen - evidence.rejected, settings.label_smoothing)


def _ipo(settings: ObjectiveConfig, evidence: Evidence) -> Tensor:
    return ipo_loss(evidence.chosen - evidence.rejected, settings.beta)


def _hinge(settings: ObjectiveConfig, evidence: Evidence) -> Tensor:  # noqa: ARG001
    return hinge_loss(evidence.chosen - evidence.rejected)


def _kto(settings: ObjectiveConfig, evidence: Evidence) -> Tensor:  # noqa: ARG001
    mean = evidence.mean_of_all(torch.cat((evidence.chosen, evidence.rejected)).detach().mean())
    return kto_loss(evidence.chosen, evidence.rejected, mean)


def _simpo(settings: ObjectiveConfig, evidence: Evidence) -> Tensor:
    """Ask for a target margin, with mean errors for length-normalised likelihoods (SimPO, arXiv 2405.14734, Eq. 6)."""
    return sigmoid_loss(evidence.chosen - evidence.rejected - settings.simpo_gamma, settings.label_smoothing)


def _mapo(settings: ObjectiveConfig, evidence: Evidence) -> Tensor:
    return evidence.errors.winner.policy + settings.beta * sigmoid_loss(evidence.chosen - evidence.rejected, 0.0)


def _dspo(settings: ObjectiveConfig, evidence: Evidence) -> Tensor:
    margin = evidence.chosen - evidence.rejected
    winner = evidence.residuals.winner
    assert winner.reference is not None, "dspo needs the reference's residuals"
    return evidence.norm(dspo_residual(winner.policy, winner.reference.detach(), margin, settings.beta))


SMOOTHED = ("label_smoothing",)
OBJECTIVES: dict[str, Objective] = {
    "dpo": Objective(loss=_sigmoid, reads=SMOOTHED),
    "hpo": Objective(loss=_sigmoid, reads=SMOOTHED, weighted=True),
    "sobolev_dpo": Objective(loss=_sigmoid, reads=SMOOTHED, sobolev=True, default_exponent=1.5),
    "as_dpo": Objective(loss=_sigmoid, reads=SMOOTHED, sobolev=True, adversarial=True, default_exponent=1.5),
    "ipo": Objective(loss=_ipo),
    "hinge": Objective(loss=_hinge),
    "kto": Objective(loss=_kto, paired=False),
    "simpo": Objective(loss=_simpo, reads=(*SMOOTHED, "simpo_gamma"), reward=free_reward, needs_reference=False),
    "mapo": Objective(loss=_mapo, reward=mapo_reward, needs_reference=False),
    "dspo": Objective(loss=_dspo, sobolev=True),
}
"""Every objective; the names are `train.preference_config.OBJECTIVE_NAMES`."""


def exponent_of(settings: ObjectiveConfig) -> float:
    """Return the recipe's Sobolev exponent, or the objective's own where it names none."""
    return OBJECTIVES[settings.name].default_exponent if settings.exponent is None else settings.exponent


def norm_of(settings: ObjectiveConfig) -> Norm:
    """Return the squared norm in which an objective measures residuals: Sobolev, or the mean square."""
    euclidean = settings.name == "as_dpo" and settings.guidance == "euclidean"
    if euclidean or not OBJECTIVES[settings.name].sobolev:
        return mean_square
    return SobolevNorm(
        exponent_of(settings), settings.frequency_unit, settings.sobolev_scaling, settings.sobolev_transform
    )


def _errors(residuals: Residuals, norm: Norm) -> Errors:
    with torch.no_grad():
        reference = None if residuals.reference is None else norm(residuals.reference)
    return Errors(norm(residuals.policy), reference)


def _pair_errors(residuals: PairResiduals, norm: Norm) -> PairErrors:
    return PairErrors(_errors(residuals.winner, norm), _errors(residuals.loser, norm))


def _drift(residuals: PairResiduals, error_weight: PerSample) -> PerSample | None:
    """Return the mean square between both models' predictions, averaged over winner and loser."""
    if residuals.winner.reference is None or residuals.loser.reference is None:
        return None
    sides = (mean_square(side.policy - side.reference) for side in residuals if side.reference is not None)
    return error_weight * sum(sides) / 2


def _within(mask: Mask | None, norm: Norm) -> Norm:
    """Return a norm that sees residuals through a mask: sum of mask r^2 where the norm is the mean square."""
    if mask is None:
        return norm
    window = mask.sqrt()
    return lambda residual: norm(window * residual)


def objective_terms(
    settings: ObjectiveConfig,
    residuals: PairResiduals,
    *,
    error_weight: PerSample,
    pair_weight: PerSample,
    mask: Mask | None = None,
    mean_of_all: Callable[[Tensor], Tensor] = unchanged,
) -> Terms:
    """Return the loss of each pair and what there is to report about it.

    `error_weight` turns residuals of clean images into those of velocities; winner and loser share it. `pair_weight` is
    used by weighted objectives alone. `mask` is `difference_mask` where the recipe asks for one. The anchor (the
    policy's plain mean square on the winner) and the pull to the reference are neither masked nor weighted by the pair.
    `mean_of_all` averages a value over the processes that share the batch; `kto` needs it.
    """
    objective = OBJECTIVES[settings.name]
    assert (mask is not None) == (settings.mask_power > 0), "a mask comes with mask_power above 0"
    masked = _within(mask, norm_of(settings))

    def norm(residual: Latent) -> PerSample:
        return error_weight * masked(residual)

    errors = _pair_errors(residuals, norm)
    with torch.set_grad_enabled(torch.is_grad_enabled() and settings.anchor > 0):
        plain = masked is mean_square
        squares = errors.winner if plain else _errors(residuals.winner, lambda r: error_weight * mean_square(r))
    with torch.set_grad_enabled(torch.is_grad_enabled() and settings.kl_weight > 0):
        drift = _drift(residuals, error_weight)
    chosen, rejected = (objective.reward(settings.beta, side) for side in errors)
    loss = objective.loss(settings, Evidence(chosen, rejected, errors, residuals, norm, mean_of_all))
    if objective.weighted:
        loss = pair_weight * loss
    loss = loss + settings.anchor * squares.policy
    if settings.kl_weight > 0:
        assert drift is not None, "kl_weight needs the reference's residuals"
        loss = loss + settings.kl_weight * drift
    return Terms(
        loss=loss,
        margin=chosen - rejected,
        chosen=chosen,
        rejected=rejected,
        errors=errors,
        winner_squares=squares,
        drift=drift,
    )


@torch.no_grad()
def preference_metrics(terms: Terms) -> dict[str, PerSample]:
    """Return what is logged of a step under TRL's names, one value per pair, without gradient.

    `logps/*` are log-likelihoods up to a factor and a constant: minus the policy's errors in the objective's norm.
    `winner_mse_delta` is the policy's plain error on winners minus the reference's; above 0, winners are being pushed
    down too. `kl_proxy` is the mean square between the predictions, the divergence of two Gaussian policies of one
    width up to a constant. Both are left out where no reference predicts.
    """
    metrics = {
        "loss": terms.loss,
        "rewards/chosen": terms.chosen,
        "rewards/rejected": terms.rejected,
        "rewards/margins": terms.margin,
        "rewards/accuracies": (terms.margin > 0).to(terms.loss),
        "logps/chosen": -terms.errors.winner.policy,
        "logps/rejected": -terms.errors.loser.policy,
    }
    winner = terms.winner_squares
    if winner.reference is not None:
        metrics["winner_mse_delta"] = winner.policy - winner.reference
    if terms.drift is not None:
        metrics["kl_proxy"] = terms.drift
    return {name: value.detach() for name, value in metrics.items()}
