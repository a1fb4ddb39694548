import json
import math
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_core.archives import MAX_MEMBERS, archive_name, read_archive, write_archive
from sr_core.errors import InputError
from sr_core.images import read_image
from sr_core.runs import Run
from tests.explorer_run import write_run
from tests.sr_core.photo_files import crop, encoded, exif_bytes

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("made") / "run", num_candidates=3, size=128, before=True, reference=True)


def repacked(
    run: Run, target: Path, *, edit: Edit = lambda _: None, files: dict[str, bytes | None] | None = None
) -> Path:
    """Write a run's archive with other content in run.json, and other or (None) no files."""
    content = json.loads((run.folder / "run.json").read_text())
    edit(content)
    found: dict[str, bytes | None] = {p.name: p.read_bytes() for p in run.folder.iterdir() if p.name != "run.json"}
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("x/run.json", json.dumps(content))
        for name, data in {**found, **(files or {})}.items():
            if data is not None:
                archive.writestr(f"x/{name}", data)
    return target


def assert_refused(archive: Path, folder: Path, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_archive(archive, folder / "imported")
    assert sorted(path.name for path in folder.iterdir()) == []


def test_export_import_export_gives_equal_files_scores_and_ranks(run: Run, tmp_path: Path) -> None:
    first = write_archive(run, tmp_path / "a")
    imported = read_archive(first, tmp_path / "runs" / "imported")
    second = write_archive(imported, tmp_path / "b")
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as other:
        assert one.namelist() == other.namelist()
        for name in one.namelist():
            if not name.endswith("run.json"):
                assert one.read(name) == other.read(name)
        before, after = (json.loads(z.read("bluebird/run.json")) for z in (one, other))
    assert after["candidates"] == before["candidates"]
    assert after["origin_id"] == before["id"] != after["id"]
    own = {"id", "origin_id"}
    assert {k: v for k, v in after.items() if k not in own} == {k: v for k, v in before.items() if k not in own}


def test_an_import_can_be_opened_and_has_an_id_of_its_own_each_time(run: Run, tmp_path: Path) -> None:
    archive = write_archive(run, tmp_path / "a")
    one, two = (read_archive(archive, tmp_path / "runs" / name) for name in ("1", "2"))
    assert len({run.values["id"], one.values["id"], two.values["id"]}) == 3
    assert Run.open(one.folder) == one
    with pytest.raises(InputError, match="must not exist yet"):
        read_archive(archive, tmp_path / "runs" / "1")


def test_rewards_and_ranks_come_from_the_scores_not_from_what_the_file_claims(run: Run, tmp_path: Path) -> None:
    def lie(content: dict[str, Any]) -> None:
        for record in content["candidates"]:
            record |= {"rank": 1, "reward": 1.0}

    imported = read_archive(repacked(run, tmp_path / "lie.zip", edit=lie), tmp_path / "runs" / "a")
    assert imported.candidates == run.candidates


def test_files_that_are_no_part_of_a_run_stay_out_on_both_ways(run: Run, tmp_path: Path) -> None:
    packed = repacked(
        run, tmp_path / "more.zip", files={"page.html": b"<script>", "notes.txt": b"x", "._run.json": b"x"}
    )
    imported = read_archive(packed, tmp_path / "runs" / "a")
    assert {p.name for p in imported.folder.iterdir()} == {p.name for p in run.folder.iterdir()}
    (imported.folder / "secret.txt").write_text("of the disk")
    with zipfile.ZipFile(write_archive(imported, tmp_path / "b")) as archive:
        assert not any("secret" in name for name in archive.namelist())


def test_the_archive_holds_the_ranking_on_screen(run: Run, tmp_path: Path) -> None:
    vivid = replace(read_archive(write_archive(run, tmp_path / "a"), tmp_path / "runs" / "a")).reranked(0.0)
    with zipfile.ZipFile(write_archive(vivid, tmp_path / "b")) as archive:
        content = json.loads(archive.read("bluebird/run.json"))
    assert [record["rank"] for record in content["candidates"]] == [record.rank for record in vivid.candidates]
    assert content["fidelity_weight"] == 0.0


def test_packing_changes_nothing_in_the_runs_folder_and_brings_none_back(tmp_path: Path) -> None:
    made = write_run(tmp_path / "run", num_candidates=2, size=128)
    before = {path.name: path.read_bytes() for path in made.folder.iterdir()}
    write_archive(made.reranked(0.0), tmp_path / "a")
    assert {path.name: path.read_bytes() for path in made.folder.iterdir()} == before
    (made.folder / "prior.png").unlink()
    for gone in ("prior.png", "input.png"):
        with pytest.raises(InputError, match=f"{gone} must be"):
            write_archive(made, tmp_path / "b")
        shutil.rmtree(made.folder, ignore_errors=True)
        assert list((tmp_path / "b").iterdir()) == []
    assert not made.folder.exists()


def with_place(run: Run, photos: Path, folder: Path) -> Run:
    """Return a run whose photo says where it was taken."""
    copy = read_archive(write_archive(run, folder / "a"), folder / "runs" / "placed")
    photo = copy.folder / "input.jpg"
    photo.write_bytes(encoded(crop(photos, 16, 16).resize((64, 64)), "JPEG", exif=exif_bytes()))
    source = {**copy.values["input"], "file": "input.jpg", "width": 64, "height": 64}
    moved = replace(copy, values={**copy.values, "input": source})
    moved.save()
    (copy.folder / "input.png").unlink()
    return moved


def test_the_place_leaves_only_if_asked_and_the_pixels_travel_anyway(run: Run, photos: Path, tmp_path: Path) -> None:
    placed = with_place(run, photos, tmp_path)
    archive = write_archive(placed, tmp_path / "b")
    with zipfile.ZipFile(archive) as opened:
        names = {name.partition("/")[2] for name in opened.namelist()}
    assert "LEFT_OUT.txt" in names
    assert "input.jpg" not in names
    imported = read_archive(archive, tmp_path / "runs" / "back")
    ours, theirs = (read_image(r.folder / r.values["input"]["file"]) for r in (placed, imported))
    np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    assert imported.photo == placed.photo != imported.values["input"]["sha256"]
    assert read_archive(write_archive(imported, tmp_path / "again"), tmp_path / "runs" / "twice").photo == placed.photo
    assert theirs.metadata.exif is not None
    assert bytes.fromhex("8825")[::-1] not in theirs.metadata.exif
    with zipfile.ZipFile(write_archive(placed, tmp_path / "c", keep_gps=True)) as opened:
        assert opened.read("bluebird/input.jpg") == (placed.folder / "input.jpg").read_bytes()


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "a/b.png", "a\\..\\c.jpg", ""])
def test_the_folder_in_an_archive_has_a_plain_name(run: Run, name: str) -> None:
    odd = replace(run, values={**run.values, "input": {**run.values["input"], "name": name}})
    made = archive_name(odd)
    assert made
    assert not {"/", "\\"} & set(made)
    assert not made.startswith(".")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c["candidates"][0].update(file="../../escape.png"), "must lie in its folder"),
        (lambda c: c["candidates"][0].update(file="/etc/passwd"), "must lie in its folder"),
        (lambda c: c["candidates"][0].update(file="input.png"), "one purpose"),
        (lambda c: c["candidates"][0].update(file="run.json"), "must lie in its folder"),
        (lambda c: c["candidates"][0].update(file="absent.png"), "not in it"),
        (lambda c: c["input"].update(file="..\\x"), "must lie in its folder"),
        (lambda c: c["input"].update(name="<a>/../b"), "input must be"),
        (lambda c: c["input"].update(width=65), "must measure 65 x 32"),
        (lambda c: c.update(size=[32, 32]), "must measure 32 x 32"),
        (lambda c: c.update(size="64x64"), "size must be"),
        (lambda c: c.update(prior={"a": 1}), "must lie in its folder"),
        (lambda c: c.update(status="drawing"), "status must be"),
        (lambda c: c.update(metric_set="mine"), "metric_set must be"),
        (lambda c: c.update(fidelity_weight=7), "fidelity_weight must be"),
        (lambda c: c.update(candidates=[]), "1 to 48 candidates"),
        (lambda c: c.update(candidates=[{**c["candidates"][0], "index": i} for i in range(60)]), "twice|candidates"),
        (lambda c: c["candidates"][1].update(index=0), "index of its own"),
        (lambda c: c["candidates"][0]["scores"].update(mine=1.0), "mine"),
        (lambda c: c["candidates"][0]["scores"].update(niqe=True), "finite number"),
        (lambda c: c["candidates"][0].update(source="both"), "seed or a source"),
        (lambda c: c["candidates"][0].update(label="x"), "label"),
        (lambda c: c.pop("candidates"), "name its input"),
        (lambda c: c.update(notices=["x" * 10_000]), "notices must be"),
        (lambda c: c.update(next_index="x"), "next_index must be"),
        (lambda c: c.update(joined=[{"foo": 1}]), "joined must be"),
        (lambda c: c.update(audit={"degradation": {"preset": []}}), "audit must be"),
        (lambda c: c.update(audit={"distances": {"before": [{"psnr": 10**400}]}}), "audit must be"),
        (lambda c: c["candidates"][0]["scores"].update(niqe=10**400), "finite number"),
        (lambda c: c["candidates"][0]["scores"].update(niqe=-1e308), "finite number"),
    ],
)
def test_a_run_file_that_no_run_wrote_is_refused_and_leaves_nothing(
    run: Run, tmp_path: Path, edit: Edit, words: str
) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    assert_refused(repacked(run, tmp_path / "hostile.zip", edit=edit), folder, words)


