"""What happens on the page: each event translates between widgets and `sr_core`, no more."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shutil import copyfile
from typing import Any

import gradio as gr

from sr_core.archives import write_archive
from sr_core.backbones import BACKBONES, require_weights
from sr_core.backbones.drawing import MAX_STEPS
from sr_core.errors import InputError, SRError
from sr_core.estimate import estimate
from sr_core.images import read_size
from sr_core.job import Job
from sr_core.pipeline import upscale
from sr_core.ui.downloads import write_candidate
from sr_core.ui.examples import example_photos
from sr_core.ui.explorer.runs import OFF_KEY, RUNS_KEY, remember_runs
from sr_core.ui.instant import BEST_OF_N, INSTANT, MODES, instant_offered, mode_of
from sr_core.ui.panel import Panel, Update, show, waiting
from sr_core.ui.pictures import file_url
from sr_core.ui.plans import Plan, describe_plan, plan_run
from sr_core.ui.settings import (
    OWN_SETTINGS,
    PRESETS,
    YOURS,
    Settings,
    WidgetValue,
    adapter_choices,
    describe_adapters,
    preset_changes,
)
from sr_core.ui.thumbs import render_thumbs
from sr_core.ui.visits import Visit, VisitStore
from sr_core.ui.words import in_words

Files = Sequence[str] | None
FEW_STEPS = 20
"""The slider's end for a backbone that needs few."""


