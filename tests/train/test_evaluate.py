import copy

import numpy as np
import pytest
import torch

from train.evaluate import (
    detailed_blocks,
    gates,
    noise_control,
    psnr,
    seed_psnr,
    shaped_noise,
    table,
)

METRICS = ("psnr", "lpips", "ssimulacra2", "vsi", "st_lpips", "lsd")


def units(count: int = 12) -> list[dict[str, dict[str, float]]]:
    random = np.random.default_rng(0)
    rows = ("prior", "control", "head", "random_of_n", "best_of_n")
    made = [{row: {metric: float(random.uniform(1, 2)) for metric in METRICS} for row in rows} for _ in range(count)]
    for unit in made:
        unit["head"]["seed_psnr"] = 30.0
        unit["control"]["psnr_error"] = 0.0
    return made


def swapped(made: list[dict[str, dict[str, float]]], a: str, b: str) -> list[dict[str, dict[str, float]]]:
    other = copy.deepcopy(made)
    for unit in other:
        unit[a], unit[b] = ({m: unit[row][m] for m in METRICS} for row in (b, a))
        unit["head"]["seed_psnr"] = 30.0
        unit["control"]["psnr_error"] = 0.0
    return other


@pytest.mark.parametrize("target", [20.0, 24.0, 29.0])
def test_the_control_has_the_psnr_that_it_is_asked_for(target: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hq = torch.rand(1, 3, 64, 64, generator=generator) * 0.6 + 0.2
    prior = hq + 0.02 * torch.randn(hq.shape, generator=generator)
    noise = shaped_noise([1.0] * 33, 64, 64, generator)
    assert psnr(noise_control(prior, hq, noise, target), hq) == pytest.approx(target, abs=0.05)


def test_the_control_is_the_prior_where_the_head_beats_it() -> None:
    generator = torch.Generator().manual_seed(0)
    hq = torch.rand(1, 3, 64, 64, generator=generator)
    prior = (hq + 0.05).clamp(0, 1)
    control = noise_control(prior, hq, shaped_noise([1.0] * 33, 64, 64, generator), psnr(prior, hq) + 3)
    torch.testing.assert_close(control, prior, atol=1e-6, rtol=0)


def test_shaped_noise_has_unit_spread_and_the_wanted_spectrum() -> None:
    spectrum = [1.0] * 17 + [0.0] * 16
    noise = shaped_noise(spectrum, 64, 64, torch.Generator().manual_seed(1))
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    power = torch.fft.fft2(noise[0, 0]).abs().square()
    assert float(power[0, 30]) < 1e-6 * float(power[0, :8].mean())


def test_a_head_that_equals_the_prior_gains_nothing() -> None:
    made = units()
    for unit in made:
        unit["head"] = unit["prior"] | {"seed_psnr": 30.0}
    found = gates(made)
    assert found["st_lpips_not_worse_than_prior"]["gain"] == pytest.approx((0, 0, 0))
    assert found["psnr_at_most_1_db_below_prior"]["change_db"] == 0
    assert not found["lsd_10_percent_below_prior"]["holds"]


@pytest.mark.parametrize("metric", ["lpips", "ssimulacra2", "vsi"])
def test_swapping_head_and_control_negates_the_gain(metric: str) -> None:
    made = units()
    before = gates(made)[f"{metric}_better_than_control"]["gain"][0]
    after = gates(swapped(made, "head", "control"))[f"{metric}_better_than_control"]["gain"][0]
    assert after == pytest.approx(-before)


@pytest.mark.parametrize(("metric", "better"), [("lpips", -1), ("ssimulacra2", 1), ("vsi", 1)])
def test_beating_the_control_on_every_photo_holds_and_losing_does_not(metric: str, better: int) -> None:
    made = units()
    for sign, holds in ((better, True), (-better, False)):
        for unit in made:
            unit["head"][metric] = unit["control"][metric] + 0.1 * sign
        assert gates(made)[f"{metric}_better_than_control"]["holds"] is holds


def test_st_lpips_fails_only_where_the_whole_interval_is_worse() -> None:
    made = units()
    for shift, holds in ((0.1, False), (-0.1, True)):
        for unit in made:
            unit["head"]["st_lpips"] = unit["prior"]["st_lpips"] + shift
        assert gates(made)["st_lpips_not_worse_than_prior"]["holds"] is holds


def test_detailed_blocks_are_the_quarter_with_most_variance() -> None:
    hq = torch.full((1, 3, 64, 64), 0.5)
    hq[..., :32, :32] = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = detailed_blocks(hq)
    assert float(mask[..., :32, :32].min()) == 1
    assert float(mask.sum()) == 32 * 32


def test_seeds_are_compared_where_the_detail_is() -> None:
    hq = torch.full((1, 3, 64, 64), 0.5)
    hq[..., :32, :32] = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inside, outside = hq.clone(), hq.clone()
    inside[..., :32, :32] += 0.1
    outside[..., 32:, 32:] += 0.1
    assert seed_psnr([hq, inside], hq) == pytest.approx(20, abs=0.1)
    assert seed_psnr([hq, outside], hq) > 100


def test_the_table_has_a_line_per_row_and_a_column_per_metric() -> None:
    lines = table(units()).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "prior",
        "control",
        "head",
        "random_of_n",
        "best_of_n",
    ]
    assert all(line.count("|") == len(METRICS) + 2 for line in lines)
