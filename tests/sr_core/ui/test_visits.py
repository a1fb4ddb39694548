import threading
from dataclasses import replace
from pathlib import Path

import pytest

from sr_core.errors import InputError
from sr_core.ui.visits import MAX_DOWNLOADS, MAX_RUNS, VisitStore
from tests.sr_core.ui.conftest import MakeShown


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_two_pages_share_nothing(tmp_path: Path, make_shown: MakeShown) -> None:
    store = VisitStore(tmp_path / "visits")
    mine, yours = store.visit("mine"), store.visit("yours")
    shown = make_shown([1.0, 5.0])
    mine.put(shown.run, shown.job, "ranked")
    assert yours.on_screen is None
    assert mine.folder != yours.folder
    assert store.visit("mine") is mine


def test_a_folder_name_tells_nothing_about_its_page(tmp_path: Path) -> None:
    visit = VisitStore(tmp_path).visit("abc")
    assert "abc" not in visit.folder.name
    assert len(visit.folder.name) == 32


def test_callers_without_a_page_are_strangers_to_each_other(tmp_path: Path) -> None:
    store = VisitStore(tmp_path)
    assert store.visit(None).folder != store.visit(None).folder


def test_a_visit_that_nobody_touches_is_deleted_and_a_busy_one_is_not(tmp_path: Path) -> None:
    clock = Clock()
    store = VisitStore(tmp_path, idle_s=100, clock=clock)
    idle, busy = store.visit("idle"), store.visit("busy")
    clock.now = 101
    with busy.working():
        store.sweep()
    assert not idle.folder.exists()
    assert busy.folder.exists()


def test_leaving_stops_the_work_and_coming_back_in_time_keeps_the_runs(tmp_path: Path) -> None:
    clock = Clock()
    store = VisitStore(tmp_path, idle_s=100, closed_s=10, clock=clock)
    back, gone = store.visit("back"), store.visit("gone")
    store.leave("back")
    store.leave("gone")
    assert back.stop.is_set()
    clock.now = 9
    assert store.visit("back") is back
    clock.now = 12
    store.sweep()
    assert back.folder.exists()
    assert not gone.folder.exists()


def test_the_sweeper_goes_on_after_a_fault_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, again = VisitStore(tmp_path), threading.Event()

    def sweep() -> None:
        if caplog.records:
            again.set()
            threading.Event().wait()  # the thread sweeps no more; it ends with the process
        raise FileNotFoundError("gone meanwhile")

    monkeypatch.setattr(store, "sweep", sweep)
    store.sweep_every(0.05)
    assert again.wait(300)
    assert "gone meanwhile" in caplog.text


def test_one_page_runs_one_photo_at_a_time(tmp_path: Path) -> None:
    visit = VisitStore(tmp_path).visit("page")
    with visit.working(), pytest.raises(InputError, match="already"), visit.working():
        pass
    assert not visit.busy


def test_the_oldest_runs_of_a_visit_are_deleted(tmp_path: Path, make_shown: MakeShown) -> None:
    visit = VisitStore(tmp_path / "visits").visit("page")
    shown = make_shown([1.0])
    folders = []
    for _ in range(MAX_RUNS + 2):
        folder = visit.new_folder(Path("photo.png"))
        folder.mkdir()
        folders.append(folder)
        visit.put(replace(shown.run, folder=folder), shown.job, "ranked")
    assert len(visit.shown) == MAX_RUNS
    assert [folder.exists() for folder in folders] == [False] * 2 + [True] * MAX_RUNS


def test_only_the_last_downloads_of_a_kind_stay(tmp_path: Path) -> None:
    visit = VisitStore(tmp_path).visit("page")
    pair = visit.new_download_folder("pairs")
    folders = [visit.new_download_folder() for _ in range(3 * MAX_DOWNLOADS)]
    assert sorted((visit.folder / "downloads").iterdir()) == folders[-MAX_DOWNLOADS:]
    assert pair.is_dir()


def test_hostile_file_names_stay_inside_the_visit(tmp_path: Path) -> None:
    visit = VisitStore(tmp_path).visit("page")
    for name in ("../../etc/passwd", "..", "a b\u0000c.png", "\u00e9t\u00e9.png", "x" * 300 + ".png"):
        folder = visit.new_folder(Path(name))
        folder.mkdir()
        assert folder.parent == visit.folder


def test_the_slider_ranks_runs_that_are_stored_later_too(tmp_path: Path, make_shown: MakeShown) -> None:
    visit = VisitStore(tmp_path / "visits").visit("page")
    shown = make_shown([1.0, 9.0], lpips=[0.9, 0.1])
    visit.rank_by(1.0)
    stored = visit.put(shown.run, shown.job, "ranked")
    assert stored.run.best is not None
    assert stored.run.best.index == 1
    visit.rank_by(0.0)
    assert visit.candidate is not None
    assert visit.candidate.index == 0