def test_what_no_run_writes_at_the_top_is_dropped(run: Run, tmp_path: Path) -> None:
    packed = repacked(run, tmp_path / "a.zip", edit=lambda c: c.update(page={"b": [1]}, audit={"window": [0, 0, 8, 8]}))
    imported = read_archive(packed, tmp_path / "runs" / "a")
    assert "page" not in imported.values
    assert imported.values["audit"] == {"window": [0, 0, 8, 8]}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_scores_without_bounds_are_refused(run: Run, tmp_path: Path, number: str) -> None:
    archive, store = tmp_path / "hostile.zip", tmp_path / "store"
    store.mkdir()
    repacked(run, archive)
    with zipfile.ZipFile(archive) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    score = str(run.candidates[0].scores["niqe"]).encode()
    assert score in files["x/run.json"]
    files["x/run.json"] = files["x/run.json"].replace(score, number.encode())
    with zipfile.ZipFile(archive, "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    assert not math.isfinite(float(number))
    assert_refused(archive, store, "finite")


def test_pictures_must_be_what_their_names_say_and_decode(run: Run, photos: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    name = str(run.candidates[0].file)
    wrong = {
        "content is JPEG": encoded(crop(photos, 128, 128), "JPEG"),
        "not an image": b"<html><script>alert(1)</script>",
        "cannot be decoded": run.path(run.candidates[0]).read_bytes()[:600],
        "must measure 128 x 128": encoded(crop(photos, 40, 40), "PNG"),
    }
    for words, data in wrong.items():
        assert_refused(repacked(run, tmp_path / "hostile.zip", files={name: data}), store, words)
    assert_refused(repacked(run, tmp_path / "hostile.zip", files={"reference.png": None}), store, "named reference")


def test_a_photo_may_have_an_ending_that_is_not_its_kind(run: Run, photos: Path, tmp_path: Path) -> None:
    data = encoded(crop(photos, 16, 16).resize((40, 40)), "JPEG")
    archive = repacked(
        run,
        tmp_path / "odd.zip",
        edit=lambda c: c["input"].update(file="input.png", width=40, height=40),
        files={"input.png": data},
    )
    assert read_archive(archive, tmp_path / "runs" / "a").values["input"]["width"] == 40


def test_a_single_candidate_travels_unranked(tmp_path: Path) -> None:
    alone = write_run(tmp_path / "one", num_candidates=1, size=128)
    imported = read_archive(write_archive(alone, tmp_path / "a"), tmp_path / "runs" / "a")
    assert imported.candidates == alone.candidates
    assert imported.candidates[0].rank is None


def test_a_failed_candidate_travels_with_its_reason(run: Run, tmp_path: Path) -> None:
    failed = {"file": None, "before": None, "problem": "not finite", "scores": {}, "before_scores": {}}
    packed = repacked(run, tmp_path / "a.zip", edit=lambda c: c["candidates"][2].update(failed))
    imported = read_archive(packed, tmp_path / "runs" / "a")
    assert imported.candidates[2].problem == "not finite"
    assert [record.rank is None for record in imported.candidates] == [False, False, True]


def test_the_largest_group_travels(tmp_path: Path) -> None:
    large = write_run(tmp_path / "large", num_candidates=MAX_MEMBERS, size=128)
    assert len(read_archive(write_archive(large, tmp_path / "a"), tmp_path / "runs" / "a").candidates) == MAX_MEMBERS
