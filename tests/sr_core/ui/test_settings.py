from pathlib import Path

import pytest

from sr_core.errors import ConfigError
from sr_core.job import Job
from sr_core.ui.settings import EXACT, PRESETS, Settings, adapter_choices, backbone_choices, describe_adapters
from tests.lora import installed


def test_untouched_widgets_mean_the_defaults_of_the_job() -> None:
    assert Settings().job() == Job()


def test_the_balanced_preset_is_the_default() -> None:
    assert Settings().with_preset(PRESETS["Balanced"]) == Settings()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_job(name: str) -> None:
    job = Settings().with_preset(PRESETS[name]).job()
    assert job.num_candidates == PRESETS[name]["num_candidates"]


def test_what_a_backbone_does_not_have_is_left_aside() -> None:
    settings = Settings(guidance=7.0, prompt="a bird", negative_prompt="blur", start="lq")
    assert settings.job() == Job()
    large = Settings(**{**settings.saved(), "backbone": "c-flux", "sampler": "native", "num_steps": 25}).job()
    assert (large.guidance, large.prompt, large.negative_prompt, large.start) == (7.0, "a bird", None, "lq")


def test_every_backbone_can_be_chosen_by_a_name_for_people() -> None:
    assert [value for _, value in backbone_choices()] == ["compact", "c-sd2", "sd15", "sdxl", "c-flux", "flux-lora"]
    assert all(label != name for label, name in backbone_choices())


def test_the_own_preset_comes_back_as_it_was() -> None:
    settings = Settings(num_candidates=3, seed=7, color="wavelet", sizing=EXACT, width=640, height=480)
    assert Settings().with_preset(settings.saved()) == settings


def test_a_saved_preset_of_another_version_sets_what_is_known() -> None:
    assert Settings().with_preset({"seed": 5, "gone": 1}) == Settings(seed=5)


def test_an_adapter_is_compared_with_sft_unless_that_is_turned_off() -> None:
    assert Settings(adapter="hpo").job().compare_adapter == "sft"
    assert Settings(adapter="hpo", compare=False).job().compare_adapter is None
    assert Settings(adapter="sft", compare=True).job().compare_adapter is None


def test_adapters_are_offered_under_their_names_for_people(tmp_path: Path) -> None:
    with installed(tmp_path, as_dpo=0.0, hpo=0.0, a_new_one=0.0):
        assert adapter_choices("compact") == [
            ("SFT", "sft"), ("DP2O", "hpo"), ("AS-DPO", "as_dpo"), ("a_new_one", "a_new_one"),
        ]  # fmt: skip
        assert "DP2O, AS-DPO and a_new_one after it" in describe_adapters("compact")


def test_without_adapters_the_page_says_where_they_come_from(tmp_path: Path) -> None:
    with installed(tmp_path):
        assert adapter_choices("compact") == [("SFT", "sft")]
        assert "assets/compact/adapters" in describe_adapters("compact").replace(tmp_path.name, "assets")


def test_an_exact_size_wins_over_the_factor() -> None:
    job = Settings(sizing=EXACT, scale=3, width=640, height=480).job()
    assert job.size == (640, 480)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(num_candidates=None), "candidates"),
        (Settings(num_candidates=3.7), "whole number"),
        (Settings(num_candidates=17), "1 to 16"),
        (Settings(seed=None), "seed"),
        (Settings(seed=-1), "seed"),
        (Settings(num_steps=0), "steps"),
        (Settings(scale=None), "factor"),
        (Settings(scale=float("nan")), "factor"),
        (Settings(sizing=EXACT, width=640), "height"),
        (Settings(sizing=EXACT, width=640, height=0), "height"),
        (Settings(dpi=0.5), "dpi"),
        (Settings(metric_set="best"), "metric set"),
    ],
)
def test_values_that_no_job_has_are_refused_in_words(settings: Settings, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings.job()
