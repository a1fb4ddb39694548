"""The tab Runs: the runs of this browser, runs as archives, and candidates of other tools for the run on screen."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import gradio as gr

from sr_core.archives import MAX_MEMBERS, read_archive, write_archive
from sr_core.backbones.spandrel_model import SUFFIXES
from sr_core.errors import InputError
from sr_core.joining import Joined, Member, collect_members, join_baseline, join_images, part
from sr_core.runs import Run, new_run_id
from sr_core.ui.explorer.run_list import owns, render_members, render_runs
from sr_core.ui.explorer.section import FILES, HEAVY, LIGHT
from sr_core.ui.pictures import file_url
from sr_core.ui.theme import static_text
from sr_core.ui.visits import Shown, Visit, VisitStore, job_of
from sr_core.ui.words import in_words
from sr_core.unpacking import IMAGE_SUFFIXES

MAX_REMEMBERED = 200
RUNS_KEY = "sr-reward-explorer-runs-1"
"""Name under which a browser stores them."""
OFF_KEY = "sr-reward-explorer-runs-off-1"
"""Name under which it stores the ids of those that were taken off its list, in whatever tab."""
_IMAGE_TYPES = ["image", ".heic", ".heif", ".avif", ".tif", ".tiff", ".bmp", ".zip"]
_NOTHING = (
    '<p class="sr-words"><strong>No run is on screen.</strong> Restore a photo or open a run; then candidates of other '
    "tools can join it.</p>"
)
_WEIGHTS = """
<p class="sr-field"><strong>Baseline from a weight file</strong> Any super-resolution network that spandrel can open
(.safetensors, .pth, .pt, .ckpt). It restores the run's photo once and joins. No code is taken from a file: of a pickle
only the tensors are read.</p>
"""
_IMPORT = """
<p class="sr-field"><strong>Open a run from a zip</strong> One that was downloaded here or made by
<code>sr upscale</code>. It gets a link of its own.</p>
"""
Files = Sequence[str] | str | None


class Remembered(NamedTuple):
    """What a browser is told about the runs that it saw."""

    runs: list[list[str]]
    """Ids, newest first, each with the key if the browser made the run."""
    gone: list[str]
    """Ids to remember no more; all others stay, as other tabs of the browser may have added them meanwhile."""
    off: list[str]
    """Ids that were taken off the list on this page; they stay off though another tab has them open."""


def remember_runs(store: VisitStore, visit: Visit, stored: object) -> Remembered:
    """Take in what the browser says that it saw, and return what it is to remember.

    Whatever is no id of a kept run is gone; a key proves its run or is dropped.
    """
    runs, off = _stored_parts(stored)
    # What this page took off and the browser no longer names was opened again by its link since.
    visit.forgotten -= visit.told_off - off
    library, known = store.library, dict(_pairs(runs))
    for run_id, key in known.items():
        if key and library.is_owner(run_id, key):
            visit.owner_keys[run_id] = key
    here = [str(shown.run.values.get("id")) for shown in reversed(visit.shown) if shown.finished]
    ids = [i for i in dict.fromkeys([*here, *known]) if i not in visit.forgotten | off]
    visit.remembered = kept = [run_id for run_id in ids if library.holds(run_id)][:MAX_REMEMBERED]
    pairs = [[i, library.owner_key(i) if owns(store, visit, i) else ""] for i in kept]
    visit.told_off = set(visit.forgotten)
    return Remembered(pairs, [i for i in known if i not in kept], sorted(visit.forgotten))


def _stored_parts(stored: object) -> tuple[object, set[str]]:
    """Return the runs and the ids taken off in a value that any browser may have sent."""
    if not isinstance(stored, dict):
        return stored, set()
    off = stored.get("off")
    return stored.get("runs"), {
        run_id for run_id in (off[:MAX_REMEMBERED] if isinstance(off, list) else ()) if isinstance(run_id, str)
    }


def _pairs(stored: object) -> Iterator[tuple[str, str]]:
    """Yield the (id, key) pairs in a value that any browser may have sent."""
    for item in stored[:MAX_REMEMBERED] if isinstance(stored, list) else ():
        if isinstance(item, list) and len(item) == 2 and all(isinstance(text, str) for text in item):
            yield item[0], item[1]


class RunsSection:
    """Lays out the list and the ways for runs and candidates to come in and go out."""

    name = "runs"
    label = "Runs"

    def build(self, store: VisitStore) -> list[Any]:
        """Lay out the list and the three inlets, and wire them."""
        self._store = store
        w: dict[str, Any] = {}
        with gr.Row(elem_id="sr-runs-columns"):
            with gr.Column(elem_id="sr-runs-main"):
                w["list"] = gr.HTML(
                    None, html_template=static_text("runs.html"), js_on_load=static_text("runs.js"),
                    elem_id="sr-runs-list", apply_default_css=False,
                )  # fmt: skip
                gr.HTML(_kept_words(store.library.keep_s) + _IMPORT, apply_default_css=False)
                w["archive"] = gr.File(
                    label="Run as zip", show_label=False, file_types=[".zip"], height=84, elem_id="sr-runs-import"
                )
            with gr.Column(elem_id="sr-runs-side"):
                w["head"] = gr.HTML(_NOTHING, elem_id="sr-runs-head", apply_default_css=False)
                with gr.Column(visible=False, elem_id="sr-runs-inlets") as w["inlets"]:
                    w["images"] = gr.File(
                        label="Images or a zip of them", show_label=False, file_count="multiple",
                        file_types=_IMAGE_TYPES, height=104, elem_id="sr-runs-images",
                    )  # fmt: skip
                    w["folder"] = gr.File(
                        label="A folder of images", show_label=False, file_count="directory", height=84,
                        elem_id="sr-runs-folder",
                    )  # fmt: skip
                    gr.HTML(_WEIGHTS, apply_default_css=False)
                    w["weights"] = gr.File(
                        label="Weight file", show_label=False, file_types=list(SUFFIXES), height=84,
                        elem_id="sr-runs-weights",
                    )  # fmt: skip
                    w["stop"] = gr.Button("Stop", size="sm", visible=False, elem_id="sr-runs-stop")
                w["said"] = gr.HTML("", elem_id="sr-runs-said", apply_default_css=False)
                w["members"] = gr.HTML(
                    "", js_on_load=static_text("members.js"), elem_id="sr-runs-members", apply_default_css=False
                )
                w["save"] = gr.HTML(None, html_template="", js_on_load=static_text("save.js"), elem_id="sr-runs-save")
        shown = [w[name] for name in ("list", "head", "inlets", "said", "members")]
        self._wire(w, shown)
        return shown

    def show(self, visit: Visit) -> list[Any]:
        """Show the list and the members of the run on screen."""
        return self._panel(visit, "")

    def _wire(self, w: dict[str, Any], shown: list[Any]) -> None:
        w["list"].click(self.act, None, shown, **LIGHT)
        w["list"].pack(self.pack, None, w["save"], **FILES)
        w["members"].click(self.take_out, None, shown, **LIGHT)
        heavy: dict[str, Any] = {**HEAVY, "show_progress": "full", "show_progress_on": [w["said"]]}
        inlets = (
            ("images", self.join),
            ("folder", self.join_folder),
            ("weights", self.restore),
            ("archive", self.bring_in),
        )
        for name, event in inlets:
            begun = w[name].upload(self.begin, None, [w["stop"], w["said"]], **LIGHT)
            done = begun.then(event, w[name], shown, **heavy)
            done.then(lambda: (gr.update(value=None), gr.update(visible=False)), None, [w[name], w["stop"]], **LIGHT)
            done.failure(lambda: "", None, w["said"], **LIGHT)
        w["stop"].click(self.stop, None, w["said"], **LIGHT)

    def begin(self, request: gr.Request) -> tuple[Any, str]:
        """Show that a file has arrived."""
        visit = self._visit(request)
        if not visit.busy:
            visit.stop.clear()
        return gr.update(visible=not visit.busy), _said("Reading, scoring, ranking\u2026")

    def stop(self, request: gr.Request) -> str:
        """Stop a baseline at its next step."""
        self._visit(request).stop.set()
        return _said("Stopping\u2026")

    def join(self, files: Files, request: gr.Request) -> list[Any]:
        """Let images, or those of an archive, join the run on screen."""
        with self._own_run(request) as (visit, shown, run), TemporaryDirectory(dir=visit.folder) as unpacked:
            members = collect_members(_paths(files), Path(unpacked))
            return self._joined(visit, shown, join_images(run, members))

    def join_folder(self, files: Files, request: gr.Request) -> list[Any]:
        """Let the images of a folder join the run on screen; whatever else lies in it is passed over."""
        with self._own_run(request) as (visit, shown, run):
            paths = _paths(files)
            images = sorted((path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES), key=lambda p: p.name)
            if not images:
                raise InputError(f"the folder must hold at least one image, got none among {len(paths)} files")
            joined = join_images(run, [Member(path, path.stem) for path in images])
            passed = len(paths) - len(images)
            notes = (f"{passed} of {len(paths)} files passed over: no images.",) if passed else ()
            return self._joined(visit, shown, replace(joined, notes=(*joined.notes, *notes)))

    def restore(self, weights: str | None, request: gr.Request, progress: gr.Progress = gr.Progress()) -> list[Any]:
        """Let what a network makes of the photo join the run on screen."""
        with self._own_run(request) as (visit, shown, run):
            if weights is None:
                raise InputError("there must be a weight file")
            progress(0, desc="Opening the network")
            joined = join_baseline(
                run,
                Path(weights),
                on_step=lambda done, total: progress((done, total), desc="Restoring", unit="tiles"),
                stop=visit.stop.is_set,
            )
            return self._joined(visit, shown, joined)

    def bring_in(self, archive: str | None, request: gr.Request) -> list[Any]:
        """Open a run from an archive; it becomes one of this browser's own."""
        visit = self._visit(request)
        with in_words(), visit.working():
            if archive is None:
                raise InputError("there must be a zip file")
            folder = visit.new_folder(Path("imported"))
            run = read_archive(Path(archive), folder)
            with ExitStack() as undo:
                undo.callback(shutil.rmtree, folder, ignore_errors=True)
                job = job_of(run)
                undo.pop_all()
            shown = visit.put(run, job, "opened from a zip")
            self._store.library.keep(shown.run)
        words = f"{shown.name} is on screen, with {len(run.candidates)} candidates. Restore and Explore show it."
        return self._panel(visit, _said(words))

    def take_out(self, event: gr.EventData, request: gr.Request) -> list[Any]:
        """Take a candidate that joined out of the run on screen."""
        index = int(event.index)
        with self._own_run(request) as (visit, shown, run):
            name = next((record.name for record in run.candidates if record.index == index), "")
            left = part(run, index)
            self._put(visit, shown, left, "ranked anew")
            return self._panel(visit, _said(f"{name} is out; the group is ranked anew."))

    def act(self, event: gr.EventData, request: gr.Request) -> list[Any]:
        """Open, delete or forget a run of the list."""
        actions: Mapping[str, Callable[[Visit, str], list[Any]]] = {
            "open": self._open, "delete": self._delete, "forget": self._forget,
        }  # fmt: skip
        with in_words():
            return actions[str(event.action)](*self._listed(event, request))

    def pack(self, event: gr.EventData, request: gr.Request) -> dict[str, str]:
        """Pack a run of the list and hand its address to the browser."""
        with in_words():
            visit, run_id = self._listed(event, request)
            here = [shown.run for shown in visit.shown if shown.run.values.get("id") == run_id]
            run = here[0] if here else self._store.library.look(run_id)
            path = write_archive(run, visit.new_download_folder())
        return {"address": file_url(path), "name": path.name}

    def _listed(self, event: gr.EventData, request: gr.Request) -> tuple[Visit, str]:
        visit, run_id = self._visit(request), str(event.run)
        if run_id not in visit.remembered and all(s.run.values.get("id") != run_id for s in visit.shown):
            raise InputError("that run is not here any more")
        return visit, run_id

    def _open(self, visit: Visit, run_id: str) -> list[Any]:
        visit.open_run(self._store.library, run_id)
        return self._panel(visit, "", go=True)

    def _delete(self, visit: Visit, run_id: str) -> list[Any]:
        if not owns(self._store, visit, run_id):
            raise InputError("a run must be deleted by the browser that made it; you can take it off your list")
        if visit.busy:
            raise InputError("this page is at work; stop it or wait for it, then delete the run")
        self._store.delete_run(run_id)
        return self._panel(visit, _said("Deleted. Its link opens nothing any more."))

    def _forget(self, visit: Visit, run_id: str) -> list[Any]:
        visit.forgotten.add(run_id)
        visit.drop_run(run_id)
        return self._panel(visit, _said("Taken off your list. Its link still opens it while it is kept."))

    def _visit(self, request: gr.Request) -> Visit:
        return self._store.visit(request.session_hash)

    @contextmanager
    def _own_run(self, request: gr.Request) -> Iterator[tuple[Visit, Shown, Run]]:
        """Yield the run on screen and what may be changed: a copy where it came by a link."""
        visit = self._visit(request)
        with in_words(), visit.working():
            shown = visit.on_screen
            if shown is None:
                raise InputError("there must be a run on screen first; restore a photo or open a run")
            run, run_id = shown.run, str(shown.run.values.get("id"))
            if not owns(self._store, visit, run_id):
                run = replace(run, values={**run.values, "id": new_run_id(), "origin_id": run_id})
            yield visit, shown, run

    def _joined(self, visit: Visit, shown: Shown, joined: Joined) -> list[Any]:
        count = len(joined.indices)
        if not count:
            return self._panel(visit, _said("Nothing has joined.", joined.notes))
        self._put(visit, shown, joined.run, f"{count} joined, ranked anew")
        names = ", ".join(record.name for record in joined.run.candidates if record.index in joined.indices)
        return self._panel(visit, _said(f"Joined and ranked: {names}.", joined.notes))

    def _put(self, visit: Visit, shown: Shown, run: Run, message: str) -> None:
        shown.seconds = None
        self._store.library.keep(visit.put(run, shown.job, message).run)

    def _panel(self, visit: Visit, said: str, *, go: bool = False) -> list[Any]:
        shown = visit.on_screen
        listed = {"html": render_runs(self._store, visit), "go": time.time_ns() if go else None}
        if shown is None or not shown.finished:
            return [listed, _NOTHING, gr.update(visible=False), said, ""]
        return [listed, _join_words(shown), gr.update(visible=True), said, render_members(shown.run)]


def _join_words(shown: Shown) -> str:
    width, height = shown.run.values["size"]
    return (
        f'<p class="sr-field"><strong>Add your own candidates to {escape(shown.name)}</strong> Outputs of any other '
        f"tool, {width} \u00d7 {height} px: images, one zip of them, or a folder. File names become labels. They are "
        f"scored with the run's metrics and the whole group is ranked anew; a run holds up to {MAX_MEMBERS}.</p>"
    )


def _kept_words(keep_s: float | int) -> str:
    hours = f"{keep_s / 3600:.0f} hours"
    return (
        f'<p class="sr-words">Only this browser lists these runs. Each is kept for {hours} after it was last opened, '
        "and whoever has its link can open it. Deleting removes its files at once.</p>"
    )


def _said(words: str, notes: Sequence[str] = ()) -> str:
    more = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<div class="sr-said" role="status"><p>{escape(words)}</p>{f"<ul>{more}</ul>" if more else ""}</div>'


def _paths(files: Files) -> list[Path]:
    return [Path(file) for file in ([files] if isinstance(files, str) else files or ())]
