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
    plan, _, button, _, _ = events.plan(visitor, [photo], None, *values_for(name))
    assert all(line in plan for line in (f"sr weights {name} --download", "licence", "put it at"))
    assert button["interactive"] is False
    with pytest.raises(gr.Error) as caught:
        events.begin(visitor, [photo], 50, *values_for(name))
    assert caught.value.message == words


def test_compact_runs_without_any_weights(events: PageEvents, visitor: Any, photo: str) -> None:
    _, _, button, preset, mode = events.plan(visitor, [photo], None, *values_for("compact"))
    assert button["interactive"] is True
    assert (preset, mode) == ("Balanced", "Best of N")


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
    values = events.apply_preset(preset, None, *values_for("c-sd2"))
    assert Settings(*values).num_steps == steps
    assert Settings(*values).backbone == "c-sd2"
