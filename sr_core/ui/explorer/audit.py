"""The tab Audit: a full-quality photo is degraded, restored by one or two adapters, and the result held against it."""

import time
from collections.abc import Iterator
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from sr_core.audit import AuditPair, audit, make_pair
from sr_core.errors import InputError
from sr_core.restorer import MAX_CANDIDATES
from sr_core.ui.explorer.audit_settings import (
    GIVEN,
    MADE,
    NO_ADAPTER,
    PRESET_WORDS,
    WHOLE,
    AuditRequest,
    AuditSettings,
    audit_request,
    describe_audit,
)
from sr_core.ui.explorer.audit_view import INTRODUCTION, render_pair, views
from sr_core.ui.explorer.chart import chart_widget
from sr_core.ui.explorer.number_table import table_widget
from sr_core.ui.explorer.section import HEAVY, LIGHT
from sr_core.ui.settings import WidgetValue, adapter_choices
from sr_core.ui.status import WELCOME, render_status
from sr_core.ui.visits import Visit, VisitStore
from sr_core.ui.words import in_words

BACKBONE = "compact"
_PHOTO_TYPES = ["image", ".heic", ".heif", ".avif", ".tif", ".tiff", ".bmp"]
_METRIC_SETS = [
    ("Offline: needs no download", "offline"),
    ("Offline without PIQE, as trained with", "train_offline"),
    ("Standard: pyiqa weights", "standard"),
    ("Paper: DP2O-SR's nine", "paper"),
]
_SIDES = [("Middle 256 px", 256), ("Middle 512 px", 512), ("Whole photo", WHOLE)]
_PRESETS = [(f"{name}: {words}", name) for name, words in PRESET_WORDS.items()]
_SHOW_RESULTS = """() => {
  if (window.innerWidth <= 860) document.querySelector("#sr-audit-main").scrollIntoView({behavior: "smooth"});
}"""


class Findings(NamedTuple):
    """One value or update per widget of the result side."""

    status: Any
    photos: Any
    words: Any
    seeds: Any
    change: Any
    curves: Any


def show_findings(visit: Visit) -> Findings:
    """Return what the run on screen says; how to begin where there is none or it has no reference."""
    shown = visit.on_screen
    if shown is None:
        return Findings(INTRODUCTION, "", "", "", None, None)
    photos, words, seeds, change, curves = views(shown)
    if not shown.run.values["reference"]:
        hint = (
            '<p class="sr-words">The run on screen was restored without a full-quality photo to compare with. Give one '
            "here to audit a restoration of it.</p>"
        )
        if change is None:
            return Findings(INTRODUCTION + hint, "", "", "", None, None)
        photos = hint
    share = None
    if not shown.finished:
        expected = shown.job.num_candidates * (1 if shown.job.compare_adapter is None else 2)
        drawn = sum((r.file is not None) + (r.before is not None) for r in shown.run.candidates)
        share = drawn / expected
    return Findings(render_status(shown, share=share), photos, words, seeds, change, curves)


