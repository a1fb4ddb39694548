from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from sr_core.archives import write_archive
from sr_core.runs import Run, new_run_id
from sr_core.ui.explorer.run_list import MAX_PICTURED, listed_runs, owns, render_members, render_runs
from sr_core.ui.explorer.runs import RunsSection, remember_runs
from sr_core.ui.visits import Visit, VisitStore, job_of
from tests.explorer_run import write_run


@pytest.fixture
def store(tmp_path: Path) -> VisitStore:
    return VisitStore(tmp_path / "store")


def made(store: VisitStore, session: str, *, seed: int = 0) -> tuple[Visit, Run]:
    """Return a visit with a run that it made, kept for its link."""
    visit = store.visit(session)
    run = write_run(visit.new_folder(Path("bluebird.png")), num_candidates=2, size=128, seed=seed)
    visit.put(run, job_of(run), "ranked")
    store.library.keep(run)
    return visit, run


def section(store: VisitStore) -> RunsSection:
    runs = RunsSection()
    with gr.Blocks():
        runs.build(store)
    return runs


def event(**data: object) -> gr.EventData:
    return gr.EventData(None, data)


def request(session: str) -> gr.Request:
    return gr.Request(session_hash=session)


def test_a_visitor_sees_only_runs_of_his_own_browser(store: VisitStore) -> None:
    _, run = made(store, "one")
    stranger = store.visit("two")
    assert render_runs(store, stranger) == ""
    assert remember_runs(store, stranger, None) == ([], [], [])
    runs = section(store)
    for reach in (runs.pack, runs.act):
        with pytest.raises(gr.Error, match="not here any more"):
            reach(event(action="open", run=run.values["id"]), request("two"))


def test_a_browser_that_comes_back_finds_its_runs_and_may_delete_them(store: VisitStore) -> None:
    visit, run = made(store, "one")
    stored = remember_runs(store, visit, None).runs
    later = store.visit("later")
    assert remember_runs(store, later, stored) == (stored, [], [])
    (listed,) = listed_runs(store, later)
    assert (listed.run_id, listed.is_own, listed.on_screen) == (run.values["id"], True, False)
    section(store).act(event(action="delete", run=run.values["id"]), request("later"))
    assert not store.library.holds(run.values["id"])
    assert visit.shown == []
    assert not run.folder.exists()
    assert remember_runs(store, later, stored) == ([], [run.values["id"]], [])


def test_a_link_alone_does_not_allow_to_delete(store: VisitStore) -> None:
    _, run = made(store, "one")
    run_id = run.values["id"]
    guest = store.visit("guest")
    guest.open_run(store.library, run_id)
    for key in ("", "0" * 64, store.library.owner_key("another-run-of-mine")):
        assert remember_runs(store, guest, [[run_id, key]]) == ([[run_id, ""]], [], [])
    assert not owns(store, guest, run_id)
    runs = section(store)
    with pytest.raises(gr.Error, match="browser that made it"):
        runs.act(event(action="delete", run=run_id), request("guest"))
    runs.act(event(action="forget", run=run_id), request("guest"))
    assert store.library.holds(run_id)
    assert listed_runs(store, guest) == []
    assert remember_runs(store, guest, [[run_id, ""]]) == ([], [run_id], [run_id])


@pytest.mark.parametrize(
    "stored", [3, "x", {"a": 1}, [[1, 2]], [["../..", ""]], [["a"]], [None], [["x" * 20, "\u00e9"]]]
)
def test_what_a_browser_claims_to_remember_is_not_trusted(store: VisitStore, stored: object) -> None:
    assert remember_runs(store, store.visit("one"), stored).runs == []


def test_what_one_tab_takes_off_the_list_no_other_puts_back(store: VisitStore) -> None:
    _, run = made(store, "one")
    run_id = run.values["id"]
    remember_runs(store, store.visit("two"), [[run_id, ""]])
    assert remember_runs(store, store.visit("two"), []) == ([], [], [])


def test_what_is_off_the_browsers_list_stays_off_where_it_is_still_open(store: VisitStore) -> None:
    _, run = made(store, "one")
    run_id, two = run.values["id"], store.visit("two")
    two.open_run(store.library, run_id)
    assert remember_runs(store, two, {"runs": [], "off": [run_id]}).runs == []
    assert remember_runs(store, two, {"runs": [], "off": []}).runs == [[run_id, ""]]


