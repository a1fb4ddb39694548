"""The page: where its widgets lie and which event each of them sets off."""

from typing import Any

import gradio as gr

from sr_core.backbones import BACKBONES, SFT
from sr_core.backbones.drawing import MAX_GUIDANCE, MAX_PROMPT
from sr_core.color import COLOR_TRANSFERS
from sr_core.images import FORMATS
from sr_core.resampling import MAX_SCALE
from sr_core.restorer import MAX_CANDIDATES
from sr_core.samplers import SAMPLERS
from sr_core.ui.api import make_upscale, score
from sr_core.ui.events import PageEvents
from sr_core.ui.examples import render_examples
from sr_core.ui.explorer.chart import chart_widget
from sr_core.ui.explorer.explore import Explore
from sr_core.ui.explorer.runs import OFF_KEY, RUNS_KEY
from sr_core.ui.explorer.section import COMPUTE, FILES, LIGHT, Section
from sr_core.ui.explorer.sections import PAGES
from sr_core.ui.grid import EMPTY
from sr_core.ui.instant import BEST_OF_N, INSTANT, MODES, instant_offered
from sr_core.ui.plans import Plan, describe_plan
from sr_core.ui.settings import (
    EXACT,
    FACTOR,
    OWN_SETTINGS,
    PRESETS,
    YOURS,
    Settings,
    adapter_choices,
    backbone_choices,
    describe_adapters,
)
from sr_core.ui.status import WELCOME
from sr_core.ui.theme import static_text
from sr_core.ui.visits import VisitStore

TITLE = "SR Reward Explorer"
STORAGE_KEY, STORAGE_SECRET = "sr-reward-explorer-1", "settings-are-no-secret"

_HEADER = f"""
<header class="sr-header"><h1>{TITLE}</h1>
<p>One photo in, several restorations out: scored, ranked and explained.</p></header>
"""
_ENDS = """
<p class="sr-ends"><span><strong>Faithful</strong> true to your photo</span>
<span><strong>Vivid</strong> pleasing by itself</span></p>
"""
_SHOW_RESULTS = """() => {
  const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
  if (window.innerWidth <= 860) document.querySelector("#sr-main").scrollIntoView({behavior});
}"""
# Read anew each time: another tab of the browser may have written.
_STORED_RUNS = f"""() => {{
  const read = (key) => {{ try {{ return JSON.parse(localStorage.getItem(key)); }} catch {{ return null; }} }};
  const asked = new URL(window.location.href).searchParams.get("run"), off = read("{OFF_KEY}");
  if (!window.srRunsAsked && asked && Array.isArray(off) && off.includes(asked)) {{
    // A link that is opened anew lists its run again.
    try {{ localStorage.setItem("{OFF_KEY}", JSON.stringify(off.filter((run) => run !== asked))); }} catch {{ }}
  }}
  window.srRunsAsked = true;
  return [{{ runs: read("{RUNS_KEY}"), off: read("{OFF_KEY}") }}];
}}"""
_REFERENCE = """
<p class="sr-field"><strong>Reference</strong> If you have the true photo at the output's size,
the reward compares with it.</p>
"""
_COLORS = [({"adain": "AdaIN"}.get(name, name.capitalize()), name) for name in COLOR_TRANSFERS]
_METRIC_SETS = [("Offline: needs no download", "offline"), ("Standard: pyiqa weights", "standard"),
                ("Paper: DP2O-SR's nine", "paper")]  # fmt: skip
_FORMATS = {"png": "PNG", "webp": "WebP lossless", "jpeg": "JPEG", "tiff": "TIFF"}
_PHOTO_TYPES = ["image", ".heic", ".heif", ".avif", ".tif", ".tiff", ".bmp"]


def build_page(store: VisitStore) -> gr.Blocks:
    """Return the page over a store of visits; nothing is loaded and nothing is served yet."""
    events = PageEvents(store)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        saved = gr.BrowserState(None, storage_key=STORAGE_KEY, secret=STORAGE_SECRET)
        gr.HTML(_HEADER)
        with gr.Tabs(elem_id="sr-tabs", overflow_behavior="wrap"):
            with gr.Tab("Restore", id="restore", elem_id="sr-tab-restore") as restore, gr.Row(elem_id="sr-columns"):
                with gr.Column(elem_id="sr-side"):
                    inputs = _input_side()
                with gr.Column(elem_id="sr-main"):
                    results = _result_side()
            with gr.Tab("Explore", id="explore", elem_id="sr-tab-explore") as explore:
                behind = Explore(store)
                behind.build(explore)
            views = {section.name: _section_tab(store, section) for section in PAGES}
        _wire(events, saved, inputs, results)
        restore.select(events.back, None, [results["taste"], *results["panel"]], **LIGHT)
        seen = gr.HTML(None, html_template="", js_on_load=static_text("remember.js"), elem_id="sr-seen")
        changed = [page.load, results["link"].change, views["runs"][0].change]
        gr.on(changed, events.remember, seen, seen, js=_STORED_RUNS, **LIGHT)
        opened = [results["taste"], *results["panel"]]
        behind.follow(page.load(events.open, None, opened, show_progress="hidden", api_visibility="private"))
        page.unload(events.leave)
        _endpoints(store)
    return page


