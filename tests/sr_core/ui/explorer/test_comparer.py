import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image as PillowImage

from sr_core.regions import Box
from sr_core.ui.explorer.comparer import (
    MOST_WAITING,
    Line,
    comparer_value,
    level_map,
    looked,
    numbers,
    pictures_stamp,
    regions,
)
from sr_core.ui.explorer.run_pictures import run_pictures
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


@pytest.fixture
def larger(visit: Visit) -> Visit:
    """Return the visit with a run of four on screen, whose order follows the slider."""
    run = write_run(visit.folder / "002-run", num_candidates=4, size=128)
    visit.put(run, job_of(run), "ranked")
    return visit


def asked(**values: object) -> gr.EventData:
    return gr.EventData(None, values)


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


def test_a_face_in_a_candidate_is_offered_as_a_crop(visit: Visit, photos: Path) -> None:
    shown = visit.on_screen
    assert shown is not None
    best = shown.run.best
    assert best is not None
    with PillowImage.open(photos / "eval" / "460_astronaut.png") as image:
        image.convert("RGB").crop((90, 0, 346, 256)).save(shown.run.path(best))
    answer = looked(visit, asked(run=shown.key, picture=f"candidate-{best.index}"), regions)
    assert answer["run"] == shown.key
    (face,) = [one for one in answer["regions"] if one["words"].startswith("Face")]
    assert Box(*face["box"]).overlap(Box(90, 80, 85, 85)) > 0.7


def test_a_crop_outside_the_picture_is_refused_in_words(visit: Visit) -> None:
    refused = looked(visit, asked(run="001-run", box=[200, 0, 60, 20]), numbers)
    assert "must lie inside" in refused["problem"]
    answer = looked(visit, asked(run="001-run", box=[20, 20, 80, 80]), numbers)
    assert answer["table"].count("<tr>") == 4
    assert np.char.count(answer["note"], "edge pixels") == 1


def test_an_answer_is_about_the_run_that_was_asked_about(visit: Visit) -> None:
    other = write_run(visit.folder / "002-run", num_candidates=3, size=128)
    visit.put(other, job_of(other), "ranked")
    visit.show_run("002-run")
    answer = looked(visit, asked(run="001-run", map="spread", picture=None), level_map)
    assert answer["run"] == "001-run"
    assert "001-run.view" in answer["url"]
    assert "2 seeds" in answer["words"]


def test_a_run_that_is_gone_is_said_in_words(visit: Visit) -> None:
    visit.shown.clear()
    answer = looked(visit, asked(run="001-run", map="spread", picture=None), level_map)
    assert answer == {"run": "001-run", "problem": "that run is not here any more", "again": False}


def test_crops_are_sought_once_for_each_file(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    question = asked(run="001-run", picture="candidate-1")
    first = looked(visit, question, regions)
    monkeypatch.setattr("sr_core.ui.explorer.comparer.find_regions", lambda _: pytest.fail("sought again"))
    assert looked(visit, question, regions) == first


def test_crops_are_sought_in_the_picture_that_was_asked_about(visit: Visit, photos: Path) -> None:
    shown = visit.on_screen
    assert shown is not None
    assert shown.run.worst is not None
    with PillowImage.open(photos / "eval" / "460_astronaut.png") as image:
        image.convert("RGB").crop((90, 0, 346, 256)).save(shown.run.path(shown.run.worst))
    prior = looked(visit, asked(run=shown.key, picture="prior"), regions)
    worst = looked(visit, asked(run=shown.key, picture=f"candidate-{shown.run.worst.index}"), regions)
    assert any(one["words"].startswith("Face") for one in worst["regions"])
    assert not any(one["words"].startswith("Face") for one in prior["regions"])
    assert "no picture" in looked(visit, asked(run=shown.key, picture="candidate-9"), regions)["problem"]


def test_the_stamp_follows_the_members_and_not_their_order(larger: Visit) -> None:
    shown = larger.on_screen
    assert shown is not None
    before = run_pictures(shown)
    stamp, words = pictures_stamp(before), [picture.words for picture in before]
    larger.rank_by(1.0)
    after = run_pictures(shown)
    assert [picture.words for picture in after] != words
    assert pictures_stamp(after) == pictures_stamp(reversed(after)) == stamp
    first, *others = shown.run.candidates
    shown.run = replace(shown.run, candidates=(*others, replace(first, index=7)))
    assert len(run_pictures(shown)) == len(before)
    assert pictures_stamp(run_pictures(shown)) != stamp
    value = comparer_value(larger)
    assert value is not None
    assert value["stamp"] == pictures_stamp(run_pictures(shown))


def test_a_maps_words_hold_in_any_order(larger: Visit) -> None:
    question = asked(run="002-run", map="above", picture="candidate-0")
    before = looked(larger, question, level_map)
    larger.rank_by(1.0)
    assert looked(larger, question, level_map) == before


def test_a_line_works_on_one_thing_at_a_time_and_sends_away_who_comes_when_it_is_full() -> None:
    line, at_work, most_at_once = Line(), threading.Lock(), []

    def work() -> dict[str, bool]:
        most_at_once.append(at_work.acquire(blocking=False))
        at_work.release()
        return {"done": True}

    async def crowds() -> list[list[dict[str, bool] | None]]:
        return [await asyncio.gather(*(line.run(work) for _ in range(MOST_WAITING + 5))) for _ in range(2)]

    # A thread of its own: a browser driven by the same test run keeps an event loop in this one.
    with ThreadPoolExecutor(1) as thread:
        crowded = thread.submit(asyncio.run, crowds()).result()
    assert [answers.count(None) for answers in crowded] == [4, 4]
    assert most_at_once == [True] * 2 * (MOST_WAITING + 1)


def test_a_picture_with_opacity_is_told_from_one_without(visit: Visit) -> None:
    shown = visit.on_screen
    assert shown is not None
    path = shown.run.path(shown.run.candidates[1])
    with PillowImage.open(path) as image:
        image.convert("RGBA").save(path)
    value = comparer_value(visit)
    assert value is not None
    assert {one["id"] for one in value["pictures"] if one["transparent"]} == {"candidate-1"}