class AuditSection:
    """Lays out the audit and runs it."""

    name = "audit"
    label = "Audit"

    def __init__(self) -> None:
        self._pace = 1.0

    def build(self, store: VisitStore) -> list[Any]:
        """Lay out settings and results, and wire them."""
        self._store = store
        with gr.Row(elem_id="sr-audit-columns"):
            with gr.Column(elem_id="sr-audit-side"):
                w = _settings()
            with gr.Column(elem_id="sr-audit-main"):
                findings = _results()
        self._wire(w, findings)
        return list(findings)

    def show(self, visit: Visit) -> list[Any]:
        """Show the run on screen as an audit."""
        return list(show_findings(visit))

    def _wire(self, w: dict[str, Any], findings: Findings) -> None:
        fields, files, outputs = w["fields"], [w["hq"], w["lq"]], list(findings)
        buttons = [w["run"], w["degrade"]]
        changes = [widget.change for widget in (*files, *fields)]
        gr.on(changes, self.plan, [*files, *fields], [w["plan"], *buttons], trigger_mode="always_last", **LIGHT)
        source = fields[0]
        source.change(
            lambda value: (gr.update(visible=value == MADE), gr.update(visible=value == GIVEN)),
            source, [w["made"], w["given"]], **LIGHT,
        )  # fmt: skip
        w["run"].click(None, None, None, js=_SHOW_RESULTS, api_visibility="private")
        started = w["run"].click(self.begin, [*files, *fields], [w["run"], w["stop"], *outputs], **LIGHT)
        running = started.success(self.run, [*files, *fields], outputs, show_progress="hidden", **HEAVY)
        running.then(_end, None, [w["run"], w["stop"]], **LIGHT)
        w["stop"].click(self.stop, None, w["stop"], **LIGHT)
        w["degrade"].click(self.degrade, [*files, *fields], outputs, show_progress="minimal", **HEAVY)

    def plan(
        self, request: gr.Request, hq: str | None, lq: str | None, *values: WidgetValue
    ) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Say what the audit will cost, and close the buttons where it cannot start."""
        settings = AuditSettings(*values)
        words, ready = describe_audit(hq, lq, settings, pace=self._pace)
        busy = self._store.visit(request.session_hash).busy
        return (
            words,
            gr.skip() if busy else gr.update(interactive=ready),
            gr.update(interactive=ready and settings.source == MADE),
        )

    def begin(self, request: gr.Request, hq: str | None, lq: str | None, *values: WidgetValue) -> tuple[Any, ...]:
        """Check the settings and show that the press was heard."""
        visit = self._store.visit(request.session_hash)
        with in_words():
            audit_request(hq, lq, AuditSettings(*values))
            if visit.busy:
                raise InputError("this page restores a photo already; stop it or wait for it")
        visit.stop.clear()
        waiting = Findings(render_status(None, words="Waiting for its turn\u2026"), "", "", "", None, None)
        return (
            gr.update(value="Running\u2026", interactive=False),
            gr.update(value="Stop", interactive=True),
            *waiting,
        )

    def run(self, request: gr.Request, hq: str | None, lq: str | None, *values: WidgetValue) -> Iterator[list[Any]]:
        """Degrade, restore and score, showing every candidate as soon as it exists."""
        visit = self._store.visit(request.session_hash)
        with in_words(), visit.working():
            asked = audit_request(hq, lq, AuditSettings(*values), fidelity_weight=visit.fidelity_weight)
            pair = _make_pair(visit, asked)
            drawing = render_status(None, words="Drawing the first candidates\u2026")
            yield list(Findings(drawing, render_pair(pair), "", "", None, None))
            started = time.monotonic()
            for update in audit(pair, visit.new_folder(pair.lq), asked.job, stop=visit.stop.is_set):
                shown = visit.put(update.run, asked.job, update.message)
                if shown.finished:
                    self._store.library.keep(shown.run)
                    shown.seconds = time.monotonic() - started
                    # What this machine really takes makes the next estimate a better one.
                    self._pace = max(1.0, shown.seconds / asked.seconds)
                yield list(show_findings(visit))

    def degrade(self, request: gr.Request, hq: str | None, lq: str | None, *values: WidgetValue) -> list[Any]:
        """Show and offer the low-quality photo without restoring it."""
        visit = self._store.visit(request.session_hash)
        with in_words():
            pair = _make_pair(visit, audit_request(hq, lq, AuditSettings(*values)))
        notes = "".join(f'<p class="sr-note">{escape(words)}</p>' for words in pair.notices)
        status = f'<div class="sr-status" role="status"><p><strong>Degraded, not restored.</strong></p>{notes}</div>'
        return list(Findings(status, render_pair(pair), "", "", None, None))

    def stop(self, request: gr.Request) -> dict[str, Any]:
        """Stop at the next step; what is finished stays."""
        self._store.visit(request.session_hash).stop.set()
        return gr.update(value="Stopping\u2026", interactive=False)


def _end() -> tuple[Any, Any]:
    """Give the buttons back."""
    return gr.update(value="Run", interactive=True), gr.update(value="Stop", interactive=False)


def _make_pair(visit: Visit, asked: AuditRequest) -> AuditPair:
    folder = visit.new_download_folder("pairs")
    return make_pair(asked.hq, folder, asked.degradation, lq=asked.lq, metrics=asked.job.metric_set)


def _file(words: str, name: str) -> gr.File:
    gr.HTML(f'<p class="sr-field">{words}</p>')
    return gr.File(label=name, show_label=False, file_types=_PHOTO_TYPES, height=96, elem_id=f"sr-audit-{name}")


def _settings() -> dict[str, Any]:
    """Lay out what is set before the start."""
    default = AuditSettings()
    adapters = adapter_choices(BACKBONE)
    w: dict[str, Any] = {}
    w["hq"] = _file(
        "<strong>Full-quality photo</strong> sharp and clean: the truth that restorations are held to.", "hq"
    )
    source = gr.Radio([MADE, GIVEN], value=default.source, label="Low-quality photo", elem_id="sr-audit-source")
    with gr.Group(visible=False) as w["given"]:
        w["lq"] = _file("<strong>Low-quality photo</strong> the same picture, smaller; same shape.", "lq")
    with gr.Column(elem_id="sr-audit-made") as w["made"]:
        preset = gr.Dropdown(
            _PRESETS, value=default.preset, label="Degradation", filterable=False, elem_id="sr-audit-preset"
        )
        with gr.Row():
            degradation_seed = gr.Number(
                default.degradation_seed, label="Degradation seed", precision=0, minimum=0, min_width=90
            )
            side = gr.Dropdown(
                _SIDES,
                value=default.side,
                label="Part",
                filterable=False,
                scale=2,
                min_width=160,
                elem_id="sr-audit-side-px",
            )
    with gr.Row():
        before = gr.Dropdown(
            adapters, value=default.before, label="Adapter A", filterable=False, min_width=120, elem_id="sr-audit-a"
        )
        after = gr.Dropdown(
            [("None", NO_ADAPTER), *adapters], value=default.after, label="Adapter B",
            filterable=False, min_width=120, elem_id="sr-audit-b",
        )  # fmt: skip
    num_seeds = gr.Slider(1, MAX_CANDIDATES, default.num_seeds, step=1, label="Seeds", elem_id="sr-audit-seeds")
    w["plan"] = gr.HTML(describe_audit(None, None, default)[0], elem_id="sr-audit-plan")
    with gr.Row(elem_id="sr-audit-actions"):
        w["run"] = gr.Button("Run", variant="primary", size="lg", interactive=False, elem_id="sr-audit-run")
        w["stop"] = gr.Button("Stop", size="lg", interactive=False, elem_id="sr-audit-stop")
    w["degrade"] = gr.Button("Degrade only", interactive=False, elem_id="sr-audit-degrade")
    with gr.Accordion("More settings", open=False, elem_id="sr-audit-more"):
        with gr.Row():
            seed = gr.Number(default.seed, label="Base seed", precision=0, minimum=0, min_width=100)
            steps = gr.Slider(1, 20, default.num_steps, step=1, label="Steps", min_width=120)
        metric_set = gr.Dropdown(_METRIC_SETS, value=default.metric_set, label="Metric set", filterable=False)
    w["fields"] = [source, preset, degradation_seed, side, before, after, num_seeds, seed, steps, metric_set]
    return w


def _results() -> Findings:
    """Lay out what an audit shows."""
    return Findings(
        status=gr.HTML(WELCOME, elem_id="sr-audit-status", apply_default_css=False),
        photos=gr.HTML("", elem_id="sr-audit-photos", apply_default_css=False),
        words=gr.HTML("", elem_id="sr-audit-words", apply_default_css=False),
        seeds=table_widget("sr-audit-table"),
        change=chart_widget("sr-audit-changes"),
        curves=chart_widget("sr-audit-curves"),
    )