def _section_tab(store: VisitStore, section: Section) -> list[Any]:
    """Lay out a view that has a tab of its own; it is filled when it is opened. Returns what is filled."""

    def show(request: gr.Request) -> Any:  # noqa: ANN401 - one value, or a list of several
        values = section.show(store.visit(request.session_hash))
        # Gradio takes what a function with one output returns for that output's value.
        return values[0] if len(values) == 1 else values

    with gr.Tab(section.label, id=section.name, elem_id=f"sr-tab-{section.name}") as tab:
        widgets = section.build(store)
    tab.select(show, None, widgets, **LIGHT)
    return widgets


def _input_side() -> dict[str, Any]:
    """Lay out what a visitor sets before pressing the button."""
    default = Settings()
    w: dict[str, Any] = {}
    w["photos"] = gr.File(
        file_count="multiple",
        file_types=_PHOTO_TYPES,
        show_label=False,
        label="Photos",
        height=132,
        elem_id="sr-photos",
    )
    w["thumbs"] = gr.HTML("")
    w["examples"] = gr.HTML(render_examples(), js_on_load=static_text("examples.js"))
    w["mode"] = gr.Radio(
        list(MODES),
        value=BEST_OF_N,
        label="Mode",
        show_label=False,
        container=False,
        visible=instant_offered(default.backbone),
        elem_id="sr-mode",
    )
    w["preset"] = gr.Radio(
        [*PRESETS, YOURS],
        value="Balanced",
        label="Preset",
        show_label=False,
        container=False,
        elem_id="sr-preset",
    )
    fields: dict[str, Any] = {}
    fields["num_candidates"] = gr.Slider(1, MAX_CANDIDATES, default.num_candidates, step=1, label="Candidates")
    fields["scale"] = gr.Slider(1, MAX_SCALE, default.scale, step=0.25, label="Enlarge by")
    w["plan"] = gr.HTML(describe_plan(Plan(photos=()), None))
    with gr.Row(elem_id="sr-actions"):
        w["run"] = gr.Button("Run", variant="primary", size="lg", interactive=False, elem_id="sr-run")
        w["stop"] = gr.Button("Stop", size="lg", interactive=False, elem_id="sr-stop")
    with gr.Accordion("More settings", open=False):
        _advanced(fields, w, default)
    w["fields"] = [fields[name] for name in default.saved()]
    w["sizing"], w["scale"] = fields["sizing"], fields["scale"]
    w["num_candidates"] = fields["num_candidates"]
    w["backbone"], w["adapter"], w["compare"] = fields["backbone"], fields["adapter"], fields["compare"]
    w["drawing"] = [fields[name] for name in ("num_steps", "sampler", "color", *OWN_SETTINGS)]
    return w


def _advanced(fields: dict[str, Any], w: dict[str, Any], default: Settings) -> None:
    """Lay out what few visitors need."""
    fields["sizing"] = gr.Radio([FACTOR, EXACT], value=FACTOR, label="Output size")
    with gr.Row(visible=False) as w["exact"]:
        fields["width"] = gr.Number(None, label="Width, px", precision=0, min_width=100)
        fields["height"] = gr.Number(None, label="Height, px", precision=0, min_width=100)
    with gr.Row():
        fields["seed"] = gr.Number(
            default.seed, label="Base seed", info="Counts up from here.", precision=0, min_width=100
        )
        fields["dpi"] = gr.Number(None, label="Print, dpi", info="0: as in the photo.", min_width=100)
    fields["num_steps"] = gr.Slider(1, 20, default.num_steps, step=1, label="Steps")
    fields["metric_set"] = gr.Dropdown(_METRIC_SETS, value=default.metric_set, label="Metric set", filterable=False)
    gr.HTML(_REFERENCE)
    w["reference"] = gr.File(
        label="Reference", show_label=False, file_types=_PHOTO_TYPES, height=84, elem_id="sr-reference"
    )
    fields["color"] = gr.Radio(
        _COLORS,
        value=default.color,
        label="Colours taken from the photo",
    )
    with gr.Row():
        fields["backbone"] = gr.Dropdown(
            backbone_choices(), value=default.backbone, label="Backbone", filterable=False, min_width=280
        )
        fields["adapter"] = gr.Dropdown(
            adapter_choices(default.backbone), value=SFT, label="Adapter", filterable=False, min_width=100,
            elem_id="sr-adapter",
        )  # fmt: skip
    w["adapter_words"] = gr.HTML(describe_adapters(default.backbone), elem_id="sr-adapter-words")
    fields["compare"] = gr.Checkbox(
        default.compare, label="Draw every seed with SFT too, to compare", visible=False, elem_id="sr-compare"
    )
    fields["sampler"] = gr.Radio(
        [(name.capitalize(), name) for name in SAMPLERS], value=default.sampler, label="Sampler"
    )
    _own_settings(fields)
    fields["bit_depth"] = gr.Radio([8, 16], value=default.bit_depth, label="Bits per channel (16: PNG and TIFF)")
    fields["keep_gps"] = gr.Checkbox(default.keep_gps, label="Keep the place where the photo was taken (GPS)")
    w["save_preset"] = gr.Button("Save as mine", size="sm")


