from typing import Any

import pytest

from sr_core.backbones import BACKBONES, drawing_of
from sr_core.backbones.drawing import SETTINGS
from sr_core.errors import ConfigError


@pytest.mark.parametrize("name", BACKBONES)
def test_what_is_not_given_is_the_backbones_own(name: str) -> None:
    assert drawing_of(name, dict.fromkeys(SETTINGS)) == BACKBONES[name].defaults


def test_compacts_own_settings_are_as_ever() -> None:
    own = drawing_of("compact", {})
    assert (own.num_steps, own.sampler, own.schedule, own.color, own.tile) == (4, "euler", "geometric", "off", 224)


def test_the_releases_settings_are_theirs() -> None:
    sd2, flux, lora = (drawing_of(name, {}) for name in ("c-sd2", "c-flux", "flux-lora"))
    assert (sd2.num_steps, sd2.guidance, sd2.sampler, sd2.color) == (50, 3.5, "native", "adain")
    assert sd2.negative_prompt == "dotted, noise, blur, lowres, smooth"
    assert (flux.num_steps, flux.guidance, flux.negative_prompt) == (25, 2.5, None)
    assert (lora.num_steps, lora.prompt) == (28, "")


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("compact", {"guidance": 2.0}, "compact has no guidance"),
        ("compact", {"prompt": "a bird"}, "compact has no prompt"),
        ("compact", {"sampler": "native"}, "euler, heun, got 'native'"),
        ("c-flux", {"negative_prompt": "blur"}, "c-flux has no negative prompt"),
        ("c-sd2", {"guidance": float("nan")}, "guidance must lie in"),
        ("c-sd2", {"guidance": -1}, "guidance must lie in"),
        ("c-sd2", {"start": "photo"}, "noise, lq, got 'photo'"),
        ("c-sd2", {"strength": 0.5}, "needs start lq"),
        ("c-sd2", {"strength": 0, "start": "lq"}, "strength must lie in"),
        ("c-sd2", {"num_steps": 101}, "1 to 100, got 101"),
        ("c-sd2", {"prompt": "a\nb"}, "one line"),
        ("c-sd2", {"prompt": "a" * 501}, "at most 500 characters, got 501"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_words(name: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        drawing_of(name, given)


def test_a_start_from_noise_draws_the_whole_way() -> None:
    assert drawing_of("sd15", {}).strength == 0.5
    assert drawing_of("sd15", {"start": "noise"}).strength == 1.0
