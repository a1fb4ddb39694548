"""Laws of the preference objectives."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sr_core.sobolev import sobolev_energy
from train.losses import (
    OBJECTIVES,
    PairResiduals,
    Residuals,
    Terms,
    difference_mask,
    mean_square,
    objective_terms,
    preference_metrics,
)
from train.preference_config import OBJECTIVE_NAMES, ObjectiveConfig

BETA = 3.0
SHAPE = (4, 3, 10, 7)
RELATIVE = [name for name, objective in OBJECTIVES.items() if objective.needs_reference]
FREE = [name for name, objective in OBJECTIVES.items() if not objective.needs_reference]
PAIRED = [name for name, objective in OBJECTIVES.items() if objective.paired]
EXPONENTS = {name: objective.default_exponent for name, objective in OBJECTIVES.items()}


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*(shape or SHAPE), dtype=dtype, generator=torch.Generator().manual_seed(seed))


def settings(name: str, beta: float = BETA, **others: float | str) -> ObjectiveConfig:
    return ObjectiveConfig(**{"name": name, "beta": beta, "exponent": EXPONENTS[name], **others})


def residuals(seed: int = 0, dtype: torch.dtype = torch.float64) -> PairResiduals:
    """Return residuals of a policy near its reference."""
    sides = []
    for k in (0, 1):
        reference = noise(dtype=dtype, seed=10 * seed + 2 * k)
        sides.append(Residuals(reference + 0.1 * noise(dtype=dtype, seed=10 * seed + 2 * k + 1), reference))
    return PairResiduals(*sides)


def swapped(pair: PairResiduals) -> PairResiduals:
    return PairResiduals(winner=pair.loser, loser=pair.winner)


def at_reference(pair: PairResiduals) -> PairResiduals:
    return PairResiduals(*(Residuals(side.reference, side.reference) for side in pair))


def terms(
    config: ObjectiveConfig,
    pair: PairResiduals,
    weight: float = 1.0,
    pair_weight: float = 1.0,
    mask: Tensor | None = None,
) -> Terms:
    ones = torch.ones(len(pair.winner.policy), dtype=pair.winner.policy.dtype)
    return objective_terms(config, pair, error_weight=weight * ones, pair_weight=pair_weight * ones, mask=mask)


def expected(value: float) -> Tensor:
    return torch.full((SHAPE[0],), value, dtype=torch.float64)


def test_the_table_holds_every_name_of_the_recipes() -> None:
    assert tuple(OBJECTIVES) == OBJECTIVE_NAMES


def test_dpo_is_the_formula_written_out() -> None:
    pair = residuals()
    own, reference = ([side[k].square().mean((1, 2, 3)) for side in (pair.winner, pair.loser)] for k in (0, 1))
    gap = 2.5 * ((own[0] - reference[0]) - (own[1] - reference[1]))
    found = terms(settings("dpo"), pair, weight=2.5)
    torch.testing.assert_close(found.margin, -BETA * gap)
    torch.testing.assert_close(found.loss, torch.log1p(torch.exp(BETA * gap)))
    torch.testing.assert_close(found.chosen - found.rejected, found.margin)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", ["sobolev_dpo", "as_dpo", "dspo"])
def test_exponent_zero_equals_plain_dpo_in_every_error(name: str, dtype: torch.dtype, rtol: float) -> None:
    pair = residuals(dtype=dtype)
    plain = terms(settings("dpo"), pair).errors
    sobolev = terms(settings(name, exponent=0.0), pair).errors
    for own, other in zip(sobolev, plain, strict=True):
        torch.testing.assert_close(own.policy, other.policy, rtol=rtol, atol=0)
        torch.testing.assert_close(own.reference, other.reference, rtol=rtol, atol=0)


@pytest.mark.parametrize("name", ["sobolev_dpo", "as_dpo"])
def test_sobolev_objectives_measure_errors_with_the_recipes_norm(name: str) -> None:
    pair = residuals()
    config = settings(name, exponent=1.5, frequency_unit=5.0, sobolev_scaling="raw", sobolev_transform="rfft")
    energy = sobolev_energy(pair.loser.policy, 1.5, unit=5.0, scaling="raw", transform="rfft")
    torch.testing.assert_close(terms(config, pair).errors.loser.policy, energy)


@pytest.mark.parametrize("name", [n for n in OBJECTIVE_NAMES if not OBJECTIVES[n].sobolev])
def test_other_objectives_measure_mean_squares(name: str) -> None:
    pair = residuals()
    errors = terms(settings(name), pair).errors
    torch.testing.assert_close(errors.winner.policy, mean_square(pair.winner.policy))
    with pytest.raises(ValueError, match="would do nothing"):
        settings(name, exponent=1.5)


def test_euclidean_guidance_is_dpo_against_the_same_loser() -> None:
    pair = residuals()
    euclidean = terms(settings("as_dpo", exponent=1.5, guidance="euclidean"), pair)
    torch.testing.assert_close(euclidean.loss, terms(settings("dpo"), pair).loss, rtol=0, atol=0)
    assert not torch.allclose(euclidean.loss, terms(settings("as_dpo", exponent=1.5), pair).loss)


ZERO_MARGIN_LOSS = {
    "dpo": math.log(2),
    "hpo": math.log(2),
    "sobolev_dpo": math.log(2),
    "as_dpo": math.log(2),
    "hinge": 1.0,
    "ipo": 1 / (4 * BETA**2),
    "kto": 0.5,
}


@pytest.mark.parametrize("name", RELATIVE)
def test_a_policy_equal_to_its_reference_has_margin_zero(name: str) -> None:
    pair = at_reference(residuals())
    found = terms(settings(name), pair)
    for value in (found.margin, found.chosen, found.rejected, found.drift):
        assert torch.equal(value, expected(0))
    winner_error = terms(settings(name), pair).errors.winner.policy
    loss = expected(ZERO_MARGIN_LOSS[name]) if name in ZERO_MARGIN_LOSS else winner_error
    torch.testing.assert_close(found.loss, loss)


@pytest.mark.parametrize("name", FREE)
def test_without_a_reference_equal_errors_have_margin_zero(name: str) -> None:
    side = Residuals(noise(), None)
    found = terms(settings(name), PairResiduals(side, side))
    assert torch.equal(found.margin, expected(0))
    loss = expected(math.log(2)) if name == "simpo" else found.errors.winner.policy + BETA * math.log(2)
    torch.testing.assert_close(found.loss, loss)


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_swapping_winner_and_loser_negates_the_margin(name: str) -> None:
    pair = residuals()
    found, other = terms(settings(name), pair), terms(settings(name), swapped(pair))
    torch.testing.assert_close(other.margin, -found.margin)
    torch.testing.assert_close(other.chosen, found.rejected)
    assert (found.margin != 0).all()


@pytest.mark.parametrize("name", [n for n in PAIRED if n not in ("mapo", "dspo")])
def test_the_loss_falls_as_the_margin_grows(name: str) -> None:
    better, worse = residuals(), residuals()
    closer = better._replace(winner=better.winner._replace(policy=0.9 * better.winner.policy))
    found, other = terms(settings(name, beta=0.5), closer), terms(settings(name, beta=0.5), worse)
    assert (found.margin > other.margin).all()
    assert (found.loss < other.loss).all()


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_a_step_against_the_gradient_lowers_the_winners_error_and_raises_the_losers(name: str) -> None:
    pair = at_reference(residuals())
    own = [side.policy.clone().requires_grad_() for side in pair]
    live = PairResiduals(*(side._replace(policy=leaf) for side, leaf in zip(pair, own, strict=True)))
    terms(settings(name, beta=0.5), live).loss.sum().backward()
    signs = [leaf.grad.flatten(1).mul(leaf.detach().flatten(1)).sum(1) for leaf in own if leaf.grad is not None]
    assert (signs[0] > 0).all()
    # The pull of dspo sees the loser through the margin alone, which its winner's departure of zero multiplies.
    assert (signs[1] == 0).all() if name == "dspo" else (signs[1] < 0).all()


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_the_loss_has_the_right_gradient(name: str) -> None:
    pair = PairResiduals(*(Residuals(noise(2, 1, 3, 2, seed=k), noise(2, 1, 3, 2, seed=k + 5)) for k in (1, 2)))
    ones = torch.ones(2, dtype=torch.float64)

    def loss(winner: Tensor, loser: Tensor) -> Tensor:
        live = PairResiduals(pair.winner._replace(policy=winner), pair.loser._replace(policy=loser))
        config = settings(name, beta=0.3, exponent=1.0 if OBJECTIVES[name].sobolev else 0.0, anchor=0.5)
        return objective_terms(config, live, error_weight=ones, pair_weight=ones).loss

    if name == "kto":
        # Its offset is a constant to the gradient though it moves with the batch; one below 0 is clamped away.
        pair = PairResiduals(*(side._replace(reference=side.reference / 9) for side in pair))
    assert torch.autograd.gradcheck(loss, tuple(side.policy.clone().requires_grad_() for side in pair))


@pytest.mark.parametrize("name", RELATIVE)
def test_no_gradient_reaches_the_reference(name: str) -> None:
    sides = [Residuals(*(part.clone().requires_grad_() for part in side)) for side in residuals()]
    terms(settings(name, anchor=1.0), PairResiduals(*sides)).loss.sum().backward()
    assert all(side.policy.grad is not None for side in sides)
    assert all(side.reference.grad is None for side in sides)


@pytest.mark.parametrize("name", RELATIVE)
def test_an_objective_that_needs_a_reference_says_so(name: str) -> None:
    pair = PairResiduals(*(side._replace(reference=None) for side in residuals()))
    with pytest.raises(AssertionError, match="reference"):
        terms(settings(name), pair)


@pytest.mark.parametrize("name", FREE)
def test_a_reference_does_not_change_an_objective_without_one(name: str) -> None:
    pair = residuals()
    alone = PairResiduals(*(side._replace(reference=None) for side in pair))
    torch.testing.assert_close(terms(settings(name), pair).loss, terms(settings(name), alone).loss, rtol=0, atol=0)


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_pair_weights_multiply_weighted_objectives_alone(name: str) -> None:
    config, pair = settings(name), residuals()
    factor = 3.0 if name == "hpo" else 1.0
    torch.testing.assert_close(terms(config, pair, pair_weight=3.0).loss, factor * terms(config, pair).loss)


def test_hpo_at_weight_one_is_dpo() -> None:
    pair = residuals()
    torch.testing.assert_close(terms(settings("hpo"), pair).loss, terms(settings("dpo"), pair).loss, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["dpo", "sobolev_dpo", "hinge"])
def test_the_error_weight_acts_as_beta_does(name: str) -> None:
    pair = residuals()
    found = terms(settings(name, beta=1.0), pair, weight=4.0)
    torch.testing.assert_close(found.loss, terms(settings(name, beta=4.0), pair).loss)


def test_label_smoothing_mixes_the_losses_of_both_orders() -> None:
    pair = residuals()
    plain, other = terms(settings("dpo"), pair).loss, terms(settings("dpo"), swapped(pair)).loss
    smoothed = terms(settings("dpo", label_smoothing=0.2), pair).loss
    torch.testing.assert_close(smoothed, 0.8 * plain + 0.2 * other)


def test_ipo_is_least_where_the_gap_is_the_inverse_of_twice_beta() -> None:
    reference = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    gap = 1 / (2 * BETA)
    winner = Residuals((1 - torch.tensor(gap, dtype=torch.float64)).sqrt().reshape(1, 1, 1, 1), reference)
    found = terms(settings("ipo"), PairResiduals(winner, Residuals(reference, reference)))
    torch.testing.assert_close(found.loss, torch.zeros(1, dtype=torch.float64))


def test_a_target_margin_asks_simpo_for_more() -> None:
    pair = residuals()
    margin = terms(settings("simpo"), pair).margin
    found = terms(settings("simpo", simpo_gamma=1.5), pair).loss
    torch.testing.assert_close(found, -torch.nn.functional.logsigmoid(margin - 1.5))


def test_ktos_offset_is_the_mean_reward_of_the_batch_and_never_below_zero() -> None:
    pair = residuals()
    better = PairResiduals(*(side._replace(policy=0.5 * side.reference) for side in pair))
    worse = PairResiduals(*(side._replace(policy=1.5 * side.reference) for side in pair))
    for case, clamped in ((better, False), (worse, True)):
        found = terms(settings("kto", beta=0.5), case)
        mean = torch.cat((found.chosen, found.rejected)).mean()
        offset = 0.0 if clamped else mean
        assert bool(mean < 0) == clamped
        loss = (1 - torch.sigmoid(found.chosen - offset)) / 2 + (1 - torch.sigmoid(offset - found.rejected)) / 2
        torch.testing.assert_close(found.loss, loss)


def test_ktos_parts_add_up_to_the_whole_batch_where_they_share_the_mean_reward() -> None:
    pair = residuals()
    better = PairResiduals(*(side._replace(policy=0.5 * side.reference) for side in pair))
    whole = terms(settings("kto", beta=0.5), better)
    mean = torch.cat((whole.chosen, whole.rejected)).mean()
    apart = []
    for place in range(len(whole.loss)):
        one = PairResiduals(*(Residuals(*(value[place : place + 1] for value in side)) for side in better))
        ones = whole.loss.new_ones(1)
        own = {"error_weight": ones, "pair_weight": ones}
        shared = objective_terms(settings("kto", beta=0.5), one, **own, mean_of_all=lambda _: mean)
        apart.append(objective_terms(settings("kto", beta=0.5), one, **own).loss)
        torch.testing.assert_close(shared.loss, whole.loss[place : place + 1])
    assert not torch.allclose(torch.cat(apart), whole.loss)


def test_mapo_pulls_towards_the_winner_even_where_the_margin_is_settled() -> None:
    pair = residuals()
    settled = pair._replace(loser=Residuals(10 * pair.loser.policy, None))
    found = terms(settings("mapo", beta=0.1), settled)
    assert (found.margin > 100).all()
    torch.testing.assert_close(found.loss, found.errors.winner.policy)


def test_dspo_regresses_on_the_winner_once_the_pair_is_settled() -> None:
    pair = residuals()
    settled = pair._replace(loser=pair.loser._replace(policy=100 * pair.loser.policy))
    found = terms(settings("dspo"), settled)
    torch.testing.assert_close(found.loss, mean_square(pair.winner.policy))
    unsettled = pair._replace(winner=pair.winner._replace(policy=100 * pair.winner.policy))
    moved = unsettled.winner.policy - BETA * (unsettled.winner.policy - unsettled.winner.reference)
    torch.testing.assert_close(terms(settings("dspo"), unsettled).loss, mean_square(moved))


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_the_anchor_adds_the_winners_plain_error(name: str) -> None:
    pair = residuals()
    plain, anchored = (terms(settings(name, anchor=a), pair, weight=2.0, pair_weight=3.0) for a in (0.0, 0.7))
    torch.testing.assert_close(anchored.loss - plain.loss, 0.7 * 2.0 * mean_square(pair.winner.policy))


def test_a_mask_has_mean_one_and_looks_where_the_candidates_differ() -> None:
    winner, loser = noise(seed=1), noise(seed=2)
    loser[:, :, :5] = winner[:, :, :5]
    for power in (0.5, 1.0, 2.0):
        mask = difference_mask(winner, loser, power)
        torch.testing.assert_close(mask.mean((1, 2, 3)), expected(1))
        assert (mask[:, :, :5] == 0).all()
        assert (mask[:, :, 5:] > 0).all()
        torch.testing.assert_close(mask, difference_mask(loser, winner, power))


def test_the_mask_of_equal_candidates_is_one_everywhere() -> None:
    assert (difference_mask(noise(), noise(), 1.0) == 1).all()


def test_masked_errors_weigh_squares_by_the_mask_and_leave_the_anchor_alone() -> None:
    pair = residuals()
    mask = difference_mask(noise(seed=1), noise(seed=2), 1.0)
    masked = terms(settings("dpo", mask_power=1.0, anchor=1.0), pair, mask=mask)
    torch.testing.assert_close(masked.errors.winner.policy, (mask * pair.winner.policy.square()).mean((1, 2, 3)))
    torch.testing.assert_close(masked.winner_squares.policy, mean_square(pair.winner.policy))
    without_anchor = terms(settings("dpo", mask_power=1.0), pair, mask=mask)
    torch.testing.assert_close(masked.loss - without_anchor.loss, mean_square(pair.winner.policy))


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_a_mask_of_ones_changes_nothing(name: str) -> None:
    pair = residuals()
    masked = terms(settings(name, mask_power=1.0), pair, mask=torch.ones(4, 1, 10, 7, dtype=torch.float64))
    torch.testing.assert_close(masked.loss, terms(settings(name), pair).loss)


def test_a_mask_without_its_setting_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="mask_power"):
        terms(settings("dpo"), residuals(), mask=torch.ones(4, 1, 10, 7, dtype=torch.float64))


def test_metrics_have_trls_names_and_one_value_per_pair_without_gradient() -> None:
    pair = residuals()
    live = PairResiduals(*(side._replace(policy=side.policy.clone().requires_grad_()) for side in pair))
    found = terms(settings("sobolev_dpo"), live, weight=2.0)
    metrics = preference_metrics(found)
    rewards = {f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")}
    assert set(metrics) == {"loss", "winner_mse_delta", "kl_proxy", "logps/chosen", "logps/rejected"} | rewards
    torch.testing.assert_close(metrics["logps/chosen"], -2 * sobolev_energy(pair.winner.policy, 1.5))
    torch.testing.assert_close(metrics["logps/rejected"], -2 * sobolev_energy(pair.loser.policy, 1.5))
    assert all(value.shape == (4,) and not value.requires_grad for value in metrics.values())
    delta = 2 * (mean_square(pair.winner.policy) - mean_square(pair.winner.reference))
    torch.testing.assert_close(metrics["winner_mse_delta"], delta)
    apart = [mean_square(side.policy - side.reference) for side in pair]
    torch.testing.assert_close(metrics["kl_proxy"], apart[0] + apart[1])
    torch.testing.assert_close(metrics["rewards/accuracies"], (found.margin > 0).double())


def test_metrics_that_need_a_reference_are_left_out_without_one() -> None:
    pair = PairResiduals(*(side._replace(reference=None) for side in residuals()))
    metrics = preference_metrics(terms(settings("simpo"), pair))
    assert {"winner_mse_delta", "kl_proxy"}.isdisjoint(metrics)


def test_weights_and_settings_do_not_leak_between_calls() -> None:
    config = settings("sobolev_dpo", exponent=1.5)
    pair = residuals()
    first = terms(config, pair).loss
    terms(replace(config, exponent=0.5, frequency_unit=4.0), pair)
    torch.testing.assert_close(terms(config, pair).loss, first, rtol=0, atol=0)


def test_the_pull_to_the_reference_adds_the_distance_between_predictions_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(4)
    policy, reference = (torch.randn(2, 2, 3, 8, 8, generator=generator) for _ in range(2))
    policy.requires_grad_(True)
    pair = PairResiduals(Residuals(policy[0], reference[0]), Residuals(policy[1], reference[1]))
    weight = torch.tensor([1.0, 3.0])
    losses = []
    for pull in (0.0, 2.0):
        settings = ObjectiveConfig(name="dpo", beta=1.0, kl_weight=pull)
        losses.append(objective_terms(settings, pair, error_weight=weight, pair_weight=torch.ones(2)).loss)
    distance = weight * (policy - reference).square().mean((2, 3, 4)).mean(0)
    torch.testing.assert_close(losses[1] - losses[0], 2 * distance)
    (found,) = torch.autograd.grad((losses[1] - losses[0]).sum(), policy, retain_graph=True)
    (wanted,) = torch.autograd.grad(2 * distance.sum(), policy)
    torch.testing.assert_close(found, wanted)
