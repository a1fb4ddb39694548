import io
import json
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sr_core import archives, unpacking
from sr_core.archives import read_archive, write_archive
from sr_core.errors import InputError, SRError
from sr_core.runs import Run
from sr_core.ui.explorer.audit_view import views
from sr_core.ui.explorer.run_list import render_members, render_runs
from sr_core.ui.visits import VisitStore, job_of
from tests.explorer_run import write_run

FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([10**400, 1e308]) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpack in this process: what breaks then is seen as it is, and thousands of children are not started."""

    def unpack(kind: str, archive: Path, folder: Path) -> list[unpacking.UnpackedImage]:
        with archive.open("rb") as file:
            report = unpacking._report(kind, file, archive.name, folder)
        if "error" in report:
            raise InputError(report["error"])
        return [unpacking.UnpackedImage(*image) for image in json.loads(json.dumps(report["images"]))]

    monkeypatch.setattr(unpacking, "_unpack", unpack)
    monkeypatch.setattr(archives, "unpack_run", unpacking.unpack_run)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sound archive of a small run."""
    folder = tmp_path_factory.mktemp("sample")
    return write_archive(write_run(folder / "run", num_candidates=2, size=128), folder / "zip")


def assert_rendered(run: Run, folder: Path) -> None:
    """What the page shows of a run that was taken can be shown."""
    store = VisitStore(folder)
    visit = store.visit("page")
    try:
        job = job_of(run)
    except SRError:
        return  # refused a step later, in words
    shown = visit.put(run, job, "opened")
    assert render_runs(store, visit)
    assert render_members(run)
    assert all(record.reward is None or 0 <= record.reward <= 1 for record in run.candidates)
    with suppress(SRError):
        views(shown)
    store.clear()
    shutil.rmtree(folder)


def assert_opened_or_refused(data: bytes, folder: Path) -> None:
    """An archive becomes a run whose files all lie in its folder, or is refused and leaves nothing."""
    archive, store = folder / "fuzz.zip", folder / "store"
    archive.write_bytes(data)
    store.mkdir(exist_ok=True)
    try:
        run = read_archive(archive, store / "run")
    except InputError:
        assert list(store.iterdir()) == []
    else:
        assert Run.open(run.folder) == run
        run.reranked(0.3)
        assert_rendered(run, folder / "pages")
        for path in run.folder.iterdir():
            path.unlink()
        run.folder.rmdir()
    assert sorted(path.name for path in folder.iterdir()) == ["fuzz.zip", "store"]


@pytest.mark.usefixtures("in_process")
@settings(FUZZ, max_examples=60)
@given(data=st.binary(max_size=300), magic=st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06"]))
def test_random_bytes_are_refused(tmp_path: Path, data: bytes, magic: bytes) -> None:
    assert_opened_or_refused(magic + data, tmp_path)


@pytest.mark.usefixtures("in_process")
@settings(FUZZ, max_examples=60)
@given(share=st.floats(0, 1), changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6))
def test_a_damaged_archive_is_opened_or_refused(
    tmp_path: Path, packed: Path, share: float, changes: list[tuple[float, int]]
) -> None:
    damaged = bytearray(packed.read_bytes())
    for place, value in changes:
        # From the end, where the directory is: it steers everything.
        damaged[-1 - int(place**3 * (len(damaged) - 1))] = value
    assert_opened_or_refused(bytes(damaged[: int(share * len(damaged))] if share < 0.3 else damaged), tmp_path)


@pytest.mark.usefixtures("in_process")
@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(FUZZ, max_examples=60)
@given(names=st.lists(st.text(max_size=12), max_size=5), data=st.binary(max_size=40))
def test_names_of_any_kind_never_leave_the_folder(tmp_path: Path, packed: Path, names: list[str], data: bytes) -> None:
    file = io.BytesIO(packed.read_bytes())
    with zipfile.ZipFile(file, "a") as archive:
        for name in names:
            try:
                archive.writestr(name, data)
            except (UnicodeEncodeError, ValueError, IndexError):
                archive.writestr("../escape.png", data)
    assert_opened_or_refused(file.getvalue(), tmp_path)


def edited(packed: Path, path: list[Any], value: object) -> bytes:
    """Return the archive with one value of its run.json replaced."""
    with zipfile.ZipFile(io.BytesIO(packed.read_bytes())) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    content = json.loads(files["bluebird/run.json"])
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    files["bluebird/run.json"] = json.dumps(content).encode(errors="surrogatepass")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


PATHS = [
    *([name] for name in ("id", "input", "size", "prior", "metrics", "left_out", "notices", "status", "candidates")),
    *(["input", name] for name in ("file", "name", "width", "sha256")),
    *(["candidates", 0, name] for name in ("index", "seed", "scores", "file", "before", "before_scores", "source")),
    ["candidates", 1],
    ["candidates", 0, "scores", "niqe"],
    ["adapter"],
    ["fidelity_weight"],
    ["reference"],
    ["joined"],
    ["next_index"],
    ["audit"],
    ["dtype"],
]


@pytest.mark.usefixtures("in_process")
@settings(FUZZ, max_examples=120)
@given(path=st.sampled_from(PATHS), value=JSON)
def test_any_value_anywhere_in_a_run_file_is_taken_or_refused(
    tmp_path: Path, packed: Path, path: list[Any], value: object
) -> None:
    assert_opened_or_refused(edited(packed, path, value), tmp_path)
