"""One page and one picture that say what a run of training or of online rounds did."""

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sr_core.errors import ConfigError
from sr_core.files import replace_text
from train.checkpoints import STATE, finished
from train.judge_tables import HOLD_OUTS, TRAINED, gate_figure, lower_is_better
from train.report_figures import (
    NOTE_ON_MEANS,
    Chart,
    Curve,
    draw_picture,
    judged_chart,
    log_charts,
    plotly_figure,
    read_log,
    rounds_charts,
    weights_chart,
)
from train.report_html import (
    duration_text,
    embedded_json,
    figure_places,
    flat_settings,
    number_text,
    section,
    table,
    wide,
)

PAGE, PICTURE = "report.html", "report.png"
ASSETS = Path(__file__).parent / "report_assets"
OBJECTIVE = "objective"
SHOWN_GRIDS = 4
"""Sample grids in the page: the first, the last and some between them."""
GRID_COLUMNS = ("prior", "seed 0 before", "seed 0 after", "seed 1 before", "seed 1 after")
SFT_COLUMNS = ("prior", "seed 0", "seed 1")
"""Supervised training has no model before it."""


class _Run(NamedTuple):
    """What a run's folder holds so far; None or empty where a file is not there."""

    folder: Path
    recipe: dict[str, Any]
    summary: dict[str, Any]
    state: dict[str, Any]
    weights: dict[str, Any] | None
    rounds: dict[str, Any] | None
    judged: dict[str, Any] | None
    curves: dict[str, Curve]
    grids: list[Path]

    @property
    def kind(self) -> Literal["rounds", "sft", "adversary", "prefer"]:
        """Return what made the folder; anything else is read like preference training."""
        if self.rounds is not None:
            return "rounds"
        if {"head", "data"} <= self.recipe.keys() and "selector" not in self.recipe:
            return "sft"
        # Both have the same recipe, but preference training alone weighs pairs, before its first step.
        return "adversary" if self.recipe.get("adversary") and self.weights is None else "prefer"

    @property
    def total_steps(self) -> int | None:
        """Return how many steps the recipe asks for, if it is known."""
        own = self.recipe["adversary"] if self.kind == "adversary" else self.recipe
        return own.get("optim", {}).get("max_steps")

    @property
    def steps(self) -> int:
        """Return the last logged step."""
        return max((curve.steps[-1] for curve in self.curves.values()), default=0)


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _read(folder: Path) -> _Run:
    """Read a run; raises ConfigError if the folder holds neither a log nor rounds."""
    rounds = _json(folder / "rounds.json")
    curves = read_log(folder / "log.jsonl")
    if rounds is None and not curves:
        raise ConfigError(f"a report needs the output folder of a training run or of rounds, found no log in {folder}")
    checkpoints = finished(folder / "checkpoints")
    state = _json(checkpoints[-1] / STATE) if checkpoints else None
    recipe = _json(folder / "recipe.json") or (rounds or {}).get("recipe") or {}
    return _Run(
        folder=folder,
        recipe=recipe,
        summary=_json(folder / "summary.json") or {},
        state=state or {},
        weights=_json(folder / "weights.json"),
        rounds=rounds,
        judged=_json(folder / "judged.json"),
        curves=curves,
        grids=sorted((folder / "samples").glob("grid_*.png")),
    )


def _means_note(charts: Sequence[Chart]) -> str:
    faint = any(trace.style == "faint" for chart in charts for trace in chart.traces)
    return f"<p>{escape(NOTE_ON_MEANS)}</p>" if faint else ""


def _missing(run: _Run) -> list[str]:
    """Say what the report cannot show, and what would make it."""
    said = []
    if run.kind == "prefer" and run.judged is None:
        said.append("Not judged yet: run python -m train evaluate RECIPE. What stands here is training data alone.")
    if run.kind == "adversary" and "imitation" not in run.summary:
        said.append("Not judged: that takes a finished run, the section held_out and a built-in baseline.")
    if run.kind == "sft" and not (run.folder / "heldout.json").is_file():
        said.append("No heldout.json: run python -m train evaluate RECIPE for figures of held-out photographs.")
    if run.rounds is not None and run.rounds["stopped"] is None:
        said.append("The series is not finished: run python -m train rounds RECIPE to go on.")
    if run.rounds is None:
        total = run.total_steps
        if total is not None and run.steps < total:
            said.append(
                f"The run is not finished: {run.steps} of {total} steps are logged; go on with "
                f"python -m train {run.kind} RECIPE --resume."
            )
        if run.kind == "prefer" and run.weights is None:
            said.append("No weights.json: the histogram of pair weights is left out.")
        if not run.grids:
            said.append("No sample grids: set sample_every above 0 in the recipe.")
    if not run.recipe:
        said.append("No recipe.json: the settings are not known.")
    return said


