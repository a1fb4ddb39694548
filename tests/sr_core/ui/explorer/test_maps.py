"""The view Maps follows the visit: which pictures there are, and what they are called now."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sr_core.ui.explorer.level_maps import ABOVE
from sr_core.ui.explorer.maps import MapsSection, both_maps
from sr_core.ui.visits import Shown, Visit, job_of
from tests.explorer_run import write_run


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    visit = Visit(folder=tmp_path)
    run = write_run(tmp_path / "run", num_candidates=4, size=128)
    visit.put(run, job_of(run), "ranked")
    return visit


def value_of(visit: Visit) -> dict[str, Any]:
    (value,) = MapsSection().show(visit)
    assert value is not None
    return dict(value)


def on_screen(visit: Visit) -> Shown:
    assert visit.on_screen is not None
    return visit.on_screen


def test_another_order_changes_the_words_alone(visit: Visit) -> None:
    before = value_of(visit)
    visit.rank_by(0.0)
    after = value_of(visit)
    assert dict(after["pictures"]) != dict(before["pictures"])
    assert dict(after["pictures"]).keys() == dict(before["pictures"]).keys()
    assert after["stamp"] == before["stamp"]


def test_one_member_for_another_is_another_stamp(visit: Visit) -> None:
    before, shown = value_of(visit), on_screen(visit)
    *others, last = shown.run.candidates
    shown.run = replace(shown.run, candidates=(*others, replace(last, index=9)))
    after = value_of(visit)
    assert len(after["pictures"]) == len(before["pictures"])
    assert after["stamp"] != before["stamp"]


def test_the_second_map_leaves_its_pictures_words_to_the_value(visit: Visit) -> None:
    shown = on_screen(visit)
    picture, words = value_of(visit)["pictures"][0]
    above = both_maps(shown, picture)[ABOVE]
    assert above["picture"] == picture
    assert words not in above["words"]