def _own_settings(fields: dict[str, Any]) -> None:
    """Lay out what only some backbones have; it appears with them."""
    hidden: dict[str, Any] = {"visible": False}
    fields["guidance"] = gr.Slider(
        0, MAX_GUIDANCE, None, step=0.1, label="Guidance", info="How much the prompt weighs; 1 is the plain network.",
        elem_id="sr-guidance", **hidden,
    )  # fmt: skip
    fields["prompt"] = gr.Textbox(
        None, label="Prompt", info="What the photo shows. Empty says nothing; auto asks a tagger, if one is there.",
        max_lines=1, max_length=MAX_PROMPT, elem_id="sr-prompt", **hidden,
    )  # fmt: skip
    fields["negative_prompt"] = gr.Textbox(
        None, label="Negative prompt", info="What to keep away from.", max_lines=1, max_length=MAX_PROMPT,
        elem_id="sr-negative", **hidden,
    )  # fmt: skip
    fields["start"] = gr.Radio(
        [("Noise", "noise"), ("The photo, with noise", "lq")], value=None, label="Start from", elem_id="sr-start",
        **hidden,
    )  # fmt: skip


def _result_side() -> dict[str, Any]:
    """Lay out what a run shows."""
    w: dict[str, Any] = {}
    w["status"] = gr.HTML(WELCOME, elem_id="sr-status")
    w["switcher"] = gr.Radio([], label="Photo", visible=False, elem_id="sr-switcher")
    w["grid"] = gr.HTML(EMPTY, js_on_load=static_text("grid.js"), elem_id="sr-grid", apply_default_css=False)
    with gr.Column(visible=False, elem_id="sr-taste") as w["taste_box"]:
        gr.HTML(_ENDS, apply_default_css=False)
        w["taste"] = gr.Slider(
            0, 100, 50, step=5, label="From faithful, 0, to vivid, 100", container=False, buttons=[],
            elem_id="sr-taste-slider",
        )  # fmt: skip
    w["viewer"] = gr.HTML(
        None, html_template=static_text("viewer.html"), js_on_load=static_text("viewer.js"), elem_id="sr-viewer",
        apply_default_css=False,
    )  # fmt: skip
    with gr.Row(visible=False, elem_id="sr-keep") as w["keep"]:
        choices = [(_FORMATS[name], name) for name in FORMATS]
        w["format"] = gr.Dropdown(
            choices, value="png", label="Format", filterable=False, container=False, elem_id="sr-format"
        )
        w["save_candidate"] = gr.Button("Download this one", variant="primary", elem_id="sr-save-one")
        w["save_run"] = gr.Button("Download the whole run (zip)", elem_id="sr-save-run")
    w["level"] = chart_widget("sr-level-chart")
    w["details"] = gr.HTML("", elem_id="sr-details", apply_default_css=False)
    w["link"] = gr.HTML(
        None, html_template=static_text("link.html"), js_on_load=static_text("link.js"), elem_id="sr-link",
        apply_default_css=False,
    )  # fmt: skip
    w["save"] = gr.HTML(None, html_template="", js_on_load=static_text("save.js"), elem_id="sr-save")
    names = ("status", "switcher", "taste_box", "grid", "viewer", "keep", "details", "link", "level")
    w["panel"] = [w[name] for name in names]
    return w