class PageEvents:
    """The page's event functions over one store of visits."""

    def __init__(self, store: VisitStore) -> None:
        self._store = store
        self._pace = 1.0

    def _visit(self, request: gr.Request) -> Visit:
        return self._store.visit(request.session_hash)

    def plan(
        self, request: gr.Request, photos: Files, saved: dict[str, Any] | None, *values: WidgetValue
    ) -> tuple[str, str, Any, str | None]:
        """Say what the run will cost, and close the button where it cannot start."""
        settings = Settings(*values)
        paths = _paths(photos)
        try:
            job = _runnable(settings)
            plan = plan_run(paths, job)
        except SRError as error:
            job, plan = None, Plan(photos=(), problem=str(error))
        button = gr.skip() if self._visit(request).busy else gr.update(interactive=plan.ready)
        return (
            describe_plan(plan, job, pace=self._pace),
            render_thumbs(paths),
            button,
            _preset_of(settings, saved),
        )

    def begin(self, request: gr.Request, photos: Files, taste: float | int, *values: WidgetValue) -> tuple[Any, ...]:
        """Check the settings and show that the press was heard."""
        visit = self._visit(request)
        with in_words():
            job = _runnable(Settings(*values))
            if not photos:
                raise InputError("there must be a photo first; drop one or choose an example")
            if visit.busy:
                raise InputError("this page restores a photo already; stop it or wait for it")
        visit.stop.clear()
        visit.fidelity_weight = 1 - taste / 100
        buttons = (
            gr.update(value="Running\u2026", interactive=False),
            gr.update(value="Stop", interactive=True),
        )
        return (*buttons, *waiting(visit, job.num_candidates, "Waiting for its turn\u2026"))

    def run(
        self,
        request: gr.Request,
        photos: Files,
        reference: str | None,
        progress: gr.Progress = gr.Progress(),
        *values: WidgetValue,
    ) -> Iterator[Panel]:
        """Restore the photos one after another, showing every candidate as soon as it exists."""
        visit = self._visit(request)
        settings, paths, problems = Settings(*values), _paths(photos), list[str]()
        with in_words(), visit.working():
            job = settings.job(fidelity_weight=visit.fidelity_weight)
            yield waiting(visit, job.num_candidates, "Drawing the first candidates\u2026")
            for number, photo in enumerate(paths, start=1):
                if visit.stop.is_set():
                    break
                words = f"Photo {number} of {len(paths)}" if len(paths) > 1 else ""
                try:
                    yield from self._restore(visit, photo, reference, job, progress, problems, words)
                except SRError as error:
                    if len(paths) == 1:
                        raise
                    problems.append(f"{photo.name}: {error}")
        yield show(visit, problems=problems)

    def _restore(
        self, visit: Visit, photo: Path, reference: str | None, job: Job, progress: gr.Progress,
        problems: Sequence[str], words: str,
    ) -> Iterator[Panel]:  # fmt: skip
        cost = estimate(*read_size(photo), job)
        if cost.problem is not None:
            raise InputError(cost.problem)
        started = time.monotonic()

        def on_step(done: int, total: int) -> None:
            progress((done, total), desc=f"{words}: drawing" if words else "Drawing", unit="passes")

        target = None if reference is None else Path(reference)
        folder = visit.new_folder(photo)
        for update in upscale(photo, folder, job, reference=target, stop=visit.stop.is_set, on_step=on_step):
            shown = visit.put(update.run, job, update.message)
            if shown.finished:
                self._store.library.keep(shown.run)
                shown.seconds = time.monotonic() - started
                # What this machine really takes makes the next estimate a better one.
                self._pace = max(1.0, shown.seconds / cost.seconds)
            yield show(visit, problems=problems, num_expected=job.num_candidates)

    def stop(self, request: gr.Request) -> Update:
        """Stop the computation at its next step; what is finished stays."""
        self._visit(request).stop.set()
        return gr.update(value="Stopping\u2026", interactive=False)

    def end(self) -> tuple[Any, Any]:
        """Give the buttons back."""
        return gr.update(value="Run", interactive=True), gr.update(value="Stop", interactive=False)

    def leave(self, request: gr.Request) -> None:
        """Stop what a closed tab was computing."""
        self._store.leave(request.session_hash)

    def rank(self, taste: float | int, request: gr.Request) -> Panel:
        """Rank again by the slider, from 0, faithful, to 100, vivid; nothing is drawn."""
        visit = self._visit(request)
        visit.rank_by(1 - taste / 100)
        self._store.keep_order(visit)
        return show(visit)

    def pick(self, event: gr.EventData, request: gr.Request) -> tuple[Any, Any]:
        """Show one candidate against the input."""
        visit = self._visit(request)
        visit.picked = int(event.index)
        panel = show(visit)
        return panel.grid, panel.viewer

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Show the run that the address names, if it names one, with the slider where it stood."""
        visit, run_id = self._visit(request), request.query_params.get("run")
        if run_id:
            try:
                visit.open_run(self._store.library, run_id)
            except InputError as error:
                gr.Warning(str(error), title="Nothing to open")
        return self._shown(visit)

    def back(self, request: gr.Request) -> tuple[Any, ...]:
        """Show what other tabs have changed: the run on screen and the slider."""
        return self._shown(self._visit(request))

    def _shown(self, visit: Visit) -> tuple[Any, ...]:
        return (round(100 * (1 - visit.fidelity_weight)), *show(visit))

    def remember(self, stored: Any, request: gr.Request) -> dict[str, Any]:  # noqa: ANN401 - whatever a browser sends
        """Let the browser remember its runs, so that it lists them when it comes back."""
        return {
            "key": RUNS_KEY,
            "off_key": OFF_KEY,
            **remember_runs(self._store, self._visit(request), stored)._asdict(),
        }

    def switch(self, place: int, request: gr.Request) -> Panel:
        """Show the run of another photo."""
        visit = self._visit(request)
        if not 0 <= int(place) < len(visit.shown):
            raise gr.Error("that run is not here any more", print_exception=False)
        visit.current, visit.picked = int(place), None
        return show(visit)

    def example(self, event: gr.EventData, request: gr.Request) -> list[str]:
        """Put an example photo where an uploaded one would be."""
        photo = example_photos().get(str(event.name))
        if photo is None:
            raise gr.Error("there is no such example", print_exception=False)
        folder = self._visit(request).folder / "examples"
        folder.mkdir(exist_ok=True)
        return [str(copyfile(photo, folder / photo.name))]

    def save_candidate(self, request: gr.Request, format: str, *values: WidgetValue) -> dict[str, str]:
        """Write the candidate on screen in the chosen format and hand its address to the browser."""
        visit, settings = self._visit(request), Settings(*values)

        def write() -> Path:
            shown, record = visit.require()
            job = settings.job()
            return write_candidate(
                shown.run, record, visit.new_download_folder(), format=format, bit_depth=shown.job.bit_depth,
                dpi=job.dpi, keep_gps=job.keep_gps,
            )  # fmt: skip

        return _offer(write)

    def save_run(self, request: gr.Request) -> dict[str, str]:
        """Pack the run on screen and hand its address to the browser."""
        visit = self._visit(request)
        return _offer(lambda: write_archive(visit.require()[0].run, visit.new_download_folder()))

    def apply_preset(self, name: str, saved: dict[str, Any] | None, *values: WidgetValue) -> list[Any]:
        """Set the widgets as a preset has them, and the mode that they then are in."""
        changes = (saved or {}) if name == YOURS else preset_changes(name, Settings(*values).backbone)
        if not changes:
            gr.Info("Nothing is saved yet. Set things up, open More settings and press Save as mine.")
        settings = Settings(*values).with_preset(changes)
        return [*_widget_values(settings), mode_of(settings)]

    def mode(self, *values: WidgetValue) -> str:
        """Return the mode that the widgets are in, once one of them was set by hand.

        Never ask this while other widgets are being set: they change one after another, and what lies between is in
        neither mode.
        """
        return mode_of(Settings(*values))

    def apply_mode(self, mode: str, *values: WidgetValue) -> list[Any]:
        """Set the widgets for one restoration at once, or for the best of several; all stay where it cannot be had."""
        settings = Settings(*values)
        if mode == INSTANT and not instant_offered(settings.backbone):
            return _widget_values(settings)
        return _widget_values(settings.with_preset(MODES[mode]))

    def leave_instant(self, backbone: str, mode: str) -> list[Any]:
        """Go back to several candidates where a backbone without one step was chosen; (mode, candidates, compare)."""
        offered = gr.update(visible=instant_offered(backbone))
        if mode != INSTANT or instant_offered(backbone):
            return [offered, gr.skip(), gr.skip()]
        several = MODES[BEST_OF_N]
        return [gr.update(visible=False, value=BEST_OF_N), several["num_candidates"], several["compare"]]

    def save_preset(self, *values: WidgetValue) -> tuple[dict[str, Any], str]:
        """Remember the widgets in the browser as the visitor's own preset."""
        gr.Info("Saved in this browser. Choose Yours to come back to it.")
        return Settings(*values).saved(), YOURS

    def adapters(self, backbone: str, adapter: str) -> tuple[Update, str]:
        """Offer the adapters of another backbone; one that it has too stays, as when a preset has just set it."""
        choices = adapter_choices(backbone)
        kept = adapter if adapter in (name for _, name in choices) else choices[0][1]
        return gr.update(choices=choices, value=kept), describe_adapters(backbone)

    def backbone(self, backbone: str) -> list[Update]:
        """Set steps, sampler and colours as a backbone that was just chosen has them, and all that is its own."""
        drawing = BACKBONES[backbone].defaults
        values = [drawing.num_steps, drawing.sampler, drawing.color, *(getattr(drawing, name) for name in OWN_SETTINGS)]
        return [{**update, "value": value} for update, value in zip(self.fitting(backbone), values, strict=True)]

    def fitting(self, backbone: str) -> list[Update]:
        """Show what a backbone has and nothing else; values stay, as when a preset has just set them."""
        spec = BACKBONES[backbone]
        shown = [
            gr.update(maximum=FEW_STEPS if spec.defaults.num_steps <= FEW_STEPS else MAX_STEPS),
            gr.update(choices=[(name.capitalize(), name) for name in spec.samplers]),
            gr.update(),
        ]
        own = (getattr(spec.defaults, name) for name in OWN_SETTINGS)
        return [*shown, *(gr.update(visible=value is not None) for value in own)]


def _paths(photos: Files) -> list[Path]:
    return [Path(photo) for photo in photos or ()]


def _widget_values(settings: Settings) -> list[Any]:
    """Return what the widgets show; the adapter comes with its backbone's choices, without which it is refused."""
    adapter = gr.update(choices=adapter_choices(settings.backbone), value=settings.adapter)
    return list({**settings.saved(), "adapter": adapter}.values())


def _preset_of(settings: Settings, saved: dict[str, Any] | None) -> str | None:
    """Return the preset that the widgets are set to, if any."""
    for name in PRESETS:
        if settings.with_preset(preset_changes(name, settings.backbone)) == settings:
            return name
    return YOURS if saved and settings.with_preset(saved) == settings else None


def _runnable(settings: Settings) -> Job:
    """Return the job that the widgets describe; raises WeightsError if its backbone's weights are missing."""
    job = settings.job()
    require_weights(job.backbone, job.weights)
    return job


def _offer(write: Callable[[], Path]) -> dict[str, str]:
    with in_words():
        path = write()
    return {"address": file_url(path), "name": path.name}
