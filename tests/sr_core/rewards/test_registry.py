"""Laws of the metric table."""

import pytest

from sr_core.errors import ConfigError
from sr_core.rewards.registry import METRIC_SETS, METRICS, load_metric, metric_set, metric_spec


@pytest.mark.parametrize("name", METRICS)
def test_a_row_is_filed_under_its_own_name_and_its_numbers_make_sense(name: str) -> None:
    spec = METRICS[name]
    assert spec.name == name
    assert spec.best != spec.worst
    assert 0 < spec.tolerance < abs(spec.best - spec.worst) / 50
    assert spec.min_side >= 1
    assert spec.label
    assert spec.note


@pytest.mark.parametrize("name", METRIC_SETS)
def test_a_set_draws_each_half_from_metrics_of_its_kind(name: str) -> None:
    chosen = METRIC_SETS[name]
    assert all(METRICS[m].full_reference for m in (*chosen.full_reference, *chosen.consistency))
    assert not any(METRICS[m].full_reference for m in chosen.no_reference)
    assert chosen.full_reference
    assert chosen.no_reference
    assert chosen.consistency


def test_the_paper_set_is_the_nine_of_the_paper() -> None:
    paper = METRIC_SETS["paper"]
    assert (len(paper.full_reference), len(paper.no_reference)) == (3, 6)


def test_the_offline_set_needs_nothing_but_the_offline_loader() -> None:
    offline = METRIC_SETS["offline"]
    names = (*offline.full_reference, *offline.no_reference, *offline.consistency)
    assert {METRICS[name].source for name in names} == {"offline"}


@pytest.mark.parametrize("held_out", ["st_lpips", "piqe", "psnr"])
def test_the_training_set_keeps_the_hold_outs_out(held_out: str) -> None:
    chosen = METRIC_SETS["train_offline"]
    assert held_out not in (*chosen.full_reference, *chosen.no_reference, *chosen.consistency)
    assert held_out in METRICS


@pytest.mark.parametrize("look_up", [metric_spec, load_metric])
def test_an_unknown_metric_is_answered_with_the_nearest_names(look_up) -> None:
    with pytest.raises(ConfigError, match="did you mean lpips"):
        look_up("lpisp")


def test_an_unknown_set_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(ConfigError, match="did you mean offline"):
        metric_set("ofline")


@pytest.mark.parametrize(
    ("name", "lower"),
    [
        ("lpips", True),
        ("niqe", True),
        ("brisque", True),
        ("piqe", True),
        ("ssimulacra2", False),
        ("vsi", False),
    ],
)
def test_the_direction_follows_from_the_nominal_range(name: str, lower: bool) -> None:
    assert METRICS[name].lower_is_better is lower
