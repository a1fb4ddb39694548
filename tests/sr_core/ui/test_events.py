from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image as PillowImage

from sr_core.backbones import BACKBONES, missing_words
from sr_core.ui.events import PageEvents
from sr_core.ui.settings import OWN_SETTINGS, Settings
from sr_core.ui.visits import VisitStore

LARGE = [name for name, spec in BACKBONES.items() if spec.parts]


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PageEvents:
    monkeypatch.setenv("SR_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return PageEvents(VisitStore(tmp_path / "runs"))


@pytest.fixture
def visitor() -> Any:
    return gr.Request(session_hash="somebody", request=SimpleNamespace())


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "a.png"
    PillowImage.new("RGB", (40, 32), (90, 120, 60)).save(path)
    return str(path)


def values_for(name: str, **changes: Any) -> list[Any]:
    defaults = BACKBONES[name].defaults
    own = {key: getattr(defaults, key) for key in OWN_SETTINGS}
    drawing = {"num_steps": defaults.num_steps, "sampler": defaults.sampler, "color": defaults.color}
    return list(Settings(**{"backbone": name, **drawing, **own, **changes}).saved().values())


@pytest.mark.parametrize("name", LARGE)
def test_run_is_refused_in_the_words_that_say_what_to_get(
    events: PageEvents, visitor: Any, photo: str, name: str
) -> None:
    words = missing_words(name)
    assert words is not None
    plan, _, button, _ = events.plan(visitor, [photo], None, *values_for(name))
    assert all(line in plan for line in (f"sr weights {name} --download", "licence", "put it at"))
    assert button["interactive"] is False
    with pytest.raises(gr.Error) as caught:
        events.begin(visitor, [photo], 50, *values_for(name))
    assert caught.value.message == words


def test_compact_runs_without_any_weights(events: PageEvents, visitor: Any, photo: str) -> None:
    _, _, button, preset = events.plan(visitor, [photo], None, *values_for("compact"))
    assert button["interactive"] is True
    assert preset == "Balanced"


def test_another_adapter_by_hand_leaves_instant_and_one_step_enters_it(events: PageEvents) -> None:
    at_once = plain(events.apply_mode("Instant", *values_for("compact")))
    assert events.mode(*at_once) == "Instant"
    place = list(Settings.__dataclass_fields__).index("adapter")
    assert events.mode(*at_once[:place], "hpo", *at_once[place + 1 :]) == "Best of N"


def test_a_preset_of_ones_own_brings_its_mode(events: PageEvents) -> None:
    saved = Settings(*plain(events.apply_mode("Instant", *values_for("compact")))).saved()
    assert events.apply_preset("Yours", saved, *values_for("compact"))[-1] == "Instant"
    assert events.apply_preset("Fast", saved, *values_for("compact"))[-1] == "Best of N"


@pytest.mark.parametrize("name", BACKBONES)
def test_choosing_a_backbone_sets_what_it_has_and_hides_what_it_has_not(events: PageEvents, name: str) -> None:
    defaults = BACKBONES[name].defaults
    steps, sampler, color, *own = events.backbone(name)
    assert (steps["value"], sampler["value"], color["value"]) == (
        defaults.num_steps, defaults.sampler, defaults.color,
    )  # fmt: skip
    assert steps["maximum"] >= defaults.num_steps
    assert [value for _, value in sampler["choices"]] == list(BACKBONES[name].samplers)
    assert all("value" not in update for update in events.fitting(name))
    for key, update in zip(OWN_SETTINGS, own, strict=True):
        assert update["visible"] == (getattr(defaults, key) is not None)
        assert update["value"] == getattr(defaults, key)


@pytest.mark.parametrize(("preset", "steps"), [("Fast", 25), ("Balanced", 50), ("Best", 100)])
def test_presets_follow_the_backbones_own_steps(events: PageEvents, preset: str, steps: int) -> None:
    *values, mode = plain(events.apply_preset(preset, None, *values_for("c-sd2")))
    assert Settings(*values).num_steps == steps
    assert mode == "Best of N"
    assert Settings(*values).backbone == "c-sd2"


def test_instant_is_not_forced_on_a_backbone_without_it(events: PageEvents) -> None:
    assert Settings(*plain(events.apply_mode("Instant", *values_for("c-sd2")))) == Settings(*values_for("c-sd2"))
    changed = Settings(*plain(events.apply_mode("Instant", *values_for("compact"))))
    assert (changed.adapter, changed.num_candidates) == ("one_step", 1)


def test_another_backbone_ends_instant_and_gives_the_candidates_back(events: PageEvents) -> None:
    mode, candidates, compare = events.leave_instant("c-sd2", "Instant")
    assert (mode["visible"], mode["value"], candidates, compare) == (False, "Best of N", Settings.num_candidates, True)
    mode, *rest = events.leave_instant("compact", "Instant")
    assert mode["visible"] is True
    assert "value" not in mode
    assert all("value" not in update for update in rest)


def test_an_adapter_that_the_backbone_has_stays_chosen(events: PageEvents) -> None:
    assert events.adapters("compact", "hpo")[0]["value"] == "hpo"
    assert events.adapters("c-sd2", "hpo")[0]["value"] == "sft"


def test_a_preset_brings_its_adapter_with_the_choices_of_its_backbone(events: PageEvents) -> None:
    saved = Settings(*values_for("compact")).saved() | {"adapter": "one_step"}
    values = events.apply_preset("Yours", saved, *values_for("c-sd2"))
    (update,) = (value for value in values if isinstance(value, dict))
    assert update["value"] == "one_step"
    assert "one_step" in [name for _, name in update["choices"]]


def plain(values: list[Any]) -> list[Any]:
    """Return what widgets show after updates."""
    return [value["value"] if isinstance(value, dict) else value for value in values]