def _tiles(run: _Run) -> str:
    """Return the figures that a reader looks for first."""
    tiles: list[tuple[str, str]] = []
    if run.rounds is not None:
        tiles.append(("rounds", str(len(run.rounds["rounds"]))))
        tiles.append(("accepted round", str(run.rounds["accepted_round"] or "none (SFT)")))
    if run.curves:
        tiles.append(("steps", str(run.steps)))
    for name, label in (
        ("loss", "last loss"),
        ("rewards/accuracies", "last accuracy"),
        ("winner_mse_delta", "last error on winners"),
    ):
        if name in run.curves:
            tiles.append((label, number_text(run.curves[name].values[-1])))
    if "elapsed_s" in run.state:
        tiles.append(("training time", duration_text(run.state["elapsed_s"])))
    boxes = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles)
    return f'<dl class="tiles">{"".join(boxes)}</dl>'


def _numbers(curves: dict[str, Curve]) -> str:
    rows = (
        (name, *map(number_text, (c.values[0], c.values[-1], min(c.values), max(c.values))), str(c.steps[-1]))
        for name, c in curves.items()
    )
    return table(("figure", "first", "last", "lowest", "highest", "last step"), rows) if curves else ""


def _judged_table(judged: dict[str, Any]) -> str:
    """Return rewards and metrics of both models; gains are positive where the adapter is better."""
    rows = []
    for name, row in judged["reward"].items():
        rows.append((f"reward, {name}", row, row["change"], name == "std", "trains"))
    for name, row in judged["metrics"].items():
        role = "trains" if name in TRAINED else "hold-out" if name in HOLD_OUTS else "looked at"
        rows.append((f"{name}, lower is better" if lower_is_better(name) else name, row, row["gain"], False, role))
    cells = []
    for name, row, gain, falling, role in rows:
        mean, low, high = gain["mean"], gain["low"], gain["high"]
        if falling:
            name, mean, low, high = f"{name}, lower is better", -mean, -high, -low
        values = (f"{row['theirs']:.4f}", f"{row['ours']:.4f}", f"{mean:+.4f}", f"{low:+.4f} to {high:+.4f}")
        cells.append((name, *values, role))
    return table(("figure", judged["theirs"], judged["ours"], "gain", "95 % interval", "role"), cells)


def _imitated(run: _Run) -> str:
    """Return whether an adversary's outputs are nearer to the baselines' than the model's."""
    found = run.summary.get("imitation") if run.kind == "adversary" else None
    if found is None:
        return ""
    said = (
        f"Mean LPIPS to the baselines' outputs of {found['photos']} photographs that never train, "
        f"{' and '.join(found['presets'])}, {found['seeds']} seeds each, the same for both models. Intervals are "
        "bootstraps over photographs."
    )
    rows = (
        (
            name,
            f"{row['sft']:.4f}",
            f"{row['adversary']:.4f}",
            f"{row['gain'][0]:+.4f}",
            f"{row['gain'][1]:+.4f} to {row['gain'][2]:+.4f}",
            "yes" if row["nearer"] else "no",
        )
        for name, row in found["lpips"].items()
    )
    notes = "".join(f"<p>{escape(line)}</p>" for line in found.get("notes", ()))
    head = ("baseline", "SFT", "adversary", "nearer by", "95 % interval", "nearer")
    return section("Held-out photographs", f"<p>{escape(said)}</p>", table(head, rows), notes)


def _gates(judged: dict[str, Any]) -> str:
    """Return every requirement with its figure and whether it holds."""
    rows = (
        (name.replace("_", " "), gate_figure(gate), "yes" if gate["holds"] else "no")
        for name, gate in judged["gates"].items()
    )
    return table(("requirement", "figure", "holds"), rows)


def _judged(judged: dict[str, Any] | None, charts: Sequence[Chart]) -> str:
    if judged is None:
        return ""
    said = (
        f"{judged['photos']} photographs that never train, {' and '.join(judged['presets'])}, {judged['candidates']} "
        f"seeds each, the same for both models. Gains are positive where {judged['ours']} is better; intervals are "
        f"bootstraps over photographs. LPIPS between seeds is {judged['diversity']['ratio']:.3f} of "
        f"{judged['theirs']}'s."
    )
    parts = (f"<p>{escape(said)}</p>", figure_places(charts), _judged_table(judged), _gates(judged))
    return section("Held-out photographs", *parts)


def _rounds_table(rounds: dict[str, Any]) -> str:
    entries = rounds["rounds"]
    names = list(entries[0]["hold_outs"]) if entries else []
    head = ("round", "reward, SFT", "reward", "since best", "hold-outs since best", *names, "kept")
    rows = (
        (
            str(entry["round"]),
            f"{entry['reward']['sft_mean']:.4f}",
            f"{entry['reward']['adapter_mean']:.4f}",
            f"{entry['reward_change']:+.4f}",
            f"{entry['hold_out_change']:+.4f}",
            *(number_text(entry["hold_outs"][name]["adapter_mean"]) for name in names),
            "yes" if entry["accepted"] else "no",
        )
        for entry in entries
    )
    reasons = "".join(f"<li>Round {entry['round']}: {escape(entry['reason'])}.</li>" for entry in entries)
    return f"{table(head, rows)}<ul>{reasons}</ul>"


