import zipfile
from pathlib import Path
from urllib.parse import unquote

import gradio as gr
import pytest

from sr_core.preference_data.dataset import open_dataset
from sr_core.ui.explorer.pair_view import IN_VIEW, OWN, Choice
from sr_core.ui.explorer.pairs import ALL_RUNS, THIS_RUN, PairsSection
from sr_core.ui.visits import Visit, VisitStore, job_of
from tests.explorer_run import write_run

SECTION = PairsSection()
WORDS = 4
"""Place of the sentences among what `show` fills."""


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    """Return a visit with two runs of six candidates."""
    visit = VisitStore(tmp_path / "page").visit("me")
    for seed in range(2):
        run = write_run(visit.folder / str(seed), size=128, seed=seed)
        visit.put(run, job_of(run), "opened")
    return visit


def opened(offer: dict[str, str], folder: Path) -> Path:
    """Unpack what was handed to the browser and return the dataset's folder."""
    path = Path(unquote(offer["address"]).removeprefix("gradio_api/file="))
    assert path.name == offer["name"]
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder / "preference_pairs"


def test_without_a_run_it_says_what_is_missing(tmp_path: Path) -> None:
    preset, top, count, _, words, heat, bars, export, _ = SECTION.show(VisitStore(tmp_path / "page").visit("me"))
    assert "at least two scored candidates" in words
    assert (preset, top, count, heat, bars) == ("c-sd2", None, None, None, None)
    assert not export["visible"]


def test_numbers_stand_in_the_widgets_and_errors_in_words(visit: Visit) -> None:
    assert SECTION.show(visit)[:3] == ["c-sd2", 1, 6]
    visit.choices["pairs"] = Choice(OWN, 6, 4, IN_VIEW)
    shown = SECTION.show(visit)
    assert 'role="alert">N must lie in 1 to half of the M = 6 candidates, got 4' in shown[WORDS]
    assert shown[5:7] == [None, None]


@pytest.mark.parametrize(("scope", "count"), [(THIS_RUN, 1), (ALL_RUNS, 2)])
def test_the_export_is_what_is_on_screen(visit: Visit, tmp_path: Path, scope: str, count: int) -> None:
    visit.choices["pairs"] = Choice(OWN, 6, 2, IN_VIEW)
    visit.rank_by(0.25)
    offer, told = SECTION._export(visit, scope)
    dataset = open_dataset(opened(offer, tmp_path / "unpacked"))
    assert len(dataset) == count
    weights = [weight for row in SECTION.show(visit)[5]["figure"]["data"][0]["z"] for weight in row]
    own = dataset.pairs()
    own = own[own["group_id"] == dataset.group_ids[-1]]
    assert own["w_total"].tolist() == weights
    assert f"{count} run" in told
    assert "python -m train prefer" in told


def test_a_run_of_another_scale_cannot_be_exported_and_that_is_said(visit: Visit) -> None:
    shown = visit.on_screen
    assert shown is not None
    shown.run.values["size"] = [96, 96]
    with pytest.raises(gr.Error, match="must be enlarged by 4 for training"):
        SECTION._export(visit, THIS_RUN)