def _wire(events: PageEvents, saved: gr.BrowserState, i: dict[str, Any], r: dict[str, Any]) -> None:
    """Connect widgets and events."""
    light = LIGHT
    # Gradio delivers messages of its own only through the queue.
    telling: dict[str, Any] = {**light, "queue": True, "concurrency_limit": None}
    fields = i["fields"]
    changes = [i["photos"].change, *(field.change for field in fields)]
    gr.on(
        changes, events.plan, [i["photos"], saved, *fields], [i["plan"], i["thumbs"], i["run"], i["preset"]],
        trigger_mode="always_last", **light,
    )  # fmt: skip
    i["examples"].click(events.example, None, i["photos"], **light)
    i["mode"].input(events.apply_mode, [i["mode"], *fields], fields, **light)
    # A widget that comes and goes can miss a value that arrives just then, so the number stays and is only closed.
    i["mode"].change(
        lambda mode: [gr.update(visible=mode != INSTANT), gr.update(interactive=mode != INSTANT)],
        i["mode"], [i["preset"], i["num_candidates"]], **light,
    )  # fmt: skip
    i["adapter"].input(events.mode, fields, i["mode"], **light)
    i["preset"].input(events.apply_preset, [i["preset"], saved, *fields], [*fields, i["mode"]], **telling)
    i["save_preset"].click(events.save_preset, fields, [saved, i["preset"]], **telling)
    i["sizing"].change(
        lambda sizing: [gr.update(visible=sizing == EXACT), gr.update(interactive=sizing != EXACT)],
        i["sizing"], [i["exact"], i["scale"]], **light,
    )  # fmt: skip
    i["backbone"].change(events.adapters, [i["backbone"], i["adapter"]], [i["adapter"], i["adapter_words"]], **light)
    i["backbone"].change(
        events.leave_instant, [i["backbone"], i["mode"]], [i["mode"], i["num_candidates"], i["compare"]], **light
    )
    i["backbone"].input(events.backbone, i["backbone"], i["drawing"], **light)
    i["backbone"].change(events.fitting, i["backbone"], i["drawing"], **light)
    i["adapter"].change(lambda adapter: gr.update(visible=adapter != SFT), i["adapter"], i["compare"], **light)
    i["run"].click(None, None, None, js=_SHOW_RESULTS, api_visibility="private")
    started = i["run"].click(
        events.begin, [i["photos"], r["taste"], *fields], [i["run"], i["stop"], *r["panel"]], **light
    )
    running = started.success(
        events.run, [i["photos"], i["reference"], *fields], r["panel"], concurrency_id=COMPUTE, concurrency_limit=1,
        show_progress="full", show_progress_on=[r["status"]], api_visibility="private",
    )  # fmt: skip
    running.then(events.end, None, [i["run"], i["stop"]], **light)
    i["stop"].click(events.stop, None, i["stop"], **light)
    r["taste"].input(events.rank, r["taste"], r["panel"], trigger_mode="always_last", **light)
    r["grid"].click(events.pick, None, [r["grid"], r["viewer"]], **light)
    r["switcher"].input(events.switch, r["switcher"], r["panel"], **light)
    r["save_candidate"].click(events.save_candidate, [r["format"], *fields], r["save"], **FILES)
    r["save_run"].click(events.save_run, None, r["save"], **FILES)


def _endpoints(store: VisitStore) -> None:
    """Offer `upscale` and `score` to programs; their widgets check files and ranges but are never seen."""
    default = Settings()
    with gr.Row(visible=False):
        reference = gr.File(label="reference", file_types=_PHOTO_TYPES)
        metric_set = gr.Dropdown([value for _, value in _METRIC_SETS], value="offline", label="metric_set")
        fidelity = gr.Slider(0, 1, 0.5, label="fidelity")
        answer = gr.JSON(label="run")
        gr.Button("upscale").click(
            make_upscale(store),
            [
                gr.File(label="photo", file_types=_PHOTO_TYPES), reference,
                gr.Slider(1, MAX_CANDIDATES, default.num_candidates, step=1, label="num_candidates"),
                gr.Number(default.seed, label="seed", precision=0, minimum=0),
                gr.Number(None, label="steps", precision=0),
                gr.Slider(1, MAX_SCALE, default.scale, label="scale"),
                gr.Number(None, label="width", precision=0), gr.Number(None, label="height", precision=0),
                metric_set, gr.Dropdown(list(COLOR_TRANSFERS), value=None, label="color"), fidelity,
                gr.Dropdown(list(BACKBONES), value=default.backbone, label="backbone"),
                gr.Textbox(default.adapter, label="adapter"), gr.Textbox(None, label="compare_with"),
                gr.Number(None, label="guidance"), gr.Textbox(None, label="prompt"),
                gr.Textbox(None, label="negative_prompt"), gr.Textbox(None, label="start"),
                gr.Textbox(None, label="sampler"),
            ],
            [gr.File(label="best"), answer, gr.File(label="zip")],
            api_name="upscale", concurrency_id=COMPUTE, concurrency_limit=1,
        )  # fmt: skip
        images = gr.File(label="images", file_count="multiple", file_types=_PHOTO_TYPES)
        lq = gr.File(label="lq", file_types=_PHOTO_TYPES)
        gr.Button("score").click(
            score, [images, reference, lq, metric_set, fidelity], gr.JSON(label="scores"), api_name="score",
            concurrency_id=COMPUTE, concurrency_limit=1,
        )  # fmt: skip
