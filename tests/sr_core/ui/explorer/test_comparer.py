from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image as PillowImage

from sr_core.regions import Box
from sr_core.ui.explorer.comparer import ComparerEvents, comparer_value
from sr_core.ui.visits import Visit, VisitStore, job_of
from tests.explorer_run import write_run


@pytest.fixture
def store(tmp_path: Path) -> VisitStore:
    return VisitStore(tmp_path / "visits")


@pytest.fixture
def visit(store: VisitStore) -> Visit:
    """Return a visit whose run shows the astronaut."""
    visit = store.visit("someone")
    run = write_run(visit.folder / "001-run", num_candidates=2, size=256)
    visit.put(run, job_of(run), "ranked")
    return visit


def asked(**values: object) -> tuple[gr.EventData, gr.Request]:
    return gr.EventData(None, values), gr.Request(session_hash="someone", request=SimpleNamespace(headers={}))


def test_an_empty_visit_has_nothing_to_compare(store: VisitStore) -> None:
    assert comparer_value(store.visit("nobody")) is None


def test_the_best_candidate_stands_against_the_input(visit: Visit) -> None:
    shown = visit.on_screen
    assert shown is not None
    assert shown.run.best is not None
    value = comparer_value(visit)
    assert value is not None
    assert (value["left"], value["right"]) == ("input", f"candidate-{shown.run.best.index}")
    assert (value["run"], value["width"], value["input"]) == (shown.key, 256, [64, 64])


def test_a_face_in_the_best_candidate_is_offered_as_a_crop(visit: Visit, store: VisitStore, photos: Path) -> None:
    shown = visit.on_screen
    assert shown is not None
    best = shown.run.best
    assert best is not None
    with PillowImage.open(photos / "eval" / "460_astronaut.png") as image:
        image.convert("RGB").crop((90, 0, 346, 256)).save(shown.run.path(best))
    _, request = asked()
    answer = ComparerEvents(store).regions(request)
    assert answer["run"] == shown.key
    (face,) = [one for one in answer["regions"] if one["words"].startswith("Face")]
    assert Box(*face["box"]).overlap(Box(90, 80, 85, 85)) > 0.7


def test_a_crop_outside_the_picture_is_refused_in_words(visit: Visit, store: VisitStore) -> None:
    assert visit.on_screen is not None
    with pytest.raises(gr.Error, match="must lie inside"):
        ComparerEvents(store).numbers(*asked(box=[200, 0, 60, 20]))
    answer = ComparerEvents(store).numbers(*asked(box=[20, 20, 80, 80]))
    assert answer["box"] == [20, 20, 80, 80]
    assert answer["table"].count("<tr>") == 4
    assert np.char.count(answer["note"], "edge pixels") == 1
