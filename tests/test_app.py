"""The page as programs and strangers see it: a real server, the public endpoints, and what it refuses."""

import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image as PillowImage

import app
from sr_core.ballots import run_key, show_pictures
from sr_core.commands import INTERRUPTED
from sr_core.errors import InputError, WeightsError
from sr_core.limits import MAX_UPLOAD_BYTES
from sr_core.runs import Run
from sr_core.ui.events import PageEvents
from sr_core.ui.explorer.comparer import comparer_value
from sr_core.ui.page import build_page
from sr_core.ui.visits import VisitStore, job_of
from sr_core.ui.words import in_words
from sr_core.votes import Answer as VoteAnswer
from sr_core.votes import VoteStore, new_voter, store_files
from tests.explorer_run import write_run
from tests.lora import installed

PATIENCE_S = 600
"""Nothing waits that long on an idle machine; a busy one may."""
PATIENT = {"timeout": PATIENCE_S}


class Served(NamedTuple):
    address: str
    store: VisitStore


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    store = VisitStore(tmp_path_factory.mktemp("runs").resolve())
    page = build_page(store)
    page.queue(max_size=app.MAX_WAITING)
    _, address, _ = page.launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **app.launch_options(store)
    )
    yield Served(address, store)
    page.close()
    store.clear()