def test_what_was_taken_off_is_told_and_listed_again_once_it_was_opened_anew(store: VisitStore) -> None:
    _, run = made(store, "one")
    run_id, two = run.values["id"], store.visit("two")
    two.forgotten.add(run_id)
    assert remember_runs(store, two, {"runs": [[run_id, ""]], "off": None}) == ([], [run_id], [run_id])
    assert remember_runs(store, two, {"runs": [], "off": [run_id]}).off == [run_id]
    assert remember_runs(store, two, {"runs": [[run_id, ""]], "off": []}) == ([[run_id, ""]], [], [])


def test_a_folder_without_an_image_is_refused_and_the_rest_is_passed_over(store: VisitStore, tmp_path: Path) -> None:
    _, run = made(store, "one")
    _, other = made(store, "other", seed=5)
    text = tmp_path / "settings.txt"
    text.write_text("steps: 4")
    with pytest.raises(gr.Error, match="at least one image, got none among 1 files"):
        section(store).join_folder([str(text)], request("one"))
    before = len(run.candidates)
    panel = section(store).join_folder([str(text), str(other.path(other.candidates[0]))], request("one"))
    assert "1 of 2 files passed over: no images" in panel[3]
    shown = store.visit("one").on_screen
    assert shown is not None
    assert len(shown.run.candidates) == before + 1


def test_deleting_leaves_the_files_of_a_busy_visitor_until_he_is_done(store: VisitStore) -> None:
    maker, run = made(store, "one")
    run_id = run.values["id"]
    guest = store.visit("guest")
    copy = guest.open_run(store.library, run_id).run
    with guest.working():
        section(store).act(event(action="delete", run=run_id), request("one"))
        assert maker.shown == []
        assert copy.path(copy.candidates[0]).is_file()
        store.library.keep(copy)
        assert not store.library.holds(run_id)
    assert guest.shown == []
    assert not copy.folder.exists()


def test_every_run_that_is_remembered_is_listed(store: VisitStore) -> None:
    _, run = made(store, "one")
    ids = [store.library.keep(replace(run, values={**run.values, "id": new_run_id()})) for _ in range(70)]
    later = store.visit("later")
    remember_runs(store, later, [[run_id, ""] for run_id in ids])
    listed = listed_runs(store, later)
    assert {one.run_id for one in listed} == set(ids)
    assert render_runs(store, later).count("<img") <= MAX_PICTURED


def test_what_a_guest_changes_becomes_a_copy_with_a_link_of_its_own(store: VisitStore) -> None:
    _, run = made(store, "one")
    _, other = made(store, "other", seed=5)
    guest = store.visit("guest")
    guest.open_run(store.library, run.values["id"])
    section(store).join([str(other.path(other.candidates[0]))], request("guest"))
    shown = guest.on_screen
    assert shown is not None
    assert shown.run.values["origin_id"] == run.values["id"] != shown.run.values["id"]
    assert len(shown.run.candidates) == 3
    assert store.library.look(shown.run.values["id"]).candidates == shown.run.candidates
    assert store.library.look(run.values["id"]).candidates == run.candidates
    assert owns(store, guest, shown.run.values["id"])


def test_an_archive_becomes_a_run_of_this_browser(store: VisitStore, tmp_path: Path) -> None:
    _, run = made(store, "one")
    archive = write_archive(run, tmp_path / "zip")
    visit = store.visit("two")
    section(store).bring_in(str(archive), request("two"))
    assert visit.on_screen is not None
    imported = visit.on_screen.run
    assert imported.candidates == run.candidates
    assert owns(store, visit, imported.values["id"])
    assert store.library.holds(imported.values["id"])


def test_nothing_in_a_run_is_taken_for_html(store: VisitStore) -> None:
    visit, run = made(store, "one")
    evil = "<img src=x onerror=alert(1)>"
    records = (replace(run.candidates[0], seed=None, source=evil), *run.candidates[1:])
    values = {
        **run.values, "id": new_run_id(), "input": {**run.values["input"], "name": evil}, "adapter": evil,
        "created_at": evil, "joined": [{"index": 0, "kind": "model", "origin": evil, "architecture": evil}],
    }  # fmt: skip
    visit.put(replace(run, values=values, candidates=records), job_of(run), "x")
    html = render_runs(store, visit) + render_members(visit.shown[0].run)
    assert "&lt;img" in html
    assert "<img src=x" not in html
