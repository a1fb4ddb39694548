from dataclasses import replace
from pathlib import Path

import pytest

from sr_core.audit import Degradation, audit_job
from sr_core.degradations import PRESETS
from sr_core.errors import ConfigError, InputError
from sr_core.images import write_image
from sr_core.job import Job
from sr_core.ui.explorer.audit_settings import (
    GIVEN,
    NO_ADAPTER,
    PRESET_WORDS,
    WHOLE,
    AuditSettings,
    audit_request,
    describe_audit,
)
from tests.explorer_run import photo_pixels


@pytest.fixture(scope="module")
def hq(tmp_path_factory: pytest.TempPathFactory) -> str:
    return photo_file(tmp_path_factory.mktemp("photo"), 162)


def photo_file(folder: Path, size: int) -> str:
    path = folder / f"bird{size}.png"
    write_image(path, photo_pixels(size), format="png")
    return str(path)


def test_every_preset_is_offered_in_words() -> None:
    assert PRESET_WORDS.keys() == PRESETS.keys()
    assert len(set(PRESET_WORDS.values())) == len(PRESETS)


def test_the_second_adapter_draws_and_the_first_is_what_it_is_compared_with() -> None:
    both = AuditSettings(before="sft", after="hpo").job()
    assert (both.adapter, both.compare_adapter) == ("hpo", "sft")
    alone = AuditSettings(before="hpo", after=NO_ADAPTER).job()
    assert (alone.adapter, alone.compare_adapter) == ("hpo", None)
    with pytest.raises(ConfigError, match="must differ"):
        AuditSettings(before="hpo", after="hpo").job()


def test_settings_reach_the_degradation_and_the_job() -> None:
    settings = AuditSettings(
        preset="seesr", degradation_seed=7, side=256, num_seeds=3, seed=11, num_steps=2, metric_set="standard"
    )
    assert settings.degradation() == Degradation(preset="seesr", seed=7, side=256)
    assert replace(settings, side=WHOLE).degradation().side is None
    job = settings.job(fidelity_weight=0.25)
    wanted = Job(num_candidates=3, seed=11, num_steps=2, metric_set="standard", fidelity_weight=0.25)
    assert job == wanted


@pytest.mark.parametrize("seed", [None, 0.5])
def test_a_seed_that_is_no_whole_number_is_refused(seed: float | None) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        AuditSettings(degradation_seed=seed).degradation()


def test_a_request_holds_the_job_with_the_references_size(hq: str) -> None:
    settings = AuditSettings(num_seeds=2)
    asked = audit_request(hq, None, settings)
    assert (asked.plan.hq_size, asked.plan.lq_size) == ((160, 160), (40, 40))
    assert asked.job == audit_job(settings.job(), asked.plan)
    assert asked.seconds > 0


def test_a_missing_photo_is_refused_before_the_start(hq: str) -> None:
    with pytest.raises(InputError, match="full-quality photo first"):
        audit_request(None, None, AuditSettings())
    with pytest.raises(InputError, match="low-quality photo too"):
        audit_request(hq, None, AuditSettings(source=GIVEN))


def test_a_low_quality_photo_counts_only_where_it_is_chosen(hq: str, tmp_path: Path) -> None:
    lq = photo_file(tmp_path, 81)
    assert audit_request(hq, lq, AuditSettings()).lq is None
    asked = audit_request(hq, lq, AuditSettings(source=GIVEN))
    assert asked.lq == Path(lq)
    assert (asked.job.size, asked.plan.lq_size) == ((162, 162), (81, 81))


def test_an_enlargement_that_no_job_makes_is_refused_in_words(tmp_path: Path) -> None:
    large = photo_file(tmp_path, 324)
    with pytest.raises(InputError, match="must lie between 36 x 36 and 288 x 288 px, got 324 x 324"):
        audit_request(large, photo_file(tmp_path, 36), AuditSettings(source=GIVEN))


def test_the_plan_says_size_cost_and_what_is_left_out(hq: str, tmp_path: Path) -> None:
    words, ready = describe_audit(hq, None, AuditSettings())
    assert ready
    for part in (
        "160 &times; 160 px",
        "GB memory",
        "middle 160 x 160 px of 162 x 162",
        "40 x 40",
        "NIQE (from 192 px)",
    ):
        assert part in words
    words, ready = describe_audit(photo_file(tmp_path, 100), None, AuditSettings())
    assert not ready
    assert 'role="alert"' in words
    assert "at least 128 px a side, got 100 x 100" in words
    assert describe_audit(None, None, AuditSettings())[1] is False


def test_two_adapters_cost_more_than_one(hq: str) -> None:
    one, two = (audit_request(hq, None, AuditSettings(after=after)) for after in (NO_ADAPTER, "hpo"))
    assert two.seconds > one.seconds