@pytest.fixture(scope="module")
def tiny_photo(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "dome.png"
    with PillowImage.open(photos / "eval" / "172_dome.png") as image:
        image.convert("RGB").resize((40, 32), PillowImage.Resampling.BICUBIC).save(path)
    return path


class Answer(NamedTuple):
    best: Path
    run: dict[str, Any]
    archive: Path


@pytest.fixture(scope="module")
def answer(served: Served, tiny_photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Answer:
    client = Client(
        served.address, verbose=False, httpx_kwargs=PATIENT, download_files=tmp_path_factory.mktemp("downloads")
    )
    best, run, archive = client.predict(handle_file(tiny_photo), num_candidates=2, steps=1, seed=5, api_name="/upscale")
    return Answer(Path(best), run, Path(archive))


def error_of(response: httpx.Response, address: str, name: str) -> str:
    """Return how a queued call ended, as its event stream tells."""
    assert response.status_code == 200
    event = response.json()["event_id"]
    return httpx.get(f"{address}gradio_api/call/{name}/{event}", timeout=PATIENCE_S).text


def test_importing_the_app_loads_no_model_and_no_metric() -> None:
    code = "import sys, app; print([m for m in ('pyiqa', 'diffusers', 'peft', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_building_the_page_writes_nothing(tmp_path: Path) -> None:
    build_page(VisitStore(tmp_path / "runs"))
    assert list(tmp_path.iterdir()) == []


def test_programs_see_two_endpoints_with_their_descriptions(served: Served) -> None:
    endpoints = Client(served.address, verbose=False, httpx_kwargs=PATIENT).view_api(return_format="dict")[
        "named_endpoints"
    ]
    assert set(endpoints) == {"/upscale", "/score"}
    assert all(endpoint["description"] for endpoint in endpoints.values())


@pytest.mark.parametrize("error", [InputError("the side must be at least 32 px, got 8"), WeightsError("a.bin is gone")])
def test_errors_reach_the_page_in_their_own_words(error: Exception) -> None:
    with pytest.raises(gr.Error) as caught, in_words():
        raise error
    assert caught.value.message == str(error)
    assert caught.value.print_exception is False


def test_a_program_gets_the_run_the_best_candidate_and_everything_in_a_zip(answer: Answer, tmp_path: Path) -> None:
    zipfile.ZipFile(answer.archive).extractall(tmp_path)
    run = Run.open(tmp_path / "dome")
    assert json.loads((tmp_path / "dome" / "run.json").read_text()) == answer.run
    assert [record.seed for record in run.candidates] == [5, 6]
    assert run.best is not None
    with PillowImage.open(answer.best) as best, PillowImage.open(run.path(run.best)) as packed:
        assert best.size == (160, 128)
        np.testing.assert_array_equal(np.asarray(best), np.asarray(packed))


def test_scores_of_files_carry_their_provenance(served: Served, answer: Answer, tiny_photo: Path) -> None:
    client = Client(served.address, verbose=False, httpx_kwargs=PATIENT)
    scored = client.predict([handle_file(answer.best)] * 2, lq=handle_file(tiny_photo), api_name="/score")
    assert {"metric_set", "reference", "metrics", "images"} <= set(scored)
    assert scored["reference"] is False
    assert scored["metrics"]
    first, second = scored["images"]
    assert first["scores"] == second["scores"]
    assert first["reward"] == second["reward"] == 0.5
    assert "/" not in first["file"]
    alone = client.predict([handle_file(answer.best)], api_name="/score")
    assert alone["images"][0]["reward"] is None


def test_a_program_may_ask_for_the_same_seeds_of_another_adapter(
    served: Served, tiny_photo: Path, tmp_path: Path
) -> None:
    client = Client(served.address, verbose=False, httpx_kwargs=PATIENT, download_files=tmp_path)
    with installed(tmp_path / "assets", hpo=0.1):
        _, run, archive = client.predict(
            handle_file(tiny_photo), num_candidates=1, steps=1, seed=5, adapter="hpo", compare_with="sft",
            api_name="/upscale",
        )  # fmt: skip
    assert (run["adapter"], run["compare_adapter"]) == ("hpo", "sft")
    assert [candidate["before"] for candidate in run["candidates"]] == ["dome_seed5_sft.png"]
    assert "dome/dome_seed5_sft.png" in zipfile.ZipFile(archive).namelist()


def test_a_mistake_of_the_caller_comes_back_in_words(served: Served, tiny_photo: Path) -> None:
    client = Client(served.address, verbose=False, httpx_kwargs=PATIENT)
    with pytest.raises(AppError, match="must lie between"):
        client.predict(handle_file(tiny_photo), width=10, height=10, api_name="/upscale")


def test_a_path_on_the_server_is_not_a_photo(served: Served) -> None:
    inside = str(Path(app.__file__).parent / "pyproject.toml")
    for path in ("/etc/passwd", inside, str(served.store.root)):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        values = [[file], None, None, "offline", 0.5]
        response = httpx.post(f"{served.address}gradio_api/call/score", json={"data": values}, timeout=PATIENCE_S)
        ended = error_of(response, served.address, "score")
        assert "event: error" in ended
        assert "root:" not in ended


def test_files_outside_the_run_store_are_not_served(served: Served) -> None:
    for path in ("/etc/passwd", str(served.store.root), str(Path(app.__file__))):
        assert httpx.get(f"{served.address}gradio_api/file={path}", timeout=PATIENCE_S).status_code == 403


def test_a_file_that_no_upload_may_be_as_large_as_is_refused(served: Served) -> None:
    upload = httpx.post(
        f"{served.address}gradio_api/upload",
        files={"files": ("a.png", bytes(MAX_UPLOAD_BYTES + 1))},
        timeout=PATIENCE_S,
    )
    assert upload.status_code == 413


@pytest.mark.usefixtures("answer")
def test_two_visitors_do_not_see_each_others_runs(served: Served) -> None:
    folders = {path.parent.parent for path in served.store.root.glob("*/*/run.json")}
    assert len(folders) >= 1
    stranger = served.store.visit("a-page-just-opened")
    assert stranger.folder not in folders
    request = gr.Request(session_hash="a-page-just-opened")
    panel = PageEvents(served.store).rank(50, request)
    assert "gradio_api/file=" not in str(panel)
    with pytest.raises(gr.Error, match="there must be a restored photo first"):
        PageEvents(served.store).save_run(request)


def test_every_answer_carries_the_careful_headers(served: Served) -> None:
    for path in ("", "gradio_api/info", "gradio_api/file=/etc/passwd"):
        headers = httpx.get(served.address + path, timeout=PATIENCE_S).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'self'" in headers["content-security-policy"]


def test_agents_find_the_same_two_tools(served: Served) -> None:
    tools = httpx.get(f"{served.address}gradio_api/mcp/schema", timeout=PATIENCE_S).json()
    assert {tool["name"].split("_")[-1] for tool in tools} == {"upscale", "score"}
    assert all(tool["description"] for tool in tools)


def test_what_no_browser_may_fetch_is_refused(served: Served, tmp_path: Path) -> None:
    run_id = served.store.library.keep(write_run(tmp_path / "run", num_candidates=2, size=128))
    served.store.private.mkdir(exist_ok=True)
    secret = served.store.private / "votes.sqlite"
    secret.write_text("who voted for what")
    for path in (secret, served.store.library.root / run_id / "input.png"):
        assert httpx.get(f"{served.address}gradio_api/file={path}", timeout=PATIENCE_S).status_code == 403


def test_the_pictures_of_a_run_are_served_and_its_originals_are_not(served: Served) -> None:
    visit = served.store.visit("maker")
    run = write_run(visit.new_folder(Path("a.png")), num_candidates=2, size=128, reference=True)
    shown = visit.put(run, job_of(run), "ranked")
    assert comparer_value(visit) is not None
    pictures = [run.path(run.candidates[0]), run.folder / "prior.png"]
    views = [shown.view_folder / name for name in ("input.png", "reference.png")]
    for path in (*pictures, *views):
        assert httpx.get(f"{served.address}gradio_api/file={path}", timeout=PATIENCE_S).status_code == 200
    roundabout = f"{run.folder}/../{run.folder.name}/input.png"
    encoded = str(run.folder / "input.png").replace("i", "%69")
    for path in (*(run.folder / name for name in ("run.json", "input.png", "reference.png")), roundabout, encoded):
        for prefix in ("gradio_api/file=", "file=", "gradio_api/file/"):
            response = httpx.get(f"{served.address}{prefix}{path}", follow_redirects=True, timeout=PATIENCE_S)
            assert response.status_code in (403, 404)
            assert b"PNG" not in response.content
            assert b"candidates" not in response.content


def test_votes_outlast_the_server_and_find_a_run_of_an_earlier_version_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", num_candidates=2, size=256)
    values = {key: value for key, value in run.values.items() if key != "id"}
    replace(run, values=values).save()
    before = (run.folder / "run.json").read_bytes()
    for name in ("SR_RUN_ROOT", "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SR_VOTES_FILE", str(tmp_path / "kept" / "votes.sqlite"))
    keys, roots = [], []

    def vote(_: gr.Blocks, **options: Any) -> None:
        (root, *_), blocked = options["allowed_paths"], options["blocked_paths"]
        roots.append(Path(root))
        assert set(map(str, store_files(tmp_path / "kept" / "votes.sqlite"))) <= set(blocked)
        (kept,) = (Run.open(path.parent) for path in Path(root).glob("library/*/run.json"))
        keys.append(run_key(kept))
        votes = VoteStore(tmp_path / "kept" / "votes.sqlite")
        votes.cast(
            votes.issue(run_key(kept), "pair", show_pictures(kept, (0, 1))).token, new_voter(), VoteAnswer("tie")
        )

    monkeypatch.setattr(gr.Blocks, "launch", vote)
    for count in (1, 2):
        app.serve_page([run.folder])
        assert len(VoteStore(tmp_path / "kept" / "votes.sqlite").votes(keys[:1])) == count
    assert not any(root.exists() for root in roots)
    assert (run.folder / "run.json").read_bytes() == before


def test_a_folder_without_a_run_is_refused_before_serving(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "app.py", str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "must be a folder with run.json" in done.stderr


def test_a_server_that_is_told_to_stop_ends_its_visits_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cleared: list[VisitStore] = []
    monkeypatch.setattr(gr.Blocks, "launch", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(VisitStore, "clear", lambda store: cleared.append(store))
    monkeypatch.setattr(sys, "argv", ["app.py"])
    monkeypatch.setenv("SR_RUN_ROOT", str(tmp_path))
    usual = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            app.main()
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert (ended.value.code, len(cleared)) == (INTERRUPTED, 1)