def _shown_grids(grids: Sequence[Path]) -> list[int]:
    """Return which grids are embedded: the first, the last and some evenly between them."""
    last, count = len(grids) - 1, min(SHOWN_GRIDS, len(grids))
    return sorted({round(i * last / max(1, count - 1)) for i in range(count)})


def _samples(grids: Sequence[Path], names: Sequence[str]) -> str:
    """Return grids as embedded pictures with captions; `names` are those of their columns."""
    columns = "".join(f"<span>{escape(name)}</span>" for name in names)
    parts = []
    for index in _shown_grids(grids):
        picture = base64.b64encode(grids[index].read_bytes()).decode()
        said = f"{grids[index].name}, grid {index + 1} of {len(grids)} in the order of training"
        alt = f"Sample grid {index + 1}: one row per photograph; {', '.join(names)}"
        image = f'<img src="data:image/png;base64,{picture}" alt="{escape(alt)}">'
        grid = wide(f'<div class="grid"><div class="columns">{columns}</div>{image}</div>')
        parts.append(f'<figure class="samples">{grid}<figcaption>{escape(said)}</figcaption></figure>')
    return "".join(parts)


def _hardware(run: _Run) -> str:
    apart = (OBJECTIVE, "imitation")
    rows = [(name, str(value)) for name, value in run.summary.items() if name not in apart]
    times = (("elapsed_s", "training, wall time"), ("cpu_s", "training, processor time"))
    rows += [(label, duration_text(run.state[name])) for name, label in times if name in run.state]
    return table(("what", "value"), rows, numbers=False) if rows else ""


def _settings(run: _Run) -> str:
    """Return the recipe, then what the run derived from it."""
    derived = {OBJECTIVE: run.summary.get(OBJECTIVE, {})}
    rows = [*flat_settings(run.recipe), *(flat_settings(derived) if derived[OBJECTIVE] else ())]
    return table(("setting", "value"), rows, numbers=False)


def _title(run: _Run) -> str:
    if run.kind == "sft":
        return "Supervised training of compact's head"
    backbone = run.recipe.get("backbone", {}).get("name", "a head")
    if run.kind == "adversary":
        return f"Adversary on {backbone}"
    objective = run.recipe.get("objective", {}).get("name", "training")
    kind = "Online rounds of " if run.rounds is not None else ""
    return f"{kind}{objective} on {backbone}"


def _page(run: _Run, charts: dict[str, list[Chart]], title: str) -> str:
    from plotly.offline import get_plotlyjs

    missing = "".join(f"<li>{escape(text)}</li>" for text in _missing(run))
    rounds = run.rounds
    sections = (
        f'<section class="missing"><h2>What is missing</h2><ul>{missing}</ul></section>' if missing else "",
        _tiles(run),
        ""
        if rounds is None
        else section(
            "Rounds",
            f"<p>{escape(rounds['stopped'] or 'not finished')}</p>",
            figure_places(charts["rounds"]),
            _rounds_table(rounds),
        ),
        _judged(run.judged, charts["judged"]),
        _imitated(run),
        section("Training", _means_note(charts["log"]), figure_places(charts["log"])),
        section("Pair weights", figure_places(charts["weights"])),
        section("Samples at fixed seeds", _samples(run.grids, SFT_COLUMNS if run.kind == "sft" else GRID_COLUMNS)),
        section("Logged figures", _numbers(run.curves)),
        section("Hardware and time", _hardware(run)),
        section("Recipe", _settings(run) if run.recipe else ""),
    )
    figures = {chart.key: plotly_figure(chart) for group in charts.values() for chart in group}
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data: blob:">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{escape(title)}</h1><p>Folder {escape(run.folder.name)}. The same figures as one picture: \
{escape(PICTURE)} beside this page.</p><noscript><p>The figures need JavaScript.</p></noscript></header>
{"".join(sections)}
</main>
<script type="application/json" id="figures">{embedded_json(figures)}</script>
<script>{get_plotlyjs()}</script>
<script>{script}</script>
</body>
</html>
"""


def write_report(run: Path) -> Path:
    """Write `report.html` and `report.png` into a run of `sft`, `adversary`, `prefer` or `rounds` and return the page.

    The page holds everything that it shows: it needs no network and no other file. What the run has not made yet, such
    as held-out figures, is said. Raises ConfigError if the folder holds neither a log nor rounds.
    """
    found = _read(run)
    charts = {
        "rounds": [] if found.rounds is None else rounds_charts(found.rounds["rounds"]),
        "judged": [] if found.judged is None else [judged_chart(found.judged)],
        "log": log_charts(found.curves),
        "weights": [] if found.weights is None else [weights_chart(found.weights)],
    }
    title = _title(found)
    draw_picture([chart for group in charts.values() for chart in group], title, run / PICTURE)
    replace_text(run / PAGE, _page(found, charts, title))
    return run / PAGE
