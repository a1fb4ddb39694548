import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image as PillowImage

from sr_core.errors import InputError
from sr_core.images import read_image
from sr_core.runs import Run
from sr_core.ui.library import RunLibrary
from tests.explorer_run import write_run
from tests.sr_core.photo_files import crop, encoded, exif_bytes


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "run", num_candidates=2, size=128)


def test_a_kept_run_opens_as_it_was_and_changes_of_the_copy_stay_with_it(tmp_path: Path, run: Run) -> None:
    library = RunLibrary(tmp_path / "library")
    run_id = library.keep(run)
    opened = library.open(run_id, tmp_path / "visit")
    assert opened.candidates == run.candidates
    opened.reranked(0.0).save()
    assert library.look(run_id).candidates == run.candidates
    run.reranked(1.0).save()
    assert library.keep(run.reranked(1.0)) == run_id
    assert library.look(run_id).values["fidelity_weight"] == 1.0


@pytest.mark.parametrize("name", ["", "..", "../run", "a" * 100, "/etc/passwd", "\u0661" * 20, ".secret"])
def test_no_other_name_opens_anything(tmp_path: Path, run: Run, name: str) -> None:
    library = RunLibrary(tmp_path / "library")
    library.keep(run)
    assert not library.holds(name)
    for look in (library.look, lambda run_id: library.open(run_id, tmp_path / "visit")):
        with pytest.raises(InputError, match="not here any more"):
            look(name)
    library.delete(name)
    assert (run.folder / "run.json").is_file()


def test_a_link_opens_the_last_order(tmp_path: Path, run: Run) -> None:
    library = RunLibrary(tmp_path / "library")
    run_id = library.keep(run)
    library.rerank(run_id, 1)
    opened = library.open(run_id, tmp_path / "visit")
    assert opened.candidates == run.reranked(1.0).candidates
    assert opened.values["fidelity_weight"] == 1.0
    library.rerank("no-such-run-at-all-here", 0.5)
    assert not library.holds("no-such-run-at-all-here")


def test_a_deleted_run_is_gone_with_its_files(tmp_path: Path, run: Run) -> None:
    library = RunLibrary(tmp_path / "library")
    run_id = library.keep(run)
    library.delete(run_id)
    assert not library.holds(run_id)
    assert list((tmp_path / "library").iterdir()) == []


def test_only_the_key_of_a_run_proves_its_maker(tmp_path: Path, run: Run) -> None:
    library = RunLibrary(tmp_path / "library")
    run_id, other = library.keep(run), "another-run-of-mine"
    key = library.owner_key(run_id)
    assert library.is_owner(run_id, key)
    assert RunLibrary(tmp_path / "library").is_owner(run_id, key)
    for wrong in ("", key[:-1], library.owner_key(other), "\u00e9" * 64, RunLibrary(tmp_path / "b").owner_key(run_id)):
        assert not library.is_owner(run_id, wrong)


@pytest.mark.parametrize("place", ["exif", "xmp"])
def test_nobody_who_opens_a_link_learns_where_the_photo_was_taken(
    tmp_path: Path, run: Run, photos: Path, place: str
) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a exif:GPSLatitude="48,12.5N"/></x:xmpmeta>'
    said = {"exif": {"exif": exif_bytes()}, "xmp": {"xmp": xmp}}[place]
    for name in ("input.png", "reference.png"):
        (run.folder / name).unlink(missing_ok=True)
    for name in ("input.jpg", "reference.jpg"):
        (run.folder / name).write_bytes(encoded(crop(photos, 32, 32), "JPEG", **said))
    (run.folder / "notes.txt").write_text("no part of the run")
    photo = {**run.values["input"], "file": "input.jpg"}
    placed = replace(run, values={**run.values, "input": photo, "reference": True})
    library = RunLibrary(tmp_path / "library")
    opened = library.open(library.keep(placed), tmp_path / "visit")
    file = opened.folder / opened.values["input"]["file"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == opened.values["input"]["sha256"]
    assert torch.equal(read_image(file).pixels, read_image(run.folder / "input.jpg").pixels)
    names = {path.name for path in opened.folder.iterdir()}
    assert not names & {"input.jpg", "reference.jpg", "notes.txt"}
    assert "reference.png" in names
    for path in opened.folder.iterdir():
        assert b"GPSL" not in path.read_bytes()
        if path.suffix == ".png":
            with PillowImage.open(path) as image:
                assert not image.getexif().get_ifd(0x8825)
    assert (run.folder / "input.jpg").is_file()


def test_runs_that_nobody_opens_are_swept(tmp_path: Path, run: Run) -> None:
    now = [1_000_000.0]
    library = RunLibrary(tmp_path / "library", keep_s=100, clock=lambda: now[0])
    run_id = library.keep(run)
    now[0] += 90
    library.open(run_id, tmp_path / "visit")
    now[0] += 90
    library.sweep()
    assert library.holds(run_id)
    now[0] += 20
    library.sweep()
    assert not library.holds(run_id)


def test_tabs_that_keep_open_and_sweep_one_run_at_once_never_miss_it(tmp_path: Path, run: Run) -> None:
    library = RunLibrary(tmp_path / "library")
    run_id = library.keep(run)

    def use(number: int) -> None:
        library.keep(run.reranked(number / 40))
        library.sweep()
        assert library.look(run_id).candidates
        library.open(run_id, tmp_path / str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(40)))
    assert [path.name for path in library.root.iterdir()] == [run_id]


def test_what_a_broken_off_keeping_left_behind_is_swept_and_the_kept_run_stays(tmp_path: Path, run: Run) -> None:
    library = RunLibrary(tmp_path / "library")
    run_id, key = library.keep(run), library.owner_key("a-run")
    for name in (".new-abc", ".old-abc"):
        (library.root / name / "run").mkdir(parents=True)
    library.sweep()
    assert sorted(path.name for path in library.root.iterdir()) == sorted([".secret", run_id])
    assert library.owner_key("a-run") == key
    with pytest.raises(InputError, match=r"input\.png must be"):
        library.keep(replace(run, folder=tmp_path / "absent"))
    run.path(run.candidates[0]).unlink()
    with pytest.raises(FileNotFoundError):
        library.keep(run)
    assert library.look(run_id).candidates == run.candidates
    assert not list(library.root.glob(".new-*"))
