import os
from dataclasses import replace
from pathlib import Path

import pytest

from sr_core.errors import InputError
from sr_core.runs import Run
from sr_core.ui.library import RunLibrary
from tests.explorer_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "run", num_candidates=3, size=64)


@pytest.fixture
def library(tmp_path: Path) -> RunLibrary:
    return RunLibrary(tmp_path / "library")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_kept_run_opens_as_it_was(run: Run, library: RunLibrary, tmp_path: Path) -> None:
    run_id = library.keep(run)
    assert run_id == run.values["id"]
    assert library.holds(run_id)
    opened = library.open(run_id, tmp_path / "opened")
    assert content(opened.folder) == content(run.folder)
    assert opened.candidates == run.candidates


def test_what_a_visitor_changes_does_not_reach_the_kept_run(run: Run, library: RunLibrary, tmp_path: Path) -> None:
    run_id = library.keep(run)
    before = content(library.root / run_id)
    opened = library.open(run_id, tmp_path / "opened")
    opened.reranked(1.0).save()
    (opened.folder / "input.png").unlink()
    assert content(library.root / run_id) == before


def test_keeping_again_replaces_the_older_state(run: Run, library: RunLibrary, tmp_path: Path) -> None:
    run_id = library.keep(run)
    faithful = run.reranked(1.0)
    assert library.keep(faithful) == run_id
    assert library.open(run_id, tmp_path / "opened").candidates == faithful.candidates
    assert [path.name for path in library.root.iterdir()] == [run_id]


def test_a_run_without_a_name_gets_one(run: Run, library: RunLibrary, tmp_path: Path) -> None:
    values = {key: value for key, value in run.values.items() if key != "id"}
    run_id = library.keep(replace(run, values=values))
    assert library.open(run_id, tmp_path / "opened").values["id"] == run_id
    assert run_id != library.keep(replace(run, values=values))


@pytest.mark.parametrize("name", ["", "..", "../run", "a" * 200, "no-such-run-at-all-here", ".new-aaaaaaaaaaaaaaaa"])
def test_a_name_that_is_not_here_opens_nothing(run: Run, library: RunLibrary, tmp_path: Path, name: str) -> None:
    library.keep(run)
    assert not library.holds(name)
    with pytest.raises(InputError, match="not here any more"):
        library.open(name, tmp_path / "opened")
    library.delete(name)
    assert not (tmp_path / "opened").exists()
    assert library.holds(run.values["id"])


def test_a_deleted_run_is_gone_from_disk(run: Run, library: RunLibrary) -> None:
    run_id = library.keep(run)
    library.delete(run_id)
    assert not library.holds(run_id)
    assert list(library.root.iterdir()) == []


def test_a_run_that_nobody_opens_is_swept_and_one_that_is_opened_stays(tmp_path: Path) -> None:
    now = [1_000_000.0]
    library = RunLibrary(tmp_path / "library", keep_s=100.0, clock=lambda: now[0])
    old, used = (library.keep(write_run(tmp_path / name, num_candidates=2, size=64)) for name in ("old", "used"))
    now[0] += 99
    library.sweep()
    assert library.holds(old)
    library.open(used, tmp_path / "opened")
    now[0] += 2
    library.sweep()
    assert not library.holds(old)
    assert library.holds(used)


def test_a_copy_shares_its_pictures(run: Run, library: RunLibrary) -> None:
    run_id = library.keep(run)
    assert os.path.samefile(run.path(run.candidates[0]), library.root / run_id / str(run.candidates[0].file))
